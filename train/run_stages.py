"""Runs the recipes of a folder in order, each from the checkpoint that the one before it left.

    python -m train.run_stages --model_name_or_path outputs/stage0 --output_dir outputs --recipes_dir train/recipes \
        --launcher "accelerate launch --num_processes 8" --features_dir features

Arguments that it does not know go to every stage. Run again, it skips what is finished and resumes what was cut off. It
trains nothing itself.
"""

import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser
from transformers.trainer_utils import get_last_checkpoint

from train.summary import SUMMARY_FILE


SCRIPT = Path(__file__).with_name("sft.py")


@dataclass
class RunArguments:
    """Command line of `python -m train.run_stages`."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint that the first stage starts from."})
    output_dir: str = field(metadata={"help": "Folder with one folder for each stage, named as its recipe."})
    recipes_dir: str = field(
        default="train/recipes", metadata={"help": "Folder of stage*.yaml, run in order of name."}
    )
    launcher: str = field(default="accelerate launch", metadata={"help": "What starts train/sft.py."})


def stage_commands(args: RunArguments, *, overrides: list[str]) -> list[tuple[Path, list[str]]]:
    """(output folder, command) for each recipe, in order of name.

    Raises:
        ValueError: the folder holds no recipe.
    """
    recipes = sorted(Path(args.recipes_dir).glob("stage*.yaml"))
    if not recipes:
        raise ValueError(f"no stage*.yaml in {args.recipes_dir}")
    model, commands = args.model_name_or_path, []
    for recipe in recipes:
        output = Path(args.output_dir) / recipe.stem
        command = [*shlex.split(args.launcher), str(SCRIPT), "--config", str(recipe)]
        command += ["--model_name_or_path", model, "--output_dir", str(output), *overrides]
        commands.append((output, command))
        model = str(output)
    return commands


def main(arguments: list[str] | None = None):
    args, overrides = HfArgumentParser(RunArguments).parse_args_into_dataclasses(
        arguments, return_remaining_strings=True
    )
    for output, command in stage_commands(args, overrides=overrides):
        if (output / SUMMARY_FILE).exists():
            print(f"{output} is finished", flush=True)
            continue
        if output.is_dir() and get_last_checkpoint(str(output)):
            command = [*command, "--resume_from_checkpoint", "true"]
        print(shlex.join(command), flush=True)
        if status := subprocess.run(command).returncode:
            sys.exit(f"{output.name} ended with status {status}")


if __name__ == "__main__":
    main()
