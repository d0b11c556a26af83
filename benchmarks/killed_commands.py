"""Kills the commands of this project at random moments, starts them again, and compares with undisturbed runs.

    python -m benchmarks.killed_commands --num-kills 100 --commands build_rendered push

`killing.py` describes how. Three parts of the commands are replaced, since they start new interpreters, which need
seconds for their imports: the worker processes of builds are forked instead of spawned (`--start-method spawn` keeps
them), `run_stages` forks a launcher and a stage instead of `accelerate launch`, and `push` omits the check that reads
the release in a new process. Results are added to benchmarks/results/killed_commands.json.
"""

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from benchmarks.killing import Command, fork, measure
from dataset_builders import workers
from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from dataset_builders.sandbox.world import make_world


PROGRAM = "python -m benchmarks.killed_commands"
RESULT = RESULTS / "killed_commands.json"
BUILD = "--clustering none --coherence-threshold none --ambiguity-threshold none --num-workers 2".split()
VIRTUAL = "--num-videos 600 --videos-per-shard 60".split()
RENDERED = (
    "--media rendered --num-videos 4 --videos-per-shard 1 --render-size 48 48 --render-fps 4 --clips-per-video 2 2"
).split()
RECIPE = """\
trainable: [vision_adapter, language_model]
chat_template: plain
datasets: [{path: image_text, options: {captions_file: captions.json}}]
max_steps: 5
learning_rate: 1.0e-3
effective_batch_size: 8
save_strategy: steps
save_steps: 1
bf16: false
use_cpu: true
gradient_checkpointing: false
logging_steps: 1
"""
NUM_VIDEOS = 16
LABELS = ("dog barking", "rain", "bell ringing", "car passing")


