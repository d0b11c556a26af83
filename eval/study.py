"""Train and evaluate variants of one recipe chain: the paper's ablation table and its sweep of the interleaving rate.

    python -m eval.study --plan eval/studies/ablations.yaml --start outputs/stage0 --recipes train/recipes/sandbox \
        --output outputs/ablations -- --task sandbox --annotations FILE --media-dir DIR

A plan (YAML) names stages and variants. Each stage is `accelerate launch train/sft.py` on the changed recipe, from the model of the
stage before; variants that begin alike share models. What is finished is not run again. What follows `--` goes to `eval.run`.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dataset_builders.release.provenance import model_hash

from .comparison import PAPER
from .figures import draw_bars, draw_lines
from .records import write_json, write_text


CHECKOUT = Path(__file__).resolve().parents[1]
DONE = "study_stage.json"  # in a model's folder, once its training has ended well
LAUNCHER = f"{sys.executable} -m accelerate.commands.launch"


@dataclass(frozen=True)
class Variant:
    """One row of the study.

    name, paper (`str`): of the row, and of the paper's row that it stands beside.
    drop_datasets (`list[str]`): data sources that the recipes lose.
    config (`dict`): fields of the checkpoint's config and processor that are changed before the plan's `config_from` stage.
    """

    name: str
    paper: str | None = None
    drop_datasets: list[str] = field(default_factory=list)
    config: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A study: its stages in order, and its variants.

    paper (`str`): table of `paper_results.json` that the rows stand beside.
    axis (`str`, *optional*): the variants' names are numbers on this axis; drawn as a line.
    """

    title: str
    paper: str
    stages: list[str]
    config_from: str
    variants: list[Variant]
    axis: str | None = None


def read_plan(path: Path) -> Plan:
    """ValueError, naming the file, for unknown or missing keys, or a `config_from` that is no stage."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        plan = Plan(**{**content, "variants": [Variant(**variant) for variant in content["variants"]]})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a plan: {error}") from error
    if plan.config_from not in plan.stages:
        raise ValueError(f"{path}: config_from {plan.config_from!r} is not one of the stages {plan.stages}")
    return plan


def changed_recipe(recipe: dict, *, drop_datasets: Sequence[str]) -> dict | None:
    """The recipe without the named data sources; None if it had sources and has none left."""
    sources = recipe.get("datasets", [])
    kept = [s for s in sources if (s["path"] if isinstance(s, dict) else s) not in drop_datasets]
    return None if sources and not kept else {**recipe, "datasets": kept}


class Study:
    """Runs the variants of a plan below one folder: `models/<key>`, `recipes/<key>.yaml`, `evaluations/<name>`.

    Args:
        plan, start: what to do, and the checkpoint that the first stage starts from.
        recipes: folder with one recipe per stage, found as `<stage>*.yaml`.
        train_arguments, evaluate_arguments: added to every `train/sft.py` and `eval.run`.
        launcher: command that starts either.
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
        self.recipes = {stage: _one_recipe(recipes, stage) for stage in plan.stages}
        self._start_key = model_hash(str(start))

    def train(self, variant: Variant) -> Path:
        """The model folder of a variant, trained as far as it is not."""
        model, key = self.start.resolve(), self._start_key
        for stage, path in self.recipes.items():
            if stage == self.plan.config_from and variant.config:
                key = _key(key, variant.config)
                model = self._configured(model, key, variant.config)
            recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
            recipe = changed_recipe(recipe, drop_datasets=variant.drop_datasets)
            if recipe is not None:
                key = _key(key, recipe, self.train_arguments)
                model = self._trained(model, key, recipe, stage=stage)
        return model

    def evaluate(self, variant: Variant, model: Path) -> dict:
        """Content of results.json of a variant's model."""
        folder = self.output / "evaluations" / "".join(c if c.isalnum() else "_" for c in variant.name)
        self._launch("-m", "eval.run", *self.evaluate_arguments, "--model", str(model), "--output", str(folder))
        return json.loads((folder / "results.json").read_text(encoding="utf-8"))

    def _configured(self, model: Path, key: str, config: dict) -> Path:
        """A copy of a checkpoint with changed fields in config.json and processor_config.json."""
        folder = self.output / "models" / key
        if not (folder / DONE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(model, folder, ignore=shutil.ignore_patterns("checkpoint-*", DONE))
            for name in ("config.json", "processor_config.json"):
                content = json.loads((folder / name).read_text(encoding="utf-8"))
                unknown = sorted(set(config) - set(content))
                if unknown:
                    raise ValueError(f"{model / name} has no field {unknown[0]!r} to change")
                write_json(folder / name, {**content, **config})
            write_json(folder / DONE, {"from": str(model), "config": config, "seconds": 0.0})
        return folder

    def _trained(self, model: Path, key: str, recipe: dict, *, stage: str) -> Path:
        folder, recipe_path = self.output / "models" / key, self.output / "recipes" / f"{key}.yaml"
        if not (folder / DONE).exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a killed training left
            write_text(recipe_path, yaml.safe_dump(recipe, sort_keys=False))
            began = time.time()
            options = ["--model_name_or_path", str(model), "--output_dir", str(folder), *self.train_arguments]
            self._launch(str(CHECKOUT / "train" / "sft.py"), "--config", str(recipe_path), *options)
            write_json(folder / DONE, {"from": str(model), "stage": stage, "seconds": round(time.time() - began, 1)})
        return folder

    def _launch(self, *arguments: str) -> None:
        command = [*self.launcher, *arguments]
        print("$", shlex.join(command), flush=True)
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, check=False)
        if done.returncode:
            raise ValueError(f"exit status {done.returncode} of: {shlex.join(command)}")


