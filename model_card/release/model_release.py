"""The release folder: what of a checkpoint is published, and what must never be.

`assemble_release` copies the files that a user needs out of a training output; `find_problems` reads the result and names
what may not go to the Hub. `fresh_process.py` then loads it the way a stranger would. Nothing here touches the network.
"""

import fnmatch
import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .local_paths import find_local_path, shorten_paths


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
    "LICENSE.md",
    "Notice",
    "example.mp4",
    "evaluation_results.json",
    "origin.json",
    "training_summary.json",
)
ADAPTER_PATTERNS = ("adapter_config.json", "adapter_model*.safetensors", "README.md", "LICENSE.md", "Notice")
RECORDS = ("evaluation_results.json", "training_summary.json")  # tell of files of this machine, by name alone once out
REQUIRED_FILES = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "tokenizer_config.json",
    "README.md",
)
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
ACCESS_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")
TEXTS = {".json", ".jsonl", ".md", ".jinja", ".py", ".txt", ".yaml"}


def is_published(name: str, patterns: Iterable[str] = PUBLISHED_PATTERNS) -> bool:
    """Whether a file of a checkpoint folder, by its bare name, belongs into a release."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def assemble_release(
    checkpoint: Path, *, output: Path, texts: dict[str, str], example_video: Path | None = None, adapter: bool = False
) -> list[Path]:
    """Place the publishable files of `checkpoint` in the new folder `output`.

    Weights are symbolic links, since a second copy of them could fill the disk; records of training and evaluation name
    files in place of paths; all else is copied as it is.

    Args:
        texts (`dict[str, str]`): files that the release has beside or in place of the checkpoint's own: the card.

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
            elif source.name in RECORDS:
                (staging / source.name).write_text(shorten_paths(source.read_text(encoding="utf-8")), encoding="utf-8")
            else:
                shutil.copy2(source, staging / source.name)
    for name, text in texts.items():
        (staging / name).write_text(text, encoding="utf-8")
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
    problems += find_private_things(folder)
    problems += _missing_remote_code(folder)
    return problems


def find_private_things(folder: Path) -> list[str]:
    """What may go out in no release of any kind: pickles, training state, paths of this machine, access tokens."""
    problems = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in PICKLES):
            problems.append(f"{name} is a pickle, which runs code when it is loaded")
        if any(fnmatch.fnmatch(part, pattern) for part in Path(name).parts for pattern in TRAINING_STATE):
            problems.append(f"{name} is training state")
        if path.suffix in TEXTS and path.name != "tokenizer.json":  # a vocabulary has pieces of everything
            text = path.read_text(encoding="utf-8")
            if found := find_local_path(text):
                problems.append(f"{name} holds a path of this machine: {found}")
            if found := ACCESS_TOKEN.search(text):
                problems.append(f"{name} holds what reads as an access token: {found.group(0)[:6]}...")
    return problems


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
