"""Dense captioning of one video against its annotation: SODA_c, and the ActivityNet challenge's protocol.

Pure functions over lists of events with `start`, `end` (s) and `caption`. The similarity of two captions is in
`captions.py`. The arithmetic follows the authors' evaluators, github.com/ranjaykrishna/densevid_eval at 9d4045a and
github.com/fujiso/SODA; nothing of their code is used.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .captions import NO_REFERENCE, JavaMeteor, NltkMeteor, cider_d
from .temporal_iou import pairwise_iou


# ActivityNet Captions' challenge: captions are compared where the spans overlap by at least one of these.
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
EPSILON = 1e-8  # s, added to each union by both evaluators: an IoU exactly on a threshold is below it
MAX_PREDICTIONS = 1000  # per video, the challenge's limit; the first ones count

Story = Sequence[Mapping]
Meteor = NltkMeteor | JavaMeteor


def soda_c(prediction: Story, reference: Story, *, meteor: Meteor) -> float:
    """SODA_c in 0-1: F of the best in-order alignment by IoU times METEOR.

    0 if one of the two is empty, 1 if both are. As in the authors' code, the annotated caption is scored against the
    predicted one.
    """
    if not prediction or not reference:
        return float(not prediction and not reference)
    prediction, reference = _in_order(prediction), _in_order(reference)
    gains = pairwise_iou(_spans(prediction), _spans(reference), epsilon=EPSILON)  # [num_predictions, num_references]
    met = np.argwhere(gains).tolist()
    pairs = [(reference[column]["caption"], prediction[row]["caption"]) for row, column in met]
    for (row, column), score in zip(met, meteor.compare(pairs)[1]):
        gains[row, column] *= score
    best = np.zeros((len(prediction) + 1, len(reference) + 1))
    for row in range(len(prediction)):
        for column in range(len(reference)):
            aligned = best[row, column] + gains[row, column]
            best[row + 1, column + 1] = max(best[row, column + 1], best[row + 1, column], aligned)
    total = float(best[-1, -1])
    precision, recall = total / len(prediction), total / len(reference)
    return 2 * precision * recall / (precision + recall) if total else 0.0


def captions_at(
    prediction: Story, annotators: Sequence[Story], *, threshold: float, meteor: Meteor | None
) -> dict[str, float]:
    """METEOR (0-1), CIDEr (0-10), precision and recall (0-1) of one video at one tIoU; no METEOR without `meteor`.

    Each predicted caption is compared with every reference of every annotator that its span overlaps by `threshold`;
    one that overlaps none is one comparison with a reference that shares no word. CIDEr's document frequencies are
    those of the video's comparisons. Precision and recall are those of the annotator with the highest value.
    """
    ious = [pairwise_iou(_spans(prediction), _spans(story), epsilon=EPSILON) for story in annotators]
    pairs = []
    for row, event in enumerate(prediction):
        references = [
            story[column]["caption"]
            for story, iou in zip(annotators, ious)
            for column in np.flatnonzero(iou[row] >= threshold).tolist()
        ]
        pairs += [(event["caption"], reference) for reference in references or [NO_REFERENCE]]
    cider = cider_d([caption for caption, _ in pairs], [[reference] for _, reference in pairs])
    covered = [iou > threshold for iou in ious]
    return {
        **({"METEOR": meteor.compare(pairs)[0]} if meteor else {}),
        "CIDEr": sum(cider) / len(cider) if cider else 0.0,
        "precision": max((float(hits.any(axis=1).mean()) for hits in covered if len(prediction)), default=0.0),
        "recall": max(float(hits.any(axis=0).mean()) for hits in covered),
    }


def score_each_story(
    predictions: Sequence[Story],
    references: Sequence[Sequence[Story]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    meteor: Meteor | None,
) -> dict[str, np.ndarray]:
    """The values of each video, `(num_videos,)`.

    Args:
        predictions: one story per video: a list of events with `start`, `end` and `caption`.
        references: for each video the stories of one or several annotators.
        thresholds: tIoU thresholds of the challenge's protocol.
        meteor: the names of the values that depend on it end in its suffix; None leaves these values out.

    Returns:
        In 0-100: `SODA_c` (mean over annotators), `METEOR`, `CIDEr` (as papers print it: 100 times the value of 0-10,
        so up to 1000), `precision`, `recall` (means over the thresholds).

    Raises:
        ValueError: unequal lists, no video, a video without an annotator, an annotator without an event, or an event
            whose times are not finite numbers or whose caption is no text.
    """
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references: equal, positive counts needed"
        )
    without = [index for index, stories in enumerate(references) if not stories or not all(stories)]
    if without:
        raise ValueError(f"{len(without)} videos have no reference, the first are {without[:5]}")
    for video, (prediction, stories) in enumerate(zip(predictions, references)):
        for kind, story in (("prediction", prediction), *(("reference", story) for story in stories)):
            _check_story(story, f"{kind} of video {video}")
    rows = []
    for prediction, stories in zip(predictions, references):
        counted = prediction[:MAX_PREDICTIONS]
        found = [captions_at(counted, stories, threshold=t, meteor=meteor) for t in thresholds]
        row = {name: 100.0 * np.mean([scores[name] for scores in found]) for name in found[0]}
        if meteor:
            soda = 100.0 * np.mean([soda_c(prediction, story, meteor=meteor) for story in stories])
            row = {f"SODA_c{meteor.suffix}": soda, f"METEOR{meteor.suffix}": row.pop("METEOR"), **row}
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def score_stories(
    predictions: Sequence[Story],
    references: Sequence[Sequence[Story]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    meteor: Meteor | None = None,
) -> dict[str, float]:
    """The means over videos of `score_each_story`; without `meteor`, METEOR is nltk's (`NltkMeteor`)."""
    meteor = NltkMeteor() if meteor is None else meteor
    values = score_each_story(predictions, references, thresholds=thresholds, meteor=meteor)
    return {name: float(value.mean()) for name, value in values.items()}


def _check_story(story: Story, where: str) -> None:
    for event in story:
        times = (event.get("start"), event.get("end"))
        if not all(isinstance(time, (int, float)) and math.isfinite(time) for time in times):
            raise ValueError(f"{where} has an event whose times are not finite numbers: {dict(event)}")
        if not isinstance(event.get("caption"), str):
            raise ValueError(f"{where} has an event without a caption: {dict(event)}")


def _spans(story: Story) -> np.ndarray:
    return np.array([(event["start"], event["end"]) for event in story], float)


def _in_order(story: Story) -> list[Mapping]:
    """By start alone: events with the same start stay in the order of the file, as in the authors' code."""
    return sorted(story, key=lambda event: event["start"])
