"""Compares our results with the paper's: a table and a figure per group of tasks.

    python -m eval.comparison --results RUN1/results.json RUN2/results_judge.json ... --output DIR

The paper's rows are in `paper_results.json`. A result of ours is added to a table only if its data set and metric are
those of the table and it covers the whole set; its row states the number of videos and the protocol.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataset_builders.atomic_files import write_json, write_text
from dataset_builders.command_line import one_line_errors, parse_options

from .figures import draw_bars
from .records import read_result


PROGRAM = "python -m eval.comparison"
PAPER = json.loads(Path(__file__).with_name("paper_results.json").read_text(encoding="utf-8"))
TABLES = ("localization", "question_answering")
OURS = "ours"


@dataclass
class ComparisonOptions:
    """Options of `python -m eval.comparison`."""

    output: Path = field(metadata={"help": "Folder for the tables and pictures."})
    results: list[Path] = field(default_factory=list, metadata={"help": "results.json, results_judge.json files."})


def compare(results: Sequence[dict]) -> dict[str, dict]:
    """The paper's tables with rows for our results: `{table: {"columns", "rows": [{"method", "values", ...}]}}`."""
    tables = {name: {"columns": PAPER[name]["columns"], "rows": list(PAPER[name]["rows"])} for name in TABLES}
    for result in results:
        videos = f"{result['num_examples']} of {result['num_expected']}"
        row = {"method": f"{OURS}: {result['name']}", "videos": videos, "judge": result["judge"]}
        if result["task"].removesuffix("_query") == PAPER["localization"]["dataset"]:
            columns = tables["localization"]["columns"]
            values = [result["metrics"].get(column) for column in columns]
            tables["localization"]["rows"].append({**row, "values": values})
        if result["task"] in tables["question_answering"]["columns"] and result["judge"] is not None:
            columns = tables["question_answering"]["columns"]
            values = [result["metrics"].get("accuracy") if column == result["task"] else None for column in columns]
            tables["question_answering"]["rows"].append({**row, "values": values})
    return tables


def is_limited(result: dict) -> bool:
    """Whether a result covers only the first videos (`--limit`) and is therefore not comparable."""
    return result.get("limit") is not None


def as_markdown(tables: dict[str, dict]) -> str:
    """The tables as GitHub-flavoured Markdown; a dash for values that were not measured."""
    blocks = []
    for name, table in tables.items():
        lines = [f"## {name.replace('_', ' ')}", ""]
        lines += ["| method | " + " | ".join(table["columns"]) + " | videos |"]
        lines += ["|---" * (len(table["columns"]) + 2) + "|"]
        for row in table["rows"]:
            cells = ["-" if value is None else f"{value:.1f}" for value in row["values"]]
            lines.append(f"| {row['method']} | " + " | ".join(cells) + f" | {row.get('videos', 'paper')} |")
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, *(f"* {note}" for note in PAPER["notes"])]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(ComparisonOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    results = [read_result(path) for path in options.results]
    for path, result in zip(options.results, results):
        if is_limited(result):
            print(f"{path}: not used, since it covers only the first {result['limit']} videos")
    tables = compare([result for result in results if not is_limited(result)])
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "comparison.json", tables)
    write_text(options.output / "comparison.md", as_markdown(tables))
    for name, table in tables.items():
        series = {row["method"]: row["values"] for row in table["rows"]}
        ours = next((method for method in series if method.startswith(OURS)), "")
        picture = options.output / f"comparison_{name}.png"
        title = f"{name.replace('_', ' ')}: published figures" + (" and ours" if ours else "")
        unit = f"{PAPER[name]['metric']} (%)"
        draw_bars(picture, groups=table["columns"], series=series, unit=unit, title=title, highlight=ours)
        num_ours = sum(row["method"].startswith(OURS) for row in table["rows"])
        print(f"{name}: {len(table['rows']) - num_ours} published rows, {num_ours} of ours; {picture}")


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
