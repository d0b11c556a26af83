"""Time <-> text: events in seconds to the text that the model reads and writes, and back.

The model's texts have times relative to the whole video ("From 03 to 17, a dog barks."); the rest of the project uses
seconds. `written_events_avicuna` finds the times in a text, `prompt_avicuna` has the wording of questions. This module
needs neither torch nor transformers.
"""

import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .written_events_avicuna import NO_TIME_SPAN, Unread, names_absence, read_written_events


logger = logging.getLogger(__name__)

NO_EVENTS = "No event."
_SECONDS_DIGITS = 5  # of the whole part of a time in seconds: enough for 27 hours


@dataclass(frozen=True)
class Event:
    """What happens from `start` to `end`, in seconds. `score` is between 0 and 1, or None if there is none.

    Example:
        >>> Event(3.0, 17.0, "a dog barks")
        Event(start=3.0, end=17.0, label='a dog barks', score=None)
    """

    start: float
    end: float
    label: str
    score: float | None = None


@dataclass(frozen=True)
class TimeCodec:
    """How one time is written.

    unit (`str`): "relative" writes the fraction of the duration in steps of `1 / num_bins`, zero-padded ("03";
        published: 100 steps, two digits); "seconds" writes seconds with one decimal ("3.1"; our choice).
    num_bins (`int`): the number of steps, from 2 to 100,000: 100 writes 00 to 99, 1000 writes 000 to 999. Only
        "relative" uses it.

    Example:
        >>> TimeCodec().encode(1.5, duration=50.0), TimeCodec(num_bins=1000).encode(1.5, duration=50.0)
        ('03', '030')
        >>> TimeCodec(unit="seconds").encode(1.5, duration=50.0)
        '1.5'
        >>> TimeCodec().decode("03", duration=50.0)
        1.5
    """

    unit: str = "relative"
    num_bins: int = 100

    def __post_init__(self):
        if self.unit not in ("relative", "seconds"):
            raise ValueError(f"unit must be 'relative' or 'seconds', got {self.unit!r}")
        if not 2 <= self.num_bins <= 100_000:
            raise ValueError(f"num_bins must be a number from 2 to 100000, got {self.num_bins!r}")

    @property
    def num_digits(self) -> int:
        """Digits of a relative time: 2 for 100 steps."""
        return len(str(self.num_bins - 1))

    def resolution(self, duration: float) -> float:
        """Seconds between two neighbouring times that can be written."""
        return _checked(duration) / self.num_bins if self.unit == "relative" else 0.1

    def encode(self, seconds: float, duration: float) -> str:
        """The text of a time; times outside [0, duration] are clamped. ValueError if a number is not finite.

        "relative" is the published arithmetic (round half to even of `seconds / duration * num_bins`, at most
        `num_bins - 1`) with a lower clamp at 0, which the published code lacks.
        """
        if not math.isfinite(seconds):
            raise ValueError(f"a time must be a finite number of seconds, got {seconds!r}")
        duration = _checked(duration)
        if self.unit == "seconds":
            # rounding must not exceed the duration, so 9.96 of 9.97 s is "9.9"
            tenths = min(round(10 * min(max(seconds, 0.0), duration)), math.floor(10 * duration + 1e-6))
            return f"{tenths // 10}.{tenths % 10}"
        step = min(max(seconds / duration * self.num_bins, 0.0), float(self.num_bins))
        return str(min(round(step), self.num_bins - 1)).zfill(self.num_digits)

    def decode(self, text: str, duration: float) -> float:
        """Seconds of a written time, clamped to what `encode` can write. ValueError if it is not a number."""
        if not re.fullmatch(r"-?[0-9]+(?:\.[0-9]+)?", text.strip()):
            raise ValueError(f"not a written time: {text!r}")
        return self.to_seconds(float(text), None, _checked(duration))

    def is_complete(self, text: str) -> bool:
        """Whether `text` is one complete written time, to which no character can be added."""
        if self.unit == "seconds":
            return re.fullmatch(r"[0-9]+\.[0-9]", text) is not None
        return len(text) == self.num_digits and self.largest_completion(text) is not None

    def largest_completion(self, text: str) -> float | None:
        """The largest time, in the written unit, whose text begins with `text`; None if there is none.

        Example:
            >>> [TimeCodec().largest_completion(text) for text in ("4", "47", "470")]
            [49.0, 47.0, None]
            >>> [TimeCodec(unit="seconds").largest_completion(text) for text in ("4.", "0", "00")]
            [4.9, 0.9, None]
        """
        if self.unit == "seconds":
            if not re.fullmatch(r"(?:0|[1-9][0-9]{0,4})?|(?:0|[1-9][0-9]{0,4})\.[0-9]?", text):
                return None
            whole, point, tenth = text.partition(".")
            if not point and not whole.startswith("0"):
                whole = whole.ljust(_SECONDS_DIGITS, "9")
            return float(f"{whole}.{tenth or 9}")
        if not re.fullmatch(r"[0-9]*", text) or len(text) > self.num_digits:
            return None
        if int(text.ljust(self.num_digits, "0")) >= self.num_bins:
            return None
        return float(min(int(text.ljust(self.num_digits, "9")), self.num_bins - 1))

    def to_seconds(self, value: float, unit: str | None, duration: float) -> float:
        """`value` in "seconds", "percent" or None (this codec's own unit) as seconds inside the video.

        "frames" is this codec's own unit as well: models of this family call the steps of a video frames.
        """
        if unit == "percent":
            return min(max(value / 100, 0.0), 1.0) * duration
        if unit == "seconds" or self.unit == "seconds":
            return min(max(value, 0.0), duration)
        return min(max(value, 0.0), self.num_bins - 1.0) * duration / self.num_bins


