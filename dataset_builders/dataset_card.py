"""The README.md of a built PU-VALOR folder: YAML that `load_dataset` reads, and the account of how the rows were made.

Every number about the build comes from its report.json. The one number from elsewhere is the overlap of
VALOR-32K with UnAV-100's test videos, counted over the whole of both.
"""

import json
from pathlib import Path

from .report_figures import DISTRIBUTIONS, FIGURES_DIR, TIMELINE


SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# Settings that the paper states or shows; the others are open there, and ours.
FROM_PAPER = {
    "num_videos": "stated",
    "scale_range": "read off its figure",
    "clips_per_video": "its figure shows 4 to 6; the range is ours",
    "background_noise_snr_db": "noise is stated, its level is ours",
    "coherence_threshold": "a filter is stated, its rule is ours",
    "clustering": "clustering of caption embeddings is stated, the algorithm is ours",
}
# Hashes of what was read, and what is nobody's choice.
NO_CHOICE = ("captions", "clips", "curation_version", "encoder", "excluded_ids", "seed")


def write_card(output: str | Path, report: dict) -> Path:
    """Write `output`/README.md."""
    path = Path(output) / "README.md"
    path.write_text(card_text(report), encoding="utf-8")
    return path


def card_text(report: dict, *, name: str = "path/to/this/folder") -> str:
    """The card of a build, from its report.json alone; `name` is what `load_dataset` is called with (a Hub id, say)."""
    sections = [
        write_header(report),
        write_summary(report),
        write_usage(report, name),
        write_making(report),
        write_settings(report),
        write_drops(report),
        write_limits(),
    ]
    return "\n".join(sections)


def is_rendered(report: dict) -> bool:
    return report["settings"]["settings"]["media"] == "rendered"


def write_header(report: dict) -> str:
    """The YAML block: which files are which split, and the tags the Hub searches by."""
    num_rows = sum(report["num_rows"].values())
    size = next((name for limit, name in SIZES if num_rows < limit), "n>1M")
    files = "".join(f"  - split: {split}\n    path: data/{split}-*.parquet\n" for split in report["num_rows"])
    modalities = "- text\n" + ("- video\n" if is_rendered(report) else "")
    return (
        "---\npretty_name: PU-VALOR\nlanguage:\n- en\nlicense: other\nlicense_name: as-the-captioned-clips\n"
        f"size_categories:\n- {size}\ntask_categories:\n- video-text-to-text\n"
        f"tags:\n- audio-visual\n- temporal-grounding\n- dense-captioning\n- pseudo-untrimmed\nmodalities:\n{modalities}"
        f"configs:\n- config_name: default\n  data_files:\n{files}---\n"
    )


def write_summary(report: dict) -> str:
    """Title, what a row is, and the counts per split."""
    lines = [
        "# PU-VALOR: pseudo-untrimmed videos with time-stamped audio-visual events\n",
        "Each row is one video composed of captioned clips: clips with related captions are stretched in time, permuted",
        "and joined, and their captions become events with start and end in seconds. The recipe is that of AVicuna",
        "(arXiv 2403.16276); the rows were made by the AVicuna project's own builder.\n",
        "| split | videos | hours | clips | segments per video | duration (s): min / mean / max |",
        "|---|---|---|---|---|---|",
    ]
    for split, facts in report["settings"]["splits"].items():
        spans = facts["duration_seconds"]
        counts = facts["clips_per_video"]
        per_video = f"{min(map(int, counts))} to {max(map(int, counts))}" if counts else "-"
        span = f"{spans['min']:.1f} / {spans['mean']:.1f} / {spans['max']:.1f}" if spans else "-"
        lines.append(
            f"| {split} | {report['num_rows'][split]:,} | {facts['hours']:,.1f} | {facts['num_clips']:,} | {per_video} | {span} |"
        )
    if not is_rendered(report):
        lines.append(
            "\nThe videos are virtual: `segments` names the clips and their times; pixels and sound stay in the clips."
        )
    else:
        lines.append(
            "\nThe videos are rendered: the column `video` holds the mp4, `media.video` names the file of this folder."
        )
    return "\n".join(lines) + "\n"


