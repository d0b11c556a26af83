"""Our figures beside the paper's own: a table and a picture per task family, with a row of ours only for what we ran.

    python -m eval.comparison --results RUN1/results.json RUN2/results_judge.json ... --output DIR

The paper's rows are data (`paper_results.json`). A result of ours enters a table only if data set and metric are the table's, and
its row says on how many videos and under which protocol it stands. Nothing is run here.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .figures import draw_bars
from .records import write_json, write_text


PAPER = json.loads(Path(__file__).with_name("paper_results.json").read_text(encoding="utf-8"))
TABLES = ("localization", "question_answering")
OURS = "ours"


def compare(results: Sequence[dict]) -> dict[str, dict]:
    """The paper's tables with our rows: `{table: {"columns", "rows": [{"method", "values", ...}]}}`.

    Args:
        results: contents of results.json and results_judge.json files.
    """
    tables = {name: {"columns": PAPER[name]["columns"], "rows": list(PAPER[name]["rows"])} for name in TABLES}
    for result in results:
        standing = {"method": f"{OURS}: {result['name']}", "stands_on": _stands_on(result), "judge": result["judge"]}
        if result["task"].removesuffix("_query") == PAPER["localization"]["dataset"]:
            columns = tables["localization"]["columns"]
            values = [result["metrics"].get(column) for column in columns]
            tables["localization"]["rows"].append({**standing, "values": values})
        if result["task"] in tables["question_answering"]["columns"] and result["judge"] is not None:
            columns = tables["question_answering"]["columns"]
            values = [result["metrics"]["accuracy"] if column == result["task"] else None for column in columns]
            tables["question_answering"]["rows"].append({**standing, "values": values})
    return tables


def as_markdown(tables: dict[str, dict]) -> str:
    """The tables as GitHub-flavoured Markdown; a dash where nothing was measured."""
    blocks = []
    for name, table in tables.items():
        lines = [f"## {name.replace('_', ' ')}", ""]
        lines += ["| method | " + " | ".join(table["columns"]) + " | stands on |"]
        lines += ["|---" * (len(table["columns"]) + 2) + "|"]
        for row in table["rows"]:
            cells = ["-" if value is None else f"{value:.1f}" for value in row["values"]]
            lines.append(f"| {row['method']} | " + " | ".join(cells) + f" | {row.get('stands_on', 'paper')} |")
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, *(f"* {note}" for note in PAPER["notes"])]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m eval.comparison", description=__doc__.splitlines()[0])
    parser.add_argument("--results", nargs="*", default=[], type=Path, help="results.json, results_judge.json files")
    parser.add_argument("--output", required=True, type=Path)
    chosen = parser.parse_args(arguments)
    tables = compare([json.loads(path.read_text(encoding="utf-8")) for path in chosen.results])
    write_json(chosen.output / "comparison.json", tables)
    write_text(chosen.output / "comparison.md", as_markdown(tables))
    for name, table in tables.items():
        series = {row["method"]: row["values"] for row in table["rows"]}
        ours = next((method for method in series if method.startswith(OURS)), "")
        picture = chosen.output / f"comparison_{name}.png"
        title = f"{name.replace('_', ' ')}: published figures" + (" and ours" if ours else "")
        unit = f"{PAPER[name]['metric']} (%)"
        draw_bars(picture, groups=table["columns"], series=series, unit=unit, title=title, highlight=ours)
        num_ours = sum(row["method"].startswith(OURS) for row in table["rows"])
        print(f"{name}: {len(table['rows']) - num_ours} published rows, {num_ours} of ours; {picture}")


def _stands_on(result: dict) -> str:
    return f"{result['num_examples']} of {result['num_expected']} videos"


if __name__ == "__main__":
    main()
