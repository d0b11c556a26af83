"""`evaluate` module: mean average precision of audio-visual event localization, with the official arithmetic.

    evaluate.load("eval/metrics/event_localization").compute(predictions=..., references=...)

A thin shell over `average_precision.py`. Times are float64 in the Arrow schema, because float32 changes the result.
"""

import datasets
import evaluate

from .average_precision import THRESHOLDS, mean_average_precision
from .temporal_iou import pairwise_iou


# `evaluate` copies to its module cache only the files that this one imports, so what average_precision.py needs is
# named too.
__all__ = ["EventLocalization", "mean_average_precision", "pairwise_iou"]

_DESCRIPTION = """
Mean average precision of timed, labelled events (UnAV-100, ActivityNet): greedy matching by score at tIoU 0.1 ... 0.9,
VOC-2011 interpolation, mean over the classes that occur in the references. Values are in 0-100.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one list per video of {"start", "end", "label", "score"}; seconds; a higher score is more certain.
    references: one list per video of {"start", "end", "label"}; the same order of videos.
    thresholds: tIoU thresholds, 0.1 ... 0.9 by default.
Returns:
    {"mAP@0.1": ..., ..., "mAP@0.9": ..., "average_mAP": ...} in 0-100.
Examples:
    >>> metric = evaluate.load("eval/metrics/event_localization")
    >>> truth = [[{"start": 0.0, "end": 4.0, "label": "dog barking"}]]
    >>> metric.compute(predictions=[[truth[0][0] | {"score": 0.9}]], references=truth)["average_mAP"]
    100.0
"""

_CITATION = """
@inproceedings{geng2023dense, title={Dense-Localizing Audio-Visual Events in Untrimmed Videos}, author={Geng, Tiantian
and Wang, Teng and Duan, Jinming and Cong, Runmin and Zheng, Feng}, booktitle={CVPR}, year={2023}}
"""

_SPAN = {"start": datasets.Value("float64"), "end": datasets.Value("float64"), "label": datasets.Value("string")}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class EventLocalization(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": [_SPAN | {"score": datasets.Value("float64")}], "references": [_SPAN]}
            ),
        )

    def compute(self, *, predictions: list | None = None, references: list | None = None, **kwargs):
        """As `evaluate.Metric.compute`; further keys of events are ignored, a missing one is named in the error."""
        columns = {"predictions": predictions, "references": references}
        chosen = {
            name: [
                [{key: event.get(key) for key in self.features[name].feature} for event in events] for events in videos
            ]
            for name, videos in columns.items()
            if videos is not None
        }
        return super().compute(**chosen, **kwargs)

    def _compute(
        self, predictions: list, references: list, thresholds: tuple[float, ...] = THRESHOLDS
    ) -> dict[str, float]:
        return mean_average_precision(predictions, references, thresholds=thresholds)
