"""Build PU-VALOR or A5-222K as a folder of Parquet files with a dataset card.

    python -m dataset_builders.build --captions-file desc_train.json --output pu_valor --num-workers 2
    python -m dataset_builders.build --builder a5_222k --audiocaps-file train.csv --output a5_222k

Every setting of the builder is an option. For PU-VALOR, one task of a cluster job can write part of the shards
(`--task 3 --num-tasks 16`); a final call without `--task` finishes the folder. `python -m model_card.push --dataset`
publishes it.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from .a5_222k import A5222KSettings
from .command_line import one_line_errors, parse_options
from .input_settings import check_range
from .pseudo_untrimmed.settings import CurationSettings
from .release.a5_222k_folder import write_folder
from .release.pu_valor_folder import build_folder, list_shards, prepare_folder
from .sources.annotation_files import read_json
from .sources.record_report import REPORT_FILE


PROGRAM = "python -m dataset_builders.build"


@dataclass
class BuilderOption:
    """The option that determines which other options exist."""

    builder: str = field(default="pu_valor", metadata={"help": "pu_valor or a5_222k"})


@dataclass(kw_only=True)
class PUValorOptions(CurationSettings, BuilderOption):
    """Command line of PU-VALOR."""

    output: str = field(metadata={"help": "the folder to build"})
    num_workers: int = field(default=1, metadata={"help": "processes that write shards"})
    task: int | None = field(default=None, metadata={"help": "write only the shards of this task, counted from 0"})
    num_tasks: int = field(default=1, metadata={"help": "number of tasks that share the shards"})

    def __post_init__(self):
        self.check()
        check_range(self, 1, "num_workers", "num_tasks")
        check_range(self, 0, "task", high=self.num_tasks - 1)


@dataclass(kw_only=True)
class A5222KOptions(A5222KSettings, BuilderOption):
    """Command line of A5-222K."""

    output: str = field(metadata={"help": "the folder to build"})


OPTIONS = {"pu_valor": PUValorOptions, "a5_222k": A5222KOptions}


def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    chosen = HfArgumentParser(BuilderOption, add_help=False, allow_abbrev=False)
    builder = chosen.parse_args_into_dataclasses(words, return_remaining_strings=True)[0].builder
    if builder not in OPTIONS:
        raise ValueError(f"--builder must be one of {list(OPTIONS)}, got {builder!r}")
    options: PUValorOptions | A5222KOptions = parse_options(
        OPTIONS[builder], words, program=PROGRAM, description=__doc__.splitlines()[0]
    )
    output, started = Path(options.output), time.monotonic()
    if isinstance(options, A5222KOptions):
        write_folder(options, output)
    elif options.task is None:
        build_folder(options, output, num_workers=options.num_workers)
    else:
        shards = list_shards(prepare_folder(options, output), options)[options.task :: options.num_tasks]
        build_folder(options, output, num_workers=options.num_workers, shards=shards)
    seconds = time.monotonic() - started
    if isinstance(options, PUValorOptions) and options.task is not None:
        print(f"{output}: task {options.task} of {options.num_tasks} wrote {len(shards)} shards in {seconds:.1f} s")
        return
    report = read_json(output / REPORT_FILE)
    print(f"{output}: {report['num_rows']} rows in {seconds:.1f} s; dropped: {json.dumps(count_drops(report))}")


def count_drops(report: dict) -> dict[str, dict[str, int]]:
    """Drops by source and reason."""
    return {source: counts["dropped"] for source, counts in report["sources"].items() if counts["dropped"]}


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
