"""Checks the number of annotation files of a task."""

from collections.abc import Sequence
from pathlib import Path


def one_file(files: Sequence[Path], form: str) -> Path:
    """The only file. Raises ValueError, naming the data set, for another number."""
    if len(files) != 1:
        raise ValueError(f"one annotation file in {form}'s form is needed, got {[str(path) for path in files]}")
    return files[0]


def two_files(files: Sequence[Path], needed: str) -> tuple[Path, Path]:
    """The two files in their order. Raises ValueError, saying which are needed, for another number."""
    if len(files) != 2:
        raise ValueError(f"{needed} are needed, in this order; got {[str(path) for path in files]}")
    return files[0], files[1]
