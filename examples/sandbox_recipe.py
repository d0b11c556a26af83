"""The sandbox recipe as a list of commands: world, features, five stages of training, evaluation.

`examples/demo.py` runs it once; `benchmarks/reproduce.py` runs it with other seeds, worlds and settings. Each step is
a command that a user could type, and the file that it leaves when it is complete.
"""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dataset_builders.workers import supervised_environment
from train.run_stages import Stage


WORLDS = {
    "plain": ("--event-seconds", "4", "12", "--video-seconds", "20", "40"),
    "default": (),
}
# What a world changes in the pseudo-untrimmed videos of the recipes, which are those of the plain world.
PU_VALOR = {
    "plain": {},
    "default": {"clips_per_video": [2, 9], "scale_range": [0.2, 1.2], "duration_range": [18, 62]},
}
NUM_CLIPS, NUM_BACKGROUND_CLIPS, NUM_TRAIN_VIDEOS, NUM_TEST_VIDEOS = 224, 16, 60, 60
PROJECT = Path(__file__).resolve().parents[1]
RECIPES = Path("train/recipes/sandbox")
STAGES = ("stage1", "stage2", "stage2_warmup", "stage3", "stage4")
INITIALIZE = {
    "size": "tiny",
    "language-model": "biogpt",
    "num-av-tokens": "100",
    "alignment": "centred",
    "window-seconds": "2",
    "stride-seconds": "1",
}


@dataclass(frozen=True)
class Step:
    """One command: `words` without the interpreter's path, and the `product` that exists once it has succeeded."""

    name: str
    words: tuple[str, ...]
    product: Path

    def start(self, **variables: str) -> subprocess.Popen:
        """Print and start the command from the project's root, one thread for each process.

        Args:
            variables: of the environment.
        """
        print(f"$ {shlex.join(self.words)}", flush=True)
        program = sys.executable if self.words[0] == "python" else str(Path(sys.executable).with_name(self.words[0]))
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        environment = supervised_environment(OMP_NUM_THREADS="1", PYTHONPATH=path, **variables)
        return subprocess.Popen([program, *self.words[1:]], cwd=PROJECT, env=environment)

    def run(self) -> None:
        """Run the command to its end.

        Raises:
            SystemExit: the command failed.
        """
        with self.start() as process:
            status = process.wait()
        if status:
            sys.exit(f"stopped: the command above ended with status {status}")


@dataclass(frozen=True)
class SandboxRun:
    """Settings of one run of the recipe.

    Args:
        world (`str`): key of `WORLDS`.
        seed (`int`): of the world and of all weights and batches.
        initialize (`dict`): options of `train.initialize` that differ from `INITIALIZE`.
        stages (`tuple(str)`): the stages to train, in order.
        pu_valor (`dict`): options of the `pu_valor` builder that differ from the recipes', in all stages.
        overrides (`dict`): stage -> options of `train/sft.py` that differ from its recipe.
        answering (`dict`): options of `eval.run` about how answers are generated.
        num_processes (`int`): processes of feature extraction and training, and workers that draw the world.
    """

    world: str = "plain"
    seed: int = 0
    initialize: dict[str, str] = field(default_factory=dict)
    stages: tuple[str, ...] = STAGES
    pu_valor: dict = field(default_factory=dict)
    overrides: dict[str, dict] = field(default_factory=dict)
    answering: dict[str, str] = field(default_factory=dict)
    num_processes: int = 1

    def __post_init__(self):
        if self.world not in WORLDS:
            raise ValueError(f"world must be one of {sorted(WORLDS)}, got {self.world!r}")
        unknown = [name for name in (*self.stages, *self.overrides) if name not in STAGES]
        if unknown or not self.stages:
            raise ValueError(f"stages must be some of {STAGES}, got {unknown or 'none'}")


def make_world(run: SandboxRun, world: Path) -> Step:
    """Clips, captions, and annotated untrimmed videos."""
    return step(
        "world",
        *("python", "-m", "dataset_builders.sandbox", "--output", world, "--num-clips", NUM_CLIPS),
        *("--num-background-clips", NUM_BACKGROUND_CLIPS, "--num-train-videos", NUM_TRAIN_VIDEOS),
        *("--num-test-videos", NUM_TEST_VIDEOS, *WORLDS[run.world]),
        *("--num-workers", run.num_processes, "--seed", run.seed),
        product=world / "annotations.json",
    )


