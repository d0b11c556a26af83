"""`evaluate` module: answered time spans against annotated ones (one or several for a query).

    evaluate.load("eval/metrics/temporal_grounding").compute(predictions=..., references=...)

A thin shell over `spans.py`.
"""

import datasets
import evaluate

from .spans import THRESHOLDS, score_spans
from .temporal_iou import pairwise_iou


# `evaluate` copies to its module cache only the files that this one imports, so what spans.py needs is named too.
__all__ = ["TemporalGrounding", "pairwise_iou", "score_spans"]

_DESCRIPTION = """
Temporal grounding: mean IoU and recall of the first span at IoU 0.3 / 0.5 / 0.7; for several spans the IoU of the
unions, F1 of one-to-one matches, OMTG Bench's tF1, EtF1 and count accuracy, and macro F1 of the number of spans.
Values are in 0-100.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one list per query of {"start", "end"} in seconds, best first; empty where no time was named.
    references: one list per query of {"start", "end"}, at least one.
    thresholds: IoU thresholds, (0.3, 0.5, 0.7) by default.
Returns:
    {"mIoU", "R1@0.3", ..., "union_IoU", "F1@0.3", ..., "tF1@0.3", ..., "EtF1", "count_accuracy", "answered",
    "CountF1"}
Examples:
    >>> metric = evaluate.load("eval/metrics/temporal_grounding")
    >>> metric.compute(predictions=[[{"start": 0.0, "end": 5.0}]], references=[[{"start": 0.0, "end": 10.0}]])["mIoU"]
    50.0
"""

_SPAN = {"start": datasets.Value("float64"), "end": datasets.Value("float64")}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class TemporalGrounding(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": [_SPAN], "references": [_SPAN]}),
        )

    def compute(self, *, predictions: list | None = None, references: list | None = None, **kwargs):
        """As `evaluate.Metric.compute`; further keys of spans are ignored, a missing one is named in the error."""
        columns = {"predictions": predictions, "references": references}
        chosen = {
            name: [[{key: span.get(key) for key in _SPAN} for span in spans] for spans in queries]
            for name, queries in columns.items()
            if queries is not None
        }
        return super().compute(**chosen, **kwargs)

    def _compute(
        self, predictions: list, references: list, thresholds: tuple[float, ...] = THRESHOLDS
    ) -> dict[str, float]:
        spans = [
            [[(event["start"], event["end"]) for event in events] for events in side]
            for side in (predictions, references)
        ]
        return score_spans(*spans, thresholds=thresholds)
