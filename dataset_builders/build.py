"""Build PU-VALOR as a folder of Parquet shards with a dataset card.

    python -m dataset_builders.build --captions-file desc_train.json --output pu_valor --num-workers 2

Every field of `CurationSettings` is an option. One task of a cluster job writes a part (`--task 3 --num-tasks 16`); a
last call without `--task` finishes the folder. `python -m model_card.push --dataset` publishes it.
"""

import argparse
import ast
import dataclasses
import json
import time
from pathlib import Path

from .pseudo_untrimmed.settings import CurationSettings
from .release.built_folder import build_folder, list_shards, prepare_folder, read_report


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser()
    values = vars(parser.parse_args(arguments))
    output, num_workers = Path(values.pop("output")), values.pop("num_workers")
    task, num_tasks = values.pop("task"), values.pop("num_tasks")
    settings = CurationSettings(**values)
    started = time.monotonic()
    try:
        settings.check()
        shards = None
        if task is not None:
            shards = list_shards(prepare_folder(settings, output), settings)[task::num_tasks]
        build_folder(settings, output, num_workers=num_workers, shards=shards)
    except ValueError as error:
        parser.error(str(error))
    seconds = time.monotonic() - started
    if task is not None:
        print(f"{output}: task {task} of {num_tasks} wrote {len(shards)} shards in {seconds:.1f} s")
        return
    report = read_report(output)
    print(f"{output}: {report['num_rows']} rows in {seconds:.1f} s; left out: {json.dumps(drops_of(report))}")


def make_parser() -> argparse.ArgumentParser:
    """One option per setting; JSON or Python for the values that are not text."""
    parser = argparse.ArgumentParser(prog="python -m dataset_builders.build", description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, help="the folder to build")
    parser.add_argument("--num-workers", type=int, default=1, help="processes that write shards")
    parser.add_argument("--task", type=int, help="write only this task's shards, counted from 0")
    parser.add_argument("--num-tasks", type=int, default=1, help="among how many tasks the shards are shared")
    for field in dataclasses.fields(CurationSettings):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(
            option, type=parse_value, default=field.default, metavar="VALUE", help=f"default: {field.default}"
        )
    return parser


def parse_value(text: str):
    """Numbers, lists and nothing as JSON or Python writes them; anything else is text.

    ```python
    >>> parse_value("[3, 8]"), parse_value("0.3"), parse_value("null"), parse_value("None"), parse_value("desc.json")
    ([3, 8], 0.3, None, None, 'desc.json')

    ```
    """
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


def drops_of(report: dict) -> dict:
    """Drops by source and reason."""
    return {source: counts["dropped"] for source, counts in report["sources"].items() if counts["dropped"]}


if __name__ == "__main__":
    main()
