"""Figures of a built PU-VALOR folder: a timeline of one row's clips, and histograms over all rows.

They are drawn from the first shard, the prepared plan and the report.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..pseudo_untrimmed.shards import CLIPS_FILE, PLAN_FILE, read_plan


FIGURES_DIR = "figures"
TIMELINE = "timeline.png"
DISTRIBUTIONS = "distributions.png"
CAPTION_LENGTH = 90  # characters of a caption on the time line
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")


def draw_report(output: str | Path, prepared_folder: str | Path, report: dict) -> list[Path]:
    """Write the figures of a built folder below `figures/`."""
    folder = Path(output) / FIGURES_DIR
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / TIMELINE, folder / DISTRIBUTIONS]
    row = choose_row(output)
    if row is None:
        return []
    draw_timeline(row, paths[0])
    draw_distributions(collect_numbers(prepared_folder, report), paths[1])
    return paths


def choose_row(output: str | Path, *, num_segments: int = 5) -> dict | None:
    """The first row with at least `num_segments` segments (otherwise the row with the most): a row with few
    segments makes an uninformative figure."""
    longest = None
    for path in sorted((Path(output) / "data").glob("*.parquet")):
        table = pq.read_table(path, columns=["id", "duration", "segments"])
        for row in table.slice(0, 100).to_pylist():
            if longest is None or len(row["segments"]) > len(longest["segments"]):
                longest = row
            if len(longest["segments"]) >= num_segments:
                return longest
    return longest


def draw_timeline(row: dict, path: str | Path) -> None:
    """One row: a bar per segment at its times, with its scale and caption."""
    figure, axes = make_figure(1, 1, width=12, height=0.5 * len(row["segments"]) + 1.4)
    axes = axes[0]
    known: dict[str, int] = {}
    for place, segment in enumerate(row["segments"]):
        colour = COLOURS[known.setdefault(segment["clip_id"], len(known)) % len(COLOURS)]
        length = segment["end"] - segment["start"]
        axes.barh(place, length, left=segment["start"], color=colour, height=0.8)
        text = f"x{segment['scale']:.2f}  {(segment['caption'] or 'background')[:CAPTION_LENGTH]}"
        axes.text(
            row["duration"] * 0.01,
            place,
            text,
            va="center",
            fontsize=8,
            bbox={"fc": "white", "ec": "none", "alpha": 0.75},
        )
    axes.set(xlim=(0, row["duration"]), yticks=[], xlabel="seconds", title=f"{row['id']} ({row['duration']:.1f} s)")
    axes.invert_yaxis()
    save_figure(figure, path)


def draw_distributions(numbers: dict[str, np.ndarray], path: str | Path) -> None:
    """Histograms of durations, scales, clips per video and cluster sizes."""
    figure, axes = make_figure(2, 2, width=10, height=6)
    labels = {
        "duration": "duration of a video (s)",
        "scale": "temporal scale of a segment",
        "clips_per_video": "segments of a video",
        "cluster_size": "clips in a cluster",
    }
    for place, (name, label) in zip(axes, labels.items()):
        values = numbers[name]
        # scales are multiples of 0.01 and counts are integers: each bin covers the same number of possible values
        step = 0.05 if name == "scale" else 1 if np.ptp(values) < 100 else 5
        bins = np.arange(values.min() - 0.005, values.max() + step, step)
        place.hist(values, bins=bins, color=COLOURS[0])
        place.set(xlabel=label, ylabel="count")
    save_figure(figure, path)


def collect_numbers(prepared_folder: str | Path, report: dict) -> dict[str, np.ndarray]:
    """The values that the histograms show, over all splits."""
    numbers: dict[str, list[np.ndarray]] = {"duration": [], "scale": [], "clips_per_video": [], "cluster_size": []}
    for split, facts in report["settings"]["splits"].items():
        plan = read_plan(Path(prepared_folder) / PLAN_FILE.format(split=split))
        durations = pq.read_table(Path(prepared_folder) / CLIPS_FILE.format(split=split))["duration"].to_numpy()
        present = plan.clips >= 0
        numbers["duration"].append(plan.place(durations)[2])
        numbers["scale"].append(plan.scales[present] / 100)
        numbers["clips_per_video"].append(present.sum(axis=1))
        numbers["cluster_size"].append(np.array(facts["clusters"]["sizes"]))
    return {name: np.concatenate(values) for name, values in numbers.items()}


def make_figure(num_rows: int, num_columns: int, *, width: float, height: float):
    """A figure that needs no display, and its axes as a flat array."""
    from matplotlib.figure import Figure  # slow import, needed only for figures

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(num_rows, num_columns)).ravel()


def save_figure(figure: Any, path: str | Path) -> None:
    figure.savefig(path, dpi=110)
