"""Readers of the published files of events with times: UnAV-100, ActivityNet Captions, Charades-STA, DiDeMo,
QVHighlights and InternVid.

Records are kept as published: order, reversed spans, ends after the end of the video. Training cleans them
(`timed_events.py`); the evaluation uses them as references. Malformed records are passed to `drop`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .annotation_files import read_csv, read_json, read_json_records, read_lines
from .records import (
    Drop,
    UnusableRecord,
    as_number,
    as_span,
    as_text,
    field_of,
    list_of,
    member,
    named,
    number_of,
    numbered,
    parse_each,
    text_of,
)


CHUNK_SECONDS = 5.0  # DiDeMo annotates in chunks of 5 s
Span = tuple[float, float]  # start and end in seconds


@dataclass(frozen=True)
class AnnotatedEvent:
    """An event: `start` and `end` in seconds, `text` a caption or a class name, `class_id` the id of the class, if
    any."""

    start: float
    end: float
    text: str
    class_id: int | None = None


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video of `duration` seconds (None: not in the file) with its events in the order of the file.

    `subset` is the part of the data set that the video belongs to, if one file has several.
    """

    video_id: str
    duration: float | None
    events: tuple[AnnotatedEvent, ...]
    subset: str | None = None


@dataclass(frozen=True)
class Moment:
    """A sentence about a moment of a video.

    `spans` are its windows (QVHighlights) or the spans of the annotators (DiDeMo), in seconds. `duration` of the video
    in seconds, None if the file does not give it. `moment_id` identifies the sentence in its file.
    """

    moment_id: str
    video_id: str
    text: str
    spans: tuple[Span, ...]
    duration: float | None = None


def read_unav100(path: str | Path, *, drop: Drop) -> Iterator[AnnotatedVideo]:
    """UnAV-100's JSON, all subsets. Events without `label_id` and videos without `duration` or `subset` have None.

    Raises:
        ValueError: no "database" at the top level, or no well-formed video in it.
    """
    database = member(path, read_json(path), "database", "UnAV-100")

    def parse(item: tuple[str, Any]) -> AnnotatedVideo:
        video_id, record = as_text(item[0], "video id"), item[1]
        events = _parse_parts(video_id, list_of(record, "annotations"), _parse_unav100_event, drop)
        duration = None if record.get("duration") is None else number_of(record, "duration")
        subset = None if record.get("subset") is None else text_of(record, "subset")
        return AnnotatedVideo(video_id, duration, events, subset)

    return parse_each(path, named(path, database), parse, drop)


def _parse_unav100_event(event: Any) -> AnnotatedEvent:
    start, end = as_span(field_of(event, "segment"))
    class_id = event.get("label_id")
    if class_id is not None and not isinstance(class_id, int):
        raise UnusableRecord(f"label_id is not a whole number: {class_id!r}"[:80])
    return AnnotatedEvent(start, end, text_of(event, "label"), class_id)


def _parse_parts(
    record_id: str, parts: Sequence[Any], parse: Callable[[Any], AnnotatedEvent], drop: Drop
) -> tuple[AnnotatedEvent, ...]:
    """The well-formed events of one video; the others are dropped individually."""
    events = []
    for part in parts:
        try:
            events.append(parse(part))
        except UnusableRecord as error:
            drop(record_id, error.reason, error.detail)
    return tuple(events)


def read_activitynet_captions(path: str | Path, *, drop: Drop) -> Iterator[AnnotatedVideo]:
    """ActivityNet Captions' JSON, and VTimeLLM's evaluation files; one split is one file."""

    def parse(item: tuple[str, Any]) -> AnnotatedVideo:
        video_id, record = as_text(item[0], "video id"), item[1]
        times, sentences = list_of(record, "timestamps"), list_of(record, "sentences")
        if len(times) != len(sentences):
            raise UnusableRecord(f"{len(times)} timestamps but {len(sentences)} sentences")
        pairs = list(zip(times, sentences))
        events = _parse_parts(
            video_id, pairs, lambda pair: AnnotatedEvent(*as_span(pair[0]), as_text(pair[1], "sentence")), drop
        )
        return AnnotatedVideo(video_id, number_of(record, "duration"), events)

    return parse_each(path, named(path, read_json(path)), parse, drop)


def read_charades_sta(path: str | Path, *, drop: Drop) -> Iterator[Moment]:
    """Charades-STA's text file, `3MSZA 24.3 30.4##person turn a light on.`; durations are in a separate file."""

    def parse(numbered_line: tuple[int, str]) -> Moment:
        number, line = numbered_line
        hit = re.fullmatch(r"(\S+) ([\d.]+) ([\d.]+)##(.*)", line.strip())
        if hit is None:
            raise UnusableRecord(f"not a line of Charades-STA: {line[:80]!a}", "malformed_line")
        span = as_number(hit[2], "start"), as_number(hit[3], "end")
        return Moment(str(number), hit[1], hit[4].strip(), (span,))

    lines = ((f"line {number}", (number, line)) for number, line in read_lines(path))
    return parse_each(path, lines, parse, drop)


