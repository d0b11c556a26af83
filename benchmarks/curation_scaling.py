"""How the time and memory of planning PU-VALOR grow with the number of captions: clustering, plans and filters.

    python -m benchmarks.curation_scaling --num-captions 250000 500000 1000000

Captions and their embeddings are synthetic, so no encoder runs: groups of about 40 captions around a topic, topics
around one of 50 themes. As many videos are planned as there are captions. Each size runs in a fresh process with one
thread. `seconds` and `cpu_seconds` are without the time to draw the embeddings; memory is the peak of the process, the
embeddings (1.5 GB for 1,000,000) included.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.pseudo_untrimmed.settings import CurationSettings
from dataset_builders.pseudo_untrimmed.split_planning import plan_split
from dataset_builders.sources.captions import Clip
from dataset_builders.workers import supervised_environment


PROGRAM = "python -m benchmarks.curation_scaling"
EMBEDDING_SIZE = 384  # of all-MiniLM-L6-v2
CAPTIONS_PER_TOPIC, NUM_THEMES, NOISE = 40, 50, 0.8
CHUNK = 50_000  # captions drawn at a time


@dataclass
class ScalingOptions:
    """Options of `python -m benchmarks.curation_scaling`."""

    num_captions: list[int] = field(
        default_factory=lambda: [250_000, 500_000, 1_000_000], metadata={"help": "Sizes, each in a fresh process."}
    )
    results: Path = field(default=RESULTS / "curation_scaling.json", metadata={"help": "File for the figures."})
    here: bool = field(default=False, metadata={"help": "Measure the only size in this process, and print it."})

    def __post_init__(self):
        if min(self.num_captions, default=0) < 1 or (self.here and len(self.num_captions) != 1):
            raise ValueError(f"num_captions must be counts of at least 1 (one with --here), got {self.num_captions}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(ScalingOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    if options.here:
        print(json.dumps(measure(options.num_captions[0])))
        return
    conditions, rows = describe_conditions(["numpy", "scikit-learn"]), []
    for number in options.num_captions:
        command = [*PROGRAM.split(), "--here", "true", "--num-captions", str(number)]
        done = subprocess.run(
            [sys.executable, *command[1:]],
            cwd=Path(__file__).parents[1],
            env=supervised_environment(OMP_NUM_THREADS="1"),
            stdout=subprocess.PIPE,
            check=True,
        )
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    write_results(options.results, conditions=conditions, results={"rows": rows})


def measure(num_captions: int) -> dict:
    """Plan as many videos as there are captions; times in seconds, memory in gigabytes."""
    embeddings = draw_embeddings(num_captions)
    clips = [Clip(f"clip{index:07d}", f"event number {index}", 10.0) for index in range(num_captions)]
    settings = CurationSettings(captions_file="captions.json")
    settings.check()
    began, cpu = time.monotonic(), time.process_time()
    planned = plan_split(clips, embeddings, backgrounds=[], num_videos=num_captions, seed=0, settings=settings)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    clusters = planned.facts["clusters"]
    return {
        "num_captions": num_captions,
        "num_videos": planned.facts["num_videos"],
        "num_clusters": clusters["num_clusters"],
        "largest_cluster": max(clusters["sizes"]),
        "mean_cosine": round(clusters["mean_cosine"], 3),
        "random_mean_cosine": round(clusters["random_mean_cosine"], 3),
        "rejected_plans": planned.facts["rejected_plans"],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "cpu_microseconds_per_caption": round(1e6 * cpu / num_captions, 1),
        "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }


def draw_embeddings(num_captions: int, *, seed: int = 0) -> np.ndarray:
    """Unit-length rows around random topics, `(num_captions, EMBEDDING_SIZE)` float32."""
    generator = np.random.default_rng(seed)
    num_topics = max(1, num_captions // CAPTIONS_PER_TOPIC)
    themes = generator.standard_normal((NUM_THEMES, EMBEDDING_SIZE), np.float32)
    topics = themes[generator.integers(NUM_THEMES, size=num_topics)]
    topics = topics + generator.standard_normal((num_topics, EMBEDDING_SIZE), np.float32)
    topics /= np.linalg.norm(topics, axis=1, keepdims=True)
    embeddings = np.empty((num_captions, EMBEDDING_SIZE), np.float32)
    for first in range(0, num_captions, CHUNK):
        part = embeddings[first : first + CHUNK]
        part[:] = generator.standard_normal(part.shape, np.float32) * np.float32(NOISE / EMBEDDING_SIZE**0.5)
        part += topics[generator.integers(num_topics, size=len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return embeddings


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
