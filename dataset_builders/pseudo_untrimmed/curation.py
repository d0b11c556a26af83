"""Prepare a PU-VALOR build: read captions, embed, cluster, plan and filter, once, before any shard is written.

The result is a folder named by the hash of the settings. It contains, per split, the list of clips and the plan of all
videos, and the report of every dropped clip and plan. `shards.build_shard` needs nothing else.
"""

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..atomic_files import write_json
from ..release.provenance import build_environment
from ..sources.captions import SOURCE
from ..sources.record_report import REPORT_FILE, RecordReport, read_dropped, write_report
from .clustering import DROPPED
from .embedding import embed_captions
from .settings import CurationSettings
from .shards import CLIPS_FILE, PLAN_FILE, name_row, split_seed, write_plan
from .split_planning import NO_EVENT, PlannedSplit, plan_split
from .usable_clips import BACKGROUNDS, DecodedClips, divide_clips, read_usable_clips, share_videos


REJECTED_FILE = "rejected-{split}.parquet"
SUMMARY_FILE = "prepared.json"
VIDEOS = "videos"
# Packages whose versions can change the output bytes.
PACKAGES = (
    "av",
    "datasets",
    "numpy",
    "pyarrow",
    "scikit-learn",
    "sentence-transformers",
    "torch",
    "transformers",
)


@dataclass(frozen=True)
class Prepared:
    """A prepared build: its folder, the number of rows of each split, and the content of report.json."""

    folder: Path
    num_rows: dict[str, int]
    report: dict


def prepare(settings: CurationSettings, folder: str | Path) -> Prepared:
    """Run all steps before the shards, or read the result of an earlier run with the same settings.

    Args:
        settings (`CurationSettings`):
            Checked settings.
        folder (`str` or `Path`):
            Parent folder of prepared builds; the folder of this build is named `settings.fingerprint()`.

    Raises:
        ValueError: no usable clip, too few clips for one video, or no plan that passes the filters. The
            message includes the counts.
    """
    target = Path(folder) / settings.fingerprint()
    if not (target / SUMMARY_FILE).exists():
        # a random name: tasks on several machines may have the same process number
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        temporary.mkdir(parents=True)
        curate(settings, temporary)
        try:
            os.replace(temporary, target)
        except OSError:
            if not (target / SUMMARY_FILE).exists():
                raise
            shutil.rmtree(temporary)  # another process finished first
    return read_prepared(target)


def read_prepared(folder: Path) -> Prepared:
    """Read a finished folder of `prepare`."""
    num_rows = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    return Prepared(folder, num_rows, json.loads((folder / REPORT_FILE).read_text(encoding="utf-8")))


def curate(settings: CurationSettings, folder: Path) -> None:
    """Run all steps and write their results into `folder`."""
    report = RecordReport()
    clips, backgrounds = read_usable_clips(settings, report)
    embeddings = None
    if settings.needs_embeddings:
        captions = [clip.caption for clip in clips]
        embeddings = embed_captions(captions, text_encoder=settings.text_encoder, cache_dir=settings.embeddings_dir)
    splits = divide_clips(clips, settings, report)
    wanted = share_videos(settings.num_videos, {split: len(members) for split, members in splits.items()})
    decoded = DecodedClips(settings.folder("clips_dir") or "") if settings.media == "rendered" else None
    num_rows, facts = {}, {}
    for split, members in splits.items():
        planned = plan_split(
            [clips[member] for member in members],
            None if embeddings is None else embeddings[members],
            backgrounds=backgrounds,
            num_videos=wanted[split],
            seed=split_seed(settings.seed, split),
            settings=settings,
            find_unreadable=decoded,
        )
        write_tables(planned, split, folder)
        count_drops(planned, split, report)
        num_rows[split], facts[split] = len(planned.plan), planned.facts
    clip_ids = {clip.clip_id for clip in clips}
    for clip_id, error in (decoded.errors if decoded is not None else {}).items():
        if error is not None:
            source = SOURCE if clip_id in clip_ids else BACKGROUNDS
            report.num_kept[source] -= 1
            report.drop(source, clip_id, "unreadable_media_file", detail=error)
    if not sum(num_rows.values()):
        raise ValueError(f"no planned video passes the filters: {facts}")
    encoder = Path(settings.text_encoder).name if Path(settings.text_encoder).is_dir() else settings.text_encoder
    report.settings |= {
        "splits": facts,
        "settings": settings.values(),
        "text_encoder": encoder if settings.needs_embeddings else None,
    }
    report.write(folder, environments=[build_environment(PACKAGES)])
    write_json(folder / SUMMARY_FILE, num_rows)


def write_tables(planned: PlannedSplit, split: str, folder: Path) -> None:
    """Write the inputs of the shards, and every rejected draw with its reason, so that the filters can be audited."""
    clips = {
        "clip_id": pa.array([clip.clip_id for clip in planned.clips]),
        "caption": pa.array([clip.caption for clip in planned.clips], mask=planned.events == NO_EVENT),
        "duration": pa.array([clip.duration for clip in planned.clips]),
        "event": pa.array(planned.events),
        "cluster": pa.array(planned.labels),
        "tracks": pa.array([clip.tracks for clip in planned.clips]),
        "other_captions": pa.array([clip.other_captions for clip in planned.clips], pa.list_(pa.string())),
    }
    pq.write_table(pa.table(clips), folder / CLIPS_FILE.format(split=split))
    write_plan(planned.plan, folder / PLAN_FILE.format(split=split))
    rejected = {name: pa.array(planned.rejected[name].tolist()) for name in planned.rejected.dtype.names or ()}
    pq.write_table(pa.table(rejected), folder / REJECTED_FILE.format(split=split))


def count_drops(planned: PlannedSplit, split: str, report: RecordReport) -> None:
    """Report the clips of dropped clusters, and the videos for which no plan was accepted."""
    for index in ((planned.labels == DROPPED) & (planned.events != NO_EVENT)).nonzero()[0]:
        report.num_kept[SOURCE] -= 1
        report.drop(SOURCE, planned.clips[index].clip_id, "cluster_too_small")
    report.read(VIDEOS, num=planned.num_wanted)
    report.keep(VIDEOS, num=len(planned.plan))
    missing = np.setdiff1d(np.arange(planned.num_wanted), planned.plan.rows)
    of_missing = planned.rejected[np.isin(planned.rejected["row"], missing)]
    last_reasons = dict(zip(of_missing["row"].tolist(), of_missing["reason"].tolist()))
    for row in missing.tolist():
        report.drop(VIDEOS, name_row(split, row), f"no_plan_passed_{last_reasons[row]}")


def write_account(output: str | Path, prepared: Prepared, drops: list[dict], **facts: Any) -> dict:
    """Write report.json and dropped.jsonl of a whole build into `output`, and return the report.

    Args:
        drops (`list[dict]`):
            Rows that were dropped after planning: `{"id", "reason", "detail"}`.
        facts:
            Further entries of the report.
    """
    report = {**prepared.report, **facts}
    videos = report["sources"][VIDEOS]
    for drop in drops:
        videos["kept"] -= 1
        videos["dropped"][drop["reason"]] = videos["dropped"].get(drop["reason"], 0) + 1
    rendered = ({"decision": "dropped", "source": VIDEOS, **drop} for drop in drops)
    write_report(output, report, chain(read_dropped(prepared.folder), rendered))
    return report
