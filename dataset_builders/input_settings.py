"""Settings shared by all four builders: input files and folders, and the name of a build.

A field `*_file` names input files, a field `*_dir` a folder. The cache key of `datasets` depends on their contents,
not only on their names, so a changed file or folder is read again. Nothing is parsed here.
"""

import dataclasses
import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from .sources.annotation_files import as_paths, fingerprint
from .sources.media_folder import list_files


Files = list[str] | None  # one path or several; a single path need not be in a list


@dataclass
class InputSettings:
    """Settings: a field `*_file` is a path, a list of paths or None; a field `*_dir` is a folder or None.

    Args:
        data_dir: base folder of relative paths; the working directory if not given.
        seed: random seed of every random choice.
    """

    data_dir: str | None = None
    seed: int = 0

    def files(self, name: str) -> list[Path]:
        """The paths of the field `name`. Raises ValueError for a path that is not a file."""
        value = getattr(self, name)
        given = [] if value is None else [value] if isinstance(value, (str, Path)) else list(value)
        return as_paths([self._from_data_dir(path) for path in given])

    def folder(self, name: str) -> str | None:
        """The folder of the field `name`, or None."""
        value = getattr(self, name)
        return None if value is None else str(self._from_data_dir(value))

    def _from_data_dir(self, path: str | Path) -> Path:
        return Path(path) if self.data_dir is None else Path(self.data_dir) / path

    def settings(self) -> dict[str, Any]:
        """The values by name, as written to a report."""
        inherited = {field.name for field in dataclasses.fields(datasets.BuilderConfig)} - {"name", "data_dir"}
        names = [field.name for field in dataclasses.fields(self) if field.name not in inherited]
        return {name: getattr(self, name) for name in names}

    def values(self) -> dict[str, Any]:
        """Everything the rows depend on: files by name and content, folders by path and listing, other fields by
        value."""
        values = self.settings()
        for name in values:
            if name.endswith("_file"):
                values[name] = [(path.name, fingerprint([path])) for path in self.files(name)]
            elif name == "data_dir":
                values[name] = None if self.data_dir is None else os.path.abspath(self.data_dir)
            elif name.endswith("_dir") and (folder := self.folder(name)) is not None:
                values[name] = [os.path.abspath(folder), fingerprint_folder(folder)]
        return values

    def fingerprint(self) -> str:
        """The name of a build: 16 hexadecimal digits."""
        text = json.dumps(self.values(), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_range(settings: Any, low: float, *names: str, high: float = math.inf) -> None:
    """Raises ValueError unless each field of `names` is a finite number from `low` to `high`, or None.

    A field of type `int` must be a whole number.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(settings)}
    for name in names:
        value = getattr(settings, name)
        if value is None:
            continue
        if kinds[name] in (int, int | None) and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")
        if not low <= value <= high:
            limits = f"at least {low}" + (f" and at most {high}" if high < math.inf else "")
            raise ValueError(f"{name} must be {limits}, got {value!r}")


def check_positive(settings: Any, *names: str) -> None:
    """Raises ValueError unless each field of `names` is a finite number above 0, or None."""
    check_range(settings, 0, *names)
    for name in names:
        if getattr(settings, name) == 0:
            raise ValueError(f"{name} must be above 0, got {getattr(settings, name)!r}")


def fingerprint_folder(folder: str | Path) -> str:
    """Hash of the names and sizes of all files below a folder; media files are too large to hash by content.

    Raises:
        ValueError: the folder does not exist.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"no such folder: {folder}")
    listing = sorted((os.path.relpath(path, folder), os.stat(path).st_size) for path in list_files(folder))
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


@dataclass
class InputConfig(InputSettings, datasets.BuilderConfig):
    """`InputSettings` as a `datasets` configuration."""

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """The name of the cached build."""
        return super().create_config_id({"build": self.fingerprint()}, custom_features)
