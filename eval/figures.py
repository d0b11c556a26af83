"""Figures of the analyses: grouped bars, lines and intervals, written as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

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
    _write(figure, axes, path, unit=unit, title=title)


def draw_lines(path: Path, *, series: dict[str, dict[float, float]], axis: str, unit: str, title: str) -> None:
    """One line per series, given as {x: y}."""
    figure, axes = _figure(width=8.0)
    for name, points in series.items():
        places = sorted(points)
        axes.plot(places, [points[place] for place in places], marker="o", label=name)
    axes.set_xlabel(axis)
    _write(figure, axes, path, unit=unit, title=title)


def draw_intervals(
    path: Path, *, values: Mapping[str, float], intervals: Mapping[str, tuple[float, float]], title: str
) -> None:
    """One horizontal bar per value, with its interval where there is one."""
    figure, axes = _figure(width=8.0, height=max(3.0, 0.28 * len(values)))
    names = list(values)[::-1]  # the first one at the top
    axes.barh(names, [values[name] for name in names], color=_shade(0, 2))
    for name in names:
        if name in intervals:
            axes.plot(intervals[name], [name, name], color="black")
    axes.set_xlim(left=0)
    axes.set_title(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _figure(*, width: float, height: float = 4.5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(min(width, 14.0), height), layout="constrained")
    return figure, figure.add_subplot()


def _write(figure: Figure, axes: Axes, path: Path, *, unit: str, title: str) -> None:
    axes.set(ylabel=unit, title=title)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _shade(index: int, count: int) -> str:
    return str(0.85 - 0.6 * index / max(count - 1, 1))
