"""Videos with events at times: UnAV-100, ActivityNet Captions, Charades-STA, DiDeMo, QVHighlights, InternVid.

Each reader yields `TimedVideo` records in seconds, cleaned by the one rule of `clean_events`; what the annotators left
broken is dropped or repaired and told to the report. How events become questions is said in `event_turns.py`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..release.curation_report import CurationReport
from .annotation_files import read_csv, read_json, read_json_records, read_text
from .rows import without_placeholders


CHUNK_SECONDS = 5.0  # DiDeMo annotates in chunks of 5 s
ROUNDING = 0.001  # s; an end beyond the duration by less is an artefact of floats, clamped without a note


@dataclass(frozen=True)
class TimedEvent:
    """One event: `start` and `end` in seconds, `text` a caption or a class label."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class TimedVideo:
    """A video of `duration` seconds with its events in order of their start; `media_names` as files may be called."""

    video_id: str
    duration: float
    events: tuple[TimedEvent, ...]
    media_names: tuple[str, ...]


def clean_text(text: str) -> str:
    """An annotation's text on one line, without special tokens or placeholders that a tokenizer would take for its own.

    >>> clean_text("  The coach\\n helps. </s>")
    'The coach helps.'
    """
    return " ".join(without_placeholders(re.sub(r"</?s>|<unk>|<pad>", " ", text)).split())


def clean_events(
    raw: Iterable[tuple[float, float, str]], *, video_id: str, duration: float, source: str, report: CurationReport
) -> tuple[TimedEvent, ...]:
    """Events in order of start and end, all inside the video.

    Dropped, by reason: "no_text", "zero_length", "end_before_start", "start_after_duration", "duplicate_event" (same
    times and text). Repaired: "end_after_duration" and "negative_start" (clamped). A reversed segment is not turned
    round: whether its two numbers were swapped or mistyped is unknown (our choice).
    """
    events: dict[tuple[float, float, str], TimedEvent] = {}
    for start, end, text in raw:
        text, detail = clean_text(text), [start, end]
        key = (start, end, text.casefold())
        if not text:
            report.drop(source, video_id, "no_text", detail=detail)
        elif end <= start:
            reason = "zero_length" if end == start else "end_before_start"
            report.drop(source, video_id, reason, detail=detail)
        elif start >= duration:
            report.drop(source, video_id, "start_after_duration", detail=[*detail, duration])
        elif key in events:
            report.drop(source, video_id, "duplicate_event", detail=detail)
        else:
            if end > duration + ROUNDING:
                report.repair(source, video_id, "end_after_duration", detail=[*detail, duration])
            if start < 0:
                report.repair(source, video_id, "negative_start", detail=detail)
            events[key] = TimedEvent(max(float(start), 0.0), min(float(end), float(duration)), text)
    return tuple(sorted(events.values(), key=lambda event: (event.start, event.end, event.text)))


def _timed_video(
    video_id: str,
    raw: list[tuple[float, float, str]],
    *,
    duration: float | None,
    media_names: tuple[str, ...],
    source: str,
    report: CurationReport,
) -> Iterator[TimedVideo]:
    """The cleaned video, or nothing, told to the report, where its duration is unknown or no event is left."""
    report.read(source, num=len(raw))
    if duration is None:
        for start, end, _ in raw:
            report.drop(source, video_id, "unknown_duration", detail=[start, end])
        return
    events = clean_events(raw, video_id=video_id, duration=duration, source=source, report=report)
    if events:
        yield TimedVideo(video_id, float(duration), events, media_names)


def read_unav100(path: str | Path, *, split: str, report: CurationReport) -> Iterator[TimedVideo]:
    """UnAV-100's JSON; `split` is its subset: "train", "validation" or "test". The report counts events."""
    database = read_json(path)["database"]
    _check_split(path, split, {record["subset"] for record in database.values()})
    for video_id, record in database.items():
        if record["subset"] == split:
            raw = [(*event["segment"], event["label"]) for event in record["annotations"]]
            yield from _timed_video(
                video_id,
                raw,
                duration=record["duration"],
                media_names=(video_id,),
                source="unav100",
                report=report,
            )


def unav100_labels(path: str | Path) -> list[str]:
    """The class labels of UnAV-100's JSON, of all its subsets, sorted."""
    database = read_json(path)["database"]
    return sorted({clean_text(event["label"]) for record in database.values() for event in record["annotations"]})


def read_activitynet_captions(path: str | Path, *, report: CurationReport) -> Iterator[TimedVideo]:
    """ActivityNet Captions' JSON (and VTimeLLM's evaluation files): one split a file. The report counts events."""
    for video_id, record in read_json(path).items():
        if len(record["timestamps"]) != len(record["sentences"]):
            raise ValueError(
                f"{path}: {video_id!r} has {len(record['timestamps'])} times but {len(record['sentences'])} sentences"
            )
        raw = [(*times, sentence) for times, sentence in zip(record["timestamps"], record["sentences"])]
        yield from _timed_video(
            video_id,
            raw,
            duration=record["duration"],
            media_names=(video_id, video_id.removeprefix("v_")),
            source="activitynet_captions",
            report=report,
        )


def read_charades_sta(
    path: str | Path, *, durations: Mapping[str, float], report: CurationReport
) -> Iterator[TimedVideo]:
    """Charades-STA's text file: `3MSZA 24.3 30.4##person turn a light on.`; the file itself has no durations.

    A line that has not this form is dropped as "malformed_line".
    """
    videos: dict[str, list[tuple[float, float, str]]] = {}
    for line in read_text(path).splitlines():
        if not line.strip():
            continue
        hit = re.fullmatch(r"(\S+) ([\d.]+) ([\d.]+)##(.*)", line.strip())
        if hit is None:
            report.read("charades_sta")
            report.drop("charades_sta", line[:40], "malformed_line")
            continue
        videos.setdefault(hit[1], []).append((float(hit[2]), float(hit[3]), hit[4]))
    for video_id, raw in videos.items():
        yield from _timed_video(
            video_id,
            raw,
            duration=durations.get(video_id),
            media_names=(video_id,),
            source="charades_sta",
            report=report,
        )