@dataclass(frozen=True)
class FrameCodec:
    """How frame numbers of the video are read; models of other families write them, ours do not.

    fps (`float`): frames per second.
    """

    fps: float

    def __post_init__(self):
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be a positive number, got {self.fps!r}")

    def to_seconds(self, value: float, unit: str | None, duration: float) -> float:
        """As `TimeCodec.to_seconds`; "frames" and None are frame numbers."""
        if unit in ("frames", None):
            return min(max(value / self.fps, 0.0), duration)
        return DEFAULT_CODEC.to_seconds(value, unit, duration)


@dataclass(frozen=True)
class EventReading:
    """The events of a text.

    events (`list[Event]`): in the order of the text, `start <= end`, inside the video, `score` None.
    places (`list[tuple[tuple[int, int], tuple[int, int]]]`): for each event the characters `[begin, stop)` of its
        start and of its end in the text, by which scores find the tokens of a time.
    unread (`list[Unread]`): pieces of the text that gave no event, or an event in doubt, each with a reason. A text
        that states that nothing happens ("No event.", "It does not occur.") has neither events nor unread pieces.
    """

    events: list[Event]
    places: list[tuple[tuple[int, int], tuple[int, int]]]
    unread: list[Unread]


DEFAULT_CODEC = TimeCodec()


def join_spans(spans: Sequence[str]) -> str:
    """Time spans as the training answers write them: commas between them, "and" before the last one.

    Raises:
        ValueError: no spans.

    Example:
        >>> join_spans(["from 03 to 17", "from 20 to 30", "from 40 to 52"])
        'from 03 to 17, from 20 to 30 and from 40 to 52'
    """
    if not spans:
        raise ValueError("got no time spans to join")
    *first, last = spans
    return f"{', '.join(first)} and {last}" if first else last


