"""Intersection over union of time spans: the one home of this arithmetic.

`evaluate` copies a metric's folder, and nothing beside it, into its module cache, so every metric folder holds a link
to this file. Pure numpy; it knows nothing of videos, labels or scores.
"""

import numpy as np


def pairwise_iou(spans: np.ndarray, others: np.ndarray, *, epsilon: float = 0.0) -> np.ndarray:
    """IoU of every span with every other one.

    Args:
        spans (`np.ndarray` of shape `(..., num_spans, 2)`): start and end in seconds.
        others (`np.ndarray` of shape `(..., num_others, 2)`): the same.
        epsilon: seconds added to the union, as some evaluators do; an IoU exactly on a threshold then falls below it.

    Returns:
        `np.ndarray` of shape `(..., num_spans, num_others)` in 0-1. A pair whose union is not positive (two empty
        spans, a span that ends before it begins) gets 0: it is never a match.

    Example:

    >>> pairwise_iou(np.array([[0.0, 10.0]]), np.array([[5.0, 10.0], [20.0, 30.0]])).tolist()
    [[0.5, 0.0]]
    """
    spans, others = (np.asarray(x, float) if np.ndim(x) > 1 else np.reshape(x, (-1, 2)) for x in (spans, others))
    spans, others = spans[..., :, None, :], others[..., None, :, :]
    intersection = np.minimum(spans[..., 1], others[..., 1]) - np.maximum(spans[..., 0], others[..., 0])
    intersection = np.clip(intersection, 0.0, None)
    # summed in the official evaluator's order: another order changes IoUs that are exactly on a threshold
    union = (others[..., 1] - others[..., 0]) + (spans[..., 1] - spans[..., 0]) - intersection
    return np.divide(intersection, union + epsilon, out=np.zeros_like(union), where=union > 0)
