"""The protocols of `eval.events` and their intervals by bootstrap over videos.

Every protocol is prepared once (spans are matched, captions are compared) and gives a function of how often each video
counts. The bootstrap calls that function with other counts, so nothing is matched twice.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .events_reading import Predictions, Query
from .metrics.dense_captioning.captions import JavaMeteor, NltkMeteor
from .metrics.dense_captioning.stories import score_each_story
from .metrics.event_localization.average_precision import (
    THRESHOLDS,
    interpolated_average_precision,
    match_classes,
    match_predictions,
    mean_over_classes,
)
from .metrics.temporal_grounding.spans import count_f1, score_each, score_queries_by_count
from .metrics.temporal_iou import pairwise_iou


# of QVHighlights' official evaluator (Moment-DETR): thresholds, and how many of the first spans of a query count
MOMENT_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
MOMENT_LIMIT = 10

Weights = np.ndarray  # `(num_videos,)`: how often each video counts
Score = Callable[[Weights], dict[str, float]]


def prepare(
    task: str, queries: Sequence[Query], said: Predictions, *, meteor: NltkMeteor | JavaMeteor | None
) -> Score:
    """The values of a task, in 0-100 and CIDEr in 0-1000, as a function of the weights of the videos."""
    if task == "activitynet_captions":
        return _prepare_stories(queries, said, meteor)
    videos = video_indices(queries)
    present = [query for query in queries if query.spans]
    parts = [_prepare_moments(present, said, videos, with_moment_map=task != "unav100")] if present else []
    if len(present) < len(queries):
        parts.append(_prepare_rejection(queries, said, videos))
    if task == "unav100":
        parts.insert(0, _prepare_classes(queries, said, videos))
    return lambda weights: {name: value for part in parts for name, value in part(weights).items()}


def video_indices(queries: Sequence[Query]) -> dict[str, int]:
    """Number of each video, in the order of the queries."""
    return {video_id: index for index, video_id in enumerate(dict.fromkeys(query.video_id for query in queries))}


def bootstrap(score: Score, *, num_videos: int, num_resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals: the videos are drawn with replacement; a video drawn twice counts as two videos."""
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(num_videos, size=num_videos) for _ in range(num_resamples))  # one at a time in memory
    rows = [score(np.bincount(videos, minlength=num_videos)) for videos in drawn]
    names = rows[0] if rows else ()
    # a resample without a query of a kind has no value of it
    limits = {name: np.nanpercentile([row[name] for row in rows], [2.5, 97.5]) for name in names}
    return {name: (float(low), float(high)) for name, (low, high) in limits.items()}


def _prepare_moments(
    queries: Sequence[Query], said: Predictions, videos: dict[str, int], *, with_moment_map: bool
) -> Score:
    """mIoU, R1, union IoU, F1, tF1, EtF1, counts; the span with the highest score first, equal ones in given order."""
    ranked = [sorted(said.of(query), key=lambda event: -event["score"]) for query in queries]
    spans = [[(event["start"], event["end"]) for event in events] for events in ranked]
    values = score_each(spans, [query.spans for query in queries])
    if with_moment_map:
        values |= _moment_average_precision(spans, [query.spans for query in queries])
    at = np.array([videos[query.video_id] for query in queries])
    numbers = [np.array([len(row) for row in rows]) for rows in (spans, [query.spans for query in queries])]

    def score(weights: Weights) -> dict[str, float]:
        counts = weights[at]
        if not counts.any():
            return dict.fromkeys([*values, "CountF1"], float("nan"))
        means = {name: 100.0 * float(np.average(value, weights=counts)) for name, value in values.items()}
        return means | {"CountF1": 100.0 * count_f1(numbers[0], numbers[1], counts)}

    return score


def _moment_average_precision(spans: Sequence[Sequence], references: Sequence[Sequence]) -> dict[str, np.ndarray]:
    """QVHighlights' MR-mAP: average precision of the spans of each query alone, in 0-1."""
    rows = np.zeros((len(spans), len(MOMENT_THRESHOLDS)))
    for row, said, truth in zip(rows, spans, references):
        if said:
            found = match_predictions(pairwise_iou(np.array(said[:MOMENT_LIMIT]), np.array(truth)), MOMENT_THRESHOLDS)
            row[:] = interpolated_average_precision(found, len(truth))
    at = MOMENT_THRESHOLDS.index
    return {"MR-mAP@0.5": rows[:, at(0.5)], "MR-mAP@0.75": rows[:, at(0.75)], "MR-mAP": rows.mean(axis=1)}


def _prepare_classes(queries: Sequence[Query], said: Predictions, videos: dict[str, int]) -> Score:
    """mAP over the classes; every event of an answer has the class of its query."""
    predicted: list[list[dict]] = [[] for _ in videos]
    annotated: list[list[dict]] = [[] for _ in videos]
    for query in queries:
        index = videos[query.video_id]
        predicted[index] += [event | {"label": query.text} for event in said.of(query)]
        annotated[index] += [{"start": start, "end": end, "label": query.text} for start, end in query.spans]
    classes = match_classes(predicted, annotated)
    return lambda weights: mean_over_classes(classes, THRESHOLDS, weights=weights)


def _prepare_rejection(queries: Sequence[Query], said: Predictions, videos: dict[str, int]) -> Score:
    """Precision, recall and F1 of answers without a span against absent events."""
    at = np.array([videos[query.video_id] for query in queries])
    answered, annotated = [len(said.of(query)) for query in queries], [len(query.spans) for query in queries]

    def score(weights: Weights) -> dict[str, float]:
        values = score_queries_by_count(answered, annotated, weights[at])
        return {name: value for name, value in values.items() if name.startswith("rejection")}

    return score


def _prepare_stories(queries: Sequence[Query], said: Predictions, meteor: NltkMeteor | JavaMeteor | None) -> Score:
    """Dense captioning: every value is a mean over videos."""
    stories = [[event | {"caption": event["label"]} for event in said.of(query)] for query in queries]
    rows = score_each_story(stories, [query.spans for query in queries], meteor=meteor)
    return lambda weights: {name: float(np.average(value, weights=weights)) for name, value in rows.items()}
