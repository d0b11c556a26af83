"""The release folder of a built data set: names of files, never places of this machine, and no media by accident.

`assemble_dataset` and `place_card` make it from a finished PU-VALOR or A5-222K folder; `find_dataset_problems` names what may not go to the
Hub; `verify_dataset` reads it the way a stranger would. Nothing here touches the network.
"""

import fnmatch
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard

from dataset_builders.release.card_facts import (
    CARD_FILE,
    LICENCE_FILE,
    LICENCES,
    add_sizes,
    licences_of,
    measure_parquet,
)

from ..facts import read_json
from .fresh_process import TIMEOUT, run_in_fresh_process
from .local_paths import shorten_paths
from .model_release import find_private_things


TEXT_PATTERNS = ("report.json", "*.jsonl")
LINKED_PATTERNS = ("*.parquet", "figures/*.png")
VIDEO_PATTERN = "*.mp4"
DATASET_PATTERNS = (*TEXT_PATTERNS, *LINKED_PATTERNS, VIDEO_PATTERN, CARD_FILE, LICENCE_FILE)
VIDEO_COLUMN = "video"  # of rendered PU-VALOR: the mp4 itself
PLACE = r"^(?:/|[A-Za-z]:\\).*[/\\]"  # the folders of an absolute path

# leaves without cleaning up: the threads of a stream that was not read to its end abort an ordinary exit
FRESH_PROCESS = """
import os, sys
import datasets

for split, rows in datasets.load_dataset(sys.argv[1], streaming=True).items():
    if "video" in rows.features:
        rows = rows.remove_columns("video")
    print(split, next(iter(rows))["id"], flush=True)
os._exit(0)
"""


def assemble_dataset(folder: Path, *, output: Path, include_media: bool = False) -> list[Path]:
    """Make the release of a built folder in the new folder `output`, but for its card: see `place_card`.

    Large files are symbolic links; a Parquet file whose `media` paths are absolute is written anew with bare file names,
    and the sizes in the report are those of the files that go.

    Raises:
        FileNotFoundError: `folder` holds no Parquet files.
        ValueError: its build is not finished.
    """
    if (folder / ".build").exists():
        raise ValueError(f"{folder} is an unfinished build: run `python -m dataset_builders.build` to its end first")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    linked = (*LINKED_PATTERNS, VIDEO_PATTERN) if include_media else LINKED_PATTERNS
    if not any(name.endswith(".parquet") for name in names):
        raise FileNotFoundError(f"{folder} holds no Parquet files: not a built data set")
    for name in names:
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if any(fnmatch.fnmatch(name, pattern) for pattern in TEXT_PATTERNS):
            target.write_text(shorten_paths((folder / name).read_text(encoding="utf-8")), encoding="utf-8")
        elif name.endswith(".parquet"):
            place_parquet(folder / name, target)
        elif any(fnmatch.fnmatch(name, pattern) for pattern in linked):
            target.symlink_to((folder / name).resolve())
    measure_again(output)
    return sorted(path for path in output.rglob("*") if path.is_file())


def measure_again(release: Path) -> None:
    """Bring the sizes in a release's report to those of its files."""
    path = release / "report.json"
    report = read_json(path) if path.is_file() else {}
    sizes = {
        split: add_sizes(measure_parquet(shard) for shard in sorted((release / "data").glob(f"{split}-*.parquet")))
        for split in report.get("sizes", {})
    }
    if sizes != report.get("sizes", {}):
        report["sizes"] = sizes
        path.write_text(json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def place_card(release: Path, card: str) -> None:
    """Write the card of a release as README.md, and what it says of licences as a file of its own."""
    (release / CARD_FILE).write_text(card, encoding="utf-8")
    if LICENCES.search(card):  # every card of ours; one that was written by hand need not
        (release / LICENCE_FILE).write_text(licences_of(card), encoding="utf-8")


def place_parquet(source: Path, target: Path) -> None:
    """Link a Parquet file, or write it anew where its column `media` names places of this machine."""
    if "media" in pq.read_schema(source).names:
        table = pq.read_table(source)
        media = table["media"].combine_chunks()
        paths = [pc.struct_field(media, field.name) for field in media.type]
        short = [
            pc.replace_substring_regex(path, PLACE, "") if pa.types.is_string(path.type) else path for path in paths
        ]
        if any(not new.equals(old) for new, old in zip(short, paths)):
            column = pa.StructArray.from_arrays(short, fields=list(media.type), mask=media.is_null())
            index = table.schema.get_field_index("media")
            pq.write_table(table.set_column(index, table.schema.field(index), column), target, compression="zstd")
            return
    target.symlink_to(source.resolve())


def find_dataset_problems(folder: Path, *, include_media: bool = False) -> list[str]:
    """Everything that forbids publishing the release `folder`, one sentence each that names the file."""
    problems = find_private_things(folder)
    for path in sorted(folder.rglob("*.parquet")):
        if VIDEO_COLUMN in pq.read_schema(path).names and not include_media:
            name = path.relative_to(folder).as_posix()
            problems.append(f"{name} holds the videos themselves: --include-media, if you may publish them")
    for config in DatasetCard.load(folder / CARD_FILE).data.to_dict().get("configs", []):
        for files in config["data_files"]:
            if not any(folder.glob(files["path"])):
                problems.append(f"README.md promises the split {files['split']} in {files['path']}: no such file")
    return problems


def verify_dataset(folder: Path, *, timeout: float = TIMEOUT) -> dict[str, str]:
    """The id of the first row of each split, as `load_dataset` reads the folder in a process without our code.

    Raises:
        RuntimeError: it cannot be read; with the process's last words.
    """
    output = run_in_fresh_process(FRESH_PROCESS, folder, timeout=timeout)
    return dict(line.split(" ", 1) for line in output.splitlines())
