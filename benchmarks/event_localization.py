"""How long the mAP of event localization takes: the `evaluate` module on made-up predictions, by their number.

    python benchmarks/event_localization.py [--num-predictions 5900 10000 100000] [--output FILE]

The set has the size of UnAV-100's test split (2,167 videos, 100 classes). The official evaluator takes about 9 s for 5,900.
"""

import argparse
import json
import random
import time
from pathlib import Path
from statistics import median

import evaluate


NUM_VIDEOS, NUM_CLASSES = 2167, 100  # UnAV-100, subset "test"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-predictions", type=int, nargs="+", default=[5_900, 10_000, 100_000])
    parser.add_argument("--num-repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the figures here, as JSON")
    arguments = parser.parse_args()
    began = time.perf_counter()
    metric = evaluate.load(str(Path(__file__).resolve().parents[1] / "eval/metrics/event_localization"))
    print(f"load: {time.perf_counter() - began:.2f} s (once, after the import of evaluate)")
    rows = {}
    for num_predictions in arguments.num_predictions:
        predictions, references = make_sets(num_predictions)
        seconds, cpu_seconds = [], []
        for _ in range(arguments.num_repeats):
            began, cpu_began = time.perf_counter(), time.process_time()
            metric.compute(predictions=predictions, references=references)
            seconds.append(time.perf_counter() - began)
            cpu_seconds.append(time.process_time() - cpu_began)
        row = {"seconds": round(median(seconds), 3), "cpu_seconds": round(median(cpu_seconds), 3)}
        print(f"{num_predictions:>7} predictions: {row['seconds']} s, {row['cpu_seconds']} s of CPU (medians)")
        rows[str(num_predictions)] = row
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
