"""Write PU-VALOR as a folder of plain Parquet shards (and mp4 files) that `load_dataset` reads without our code.

    <output>/data/<split>-00000-of-00023.parquet    README.md    LICENSE.md    report.json    dropped.jsonl
    <output>/figures/    <output>/videos/

A shard is a pure function of the settings and its number, is written under another name and renamed when complete, and
then marked as done with its hash. A build that was killed goes on with the shards that are not marked; the bytes are the
same as if it had never been interrupted, for any number of workers.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ..pseudo_untrimmed.curation import PACKAGES, Prepared, prepare, write_account
from ..pseudo_untrimmed.rendered_rows import render_rows
from ..pseudo_untrimmed.settings import CurationSettings
from ..pseudo_untrimmed.shards import build_shard, count_shards
from .card_facts import add_sizes, measure_parquet
from .curation_report import REPORT_FILE
from .provenance import build_environment


WORK_DIR = ".build"  # prepared plan and done-marks, removed when the folder is complete
ROW_GROUP_SIZE = 1000  # rows; what a streaming reader fetches at a time
EMBEDDINGS_DIR = "caption_embeddings"
Shard = tuple[str, int]


def build_folder(
    settings: CurationSettings, output: str | Path, *, num_workers: int = 1, shards: Iterable[Shard] | None = None
) -> Path:
    """Build the folder, or the part of it that is missing.

    Args:
        settings (`CurationSettings`):
            Checked settings.
        output (`str` or `Path`):
            The folder; one that holds another build is refused.
        num_workers (`int`, *optional*, defaults to 1):
            Processes that write shards.
        shards (iterable of `(split, number)`, *optional*):
            Write only these (one task of a cluster job) and leave the folder unfinished; by default all, and finish it.

    Returns:
        `Path`: `output`.

    Raises:
        ValueError: the folder holds a build with other settings, or a shard that does not exist is asked for.
    """
    output = Path(output)
    name = settings.fingerprint()
    known = read_report(output)
    if known is not None and known["fingerprint"] == name and not (output / WORK_DIR).exists():
        return output
    prepared = prepare_folder(settings, output)
    wanted = list_shards(prepared, settings)
    if shards is not None:
        unknown = [shard for shard in shards if shard not in wanted]
        if unknown:
            raise ValueError(f"no such shards: {unknown}; this build has {len(wanted)}: {wanted[0]} to {wanted[-1]}")
        wanted = [shard for shard in wanted if shard in set(shards)]
    missing = [shard for shard in wanted if not is_done(output, prepared, settings, shard)]
    write_shards(output, prepared, settings, missing, num_workers)
    if shards is None:
        finish_folder(output, prepared, settings)
    return output


def prepare_folder(settings: CurationSettings, output: str | Path) -> Prepared:
    """Plan the folder's rows, or read what an earlier call planned; refuses a folder of another build."""
    output = Path(output)
    check_folder(output, settings.fingerprint(), read_report(output))
    if settings.embeddings_dir is None:
        settings.embeddings_dir = str(Path(datasets.config.HF_DATASETS_CACHE) / EMBEDDINGS_DIR)
    return prepare(settings, output / WORK_DIR)


def write_shards(output: Path, prepared: Prepared, settings, shards: list[Shard], num_workers: int) -> None:
    """Write shards, in this process or in several."""
    environment = build_environment(PACKAGES)
    if num_workers <= 1 or len(shards) <= 1:
        for shard in tqdm(shards, desc="shards", unit="shard"):
            write_shard(output, prepared, settings, shard, environment)
        return
    # spawn: a forked child would inherit the threads of the sentence encoder in an unknown state
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(shards)), mp_context=context) as pool:
        tasks = [pool.submit(write_shard, output, prepared, settings, shard, environment) for shard in shards]
        for task in tqdm(as_completed(tasks), total=len(tasks), desc="shards", unit="shard"):
            task.result()


