"""Trains and evaluates variants of the stages: the paper's ablation table and its sweep of the interleaving rate.

    python -m eval.study --plan eval/studies/ablations.yaml --model outputs/stage0 --output outputs/ablations \
        --recipes-dir train/recipes/sandbox -- --task sandbox --annotations FILE --media-dir DIR

A plan (YAML) lists stages and variants. Each stage is run by `python -m train.run_stages` with the changed recipe;
variants with equal first stages share these models. Finished work is not repeated. The options after `--` are those of
`eval.run`.
"""

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dataset_builders.atomic_files import write_json, write_text
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.release.provenance import model_hash
from dataset_builders.sources.annotation_files import read_json, read_text
from dataset_builders.workers import supervised_environment

from .comparison import PAPER, is_limited
from .figures import draw_bars, draw_lines
from .records import read_result
from .run import RunOptions
from .sound_use import split_arguments
from .task import read_examples
from .tasks import TASKS


PROGRAM = "python -m eval.study"
CHECKOUT = Path(__file__).resolve().parents[1]
CONFIG_FILES = ("config.json", "processor_config.json")
LAUNCHER = f"{sys.executable} -m accelerate.commands.launch"


@dataclass(frozen=True)
class Variant:
    """One row of the study.

    name (`str`): of the row.
    paper (`str`, *optional*): row of the paper to compare with.
    drop_datasets (`list[str]`): data sources to remove from the recipes.
    config (`dict`): fields of the checkpoint's config and processor to change before the stage `Plan.config_from`.
    """

    name: str
    paper: str | None = None
    drop_datasets: list[str] = field(default_factory=list)
    config: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The stages of a study in order, and its variants.

    paper (`str`): table of `paper_results.json` to compare with.
    axis (`str`, *optional*): label of the axis if the names of the variants are numbers; drawn as a line.
    """

    title: str
    paper: str
    stages: list[str]
    config_from: str
    variants: list[Variant]
    axis: str | None = None


@dataclass
class StudyOptions:
    """Options of `python -m eval.study`, before `--`."""

    plan: Path = field(metadata={"help": "YAML file of stages and variants."})
    model: Path = field(metadata={"aliases": ["--start"], "help": "Checkpoint that the first stage starts from."})
    recipes_dir: Path = field(metadata={"aliases": ["--recipes"], "help": "Folder with the recipes of the stages."})
    output: Path = field(metadata={"help": "Folder of the models, the evaluations and the table."})
    metric: str = field(default="average_mAP", metadata={"help": "Metric of the figure and of the printed table."})
    variants: list[str] | None = field(default=None, metadata={"help": "Names of the variants to run. Default: all."})
    train_arguments: str = field(default="", metadata={"help": "Options of every training, as one string."})
    launcher: str = field(default=LAUNCHER, metadata={"help": "Command that starts training and evaluation."})


def read_plan(path: Path) -> Plan:
    """A plan from its file.

    Raises:
        ValueError: not YAML, unknown or missing keys, a `config_from` that is not a stage, an unknown table or row of
            the paper, a duplicate name, or a name that is not a number although there is an axis.
    """
    try:
        content = yaml.safe_load(read_text(path))
        # a name such as 0.25 is a number in YAML
        variants = [Variant(**{**variant, "name": str(variant["name"])}) for variant in content["variants"]]
        plan = Plan(**{**content, "variants": variants})
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a plan: {error}") from error
    if plan.config_from not in plan.stages:
        raise ValueError(f"{path}: config_from {plan.config_from!r} is not one of the stages {plan.stages}")
    tables = [name for name, table in PAPER.items() if isinstance(table, dict) and "average_mAP" in table["columns"]]
    if plan.paper not in tables:
        raise ValueError(f"{path}: the paper has no table {plan.paper!r}; its tables are {tables}")
    rows = [row["method"] for row in PAPER[plan.paper]["rows"]]
    folders = [_folder_name(variant) for variant in plan.variants]
    for variant in plan.variants:
        if variant.paper is not None and variant.paper not in rows:
            raise ValueError(f"{path}: the table {plan.paper!r} has no row {variant.paper!r}; its rows are {rows}")
        if folders.count(_folder_name(variant)) > 1:
            raise ValueError(f"{path}: the variant {variant.name!r} has the same name as another one")
        if plan.axis is not None and not _is_number(variant.name):
            raise ValueError(f"{path}: the variant {variant.name!r} is not a number on the axis {plan.axis!r}")
    return plan


def changed_recipe(recipe: dict, *, drop_datasets: Sequence[str]) -> dict | None:
    """The recipe without the given data sources; None if it had sources and none is left."""
    sources = recipe.get("datasets", [])
    kept = [source for source in sources if _source_name(source) not in drop_datasets]
    return None if sources and not kept else {**recipe, "datasets": kept}


class Study:
    """Runs the variants of a plan below one folder: `models/<key>`, `recipes/<key>`, `evaluations/<name>`.

    Args:
        start: checkpoint that the first stage starts from.
        recipes: folder with recipes `<stage>*.yaml`; several of one stage are trained in the order of their names.
        train_arguments, evaluate_arguments: options of every `train/sft.py` and `eval.run`.
        launcher: command that starts training and evaluation.

    Raises:
        ValueError: a stage without a recipe, or a variant with a data source that no recipe has or a field that the
            start checkpoint's config does not have.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        start: Path,
        recipes: Path,
        output: Path,
        train_arguments: Sequence[str] = (),
        evaluate_arguments: Sequence[str] = (),
        launcher: Sequence[str] = tuple(shlex.split(LAUNCHER)),
    ):
        self.plan, self.start, self.output, self.launcher = plan, start, output.resolve(), list(launcher)
        self.train_arguments, self.evaluate_arguments = list(train_arguments), list(evaluate_arguments)
        self.recipes = {stage: _recipes_of(recipes, stage) for stage in plan.stages}
        for variant in plan.variants:
            self._check(variant)
        self._start_key = model_hash(str(start))

    def _check(self, variant: Variant) -> None:
        recipes = [_read_recipe(path) for paths in self.recipes.values() for path in paths]
        sources = sorted({_source_name(source) for recipe in recipes for source in recipe.get("datasets", [])})
        unknown = sorted(set(variant.drop_datasets) - set(sources))
        if unknown:
            raise ValueError(f"variant {variant.name!r} drops {unknown[0]!r}; the recipes have the sources {sources}")
        for path in (self.start / name for name in CONFIG_FILES if variant.config):
            known = read_json(path)
            unknown = sorted(set(variant.config) - set(known))
            if unknown:
                raise ValueError(f"variant {variant.name!r}: {path} has no field {unknown[0]!r} to change")

    def train(self, variant: Variant) -> Path:
        """Trains the missing stages of a variant; returns its model folder."""
        model, key = self.start.resolve(), self._start_key
        for stage, paths in self.recipes.items():
            if stage == self.plan.config_from and variant.config:
                key = _key(key, variant.config)
                model = self._configured(model, key, variant.config)
            for path in paths:
                recipe = changed_recipe(_read_recipe(path), drop_datasets=variant.drop_datasets)
                if recipe is not None:
                    key = _key(key, recipe, self.train_arguments)
                    model = self._trained(model, key, recipe, stage=stage)
        return model

    def evaluate(self, variant: Variant, model: Path) -> dict:
        """Evaluates the model of a variant; returns the content of results.json."""
        folder = self.output / "evaluations" / _folder_name(variant)
        command = [*self.launcher, "-m", "eval.run", *self.evaluate_arguments]
        _run([*command, "--model", str(model), "--output", str(folder)])
        return read_result(folder / "results.json")

    def _configured(self, model: Path, key: str, config: dict) -> Path:
        """A copy of a checkpoint with changed fields in config.json and processor_config.json."""
        folder = self.output / "models" / key
        if not folder.exists():
            part = folder.with_name(f".partial-{key}")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(model, part, ignore=shutil.ignore_patterns("checkpoint-*"))
            for name in CONFIG_FILES:
                write_json(part / name, {**read_json(part / name), **config})
            part.replace(folder)
        return folder

    def _trained(self, model: Path, key: str, recipe: dict, *, stage: str) -> Path:
        """The checkpoint of one stage, trained or resumed by `train.run_stages`."""
        folder, recipes = self.output / "models" / key, self.output / "recipes" / key
        name = f"stage_{stage}"
        recipes.mkdir(parents=True, exist_ok=True)
        write_text(recipes / f"{name}.yaml", yaml.safe_dump(recipe, sort_keys=False))
        command = [sys.executable, "-m", "train.run_stages", "--model", str(model), "--output", str(folder)]
        command += ["--recipes-dir", str(recipes), "--launcher", shlex.join(self.launcher), *self.train_arguments]
        _run(command)
        return folder / name


