"""`origin.json`: what the parts of a new checkpoint were made from; cards take base model and licence from it.

Written by the programs that make a checkpoint (`convert_avicuna_to_hf.py`, `train/initialize.py`) and read by training
and cards. It contains names, no local paths, and is not used to load a model.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path


ORIGIN_FILE = "origin.json"
CHECKPOINT_FILES = (ORIGIN_FILE, "*config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*")
RANDOM = "random weights"
# a folder of the Hub's cache: models--lmsys--vicuna-7b-v1.5/snapshots/<commit>
CACHED = re.compile(r"models--([^/\\]+?)--([^/\\]+)")


def is_hub_id(name: str) -> bool:
    """Whether a name reads as `user/name` and is neither file nor folder here."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None and not Path(name).exists()


def name_of_part(source: str | Path | None) -> str | None:
    """The name of a part without its location: a Hub id, or the name of a folder.

    >>> name_of_part("lmsys/vicuna-7b-v1.5")
    'lmsys/vicuna-7b-v1.5'
    >>> name_of_part("/home/me/.cache/models--lmsys--vicuna-7b-v1.5/snapshots/3321f76e3f527bd14065daf69dad9344")
    'lmsys/vicuna-7b-v1.5'
    >>> name_of_part("/home/me/weights/vicuna-7b-v1.5")
    'vicuna-7b-v1.5'
    """
    if source is None:
        return None
    if cached := CACHED.search(str(source)):
        return "/".join(cached.groups())
    return str(source) if is_hub_id(str(source)) else Path(source).resolve().name


def check_new_folder(folder: str | Path, *, made_by: str) -> None:
    """Raises ValueError for a file, or for a folder with a checkpoint that the program `made_by` has not written."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is a file, not a folder to write to")
    origin = folder / ORIGIN_FILE
    files = sorted(path.name for pattern in CHECKPOINT_FILES for path in folder.glob(pattern))
    if files and not (origin.is_file() and made_by in origin.read_text(encoding="utf-8")):
        raise ValueError(
            f"--output {folder} holds {files[0]}, which this command has not written: choose another folder"
        )


def write_origin(
    folder: str | Path, *, made_by: str, merged: Sequence[str | Path] = (), **parts: str | Path | None
) -> None:
    """Writes `folder`/origin.json; call it before the first other file is written (see `check_new_folder`).

    Args:
        made_by: the program that put the checkpoint together.
        merged: LoRA folders that were added to the language model, in order.
        parts: the source of each part, a Hub id, a folder or a file; `RANDOM` for new weights, None for a part that
            the checkpoint does not have.
    """
    named = {part: source if source == RANDOM else name_of_part(source) for part, source in parts.items()}
    origin = {"made_by": made_by, "parts": named, "merged": [name_of_part(adapter) for adapter in merged]}
    text = json.dumps(origin, indent=2, sort_keys=True)
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / ORIGIN_FILE).write_text(text + "\n", encoding="utf-8")
