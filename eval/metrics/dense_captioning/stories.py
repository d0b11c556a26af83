"""Dense captioning of one video against its annotation: SODA_c, and the ActivityNet protocol.

Pure functions over lists of events with `start`, `end` (s) and `caption`. How alike two captions are is said in
`captions.py`; an answer's events come from the caller.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .captions import cider_d, meteor
from .temporal_iou import pairwise_iou


# ActivityNet Captions' challenge: captions are compared where the spans overlap by at least one of these.
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)

Story = Sequence[Mapping]


def soda_c(prediction: Story, reference: Story, *, similarity: Callable[[str, str], float] = meteor) -> float:
    """SODA_c in 0-1: F of the best in-order alignment by IoU times caption similarity.

    0 if one of the two is empty, 1 if both are: nothing happens and nothing is said.
    """
    if not prediction or not reference:
        return float(not prediction and not reference)
    prediction, reference = _in_order(prediction), _in_order(reference)
    gains = pairwise_iou(_spans(prediction), _spans(reference))  # [num_predictions, num_references]
    for row, column in zip(*np.nonzero(gains)):
        gains[row, column] *= similarity(prediction[row]["caption"], reference[column]["caption"])
    best = np.zeros((len(prediction) + 1, len(reference) + 1))
    for row in range(len(prediction)):
        for column in range(len(reference)):
            aligned = best[row, column] + gains[row, column]
            best[row + 1, column + 1] = max(best[row, column + 1], best[row + 1, column], aligned)
    total = float(best[-1, -1])
    precision, recall = total / len(prediction), total / len(reference)
    return 2 * precision * recall / (precision + recall) if total else 0.0


def captions_at(prediction: Story, reference: Story, *, threshold: float) -> dict[str, float]:
    """METEOR (0-1), CIDEr (0-10), precision and recall (0-1) of one video at one tIoU.

    Each predicted caption is compared with every reference that it overlaps by `threshold`; one that overlaps none counts
    as a comparison with score 0. Frequencies of CIDEr are those of the video's own comparisons, as in the challenge.
    """
    if not prediction or not reference:
        return {"METEOR": 0.0, "CIDEr": 0.0, "precision": 0.0, "recall": 0.0}
    met = pairwise_iou(_spans(prediction), _spans(reference)) >= threshold
    pairs = [(prediction[row]["caption"], reference[column]["caption"]) for row, column in zip(*np.nonzero(met))]
    num_pairs = len(pairs) + int((~met.any(axis=1)).sum())
    cider = cider_d([pair[0] for pair in pairs], [[pair[1]] for pair in pairs])
    return {
        "METEOR": sum(meteor(*pair) for pair in pairs) / num_pairs,
        "CIDEr": sum(cider) / num_pairs,
        "precision": float(met.any(axis=1).mean()),
        "recall": float(met.any(axis=0).mean()),
    }


def score_stories(
    predictions: Sequence[Story],
    references: Sequence[Sequence[Story]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, float]:
    """All scores over a data set.

    Args:
        predictions: one story per video: a list of events with `start`, `end` and `caption`.
        references: for each video the stories of one or several annotators.

    Returns:
        Means over videos, in 0-100: `SODA_c` (mean over annotators), `METEOR`, `CIDEr` (as papers print it: 100 times the
        value of 0-10, so up to 1000), `precision`, `recall` (the best annotator's at each threshold, then the mean over thresholds).

    Raises:
        ValueError: unequal lists, no video, or a video without an annotator.
    """
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references: equal, positive counts needed"
        )
    without = [index for index, stories in enumerate(references) if not stories]
    if without:
        raise ValueError(f"{len(without)} videos have no reference, the first are {without[:5]}")
    scale = {"METEOR": 100.0, "CIDEr": 100.0, "precision": 100.0, "recall": 100.0}
    rows = []
    for prediction, stories in zip(predictions, references):
        row = {"SODA_c": 100.0 * np.mean([soda_c(prediction, story) for story in stories])}
        found = [[captions_at(prediction, story, threshold=t) for story in stories] for t in thresholds]
        for name, factor in scale.items():
            row[name] = factor * np.mean([max(scores[name] for scores in at) for at in found])
        rows.append(row)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _spans(story: Story) -> np.ndarray:
    return np.array([(event["start"], event["end"]) for event in story], float)


def _in_order(story: Story) -> list[Mapping]:
    return sorted(story, key=lambda event: (event["start"], event["end"]))
