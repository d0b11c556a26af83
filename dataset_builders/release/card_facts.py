"""Code shared by the cards of PU-VALOR and A5-222K: the YAML block, sizes, environment and output files.

A card is a template in this folder, filled in from the report.json of a build. Values missing from an older report are
shown as "not recorded".
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from ..atomic_files import write_text
from .citation import BIBTEX


CARD_FILE = "README.md"
LICENCE_FILE = "LICENSE.md"  # for `license: other` the Hub accepts this file name or a URL
LICENCES = re.compile(r"^## Licences\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
SIZE_CATEGORIES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
NOT_RECORDED = "not recorded"


def fill_template(template: Path, metadata: DatasetCardData, **values: Any) -> str:
    """The text of a card."""
    return f"{DatasetCard.from_template(metadata, template_path=str(template), citation=BIBTEX, **values)}\n"


def write_card_files(folder: str | Path, card: str) -> None:
    """Write README.md and, if its YAML block names LICENSE.md, write its section on licences to that file as well."""
    write_text(Path(folder) / CARD_FILE, card)
    if f"\nlicense_link: {LICENCE_FILE}\n" in card:
        write_text(Path(folder) / LICENCE_FILE, licences_of(card))


def licences_of(card: str) -> str:
    """The section "Licences" of a card, as a separate text. Raises ValueError for a card without it.

    >>> licences_of("# Title\\n\\n## Licences\\n\\nNone.\\n\\n## Citation\\n")
    '# Licences\\n\\nNone.\\n'
    """
    found = LICENCES.search(card)
    if found is None:
        raise ValueError('the card has no section "## Licences"')
    return found.group(0).removeprefix("#").rstrip() + "\n"


def local_name(folder: str | Path) -> str:
    """The `load_dataset` path of a folder, relative to its parent; "./" distinguishes it from a builder name."""
    return f"./{Path(folder).resolve().name}"


def card_metadata(
    *,
    num_rows: dict[str, int],
    sizes: dict[str, dict[str, int]] | None,
    features: datasets.Features,
    license_name: str,
    **fields: Any,
) -> DatasetCardData:
    """The YAML block: Hub tags, the files of each split, and `dataset_info` as `push_to_hub` writes it.

    Args:
        num_rows: rows by split.
        sizes: `measure_parquet` by split; None: no `dataset_info`.
        fields: further fields of `DatasetCardData`.
    """
    metadata = DatasetCardData(
        language="en",
        license="other",
        license_name=license_name,
        license_link=LICENCE_FILE,
        size_categories=[size_category(sum(num_rows.values()))],
        **fields,
    )
    if sizes is not None:
        splits = datasets.SplitDict()
        for split, num_examples in num_rows.items():
            splits.add(datasets.SplitInfo(split, num_bytes=sizes[split]["num_bytes"], num_examples=num_examples))
        total = add_sizes(sizes.values())
        info = datasets.DatasetInfo(
            features=features, splits=splits, download_size=total["file_bytes"], dataset_size=total["num_bytes"]
        )
        DatasetInfosDict({"default": info}).to_dataset_card_data(metadata)
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in num_rows]
    metadata["configs"] = [{"config_name": "default", "data_files": files}]
    return metadata


def size_category(num_rows: int) -> str:
    """The Hub's size category.

    >>> size_category(222_000)
    '100K<n<1M'
    """
    return next((name for bound, name in SIZE_CATEGORIES if num_rows < bound), "10M<n<100M")


def measure_parquet(path: str | Path) -> dict[str, int]:
    """Size of the file in bytes, and size of its rows in memory, which `datasets` calls `num_bytes`."""
    with pq.ParquetFile(path) as file:
        num_bytes = sum(file.read_row_group(index).nbytes for index in range(file.num_row_groups))
    return {"file_bytes": Path(path).stat().st_size, "num_bytes": num_bytes}


def add_sizes(sizes: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sum of several results of `measure_parquet`."""
    total = {"file_bytes": 0, "num_bytes": 0}
    for size in sizes:
        total = {name: total[name] + size[name] for name in total}
    return total


def describe_size(sizes: Iterable[dict[str, int]] | None) -> str:
    """Size on disk and in memory, as text."""
    if sizes is None:
        return f"size in bytes {NOT_RECORDED}"
    total = add_sizes(sizes)
    return f"{total['file_bytes']:,} bytes of Parquet, {total['num_bytes']:,} bytes once loaded"


def describe_environments(report: dict) -> list[str]:
    """One line for each commit and set of package versions used by any part of the build; usually a single line."""
    lines = []
    for environment in report.get("environments") or [None]:
        if environment is None:
            lines.append(NOT_RECORDED)
            continue
        versions = ", ".join(f"{name} {version}" for name, version in sorted(environment["packages"].items()))
        lines.append(f"Built at commit `{environment['git_commit'] or 'unknown'}` with {versions}")
    return lines
