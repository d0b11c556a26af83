"""Does the published form of training learn the sandbox, given more computation than two cores have?

    python -m benchmarks.gpu_learning --action prepare --folder DIR     # CPUs: world, features, stages I and II
    python -m benchmarks.gpu_learning --action train --folder DIR       # GPU: warm-up, stage III, evaluation

A Llama of 4 layers of 256 (RoPE, AdamW, published alignment, sound windows of 10 s) is trained by the sandbox's
recipes with larger batches. The warm-up stands in for what Vicuna brings. Stage III is run twice, side by side: by
LoRA on a frozen language model with the published rank and scale, and in full. Writes the loss curves, the accuracy of
times during the warm-up, and the scores of 60 held-out videos.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from benchmarks.full_size import device_conditions
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.input_settings import check_range
from dataset_builders.sources.captions import read_records
from examples import sandbox_recipe as recipe
from train.extract_features import list_media
from train.initialize import NUM_WHITENING_CLIPS, build_tiny
from train.whitening import spread, whiten_towers


PROGRAM = "python -m benchmarks.gpu_learning"
ACTIONS = ("prepare", "train")
TEXT = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8}
TEXT["num_key_value_heads"] = TEXT["num_attention_heads"]
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
# AdamW with a linear decay. The learning rate is our choice: the published 1e-4 is for batches of 128 and a 7B model.
ADAMW = {"use_muon": False, "learning_rate": 1e-3, "lr_scheduler_type": "linear", "warmup_steps": 0.05}
LORA = {
    "use_peft": True,
    "trainable": ["vision_adapter", "audio_adapter"],
}  # published rank and scale are the defaults
STAGE3 = {"stage III in full": {}, "stage III by LoRA": LORA}  # the faster one first


@dataclass
class LearningOptions:
    """Options of `python -m benchmarks.gpu_learning`."""

    action: str = field(metadata={"choices": list(ACTIONS), "help": "prepare, then train."})
    folder: Path = field(metadata={"help": "Folder of all steps."})
    device: str = field(default="cuda", metadata={"choices": ["cuda", "cpu"], "help": "Where `train` runs."})
    num_processes: int = field(default=1, metadata={"help": "Of `prepare`: processes that draw and extract."})
    num_workers: int = field(default=10, metadata={"help": "Processes that load data."})
    batch_size: int = field(default=32, metadata={"help": "Samples of a step."})
    seconds: int = field(default=100, metadata={"help": "Of stage III, and at most of the warm-up."})
    steps_per_second: float = field(default=30.0, metadata={"help": "Expected; it sets the number of steps."})
    output: Path = field(default=RESULTS / "gpu_learning.json", metadata={"help": "File for the figures."})

    def __post_init__(self):
        check_range(self, 1, "num_processes", "batch_size", "seconds")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(LearningOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    {"prepare": prepare, "train": train}[options.action](options)


def prepare(options: LearningOptions) -> None:
    """World, features, the initial checkpoint, and stages I and II, all on CPUs."""
    folder = options.folder.absolute()
    several = recipe.SandboxRun(num_processes=options.num_processes)
    run(recipe.make_world(several, folder / "world"))
    if not (folder / "stage0" / "config.json").exists():
        captions = [str(record["caption"]) for record in read_records(folder / "world" / "captions.json")]
        model, processor = build_tiny(captions, text=TEXT, num_av_tokens=100)
        whiten_towers(model, processor, spread(list_media(str(folder / "world" / "clips"), []), NUM_WHITENING_CLIPS))
        for part in (processor, model):
            part.save_pretrained(folder / "stage0")
    run(recipe.extract_features(several, folder / "world", folder / "stage0", folder / "features"), **NO_GPU)
    start = "stage0"
    for stage in ("stage1", "stage2"):
        run(train_step(options, stage, start=start, name=stage, device="cpu"), **NO_GPU)
        start = stage


def train(options: LearningOptions) -> None:
    """The warm-up, then both forms of stage III at the same time, and their evaluation."""
    conditions = describe_conditions(
        ["torch", "transformers", "trl", "peft"],
        **{**asdict(options), **device_conditions(options.device)},
        language_model=TEXT,
        optimizer=ADAMW,
    )
    results: dict[str, dict] = {}
    num_steps = max(4, round(options.seconds * options.steps_per_second))
    warm_up = {"max_steps": num_steps, "eval_steps": max(1, num_steps // 20), "logging_steps": 50, **ADAMW}
    warm_up |= {"lr_scheduler_type": "constant_with_warmup"}
    if options.device != "cpu":  # alone, so it has the processes of both trainings that follow
        warm_up["dataloader_num_workers"] = options.num_workers
    run(train_step(options, "stage2_warmup", start="stage2", name="warm-up", **warm_up))
    results["warm-up"] = read_training(options.folder / "warm-up")
    write_results(options.output, conditions=conditions, results=results)
    names = {name: name.replace(" ", "_") for name in STAGE3}
    settings = {"max_steps": num_steps, "logging_steps": max(1, num_steps // 40), **ADAMW}
    steps = [
        train_step(options, "stage3", start="warm-up", name=names[name], **settings, **changes)
        for name, changes in STAGE3.items()
    ]
    with ThreadPoolExecutor(len(names)) as threads:  # each is scored when it is trained: a time limit may end the rest
        finished = [threads.submit(train_and_score, options, step, names[name]) for name, step in zip(names, steps)]
        for name, result in zip(names, finished):
            results[name] = result.result()
            write_results(options.output, conditions=conditions, results=results)


def train_and_score(options: LearningOptions, step: recipe.Step, name: str) -> dict:
    """The curves and the scores of one form of stage III."""
    if step.start().wait():
        return {"failed": "the training failed, see its output"}
    result = read_training(options.folder / name)
    path = options.folder / f"{name}-scores" / "results.json"
    failed = score_step(options, name).start().wait()
    return {**result, "scores": "the evaluation failed" if failed else json.loads(path.read_text())["metrics"]}


def train_step(
    options: LearningOptions, stage: str, *, start: str, name: str, device: str | None = None, **settings: object
) -> recipe.Step:
    """A stage of the recipe with other settings, on the device."""
    folder = options.folder.absolute()
    if (device or options.device) != "cpu":
        settings = {"use_cpu": False, "dataloader_num_workers": options.num_workers // len(STAGE3), **settings}
    if stage in ("stage2_warmup", "stage3"):
        settings |= {"per_device_train_batch_size": options.batch_size, "effective_batch_size": options.batch_size}
    return recipe.train_stage(
        recipe.SandboxRun(stages=(stage,), overrides={stage: settings}),
        stage,
        world=folder / "world",
        features=folder / "features",
        start=folder / start,
        output=folder / name,
    )


def score_step(options: LearningOptions, name: str) -> recipe.Step:
    folder = options.folder.absolute()
    return recipe.evaluate(
        "sandbox_query",
        model=folder / name,
        world=folder / "world",
        features=folder / "features",
        output=folder / f"{name}-scores",
    )


def read_training(folder: Path) -> dict:
    """Steps, seconds, and the curves of a finished training."""
    summary = json.loads((folder / "training_summary.json").read_text())
    return {
        "seconds": summary["seconds"],
        "steps": summary["steps"],
        "loss": [(entry["step"], round(entry["loss"], 4)) for entry in summary["log"]],
        "evaluations": summary["eval_log"],
    }


def run(step: recipe.Step, **variables: str) -> None:
    """Runs a step, unless its product exists.

    Raises:
        ValueError: the command failed.
    """
    if step.product.exists():
        return
    started = time.perf_counter()
    if step.start(**variables).wait():
        raise ValueError(f"the step {step.name} failed, see its output above")
    print(f"{step.name}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with one_line_errors(PROGRAM):
        main()
