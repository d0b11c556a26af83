"""The configuration that every builder of annotation files shares.

`datasets` keys its cache by the values of a configuration; for a path that is its name alone. Here the contents of the
annotation files are part of the key, so that a changed file is read again. It reads no annotation.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import datasets

from .annotation_files import as_paths, fingerprint


@dataclass
class AnnotationFilesConfig(datasets.BuilderConfig):
    """A configuration whose fields named `*_file` hold a path, several, or None."""

    seed: int = 0

    def annotation_paths(self) -> list:
        """Every annotation file named by the configuration. ValueError for a path that is no file."""
        names = [field.name for field in dataclasses.fields(self) if field.name.endswith("_file")]
        return [path for name in names for path in as_paths(getattr(self, name))]

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """The cache key: the values that were given and the contents of the annotation files."""
        keyed = {**config_kwargs, "fingerprint": fingerprint(self.annotation_paths())}
        return super().create_config_id(keyed, custom_features)

    def settings(self) -> dict[str, Any]:
        """The values of the configuration's own fields, as a report states them."""
        base = {field.name for field in dataclasses.fields(datasets.BuilderConfig)} - {"name"}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in base}
