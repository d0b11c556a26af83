"""Base classes of the four `datasets` builders: common row schema, report format and shards of a few thousand rows.

In the module of a builder class, `datasets` replaces `open`, `os.path` and `Path` with versions that read URLs. Code
that opens files is therefore in other modules.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

import datasets
import pyarrow as pa

from .schema import FEATURES
from .sources.record_report import RecordReport
from .sources.rows import Row


ROWS_PER_SHARD = 5000  # unit of work of a worker, and of skipping in a streaming reader (our choice)
# names that `datasets` accepts, limited to characters valid in every file system
SPLIT_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)


class RowsBuilder(datasets.ArrowBasedBuilder):
    """A builder of rows of `schema.FEATURES`."""

    VERSION = datasets.Version("1.0.0")
    DESCRIPTION = ""

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self.DESCRIPTION, features=FEATURES)


class AnnotationBuilder(RowsBuilder):
    """A builder that reads annotation files: one split, with report.json and dropped.jsonl in the data folder.

    A subclass defines `read_rows`.
    """

    def read_rows(self, report: RecordReport) -> Iterable[Row]:
        """The rows in order; every dropped record is counted in `report`."""
        raise NotImplementedError

    @property
    def split(self) -> str:
        """Name of the split."""
        return "train"

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        check_split_name(self.split)
        report = RecordReport(settings=self.config.settings())
        rows = with_unique_ids(self.read_rows(report))
        # tables: a row of Python objects takes ten times the memory
        shards = [self._make_table(part) for part in iter(lambda: list(islice(rows, ROWS_PER_SHARD)), [])]
        if not shards:
            raise ValueError(f"{self.dataset_name}/{self.config.name}: no row is left\n{report.summary()}")
        if not dl_manager.is_streaming:
            report.write(self._output_dir)
        return [datasets.SplitGenerator(name=self.split, gen_kwargs={"shards": shards})]

    def _make_table(self, rows: list[Row]) -> pa.Table:
        if tracked := [row["id"] for row in rows if any(segment.get("tracks") for segment in row["segments"])]:
            raise ValueError(
                f"{self.dataset_name}/{self.config.name}: row {tracked[0]!r} says which tracks its segments play, but "
                "this builder has no column for it: train on the folder of pu_valor that the row was exported from"
            )
        return pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)

    def _generate_tables(self, shards: list[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
        yield from enumerate(shards)


def check_split_name(name: str) -> None:
    """Raises ValueError for a split that `load_dataset` could not read back."""
    if SPLIT_NAME.fullmatch(name) is None or name == "all":
        raise ValueError(f"split {name!r}: use letters, digits and underscores (parts joined by dots), and not 'all'")


def with_unique_ids(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, with "#2", "#3", ... appended to ids that occurred before.

    >>> [row["id"] for row in with_unique_ids([{"id": "a"}, {"id": "a"}, {"id": "a#2"}, {"id": "a"}])]
    ['a', 'a#2', 'a#2#2', 'a#3']
    """
    num_seen: Counter[str] = Counter()
    for row in rows:
        name = row["id"]
        num_seen[name] += 1
        unique = name if num_seen[name] == 1 else f"{name}#{num_seen[name]}"
        while unique != name and num_seen[unique]:
            num_seen[name] += 1
            unique = f"{name}#{num_seen[name]}"
        if unique != name:
            num_seen[unique] = 1
        yield row if unique == name else {**row, "id": unique}
