"""Write A5-222K as a folder that `load_dataset` reads without this project.

    <output>/data/train-00000-of-00003.parquet    README.md    LICENSE.md    report.json    dropped.jsonl

No audio is copied.
"""

import os
import shutil
from itertools import islice
from pathlib import Path

import pyarrow as pa

from ..a5_222k import A5222KSettings, pair_row, select_pairs
from ..builder_base import with_unique_ids
from ..schema import FEATURES
from ..sources.annotation_files import read_json
from ..sources.record_report import REPORT_FILE, RecordReport
from .a5_222k_card import card_text
from .card_facts import add_sizes, local_name, measure_parquet, write_card_files
from .provenance import build_environment
from .pu_valor_folder import write_parquet


ROWS_PER_FILE = 100_000
PACKAGES = ("av", "datasets", "pyarrow")  # packages whose versions can change the output bytes


def write_folder(settings: A5222KSettings, output: str | Path) -> Path:
    """Build the set in the new folder `output`, which is written under a hidden name and renamed when complete.

    Raises:
        ValueError: `output` exists, or no pair can be selected.
    """
    output = Path(output)
    if output.exists():
        raise ValueError(f"{output} exists: choose a new folder")
    report = RecordReport()
    pairs = select_pairs(settings, report=report)
    rows = with_unique_ids(pair_row(pair, seed=settings.seed) for pair in pairs)
    num_files = -(-len(pairs) // ROWS_PER_FILE)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "data").mkdir(parents=True)
    sizes = []
    for number in range(num_files):
        path = partial / "data" / f"train-{number:05d}-of-{num_files:05d}.parquet"
        part = pa.Table.from_pylist(list(islice(rows, ROWS_PER_FILE)), schema=FEATURES.arrow_schema)
        write_parquet(part, path)
        sizes.append(measure_parquet(path))
    report.write(
        partial,
        num_rows={"train": len(pairs)},
        sizes={"train": add_sizes(sizes)},
        environments=[build_environment(PACKAGES)],
    )
    write_card_files(partial, card_text(read_json(partial / REPORT_FILE), name=local_name(output)))
    os.replace(partial, output)
    return output
