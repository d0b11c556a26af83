"""Plan one split of a PU-VALOR build: cluster its clips, draw its videos, and describe the result.

The input is clips and embeddings, the output a `PlannedSplit`, which `curation.py` writes to disk.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..sources.captions import Clip
from .absent_events import draw_absent
from .clustering import DROPPED, cluster_clips, mean_pair_cosine, measure_clusters
from .counterfactual_sound import MUTED, draw_sound_changes
from .filtering import PlanFilter, number_events
from .planning import Plan, plan_pseudo_untrimmed
from .settings import CurationSettings


NO_EVENT = -1


@dataclass(frozen=True)
class PlannedSplit:
    """The clips of a split (backgrounds last), the event and cluster of each, and the planned and rejected videos."""

    clips: list[Clip]
    events: np.ndarray  # equal numbers for equal captions, NO_EVENT for a background
    labels: np.ndarray  # cluster, DROPPED if the clip's cluster is too small, and for a background
    plan: Plan
    rejected: np.ndarray  # `planning.REJECTION`
    num_wanted: int
    facts: dict  # for the report


def plan_split(
    clips: list[Clip],
    embeddings: np.ndarray | None,
    *,
    backgrounds: list[Clip],
    num_videos: int,
    seed: int,
    settings: CurationSettings,
    find_unreadable: Callable[[Sequence[str]], Sequence[bool]] | None = None,
) -> PlannedSplit:
    """Cluster the clips of one split and plan `num_videos` videos from them.

    Args:
        seed (`int`):
            Seed of the split.
        find_unreadable (callable, *optional*):
            Clip ids -> whether each cannot be decoded.
    """
    fewest = max(settings.clips_per_video[0], min(settings.least_cluster_size, len(clips)))
    labels, num_small = cluster_clips(
        np.zeros((len(clips), 1)) if embeddings is None else embeddings,
        method=settings.clustering,
        cluster_size=settings.cluster_size,
        min_cluster_size=fewest,
        small_clusters=settings.small_clusters,
        seed=settings.seed,
    )
    clusters = list_clusters(labels)
    events = number_events([clip.caption for clip in clips])
    threshold = coherence_threshold(settings, embeddings)
    everything = [*clips, *backgrounds]
    durations = np.array([clip.duration for clip in everything])
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
            find_unreadable=find_unreadable
            and (lambda indices: find_unreadable([everything[i].clip_id for i in indices])),
        ),
        clips_per_video=settings.clips_per_video,
        scale_range=settings.scale_range,
        max_repeats=settings.max_repeats,
        repeat_probability=settings.repeat_probability,
        events=events,
        recurrence=settings.recurrence,
        gap_share=settings.gap_share,
        gap_seconds=settings.gap_seconds,
        backgrounds=np.arange(len(clips), len(durations)) if backgrounds else None,
        silent_share=settings.silent_share,
        dark_share=settings.dark_share,
        overlap_share=settings.overlap_share,
        overlay=settings.overlay,
        seed=seed,
    )
    if settings.changed_sound_share:
        plan = draw_sound_changes(
            plan,
            durations,
            np.array([clip.tracks for clip in everything], object),
            shifted_sound_share=settings.shifted_sound_share,
            muted_sound_share=settings.muted_sound_share,
            swapped_sound_share=settings.swapped_sound_share,
            members=np.concatenate(clusters),
            events=events,
            embeddings=embeddings,
            ambiguity_threshold=settings.ambiguity_threshold,
            scale_range=settings.scale_range,
            seed=seed,
        )
    plan = draw_absent(
        plan,
        clusters,
        events=events,
        embeddings=embeddings,
        ambiguity_threshold=settings.ambiguity_threshold,
        absent_share=settings.absent_share,
        hard_absent=settings.hard_absent,
        max_turns=settings.max_turns,
        seed=seed,
    )
    facts = {
        "num_clips": int((labels != DROPPED).sum()),
        "num_videos": len(plan),
        "clusters": {**measure_groups(embeddings, labels, settings.seed), "num_too_small": num_small},
        "coherence_threshold": threshold,
        "rejected_plans": dict(sorted(Counter(rejected["reason"].tolist()).items())),
        **describe_plan(plan, durations, num_clips=len(clips)),
    }
    return PlannedSplit(
        everything,
        np.concatenate([events, np.full(len(backgrounds), NO_EVENT)]),
        np.concatenate([labels, np.full(len(backgrounds), DROPPED)]),
        plan,
        rejected,
        num_videos,
        facts,
    )


def list_clusters(labels: np.ndarray) -> list[np.ndarray]:
    """Positions of the clips of each cluster, in order; clips labelled -1 are in none.

    ```python
    >>> [members.tolist() for members in list_clusters(np.array([1, 0, -1, 1]))]
    [[1], [0, 3]]

    ```
    """
    order = np.argsort(labels, kind="stable")  # one comparison of all labels per cluster would be quadratic
    return np.split(order, np.searchsorted(labels[order], np.arange(labels.max() + 1)))[1:]


def coherence_threshold(settings: CurationSettings, embeddings: np.ndarray | None) -> float | None:
    """The minimum mean cosine of a video's events as a number."""
    threshold = settings.coherence_threshold
    if not isinstance(threshold, str):
        return threshold
    assert embeddings is not None  # see `CurationSettings.needs_embeddings`
    # slightly below, so that the only group of a tiny set of captions does not fail its own threshold; rounded, since
    # the last bits of embeddings depend on the batches of the encoder
    return round(mean_pair_cosine(embeddings, np.zeros(len(embeddings), np.int64)) - 1e-6, 6)


def measure_groups(embeddings: np.ndarray | None, labels: np.ndarray, seed: int) -> dict:
    """`clustering.measure_clusters`, or only the sizes if captions were not embedded."""
    if embeddings is None:
        sizes = np.bincount(labels).tolist()
        return {"num_clusters": len(sizes), "sizes": sizes, "mean_cosine": None, "random_mean_cosine": None}
    return measure_clusters(embeddings, labels, seed=seed)


def describe_plan(plan: Plan, durations: np.ndarray, *, num_clips: int) -> dict:
    """Statistics of the planned videos for the report."""
    present = plan.clips >= 0
    totals = plan.place(durations)[2]
    uses = np.bincount(plan.clips[present], minlength=num_clips)
    facts = {
        "hours": round(float(totals.sum()) / 3600, 2),
        "duration_seconds": describe(totals),
        "scale": describe(plan.scales[present] / 100),
        "clips_per_video": {str(k): int(v) for k, v in sorted(Counter(present.sum(axis=1).tolist()).items())},
        "uses_of_a_clip": describe(uses),
    }
    if plan.gaps.any():
        facts["gap_seconds"] = describe(plan.gaps[plan.gaps > 0] / 100)
    if plan.overlaps.any():
        facts["num_overlaps"] = int((plan.overlaps > 0).sum())
    if plan.shifts.any():
        facts["num_muted"] = int((plan.shifts == MUTED).sum())
        facts["num_shifted"] = int(((plan.shifts != 0) & (plan.shifts != MUTED)).sum())
    for name, changed in (
        ("num_swapped", plan.swaps[:, 1] >= 0),
        ("num_silent_gaps", plan.silences),
        ("num_dark_gaps", plan.darknesses),
    ):
        if changed.any():
            facts[name] = int(changed.sum())
    return facts


def describe(values: np.ndarray) -> dict:
    """Smallest, mean, median and largest value."""
    if not len(values):
        return {}
    summary = {"min": values.min(), "mean": values.mean(), "median": np.median(values), "max": values.max()}
    return {name: round(float(value), 3) for name, value in summary.items()}
