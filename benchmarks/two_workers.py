"""Runs the steps that need more than one machine with one worker and with two: equal results, and their CPU seconds.

    python -m benchmarks.two_workers --text-encoder DIR

In a sandbox world: PU-VALOR's shards as tasks of datatrove, feature extraction and a stage of training with DeepSpeed
ZeRO-3 as processes of torch's launcher, which is what `accelerate launch` starts on several GPUs or machines. Seconds
include the start of Python and of the libraries, which each worker needs, and depend on other work on the machine.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.features.feature_store import FeatureStore
from dataset_builders.input_settings import check_range


PROGRAM = "python -m benchmarks.two_workers"
PROJECT = Path(__file__).resolve().parents[1]
SHARDS = """
import sys
from datatrove.executor import LocalPipelineExecutor
from dataset_builders.pseudo_untrimmed.settings import CurationSettings
from dataset_builders.release.cluster_shards import BuildShards

if __name__ == "__main__":
    workers, captions, encoder, num_videos, output = sys.argv[1:]
    settings = CurationSettings(
        captions_file=captions, text_encoder=encoder, num_videos=int(num_videos), videos_per_shard=int(num_videos) // 8
    )
    settings.check()
    shards = BuildShards(settings, output)
    # spawned workers are children of this process, so that their CPU seconds are counted
    settings = {"tasks": 2, "workers": int(workers), "start_method": "spawn", "logging_dir": f"{output}.logs"}
    LocalPipelineExecutor(pipeline=[shards], **settings).run()
"""


@dataclass
class Options:
    """Options of the command."""

    text_encoder: Path = field(metadata={"help": "Folder of a sentence-transformers model."})
    num_clips: int = field(default=60, metadata={"help": "Clips of the world."})
    num_videos: int = field(default=20_000, metadata={"help": "Pseudo-untrimmed videos."})
    num_steps: int = field(default=20, metadata={"help": "Training steps, each of 8 samples."})
    output: Path = field(default=RESULTS / "two_workers.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 8, "num_clips", "num_videos")
        check_range(self, 1, "num_steps")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(Options, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    packages = ["torch", "accelerate", "deepspeed", "datatrove"]
    conditions = describe_conditions(packages, **asdict(options), threads_per_worker=1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        world, model = place / "world", place / "model"
        words = ["--num-clips", str(options.num_clips), "--num-test-videos", "0", "--seed", "0"]
        run("-m", "dataset_builders.sandbox", "--output", str(world), *words)
        words = ["--captions-file", str(world / "captions.json"), "--output", str(model)]
        run("-m", "train.initialize", "--size", "tiny", *words)
        parts: dict[str, Callable[[int, Path], Any]] = {
            "PU-VALOR shards, datatrove": lambda n, output: build(n, output, world=world, options=options),
            "feature extraction, accelerate": lambda n, output: extract(n, output, world=world, model=model),
            "training, DeepSpeed ZeRO-3": lambda n, output: train(n, output, place=place, options=options),
        }
        results = {name: compare(part, place / f"part{number}") for number, (name, part) in enumerate(parts.items())}
    write_results(options.output, conditions=conditions, results=results)


def compare(part: Callable[[int, Path], Any], output: Path) -> dict[str, Any]:
    """CPU and wall seconds of a part with one worker and with two.

    Raises:
        ValueError: the results differ.
    """
    figures, found = {}, []
    for num_workers in (1, 2):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        found.append(part(num_workers, output.with_name(f"{output.name}_{num_workers}")))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        figures[f"{num_workers} workers"] = {
            "cpu_seconds": round(cpu, 1),
            "wall_seconds": round(time.perf_counter() - began, 1),
        }
    if found[0] != found[1]:
        raise ValueError(f"one worker and two give different results: {found!r:.400}")
    return {**figures, "equal": found[0] if isinstance(found[0], list) else "byte by byte"}


def run(*words: str) -> None:
    variables = {
        "PYTHONPATH": str(PROJECT),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
    subprocess.run([sys.executable, *words], cwd=PROJECT, env={**os.environ, **variables}, check=True)


def launch(num_workers: int, *words: str) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(num_workers), "--rdzv_backend", "c10d"]
    run(*launcher, "--rdzv_endpoint", "127.0.0.1:0", *words)


def build(num_workers: int, output: Path, *, world: Path, options: Options) -> str:
    words = [str(num_workers), str(world / "captions.json"), str(options.text_encoder), str(options.num_videos)]
    script = output.with_suffix(".py")
    script.write_text(SHARDS)
    run(str(script), *words, str(output))
    return digest(sorted((output / "data").glob("*.parquet")))


def extract(num_workers: int, output: Path, *, world: Path, model: Path) -> str:
    words = ["--model", str(model), "--media-dir", str(world / "clips"), "--output", str(output)]
    launch(num_workers, "-m", "train.extract_features", *words)
    store = FeatureStore(output)
    rows = [(name, store.video(name).tobytes(), store.audio(name).tobytes()) for name in sorted(store)]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def train(num_workers: int, output: Path, *, place: Path, options: Options) -> list[float]:
    """The losses, to two decimals: the sum over two processes is rounded in another order."""
    words = {
        "config": PROJECT / "train/recipes/stage3_time_event.yaml",
        "model": place / "model",
        "features_dir": place / "part1_1",
        "datasets": sorted((place / "part0_1/data").glob("*.parquet"))[0],
        "deepspeed": PROJECT / "ds_config.json",
        "use_cpu": "true",
        "bf16": "false",
        "gradient_checkpointing": "false",
        "lora_dropout": "0",
        "per_device_train_batch_size": 8 // num_workers,
        "effective_batch_size": 8,
        "max_steps": options.num_steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "output_dir": output,
    }
    launch(num_workers, "train/sft.py", *(str(word) for name, value in words.items() for word in (f"--{name}", value)))
    log = json.loads((output / "training_summary.json").read_text(encoding="utf-8"))["log"]
    return [round(entry["loss"], 2) for entry in log]


def digest(paths: list[Path]) -> str:
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in paths)).hexdigest()


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
