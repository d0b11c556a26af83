"""Train and score every row of a plan: the recipe's goals, the paper's ablations in miniature, the rate sweep.

    nice -n 10 python benchmarks/reproduce.py --output outputs/reproduce                 # all rows, hours
    python benchmarks/reproduce.py --output outputs/reproduce --only "plain" "without sound" --seeds 0

Run again, it continues where it stopped. A step's folder is named by what it depends on, so that rows share the steps
that they have in common. `results/reproduce.json` collects the finished rows, `results/reproduce_loss.png` shows the
losses of rows with several seeds, `results/reproduce_rates.png` the sweep of the interleaving rate beside the paper's,
and their table is printed (`--collect true`: nothing else is done).
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataset_builders.atomic_files import write_json  # noqa: E402
from dataset_builders.command_line import one_line_errors, parse_options  # noqa: E402
from dataset_builders.release.provenance import git_commit, package_versions  # noqa: E402
from examples import sandbox_recipe as recipe  # noqa: E402


PROGRAM = "python benchmarks/reproduce.py"
PLAN = Path(__file__).with_suffix(".yaml")
RESULTS = Path(__file__).parent / "results" / "reproduce.json"
PAPER = recipe.PROJECT / "eval" / "paper_results.json"
SCORES = ("presence", "time_tokens", "constant")
PACKAGES = ("torch", "transformers", "trl", "numpy")


@dataclass
class ReproduceOptions:
    """Command line of the reproduction."""

    output: Path = field(default=Path("outputs/reproduce"), metadata={"help": "Folder of all steps and rows."})
    plan: Path = field(default=PLAN, metadata={"help": "YAML file with the rows."})
    only: list[str] = field(default_factory=list, metadata={"help": "Names of rows; none: all, in order."})
    seeds: list[int] = field(default_factory=list, metadata={"help": "Seeds to run; none: those of the plan."})
    results: Path = field(default=RESULTS, metadata={"help": "JSON file of the finished rows."})
    collect: bool = field(default=False, metadata={"help": "Run nothing; write the file of the finished rows."})


def read_plan(path: Path, *, only: list[str], seeds: list[int]) -> Iterator[tuple[str, recipe.SandboxRun]]:
    """(name, settings) of each row and seed.

    Raises:
        ValueError: a name in `only` that the plan does not have.
    """
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))["rows"]
    if unknown := [name for name in only if name not in rows]:
        raise ValueError(f"{path} has no row {unknown[0]!r}; its rows are {list(rows)}")
    for name, values in rows.items():
        settings = {key: value for key, value in values.items() if key != "seeds"}
        if "stages" in settings:
            settings["stages"] = tuple(settings["stages"])
        for seed in values["seeds"]:
            if (not only or name in only) and (not seeds or seed in seeds):
                yield name, recipe.SandboxRun(seed=seed, **settings)


class Chain:
    """The steps of one row, each in a folder that its name and everything before it determine.

    Args:
        run: settings of the row.
        output: folder of all steps.
    """

    def __init__(self, run: recipe.SandboxRun, output: Path):
        self.output = output
        world = self.folder("world", run.world, run.seed)
        start = self.folder("stage0", world.name, {**recipe.INITIALIZE, **run.initialize}, run.seed)
        features = self.folder("features", start.name)
        self.steps = [
            recipe.make_world(run, world),
            recipe.initialize(run, world, start),
            recipe.extract_features(run, world, start, features),
        ]
        for stage in run.stages:
            text = (recipe.PROJECT / recipe.RECIPES / f"{stage}.yaml").read_text(encoding="utf-8")
            output = self.folder(stage, start.name, text, run.overrides.get(stage), run.pu_valor, run.seed)
            folders = {"world": world, "features": features, "start": start, "output": output}
            self.steps.append(recipe.train_stage(run, stage, **folders))
            start = output
        self.run, self.model, self.world, self.features = run, start, world, features

    def folder(self, name: str, *depends_on: object) -> Path:
        digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:10]
        return self.output / "steps" / f"{name}-{digest}"

    def evaluations(self, output: Path) -> list[recipe.Step]:
        """All scores of the answers to queries, then the narrations."""
        shared = {"model": self.model, "world": self.world, "features": self.features, "answering": self.run.answering}
        queries = [
            recipe.evaluate("sandbox_query", output=output / "query", score=score, **shared) for score in SCORES
        ]
        narration = recipe.evaluate("sandbox", output=output / "narration", score="time_tokens", **shared)
        return [*queries, narration]


def run_row(name: str, run: recipe.SandboxRun, output: Path) -> None:
    """Run what is missing of one row, and write its `row.json`."""
    folder = row_folder(output, name, run.seed)
    if (folder / "row.json").exists():
        return
    print(f"\n=== {name}, seed {run.seed}", flush=True)
    chain = Chain(run, output)
    for step in chain.steps:
        if not step.product.exists():
            began = time.perf_counter()
            step.run()
            write_json(step.product.parent / "seconds.json", round(time.perf_counter() - began, 1))
    metrics = {}
    for score, step in zip((*SCORES, "narration"), chain.evaluations(folder)):
        step.run()
        metrics[score] = json.loads(step.product.read_text(encoding="utf-8"))["metrics"]
    metrics |= score_counts(folder / "query" / "predictions.jsonl", chain.world / "annotations.json")
    row = {
        "name": name,
        "world": run.world,
        "seed": run.seed,
        "initialize": run.initialize,
        "stages": run.stages,
        "pu_valor": run.pu_valor,
        "overrides": run.overrides,
        "answering": run.answering,
        "metrics": metrics,
        "seconds": {step.name: read_seconds(step) for step in chain.steps},
        "training_steps": {step.name: count_steps(step) for step in chain.steps if step.name in recipe.STAGES},
        "loss": {step.name: read_losses(step) for step in chain.steps if step.name in recipe.STAGES},
        "commands": [" ".join(step.words) for step in chain.steps],
        "git_commit": git_commit(),
        "versions": package_versions(PACKAGES),
    }
    write_json(folder / "row.json", row)
    print(f"{name}, seed {run.seed}: average mAP {metrics['presence']['average_mAP']:.1f}", flush=True)


def score_counts(predictions: Path, annotations: Path) -> dict[str, float]:
    """CountF1 of the events that occur, and the share of absent ones that were rejected, in percent."""
    from eval.metrics.temporal_grounding.spans import score_spans

    database = json.loads(annotations.read_text(encoding="utf-8"))["database"]
    found, truth, rejected = [], [], []
    for line in predictions.read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)
        label = answer["question_id"].split("/", 1)[1]
        spans = [e["segment"] for e in database[answer["video_id"]]["annotations"] if e["label"] == label]
        if spans:
            truth.append([tuple(span) for span in spans])
            found.append([(event["start"], event["end"]) for event in answer["events"]])
        else:
            rejected.append(not answer["events"])
    return {
        "CountF1": score_spans(found, truth)["CountF1"],
        "absent_rejected": 100 * sum(rejected) / len(rejected),
    }


def row_folder(output: Path, name: str, seed: int) -> Path:
    return output / "rows" / f"{name.replace(' ', '-')}-seed{seed}"


def read_seconds(step: recipe.Step) -> float | None:
    path = step.product.parent / "seconds.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def count_steps(step: recipe.Step) -> int:
    return json.loads(step.product.read_text(encoding="utf-8"))["steps"]


def read_losses(step: recipe.Step) -> list[tuple[int, float]]:
    """(step, mean training loss since the one before), as logged."""
    log = json.loads(step.product.read_text(encoding="utf-8"))["log"]
    return [(entry["step"], round(entry["loss"], 4)) for entry in log if "loss" in entry]


def collect(options: ReproduceOptions) -> None:
    """Write the finished rows of the whole plan into one file, name the others in it, draw and print.

    Raises:
        ValueError: no row is finished. Earlier results stay as they are.
    """
    from eval.figures import draw_lines

    rows, missing = [], []
    for name, run in read_plan(options.plan, only=[], seeds=[]):
        path = row_folder(options.output, name, run.seed) / "row.json"
        if path.exists():
            row = json.loads(path.read_text(encoding="utf-8"))
            row["commands"] = [command.replace(str(options.output), "OUTPUT") for command in row["commands"]]
            rows.append(row)
        else:
            missing.append(f"{name}, seed {run.seed}")
    if not rows:
        raise ValueError(f"no row is finished below {options.output}")
    write_json(options.results, {"rows": rows, "not_run": missing})
    repeated = {name for name, run in read_plan(options.plan, only=[], seeds=[]) if run.seed}
    losses = {
        row["name"]: {step: loss for step, loss in row["loss"].get("stage3", []) if step > 200}
        for row in rows
        if row["name"] in repeated and row["seed"] == 0  # the others differ little, and are too many for one figure
    }
    draw_lines(
        options.results.with_name(f"{options.results.stem}_loss.png"),
        series={name: points for name, points in losses.items() if points},
        axis="step of stage III",
        unit="training loss",
        title="Loss on answers, from step 300 on, seed 0",
    )
    if rates := rates_of(rows):
        draw_lines(
            options.results.with_name(f"{options.results.stem}_rates.png"),
            series={"paper, UnAV-100": read_paper_rates(), "sandbox": rates},
            axis="share of audio tokens (%)",
            unit="average mAP",
            title="Audio interleaving rate",
        )
    print_table(rows)
    print(f"{options.results}: {len(rows)} rows, {len(missing)} not run")


def rates_of(rows: list[dict]) -> dict[float, float]:
    """Average mAP by the share of audio tokens in percent, of the rows that differ from the reference in it alone."""
    default = {"audio-interleaving-rate": "0.25"}
    sweep = [row for row in rows if row["name"].startswith("rate ") or row["name"] in ("reference", "without sound")]
    return {
        100 * float((default | row["initialize"])["audio-interleaving-rate"]): row["metrics"]["presence"][
            "average_mAP"
        ]
        for row in sweep
        if row["seed"] == 0
    }


def read_paper_rates() -> dict[float, float]:
    rows = json.loads(PAPER.read_text(encoding="utf-8"))["rate_sweep"]["rows"]
    return {float(row["method"]): row["values"][0] for row in rows}


def print_table(rows: list[dict]) -> None:
    """The figures of the rows as a Markdown table."""
    print("| row | seed | average mAP | mAP@0.5 | CountF1 | absent rejected | narration | training, one core |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        metrics = row["metrics"]
        values = [metrics["presence"]["average_mAP"], metrics["presence"]["mAP@0.5"], metrics["CountF1"]]
        values += [metrics["absent_rejected"], metrics["narration"]["average_mAP"]]
        seconds = sum(row["seconds"].get(stage) or 0 for stage in recipe.STAGES)
        cells = [row["name"], str(row["seed"]), *(f"{value:.1f}" for value in values), f"{seconds:,.0f} s"]
        print(f"| {' | '.join(cells)} |")


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(ReproduceOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    options.output = options.output.resolve()
    if not options.collect:
        for name, run in read_plan(options.plan, only=options.only, seeds=options.seeds):
            run_row(name, run, options.output)
    collect(options)


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
