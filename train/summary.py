"""What a finished stage says about itself: `training_summary.json`, from which model cards are filled.

Written beside the weights by `train/sft.py` and published with them. It tells the stages before it, too, so that no card
depends on folders that have moved. It measures nothing that the trainer did not log.
"""

import dataclasses
import json
import platform
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from trl import SFTTrainer

from dataset_builders.release.provenance import git_commit, package_versions
from modeling_avicuna.origin_avicuna import ORIGIN_FILE, is_hub_id
from train.arguments import AVicunaTrainingArguments, StageArguments


SUMMARY_FILE = "training_summary.json"
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets")
NOT_SUMMARISED = {"hub_token", "output_dir", "logging_dir", "run_name"}


def changed_values(arguments) -> dict:
    """The fields of a dataclass that differ from its defaults and that JSON can hold."""
    changed = {}
    for field in dataclasses.fields(arguments):
        value = getattr(arguments, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if isinstance(value, (bool, int, float, str, list, dict)) and value != default and field.init:
            if field.name not in NOT_SUMMARISED:
                changed[field.name] = (
                    [dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for v in value]
                    if (isinstance(value, list))
                    else value
                )
    return changed


def read_beside(model: str, name: str) -> dict | None:
    """A JSON file that lies beside the weights of a checkpoint folder or Hub id; None where there is none."""
    path = Path(model, name)
    if not Path(model).is_dir():
        try:
            path = Path(hf_hub_download(model, name))
        except EntryNotFoundError:
            return None
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def describe_start(model: str) -> dict:
    """What a stage starts from: the summaries of the stages before it, what the parts were made of before the first one,
    and the Hub id that the first one started from, if it was one."""
    before = read_beside(model, SUMMARY_FILE)
    if before is None:
        base = None if Path(model).is_dir() else model
        return {"stages": [], "origin": read_beside(model, ORIGIN_FILE), "base": base}
    start = before.pop("started_from")
    return {**start, "stages": [*start["stages"], before]}


def describe_device() -> str:
    """What each process ran on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"


def write_summary(
    trainer: SFTTrainer,
    *,
    recipe: str | None,
    stage: StageArguments,
    training: AVicunaTrainingArguments,
    start: dict,
    counts: dict,
    seconds: float,
):
    """Writes the summary into the trainer's output folder; call it on one process.

    Args:
        recipe: name of the recipe, if one was given.
        start: what `describe_start` said before the training.
        counts: what `training_rows.load_rows` counted.
        seconds: time of `trainer.train`.
    """
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    world_size = trainer.accelerator.num_processes
    batch_size = world_size * training.per_device_train_batch_size * training.gradient_accumulation_steps
    summary = {
        "stage": recipe,
        "started_from": start,
        "recipe": {**changed_values(stage), **changed_values(training)},
        "num_rows": len(trainer.train_dataset),
        "hub_datasets": [source.path for source in stage.datasets if is_hub_id(source.path)],
        **counts,
        "steps": trainer.state.global_step,
        "first_loss": log[0]["loss"] if log else None,
        "final_loss": log[-1]["loss"] if log else None,
        "log": log,
        "eval_log": [entry for entry in trainer.state.log_history if "eval_loss" in entry],
        "seconds": round(seconds, 1),
        "effective_batch_size": batch_size,
        "world_size": world_size,
        "device": describe_device(),
        "precision": "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32",
        "versions": package_versions(LIBRARIES),
        "git_commit": git_commit(),
    }
    path = Path(training.output_dir) / SUMMARY_FILE
    path.write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")
