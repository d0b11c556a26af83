"""Average precision of timed, labelled, scored events: the arithmetic of the ActivityNet / UnAV-100 evaluator.

Pure functions over plain lists and numpy arrays; the `evaluate` module beside this file is a thin shell over them.
They do not parse text, map text to classes or invent scores: these are protocols that the caller chooses and names.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .temporal_iou import pairwise_iou


# UnAV-100 reports tIoU 0.1, 0.2, ... 0.9. linspace, not arange: IoUs exactly on a threshold depend on these floats.
THRESHOLDS = tuple(np.linspace(0.1, 0.9, 9).tolist())
# Two references of one video and class that are closer than this at both ends are duplicates.
DUPLICATE_TOLERANCE = 1e-3  # s, official evaluator


def drop_duplicate_references(events: Sequence[Mapping]) -> list[Mapping]:
    """Keeps the first of every group of references with the same label and (within 1e-3 s) the same span."""
    kept: list[Mapping] = []
    for event in events:
        if not any(
            event["label"] == other["label"]
            and abs(event["start"] - other["start"]) <= DUPLICATE_TOLERANCE
            and abs(event["end"] - other["end"]) <= DUPLICATE_TOLERANCE
            for other in kept
        ):
            kept.append(event)
    return kept


def match_predictions(
    ious: np.ndarray, thresholds: Sequence[float], *, groups: np.ndarray | None = None
) -> np.ndarray:
    """Greedy assignment inside one video and class: each reference is found at most once per threshold.

    Args:
        ious (`np.ndarray` of shape `(num_predictions, num_references)`): predictions in decreasing order of score. -1
            stands for no reference, where groups have different numbers of them.
        thresholds: lowest IoU of a match; each threshold is matched independently of the others.
        groups (integer `np.ndarray` of shape `(num_predictions,)`, *optional*): the video of each prediction. A row of
            `ious` is about the references of its own video. None: one video.

    Returns:
        Boolean `np.ndarray` of shape `(num_thresholds, num_predictions)`: which predictions are true positives.
    """
    limits = np.asarray(thresholds, float)[:, None]
    groups = np.zeros(len(ious), int) if groups is None else groups
    # Equal IoUs go to the later reference, as in the official evaluator (reversed ascending sort).
    ious = ious[:, ::-1]
    found = np.zeros((len(limits), len(ious)), bool)
    near = np.flatnonzero(ious.max(axis=1, initial=-1.0) >= limits.min())
    near = near[np.argsort(groups[near], kind="stable")]  # in a group still by score
    _, starts, own = np.unique(groups[near], return_index=True, return_inverse=True)
    ranks = np.arange(len(near)) - starts[own]
    free = np.ones((len(starts), len(limits), ious.shape[1]), bool)
    rows = np.arange(len(limits))
    order = np.argsort(ranks, kind="stable")
    # one turn per rank: the prediction of this rank in each group that has so many
    for turn in np.split(order, np.flatnonzero(np.diff(ranks[order])) + 1) if len(near) else ():
        group, index = own[turn], near[turn]
        overlaps = ious[index][:, None]  # [num_groups, 1, num_references]
        candidates = np.where(free[group] & (overlaps >= limits), overlaps, -1.0)
        best = candidates.argmax(axis=2)  # [num_groups, num_thresholds]
        is_found = np.take_along_axis(candidates, best[..., None], axis=2)[..., 0] >= 0
        found[:, index] = is_found.T
        free[group[:, None], rows, best] &= ~is_found
    return found


def interpolated_average_precision(true_positives: np.ndarray, num_references: float) -> np.ndarray:
    """Area under the precision-recall curve with VOC-2011 interpolation.

    Args:
        true_positives (boolean `np.ndarray` of shape `(..., num_predictions)`): in decreasing order of score.
        num_references: number of positives, at least 1.

    Returns:
        Average precision in 0-1 of each row, `(...)`; 0 without predictions.
    """
    precision = np.cumsum(true_positives, axis=-1) / np.arange(1, true_positives.shape[-1] + 1)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    # recall rises by one reference at each true positive and nowhere else
    return (envelope * true_positives).sum(axis=-1) / num_references


@dataclass(frozen=True)
class RankedMatches:
    """The predictions of one class in decreasing order of score, matched with its references.

    found (boolean `np.ndarray` of shape `(num_thresholds, num_predictions)`): the true positives.
    videos (`np.ndarray` of shape `(num_predictions,)`): index of the video of each prediction.
    reference_videos (`np.ndarray` of shape `(num_references,)`): index of the video of each reference.
    """

    found: np.ndarray
    videos: np.ndarray
    reference_videos: np.ndarray

    def average_precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Average precision at each threshold, `(num_thresholds,)` in 0-1; not a number without a reference.

        Args:
            weights (integer `np.ndarray` of shape `(num_videos,)`, *optional*): how often each video counts.
        """
        found, total = self.found, len(self.reference_videos)
        if weights is not None:
            found, total = np.repeat(found, weights[self.videos], axis=1), weights[self.reference_videos].sum()
        return interpolated_average_precision(found, total) if total else np.full(len(found), np.nan)


