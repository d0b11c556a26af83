"""A5-222K as a folder that needs nothing of ours: Parquet, the report of its curation, and a card filled from the report.

    python -m dataset_builders.release.a5_222k_release --output DIR --audiocaps_file train.csv --clotho_file development.csv \
        --exclude_audiocaps_file val.csv test.csv --exclude_clotho_file validation.csv evaluation.csv

`load_dataset("DIR")` reads the result, and so does the Hub after an upload of the folder. No sound is copied.
"""

import argparse
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import datasets

from ..a5_222k import A5222KConfig, pair_row, select_pairs
from ..schema import FEATURES
from .card_facts import (
    add_sizes,
    card_metadata,
    describe_environments,
    describe_size,
    fill_template,
    local_name,
    measure_parquet,
    write_card_files,
)
from .curation_report import CurationReport
from .provenance import build_environment


ROWS_PER_FILE = 100_000
HELD_OUT = "in_test_set"  # the reason of a pair whose sound was to be kept out
# Where the captions of each source come from, how they came about and on what terms its annotations are published, in the
# order of trust: a sound that two sources have stays in the first.
SOURCES = {
    "audiocaps": ("[AudioCaps](https://github.com/cdjkim/audiocaps)", "by people", "MIT"),
    "clotho": ("[Clotho](https://zenodo.org/records/4783391)", "by people, five for each sound", "see its page"),
    "captions": ("captioned clips of VALOR's form, no part of the published set", "as given", "see below"),
    "auto_acd": ("[Auto-ACD](https://auto-acd.github.io)", "by models", "see its page"),
    "wavcaps": ("[WavCaps](https://github.com/XinhaoMei/WavCaps)", "by a language model", "academic use"),
    "audioset": (
        "[AudioSet](https://research.google.com/audioset), or [LLP](https://github.com/YapengTian/AVVP-ECCV20)",
        "sentences of ours about class labels",
        "AudioSet CC BY 4.0, LLP GPL-3.0",
    ),
}
TEMPLATE = Path(__file__).with_name("a5_222k_card_template.md")
PACKAGES = ("av", "datasets", "pyarrow")  # whose versions may change a byte of the build


def card_text(report: dict[str, Any], *, name: str) -> str:
    """The dataset card for a build, from the content of its report.json; `name` is how `load_dataset` will call it."""
    settings, counts = report["settings"], report["sources"]
    sources = [source for source in SOURCES if source in settings["mix"]]  # their order decides whose a sound is
    num_rows = {"train": sum(row["taken"] for row in settings["mix"].values())}
    metadata = card_metadata(
        pretty_name="A5-222K",
        license_name="as-its-sources",
        task_categories=["audio-text-to-text"],
        tags=["audio", "audio-captioning", "avicuna"],
        num_rows=num_rows,
        sizes=report.get("sizes"),
        features=FEATURES,
    )
    wanted, longest = settings["num_pairs"], settings["max_duration"]
    return fill_template(
        TEMPLATE,
        metadata,
        name=name,
        num_pairs=num_rows["train"],
        size=describe_size(report["sizes"].values() if "sizes" in report else None),
        source_rows=[describe_source(source, counts[source]["read"], settings["mix"][source]) for source in sources],
        target_total=sum(settings["target_mix"][source] for source in SOURCES if source != "captions"),
        num_wanted="all" if wanted is None else f"{wanted:,}",
        max_duration="no limit was set" if longest is None else f"{longest:g}",
        drop_rows=describe_drops(sources, counts),
        held_out=describe_held_out(settings),
        num_held_out=sum(counts[source]["dropped"].get(HELD_OUT, 0) for source in sources),
        environments=describe_environments(report),
        **{key: settings[key] for key in ("min_words", "max_per_text", "seed")},
    )


def describe_source(source: str, num_read: int, row: dict[str, int]) -> list[str]:
    """Where a source's captions come from, and how many of its pairs were taken."""
    link, captions, terms = SOURCES[source]
    return [
        f"`{source}`",
        link,
        captions,
        terms,
        *(f"{num:,}" for num in (num_read, row["usable"], row["target"], row["taken"])),
    ]


def describe_drops(sources: list[str], counts: dict[str, dict]) -> list[list[str]]:
    """What was left out, by source and reason."""
    rows = [[source, why, f"{num:,}"] for source in sources for why, num in counts[source]["dropped"].items()]
    return rows or [["-", "-", "-"]]


def describe_held_out(settings: dict[str, Any]) -> str:
    """The lists of sounds that were kept out, by the names of their files; empty where there were none."""
    lists = []
    for option, files in sorted(settings.items()):
        if option.startswith("exclude_") and files:
            names = [f"`{Path(path).name}`" for path in (files if isinstance(files, list) else [files])]
            lists.append(f"{option.removeprefix('exclude_').removesuffix('_file')} ({', '.join(names)})")
    return ", ".join(lists)


def write_release(config: A5222KConfig, output: str | Path) -> Path:
    """Build the set into the folder `output`: data/train-*.parquet, report.json, dropped.jsonl and the card.

    The folder gets its name when it is complete; what an interrupted build left behind is built anew.

    Raises:
        ValueError: `output` exists.
    """
    output = Path(output)
    if output.exists():
        raise ValueError(f"{output} exists: a release is written into a new folder")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    report = CurationReport()
    rows = [pair_row(one, seed=config.seed) for one in select_pairs(config, report=report)]
    (partial / "data").mkdir(parents=True)
    parts = [rows[start : start + ROWS_PER_FILE] for start in range(0, len(rows), ROWS_PER_FILE)]
    for number, part in enumerate(parts):
        dataset = datasets.Dataset.from_list(part, features=FEATURES)
        dataset.to_parquet(partial / "data" / f"train-{number:05d}-of-{len(parts):05d}.parquet")
    sizes = add_sizes(measure_parquet(path) for path in sorted((partial / "data").iterdir()))
    report.write(partial, sizes={"train": sizes}, environments=[build_environment(PACKAGES)])
    written = json.loads((partial / "report.json").read_text(encoding="utf-8"))
    write_card_files(partial, card_text(written, name=local_name(output)))
    os.replace(partial, output)
    return output


def parse_arguments(arguments: list[str] | None = None) -> tuple[A5222KConfig, Path]:
    """The configuration and the output folder, one option for each field of the configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    inherited = {field.name for field in dataclasses.fields(datasets.BuilderConfig)} - {"data_dir"}
    for field in dataclasses.fields(A5222KConfig):
        if field.name in inherited:
            continue
        if field.name.endswith("_file"):
            parser.add_argument(f"--{field.name}", nargs="+")
        elif field.name.endswith("_dir"):
            parser.add_argument(f"--{field.name}")
        else:
            parser.add_argument(f"--{field.name}", type=_number_or_none, default=field.default)
    values = vars(parser.parse_args(arguments))
    output = values.pop("output")
    return A5222KConfig(**values), output


def _number_or_none(text: str) -> int | float | None:
    if text.lower() == "none":
        return None
    return float(text) if "." in text else int(text)


def main() -> None:
    config, output = parse_arguments()
    write_release(config, output)
    print(f"{output}: {(output / 'report.json').read_text(encoding='utf-8')}")


if __name__ == "__main__":
    main()
