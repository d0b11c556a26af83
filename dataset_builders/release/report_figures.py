"""Figures of a built PU-VALOR folder: a timeline of one row's clips, and histograms over all rows.

They are drawn from the first shard, the prepared plan and the report.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from ..pseudo_untrimmed.shards import CLIPS_FILE, PLAN_FILE, read_plan


FIGURES_DIR = "figures"
TIMELINE = "timeline.png"
DISTRIBUTIONS = "distributions.png"
CAPTION_LENGTH = 90  # characters of a caption on the time line
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")


def draw_report(output: Path, prepared_folder: Path, report: dict) -> None:
    """Write the figures of a built folder below `figures/`; none for a build without rows."""
    row = choose_row(output)
    if row is not None:
        folder = output / FIGURES_DIR
        folder.mkdir(parents=True, exist_ok=True)
        draw_timeline(row, folder / TIMELINE)
        draw_distributions(collect_numbers(prepared_folder, report), folder / DISTRIBUTIONS)


def choose_row(output: str | Path) -> dict | None:
    """The first row with at least five segments, or the row with the most: few segments make a poor figure."""
    longest = None
    for path in sorted((Path(output) / "data").glob("*.parquet")):
        table = pq.read_table(path, columns=["id", "duration", "segments"])
        for row in table.slice(0, 100).to_pylist():
            if longest is None or len(row["segments"]) > len(longest["segments"]):
                longest = row
            if len(longest["segments"]) >= 5:
                return longest
    return longest


def draw_timeline(row: dict, path: Path) -> None:
    """One row: a bar per segment at its times, with its scale and caption."""
    figure = Figure(figsize=(12, 0.5 * len(row["segments"]) + 1.4), layout="constrained")
    axes = figure.subplots()
    known: dict[str, int] = {}
    for lane, segment in enumerate(row["segments"]):
        colour = COLOURS[known.setdefault(segment["clip_id"], len(known)) % len(COLOURS)]
        length = segment["end"] - segment["start"]
        axes.barh(lane, length, left=segment["start"], color=colour, height=0.8)
        text = f"x{segment['scale']:.2f}  {(segment['caption'] or 'background')[:CAPTION_LENGTH]}"
        box = {"fc": "white", "ec": "none", "alpha": 0.75}
        axes.text(row["duration"] * 0.01, lane, text, va="center", fontsize=8, bbox=box)
    axes.set(xlim=(0, row["duration"]), yticks=[], xlabel="seconds", title=f"{row['id']} ({row['duration']:.1f} s)")
    axes.invert_yaxis()
    figure.savefig(path, dpi=110)


def draw_distributions(numbers: dict[str, np.ndarray], path: Path) -> None:
    """Histograms of durations, scales, clips per video and cluster sizes."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    labels = {
        "duration": "duration of a video (s)",
        "scale": "temporal scale of a segment",
        "clips_per_video": "segments of a video",
        "cluster_size": "clips in a cluster",
    }
    for axes, (name, label) in zip(figure.subplots(2, 2).flat, labels.items()):
        values = numbers[name]
        # scales are multiples of 0.01 and counts are integers: each bin covers the same number of possible values
        step = 0.05 if name == "scale" else 1 if np.ptp(values) < 100 else 5
        bins = np.arange(values.min() - 0.005, values.max() + step, step)
        axes.hist(values, bins=bins, color=COLOURS[0])
        axes.set(xlabel=label, ylabel="count")
    figure.savefig(path, dpi=110)


def collect_numbers(prepared_folder: Path, report: dict) -> dict[str, np.ndarray]:
    """The values that the histograms show, over all splits."""
    numbers: dict[str, list[np.ndarray]] = {"duration": [], "scale": [], "clips_per_video": [], "cluster_size": []}
    for split, facts in report["settings"]["splits"].items():
        plan = read_plan(prepared_folder / PLAN_FILE.format(split=split))
        durations = pq.read_table(prepared_folder / CLIPS_FILE.format(split=split))["duration"].to_numpy()
        present = plan.clips >= 0
        numbers["duration"].append(plan.place(durations)[2])
        numbers["scale"].append(plan.scales[present] / 100)
        numbers["clips_per_video"].append(present.sum(axis=1))
        numbers["cluster_size"].append(np.array(facts["clusters"]["sizes"]))
    return {name: np.concatenate(values) for name, values in numbers.items()}
