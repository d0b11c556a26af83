"""Figures of the analyses: grouped bars and lines, written as PNG. Nothing is computed here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_bars(
    path: Path,
    *,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    unit: str,
    title: str,
    highlight: str = "",
) -> None:
    """One group of bars per entry of `groups`, one bar per series in it; a value of None has no bar.

    Args:
        highlight: series in another colour (ours among published ones).
    """
    figure, axes = _figure(width=max(8.0, 1.1 * len(groups) + 0.35 * len(groups) * len(series)))
    width = 0.8 / max(len(series), 1)
    for index, (name, values) in enumerate(series.items()):
        places = [group + (index - (len(series) - 1) / 2) * width for group, v in enumerate(values) if v is not None]
        colour = "#c44e52" if name == highlight else _shade(index, len(series))
        axes.bar(places, [value for value in values if value is not None], width, label=name, color=colour)
    axes.set_xticks(range(len(groups)), groups)
    _finish(figure, axes, path, unit=unit, title=title)


def draw_lines(path: Path, *, series: dict[str, dict[float, float]], axis: str, unit: str, title: str) -> None:
    """One line per series, given as {x: y}."""
    figure, axes = _figure(width=8.0)
    for name, points in series.items():
        places = sorted(points)
        axes.plot(places, [points[place] for place in places], marker="o", label=name)
    axes.set_xlabel(axis)
    _finish(figure, axes, path, unit=unit, title=title)


def _figure(*, width: float) -> tuple["Figure", "Axes"]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(width, 14.0), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _finish(figure: "Figure", axes: "Axes", path: Path, *, unit: str, title: str) -> None:
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _shade(index: int, count: int) -> str:
    return str(0.85 - 0.6 * index / max(count - 1, 1))
