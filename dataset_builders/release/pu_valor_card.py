"""The dataset card of a built PU-VALOR folder: table rows of `pu_valor_card_template.md`, made from report.json."""

import json
from pathlib import Path

import datasets

from ..pseudo_untrimmed.settings import CurationSettings
from ..schema import FEATURES, TRACKED_FEATURES, with_rejected
from .card_facts import (
    NOT_RECORDED,
    card_metadata,
    describe_environments,
    describe_size,
    fill_template,
    local_name,
    write_card_files,
)
from .report_figures import DISTRIBUTIONS, FIGURES_DIR, TIMELINE


TEMPLATE = Path(__file__).with_name("pu_valor_card_template.md")
# Settings that the paper states or shows. It leaves the others open; they are our choice.
FROM_PAPER = {
    "num_videos": "stated: the default",
    "scale_range": "read from a figure of the paper",
    "clips_per_video": "a figure of the paper shows 4 to 6; the range is our choice",
    "background_noise_snr_db": "noise is stated, its level is our choice",
    "coherence_threshold": "a filter is stated, its rule is our choice",
    "clustering": "clustering of caption embeddings is stated, the algorithm is our choice",
}
# Settings for what the paper's set does not have; all of them are off by default.
NOT_IN_PAPER = (
    *("absent_share", "backgrounds", "gap_seconds", "gap_share", "hard_absent", "overlap_share", "overlay"),
    *("dark_share", "muted_sound_share", "preferences", "preset", "recurrence", "shifted_sound_share"),
    *("silent_share", "swapped_sound_share"),
)
# Hashes of the inputs, and settings that are not design choices.
NO_CHOICE = ("captions", "clips", "curation_version", "encoder", "excluded_ids", "seed")
NOT_RUN = "not run"
OPEN = {False: "open: our choice", True: "not in the paper: our choice"}


def write_card(output: str | Path, report: dict) -> None:
    """Write `output`/README.md, whose example code runs from the parent folder, and `output`/LICENSE.md."""
    write_card_files(output, card_text(report, name=local_name(output)))


def card_text(report: dict, *, name: str = "path/to/this/folder") -> str:
    """The card of a build, from its report.json only; `name` is the argument for `load_dataset`, such as a Hub id."""
    facts, sizes = report["settings"]["splits"], report.get("sizes")
    splits = sorted(report["num_rows"], key=lambda split: (split != "train", split))
    num_rows = {split: report["num_rows"][split] for split in splits}
    composition = report["settings"]["settings"]
    rendered, overlay = composition["media"] == "rendered", bool(composition.get("overlay"))
    features = TRACKED_FEATURES if overlay else FEATURES
    preferences = bool(composition.get("preferences"))
    features = with_rejected(features) if preferences else features
    metadata = card_metadata(
        pretty_name="PU-VALOR",
        license_name="as-the-captioned-clips",
        task_categories=["video-text-to-text"],
        tags=["audio-visual", "temporal-grounding", "dense-video-captioning", "pseudo-untrimmed"],
        num_rows=num_rows,
        sizes=sizes,
        features=datasets.Features(features | {"video": datasets.Video()}) if rendered else features,
    )
    return fill_template(
        TEMPLATE,
        metadata,
        name=name,
        split=splits[0],
        rendered=rendered,
        overlay=overlay,
        preferences=preferences,
        is_gapless=not any(composition.get(name) for name in ("overlay", "gap_share", "overlap_share")),
        num_videos=sum(num_rows.values()),
        size=describe_size(None if sizes is None else sizes.values()),
        split_rows=[describe_split(split, num_rows[split], facts[split], sizes) for split in splits],
        cluster_rows=[describe_clusters(split, facts[split]) for split in splits],
        setting_rows=describe_settings(report["settings"]),
        source_rows=[describe_source(source, counts) for source, counts in sorted(report["sources"].items())],
        excluded=report["settings"].get("excluded_ids"),
        environments=describe_environments(report),
        fingerprint=report["fingerprint"],
        timeline=f"{FIGURES_DIR}/{TIMELINE}",
        distributions=f"{FIGURES_DIR}/{DISTRIBUTIONS}",
    )


def describe_split(split: str, num_videos: int, facts: dict, sizes: dict | None) -> list[str]:
    """One table row: the composition of a split's videos, and the size of its files."""
    spans, counts = facts["duration_seconds"], [int(count) for count in facts["clips_per_video"]]
    return [
        split,
        f"{num_videos:,}",
        f"{facts['hours']:,.1f}",
        f"{facts['num_clips']:,}",
        f"{min(counts)} to {max(counts)}" if counts else "-",
        f"{spans['min']:.1f} / {spans['mean']:.1f} / {spans['max']:.1f}" if spans else "-",
        NOT_RECORDED if sizes is None else f"{sizes[split]['file_bytes']:,}",
    ]


def describe_clusters(split: str, facts: dict) -> list[str]:
    """One table row: how a split's clips were clustered, and how often they were drawn."""
    clusters, uses = facts["clusters"], facts["uses_of_a_clip"]
    cosines = (clusters["mean_cosine"], clusters["random_mean_cosine"])
    rejected = ", ".join(f"{reason} {count:,}" for reason, count in facts["rejected_plans"].items())
    return [
        split,
        f"{clusters['num_clusters']:,}",
        f"{min(clusters['sizes'])} to {max(clusters['sizes'])}",
        NOT_RUN if None in cosines else " / ".join(f"{cosine:.3f}" for cosine in cosines),
        rejected or "none",
        f"{uses['mean']:.1f} / {uses['max']:.0f}" if uses else "-",
    ]


def describe_settings(settings: dict) -> list[list[str]]:
    """Every setting with its default and what the paper states about it."""
    defaults = vars(CurationSettings())
    values = {**settings["settings"], "text_encoder": settings["text_encoder"]}
    return [
        [
            f"`{name}`",
            f"`{json.dumps(value)}`",
            f"`{json.dumps(defaults[name])}`" if name in defaults else "-",
            "-" if name in NO_CHOICE else FROM_PAPER.get(name, OPEN[name in NOT_IN_PAPER]),
        ]
        for name, value in sorted(values.items())
    ]


def describe_source(source: str, counts: dict) -> list[str]:
    """One table row: the numbers of records read, kept and dropped."""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts["dropped"].items()))
    return [source, f"{counts['read']:,}", f"{counts['kept']:,}", reasons or "-"]
