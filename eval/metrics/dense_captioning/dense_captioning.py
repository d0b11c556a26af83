"""`evaluate` module: dense video captioning by SODA_c and by the ActivityNet protocol, without Java.

    evaluate.load("eval/metrics/dense_captioning").compute(predictions=..., references=...)

A thin shell over `stories.py` and `captions.py`.
"""

import datasets
import evaluate

from .captions import meteor
from .stories import THRESHOLDS, score_stories
from .temporal_iou import pairwise_iou


# `evaluate` copies to its module cache only the files that this one imports, so the needs of stories.py are named too.
__all__ = ["DenseCaptioning", "meteor", "pairwise_iou", "score_stories"]

_DESCRIPTION = """
Dense captioning: SODA_c (in-order alignment by IoU times METEOR), and METEOR, CIDEr, precision and recall at tIoU 0.3,
0.5, 0.7, 0.9 as in the ActivityNet challenge. METEOR is nltk's without synonyms: no Java, not equal to METEOR 1.5.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one list per video of {"start", "end", "caption"}; seconds.
    references: for each video a list of annotators' lists of the same form, or one such list where there is one annotator.
    thresholds: tIoU thresholds of the ActivityNet protocol.
Returns:
    {"SODA_c", "METEOR", "CIDEr", "precision", "recall"} in 0-100 (CIDEr up to 1000, as papers print it).
Examples:
    >>> metric = evaluate.load("eval/metrics/dense_captioning")
    >>> story = [{"start": 0.0, "end": 9.0, "caption": "a man cuts the grass with a mower"}]
    >>> metric.compute(predictions=[story], references=[[story]])["recall"]
    100.0
"""

_EVENT = {"start": datasets.Value("float64"), "end": datasets.Value("float64"), "caption": datasets.Value("string")}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class DenseCaptioning(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": [_EVENT], "references": [[_EVENT]]}),
        )

    def compute(self, *, predictions=None, references=None, **kwargs):
        """As `evaluate.Metric.compute`; the references of a single annotator may come without the outer list."""
        if references is not None and any(isinstance(first, dict) for video in references for first in video[:1]):
            references = [[video] for video in references]
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions, references, thresholds=THRESHOLDS):
        return score_stories(predictions, references, thresholds=thresholds)
