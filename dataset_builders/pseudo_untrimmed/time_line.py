"""The picture and sound of a composition at each moment, by the same rule for composed features and rendered videos.

Two clips may play at once, and there may be gaps between clips. The picture is that of the clip that began last; the
sound is the mix of all clips that play. If no clip plays, the picture is black and the sound silent.
"""

from collections.abc import Sequence


TOLERANCE = 1e-3  # s; segments that end and begin within it are contiguous, since rows store times as float32
Span = tuple[float, float]


def check_spans(spans: Sequence[Span]) -> list[Span]:
    """The (start, end) of segments in seconds, with each start that is close to an earlier end moved to that end.

    Raises:
        ValueError: no segment, one that does not end after it begins, or one that begins before 0 or before the
            previous one.
    """
    if not spans:
        raise ValueError("a composition needs at least one segment, got none")
    checked: list[Span] = []
    for index, (start, end) in enumerate(spans):
        earlier = [0.0] if not checked else [before[1] for before in checked]
        start = min((border for border in earlier if abs(border - start) <= TOLERANCE), default=start)
        if not end > start or start < (checked[-1][0] if checked else 0.0):
            raise ValueError(
                f"segment {index} from {start} to {end} s must end after it begins, and begin at 0 or later and not "
                "before the segment before it"
            )
        checked.append((start, end))
    return checked


def list_pictures(spans: Sequence[Span], duration: float) -> list[tuple[float, float, int | None]]:
    """The visible segment over time, as (start, end, index) in order; the index is None if the picture is black.

    >>> list_pictures([(0.0, 5.0), (3.0, 8.0), (9.0, 10.0)], 12.0)
    [(0.0, 3.0, 0), (3.0, 8.0, 1), (8.0, 9.0, None), (9.0, 10.0, 2), (10.0, 12.0, None)]
    """
    borders = sorted({0.0, duration, *(time for span in spans for time in span if time < duration)})
    shown: list[tuple[float, float, int | None]] = []
    for start, end in zip(borders, borders[1:]):
        index = max(find_playing(spans, start), default=None)
        if shown and shown[-1][2] == index:
            start = shown.pop()[0]
        shown.append((start, end, index))
    return shown


def find_playing(spans: Sequence[Span], moment: float) -> list[int]:
    """The segments that play at a given time."""
    return [index for index, (start, end) in enumerate(spans) if start <= moment < end]


def divide_tracks(spans: Sequence[Span]) -> list[list[int]]:
    """Tracks of segments that do not overlap, in order: one for a composition without overlaps.

    >>> divide_tracks([(0.0, 5.0), (3.0, 8.0), (8.0, 9.0)])
    [[0, 2], [1]]
    """
    tracks: list[list[int]] = []
    for index, (start, _) in enumerate(spans):
        free = next((track for track in tracks if spans[track[-1]][1] <= start), None)
        if free is None:
            tracks.append([index])
        else:
            free.append(index)
    return tracks