def read_didemo(path: str | Path, *, report: CurationReport) -> Iterator[TimedVideo]:
    """DiDeMo's JSON: several annotators' inclusive 5-s chunks per description, brought to one span by `consensus`.

    The duration is taken as 5 s times the number of chunks (25 or 30 s), as the annotators saw it.
    """
    videos: dict[str, list[dict[str, Any]]] = {}
    for record in read_json(path):
        videos.setdefault(record["video"], []).append(record)
    for name, records in videos.items():
        raw = []
        for record in records:
            first, last = consensus([tuple(chunks) for chunks in record["times"]])
            raw.append((first * CHUNK_SECONDS, (last + 1) * CHUNK_SECONDS, record["description"]))
        yield from _timed_video(
            name,
            raw,
            duration=max(record["num_segments"] for record in records) * CHUNK_SECONDS,
            media_names=(name, name.rstrip(".")),
            source="didemo",
            report=report,
        )


def consensus(annotations: list[tuple[int, int]]) -> tuple[int, int]:
    """The annotated chunk range (inclusive) with the highest mean IoU with all annotators'; ties: the earliest.

    >>> consensus([(4, 4), (4, 5), (4, 4), (0, 0)])
    (4, 4)
    """

    def overlap(one: tuple[int, int], other: tuple[int, int]) -> float:
        shared = max(0, min(one[1], other[1]) - max(one[0], other[0]) + 1)
        return shared / (one[1] - one[0] + other[1] - other[0] + 2 - shared)

    votes = Counter(annotations)
    return min(votes, key=lambda one: (-sum(overlap(one, other) * votes[other] for other in votes), one))


def read_qvhighlights(path: str | Path, *, report: CurationReport) -> Iterator[TimedVideo]:
    """QVHighlights' JSON lines: several windows for one query. `duration` is the length of the 150-s excerpt."""
    videos: dict[str, list[dict[str, Any]]] = {}
    for record in read_json_records(path):
        videos.setdefault(record["vid"], []).append(record)
    for video_id, records in videos.items():
        raw = [(*window, record["query"]) for record in records for window in record["relevant_windows"]]
        yield from _timed_video(
            video_id,
            raw,
            duration=max(record["duration"] for record in records),
            media_names=(video_id,),
            source="qvhighlights",
            report=report,
        )


def read_internvid(
    path: str | Path, *, report: CurationReport, max_gap: float = 2.0, max_duration: float = 120.0
) -> Iterator[TimedVideo]:
    """InternVid's JSON lines (YoutubeID, Start_timestamp, End_timestamp, Caption): neighbouring clips make one video.

    The file does not tell how long a whole video is, so a record is an excerpt: clips of one video that follow each
    other within `max_gap` seconds, up to `max_duration` seconds in all (both our choice); times count from its start.
    Its media file is named `<id>_<start>_<end>`, seconds with three digits, as VALOR names its clips.
    """
    videos: dict[str, list[tuple[float, float, str]]] = {}
    for record in read_json_records(path):
        start, end = (parse_clock(record[key]) for key in ("Start_timestamp", "End_timestamp"))
        videos.setdefault(record["YoutubeID"], []).append((start, end, record["Caption"]))
    for youtube_id, clips in videos.items():
        for excerpt in _excerpts(sorted(clips), max_gap=max_gap, max_duration=max_duration):
            first, last = excerpt[0][0], max(end for _, end, _ in excerpt)
            video_id = f"{youtube_id}_{first:.3f}_{last:.3f}"
            yield from _timed_video(
                video_id,
                [(round(start - first, 3), round(end - first, 3), text) for start, end, text in excerpt],
                duration=round(last - first, 3),
                media_names=(video_id,),
                source="internvid",
                report=report,
            )


def _excerpts(
    clips: list[tuple[float, float, str]], *, max_gap: float, max_duration: float
) -> Iterator[list[tuple[float, float, str]]]:
    excerpt: list[tuple[float, float, str]] = []
    for clip in clips:
        near = excerpt and clip[0] - max(end for _, end, _ in excerpt) <= max_gap
        if excerpt and not (near and clip[1] - excerpt[0][0] <= max_duration):
            yield excerpt
            excerpt = []
        excerpt.append(clip)
    if excerpt:
        yield excerpt


def parse_clock(text: str) -> float:
    """Seconds of "HH:MM:SS.mmm".

    >>> parse_clock("00:01:02.500")
    62.5
    """
    hit = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text.strip())
    if hit is None:
        raise ValueError(f"not a time of the form HH:MM:SS.mmm: {text!r}")
    return int(hit[1]) * 3600 + int(hit[2]) * 60 + float(hit[3])


def read_durations(path: str | Path) -> dict[str, float]:
    """Seconds by video id, from a JSON object or a csv with the columns `id` and `length` (Charades' own form)."""
    if Path(path).name.removesuffix(".gz").endswith(".json"):
        return {video_id: float(seconds) for video_id, seconds in read_json(path).items()}
    return {row["id"]: float(row["length"]) for row in read_csv(path, columns=("id", "length"))}


def _check_split(path: str | Path, split: str, splits: set[str]) -> None:
    if split not in splits:
        raise ValueError(f"{path} has no split {split!r}; it has {sorted(splits)}")
