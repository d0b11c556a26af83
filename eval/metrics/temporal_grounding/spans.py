"""Scores of answered time spans against annotated ones, one query at a time and over a data set.

Pure functions over lists of (start, end) in seconds. Spans come best first; the caller decides which is best.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from .temporal_iou import pairwise_iou


Span = tuple[float, float]
THRESHOLDS = (0.3, 0.5, 0.7)


def union_of(spans: Sequence[Span]) -> list[Span]:
    """The same time as ordered spans that do not touch; spans that end before they begin are left out.

    Example:

    >>> union_of([(4.0, 6.0), (0.0, 2.0), (1.0, 3.0)])
    [(0.0, 3.0), (4.0, 6.0)]
    """
    merged: list[Span] = []
    for start, end in sorted(span for span in spans if span[1] > span[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def union_iou(spans: Sequence[Span], others: Sequence[Span]) -> float:
    """Length of the intersection over length of the union, in 0-1; 0 if both are empty.

    Example:

    >>> union_iou([(0.0, 4.0), (6.0, 8.0)], [(2.0, 8.0)])
    0.5
    """
    spans, others = union_of(spans), union_of(others)
    shared = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in spans for b in others)
    total = sum(end - start for start, end in [*spans, *others]) - shared
    return shared / total if total > 0 else 0.0


def num_matches(ious: np.ndarray, threshold: float) -> int:
    """Size of the largest one-to-one matching of spans and references whose IoU is at least `threshold`.

    Args:
        ious (`np.ndarray` of shape `(num_spans, num_references)`)
    """
    hits = ious >= threshold
    return int(hits[linear_sum_assignment(hits, maximize=True)].sum())


def assigned_ious(ious: np.ndarray) -> np.ndarray:
    """IoUs of the one-to-one assignment with the highest sum, `(min(num_spans, num_references),)`: OMTG's matching.

    Args:
        ious (`np.ndarray` of shape `(num_spans, num_references)`)
    """
    return ious[linear_sum_assignment(ious, maximize=True)]


def count_f1(
    predicted: Sequence[int] | np.ndarray, expected: Sequence[int] | np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Macro F1 in 0-1 of the number of spans, each number that occurs in the references being a class.

    A model that always answers one span gets the F1 of "one" divided by the number of classes. The definition is ours:
    published figures of this name do not state theirs. A query of weight 2 counts as two queries.
    """
    said, meant = np.asarray(predicted, int), np.asarray(expected, int)
    weights = np.ones(len(meant)) if weights is None else weights
    size, equal = int(max(said.max(), meant.max())) + 1, said == meant
    num_said, num_meant = np.bincount(said, weights, size), np.bincount(meant, weights, size)
    num_right = np.bincount(meant[equal], weights[equal], size)
    classes = num_meant > 0
    return float(np.mean(2 * num_right[classes] / (num_said + num_meant)[classes]))


def score_queries_by_count(
    answered: Sequence[int], annotated: Sequence[int], weights: np.ndarray | None = None
) -> dict[str, float]:
    """How well a model tells whether, and how often, the event of a query occurs; in 0-100.

    Args:
        answered: number of spans of each answer; 0: the answer says that the event does not occur, or has no time.
        annotated: number of annotated spans of each query; 0: the event is absent.
        weights (`np.ndarray` of shape `(num_queries,)`, *optional*): how often each query counts; once by default.

    Returns:
        `CountF1` over the queries about present events; `rejection_precision`, `rejection_recall` and `rejection_F1`
        of answers without a span against absent events. A value whose denominator is 0 is 100: nothing was missed.

    Example:

    >>> scores = score_queries_by_count([1, 0, 0, 2], [1, 0, 1, 0])
    >>> {name: round(value, 1) for name, value in scores.items()}
    {'CountF1': 66.7, 'rejection_precision': 50.0, 'rejection_recall': 50.0, 'rejection_F1': 50.0}
    """
    said, meant = np.asarray(answered, int), np.asarray(annotated, int)
    weights = np.ones(len(meant)) if weights is None else weights
    present = (meant > 0) & (weights > 0)
    rejected, absent = weights @ (said == 0), weights @ (meant == 0)
    right = weights @ ((said == 0) & (meant == 0))
    values = {
        "CountF1": count_f1(said[present], meant[present], weights[present]) if present.any() else 1.0,
        "rejection_precision": right / rejected if rejected else 1.0,
        "rejection_recall": right / absent if absent else 1.0,
        "rejection_F1": 2 * right / (rejected + absent) if rejected + absent else 1.0,
    }
    return {name: 100.0 * float(value) for name, value in values.items()}


