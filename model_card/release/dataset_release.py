"""The release folder of a built data set: without local paths, and without media unless asked for.

`assemble_dataset` and `write_card` make it from a finished PU-VALOR or A5-222K folder; `find_dataset_problems` lists
contents that must not be published; `verify_dataset` reads it without this project.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.data_files import sanitize_patterns
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

from dataset_builders.atomic_files import write_json
from dataset_builders.release.card_facts import (
    CARD_FILE,
    LICENCE_FILE,
    LICENCES,
    add_sizes,
    licences_of,
    measure_parquet,
)
from dataset_builders.sources.annotation_files import read_json
from dataset_builders.sources.record_report import REPORT_FILE

from .fresh_process import run_in_fresh_process
from .local_paths import shorten_paths
from .model_release import find_private_things, matches


TEXT_PATTERNS = (REPORT_FILE, "*.jsonl")
LINKED_PATTERNS = ("*.parquet", "figures/*.png")
VIDEO_PATTERN = "*.mp4"
DATASET_PATTERNS = (*TEXT_PATTERNS, *LINKED_PATTERNS, VIDEO_PATTERN, CARD_FILE, LICENCE_FILE)
VIDEO_COLUMN = "video"  # of rendered PU-VALOR: the mp4 files
FOLDERS = r"^(?:/|[A-Za-z]:\\).*[/\\]"  # the folders of an absolute path

# exits without cleaning up: the threads of an unfinished stream make an ordinary exit fail
FRESH_PROCESS = """
import os, sys
import datasets

for split, rows in datasets.load_dataset(sys.argv[1], streaming=True).items():
    if "video" in rows.features:
        rows = rows.remove_columns("video")
    print(split, next(iter(rows))["id"], flush=True)
os._exit(0)
"""


def assemble_dataset(folder: Path, *, output: Path, include_media: bool = False) -> None:
    """Make the release of a built folder, without its card (see `write_card`), in the new folder `output`.

    Large files are linked. A Parquet file with absolute paths in `media` is rewritten with file names, and the sizes
    in the report are updated.

    Raises:
        FileNotFoundError: `folder` contains no Parquet files.
        ValueError: the build is not finished, or a file is a link to a file outside `folder`.
    """
    if (folder / ".build").exists():
        raise ValueError(f"{folder} is an unfinished build: complete it with `python -m dataset_builders.build`")
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"{path} is a link to {path.resolve()}, outside the data set: copy the file to publish it"
            )
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    linked = (*LINKED_PATTERNS, VIDEO_PATTERN) if include_media else LINKED_PATTERNS
    if not any(name.endswith(".parquet") for name in names):
        raise FileNotFoundError(f"{folder} contains no Parquet files: not a built data set")
    for name in names:
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if matches(name, TEXT_PATTERNS):
            target.write_text(shorten_paths((folder / name).read_text(encoding="utf-8")), encoding="utf-8")
        elif name.endswith(".parquet"):
            copy_parquet(folder / name, target)
        elif matches(name, linked):
            target.symlink_to((folder / name).resolve())
    update_sizes(output)


def update_sizes(release: Path) -> None:
    """Set the sizes in the report of a release to those of its files."""
    path = release / REPORT_FILE
    report = read_json(path) if path.is_file() else {}
    sizes = {
        split: add_sizes(measure_parquet(shard) for shard in sorted((release / "data").glob(f"{split}-*.parquet")))
        for split in report.get("sizes", {})
    }
    if sizes != report.get("sizes", {}):
        report["sizes"] = sizes
        write_json(path, report, sort_keys=True)


def write_card(release: Path, card: str) -> None:
    """Write the card of a release as README.md, and its section on licences as a separate file."""
    (release / CARD_FILE).write_text(card, encoding="utf-8")
    if LICENCES.search(card):  # in all generated cards; a card written by hand may lack it
        (release / LICENCE_FILE).write_text(licences_of(card), encoding="utf-8")


def copy_parquet(source: Path, target: Path) -> None:
    """Link a Parquet file, or rewrite it if its column `media` has absolute paths."""
    if "media" in pq.read_schema(source).names:
        media = pq.read_table(source, columns=["media"])["media"].combine_chunks()  # not gigabytes of videos
        paths = [pc.struct_field(media, field.name) for field in media.type]
        short = [
            pc.replace_substring_regex(path, FOLDERS, "") if pa.types.is_string(path.type) else path for path in paths
        ]
        if any(not new.equals(old) for new, old in zip(short, paths)):
            table = pq.read_table(source)
            column = pa.StructArray.from_arrays(short, fields=list(media.type), mask=media.is_null())
            index = table.schema.get_field_index("media")
            pq.write_table(table.set_column(index, table.schema.field(index), column), target, compression="zstd")
            return
    target.symlink_to(source.resolve())


def find_dataset_problems(folder: Path, *, include_media: bool = False) -> list[str]:
    """The problems that prevent publishing `folder`, one sentence each."""
    problems = find_private_things(folder)
    for path in sorted(folder.rglob("*.parquet")):
        if VIDEO_COLUMN in pq.read_schema(path).names and not include_media:
            name = path.relative_to(folder).as_posix()
            problems.append(f"{name} contains the videos: add --include-media if you have the right to publish them")
    configs = MetadataConfigs.from_dataset_card_data(DatasetCard.load(folder / CARD_FILE).data)
    for config in configs.values():
        base = folder / config.get("data_dir", ".")
        if not (base.is_dir() and base.resolve().is_relative_to(folder.resolve())):
            problems.append(f"README.md lists the data_dir {config['data_dir']}: no such folder in the data set")
            continue
        for split, patterns in sanitize_patterns(config.get("data_files") or {}).items():
            missing = [pattern for pattern in patterns if Path(pattern).is_absolute() or not any(base.glob(pattern))]
            problems += [f"README.md lists the split {split} in {pattern}: no such file" for pattern in missing]
    return problems + find_miscounted_shards(folder)


def find_miscounted_shards(folder: Path) -> list[str]:
    """The splits whose Parquet files have another number of rows than the report."""
    problems = []
    report = read_json(folder / REPORT_FILE) if (folder / REPORT_FILE).is_file() else {}
    for split, expected in report.get("num_rows", {}).items():
        found = sum(pq.read_metadata(path).num_rows for path in (folder / "data").glob(f"{split}-*.parquet"))
        if found != expected:
            problems.append(f"the files of split {split} have {found} rows, but report.json counts {expected}")
    return problems


def verify_dataset(folder: Path) -> dict[str, str]:
    """The id of the first row of each split, read by `load_dataset` in a process without this project.

    Raises:
        RuntimeError: it cannot be read; includes the end of stderr.
    """
    output = run_in_fresh_process(FRESH_PROCESS, folder)
    return dict(line.split(" ", 1) for line in output.splitlines())