def match_classes(
    predictions: Sequence[Sequence[Mapping]],
    references: Sequence[Sequence[Mapping]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, RankedMatches]:
    """The matches of each class that occurs in the references.

    Args:
        predictions: for each video a list of events with `start`, `end` (s), `label` and `score` (higher is more
            certain). Equal scores rank in input order. Events of a class without any reference are ignored: the
            official mean is over the reference classes.
        references: for each video, in the same order, a list of events with `start`, `end` and `label`.
        thresholds: tIoU thresholds.

    Returns:
        Label -> `RankedMatches`, labels sorted.

    Raises:
        ValueError: lists of unequal length, no reference at all, or an event whose numbers are missing or not finite.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} lists of predictions for {len(references)} lists of references: one per video"
        )
    spans: dict[str, dict[int, list]] = defaultdict(lambda: defaultdict(list))  # label -> video -> reference spans
    for video, events in enumerate(references):
        for event in drop_duplicate_references(_checked(events, video, "reference")):
            spans[event["label"]][video].append((event["start"], event["end"]))
    if not spans:
        raise ValueError(f"the references of {len(references)} videos hold no event: average precision is undefined")
    ranked = defaultdict(list)  # label -> (score, video, start, end) in input order
    for video, events in enumerate(predictions):
        for event in _checked(events, video, "prediction", with_score=True):
            if event["label"] in spans:
                ranked[event["label"]].append((event["score"], video, event["start"], event["end"]))
    return {
        label: _match_class(np.array(ranked[label], float).reshape(-1, 4), spans[label], thresholds)
        for label in sorted(spans)
    }


def mean_over_classes(
    classes: Mapping[str, RankedMatches], thresholds: Sequence[float], *, weights: np.ndarray | None = None
) -> dict[str, float]:
    """`{"mAP@0.1": ..., "average_mAP": ...}` in 0-100; `weights` is as in `RankedMatches.average_precision`."""
    per_class = np.array([matches.average_precision(weights) for matches in classes.values()])  # [classes, thresholds]
    counted = per_class[~np.isnan(per_class[:, 0])]
    means = 100.0 * counted.mean(axis=0) if len(counted) else np.full(len(thresholds), np.nan)  # [thresholds]
    result = {f"mAP@{threshold:g}": float(value) for threshold, value in zip(thresholds, means, strict=True)}
    return result | {"average_mAP": float(means.mean())}


def mean_average_precision(
    predictions: Sequence[Sequence[Mapping]],
    references: Sequence[Sequence[Mapping]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, float]:
    """`{"mAP@0.1": ..., "average_mAP": ...}` in 0-100; arguments and errors as in `match_classes`.

    Example:

    >>> dog = {"start": 0.0, "end": 4.0, "label": "dog"}
    >>> mean_average_precision([[dog | {"end": 2.5, "score": 1.0}]], [[dog]], thresholds=[0.5, 0.75])
    {'mAP@0.5': 100.0, 'mAP@0.75': 0.0, 'average_mAP': 50.0}
    """
    return mean_over_classes(match_classes(predictions, references, thresholds=thresholds), thresholds)


def _match_class(ranked: np.ndarray, spans: Mapping[int, Sequence], thresholds: Sequence[float]) -> RankedMatches:
    """The matches of one class. The columns of `ranked` are score, video, start, end; `spans` are those of a video."""
    ranked = ranked[np.argsort(-ranked[:, 0], kind="stable")]
    videos = ranked[:, 1].astype(int)
    # arrays over the videos with this class, not over all: there may be as many classes as videos
    known = np.array(sorted(spans))
    num_references = np.array([len(spans[video]) for video in known])
    padded = np.zeros((len(known), num_references.max(), 2))
    for row, video in zip(padded, known):
        row[: len(spans[video])] = spans[video]
    rows = np.minimum(np.searchsorted(known, videos), len(known) - 1)
    counts = np.where(known[rows] == videos, num_references[rows], 0)
    ious = pairwise_iou(ranked[:, None, 2:], padded[rows])[:, 0]  # [num_predictions, most references of a video]
    ious[np.arange(padded.shape[1]) >= counts[:, None]] = -1.0
    found = match_predictions(ious, thresholds, groups=videos)
    return RankedMatches(found, videos, np.repeat(known, num_references))


def _checked(events: Sequence[Mapping], video: int, kind: str, *, with_score: bool = False) -> Sequence[Mapping]:
    """The events, after checking that each has the numbers that the arithmetic needs, and that they are finite."""
    names = ("start", "end", "score") if with_score else ("start", "end")
    for position, event in enumerate(events):
        for name in names:
            value = event.get(name)
            if value is None or not math.isfinite(value):
                raise ValueError(
                    f"{kind} {position} of video {video} has {name} = {value!r}: {dict(event)}. Every event needs "
                    f"finite numbers in {', '.join(names)}; for a model without scores give each event the score 1.0."
                )
        if event.get("label") is None:
            raise ValueError(f"{kind} {position} of video {video} has no label: {dict(event)}")
    return events
