"""A5-222K as a folder that needs nothing of ours: Parquet, the report of its curation, and a card filled from the report.

    python -m dataset_builders.a5_222k_release --output DIR --audiocaps_file train.csv --clotho_file development.csv \
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

from .a5_222k import A5222KConfig, pair_row, select_pairs
from .curation_report import CurationReport
from .schema import FEATURES


ROWS_PER_FILE = 100_000
# How each source's captions came about and on what terms its annotations are published.
SOURCES = {
    "audiocaps": "[AudioCaps](https://github.com/cdjkim/audiocaps): captions by people; MIT",
    "clotho": "[Clotho](https://zenodo.org/records/4783391): five captions by people for each sound; see its licence",
    "captions": "captioned clips of VALOR's form, given by whoever built this copy: no part of the published set",
    "auto_acd": "[Auto-ACD](https://auto-acd.github.io): captions made by models; see its licence",
    "wavcaps": "[WavCaps](https://github.com/XinhaoMei/WavCaps): captions made by a language model; academic use",
    "audioset": "[AudioSet](https://research.google.com/audioset): class labels in sentences of ours; CC BY 4.0",
}
CARD = """\
---
pretty_name: A5-222K
language: en
task_categories:
- audio-text-to-text
tags:
- audio
- captions
- avicuna
size_categories:
- {size_category}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---

# A5-222K

{num_rows:,} pairs of a sound and an English caption. Stage II of
[AVicuna](https://arxiv.org/abs/2403.16276) aligns the audio adapter on such pairs. This card is written from
`report.json`, which lies beside the data; every number below is counted, none is quoted.

```python
from datasets import load_dataset

dataset = load_dataset("{name}", split="train")
```

The sounds themselves are not included: `media.audio` is the file's name (or the path on the machine that built the
set). They belong to those who uploaded them.

## What is ours

The paper gives the name and the size, "about 222K", and neither proportions nor filters. So these are our choices:

* the target mix of the table below, which adds up to {target_total:,} pairs for the five published sources; where a
  source has fewer usable pairs, the others give more in the same proportion (asked for here: {num_pairs});
* captions are brought to one form: one line, plain quotes, a capital first, a final period;
* pairs are dropped whose caption has fewer than {min_words} words or no letters;
* pairs are dropped whose sound is longer than a limit: {max_duration};
* a sound that two sources have stays in the first of them, in the order of the table; several captions of one sound
  stay within one source; a caption stays {max_per_text} time(s), compared by letters and digits alone;
* label captions are sentences of ours about the class names;
* pairs above a source's share are left out by a hash of seed {seed} and their id.

## Sources

| source | read | usable | target | taken |
|---|---:|---:|---:|---:|
{source_table}

{source_list}

## Kept out

Evaluation sets whose sounds were kept out: {held_out}.

Dropped, by source and reason (`dropped.jsonl` lists them one by one, but for those that a share had no room for,
"not_sampled"):

| source | reason | pairs |
|---|---|---:|
{drop_table}

## Columns

`id`, `source`, `duration` (s, null where the source does not tell it), `media` (`audio` is set), `messages` (a question
with the placeholder `<audio>`, the caption), `segments` and `times` (empty here; the schema is that of all training
sets of AVicuna).
"""


def size_category(num_rows: int) -> str:
    """The Hub's size category.

    >>> size_category(222_000)
    '100K<n<1M'
    """
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if num_rows < bound), "1M<n<10M")


def card_text(report: dict[str, Any], *, name: str) -> str:
    """The dataset card for a build, from the content of its report.json; `name` is how `load_dataset` will call it."""
    settings, sources = report["settings"], report["sources"]
    mix = settings["mix"]
    published = [source for source in SOURCES if source != "captions"]
    excluded = {
        field.removeprefix("exclude_").removesuffix("_file"): value
        for field, value in settings.items()
        if field.startswith("exclude_") and value
    }
    num_rows = sum(row["taken"] for row in mix.values())
    return CARD.format(
        name=name,
        num_rows=num_rows,
        size_category=size_category(num_rows),
        target_total=sum(settings["target_mix"][source] for source in published),
        num_pairs="all" if settings["num_pairs"] is None else f"{settings['num_pairs']:,}",
        source_table="\n".join(
            f"| {source} | {sources[source]['read']:,} | {row['usable']:,} | {row['target']:,} | {row['taken']:,} |"
            for source, row in mix.items()
        ),
        source_list="\n".join(f"* {source}: {SOURCES[source]}" for source in mix),
        held_out=", ".join(f"{kind} ({_file_names(files)})" for kind, files in sorted(excluded.items())) or "none",
        drop_table="\n".join(
            f"| {source} | {reason} | {num:,} |"
            for source in mix
            for reason, num in sources[source]["dropped"].items()
        )
        or "| - | - | 0 |",
        max_duration="no limit was set" if settings["max_duration"] is None else f"{settings['max_duration']:g} s",
        **{key: settings[key] for key in ("min_words", "max_per_text", "seed")},
    )


def _file_names(files: str | list[str]) -> str:
    paths = files if isinstance(files, list) else [files]
    return ", ".join(f"`{Path(path).name}`" for path in paths)


def write_release(config: A5222KConfig, output: str | Path) -> Path:
    """Build the set into the folder `output`: data/train-*.parquet, report.json, dropped.jsonl and README.md.

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
    report.write(partial)
    written = json.loads((partial / "report.json").read_text(encoding="utf-8"))
    (partial / "README.md").write_text(card_text(written, name=output.name), encoding="utf-8")
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
