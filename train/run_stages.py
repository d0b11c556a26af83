"""Runs the recipes of a folder in order; each stage starts from the checkpoint of the previous one.

    python -m train.run_stages --model outputs/stage0 --output outputs --recipes-dir train/recipes \
        --launcher "accelerate launch --num_processes 8" --features-dir features

Other options are passed to `train/sft.py` for every stage. A second run skips finished stages and resumes an
interrupted one.
"""

import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dataset_builders.atomic_files import write_json
from dataset_builders.command_line import OneLineParser, one_line_errors
from dataset_builders.release.provenance import model_hash
from dataset_builders.sources.annotation_files import read_object
from dataset_builders.workers import supervised_environment
from modeling_avicuna.origin_avicuna import is_hub_id
from train.arguments import StageParser, read_recipe
from train.resuming import SETTINGS_FILE, SUMMARY_FILE, newest_checkpoint


PROGRAM = "python -m train.run_stages"
SCRIPT = Path(__file__).with_name("sft.py")


@dataclass
class RunOptions:
    """Command line of `python -m train.run_stages`."""

    model: str = field(
        metadata={"aliases": ["--model_name_or_path"], "help": "Checkpoint that the first stage starts from."}
    )
    output: str = field(
        metadata={"aliases": ["--output_dir"], "help": "Folder with one sub-folder per stage, named as its recipe."}
    )
    recipes_dir: str = field(
        default="train/recipes", metadata={"help": "Folder of stage*.yaml, run in the order of their names."}
    )
    launcher: str = field(default="accelerate launch", metadata={"help": "Command that starts train/sft.py."})


@dataclass
class Stage:
    """One stage: its recipe, the checkpoint it starts from, its folder, and options that override the recipe."""

    recipe: Path
    model: str
    output: Path
    overrides: list[str]

    @property
    def is_finished(self) -> bool:
        """Whether an earlier run trained the stage to its end."""
        return (self.output / SUMMARY_FILE).exists()

    def command(self, launcher: str) -> list[str]:
        """The command that trains the stage."""
        command = [*shlex.split(launcher), str(SCRIPT), "--config", str(self.recipe)]
        return [*command, "--model", self.model, "--output_dir", str(self.output), *self.overrides]

    def settings(self) -> dict:
        """The settings that the result depends on."""
        return {"model": model_hash(self.model), "recipe": read_recipe(self.recipe), "overrides": self.overrides}

    def check_settings(self):
        """Raises ValueError, with the first difference, if the folder has training of other settings."""
        path = self.output / SETTINGS_FILE
        if not path.exists() or not (self.is_finished or newest_checkpoint(self.output)):
            return
        before, now = read_object(path), self.settings()
        for name in now:
            if before.get(name) != now[name]:
                raise ValueError(
                    f"{self.output} was started with {name} {before.get(name)}, and this command has {now[name]}: "
                    "remove the folder to train the stage again, or choose another --output"
                )

    def run(self, launcher: str):
        """Trains or resumes the stage, unless it is finished.

        Raises:
            ValueError: see `check_settings`.
            SystemExit: the training failed.
        """
        self.check_settings()
        if self.is_finished:
            print(f"{self.output} is finished", flush=True)
            return
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(self.output / SETTINGS_FILE, self.settings())
        command = self.command(launcher)
        if newest_checkpoint(self.output):
            command += ["--resume_from_checkpoint", "true"]
        print(shlex.join(command), flush=True)
        if status := subprocess.run(command, env=supervised_environment()).returncode:
            sys.exit(f"{PROGRAM}: error: {self.output.name} ended with status {status}")


def stages_of(options: RunOptions, *, overrides: list[str]) -> list[Stage]:
    """The stages of a folder of recipes, in order. ValueError if it has none, or one that cannot be read."""
    recipes = sorted(Path(options.recipes_dir).glob("stage*.yaml"))
    if not recipes:
        raise ValueError(f"no stage*.yaml in {options.recipes_dir}")
    for recipe in recipes:
        read_recipe(recipe)
    model, stages = options.model, []
    for recipe in recipes:
        stages.append(Stage(recipe, model, Path(options.output, recipe.stem), overrides))
        model = str(stages[-1].output)
    return stages


def check_start(options: RunOptions):
    """Raises ValueError, before anything is written, for a model or launcher that does not exist."""
    if not Path(options.model).is_dir() and not is_hub_id(options.model):
        raise ValueError(f"--model {options.model} is neither a folder nor a Hub id")
    words = shlex.split(options.launcher)
    if not words or shutil.which(words[0]) is None:
        raise ValueError(f"--launcher {options.launcher!r}: no such program")


def main(arguments: list[str] | None = None):
    parser = OneLineParser(RunOptions, prog=PROGRAM, allow_abbrev=False)
    parser.may_be_empty = StageParser.may_be_empty
    options, overrides = parser.parse_args_into_dataclasses(
        arguments, look_for_args_file=False, return_remaining_strings=True
    )
    stages = stages_of(options, overrides=overrides)
    check_start(options)
    for stage in stages:
        stage.run(options.launcher)


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
