"""Publishes a finished stage with `python -m model_card.push` (`train/sft.py --push_to_hub true`).

The command runs in a separate process, because `train` does not import `model_card`, and so that the release is
checked without any state of the training.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from dataset_builders.workers import supervised_environment
from train.arguments import AVicunaTrainingArguments


CHECKOUT = Path(__file__).resolve().parents[1]
# environment variables of a launcher, which a single process must not inherit
LAUNCHER_VARIABLES = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT".split()


def push_command(training: AVicunaTrainingArguments) -> list[str]:
    """The command that publishes `output_dir` as `hub_model_id`, by default as the name of the folder."""
    folder = Path(training.output_dir).resolve()
    command = [sys.executable, "-m", "model_card.push", "--model", str(folder)]
    command += ["--repo-id", training.hub_model_id or folder.name]
    command += ["--private"] if training.hub_private_repo else []
    return [*command, "--revision", training.hub_revision] if training.hub_revision else command


def publish_stage(training: AVicunaTrainingArguments):
    """Runs the command; call it on one process, after the folder and its summary are written.

    Raises:
        RuntimeError: it failed; the message has the command to run again.
    """
    command = push_command(training)
    environment = {
        name: value
        for name, value in supervised_environment().items()
        if name not in LAUNCHER_VARIABLES and not name.startswith(("ACCELERATE_", "TORCHELASTIC_"))
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), environment.get("PYTHONPATH")]))
    if training.hub_token:
        environment["HF_TOKEN"] = training.hub_token
    if status := subprocess.run(command, env=environment).returncode:
        raise RuntimeError(
            f"{training.output_dir} is trained, but not published (status {status}); run again: {shlex.join(command)}"
        )
