"""Write PU-VALOR as a folder of Parquet shards (and mp4 files) that `load_dataset` reads without this project.

    <output>/data/<split>-00000-of-00023.parquet    README.md    LICENSE.md    report.json    dropped.jsonl
    <output>/figures/    <output>/videos/

A shard is a pure function of the settings and its number. It is written under a temporary name, renamed when complete,
and then recorded as done with its hash. A killed build resumes with the shards that are not done; the bytes do not
depend on interruptions or on the number of workers.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from ..atomic_files import atomic_path, check_output_folder, remove_partial_files, write_json
from ..pseudo_untrimmed.curation import PACKAGES, Prepared, prepare, write_account
from ..pseudo_untrimmed.rendered_rows import list_clips, render_rows
from ..pseudo_untrimmed.settings import CurationSettings
from ..pseudo_untrimmed.shards import build_shard, count_shards
from ..sources.annotation_files import add_file, read_json, read_object
from ..sources.record_report import REPORT_FILE
from ..workers import run_jobs
from .card_facts import CARD_FILE, LICENCE_FILE, add_sizes, measure_parquet
from .provenance import build_environment


# what a build writes beside its work folder
OUTPUTS = ("data", "videos", "figures", CARD_FILE, LICENCE_FILE, REPORT_FILE, "dropped.jsonl", "rejected-*.parquet")
WORK_DIR = ".build"  # the prepared plan and the records of finished shards; removed when the folder is complete
ROW_GROUP_SIZE = 1000  # rows that a streaming reader fetches at a time
EMBEDDINGS_DIR = "caption_embeddings"
Shard = tuple[str, int]


def build_folder(
    settings: CurationSettings, output: str | Path, *, num_workers: int = 1, shards: Iterable[Shard] | None = None
) -> Path:
    """Build the folder, or the part of it that is missing; returns `output`.

    Args:
        settings: checked settings.
        num_workers: processes that write shards.
        shards: write only these (one task of a cluster job) and leave the folder unfinished. By default all shards are
            written and the folder is finished.

    Raises:
        ValueError: the folder holds another build or unknown files, is being built by another process, or a shard does
            not exist.
    """
    output = Path(output)
    known = read_report(output)
    work = output / WORK_DIR
    if (
        known is not None
        and known["fingerprint"] == settings.fingerprint()
        and not (work / known["fingerprint"]).exists()
    ):
        check_finished(output, known)
        shutil.rmtree(work, ignore_errors=True)  # a process was killed while it removed the folder
        return output
    prepared = prepare_folder(settings, output)
    wanted = list_shards(prepared, settings)
    if shards is not None:
        shards = list(shards)
        known_shards = set(wanted)
        unknown = [shard for shard in shards if shard not in known_shards]
        if unknown:
            raise ValueError(f"no such shards: {unknown}; this build has {len(wanted)}: {wanted[0]} to {wanted[-1]}")
        write_shards(output, prepared, settings, shards, num_workers)
        return output
    with alone(output):
        write_shards(output, prepared, settings, wanted, num_workers)
        finish_folder(output, prepared, settings)
    return output


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Hold the folder's lock. The operating system releases it when the process exits for any reason.

    Raises:
        ValueError: another process holds it.
    """
    lock = FileLock(output / WORK_DIR / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{output} is being built by another process") from error
    try:
        yield
    finally:
        lock.release()


def prepare_folder(settings: CurationSettings, output: str | Path) -> Prepared:
    """Plan the rows of the folder, or read the plan of an earlier call.

    Raises:
        ValueError: the folder holds another build, or files not written by a build with these settings.
    """
    output = Path(output)
    check_folder(output, settings.fingerprint(), read_report(output))
    if settings.embeddings_dir is None:
        settings.embeddings_dir = str(Path(datasets.config.HF_DATASETS_CACHE) / EMBEDDINGS_DIR)
    return prepare(settings, output / WORK_DIR)


def write_shards(
    output: Path, prepared: Prepared, settings: CurationSettings, shards: list[Shard], num_workers: int
) -> None:
    """Write the shards that are not done, in this process or in several worker processes."""
    environment = build_environment(PACKAGES)
    missing = [shard for shard in shards if not is_done(output, prepared, settings, shard)]
    sent = dataclasses.replace(prepared, report={})  # the report lists every cluster, and no shard needs it
    jobs = [(output, sent, settings, shard, environment) for shard in missing]
    for _ in run_jobs(write_shard, jobs, num_workers=num_workers, name="shards", unit="shard"):
        pass


def write_shard(output: Path, prepared: Prepared, settings: CurationSettings, shard: Shard, environment: dict) -> None:
    """Build one shard, then record it as done with its hash, size and build environment."""
    split, index = shard
    table, drops = build_shard(prepared.folder, split, index, settings=settings), list[dict]()
    if settings.media == "rendered":
        clips = list_clips(settings.folder("clips_dir"), prepared.folder)
        videos = output / "videos" / split
        table, drops = render_rows(table, videos, clips=clips, settings=settings, relative_to=output)
        table = embed_videos(table, output)
    path = shard_path(output, prepared, settings, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(table, path)
    done_path(prepared, shard).parent.mkdir(parents=True, exist_ok=True)
    record = {
        "num_rows": len(table),
        "sha256": hash_file(path),
        "size": measure_parquet(path),
        "drops": drops,
        "environment": environment,
    }
    write_json(done_path(prepared, shard), record)


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a Parquet file without the metadata of `datasets`: older versions cannot read the newer formats.

    The column types are in the card, where all versions look for them.
    """
    with atomic_path(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata(None), temporary, compression="zstd", row_group_size=ROW_GROUP_SIZE
        )


def embed_videos(table: pa.Table, output: Path) -> pa.Table:
    """Add the column `video`: the mp4 file itself, a `datasets.Video`."""
    paths = [media["video"] for media in table["media"].to_pylist()]
    videos = [{"bytes": (output / path).read_bytes(), "path": Path(path).name} for path in paths]
    return table.append_column("video", pa.array(videos, datasets.Video().pa_type))


def finish_folder(output: Path, prepared: Prepared, settings: CurationSettings) -> None:
    """Write the report, figures and card of a folder whose shards are all done, then remove the work folder."""
    from .pu_valor_card import write_card
    from .report_figures import draw_report

    remove_partial_files(output)
    done = {shard: read_done(prepared, shard) for shard in list_shards(prepared, settings)}
    num_rows: Counter[str] = Counter()
    sizes: dict[str, dict[str, int]] = {}
    for (split, _), record in done.items():
        num_rows[split] += record["num_rows"]
        sizes[split] = add_sizes([*([sizes[split]] if split in sizes else []), record["size"]])
    # an interrupted build may be resumed at another commit or on another machine
    environments = [*prepared.report["environments"], *(record["environment"] for record in done.values())]
    for path in sorted(prepared.folder.glob("rejected-*.parquet")):
        shutil.copyfile(path, output / path.name)
    draw_report(output, prepared.folder, prepared.report)
    report = write_account(
        output,
        prepared,
        [drop for record in done.values() for drop in record["drops"]],
        fingerprint=settings.fingerprint(),
        num_rows=dict(num_rows),
        sizes=sizes,
        environments=[json.loads(text) for text in sorted({json.dumps(one, sort_keys=True) for one in environments})],
        sha256={shard_path(output, prepared, settings, shard).name: one["sha256"] for shard, one in done.items()},
    )
    write_card(output, report)
    # renamed first: a build that is killed during the removal is finished
    os.replace(prepared.folder, output / WORK_DIR / ".finished")
    shutil.rmtree(output / WORK_DIR)


def list_shards(prepared: Prepared, settings: CurationSettings) -> list[Shard]:
    """All shards of a build, in order."""
    return [
        (split, index)
        for split, num_rows in prepared.num_rows.items()
        for index in range(count_shards(num_rows, settings.shard_rows))
    ]


def shard_path(output: Path, prepared: Prepared, settings: CurationSettings, shard: Shard) -> Path:
    """The Parquet file of a shard."""
    split, index = shard
    total = count_shards(prepared.num_rows[split], settings.shard_rows)
    return output / "data" / f"{split}-{index:05d}-of-{total:05d}.parquet"


def done_path(prepared: Prepared, shard: Shard) -> Path:
    """The record of a finished shard."""
    return prepared.folder / "done" / f"{shard[0]}-{shard[1]:05d}.json"


def read_done(prepared: Prepared, shard: Shard) -> dict:
    """The record of a finished shard."""
    return read_json(done_path(prepared, shard))


def is_done(output: Path, prepared: Prepared, settings: CurationSettings, shard: Shard) -> bool:
    """Whether a shard is recorded as done and its file still has the recorded hash."""
    path = shard_path(output, prepared, settings, shard)
    if not done_path(prepared, shard).exists() or not path.exists():
        return False
    return hash_file(path) == read_done(prepared, shard)["sha256"]


def read_report(output: str | Path) -> dict | None:
    """The report of a finished folder, or None. ValueError for another file of that name."""
    path = Path(output) / REPORT_FILE
    report = read_object(path) if path.exists() else None
    if report is not None and "fingerprint" not in report:
        raise ValueError(f"{path} is not the report of a build of PU-VALOR: choose another folder")
    return report


def check_folder(output: Path, fingerprint: str, known: dict | None) -> None:
    """Raises ValueError if the folder holds another build, or files not written by a build with these settings."""
    if known is not None and known["fingerprint"] != fingerprint:
        raise ValueError(
            f"{output} holds the finished build {known['fingerprint']}, not {fingerprint}: choose another folder"
        )
    work = output / WORK_DIR
    begun = [path.name for path in work.iterdir() if not path.name.startswith(".")] if work.is_dir() else []
    if begun not in ([], [fingerprint]):
        raise ValueError(f"{output} holds the unfinished build {begun}, not {fingerprint}: choose another folder")
    if known is not None and not begun:
        raise ValueError(f"{output} is finished: nothing is left to build")
    check_output_folder(output, marks=[f"{WORK_DIR}/{fingerprint}"], writes=OUTPUTS)


def check_finished(output: Path, report: dict) -> None:
    """Raises ValueError if the data files of a finished folder do not match its report."""
    found = {path.name for path in (output / "data").glob("*.parquet")}
    wrong = sorted(found ^ set(report["sha256"]))
    if wrong:
        raise ValueError(f"{output} is finished, but these data files are missing or foreign: {wrong[:5]}")


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    add_file(digest, path)
    return digest.hexdigest()
