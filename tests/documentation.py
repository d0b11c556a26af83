"""Reads the code of the documentation: where a test runs each snippet, and how it is shortened. Runs nothing."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path


PROJECT = Path(__file__).resolve().parents[1]
# the order in which a user who builds everything reads them
PAGES = (
    "docs/data.md",
    "docs/pu_valor.md",
    "docs/train.md",
    "docs/convert.md",
    "docs/evaluate.md",
    "docs/analyses.md",
    "docs/use.md",
    "docs/serve.md",
    "docs/publish.md",
    "docs/scale.md",
    "docs/reproduce.md",
    "README.md",
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IN_TEXT = re.compile(r"`((?:accelerate|git|hf|make|pip|python|sbatch|torchrun)\s[^`]+)`")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
# snippets that run in a separate process, through a shell
IN_A_SHELL = {
    "lmsys/": "downloads models of the Hub",
    "stage3_time_event": "starts DeepSpeed",
    "sbatch": "is a command of Slurm",
    "SlurmPipelineExecutor": "calls a command of Slurm",
    "push_to_hub": "uploads to the Hub",
}
# snippets that take minutes or install packages: `make test-slow`
SLOW = {
    "outputs/stage2 ": "trains stage III again, in one process",
    "eval.study": "trains dozens of stages",
    "run_stages": "trains four stages",
    "lmms-eval": "installs another project",
    "lmms_eval": "runs another project",
    "make demo": "creates an environment and trains four stages",
}
# snippets that no test runs
NOWHERE = {
    "make serve": "runs until it is stopped; tests/test_serve.py starts the same server",
    "python examples/ask_server.py": "needs a running server; tests/test_ask_server.py and tests/test_serve.py run it",
    "make page": "runs until it is stopped; tests/test_space.py runs the page",
    "make serve-env": "installs 4 GB; tests/test_serve.py uses the environment",
    ".venv-serve/bin/python -m": "runs until it is stopped; tests/test_serve.py starts it",
    "curl http://127.0.0.1:8000/v1/chat/completions": "needs a running server; tests/test_serve.py sends its request",
    "make reproduce": "takes hours; tests/test_sandbox_recipe.py reads its plan",
    "make test": "runs these tests; CI runs it (.ci/run)",
}

# upper limits of the numbers in a command
AT_MOST = {
    "--num-clips": 24,
    "--num-background-clips": 2,
    "--num-train-videos": 2,
    "--num-test-videos": 2,
    "--num-videos": 12,
    "--num-workers": 1,
    "--num-tasks": 2,
}
ONE_STEP = "--max_steps 1 --per_device_train_batch_size 1 --effective_batch_size 2"
FEW_VIDEOS = "--num-videos 12 --videos-per-shard 6"
# the two data sources of the recipe, the first with fewer videos
FEW_ROWS = """--datasets '{"path": "pu_valor", "options": {"captions_file": "data/valor/desc_train.json", "num_videos": 8}}' \
 '{"path": "instruction", "name": "vtimellm", "options": {"annotations_file": "data/vtimellm/stage2.json"}}'"""  # noqa: E501
SHORTER = (
    (r"(--captions-file data/valor/desc_train.json)", rf"\1 {FEW_VIDEOS}"),
    (r'(captions_file="data/valor/desc_train.json")', r"\1, num_videos=12, videos_per_shard=6"),
    (r"^make demo", rf"make -C {PROJECT} demo MAX_STEPS=2 OUTPUT=$PWD/outputs/made"),
    # without --multi_gpu and without a GPU, accelerate ignores the number and starts one process
    (r"--num_processes 8", "--multi_gpu --num_processes 2"),
    (r"--media rendered --num-videos 3", "--media rendered --num-videos 1"),
    (r"(interleaving_rates\.yaml)", r"\1 --variants 0 25 100"),  # tests/test_eval_analyses.py reads the whole plan
    # into a folder on PYTHONPATH, not into this environment
    (r"^pip install ", "python -m pip install --quiet --target site "),
    (r"--array=0-63", "--array=0-1"),
    (r"tasks=64", "tasks=2"),
    (r"(?s)(.*sft\.py.*)", rf"\1 {ONE_STEP}"),
    (r"(?s)(.*stage3_time_event.*)", rf"\1 {FEW_ROWS} --use_cpu true"),
    (r"(?s)(.*train\.run_stages.*)", rf"\1 {ONE_STEP}"),
    (r'--train-arguments "', f'--train-arguments "{ONE_STEP} '),
    (r"(?s)(.*eval\.(?:run|sound_use|study) .*)", r"\1 --max-new-tokens 2 --limit 2"),
)


@dataclass(frozen=True)
class Snippet:
    """A fenced Python block, or one command of a fenced bash block."""

    page: str
    language: str
    text: str

    def __str__(self) -> str:
        lines = [line for line in self.text.splitlines() if line and not line.startswith(("import", "from"))]
        return f"{Path(self.page).stem}: {lines[0][:60]}"

    @property
    def place(self) -> str:
        """Where it runs: "here" (in this process), "shell" or "slow" (in a separate process), or "nowhere"."""
        places = (("nowhere", NOWHERE), ("slow", SLOW), ("shell", IN_A_SHELL))
        return next((place for place, marks in places if any(mark in self.text for mark in marks)), "here")

    def shortened(self, judge: str = "") -> str:
        """The text with smaller numbers; the address of `judge` replaces that of the page."""
        text = self.text.replace("https://host/v1", judge)
        for option, most in AT_MOST.items():
            text = re.sub(
                rf"({option}) (\d+)", lambda found, most=most: f"{found[1]} {min(int(found[2]), most)}", text
            )
        if self.language == "bash":
            text = text.split("  # ")[0].rstrip()
        for pattern, shorter in SHORTER:
            text = re.sub(pattern, shorter, text, count=1)
        return text

    def words(self, text: str | None = None) -> list[str]:
        """The words of the command (or of a changed `text`), without its comment and environment variables."""
        words = shlex.split(self.text if text is None else text, comments=True)
        while ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        return words


def fences(page: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block of a page."""
    return FENCE.findall((PROJECT / page).read_text(encoding="utf-8"))


