"""The data sources in a recipe's `datasets`, with their weights. `train/training_rows.py` loads them."""

import json
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class DataSource:
    """One entry of the recipe's `datasets`.

    Args:
        path (`str`): name of one of our builders, a folder or file of built rows, or a Hub id.
        name (`str`, *optional*): configuration name.
        split (`str`): split to read.
        weight (`float`): passes over the rows in an epoch: 0.5 uses half of the rows, 2 uses each row twice.
        options (`dict`): options of the builder itself, for example `captions_file`.

    Raises:
        ValueError: a value of another type, an empty one, or a weight that is not positive and finite.
    """

    path: str
    name: str | None = None
    split: str = "train"
    weight: float = 1.0
    options: dict = field(default_factory=dict)

    def __post_init__(self):
        for key in ("path", "name", "split"):
            value = getattr(self, key)
            if not (isinstance(value, str) and value.strip()) and (key != "name" or value is not None):
                raise ValueError(f"{key} of data source {self.path!r} must be a text that is not empty, got {value!r}")
        if not isinstance(self.options, dict):
            raise ValueError(f"options of data source {self.path!r} must be a mapping, got {self.options!r}")
        is_number = isinstance(self.weight, (int, float)) and not isinstance(self.weight, bool)
        if not (is_number and 0 < self.weight < math.inf):
            raise ValueError(f"weight of data source {self.path!r} must be positive and finite, got {self.weight!r}")


def read_data_source(entry: str | dict) -> DataSource:
    """Parses an entry of `datasets`: a mapping, the same as JSON text, or only a path.

    Raises:
        ValueError: an unknown or missing key.
    """
    values: dict[str, Any]
    try:
        is_path = isinstance(entry, str) and not entry.lstrip().startswith("{")
        values = {"path": entry} if is_path else json.loads(entry) if isinstance(entry, str) else entry
    except json.JSONDecodeError as error:
        raise ValueError(f"data source {entry!r} is not JSON: {error}") from error
    known = set(DataSource.__dataclass_fields__)
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown key {unknown[0]!r} in data source {entry}; known keys: {sorted(known)}")
    if "path" not in values:
        raise ValueError(f"data source without 'path': {entry}")
    return DataSource(**values)
