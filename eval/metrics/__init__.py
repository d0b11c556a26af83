"""Metrics as `evaluate` module folders over pure functions, and the one call that loads them offline.

Each folder stands alone: it can be loaded by path, or pushed to the Hub as a metric. Values are in 0-100.
"""

from pathlib import Path

import evaluate


def load_metric(name: str) -> evaluate.EvaluationModule:
    """The metric of the folder `name` beside this file."""
    return evaluate.load(str(Path(__file__).parent / name), keep_in_memory=True)
