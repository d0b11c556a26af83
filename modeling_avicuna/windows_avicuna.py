"""Plans the overlapping windows of a long video, and joins the events of all windows to those of the video.

`window_reading_avicuna` decodes the windows, `window_answering_avicuna` asks about them. This module needs neither
torch nor transformers: a client of a server can plan windows and join their answers too.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from .timestamp_avicuna import Event


OVERLAP = 0.25  # of a window, by default: our choice
EDGE_STEPS = 2  # a span that ends within so many written time steps of its window's edge may be cut there


def plan_windows(
    end: float, *, window: float, start: float = 0.0, overlap: float | None = None
) -> list[tuple[float, float]]:
    """Windows of equal length that cover a video, or the part of it from `start` to `end`, in seconds.

    Args:
        window (`float`): seconds of a window. A shorter part is one window.
        overlap (`float`, *optional*): seconds that neighbouring windows share at least; a quarter of a window by
            default. An event of at most this length lies within one window. The last window is moved back to end
            where the video ends.

    Raises:
        ValueError: a part that is empty, a `window` that is not positive, or an `overlap` outside of `0 <= overlap <
            window`.

    Example:
        >>> plan_windows(150.0, window=60.0)
        [(0.0, 60.0), (45.0, 105.0), (90.0, 150.0)]
        >>> plan_windows(100.0, window=60.0, overlap=0.0)
        [(0.0, 60.0), (40.0, 100.0)]
    """
    if isinstance(window, (bool, str)) or not (math.isfinite(window) and window > 0):
        raise ValueError(f"window must be a positive number of seconds, got {window!r}")
    overlap = OVERLAP * window if overlap is None else overlap
    if not 0 <= overlap < window:
        raise ValueError(f"overlap must be at least 0 and less than the window of {window} s, got {overlap!r}")
    if not 0 <= start < end:
        raise ValueError(f"the part from {start} to {end} s is empty")
    stride = window - overlap
    # the tolerance keeps a rounding error from adding a window
    number = math.ceil((end - start - window) / stride - 1e-6) + 1
    if number <= 1:
        return [(start, end)]
    return [(start + k * stride, start + k * stride + window) for k in range(number - 1)] + [(end - window, end)]


def join_windows(
    spans: Sequence[tuple[float, float]], events: Sequence[Sequence[Event]], *, resolution: float
) -> list[Event]:
    """The events of a video from those of its overlapping windows.

    Events of two windows with the same label (ignoring case) are one event if they share half of the shorter one, or
    if they meet where a window cuts them. The joined event has the highest of the scores, and each boundary comes
    from the best scored of the windows that do not cut the event there. An event that two windows show whole and only
    one of them names is kept if most of it lies nearer to the middle of the window that names it.

    Args:
        spans (`list[tuple[float, float]]`): the windows, as `plan_windows` returns them.
        events (`list[list[Event]]`): the events of each window, in seconds of the file.
        resolution (`float`): seconds between two written times in a window (`TimeCodec.resolution`).

    Returns:
        the events in the order of their start.

    Example:
        >>> windows = [(0.0, 60.0), (45.0, 105.0)]
        >>> join_windows(windows, [[Event(50.0, 59.4, "rain")], [Event(50.2, 70.0, "rain")]], resolution=0.6)
        [Event(start=50.0, end=70.0, label='rain', score=None)]
    """
    if len(spans) != len(events):
        raise ValueError(f"got the events of {len(events)} windows for {len(spans)} windows")
    seen = [(number, event) for number, found in enumerate(events) for event in found]
    groups: list[list[tuple[int, Event]]] = []
    for number, event in sorted(seen, key=lambda item: (item[1].start, item[1].end)):
        same = [
            group
            for group in groups
            if any(_is_continued(spans, member, (number, event), resolution=resolution) for member in group)
        ]
        groups = [group for group in groups if not any(group is other for other in same)]
        groups.append([*(member for group in same for member in group), (number, event)])
    joined = [_joined(spans, group, resolution=resolution) for group in groups if _is_trusted(spans, group)]
    return sorted(joined, key=lambda event: (event.start, event.end))


def _is_continued(
    spans: Sequence[tuple[float, float]], left: tuple[int, Event], right: tuple[int, Event], *, resolution: float
) -> bool:
    """Whether the events `left` and `right`, which does not begin earlier, of two windows are one event."""
    (number, first), (other, second) = left, right
    if number == other or first.label.strip().lower() != second.label.strip().lower():
        return False
    shared = min(first.end, second.end) - second.start
    shorter = min(first.end - first.start, second.end - second.start)
    if shared > 0 and shared >= 0.5 * shorter:
        return True
    reach = EDGE_STEPS * resolution
    return shared >= -reach and spans[number][1] - first.end <= reach and second.start - spans[other][0] <= reach


def _joined(spans: Sequence[tuple[float, float]], group: list[tuple[int, Event]], *, resolution: float) -> Event:
    """One event from the same event in several windows."""
    by_score = sorted(group, key=lambda item: -(item[1].score or 0.0))
    reach, first, last = EDGE_STEPS * resolution, spans[0][0], spans[-1][1]
    starts = [
        event.start
        for number, event in by_score
        if event.start - spans[number][0] > reach or spans[number][0] <= first
    ]
    ends = [
        event.end for number, event in by_score if spans[number][1] - event.end > reach or spans[number][1] >= last
    ]
    start = starts[0] if starts else min(event.start for _, event in group)
    end = ends[0] if ends else max(event.end for _, event in group)
    return replace(by_score[0][1], start=min(start, end), end=max(start, end))


def _is_trusted(spans: Sequence[tuple[float, float]], group: list[tuple[int, Event]]) -> bool:
    """False for an event that one window names and another one, which shows it nearer to its middle, does not."""
    if len(group) > 1:
        return True
    number, event = group[0]
    showing = [span for span in spans if span[0] <= event.start and event.end <= span[1]]
    middle = (event.start + event.end) / 2
    nearest = min((abs((start + end) / 2 - middle) for start, end in showing), default=math.inf)
    own = sum(spans[number]) / 2
    return abs(own - middle) <= nearest + 1e-6
