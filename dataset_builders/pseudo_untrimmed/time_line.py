"""The picture and sound of a composition at each moment, by the same rule for composed features and rendered videos.

Two clips may play at once, and there may be gaps between clips. The picture is that of the clip that began last; the
sound is the mix of all clips that play. If no clip plays, the picture is black and the sound silent. A segment may
have one track of its clip only. A background is seen and heard only where no other segment is, and not at all during
a stretch of darkness or silence.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


TOLERANCE = 1e-3  # s; segments that end and begin within it are contiguous, since rows store times as float32
BOTH, VIDEO, AUDIO, BACKGROUND = "both", "video", "audio", "background"
DARKNESS, SILENCE = "darkness", "silence"
# What a segment plays: both tracks of its clip, one of them, or both only where no other segment has that track; or
# nothing: it hides the picture, or the sound, of the background.
TRACKS = (BOTH, VIDEO, AUDIO, BACKGROUND, DARKNESS, SILENCE)
HIDING = {VIDEO: DARKNESS, AUDIO: SILENCE}


class Span(NamedTuple):
    """A segment in time: seconds of the composition, and one of `TRACKS`."""

    start: float
    end: float
    tracks: str = BOTH


def read_spans(segments: Sequence[Mapping]) -> list[Span]:
    """The spans of segments, with each start that is close to an earlier end moved to that end.

    Args:
        segments: dictionaries with `start` and `end` in seconds, and optionally `tracks` (None: both).

    Raises:
        ValueError: no segment, one that does not end after it begins, one that begins before 0 or before the previous
            one, or unknown tracks.
    """
    if not segments:
        raise ValueError("a composition needs at least one segment, got none")
    checked: list[Span] = []
    for index, segment in enumerate(segments):
        start, end, tracks = segment["start"], segment["end"], segment.get("tracks") or BOTH
        if tracks not in TRACKS:
            raise ValueError(f"segment {index}: tracks must be one of {TRACKS}, got {tracks!r}")
        earlier = [0.0] if not checked else [before.end for before in checked]
        start = min((border for border in earlier if abs(border - start) <= TOLERANCE), default=start)
        if not end > start or start < (checked[-1].start if checked else 0.0):
            raise ValueError(
                f"segment {index} from {start} to {end} s must end after it begins, and begin at 0 or later and not "
                "before the segment before it"
            )
        checked.append(Span(start, end, tracks))
    return checked


def list_pictures(spans: Sequence[Span], duration: float) -> list[tuple[float, float, int | None]]:
    """The visible segment over time, as (start, end, index) in order; the index is None if the picture is black.

    >>> list_pictures([Span(0.0, 5.0), Span(3.0, 8.0), Span(9.0, 10.0)], 12.0)
    [(0.0, 3.0, 0), (3.0, 8.0, 1), (8.0, 9.0, None), (9.0, 10.0, 2), (10.0, 12.0, None)]
    >>> list_pictures([Span(0.0, 9.0, "background"), Span(2.0, 4.0, "video"), Span(3.0, 8.0, "audio")], 9.0)
    [(0.0, 2.0, 0), (2.0, 4.0, 1), (4.0, 9.0, 0)]
    """
    borders = sorted({0.0, duration, *(time for span in spans for time in span[:2] if time < duration)})
    shown: list[tuple[float, float, int | None]] = []
    for start, end in zip(borders, borders[1:]):
        index = max(find_playing(spans, start, track=VIDEO), default=None)
        if shown and shown[-1][2] == index:
            start = shown.pop()[0]
        shown.append((start, end, index))
    return shown


def list_sounds(spans: Sequence[Span]) -> list[tuple[float, float, int]]:
    """The times at which each segment is heard, as (start, end, index) by start.

    >>> list_sounds([Span(0.0, 9.0, "background"), Span(2.0, 4.0, "video"), Span(3.0, 8.0, "audio")])
    [(0.0, 3.0, 0), (3.0, 8.0, 2), (8.0, 9.0, 0)]
    """
    borders = sorted({time for span in spans for time in span[:2]})
    heard: list[tuple[float, float, int]] = []
    last: dict[int, int] = {}  # segment -> its last place in `heard`
    for start, end in zip(borders, borders[1:]):
        for index in find_playing(spans, start, track=AUDIO):
            if index in last and heard[last[index]][1] == start:
                heard[last[index]] = (heard[last[index]][0], end, index)
            else:
                last[index] = len(heard)
                heard.append((start, end, index))
    return heard


def find_playing(spans: Sequence[Span], moment: float, *, track: str) -> list[int]:
    """The segments whose track (`VIDEO` or `AUDIO`) plays at a given time; backgrounds only if no other does, and
    none if it is hidden.

    >>> spans = [Span(0.0, 9.0, "background"), Span(2.0, 4.0, "silence"), Span(3.0, 5.0, "audio")]
    >>> [find_playing(spans, moment, track="audio") for moment in (1.0, 2.5, 3.5)]
    [[0], [], [2]]
    """
    playing = [index for index, (start, end, _) in enumerate(spans) if start <= moment < end]
    events = [index for index in playing if spans[index].tracks in (BOTH, track)]
    if events or any(spans[index].tracks == HIDING[track] for index in playing):
        return events
    return [index for index in playing if spans[index].tracks == BACKGROUND]


def divide_tracks(spans: Sequence[tuple[float, float, int]]) -> list[list[tuple[float, float, int]]]:
    """Lists of spans that do not overlap, in order: one list for a composition without overlaps.

    >>> divide_tracks([(0.0, 5.0, 0), (3.0, 8.0, 1), (8.0, 9.0, 2)])
    [[(0.0, 5.0, 0), (8.0, 9.0, 2)], [(3.0, 8.0, 1)]]
    """
    tracks: list[list[tuple[float, float, int]]] = []
    for span in spans:
        free = next((track for track in tracks if track[-1][1] <= span[0]), None)
        if free is None:
            tracks.append([span])
        else:
            free.append(span)
    return tracks