@dataclass
class Options:
    """Command line."""

    commands: list[str] = field(
        default_factory=lambda: list(COMMANDS), metadata={"help": "Which commands to kill: all by default."}
    )
    num_kills: int = field(default=100, metadata={"help": "Kills of each command."})
    start_method: str = field(
        default="fork", metadata={"choices": ["fork", "spawn"], "help": "How builds start their workers."}
    )
    seed: int = field(default=0, metadata={"help": "Of the moments."})
    output: Path = field(default=RESULT, metadata={"help": "File that the figures are added to."})

    def __post_init__(self):
        check_range(self, 1, "num_kills")
        if unknown := set(self.commands) - set(COMMANDS):
            raise ValueError(f"unknown command {min(unknown)!r}; known: {list(COMMANDS)}")


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(Options, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    for name in options.commands:
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            folder = Path(scratch)
            if options.start_method == "fork":
                stack.enter_context(patch.object(workers, "START_METHOD", "fork"))
            conditions = describe_conditions(
                ["torch", "transformers"], seed=options.seed, start_method=options.start_method
            )
            command = COMMANDS[name](folder, stack)
            (folder / "runs").mkdir()
            moments = random.Random(options.seed)
            label = f"{name} ({options.start_method})" if name.startswith("build") else name
            for result in measure(command, folder / "runs", num_kills=options.num_kills, moments=moments):
                add_result(options.output, label, {**result, "conditions": conditions})


def add_result(path: Path, label: str, result: dict) -> None:
    """Writes one result into the file, beside those of other commands."""
    results = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else {}
    write_results(path, conditions={"program": PROGRAM}, results={**results, label: result})


def read_folder(folder: Path) -> dict[str, object]:
    """The bytes of every file below a folder, without the card of a build, which names the folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def prepare_build(folder: Path, options: list[str]) -> Command:
    """A build of PU-VALOR with two workers; every file must be equal."""
    from dataset_builders import build

    call_in_child(partial(make_world, num_clips=5), folder / "world")
    inputs = ["--captions-file", str(folder / "world/captions.json"), "--clips-dir", str(folder / "world/clips")]
    words = [*inputs, *BUILD, *options]
    return Command(lambda output: build.main([*words, "--output", str(output)]), read_folder)


def make_checkpoint(folder: Path, *, num_clips: int) -> list[str]:
    """A sandbox world and a tiny random model in `folder`; the options that name them."""
    from train import initialize

    call_in_child(partial(make_world, num_clips=num_clips), folder / "world")
    words = ["--size", "tiny", "--captions-file", str(folder / "world/captions.json")]
    call_in_child(initialize.main, [*words, "--output", str(folder / "model")])
    return ["--model", str(folder / "model")]


def call_in_child(function: Callable[..., object], *arguments: object) -> None:
    """Calls a function in a forked process: this one must not start threads, which its children would lack."""
    process = fork(function, *arguments)
    process.join()
    if process.exitcode:
        raise ValueError(f"the preparation ended with status {process.exitcode}")


def prepare_features(folder: Path, stack: ExitStack) -> Command:
    """`train.extract_features`: every byte of the folder must be equal."""
    from train import extract_features

    words = make_checkpoint(folder, num_clips=6)
    words += ["--media-dir", str(folder / "world/clips"), "--media-per-part", "1"]
    return Command(lambda output: extract_features.main([*words, "--output", str(output)]), read_folder)


def prepare_stages(folder: Path, stack: ExitStack) -> Command:
    """`train.run_stages` with two stages: weights and losses must be equal."""
    import datasets

    from train import extract_features, run_stages, sft

    words = make_checkpoint(folder, num_clips=8)
    features = [*words, "--media-dir", str(folder / "world/clips"), "--output", str(folder / "features")]
    call_in_child(extract_features.main, features)
    (folder / "recipes").mkdir()
    for name in ("stage1", "stage2"):
        (folder / "recipes" / f"{name}.yaml").write_text(RECIPE, encoding="utf-8")
    words += ["--recipes-dir", str(folder / "recipes"), "--data-dir", str(folder / "world")]
    words += ["--features-dir", str(folder / "features"), "--launcher", sys.executable]

    def launch(command: list[str], env: dict[str, str]) -> SimpleNamespace:
        """Like `subprocess.run` for a launcher that starts the stage."""
        stage = fork(launcher, command[command.index(str(run_stages.SCRIPT)) + 1 :], env)
        stage.join()
        return SimpleNamespace(returncode=stage.exitcode)

    def launcher(arguments: list[str], env: dict[str, str]) -> None:
        os.environ.update(env)
        call_in_child(stage, arguments)

    def stage(arguments: list[str]) -> None:
        with one_line_errors("train/sft.py"):  # it ends with `run_stages`
            sft.main(arguments)

    stack.enter_context(patch.object(run_stages, "subprocess", SimpleNamespace(run=launch)))

    def run(output: Path) -> None:
        datasets.config.HF_DATASETS_CACHE = output.with_suffix(".cache")
        run_stages.main([*words, "--output", str(output)])

    def read(output: Path) -> dict[str, object]:
        found: dict[str, object] = {}
        for stage in sorted(output.iterdir()):
            summary = json.loads((stage / "training_summary.json").read_text(encoding="utf-8"))
            found[f"{stage.name}: losses"] = [entry["loss"] for entry in summary["log"]]
            found[f"{stage.name}: weights"] = (stage / "model.safetensors").read_bytes()
        return found

    return Command(run, read)


def prepare_evaluation(folder: Path, stack: ExitStack) -> Command:
    """`eval.run` on cached features: predictions must be equal byte by byte, and the metrics."""
    from dataset_builders.features.feature_store import FeatureWriter
    from eval import run
    from eval.metrics import load_metric
    from tests.tiny_models import save_random_checkpoint

    events = [{"segment": [0.0, 9.0], "label": label, "label_id": n} for n, label in enumerate(LABELS)]
    video = {"duration": 30.0, "subset": "test", "annotations": events}
    write_json(folder / "annotations.json", {"database": {f"v{n}": video for n in range(NUM_VIDEOS)}})
    rng = np.random.default_rng(0)
    with FeatureWriter(folder / "features") as writer:
        for n in range(NUM_VIDEOS):
            rows = {"video": rng.standard_normal((20, 64)), "audio": rng.standard_normal((7, 64))}
            writer.add(f"v{n}", **rows, duration=30.0)
    call_in_child(partial(save_random_checkpoint, labels=LABELS), folder / "model")
    load_metric("event_localization")  # imported once, here, and not in each process
    words = ["--task", "sandbox", "--model", str(folder / "model"), "--features-dir", str(folder / "features")]
    words += ["--annotations", str(folder / "annotations.json"), "--max-new-tokens", "32", "--batch-size", "2"]
    words += ["--timelines", "0"]
    return Command(lambda output: run.main([*words, "--output", str(output)]), read_evaluation)


def read_evaluation(output: Path) -> dict[str, object]:
    result = json.loads((output / "results.json").read_text(encoding="utf-8"))
    return {
        "predictions.jsonl": (output / "predictions.jsonl").read_bytes(),
        "results.json": {name: value for name, value in result.items() if name != "seconds"},
        "file names": sorted(path.name for path in output.iterdir()),
    }


def prepare_push(folder: Path, stack: ExitStack) -> Command:
    """`model_card.push` of a data set of ten shards to a local stand-in for the Hub: its files must be equal."""
    from huggingface_hub import constants

    from dataset_builders import build
    from model_card import push
    from tests.hub_server import TOKEN, serve_hub

    call_in_child(partial(make_world, num_clips=16), folder / "world")
    captions = ["--captions-file", str(folder / "world/captions.json")]
    call_in_child(build.main, [*captions, *BUILD, *VIRTUAL, "--output", str(folder / "dataset")])
    hub = stack.enter_context(serve_hub())
    stack.enter_context(patch.dict(os.environ, HF_TOKEN=TOKEN, NO_PROXY="127.0.0.1"))
    stack.enter_context(patch.multiple(constants, ENDPOINT=hub.address, HF_HUB_DISABLE_XET=True))
    stack.enter_context(patch.object(push, "verify_dataset", lambda release: "omitted"))

    def run(output: Path) -> None:
        tempfile.tempdir = str(output)  # a killed command leaves its assembled release there
        push.main(["--dataset", str(folder / "dataset"), "--repo-id", f"user/{output.name}"])

    def begin(output: Path) -> None:
        output.mkdir()
        hub.objects.clear()

    def read(output: Path) -> dict[str, object]:
        files = hub.repos["datasets", f"user/{output.name}"]
        return {name: content for name, content in files.items() if name != "README.md"}  # it names the repository

    return Command(run, read, begin)


COMMANDS: dict[str, Callable[[Path, ExitStack], Command]] = {
    "build_virtual": lambda folder, stack: prepare_build(folder, VIRTUAL),
    "build_rendered": lambda folder, stack: prepare_build(folder, RENDERED),
    "extract_features": prepare_features,
    "run_stages": prepare_stages,
    "eval_run": prepare_evaluation,
    "push": prepare_push,
}


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
