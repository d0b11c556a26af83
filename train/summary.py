"""What a finished stage says about itself: `training_summary.json`, from which model cards are filled.

Written beside the weights by `train/sft.py`; never pushed with them. It measures nothing that the trainer did not log.
"""

import dataclasses
import json
from pathlib import Path

from trl import SFTTrainer

from dataset_builders.provenance import git_commit, package_versions
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


def write_summary(
    trainer: SFTTrainer,
    *,
    recipe: str | None,
    stage: StageArguments,
    training: AVicunaTrainingArguments,
    counts: dict,
    seconds: float,
):
    """Writes the summary into the trainer's output folder; call it on one process.

    Args:
        recipe: name of the recipe, if one was given.
        counts: what `training_rows.load_rows` counted.
        seconds: time of `trainer.train`.
    """
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    world_size = trainer.accelerator.num_processes
    batch_size = world_size * training.per_device_train_batch_size * training.gradient_accumulation_steps
    summary = {
        "stage": recipe,
        "recipe": {**changed_values(stage), **changed_values(training)},
        "num_rows": len(trainer.train_dataset),
        **counts,
        "steps": trainer.state.global_step,
        "first_loss": losses[0] if losses else None,
        "final_loss": losses[-1] if losses else None,
        "seconds": round(seconds, 1),
        "effective_batch_size": batch_size,
        "world_size": world_size,
        "precision": "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32",
        "versions": package_versions(LIBRARIES),
        "git_commit": git_commit(),
    }
    path = Path(training.output_dir) / SUMMARY_FILE
    path.write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")