def _run(command: list[str]) -> None:
    """Prints and runs a command. ValueError if it fails."""
    print("$", shlex.join(command), flush=True)
    done = subprocess.run(command, env=supervised_environment(PYTHONPATH=str(CHECKOUT)), check=False)
    if done.returncode:
        raise ValueError(f"exit status {done.returncode} of: {shlex.join(command)}")


def table_of(plan: Plan, results: dict[str, dict]) -> list[dict]:
    """One row per variant with a result: our metrics and, unless the run was limited, the paper's row."""
    columns = PAPER[plan.paper]["columns"]
    paper = {row["method"]: dict(zip(columns, row["values"])) for row in PAPER[plan.paper]["rows"]}
    rows = []
    for variant in plan.variants:
        if variant.name in results:
            result = results[variant.name]
            facts = {key: result[key] for key in ("name", "metrics", "num_examples", "model")}
            beside = None if variant.paper is None or is_limited(result) else paper[variant.paper]
            published = None if beside is None else {"dataset": PAPER[plan.paper]["dataset"], **beside}
            rows.append({"variant": variant.name, **facts, "paper": published})
    return rows


def draw_study(path: Path, plan: Plan, rows: list[dict], *, metric: str) -> None:
    """Draws our metric of each variant, and the paper's average mAP on the paper's data set."""
    ours, theirs = f"ours: {rows[0]['name']}, {metric}", f"paper: {PAPER[plan.paper]['dataset']}, average_mAP"
    values = [row["metrics"][metric] for row in rows]
    published = [row["paper"]["average_mAP"] if row["paper"] else None for row in rows]
    names = [row["variant"] for row in rows]
    if plan.axis is None:
        series = {ours: values, theirs: published}
        draw_bars(path, groups=names, series=series, unit="%", title=plan.title, highlight=ours)
        return
    lines = {ours: dict(zip(map(float, names), values))}
    lines[theirs] = {float(name): value for name, value in zip(names, published) if value is not None}
    draw_lines(path, series=lines, axis=plan.axis, unit="%", title=plan.title)