def score_each(
    predictions: Sequence[Sequence[Span]],
    references: Sequence[Sequence[Span]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, np.ndarray]:
    """The values of each query, `(num_queries,)` in 0-1; arguments and errors as in `score_spans`.

    `count_accuracy`, `tF1@t` and `EtF1` are the arithmetic of OMTG Bench (arXiv 2606.06294): the spans are assigned so
    that the sum of the IoUs is highest, and EtF1 is the mean of tF1 over the thresholds where the number of spans is
    right, 0 where it is not.
    """
    _check(predictions, references)
    ious = [pairwise_iou(np.array(p), np.array(r)) for p, r in zip(predictions, references)]
    sizes = np.array([sum(matrix.shape) for matrix in ious])
    first = np.array([matrix[0].max() if len(matrix) else 0.0 for matrix in ious])
    values = {"mIoU": first}
    values |= {f"R1@{t:g}": (first >= t).astype(float) for t in thresholds}
    values["union_IoU"] = np.array([union_iou(p, r) for p, r in zip(predictions, references)])
    values |= {f"F1@{t:g}": np.array([2 * num_matches(m, t) for m in ious]) / sizes for t in thresholds}
    assigned = [assigned_ious(matrix) for matrix in ious]
    omtg = {f"tF1@{t:g}": np.array([2 * (row >= t).sum() for row in assigned]) / sizes for t in thresholds}
    equal = np.array([len(matrix) == matrix.shape[1] for matrix in ious], float)
    values |= {**omtg, "EtF1": equal * np.mean(list(omtg.values()), axis=0), "count_accuracy": equal}
    values["answered"] = np.array([len(matrix) > 0 for matrix in ious], float)
    return values


def score_spans(
    predictions: Sequence[Sequence[Span]],
    references: Sequence[Sequence[Span]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, float]:
    """All scores over a data set, in 0-100, each the mean over queries (CountF1: over counts).

    Args:
        predictions: for each query the answered spans, best first; empty where the answer has no time.
        references: for each query the annotated spans, at least one.

    Returns:
        `mIoU` and `R1@t`: the first span and the reference with the highest IoU; `union_IoU`; `F1@t`: one-to-one
        matches; `tF1@t`, `EtF1`, `count_accuracy`: those of OMTG Bench; `CountF1`; `answered`: share of queries with a
        span.

    Raises:
        ValueError: unequal lists, no query, a query without reference, or a time that is not a finite number.
    """
    values = score_each(predictions, references, thresholds=thresholds)
    means = {name: 100.0 * float(value.mean()) for name, value in values.items()}
    return means | {"CountF1": 100.0 * count_f1([len(p) for p in predictions], [len(r) for r in references])}


def _check(predictions: Sequence[Sequence[Span]], references: Sequence[Sequence[Span]]) -> None:
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references: equal, positive counts needed"
        )
    without = [index for index, spans in enumerate(references) if not len(spans)]
    if without:
        raise ValueError(f"{len(without)} queries have no reference span, the first are {without[:5]}")
    for kind, queries in (("prediction", predictions), ("reference", references)):
        for index, spans in enumerate(queries):
            wrong = [span for span in spans if None in span or not np.isfinite(span).all()]
            if wrong:
                raise ValueError(f"{kind} of query {index} has a span whose times are not finite numbers: {wrong[0]}")
