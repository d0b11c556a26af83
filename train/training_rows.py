"""Loads the training and evaluation rows of a stage, mixed by weight, and drops and counts rows without media."""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, ReadInstruction, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetsError

import dataset_builders  # noqa: F401  (importing registers the builders with `datasets`)
from dataset_builders.schema import FEATURES, TRACKED_FEATURES
from dataset_builders.sources.annotation_files import read_json_records
from dataset_builders.sources.mixture import mix
from train.arguments import StageArguments
from train.data_sources import DataSource
from train.media_rows import CachedMedia, MediaFiles
from train.row_checks import check_conversations


logger = logging.getLogger(__name__)

BATCH_ROWS = 1000  # converted to Python objects at a time
ROW_FILES = (".parquet", ".json", ".jsonl")
LOADING_ERRORS = (ValueError, OSError, pa.ArrowException, DatasetsError)


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
        ValueError: the source cannot be loaded, lacks a column, has values of another type, or has no rows; the
            message names it.
    """
    is_file = Path(source.path).suffix in ROW_FILES
    path = below_data_dir(source.path, data_dir) if is_file or source.path.startswith("./") else source.path
    options = {
        k: below_data_dir(v, data_dir) if k.endswith(("_file", "_dir")) else v for k, v in source.options.items()
    }
    with name_source(path):
        if is_file:
            rows = load_row_file(Path(path), split=source.split, options=options)
        elif Path(path).is_file():
            raise ValueError(f"the name of a file of rows ends in one of {ROW_FILES}")
        else:
            rows = load_dataset(path, name=source.name, split=source.split, **options)
        return as_rows(rows, split=source.split)


@contextmanager
def name_source(path: str) -> Iterator[None]:
    """Adds the path of a source to the errors of loading it, and makes them ValueErrors.

    `datasets` wraps what a builder raises. A cause that is not an error of the input stays as it is.
    """
    try:
        yield
    except LOADING_ERRORS as error:
        wrapped = isinstance(error, DatasetGenerationError) and error.__cause__ is not None
        cause = error.__cause__ if wrapped else error
        if not isinstance(cause, LOADING_ERRORS):
            raise
        raise ValueError(f"data source {path!r}: {cause}") from error


def load_row_file(path: Path, *, split: str, options: dict) -> Dataset:
    """The rows of a Parquet, JSON or JSON-lines file; a JSON file is read into memory.

    Raises:
        ValueError: no such file, or a file without the columns of `dataset_builders.schema`.
    """
    if not path.is_file():
        raise ValueError("no such file of rows")
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            check_columns(file.schema_arrow.names)
        return load_dataset("parquet", data_files=str(path), split=split, columns=list(FEATURES), **options)
    if options:
        raise ValueError(f"a JSON file of rows has no options, got {sorted(options)}")
    records = read_json_records(path)
    if not isinstance(records, list):
        raise ValueError(f"not a list of rows, but {type(records).__name__}")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise ValueError(f"row {number} is not a JSON object, but {type(record).__name__}")
        check_columns(record, where=f"row {number}")
    parts = ReadInstruction.from_spec(split).to_absolute({"train": len(records)})
    records = [record for part in parts for record in records[part.from_ : part.to]]
    return Dataset.from_list([{name: record[name] for name in FEATURES} for record in records])


def check_columns(names: Iterable[str], *, where: str = "the file") -> None:
    """Raises ValueError, with the missing ones, unless all columns of `dataset_builders.schema` are in `names`."""
    if absent := [name for name in FEATURES if name not in names]:
        raise ValueError(f"{where} lacks the columns {absent} of dataset_builders.schema")


def as_rows(rows: Dataset, *, split: str) -> Dataset:
    """`rows` with the columns of `dataset_builders.schema` alone.

    Raises:
        ValueError: no rows, a missing column, a column of another type, one with nulls or times that are not finite,
            or a conversation that cannot be trained on (`row_checks`).
    """
    if not len(rows):
        raise ValueError(f"the split {split!r} has no rows")
    check_columns(rows.column_names, where="the data set")
    rows = rows.select_columns(list(FEATURES))
    for name in set(FEATURES) - {"duration"}:  # an image has none
        if num_nulls := rows.data.column(name).null_count:
            raise ValueError(f"{num_nulls} of {len(rows)} rows have no value in the column {name!r}")
    try:
        rows = rows.cast(TRACKED_FEATURES)
    except TypeError as error:  # of `datasets`, for another kind of column
        raise ValueError(str(error)) from error
    seconds = pc.struct_field(pc.list_flatten(rows.data.column("times")), "seconds")
    for name, numbers in {"duration": rows.data.column("duration"), "times": seconds}.items():
        if not pc.all(pc.is_finite(numbers), min_count=0).as_py():
            raise ValueError(f"the column {name!r} holds NaN or an infinite number")
    check_conversations(rows)
    return rows


def load_stage_rows(
    stage: StageArguments, *, media: CachedMedia | MediaFiles, seed: int
) -> tuple[Dataset, Dataset | None, dict]:
    """The training rows, the rows of `eval_datasets` or None, and the counts of `load_rows`, those of the evaluation
    rows as "eval"."""

    def load(sources: list[DataSource]) -> tuple[Dataset, dict]:
        share = stage.max_missing_share
        return load_rows(sources, media=media, data_dir=stage.data_dir, max_missing=share, seed=seed)

    if stage.data_dir is not None and not Path(stage.data_dir).is_dir():
        raise ValueError(f"no such data folder: {stage.data_dir}")
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
        tables = needed.with_format("arrow").iter(BATCH_ROWS)  # several times faster than row by row
        all_rows = (row for table in tables for row in table.to_pylist())
        absent = {index: names for index, row in enumerate(all_rows) if (names := media.missing(row))}
        missing += [(rows[index]["id"], names) for index, names in absent.items()]
        key = f"{number}:{source.path}" + (f"/{source.name}" if source.name else "")
        kept[key] = rows.select([i for i in range(len(rows)) if i not in absent]) if absent else rows
        weights[key] = source.weight
    check_missing(missing, num_rows=num_rows, max_missing=max_missing)
    mixed = mix(kept, weights, seed=seed)
    names = mixed.select_columns(["source"]).with_format("arrow")[:]["source"]
    per_source = {entry["values"]: entry["counts"] for entry in names.value_counts().to_pylist()}
    return mixed, {"rows_per_source": per_source, "dropped": {"missing_media": len(missing)}}


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