def read_didemo(path: str | Path, *, drop: Drop) -> Iterator[Moment]:
    """DiDeMo's JSON: per sentence the 5-s chunks (inclusive) of several annotators, here as spans in seconds.

    The duration is 5 s times the number of chunks: the annotators saw the first 25 or 30 s of each video.
    """

    def parse(record: Any) -> Moment:
        chunks = [as_span(pair) for pair in list_of(record, "times")]
        if not chunks:
            raise UnusableRecord("times is empty")
        num_chunks = number_of(record, "num_segments")
        if any(first != int(first) or not 0 <= first <= last < num_chunks for first, last in chunks):
            raise UnusableRecord(f"times {chunks} are not chunks of {num_chunks:g}"[:120])
        spans = tuple((first * CHUNK_SECONDS, (last + 1) * CHUNK_SECONDS) for first, last in chunks)
        moment_id = text_of(record, "annotation_id") if "annotation_id" in record else ""
        video_id, text = text_of(record, "video"), text_of(record, "description")
        return Moment(moment_id, video_id, text, spans, num_chunks * CHUNK_SECONDS)

    return parse_each(path, numbered(path, read_json(path)), parse, drop)


def consensus(spans: Sequence[Span]) -> Span:
    """The span with the highest mean IoU with the spans of all annotators; for ties, the earliest.

    >>> consensus([(20.0, 25.0), (20.0, 30.0), (20.0, 25.0), (0.0, 5.0)])
    (20.0, 25.0)
    """

    def overlap(one: Span, other: Span) -> float:
        shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
        return shared / (one[1] - one[0] + other[1] - other[0] - shared)

    votes = Counter(spans)
    return min(votes, key=lambda one: (-sum(overlap(one, other) * votes[other] for other in votes), one))


def read_qvhighlights(path: str | Path, *, drop: Drop) -> Iterator[Moment]:
    """QVHighlights' JSON lines: one or several windows per query; `duration` is that of the 150-s excerpt."""

    def parse(record: Any) -> Moment:
        windows = list_of(record, "relevant_windows")
        if not windows:
            raise UnusableRecord("relevant_windows is empty")
        spans = tuple(as_span(window) for window in windows)
        video_id, text, duration = text_of(record, "vid"), text_of(record, "query"), number_of(record, "duration")
        return Moment(text_of(record, "qid"), video_id, text, spans, duration)

    return parse_each(path, numbered(path, read_json_records(path)), parse, drop)


def read_internvid(path: str | Path, *, drop: Drop) -> Iterator[Moment]:
    """InternVid's JSON lines (YoutubeID, Start_timestamp, End_timestamp, Caption), one captioned clip a line."""

    def parse(record: Any) -> Moment:
        span = parse_clock(text_of(record, "Start_timestamp")), parse_clock(text_of(record, "End_timestamp"))
        return Moment("", text_of(record, "YoutubeID"), text_of(record, "Caption"), (span,))

    return parse_each(path, numbered(path, read_json_records(path)), parse, drop)


def parse_clock(text: str) -> float:
    """Seconds of "HH:MM:SS.mmm".

    >>> parse_clock("00:01:02.500")
    62.5
    """
    hit = re.fullmatch(r"(\d{1,4}):(\d{1,2}):(\d{1,2}(?:\.\d+)?)", text.strip(), re.ASCII)
    if hit is None:
        raise UnusableRecord(f"not a time of the form HH:MM:SS.mmm: {text[:40]!a}", "time_is_not_a_number")
    return int(hit[1]) * 3600 + int(hit[2]) * 60 + float(hit[3])


def read_durations(path: str | Path) -> dict[str, float]:
    """Seconds by video id, from a JSON object or a csv with the columns `id` and `length` (the format of Charades).

    Raises:
        ValueError: neither format, or a duration that is not a positive number.
    """
    if Path(path).name.removesuffix(".gz").endswith(".json"):
        given = dict(pair for _, pair in named(path, read_json(path)))
    else:
        given = {row["id"]: row["length"] for row in read_csv(path, columns=("id", "length"))}
    durations = {}
    for video_id, value in given.items():
        try:
            durations[video_id] = as_number(value, "duration")
        except UnusableRecord as error:
            raise ValueError(f"{path}: {video_id}: {error}") from error
        if durations[video_id] <= 0:
            raise ValueError(f"{path}: {video_id}: a duration of {durations[video_id]} s")
    return durations
