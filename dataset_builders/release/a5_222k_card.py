"""The card of a built A5-222K folder: `a5_222k_card_template.md`, filled from report.json.

The text is in the template, the rows of its tables here. Neither contains a number.
"""

from pathlib import Path
from typing import Any

from ..schema import FEATURES
from .card_facts import card_metadata, describe_environments, describe_size, fill_template


HELD_OUT = "in_test_set"  # the reason of a pair whose sound was to be kept out
# Where the captions of each source come from, how they came about and on what terms its annotations are published, in
# the order of trust: a sound that two sources have stays in the first.
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


def card_text(report: dict[str, Any], *, name: str) -> str:
    """The dataset card for a build, from the content of its report.json; `name` is how `load_dataset` will call it."""
    settings, counts = report["settings"], report["sources"]
    sources = [source for source in SOURCES if source in settings["mix"]]  # their order decides whose a sound is
    num_rows = report.get("num_rows", {"train": sum(row["taken"] for row in settings["mix"].values())})
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
