"""Narrations that repeat themselves: how many there are without and with `end_repetition`, and what is named right.

    python -m benchmarks.narration

Lists the events of new videos of the sandbox in both ways. A narration repeats itself if the same words follow each
other four times. An event is right if it matches an annotated event of its class, one to one, with a temporal IoU of
at least 0.5.
"""

import json
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Pipeline, pipeline

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from dataset_builders.release.provenance import model_hash
from dataset_builders.sandbox import make_world
from dataset_builders.sandbox.world import TimeLine
from eval.metrics.temporal_grounding.spans import num_matches
from eval.metrics.temporal_iou import pairwise_iou


PROGRAM = "python -m benchmarks.narration"
TIME_LINE = TimeLine(event_seconds=(4.0, 12.0), video_seconds=(20, 40))  # as the shipped checkpoint was trained

REPETITION = re.compile(r"\b(\w.*?)(?: \1\b){3}")


@dataclass
class NarrationOptions:
    """Options of `python -m benchmarks.narration`."""

    model: str = field(
        default="examples/sandbox_checkpoint", metadata={"help": "A checkpoint that knows the sandbox."}
    )
    num_videos: int = field(default=120, metadata={"help": "Number of videos."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest answer, in tokens."})
    seed: int = field(default=500, metadata={"help": "Of the sandbox."})
    output: Path = field(default=RESULTS / "narration.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "num_videos", "max_new_tokens")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(NarrationOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    torch.set_num_threads(1)
    conditions = describe_conditions(
        ["torch", "transformers"],
        **{**asdict(options), "device": "cpu, 1 thread", "model_hash": model_hash(options.model)},
    )
    narrate = pipeline(task="audio-visual-event-localization", model=options.model, trust_remote_code=True)
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        make_world(world, num_clips=0, num_test_videos=options.num_videos, seed=options.seed, time_line=TIME_LINE)
        database = json.loads((world / "annotations.json").read_text())["database"]
        videos = [(world / "test" / f"{name}.mp4", video) for name, video in sorted(database.items())]
        results = {
            name: measure(narrate, videos, max_new_tokens=options.max_new_tokens, end_repetition=end_repetition)
            for name, end_repetition in (("default", False), ("end_repetition", True))
        }
    write_results(options.output, conditions=conditions, results=results)


def measure(narrate: Pipeline, videos: list[tuple[Path, dict]], **settings: Any) -> dict[str, Any]:
    """Counts over all videos; `settings` are those of the pipeline."""
    counts = {"num_videos": len(videos), "num_repeating": 0, "num_tokens": 0}
    counts |= {"num_annotated": 0, "num_named": 0, "num_right": 0}
    began = time.process_time()
    for path, video in videos:
        (answer,) = narrate.forward(narrate.preprocess(str(path)), **settings)["answers"]
        named = [(event.label, event.start, event.end) for event in answer.events]
        annotated = [(event["label"], *event["segment"]) for event in video["annotations"]]
        counts["num_repeating"] += REPETITION.search(answer.text) is not None
        counts["num_tokens"] += len(narrate.processor.tokenizer(answer.text, add_special_tokens=False).input_ids)
        counts["num_annotated"] += len(annotated)
        counts["num_named"] += len(named)
        counts["num_right"] += num_right(named, annotated)
    precision, recall = (counts["num_right"] / counts[name] for name in ("num_named", "num_annotated"))
    return {
        **counts,
        "precision": round(100 * precision, 1),
        "recall": round(100 * recall, 1),
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def num_right(named: list[tuple], annotated: list[tuple]) -> int:
    """Events `(label, start, end)` that match annotated ones of their class."""
    right = 0
    for label in {event[0] for event in named} & {event[0] for event in annotated}:
        spans, others = (np.array([event[1:] for event in of if event[0] == label]) for of in (named, annotated))
        right += num_matches(pairwise_iou(spans, others), 0.5)
    return right


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
