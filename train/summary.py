"""The record of a finished stage, `training_summary.json`, which is the source of the model card.

It is saved and published with the weights, and contains the records of the earlier stages, so that a card needs no
other folder.
"""

import dataclasses
import math
import platform
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from dataset_builders.atomic_files import write_json
from dataset_builders.release.provenance import git_commit, package_versions
from dataset_builders.sources.annotation_files import read_object
from modeling_avicuna.origin_avicuna import ORIGIN_FILE, is_hub_id
from train.arguments import AVicunaTrainingArguments, StageArguments
from train.checkpoint import ADAPTER_FOLDER, base_of_adapter
from train.resuming import SUMMARY_FILE
from train.trainer import AVicunaTrainer


LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets")
NOT_SUMMARISED = {"hub_token", "output_dir", "logging_dir", "run_name", "datasets", "eval_datasets"}


def changed_values(arguments: StageArguments | AVicunaTrainingArguments) -> dict:
    """The fields that differ from their defaults and can be written as JSON."""
    changed = {}
    for field in dataclasses.fields(arguments):
        value = getattr(arguments, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.init and field.name not in NOT_SUMMARISED and value != default:
            if isinstance(value, (bool, int, float, str, list, dict)):
                changed[field.name] = value
    return changed


def recipe_of(stage: StageArguments, training: AVicunaTrainingArguments) -> dict:
    """The settings that differ from the defaults, with all fields of each data source."""
    sources = {
        name: [dataclasses.asdict(source) for source in entries]
        for name, entries in (("datasets", stage.sources), ("eval_datasets", stage.eval_sources))
        if entries
    }
    return {**changed_values(stage), **changed_values(training), **sources}


def read_beside(model: str, name: str, *, revision: str | None = None) -> dict | None:
    """A JSON file of a checkpoint folder or Hub id, or None."""
    path = Path(model, name)
    if not Path(model).is_dir():
        try:
            path = Path(hf_hub_download(model, name, revision=revision))
        except EntryNotFoundError:
            return None
    return read_object(path) if path.is_file() else None


def describe_start(model: str, *, revision: str | None = None) -> dict:
    """The history of the checkpoint that a stage starts from.

    Args:
        model: folder or Hub id. LoRA weights are described by the stage that they belong to, otherwise by their base
            model.
        revision: of a Hub id.

    Returns:
        {"stages": the summaries of the earlier stages, "origin": the parts of the first checkpoint, "base": the Hub id
        that the first stage started from, or None}.
    """
    base = base_of_adapter(model, revision=revision)
    if base is not None:
        is_finished = Path(model).name == ADAPTER_FOLDER and Path(model).with_name(SUMMARY_FILE).is_file()
        return describe_start(str(Path(model).parent) if is_finished else base)
    before = read_beside(model, SUMMARY_FILE, revision=revision)
    if before is None:
        hub_id = None if Path(model).is_dir() else model
        return {"stages": [], "origin": read_beside(model, ORIGIN_FILE, revision=revision), "base": hub_id}
    start = before.pop("started_from", None)
    if not isinstance(start, dict) or not isinstance(start.get("stages"), list):
        raise ValueError(
            f"{Path(model, SUMMARY_FILE)} has no history in `started_from`: train/sft.py did not write it"
        )
    return {**start, "stages": [*start["stages"], before]}


def finite_entries(history: list[dict], name: str) -> list[dict]:
    """The log entries with a value `name`; NaN and infinities, which JSON does not support, become null."""
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
        for entry in history
        if name in entry
    ]


def write_summary(
    trainer: AVicunaTrainer,
    *,
    recipe: str | None,
    stage: StageArguments,
    training: AVicunaTrainingArguments,
    start: dict,
    counts: dict,
    seconds: float,
):
    """Writes the summary to the trainer's output folder; call it on one process.

    Args:
        recipe: name of the recipe, if one was given.
        start: result of `describe_start` before the training.
        counts: rows per source, dropped rows, samples without a supervised token.
        seconds: duration of `trainer.train`.
    """
    log = finite_entries(trainer.state.log_history, "loss")
    world_size = trainer.accelerator.num_processes
    assert training.gradient_accumulation_steps is not None  # derived by AVicunaTrainingArguments
    summary = {
        "stage": recipe,
        "started_from": start,
        "recipe": recipe_of(stage, training),
        "num_rows": len(trainer.train_dataset),
        "hub_datasets": [source.path for source in stage.sources if is_hub_id(source.path)],
        **counts,
        "steps": trainer.state.global_step,
        "first_loss": log[0]["loss"] if log else None,
        "final_loss": log[-1]["loss"] if log else None,
        "log": log,
        "eval_log": finite_entries(trainer.state.log_history, "eval_loss"),
        "seconds": round(seconds, 1),
        "effective_batch_size": (
            world_size * training.per_device_train_batch_size * training.gradient_accumulation_steps
        ),
        "world_size": world_size,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})",
        "precision": "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32",
        "versions": package_versions(LIBRARIES),
        "git_commit": git_commit(),
    }
    write_json(Path(training.output_dir) / SUMMARY_FILE, summary, sort_keys=True)