def main(arguments: Sequence[str] | None = None) -> None:
    own, evaluate_arguments = split_arguments(sys.argv[1:] if arguments is None else arguments)
    options = parse_options(StudyOptions, own, program=PROGRAM, description=__doc__.splitlines()[0])
    plan = read_plan(options.plan)
    check_evaluation(evaluate_arguments, metric=options.metric)
    names = [variant.name for variant in plan.variants]
    unknown = [name for name in options.variants or [] if name not in names]
    if unknown:
        raise ValueError(f"{options.plan} has no variant {unknown[0]!r}; its variants are {names}")
    study = Study(
        plan,
        start=options.model,
        recipes=options.recipes_dir,
        output=options.output,
        train_arguments=shlex.split(options.train_arguments),
        evaluate_arguments=evaluate_arguments,
        launcher=shlex.split(options.launcher),
    )
    results: dict[str, dict] = {}
    for variant in plan.variants:
        if options.variants is None or variant.name in options.variants:
            results[variant.name] = study.evaluate(variant, study.train(variant))
            rows = table_of(plan, results)  # written after each variant
            write_json(options.output / "study.json", {"title": plan.title, "start": str(options.model), "rows": rows})
            draw_study(options.output / "study.png", plan, rows, metric=options.metric)
    for row in table_of(plan, results):
        print(f"{row['variant']:<28} {options.metric} {row['metrics'][options.metric]:6.2f}")
    print(f"  {options.output / 'study.json'}\n  {options.output / 'study.png'}")


def check_evaluation(arguments: Sequence[str], *, metric: str) -> None:
    """Checks the options of `eval.run`, and that its task has `metric`, before anything is trained.

    Raises:
        ValueError: an option that the study sets, a metric that the task does not have, or annotations or folders that
            the evaluation could not read.
        SystemExit: an invalid option of `eval.run`.
    """
    taken = [word for word in arguments if word.split("=")[0] in ("--model", "--output")]
    if taken:
        raise ValueError(f"{taken[0]} of the evaluation is set by the study: omit it after `--`")
    checked = [*arguments, "--model", "MODEL", "--output", "OUTPUT"]
    options = parse_options(RunOptions, checked, program=f"{PROGRAM} ... --")
    task = TASKS[options.task]
    if metric.split("/")[0] not in task.metrics:
        raise ValueError(f"{task.name} has no metric {metric!r}; it has {', '.join(task.metrics)}")
    read_examples(task, options.annotations, options.subset)
    folders = [folder for folder in (options.media_dir, *options.features_dir) if folder is not None]
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ValueError(f"no such folder: {missing[0]}")


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error


def _source_name(source: dict | str) -> str:
    return source["path"] if isinstance(source, dict) else source


def _folder_name(variant: Variant) -> str:
    return "".join(character if character.isalnum() else "_" for character in variant.name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _recipes_of(folder: Path, stage: str) -> list[Path]:
    found = sorted(folder.glob(f"{stage}*.yaml"))
    if not found:
        raise ValueError(f"{folder} has no recipe {stage}*.yaml")
    return found


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
