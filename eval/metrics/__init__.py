"""Metrics: `evaluate` module folders over pure functions, the names of their values, and a loader that works offline.

Each folder is complete: it can be loaded by path, or pushed to the Hub as a metric. Values are in 0-100.
"""

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import evaluate


METRIC_NAMES = {
    "event_localization": (*(f"mAP@0.{tenth}" for tenth in range(1, 10)), "average_mAP"),
    "temporal_grounding": (
        *("mIoU", "R1@0.3", "R1@0.5", "R1@0.7", "union_IoU"),
        *("F1@0.3", "F1@0.5", "F1@0.7", "tF1@0.3", "tF1@0.5", "tF1@0.7", "EtF1", "count_accuracy"),
        *("answered", "CountF1"),
    ),
    "dense_captioning": ("SODA_c_nltk", "METEOR_nltk", "CIDEr", "precision", "recall"),
    "open_ended_qa": ("exact_match", "contained"),
}


def load_metric(name: str) -> "evaluate.EvaluationModule":
    """The metric of the folder `name` beside this file."""
    import evaluate  # not at the top: `eval.events` runs without it

    return evaluate.load(str(Path(__file__).parent / name), keep_in_memory=True)
