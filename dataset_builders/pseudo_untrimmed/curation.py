"""Prepare a PU-VALOR build: read captions, embed, cluster, plan and filter, once, before any shard is written.

The result is a folder named by the settings' hash: per split the list of clips and the plan of all videos, and the
account of every clip and plan left out. From there on `shards.build_shard` needs nothing else.
"""

import json
import os
import shutil
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..release.curation_report import CurationReport
from ..release.provenance import build_environment
from ..sources.captions import SOURCE, Clip, read_clips
from .clustering import DROPPED, cluster_clips, mean_pair_cosine, measure_clusters
from .embedding import embed_captions
from .filtering import PlanFilter, number_events
from .planning import Plan, place_segments, plan_pseudo_untrimmed
from .settings import RANDOM_GROUPS, CurationSettings
from .shards import CLIPS_FILE, PLAN_FILE, name_row, split_seed, write_plan


REJECTED_FILE = "rejected-{split}.parquet"
SUMMARY_FILE = "prepared.json"
REPORT_FILE = "report.json"
DROPPED_FILE = "dropped.jsonl"
VIDEOS = "videos"
# Whose versions may change a byte of the build.
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
    """A prepared build: its folder, the rows of each split, and the report as read back from report.json."""

    folder: Path
    num_rows: dict[str, int]
    report: dict


def prepare(settings: CurationSettings, folder: str | Path) -> Prepared:
    """Do what precedes the shards, or read what an earlier run with the same settings left.

    Args:
        settings (`CurationSettings`):
            Checked settings.
        folder (`str` or `Path`):
            Where prepared builds lie; the folder of this one is named by `settings.fingerprint()`.

    Raises:
        ValueError: no usable clip, too few clips for one video, or no plan that passes the filters; each with the counts.
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
            shutil.rmtree(temporary)  # another process was faster
    return read_prepared(target)


def read_prepared(folder: Path) -> Prepared:
    """A finished `prepare` folder."""
    num_rows = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    return Prepared(folder, num_rows, json.loads((folder / REPORT_FILE).read_text(encoding="utf-8")))


def curate(settings: CurationSettings, folder: Path) -> None:
    """Run all steps and write their results into `folder`."""
    report = CurationReport()
    clips = read_clips(
        settings.captions_file,
        report=report,
        exclude_ids_file=settings.exclude_ids_file,
        clip_duration=settings.clip_duration,
        min_clip_duration=settings.min_clip_duration,
        min_caption_words=settings.min_caption_words,
    )
    if settings.clips_dir is not None:
        clips = measure_clips(clips, settings.clips_dir, report=report)
    embeddings = None
    if settings.needs_embeddings:
        captions = [clip.caption for clip in clips]
        embeddings = embed_captions(captions, text_encoder=settings.text_encoder, cache_dir=settings.embeddings_dir)
    splits = divide_clips(clips, settings, report)
    wanted = share_videos(settings.num_videos, {split: len(members) for split, members in splits.items()})
    num_rows = {}
    for split, members in splits.items():
        chosen = [clips[member] for member in members]
        vectors = None if embeddings is None else embeddings[members]
        num_rows[split] = plan_split(settings, split, chosen, vectors, wanted[split], folder, report)
    if not sum(num_rows.values()):
        raise ValueError(f"no planned video passes the filters: {report.settings['splits']}")
    report.settings["settings"] = settings.values()
    encoder = Path(settings.text_encoder).name if Path(settings.text_encoder).is_dir() else settings.text_encoder
    report.settings["text_encoder"] = encoder if settings.needs_embeddings else None
    report.write(folder, environments=[build_environment(PACKAGES)])
    (folder / SUMMARY_FILE).write_text(json.dumps(num_rows) + "\n", encoding="utf-8")


def measure_clips(clips: list[Clip], clips_dir: str, *, report: CurationReport) -> list[Clip]:
    """Clips whose file is there and readable, with the file's own length; the others are dropped by reason."""
    from modeling_avicuna.media_avicuna import MediaError, probe

    files = find_files(clips_dir)
    kept = []
    for clip in clips:
        path = files.get(clip.clip_id)
        if path is None:
            report.drop(SOURCE, clip.clip_id, "no_media_file")
        else:
            try:
                info = probe(path)
            except MediaError as error:
                report.drop(SOURCE, clip.clip_id, "unreadable_media_file", detail=str(error))
                continue
            if not info.has_video:
                report.drop(SOURCE, clip.clip_id, "no_video_stream")
                continue
            duration = round(info.duration, 3)
            kept.append(Clip(clip.clip_id, clip.caption, duration, clip.start, clip.youtube_id, clip.split))
    report.num_kept[SOURCE] = len(kept)
    if not kept:
        raise ValueError(f"{clips_dir} has no usable media file for any of {len(clips)} clips: {report.counts()}")
    return kept


