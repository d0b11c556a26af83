"""Time lines of the events of one video: a row per label, truth above prediction, darker if scored higher."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from modeling_avicuna.timestamp_avicuna import Event


TRUTH_COLOUR, PREDICTION_COLOUR = "#4c72b0", "#dd8452"
MAX_ROWS = 24  # of more labels, those with the best scores are drawn


def draw_timeline(
    path: Path, *, truth: Sequence[Event], prediction: Sequence[Event], duration: float, title: str
) -> None:
    """Writes a PNG. Times are in seconds; `score` (0-1) sets the opacity of a predicted event, None: opaque."""
    ranked = sorted(prediction, key=lambda event: -(1.0 if event.score is None else event.score))
    labels = list(dict.fromkeys(event.label for event in sorted(truth, key=lambda event: event.start)))
    labels += [label for label in dict.fromkeys(event.label for event in ranked) if label not in labels]
    shown = labels[:MAX_ROWS]
    figure = Figure(figsize=(10, 1.2 + 0.42 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    rows = {label: row for row, label in enumerate(shown)}
    for event in truth:
        if event.label in rows:
            axes.barh(rows[event.label] - 0.19, event.end - event.start, 0.34, event.start, color=TRUTH_COLOUR)
    for event in ranked:
        if event.label in rows:
            alpha = 1.0 if event.score is None else 0.25 + 0.75 * min(max(event.score, 0.0), 1.0)
            width = max(event.end - event.start, duration / 500)  # an empty span remains visible
            axes.barh(rows[event.label] + 0.19, width, 0.34, event.start, color=PREDICTION_COLOUR, alpha=alpha)
    axes.set_yticks(range(len(shown)), shown, parse_math=False)  # "$" in a label is a "$"
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, duration)
    axes.set_xlabel("seconds")
    heading = title if len(shown) == len(labels) else f"{title} ({len(shown)} of {len(labels)} labels)"
    axes.set_title(heading, parse_math=False)
    axes.legend(
        handles=[Patch(color=TRUTH_COLOUR, label="truth"), Patch(color=PREDICTION_COLOUR, label="prediction")],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
