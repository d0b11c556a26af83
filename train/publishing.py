"""Publishes a finished stage by `python -m model_card.push`, which writes the card, checks the release and uploads it.

The last step of `train/sft.py --push_to_hub true`, on one process. It runs in a process of its own, because `train`
does not import `model_card`, and because a release is checked by a reader that shares no state with training.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from train.arguments import AVicunaTrainingArguments


CHECKOUT = Path(__file__).resolve().parents[1]
# variables of a launcher, which a process started alone must not inherit
LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def push_command(training: AVicunaTrainingArguments) -> list[str]:
    """The command that publishes `output_dir` under `hub_model_id`, or under the folder's own name."""
    folder = Path(training.output_dir).resolve()
    command = [sys.executable, "-m", "model_card.push", "--model", str(folder)]
    command += ["--repo-id", training.hub_model_id or folder.name]
    command += ["--private"] if training.hub_private_repo else []
    return [*command, "--revision", training.hub_revision] if training.hub_revision else command


def publish_stage(training: AVicunaTrainingArguments):
    """Runs the command; call it on one process, after the folder and its summary are written.

    Raises:
        RuntimeError: it failed. The stage is saved nevertheless, and the message has the command to run again.
    """
    command = push_command(training)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in LAUNCHER_VARIABLES and not name.startswith(("ACCELERATE_", "TORCHELASTIC_"))
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), environment.get("PYTHONPATH")]))
    if training.hub_token:
        environment["HF_TOKEN"] = training.hub_token
    if status := subprocess.run(command, env=environment).returncode:
        raise RuntimeError(
            f"{training.output_dir} is trained, but not published (status {status}); run again: {shlex.join(command)}"
        )