def initialize(run: SandboxRun, world: Path, output: Path) -> Step:
    """The checkpoint that stage I starts from."""
    options = {**INITIALIZE, **run.initialize}
    return step(
        "initialize",
        *("python", "-m", "train.initialize", *(word for k, v in options.items() for word in (f"--{k}", v))),
        *("--captions", world / "captions.json", "--media-dir", world / "clips"),
        *("--output", output, "--seed", run.seed),
        product=output / "processor_config.json",  # written last
    )


def extract_features(run: SandboxRun, world: Path, model: Path, output: Path) -> Step:
    """Tower outputs of all clips and videos of a world."""
    return step(
        "features",
        *(*launch(run.num_processes), "-m", "train.extract_features", "--model", model),
        *("--media-dir", world, "--output", output, "--num-workers", 1),
        product=output / f"failed-{run.num_processes - 1:04d}.jsonl",
    )


def train_stage(run: SandboxRun, stage: str, *, world: Path, features: Path, start: Path, output: Path) -> Step:
    """One stage, from the checkpoint `start`; the processes share the batch of its recipe."""
    recipe = RECIPES / f"{stage}.yaml"
    values = yaml.safe_load((PROJECT / recipe).read_text(encoding="utf-8"))
    options: dict = {"seed": run.seed}
    if run.num_processes > 1:
        options["per_device_train_batch_size"] = values["effective_batch_size"] // run.num_processes
    changes = {**PU_VALOR[run.world], **run.pu_valor}
    for name in ("datasets", "eval_datasets"):
        sources = values.get(name, [])
        if changes and any(source["path"] == "pu_valor" for source in sources):
            options[name] = [change_pu_valor(source, changes) for source in sources]
    options |= run.overrides.get(stage, {})
    overrides = ["--data_dir", str(world), "--features_dir", str(features)]
    overrides += [word for name, value in options.items() for word in option_words(name, value)]
    launcher = launch(run.num_processes, on_cpu={**values, **options}["use_cpu"])
    command = Stage(recipe, str(start), output, overrides).command(shlex.join(launcher))
    return step(stage, *command, product=output / "training_summary.json")


def change_pu_valor(source: dict, changes: dict) -> dict:
    """An entry of a recipe's `datasets`, with other options where it is the builder `pu_valor`."""
    return {**source, "options": {**source["options"], **changes}} if source["path"] == "pu_valor" else source


def launch(num_processes: int, *, on_cpu: bool = True) -> tuple[str, ...]:
    """The launcher: on CPUs `accelerate launch` starts one process, whatever it is asked for."""
    if num_processes == 1:
        return ("accelerate", "launch", "--num_processes", "1", *(("--cpu",) if on_cpu else ()))
    return ("torchrun", "--standalone", "--nproc-per-node", str(num_processes))


def evaluate(
    task: str,
    *,
    model: Path,
    world: Path,
    output: Path,
    features: Path | None = None,
    score: str = "presence",
    answering: dict[str, str] | None = None,
) -> Step:
    """Score a model on the held-out videos, from their files or from cached features.

    Args:
        answering: see `SandboxRun`.
    """
    media = ("--media-dir", world / "test") if features is None else ("--features-dir", features)
    longest = 256 if task == "sandbox" else 40
    return step(
        task,
        *("python", "-m", "eval.run", "--task", task, "--model", model, "--annotations", world / "annotations.json"),
        *(*media, "--output", output, "--batch-size", 28, "--max-new-tokens", longest, "--score", score),
        *(word for name, value in (answering or {}).items() for word in (f"--{name}", value)),
        product=output / "results.json",
    )


def option_words(name: str, value: object) -> list[str]:
    """One option of the command line; lists become several words, mappings JSON."""
    values = value if isinstance(value, list) else [value]
    return [f"--{name}", *(json.dumps(v) if isinstance(v, (dict, bool)) else str(v) for v in values)]


def step(name: str, *words: object, product: Path) -> Step:
    return Step(name, tuple(map(str, words)), product)
