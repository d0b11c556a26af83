"""Scores of answered time spans against annotated ones, one query at a time and over a data set.

Pure functions over lists of (start, end) in seconds. Spans come best first; which is best is the caller's to say.
"""

from collections.abc import Sequence

import numpy as np

from .temporal_iou import pairwise_iou


Span = tuple[float, float]
THRESHOLDS = (0.3, 0.5, 0.7)


def union_of(spans: Sequence[Span]) -> list[Span]:
    """The same time as ordered spans that do not touch; spans that end before they begin hold no time.

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
    """Shared time over all time that either side names, in 0-1; 0 if neither names any.

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
    allowed = ious >= threshold
    partner: dict[int, int] = {}  # reference -> span

    def place(span: int, seen: set[int]) -> bool:
        for reference in np.flatnonzero(allowed[span]):
            if reference not in seen:
                seen.add(reference)
                if reference not in partner or place(partner[reference], seen):
                    partner[reference] = span
                    return True
        return False

    return sum(place(span, set()) for span in range(len(allowed)))


def count_f1(predicted: Sequence[int], expected: Sequence[int]) -> float:
    """Macro F1 in 0-1 of the number of spans, each number that occurs in the references being a class.

    A model that always says one span gets the F1 of "one" divided by the number of classes. Our definition: the published
    figures that bear this name do not state theirs.
    """
    scores = []
    for count in sorted(set(expected)):
        hits = sum(p == count and e == count for p, e in zip(predicted, expected))
        scores.append(2 * hits / (sum(p == count for p in predicted) + sum(e == count for e in expected)))
    return float(np.mean(scores))


def score_spans(
    predictions: Sequence[Sequence[Span]],
    references: Sequence[Sequence[Span]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, float]:
    """All scores over a data set, in 0-100, each the mean over queries (CountF1: over counts).

    Args:
        predictions: for each query the answered spans, best first; none where the answer named no time.
        references: for each query the annotated spans, at least one.

    Returns:
        `mIoU` and `R1@t`: the first span and the reference that it meets best; `union_IoU`; `F1@t`: one-to-one matches;
        `CountF1`; `answered`: share of queries with a span.

    Raises:
        ValueError: unequal lists, no query, or a query without reference.
    """
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references: equal, positive counts needed"
        )
    without = [index for index, spans in enumerate(references) if not len(spans)]
    if without:
        raise ValueError(f"{len(without)} queries have no reference span, the first are {without[:5]}")
    ious = [pairwise_iou(np.array(p), np.array(r)) for p, r in zip(predictions, references)]
    first = np.array([matrix[0].max() if len(matrix) else 0.0 for matrix in ious])
    result = {"mIoU": first.mean()}
    result |= {f"R1@{threshold:g}": (first >= threshold).mean() for threshold in thresholds}
    result["union_IoU"] = np.mean([union_iou(p, r) for p, r in zip(predictions, references)])
    for threshold in thresholds:
        result[f"F1@{threshold:g}"] = np.mean([2 * num_matches(m, threshold) / sum(m.shape) for m in ious])
    result["CountF1"] = count_f1([len(p) for p in predictions], [len(r) for r in references])
    result["answered"] = np.mean([len(p) > 0 for p in predictions])
    return {name: 100.0 * float(value) for name, value in result.items()}