def write_usage(report: dict, name: str) -> str:
    """How to load it, and what the columns hold."""
    split = next(iter(report["num_rows"]))
    play = ""
    if is_rendered(report):
        play = (
            'row["video"]  # a decoder of frames; needs torchcodec and the system\'s FFmpeg libraries\n'
            'ds.cast_column("video", datasets.Video(decode=False))[0]["video"]["bytes"]  # the mp4 itself, without torchcodec\n'
        )
    return (
        "## Use\n\n```python\nimport datasets\n\n"
        f'ds = datasets.load_dataset("{name}", split="{split}")  # or streaming=True\nrow = ds[0]\n{play}```\n\n'
        "| column | holds |\n|---|---|\n"
        "| `id`, `source` | name of the row; `pseudo-valor` |\n"
        "| `duration` | seconds |\n"
        "| `media` | `video`, `audio`, `image`: paths, or null |\n"
        "| `segments` | the composition: `clip_id`, `start`, `end` (s), `scale` (new length / original length), `caption` |\n"
        '| `messages` | `role`, `content`; "<video>" marks the video, "<s0>", "<e0>" ... mark times |\n'
        '| `times` | what "<s0>" stands for, in seconds |\n'
    )


def write_making(report: dict) -> str:
    """Clusters, planned and rejected videos, figures."""
    lines = ["## How it was made\n"]
    for split, facts in report["settings"]["splits"].items():
        clusters = facts["clusters"]
        sizes = clusters["sizes"]
        line = f"* {split}: {clusters['num_clusters']} clusters of {min(sizes)} to {max(sizes)} clips"
        if clusters["mean_cosine"] is not None:
            line += (
                f"; mean cosine of two captions of a cluster {clusters['mean_cosine']:.3f}, "
                f"of random groups of the same sizes {clusters['random_mean_cosine']:.3f}"
            )
        rejected = facts["rejected_plans"]
        line += "; rejected plans, drawn again: " + (", ".join(f"{k} {v}" for k, v in rejected.items()) or "none")
        uses = facts["uses_of_a_clip"]
        lines.append(f"{line}. A clip is used {uses['mean']:.1f} times on average, {uses['max']:.0f} times at most.")
    lines.append(f"\n![clips of one row on its time line]({FIGURES_DIR}/{TIMELINE})\n")
    lines.append(f"![distributions]({FIGURES_DIR}/{DISTRIBUTIONS})\n")
    return "\n".join(lines)


def write_settings(report: dict) -> str:
    """Every setting, with what the paper says of it."""
    lines = ["## Settings\n", "| setting | value | in the paper |", "|---|---|---|"]
    values = {**report["settings"]["settings"], "text_encoder": report["settings"]["text_encoder"]}
    for name, value in sorted(values.items()):
        said = "-" if name in NO_CHOICE else FROM_PAPER.get(name, "open: our choice")
        lines.append(f"| `{name}` | `{json.dumps(value)}` | {said} |")
    lines.append(
        f"\nThe same settings and seed give the same bytes (build `{report['fingerprint']}`; hashes of the files in report.json)."
        " `captions`, `excluded_ids`, `encoder` and `clips` are hashes of contents.\n"
    )
    return "\n".join(lines)


def write_drops(report: dict) -> str:
    """What was left out, by reason."""
    lines = ["## Left out\n", "| what | read | kept | left out, by reason |", "|---|---|---|---|"]
    for source, counts in report["sources"].items():
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts["dropped"].items())) or "-"
        lines.append(f"| {source} | {counts['read']:,} | {counts['kept']:,} | {reasons} |")
    excluded = report["settings"].get("excluded_ids")
    if excluded:
        lines.append(f"\nOf {excluded['in_file']:,} ids to exclude, {excluded['hit']:,} were among the clips.")
    else:
        lines.append(
            "\nNo ids were excluded. 301 test videos of UnAV-100 share a YouTube id with VALOR-32K: exclude them by"
        )
        lines.append("`exclude_ids_file` before results on UnAV-100 are reported.")
    lines.append("\nEach dropped record stands in dropped.jsonl, each rejected plan in rejected-*.parquet.\n")
    return "\n".join(lines)


def write_limits() -> str:
    """What the data are not."""
    return (
        "## Limits\n\nThe events of a video do not belong together beyond their captions' likeness, each fills its segment from end to"
        " end, and events never overlap: real untrimmed videos have gaps and overlaps. Captions are taken as they are, with the"
        " mistakes of their writers. Clips and captions keep the rights of their owners.\n"
    )
