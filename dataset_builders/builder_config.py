"""The configuration that every builder of annotation files shares.

`datasets` keys its cache by the values of a configuration; for a path that is its name alone. Here the contents of the
annotation files are part of the key, so that a changed file is read again. It reads no annotation.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from .sources.annotation_files import as_paths, fingerprint


@dataclass
class AnnotationFilesConfig(datasets.BuilderConfig):
    """A configuration whose fields named `*_file` hold a path, several or None, and those named `*_dir` a folder.

    Relative paths are taken from `data_dir` where that is given.
    """

    seed: int = 0

    def files(self, name: str) -> list[Path]:
        """The paths of the field `name`. ValueError for a path that is no file."""
        value = getattr(self, name)
        given = [] if value is None else [value] if isinstance(value, (str, Path)) else list(value)
        return as_paths([self._from_data_dir(path) for path in given])

    def folder(self, name: str) -> str | None:
        """The folder of the field `name`, or None."""
        value = getattr(self, name)
        return None if value is None else str(self._from_data_dir(value))

    def _from_data_dir(self, path: str | Path) -> Path:
        return Path(path) if self.data_dir is None else Path(self.data_dir) / path

    def annotation_paths(self) -> list[Path]:
        """Every annotation file named by the configuration. ValueError for a path that is no file."""
        names = [field.name for field in dataclasses.fields(self) if field.name.endswith("_file")]
        return [path for name in names for path in self.files(name)]

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """The cache key: the values that were given and the contents of the annotation files."""
        keyed = {**config_kwargs, "fingerprint": fingerprint(self.annotation_paths())}
        return super().create_config_id(keyed, custom_features)

    def settings(self) -> dict[str, Any]:
        """The values of the configuration's own fields, as a report states them."""
        inherited = {field.name for field in dataclasses.fields(datasets.BuilderConfig)} - {"name", "data_dir"}
        names = [field.name for field in dataclasses.fields(self) if field.name not in inherited]
        return {name: getattr(self, name) for name in names}
