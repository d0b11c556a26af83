"""`evaluate` module: dense video captioning by SODA_c and by the ActivityNet challenge's protocol.

    evaluate.load("eval/metrics/dense_captioning").compute(predictions=..., references=...)

A thin shell over `stories.py` and `captions.py`.
"""

from pathlib import Path

import datasets
import evaluate

from .captions import JavaMeteor, NltkMeteor
from .stories import THRESHOLDS, score_stories
from .temporal_iou import pairwise_iou
from .words import LETTER


# `evaluate` copies to its module cache only the files that this one imports, so those of stories.py are named too.
__all__ = ["LETTER", "DenseCaptioning", "pairwise_iou", "score_stories"]

_DESCRIPTION = """
Dense captioning: SODA_c (in-order alignment by IoU times METEOR), and METEOR, CIDEr, precision and recall at tIoU 0.3,
0.5, 0.7, 0.9 as in the ActivityNet challenge. Without the METEOR 1.5 program the values that depend on METEOR are
computed with nltk's METEOR of 2005 and are named SODA_c_nltk and METEOR_nltk.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one list per video of {"start", "end", "caption"}; seconds.
    references: for each video a list of annotators' lists of the same form, or one such list for one annotator.
    thresholds: tIoU thresholds of the challenge's protocol.
    meteor_jar: path of meteor-1.5.jar; needs Java. The values are then named SODA_c and METEOR.
Returns:
    {"SODA_c_nltk", "METEOR_nltk", "CIDEr", "precision", "recall"} in 0-100 (CIDEr up to 1000, as papers print it).
Examples:
    >>> metric = evaluate.load("eval/metrics/dense_captioning")
    >>> story = [{"start": 0.0, "end": 9.0, "caption": "a man cuts the grass with a mower"}]
    >>> metric.compute(predictions=[story], references=[[story]])["recall"]
    100.0
"""

_EVENT = {"start": datasets.Value("float64"), "end": datasets.Value("float64"), "caption": datasets.Value("string")}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class DenseCaptioning(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": [_EVENT], "references": [[_EVENT]]}),
        )

    def compute(self, *, predictions: list | None = None, references: list | None = None, **kwargs):
        """As `evaluate.Metric.compute`; further keys of events are ignored, and the references of a single annotator
        need no outer list."""
        columns: dict[str, list] = {}
        if predictions is not None:
            columns["predictions"] = [_chosen(story) for story in predictions]
        if references is not None:
            if any(isinstance(first, dict) for video in references for first in video[:1]):
                references = [[video] for video in references]
            columns["references"] = [[_chosen(story) for story in video] for video in references]
        return super().compute(**columns, **kwargs)

    def _compute(
        self,
        predictions: list,
        references: list,
        thresholds: tuple[float, ...] = THRESHOLDS,
        meteor_jar: str | Path | None = None,
    ) -> dict[str, float]:
        if meteor_jar is None:
            return score_stories(predictions, references, thresholds=thresholds, meteor=NltkMeteor())
        meteor = JavaMeteor(meteor_jar)
        try:
            return score_stories(predictions, references, thresholds=thresholds, meteor=meteor)
        finally:
            meteor.close()


def _chosen(story: list[dict]) -> list[dict]:
    return [{key: event.get(key) for key in _EVENT} for event in story]
