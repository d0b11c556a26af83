"""How long the mAP of event localization takes: the `evaluate` module on made-up predictions, by their number.

    python -m benchmarks.event_localization --num-predictions 5900 10000 100000

The set has the size of UnAV-100's test split (2,167 videos, 100 classes). The official evaluator takes about 9 s for
5,900 predictions.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from eval.metrics import load_metric


PROGRAM = "python -m benchmarks.event_localization"
NUM_VIDEOS, NUM_CLASSES = 2167, 100  # UnAV-100, subset "test"


@dataclass
class LocalizationOptions:
    """Options of `python -m benchmarks.event_localization`."""

    num_predictions: list[int] = field(
        default_factory=lambda: [5_900, 10_000, 100_000], metadata={"help": "Sizes to measure."}
    )
    rounds: int = field(default=5, metadata={"help": "Measurements of each size; the median counts."})
    output: Path = field(default=RESULTS / "event_localization.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "rounds")
        if min(self.num_predictions, default=0) < 1:
            raise ValueError(f"num_predictions must be counts of at least 1, got {self.num_predictions}")


def make_sets(num_predictions: int, *, seed: int = 0) -> tuple[list[list[dict]], list[list[dict]]]:
    """Predictions (truth with noise, duplicates, wrong classes) and references, one list per video."""
    rng = random.Random(seed)

    def draw() -> dict:
        start = rng.uniform(0, 40)
        return {"start": start, "end": start + rng.uniform(1, 20), "label": f"class {rng.randrange(NUM_CLASSES)}"}

    references = [[draw() for _ in range(rng.randint(1, 5))] for _ in range(NUM_VIDEOS)]
    predictions: list[list[dict]] = [[] for _ in references]
    for _ in range(num_predictions):
        video = rng.randrange(NUM_VIDEOS)
        event = dict(rng.choice(references[video])) if rng.random() < 0.8 else draw()
        event["start"] += rng.gauss(0, 1)
        event["end"] += rng.gauss(0, 1)
        predictions[video].append({**event, "score": rng.random()})
    return predictions, references


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(LocalizationOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    conditions = describe_conditions(["evaluate", "numpy"], rounds=options.rounds)
    began = time.perf_counter()
    metric = load_metric("event_localization")
    results: dict[str, object] = {"seconds_to_load": round(time.perf_counter() - began, 2)}
    for num_predictions in options.num_predictions:
        predictions, references = make_sets(num_predictions)
        seconds, cpu_seconds = [], []
        for _ in range(options.rounds):
            began, cpu_began = time.perf_counter(), time.process_time()
            metric.compute(predictions=predictions, references=references)
            seconds.append(time.perf_counter() - began)
            cpu_seconds.append(time.process_time() - cpu_began)
        results[str(num_predictions)] = {
            "seconds": round(median(seconds), 3),
            "cpu_seconds": round(median(cpu_seconds), 3),
        }
    write_results(options.output, conditions=conditions, results=results)


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
