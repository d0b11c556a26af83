"""The dataset card of a built A5-222K folder: makes the table rows of `a5_222k_card_template.md` from report.json."""

from pathlib import Path
from typing import Any

from ..schema import FEATURES
from .card_facts import card_metadata, describe_environments, describe_size, fill_template


HELD_OUT = "in_test_set"  # drop reason of a pair whose sound belongs to a held-out set
# Link, caption origin and annotation licence of each source, most trusted first: a sound that occurs in two sources is
# kept in the first.
SOURCES = {
    "audiocaps": ("[AudioCaps](https://github.com/cdjkim/audiocaps)", "by people", "MIT"),
    "clotho": ("[Clotho](https://zenodo.org/records/4783391)", "by people, five for each sound", "see its page"),
    "captions": ("captioned clips in VALOR's format, not part of the published set", "as given", "see below"),
    "auto_acd": ("[Auto-ACD](https://auto-acd.github.io)", "by models", "see its page"),
    "wavcaps": ("[WavCaps](https://github.com/XinhaoMei/WavCaps)", "by a language model", "academic use"),
    "audioset": (
        "[AudioSet](https://research.google.com/audioset), or [LLP](https://github.com/YapengTian/AVVP-ECCV20)",
        "our sentences about class labels",
        "AudioSet CC BY 4.0, LLP GPL-3.0",
    ),
}
TEMPLATE = Path(__file__).with_name("a5_222k_card_template.md")


def card_text(report: dict[str, Any], *, name: str) -> str:
    """The dataset card of a build, from the content of its report.json; `name` is the argument for `load_dataset`."""
    settings, counts = report["settings"], report["sources"]
    sources = [source for source in SOURCES if source in settings["mix"]]  # order of priority for shared sounds
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
    """One table row: where a source's captions come from, and how many of its pairs were selected."""
    link, captions, terms = SOURCES[source]
    return [
        f"`{source}`",
        link,
        captions,
        terms,
        *(f"{num:,}" for num in (num_read, row["usable"], row["target"], row["taken"])),
    ]


def describe_drops(sources: list[str], counts: dict[str, dict]) -> list[list[str]]:
    """Table rows of the dropped pairs, by source and reason."""
    rows = [[source, why, f"{num:,}"] for source in sources for why, num in counts[source]["dropped"].items()]
    return rows or [["-", "-", "-"]]


def describe_held_out(settings: dict[str, Any]) -> str:
    """The lists of held-out sounds with their file names; empty if there are none."""
    lists = []
    for option, files in sorted(settings.items()):
        if option.startswith("exclude_") and files:
            names = [f"`{Path(path).name}`" for path in (files if isinstance(files, list) else [files])]
            lists.append(f"{option.removeprefix('exclude_').removesuffix('_file')} ({', '.join(names)})")
    return ", ".join(lists)
