"""Atomic file writes: each file is written to a temporary file in the target folder and then renamed.

Used for reports, shards, caches and result files. This module does not depend on their contents.
"""

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """
    A temporary path in the folder of `path`. It replaces `path` when the body ends, and is removed if the body raises.

    The temporary name is random, since several processes may write the same file. A killed process leaves its
    temporary file behind (see `remove_partial_files`). The suffix of `path` is kept, since some writers choose the
    format by suffix.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_output_folder(folder: str | os.PathLike, *, marks: Iterable[str], writes: Iterable[str]) -> None:
    """
    Raises ValueError, before a command writes to it, for a folder whose files the command would replace.

    Args:
        folder: may be missing, or have files that the command does not write.
        marks: patterns of files that an earlier run of the same command leaves; a folder with one of them passes.
        writes: patterns of the files that the command writes.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder to write to")
    if any(path for pattern in marks for path in folder.glob(pattern)):
        return
    foreign = [path for pattern in writes for path in sorted(folder.glob(pattern))]
    if foreign:
        raise ValueError(
            f"{folder} holds {foreign[0].name}, which this command has not written: choose a new or empty folder"
        )


def remove_partial_files(folder: str | os.PathLike) -> None:
    """Removes the temporary files that killed processes left below a folder, in which no process may be writing."""
    for pattern in (".partial-*", ".*.part", ".tmp*"):  # of `atomic_path`, `MediaWriter` and safetensors
        for path in list(Path(folder).rglob(pattern)):
            if path.is_file():
                path.unlink()


def write_text(path: str | os.PathLike, text: str):
    """Writes `text` as UTF-8 with `\\n` line ends."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike, value: Any, *, sort_keys: bool = False):
    """
    Writes `value` as indented JSON with a final line end.

    Raises:
        ValueError: `value` contains NaN or an infinity, which JSON does not support.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False) + "\n")