def format_events(events: list[Event], duration: float, *, codec: TimeCodec = DEFAULT_CODEC) -> str:
    """Events as the narration of the published training data, in the given order: "From 03 to 17, a dog barks."

    Consecutive events with the same label become one sentence with several spans; with an empty label only the spans
    are written, as in an answer to a grounding question. A label that could not be read back from the plain sentence
    (it has a time span, ends with a period, begins with a quote, ...) is written as a JSON string, so that
    `parse_events(format_events(events, duration), duration)` returns the same labels, whatever they are, and the
    times up to `codec.resolution(duration)`. Scores are not written.

    Example:
        >>> events = [Event(3, 17, "a dog barks"), Event(40, 52, "a dog barks"), Event(50, 60, "rain from 5 to 9")]
        >>> format_events(events, duration=100)
        'From 03 to 17 and from 40 to 52, a dog barks. From 50 to 60, "rain from 5 to 9".'
        >>> format_events([Event(3, 17, "")], duration=100)
        'From 03 to 17.'
        >>> format_events([], duration=100)
        'No event.'
    """
    runs: list[tuple[str, list[str]]] = []
    for event in events:
        if not event.start <= event.end:
            raise ValueError(f"an event must not end before it starts: {event}")
        span = f"from {codec.encode(event.start, duration)} to {codec.encode(event.end, duration)}"
        if runs and runs[-1][0] == event.label:
            runs[-1][1].append(span)
        else:
            runs.append((event.label, [span]))
    return " ".join(_sentence(label, spans) for label, spans in runs) or NO_EVENTS


def read_events(text: str, duration: float, *, codec: TimeCodec | FrameCodec = DEFAULT_CODEC) -> EventReading:
    """Reads the output of a model; see `EventReading`. No text raises an error, only a wrong `duration` does.

    Times without a unit have the codec's; "s", "seconds", "0:17" and "%" are understood. Times outside of the
    video are clamped. The times of a span that ends before it starts are swapped, and it is listed under `unread`.

    Example:
        >>> reading = read_events("Rain from 52 to 40, then thunder from 60.", duration=100)
        >>> reading.events
        [Event(start=40.0, end=52.0, label='Rain', score=None)]
        >>> [piece.reason for piece in reading.unread]
        ['end before start, swapped']
    """
    duration = _checked(duration)
    written, unread = read_written_events(text)
    if not written and all(piece.reason == NO_TIME_SPAN for piece in unread) and names_absence(text):
        return EventReading([], [], [])
    events, places = [], []
    for label, first, last in written:
        start, end = (codec.to_seconds(time.value, time.unit, duration) for time in (first, last))
        if start > end:
            unread.append(Unread(text[first.begin : last.stop], "end before start, swapped"))
        events.append(Event(min(start, end), max(start, end), label))
        places.append(((first.begin, first.stop), (last.begin, last.stop)))
    return EventReading(events, places, unread)


def parse_events(text: str, duration: float, *, codec: TimeCodec = DEFAULT_CODEC) -> list[Event]:
    """The events of `read_events`; what could not be read is logged at level INFO.

    Example:
        >>> parse_events("From 03 to 17, a dog barks.", duration=200)
        [Event(start=6.0, end=34.0, label='a dog barks', score=None)]
        >>> len(parse_events("Rain, from 03 to 17. Thunder from 40 to 52 and from 60 to 61.", duration=200))
        3
        >>> parse_events("I hear nothing.", duration=200)
        []
    """
    reading = read_events(text, duration, codec=codec)
    for piece in reading.unread:
        logger.info("%s: %r", piece.reason, piece.text)
    return reading.events


def _sentence(label: str, spans: list[str]) -> str:
    """One sentence of the narration; its label is plain if it can be read back exactly, otherwise a JSON string."""
    opening = join_spans(spans).capitalize()
    if not label:
        return f"{opening}."
    # a bracket or a quote could pair with one in a later label, which this sentence alone would not show
    if not re.search(r"[\[{\"\n]", label):
        plain = f"{opening}, {label}."
        read, _ = read_written_events(f"From 00 to 01, a. {plain} From 00 to 01, b.")
        if [event.label for event in read] == ["a", *[label] * len(spans), "b"]:
            return plain
    return f"{opening}, {json.dumps(label, ensure_ascii=False)}."


def _checked(duration: float) -> float:
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"a video's duration must be a positive number of seconds, got {duration!r}")
    return duration
