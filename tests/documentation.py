"""Reads the pages: which code they show, which commands, and what starts each of them. Runs nothing."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path


PROJECT = Path(__file__).resolve().parents[1]
PAGES = (
    "docs/data.md",
    "docs/train.md",
    "docs/evaluate.md",
    "docs/use.md",
    "docs/publish.md",
    "docs/convert.md",
    "README.md",
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
# what a page's code needs and a test does not have
NOT_HERE = {
    "data/": "published data",
    "features/": "features of published data",
    "weights/": "published weights",
    "lmsys/": "published weights",
    "unav100_annotations.json": "published data",
    "stage3_time_event": "published data",
    "outputs/stage3/adapter": "LoRA of a real stage: tests/test_push.py publishes one",
    "eval.study": "trains dozens of stages: tests/test_eval_analyses.py runs a small plan",
    "run_stages": "starts four trainings: the slow test below",
    "lmms_eval": "another project",
    "SlurmPipelineExecutor": "a cluster",
    "sbatch": "a cluster",
    "https://": "a judge",
    "make ": "sets up an environment",
    "pip ": "changes the environment",
}


@dataclass(frozen=True)
class Snippet:
    """A fenced block of python, or one command of a block of bash."""

    page: str
    language: str
    text: str

    def __str__(self) -> str:
        lines = [line for line in self.text.splitlines() if line and not line.startswith(("import", "from"))]
        return f"{Path(self.page).stem}: {lines[0][:60]}"

    @property
    def obstacle(self) -> str | None:
        """Why a test cannot run it; None where it can."""
        if "model_card.push" in self.text and "--dry-run" not in self.text:
            return "sends to the Hub: tests/test_push.py does, to a stand-in"
        return next((reason for mark, reason in NOT_HERE.items() if mark in self.text), None)

    @property
    def words(self) -> list[str]:
        """A command's words, without comment and environment variables."""
        words = shlex.split(self.text, comments=True)
        while ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        return words


def fences(page: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block of a page."""
    return FENCE.findall((PROJECT / page).read_text(encoding="utf-8"))


def snippets() -> list[Snippet]:
    """All snippets, in the order in which a reader who makes everything himself comes by."""
    found = []
    for page in PAGES:
        for language, text in fences(page):
            lines = [text] if language == "python" else text.replace("\\\n", " ").splitlines()
            found += [Snippet(page, language, line) for line in lines if line.strip()]
    return found


def module_and_arguments(words: list[str]) -> tuple[str, list[str]]:
    """What `python` or `accelerate launch` starts, as a module's name, and its arguments.

    Raises:
        ValueError: neither of the two, or an option that the launcher does not have.
    """
    if words[0] == "python":
        is_module, rest = words[1] == "-m", words[2:] if words[1] == "-m" else words[1:]
    elif words[:2] == ["accelerate", "launch"]:
        from accelerate.commands.launch import launch_command_parser

        launch = launch_command_parser().parse_args(words[2:])
        is_module, rest = launch.module, [launch.training_script, *launch.training_script_args]
    else:
        raise ValueError(f"no known way to start: {words}")
    name = rest[0] if is_module else rest[0].removesuffix(".py").replace("/", ".")
    if not is_module and not (PROJECT / rest[0]).is_file():
        raise ValueError(f"no such script: {rest[0]}")
    return name, rest[1:]