def snippets() -> list[Snippet]:
    """All snippets, in the order of the pages."""
    found = []
    for page in PAGES:
        for language, text in fences(page):
            if language == "json":
                continue  # a file that a command reads
            lines = [text] if language == "python" else re.sub(r"\\\n\s*", "", text).splitlines()
            found += [Snippet(page, language, line) for line in lines if line.strip()]
    return found


def commands_in_text() -> list[Snippet]:
    """The commands in the running text of the pages that no block starts with."""
    blocks = [snippet.text for snippet in snippets()]
    found = []
    for page in PAGES:
        text = FENCE.sub("", (PROJECT / page).read_text(encoding="utf-8"))
        for command in (" ".join(words.split()) for words in IN_TEXT.findall(text)):
            if not any(block.startswith(command) for block in blocks):
                found.append(Snippet(page, "bash", command))
    return found


def module_and_arguments(words: list[str]) -> tuple[str, list[str]]:
    """The module that `python` or `accelerate launch` starts, and its arguments.

    Raises:
        ValueError: another launcher, or a script that does not exist.
    """
    if words[0] == "python":
        is_module, rest = words[1] == "-m", words[2:] if words[1] == "-m" else words[1:]
    elif words[:2] == ["accelerate", "launch"]:
        from accelerate.commands.launch import launch_command_parser

        launch = launch_command_parser().parse_args(words[2:])
        is_module, rest = launch.module, [launch.training_script, *launch.training_script_args]
    else:
        raise ValueError(f"unknown launcher: {words}")
    name = rest[0] if is_module else rest[0].removesuffix(".py").replace("/", ".")
    if not is_module and not (PROJECT / rest[0]).is_file():
        raise ValueError(f"no such script: {rest[0]}")
    return name, rest[1:]