def table_of(plan: Plan, results: dict[str, dict]) -> list[dict]:
    """One row per variant that has a result: our metrics, and the paper's row beside them."""
    columns = PAPER[plan.paper]["columns"]
    paper = {row["method"]: dict(zip(columns, row["values"])) for row in PAPER[plan.paper]["rows"]}
    return [
        {
            "variant": variant.name,
            "name": results[variant.name]["name"],
            "metrics": results[variant.name]["metrics"],
            "num_examples": results[variant.name]["num_examples"],
            "model": results[variant.name]["model"],
            "paper": {"dataset": PAPER[plan.paper]["dataset"], **paper[variant.paper]} if variant.paper else None,
        }
        for variant in plan.variants
        if variant.name in results
    ]


def draw_study(path: Path, plan: Plan, rows: list[dict], *, metric: str) -> None:
    """Our metric of each variant, and the paper's average mAP on its own data set beside it."""
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
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="python -m eval.study", description=__doc__.splitlines()[0])
    parser.add_argument("--plan", required=True, type=Path)
    parser.add_argument("--start", required=True, type=Path, help="checkpoint that the first stage starts from")
    parser.add_argument("--recipes", required=True, type=Path, help="folder with one recipe per stage")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--metric", default="average_mAP", help="what the figure shows")
    parser.add_argument("--variants", nargs="+", help="only these; default: all of the plan")
    parser.add_argument("--train-arguments", default="", help="added to every training, as one string")
    parser.add_argument("--launcher", default=LAUNCHER, help="command that starts training and evaluation")
    own = parser.parse_args(arguments[:split])
    plan = read_plan(own.plan)
    study = Study(
        plan,
        start=own.start,
        recipes=own.recipes,
        output=own.output,
        train_arguments=shlex.split(own.train_arguments),
        evaluate_arguments=arguments[split + 1 :],
        launcher=shlex.split(own.launcher),
    )
    results = {}
    for variant in plan.variants:
        if own.variants is None or variant.name in own.variants:
            results[variant.name] = study.evaluate(variant, study.train(variant))
            rows = table_of(plan, results)  # after each variant: a long study can be read while it runs
            write_json(own.output / "study.json", {"title": plan.title, "start": str(own.start), "rows": rows})
            draw_study(own.output / "study.png", plan, rows, metric=own.metric)
    for row in table_of(plan, results):
        print(f"{row['variant']:<28} {own.metric} {row['metrics'][own.metric]:6.2f}")
    print(f"  {own.output / 'study.json'}\n  {own.output / 'study.png'}")


def _one_recipe(folder: Path, stage: str) -> Path:
    found = sorted(folder.glob(f"{stage}*.yaml"))
    if len(found) != 1:
        raise ValueError(f"{folder} must hold one recipe {stage}*.yaml, found {[path.name for path in found]}")
    return found[0]


def _key(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