def find_files(clips_dir: str | Path) -> dict[str, Path]:
    """Media files of a folder by clip id, which is the name without its extension."""
    return {path.stem: path for path in sorted(Path(clips_dir).iterdir()) if path.is_file()}


def divide_clips(clips: list[Clip], settings: CurationSettings, report: CurationReport) -> dict[str, np.ndarray]:
    """Positions of each split's clips; splits with too few clips for one video are dropped, counted."""
    names = np.array([clip.split for clip in clips])
    fewest = settings.clips_per_video[0]
    splits = {}
    for split in dict.fromkeys(names.tolist()):
        members = np.flatnonzero(names == split)
        if len(members) >= fewest:
            splits[split] = members
            continue
        report.num_kept[SOURCE] -= len(members)
        for member in members:
            report.drop(SOURCE, clips[member].clip_id, "too_few_clips_in_split")
    if not splits:
        raise ValueError(f"{len(clips)} usable clips do not make one video of {fewest} clips: {report.counts()}")
    return splits


def share_videos(num_videos: int, num_clips: dict[str, int]) -> dict[str, int]:
    """Videos of each split in proportion to its clips; the largest remainders get what is left over.

    ```python
    >>> share_videos(10, {"train": 2, "test": 1})
    {'train': 7, 'test': 3}

    ```
    """
    total = sum(num_clips.values())
    shares = {split: num_videos * count // total for split, count in num_clips.items()}
    by_remainder = sorted(num_clips, key=lambda split: -(num_videos * num_clips[split] % total))
    for split in by_remainder[: num_videos - sum(shares.values())]:
        shares[split] += 1
    return shares


def plan_split(settings, split: str, clips: list[Clip], embeddings, num_videos: int, folder: Path, report) -> int:
    """Cluster and plan one split, write its tables, tell the report; returns the number of rows."""
    labels, num_small = label_clips(settings, clips, embeddings, report)
    clusters = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    events = number_events([clip.caption for clip in clips])
    durations = np.array([clip.duration for clip in clips])
    threshold = settings.coherence_threshold
    if threshold == RANDOM_GROUPS:
        # a hair below, so that the only group of a tiny set of captions does not fail against itself
        threshold = mean_pair_cosine(embeddings, np.zeros(len(clips), np.int64)) - 1e-6
    plan, rejected = plan_pseudo_untrimmed(
        num_videos,
        clusters,
        find_rejected=PlanFilter(
            durations,
            events,
            embeddings,
            coherence_threshold=threshold,
            ambiguity_threshold=settings.ambiguity_threshold,
            duration_range=settings.duration_range,
        ),
        clips_per_video=settings.clips_per_video,
        scale_range=settings.scale_range,
        max_repeats=settings.max_repeats,
        repeat_probability=settings.repeat_probability,
        seed=split_seed(settings.seed, split),
    )
    table = {
        "clip_id": pa.array([clip.clip_id for clip in clips]),
        "caption": pa.array([clip.caption for clip in clips]),
        "duration": pa.array(durations),
        "event": pa.array(events),
        "cluster": pa.array(labels),
    }
    pq.write_table(pa.table(table), folder / CLIPS_FILE.format(split=split))
    write_plan(plan, folder / PLAN_FILE.format(split=split))
    write_rejected(rejected, folder / REJECTED_FILE.format(split=split))
    report.read(VIDEOS, num=num_videos)
    report.keep(VIDEOS, num=len(plan))
    last_reasons = dict(zip(rejected["row"].tolist(), rejected["reason"].tolist()))
    for row in sorted(set(range(num_videos)) - set(plan.rows.tolist())):
        report.drop(VIDEOS, name_row(split, row), f"no_plan_passed_{last_reasons[row]}")
    groups = measure_groups(embeddings, labels, settings.seed)
    report.settings.setdefault("splits", {})[split] = {
        "num_clips": int((labels != DROPPED).sum()),
        "num_videos": len(plan),
        "clusters": {**groups, "num_too_small": num_small},
        "coherence_threshold": threshold,
        "rejected_plans": dict(sorted(Counter(rejected["reason"].tolist()).items())),
        **describe_plan(plan, durations),
    }
    return len(plan)


def label_clips(settings, clips: list[Clip], embeddings, report: CurationReport) -> tuple[np.ndarray, int]:
    """Cluster labels of a split, telling the report of clips in dropped clusters."""
    fewest = max(settings.clips_per_video[0], min(settings.least_cluster_size, len(clips)))
    labels, num_small = cluster_clips(
        np.zeros((len(clips), 1)) if embeddings is None else embeddings,
        method=settings.clustering,
        cluster_size=settings.cluster_size,
        min_cluster_size=fewest,
        small_clusters=settings.small_clusters,
        seed=settings.seed,
    )
    dropped = np.flatnonzero(labels == DROPPED)
    report.num_kept[SOURCE] -= len(dropped)
    for member in dropped:
        report.drop(SOURCE, clips[member].clip_id, "cluster_too_small")
    return labels, num_small


def measure_groups(embeddings, labels: np.ndarray, seed: int) -> dict:
    """`clustering.measure_clusters`, or the sizes alone where nothing was embedded."""
    if embeddings is None:
        sizes = np.bincount(labels).tolist()
        return {"num_clusters": len(sizes), "sizes": sizes, "mean_cosine": None, "random_mean_cosine": None}
    return measure_clusters(embeddings, labels, seed=seed)


def describe_plan(plan: Plan, durations: np.ndarray) -> dict:
    """Numbers about the planned videos for the report."""
    present = plan.clips >= 0
    totals = place_segments(np.where(present, durations[plan.clips], 0.0), plan.scales)[1][:, -1]
    uses = np.bincount(plan.clips[present], minlength=len(durations))
    return {
        "hours": round(float(totals.sum()) / 3600, 2),
        "duration_seconds": describe(totals),
        "scale": describe(plan.scales[present] / 100),
        "clips_per_video": {str(k): int(v) for k, v in sorted(Counter(present.sum(axis=1).tolist()).items())},
        "uses_of_a_clip": describe(uses),
    }


def describe(values: np.ndarray) -> dict:
    """Smallest, mean, median and largest value."""
    if not len(values):
        return {}
    summary = {"min": values.min(), "mean": values.mean(), "median": np.median(values), "max": values.max()}
    return {name: round(float(value), 3) for name, value in summary.items()}


def write_rejected(rejected: np.ndarray, path: Path) -> None:
    """Every rejected draw with its reason, so that the filters can be audited."""
    pq.write_table(pa.table({name: pa.array(rejected[name].tolist()) for name in rejected.dtype.names}), path)


def write_account(output: str | Path, prepared: Prepared, drops: list[dict], **facts) -> dict:
    """Write report.json and dropped.jsonl of a whole build into `output`, and return the report.

    Args:
        drops (`list[dict]`):
            Rows that were lost after planning: `{"id", "reason", "detail"}`.
        facts:
            Further entries of the report.
    """
    report = {**prepared.report, **facts}
    videos = report["sources"][VIDEOS]
    videos["kept"] -= len(drops)
    for reason, count in Counter(drop["reason"] for drop in drops).items():
        videos["dropped"][reason] = videos["dropped"].get(reason, 0) + count
    lines = [json.dumps({"decision": "dropped", "source": VIDEOS, **drop}, sort_keys=True) + "\n" for drop in drops]
    text = (prepared.folder / DROPPED_FILE).read_text(encoding="utf-8") + "".join(lines)
    (Path(output) / DROPPED_FILE).write_text(text, encoding="utf-8")
    # last, by a rename: a folder with a report is a finished one
    temporary = Path(output) / f".{REPORT_FILE}.partial"
    temporary.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, Path(output) / REPORT_FILE)
    return report