def write_shard(output: Path, prepared: Prepared, settings: CurationSettings, shard: Shard, environment: dict) -> None:
    """Build one shard, put it in place by a rename, then mark it as done, with its size and what it was built on."""
    split, index = shard
    table, drops = build_shard(prepared.folder, split, index, settings=settings), []
    if settings.media == "rendered":
        table, drops = render_rows(table, output / "videos" / split, settings=settings, relative_to=output)
        table = embed_videos(table, output)
    path = shard_path(output, prepared, settings, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP_SIZE)
    mark = {
        "num_rows": len(table),
        "sha256": hash_file(temporary),
        "size": measure_parquet(temporary),
        "drops": drops,
        "environment": environment,
    }
    os.replace(temporary, path)
    mark_path = done_path(prepared, shard)
    mark_path.parent.mkdir(parents=True, exist_ok=True)
    temporary = mark_path.with_name(f".{mark_path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(mark) + "\n", encoding="utf-8")
    os.replace(temporary, mark_path)


def embed_videos(table: pa.Table, output: Path) -> pa.Table:
    """Add the column `video`, the mp4 itself, which `datasets` plays as `Video` wherever the Parquet file lies."""
    features = datasets.Features.from_arrow_schema(table.schema)
    paths = [media["video"] for media in table["media"].to_pylist()]
    videos = [{"bytes": (output / path).read_bytes(), "path": Path(path).name} for path in paths]
    features["video"] = datasets.Video()
    column = pa.array(videos, features["video"].pa_type)
    return table.append_column("video", column).replace_schema_metadata(features.arrow_schema.metadata)


def finish_folder(output: Path, prepared: Prepared, settings: CurationSettings) -> None:
    """Write the account, the figures and the card of a folder whose shards are all there, then drop the work folder."""
    from .dataset_card import write_card
    from .report_figures import draw_report

    marks = {shard: read_mark(prepared, shard) for shard in list_shards(prepared, settings)}
    num_rows, sizes = Counter(), {}
    for (split, _), mark in marks.items():
        num_rows[split] += mark["num_rows"]
        sizes[split] = add_sizes([*([sizes[split]] if split in sizes else []), mark["size"]])
    # a build that was stopped may go on at another commit, or on another machine
    environments = [*prepared.report.get("environments", [None]), *(mark["environment"] for mark in marks.values())]
    for path in sorted(prepared.folder.glob("rejected-*.parquet")):
        shutil.copyfile(path, output / path.name)
    draw_report(output, prepared.folder, prepared.report)
    write_account(
        output,
        prepared,
        [drop for mark in marks.values() for drop in mark["drops"]],
        fingerprint=settings.fingerprint(),
        num_rows=dict(num_rows),
        sizes=sizes,
        environments=[json.loads(text) for text in sorted({json.dumps(one, sort_keys=True) for one in environments})],
        sha256={shard_path(output, prepared, settings, shard).name: mark["sha256"] for shard, mark in marks.items()},
    )
    write_card(output, read_report(output))
    for pattern in (".*.partial", ".*.part"):  # what killed processes left behind
        for path in [path for folder in ("data", "videos") for path in (output / folder).rglob(pattern)]:
            path.unlink()
    shutil.rmtree(output / WORK_DIR)


def list_shards(prepared: Prepared, settings: CurationSettings) -> list[Shard]:
    """All shards of a build, in order."""
    return [
        (split, index)
        for split, num_rows in prepared.num_rows.items()
        for index in range(count_shards(num_rows, settings.videos_per_shard))
    ]


def shard_path(output: Path, prepared: Prepared, settings: CurationSettings, shard: Shard) -> Path:
    """Where a shard lies."""
    split, index = shard
    total = count_shards(prepared.num_rows[split], settings.videos_per_shard)
    return output / "data" / f"{split}-{index:05d}-of-{total:05d}.parquet"


def done_path(prepared: Prepared, shard: Shard) -> Path:
    """Where a shard's done-mark lies."""
    return prepared.folder / "done" / f"{shard[0]}-{shard[1]:05d}.json"


def read_mark(prepared: Prepared, shard: Shard) -> dict:
    """The done-mark of a shard; ValueError where it is not done."""
    path = done_path(prepared, shard)
    if not path.exists():
        raise ValueError(f"shard {shard} of {prepared.folder} is not done")
    return json.loads(path.read_text(encoding="utf-8"))


def is_done(output: Path, prepared: Prepared, settings: CurationSettings, shard: Shard) -> bool:
    """Whether a shard is marked and its file is the one that was marked."""
    path = shard_path(output, prepared, settings, shard)
    if not done_path(prepared, shard).exists() or not path.exists():
        return False
    mark = read_mark(prepared, shard)
    return "size" in mark and hash_file(path) == mark["sha256"]  # marks of older versions tell no size


def read_report(output: str | Path) -> dict | None:
    """The report of a finished folder, or None."""
    path = Path(output) / REPORT_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def check_folder(output: Path, fingerprint: str, known: dict | None) -> None:
    """Raise where the folder holds, finished or begun, a build with other settings."""
    if known is not None and known["fingerprint"] != fingerprint:
        raise ValueError(
            f"{output} holds the finished build {known['fingerprint']}, not {fingerprint}: choose another folder"
        )
    work = output / WORK_DIR
    begun = [path.name for path in work.iterdir() if not path.name.startswith(".")] if work.is_dir() else []
    if begun not in ([], [fingerprint]):
        raise ValueError(f"{output} holds the unfinished build {begun}, not {fingerprint}: choose another folder")


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
