"""Loads the training and evaluation rows of a stage, mixed by weight, and drops and counts rows without media."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

import dataset_builders  # noqa: F401  (importing registers the builders with `datasets`)
from dataset_builders.schema import FEATURES, TRACKED_FEATURES
from dataset_builders.sources.mixture import mix
from train.arguments import StageArguments
from train.data_sources import DataSource
from train.media_rows import CachedMedia, MediaFiles


logger = logging.getLogger(__name__)

FILE_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}


def below_data_dir(value: Any, data_dir: str | None) -> Any:
    """A relative path, or a list of them, below `data_dir`; other values unchanged."""
    if isinstance(value, list):
        return [below_data_dir(entry, data_dir) for entry in value]
    return str(Path(data_dir, value)) if isinstance(value, str) and data_dir is not None else value


def load_source(source: DataSource, *, data_dir: str | None = None) -> Dataset:
    """One source as rows of `dataset_builders.schema`.

    Args:
        data_dir: base folder of relative paths: options that end in `_file` or `_dir`, and a `path` that is a file or
            begins with "./".

    Raises:
        ValueError: a missing column, or no rows.
    """
    options = {
        k: below_data_dir(v, data_dir) if k.endswith(("_file", "_dir")) else v for k, v in source.options.items()
    }
    is_file = Path(source.path).suffix in FILE_FORMATS
    path = below_data_dir(source.path, data_dir) if is_file or source.path.startswith("./") else source.path
    if is_file and not Path(path).is_file():
        raise ValueError(f"no such file of rows: {path}")
    if is_file:
        options = {**options, "data_files": path, "features": TRACKED_FEATURES}
        path = FILE_FORMATS[Path(path).suffix]
    rows = load_dataset(path, name=source.name, split=source.split, **options)
    if absent := sorted(set(FEATURES) - set(rows.column_names)):
        raise ValueError(f"data source {source.path!r} lacks the columns {absent} of dataset_builders.schema")
    if not len(rows):
        raise ValueError(f"data source {source.path!r}, split {source.split!r} has no rows")
    return rows.select_columns(list(FEATURES)).cast(TRACKED_FEATURES)


def load_stage_rows(
    stage: StageArguments, *, media: CachedMedia | MediaFiles, seed: int
) -> tuple[Dataset, Dataset | None, dict]:
    """The training rows, the rows of `eval_datasets` or None, and the counts of `load_rows`, those of the evaluation
    rows as "eval"."""

    def load(sources: list[DataSource]) -> tuple[Dataset, dict]:
        share = stage.max_missing_share
        return load_rows(sources, media=media, data_dir=stage.data_dir, max_missing=share, seed=seed)

    rows, counts = load(stage.sources)
    if not stage.eval_sources:
        return rows, None, counts
    eval_rows, counts["eval"] = load(stage.eval_sources)
    return rows, eval_rows, counts


def load_rows(
    sources: list[DataSource],
    *,
    media: CachedMedia | MediaFiles,
    data_dir: str | None = None,
    max_missing: float = 0.0,
    seed: int = 0,
) -> tuple[Dataset, dict]:
    """The rows of all sources, mixed by weight, and their counts.

    Args:
        media: lists the missing media of a row.
        data_dir: see `load_source`.
        max_missing: share of the rows that may lack media; these rows are dropped.
        seed: of the mixture.

    Returns:
        The rows, and {"rows_per_source": {source: rows}, "dropped": {reason: rows}}.

    Raises:
        ValueError: no sources, or a larger share of rows without media than `max_missing`.
    """
    if not sources:
        raise ValueError("the stage has no `datasets` to train on")
    kept, weights, missing = {}, {}, []
    num_rows = 0
    for number, source in enumerate(sources):
        rows = load_source(source, data_dir=data_dir)
        num_rows += len(rows)
        needed = rows.select_columns(["id", "source", "media", "segments"])  # reading messages would take most time
        absent = {index: names for index, row in enumerate(needed) if (names := media.missing(row))}
        missing += [(rows[index]["id"], names) for index, names in absent.items()]
        key = f"{number}:{source.path}" + (f"/{source.name}" if source.name else "")
        kept[key] = rows.select([i for i in range(len(rows)) if i not in absent]) if absent else rows
        weights[key] = source.weight
    check_missing(missing, num_rows=num_rows, max_missing=max_missing)
    mixed = mix(kept, weights, seed=seed)
    counts = {"rows_per_source": dict(Counter(mixed["source"])), "dropped": {"missing_media": len(missing)}}
    return mixed, counts


def check_missing(missing: list[tuple[str, list[str]]], *, num_rows: int, max_missing: float):
    """Logs the rows without media (id and missing media of each). ValueError if their share exceeds `max_missing`."""
    examples = json.dumps(missing[:3])
    if len(missing) > max_missing * num_rows:
        raise ValueError(
            f"{len(missing)} of {num_rows} rows lack media, more than max_missing {max_missing:.2%} allows; "
            f"row and missing media, for example: {examples}"
        )
    if missing:
        logger.warning("dropped %d of %d rows that lack media, for example %s", len(missing), num_rows, examples)
