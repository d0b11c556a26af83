"""The release folder of a checkpoint.

`assemble_release` copies the files that a user needs from a training output; `find_problems` lists contents that must
not be published. `fresh_process.py` then loads the release without this project.
"""

import fnmatch
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from dataset_builders.sources.annotation_files import read_object

from .local_paths import find_local_path, shorten_paths


PUBLISHED_PATTERNS = (
    "config.json generation_config.json model*.safetensors model.safetensors.index.json processor_config.json "
    "preprocessor_config.json video_preprocessor_config.json chat_template.jinja tokenizer* special_tokens_map.json "
    "added_tokens.json *_avicuna*.py README.md LICENSE.md Notice example.mp4 evaluation_results.json origin.json "
    "training_summary.json"
).split()
ADAPTER_PATTERNS = ("adapter_config.json", "adapter_model*.safetensors", "README.md", "LICENSE.md", "Notice")
RECORDS = ("evaluation_results.json", "training_summary.json")  # they name local files
REQUIRED_FILES = (
    "config.json generation_config.json processor_config.json chat_template.jinja tokenizer_config.json README.md"
).split()
REQUIRED_ADAPTER_FILES = ["adapter_config.json", "README.md"]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib")
TRAINING_STATE = "optimizer* scheduler* rng_state* trainer_state* training_args* global_step* latest".split()
ACCESS_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")
TEXTS = {".json", ".jsonl", ".md", ".jinja", ".py", ".txt", ".yaml"}


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file name matches one of the patterns."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def assemble_release(
    checkpoint: Path, *, output: Path, texts: dict[str, str], example_video: Path | None = None, adapter: bool = False
) -> None:
    """Put the publishable files of `checkpoint` into the new folder `output`.

    Weights are linked, because a second copy could fill the disk. In the records of training and evaluation, paths are
    reduced to file names. Other files are copied.

    Args:
        texts (`dict[str, str]`): text files to add or to replace, by name, such as the card.

    Raises:
        FileNotFoundError: `checkpoint` is not a checkpoint folder.
        FileExistsError: `output` exists.
    """
    marker = "adapter_config.json" if adapter else "config.json"
    if not (checkpoint / marker).is_file():
        raise FileNotFoundError(f"{checkpoint} has no {marker}: not a checkpoint folder")
    output.mkdir(parents=True)
    patterns = ADAPTER_PATTERNS if adapter else PUBLISHED_PATTERNS
    for source in sorted(checkpoint.iterdir()):
        if source.is_file() and matches(source.name, patterns):
            if source.suffix == ".safetensors":
                (output / source.name).symlink_to(source.resolve())
            elif source.name in RECORDS:
                (output / source.name).write_text(shorten_paths(source.read_text(encoding="utf-8")), encoding="utf-8")
            else:
                shutil.copy2(source, output / source.name)
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8")
    if example_video is not None:
        shutil.copy2(example_video, output / "example.mp4")


def find_problems(folder: Path, *, adapter: bool = False) -> list[str]:
    """The problems that prevent publishing `folder`, one sentence each."""
    required = REQUIRED_ADAPTER_FILES if adapter else REQUIRED_FILES
    problems = [f"{name} is missing" for name in required if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        problems.append("there are no safetensors weights")
    return problems + find_private_things(folder) + _missing_remote_code(folder)


def find_private_things(folder: Path) -> list[str]:
    """Pickles, training state, local paths and access tokens in a release, one sentence each."""
    problems = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if matches(path.name, PICKLES):
            problems.append(f"{name} is a pickle, which runs code when it is loaded")
        if any(matches(part, TRAINING_STATE) for part in Path(name).parts):
            problems.append(f"{name} is training state")
        if path.suffix in TEXTS and path.name != "tokenizer.json":  # a vocabulary contains arbitrary strings
            text = path.read_text(encoding="utf-8")
            if found := find_local_path(text):
                problems.append(f"{name} contains a local path: {found}")
            if token := ACCESS_TOKEN.search(text):
                problems.append(f"{name} contains what looks like an access token: {token.group(0)[:6]}...")
    return problems


def _missing_remote_code(folder: Path) -> list[str]:
    """Files that `auto_map` names and the folder does not contain."""
    problems = []
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        auto_map = read_object(folder / name).get("auto_map") or {}
        for target in auto_map.values():
            for reference in target if isinstance(target, list) else [target]:
                file_name = reference.split("--")[-1].split(".")[0] + ".py" if reference else None
                if file_name and not (folder / file_name).is_file():
                    problems.append(f"{name} maps to {reference}, but {file_name} is missing")
    return problems
