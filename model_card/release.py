"""The release folder: what of a checkpoint is published, and what must never be.

`assemble_release` copies the files that a user needs out of a training output; `find_problems` reads the result and names
what may not go to the Hub; `verify_in_fresh_process` loads it the way a stranger would. Nothing here touches the network.
"""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from .facts import has_both_towers


PUBLISHED_PATTERNS = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.jinja",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "*_avicuna*.py",
    "README.md",
    "example.mp4",
)
ADAPTER_PATTERNS = ("adapter_config.json", "adapter_model*.safetensors", "README.md")
REQUIRED_FILES = ("config.json", "processor_config.json", "chat_template.jinja", "README.md")
REQUIRED_ADAPTER_FILES = ("adapter_config.json", "README.md")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib")
TRAINING_STATE = (
    "optimizer*",
    "scheduler*",
    "rng_state*",
    "trainer_state*",
    "training_args*",
    "global_step*",
    "latest",
)
# a path from the root, not a URL's tail, a jinja or markdown fragment: /home/..., /root/..., C:\...
ABSOLUTE_PATH = re.compile(
    r"(?<![\w:/.<])(?:/(?:home|root|work|mnt|tmp|data|Users|opt|var|scratch)/[^\s\"'`)]+|[A-Z]:\\\\[^\s\"']+)"
)

FRESH_PROCESS = """
import json, sys
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

folder, video, question = sys.argv[1:]
model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
content = [{"type": "text", "text": question}]
if video:
    content.insert(0, {"type": "video", "path": video})
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
with torch.inference_mode():
    generated = model.generate(**inputs, max_new_tokens=16, do_sample=False)
answer = processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
print(json.dumps({"class": type(model).__name__, "module": type(model).__module__, "answer": answer}))
"""


def is_published(name: str, patterns: Iterable[str] = PUBLISHED_PATTERNS) -> bool:
    """Whether a file of a checkpoint folder, by its bare name, belongs into a release."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def shorten_paths(text: str) -> str:
    r"""The text with each path of this machine cut down to the file's name.

    >>> shorten_paths('{"file": "/home/me/train.csv", "url": "https://host/data/x"}')
    '{"file": "train.csv", "url": "https://host/data/x"}'
    """

    def file_name(found: re.Match) -> str:
        path = found.group(0)
        return PurePosixPath(path).name if path.startswith("/") else PureWindowsPath(path.replace("\\\\", "\\")).name

    return ABSOLUTE_PATH.sub(file_name, text)


def assemble_release(
    checkpoint: Path, *, output: Path, card: str, example_video: Path | None = None, adapter: bool = False
) -> list[Path]:
    """Place the publishable files of `checkpoint` in the new folder `output`, with the card as README.md.

    Weights are symbolic links, since a second copy of them could fill the disk; all else is copied.

    Returns the written files, sorted. Raises `FileNotFoundError` when `checkpoint` is no checkpoint folder and
    `FileExistsError` when `output` exists: a release is never mixed into older files.
    """
    marker = "adapter_config.json" if adapter else "config.json"
    if not (checkpoint / marker).is_file():
        raise FileNotFoundError(f"{checkpoint} holds no {marker}: not a checkpoint folder")
    if output.exists():
        raise FileExistsError(f"{output} exists already: name a new folder for the release")
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    patterns = ADAPTER_PATTERNS if adapter else PUBLISHED_PATTERNS
    for source in sorted(checkpoint.iterdir()):
        if source.is_file() and is_published(source.name, patterns):
            if source.suffix == ".safetensors":
                (staging / source.name).symlink_to(source.resolve())
            else:
                shutil.copy2(source, staging / source.name)
    (staging / "README.md").write_text(card, encoding="utf-8")
    if example_video is not None:
        shutil.copy2(example_video, staging / "example.mp4")
    staging.chmod(0o755)
    staging.rename(output)
    return sorted(output.iterdir())


def find_problems(folder: Path, *, adapter: bool = False) -> list[str]:
    """Everything that forbids publishing `folder`, one sentence each that names the file; empty when all is well."""
    problems = []
    required = REQUIRED_ADAPTER_FILES if adapter else REQUIRED_FILES
    problems += [f"{name} is missing" for name in required if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        problems.append("there are no safetensors weights")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in PICKLES):
            problems.append(f"{name} is a pickle, which runs code when it is loaded")
        if any(fnmatch.fnmatch(part, pattern) for part in Path(name).parts for pattern in TRAINING_STATE):
            problems.append(f"{name} is training state")
        if path.suffix in {".json", ".md", ".jinja", ".py", ".txt"} and path.name != "tokenizer.json":
            found = ABSOLUTE_PATH.search(path.read_text(encoding="utf-8"))
            if found:
                problems.append(f"{name} holds a path of this machine: {found.group(0)}")
    problems += _missing_remote_code(folder)
    return problems


def find_foreign_ids(card: str, *, repo_id: str) -> list[str]:
    """Repositories that the card's code loads in place of `repo_id`: a card that was written for another release."""
    loaded = re.findall(r'(?:from_pretrained|hf_hub_download)\("([^"]+)"', card)
    return [f"the card loads {other}, but the release goes to {repo_id}" for other in sorted({*loaded} - {repo_id})]


def _missing_remote_code(folder: Path) -> list[str]:
    """Files that `auto_map` promises and the folder does not hold."""
    problems = []
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        auto_map = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map") or {}
        for target in auto_map.values():
            for reference in target if isinstance(target, list) else [target]:
                file_name = reference.split("--")[-1].split(".")[0] + ".py" if reference else None
                if file_name and not (folder / file_name).is_file():
                    problems.append(f"{name} maps to {reference}, but {file_name} is missing")
    return problems


def verify_in_fresh_process(folder: Path, *, question: str, timeout: float = 600.0) -> dict[str, str]:
    """Load the release with remote code in a new process, ask it one question and return what it said.

    The example video is used where the release has one and the model can decode it (a checkpoint with both towers);
    otherwise the question is asked as text alone. Raises `RuntimeError` with the process's last words when it fails.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    video = folder / "example.mp4"
    shown = str(video.resolve()) if video.is_file() and has_both_towers(config) else ""
    output = run_in_fresh_process(FRESH_PROCESS, folder, shown, question, timeout=timeout)
    return json.loads(output.strip().splitlines()[-1])


def run_in_fresh_process(code: str, folder: Path, *arguments: str, timeout: float) -> str:
    """What `code` prints about `folder` in a process that has neither this project, nor its caches, nor a network.

    Raises:
        RuntimeError: it fails; with the process's last words.
    """
    with tempfile.TemporaryDirectory() as scratch:
        caches = {"HF_MODULES_CACHE": scratch, "HF_DATASETS_CACHE": scratch}
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder.resolve()), *arguments],
            cwd=scratch,
            env={**os.environ, **caches, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )
    if done.returncode:
        raise RuntimeError(f"{folder} does not load in a fresh process:\n{done.stderr[-2000:]}")
    return done.stdout
