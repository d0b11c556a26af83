"""Selects the checkpoint of an interrupted stage to resume from. Trainer loads it."""

import json
import logging
import os
import re
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open


logger = logging.getLogger(__name__)

SETTINGS_FILE = "stage_settings.json"  # the settings a stage was started with: train/run_stages.py writes it first
SUMMARY_FILE = "training_summary.json"  # a finished stage has it: train/sft.py writes it last
STATE_FILE = "trainer_state.json"  # Trainer writes it last
# optimizer states of DeepSpeed: one file per process
DEEPSPEED_RANK = re.compile(r"zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt")


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint is complete: the trainer's state exists and no file is truncated."""
    try:
        json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        for path in checkpoint.rglob("*.safetensors"):
            with safe_open(path, framework="numpy"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return all(zipfile.is_zipfile(path) for suffix in ("pt", "pth", "bin") for path in checkpoint.rglob(f"*.{suffix}"))


def newest_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete `checkpoint-<step>` folder of a stage, or None. Incomplete ones are logged."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for folder in sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if is_complete(folder):
            return folder
        logger.warning("%s is incomplete: an earlier checkpoint is used", folder)
    return None


def check_num_processes(checkpoint: Path):
    """Raises ValueError if a DeepSpeed checkpoint was saved by another number of processes: its optimizer state is
    divided among them."""
    ranks = {int(m[1]) for path in checkpoint.rglob("*_optim_states.pt") if (m := DEEPSPEED_RANK.search(path.name))}
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks and len(ranks) != num_processes:
        raise ValueError(
            f"{checkpoint} was saved by {len(ranks)} processes and cannot be resumed by {num_processes}: start "
            f"{len(ranks)} processes, or restart the stage from the last finished one"
        )


def resume_point(resume: str | None, output_dir: str) -> str | None:
    """The checkpoint to resume from, or None.

    Args:
        resume: `resume_from_checkpoint`: a folder, or "true" for the newest complete checkpoint in `output_dir`.

    Raises:
        ValueError: no complete checkpoint, or one of another number of processes (DeepSpeed).
    """
    if resume is None or resume.lower() in ("false", ""):
        return None
    checkpoint = newest_checkpoint(output_dir) if resume.lower() == "true" else Path(resume)
    if checkpoint is None:
        raise ValueError(f"nothing to resume from: no complete checkpoint-<step> folder in {output_dir}")
    if not is_complete(checkpoint):
        raise ValueError(f"cannot resume from {checkpoint}: it is missing or incomplete")
    check_num_processes(checkpoint)
    return str(checkpoint)
