"""Reads and writes the conversation files of AVicuna and VTimeLLM, without loss for our rows.

    {"id", "source", "conversations": [{"from": "human" | "gpt", "value"}],
     "meta": {"duration", "token": {"<s0>": seconds}, "sub_videos": [ids], "scale": [floats]}}

Other projects train on this format. Fields that it does not define (captions of the segments, media paths) are written
under `meta["avicuna"]`, which other readers ignore; without it, rows lack these fields.
"""

import gzip
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_files import atomic_path
from ..schema import MEDIA, MEDIA_KINDS
from .annotation_files import read_json_records
from .excluded_ids import ExcludedIds
from .media_folder import MediaFolder, is_unsafe
from .media_probe import check_media
from .record_report import RecordReport
from .records import (
    UnusableRecord,
    as_number,
    as_span,
    as_text,
    count_drop,
    count_in,
    list_of,
    numbered,
    optional_of,
    parse_each,
    shorten,
    text_of,
)
from .rows import Row, write_records
from .text_cleaning import MEDIA_PLACEHOLDER, TIME_PLACEHOLDER, without_control_tokens
from .timed_events import ROUNDING, check_span, durations_differ


SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
OWN = "avicuna"


def write_vtimellm(rows: Iterable[Row], path: str | Path) -> int:
    """
    Writes rows of `schema.FEATURES` as one JSON list with one record per line; returns their number.

    If the path ends in ".gz", the file is gzipped; the same rows give the same bytes.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as raw:
        # no name and no time in the gzip header
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if Path(path).suffix == ".gz" else raw
        with io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file:
            return write_records(rows, file, row_to_record)


def read_vtimellm(
    path: str | Path, *, report: RecordReport, media_dir: str | Path | None = None, source: str = "vtimellm"
) -> Iterator[Row]:
    """
    Rows of a JSON list or of JSON lines in the format above.

    Args:
        path: the file; gzipped or not.
        report: counts records read, kept and dropped; the reasons are those of `read_conversations`.
        media_dir: folder of the videos, named by id. An excerpt (`meta["split"]` is `[start, end]`) is a file named
            `<id>_<start>_<end>`, or a part of the file named by the id.
        source: source name for the report and for rows without a source.

    Raises:
        ValueError: the file is not JSON, or none of its records has this format.
    """
    yield from read_conversations(path, media=MediaFolder(media_dir), report=report, source=source)


def read_conversations(
    path: str | Path,
    *,
    media: MediaFolder,
    report: RecordReport,
    excluded: ExcludedIds | None = None,
    source: str = "vtimellm",
) -> Iterator[Row]:
    """
    `read_vtimellm` with a media folder that counts missing files, and ids to exclude.

    Dropped, by reason: malformed records, "no_conversation", "not_alternating" (turns), "not_one_video",
    "time_without_seconds" (a time in the text without a value), "time_outside_of_the_video" (a single one),
    "clips_and_scales_differ_in_number", "unknown_duration", "excluded_id", "duration_differs" (from the file) and the
    reasons of `timed_events.check_span`, `MediaFolder.find` and `media_probe.check_media`.
    """

    def parse(item: tuple[int, Any]) -> tuple[Row, tuple[str, ...], tuple[float, float] | None]:
        number, record = item
        return record_to_row(record, number, source=source), *name_media(record)

    items = ((name, (number, record)) for number, (name, record) in enumerate(numbered(path, read_json_records(path))))
    for row, names, part in parse_each(path, items, parse, count_in(report, source)):
        report.read(source)
        with count_drop(report, source, row["id"]):
            clamp_times(row, report=report, source=source)
            if excluded is not None:
                excluded.check([*names, *(row["media"][kind] for kind in MEDIA_KINDS)])
            if names and not row["segments"]:
                _fill_media(row, names, part, media)
            report.keep(source)
            yield row


def _fill_media(row: Row, names: tuple[str, ...], part: tuple[float, float] | None, media: MediaFolder) -> None:
    """Writes the video of a published record into its row."""
    excerpt = media.locate(names[:1])
    path = row["media"]["video"] = excerpt or media.find(names)
    if media.folder is None:
        return
    measured = check_media(path, "picture")
    if excerpt is None and part is not None:
        row["media"] |= {"start": part[0], "end": part[1]}
        measured = max(0.0, min(measured, part[1]) - part[0])
    if row["duration"] is not None and durations_differ(row["duration"], measured):
        raise UnusableRecord({"annotated": row["duration"], "file": measured}, "duration_differs")


def row_to_record(row: Row) -> dict[str, Any]:
    """One row in the published format."""
    segments = row["segments"]
    meta = {
        "duration": row["duration"],
        "token": {time["name"]: time["seconds"] for time in row["times"]},
        "sub_videos": [segment["clip_id"] for segment in segments],
        "scale": [segment["scale"] for segment in segments],
        OWN: {
            "media": row["media"],
            "starts": [segment["start"] for segment in segments],
            "ends": [segment["end"] for segment in segments],
            "captions": [segment["caption"] for segment in segments],
        },
    }
    if any("tracks" in segment for segment in segments):
        meta[OWN]["tracks"] = [segment.get("tracks") for segment in segments]
    turns = [{"from": SPEAKERS[message["role"]], "value": message["content"]} for message in row["messages"]]
    return {"id": row["id"], "source": row["source"], "conversations": turns, "meta": meta}


def record_to_row(record: Any, number: int, *, source: str) -> Row:
    """
    The row of one record. Ids of published files, which repeat, get a running number.

    Raises:
        UnusableRecord: the record does not have this format; see its `reason`.
    """
    turns, meta = optional_of(record, "conversations") or [], optional_of(record, "meta") or {}
    if not isinstance(turns, list) or not isinstance(meta, dict):
        raise UnusableRecord("conversations is not a list, or meta is not an object")
    messages = [_message(turn) for turn in turns]
    if not messages:
        raise UnusableRecord("no turns", "no_conversation")
    roles = [message["role"] for message in messages]
    said = roles[roles[0] == "system" :]
    if not said or said != ["user", "assistant"] * (len(said) // 2):
        raise UnusableRecord(f"turns of {shorten(roles)}", "not_alternating")
    token = meta.get("token") or {}
    if not isinstance(token, dict):
        raise UnusableRecord(f"token is not an object: {shorten(token)}")
    times = [{"name": name, "seconds": as_number(seconds, name)} for name, seconds in token.items()]
    written = {name for message in messages for name in TIME_PLACEHOLDER.findall(message["content"])}
    if written - set(token):
        raise UnusableRecord(f"no seconds for {sorted(written - set(token))}"[:120], "time_without_seconds")
    own = meta.get(OWN)
    if not own:
        mark_video(messages)
    row_id = as_text(source if optional_of(record, "id") is None else record["id"], "id")
    duration = meta.get("duration")
    return {
        "id": row_id if own else f"{row_id}_{number:06d}",
        "source": as_text(optional_of(record, "source") or source, "source"),
        "duration": None if duration is None else as_number(duration, "duration"),
        "media": {**dict.fromkeys(MEDIA), **(_own_media(own) if own else {})},
        "segments": read_segments(meta, own),
        "messages": messages,
        "times": times,
    }


def mark_video(messages: list[dict[str, str]]) -> None:
    """
    Adds the placeholder of the video to the first question of a published record, unless it is in the record.

    Raises:
        UnusableRecord: other placeholders, or several.
    """
    found = [name for message in messages for name in MEDIA_PLACEHOLDER.findall(message["content"])]
    if not found:
        first = next(message for message in messages if message["role"] == "user")
        first["content"] = f"<video>\n{first['content']}"
    elif found != ["<video>"]:
        raise UnusableRecord(f"one <video> is expected, there are {found}"[:120], "not_one_video")


def _message(turn: Any) -> dict[str, str]:
    speaker, value = optional_of(turn, "from"), optional_of(turn, "value")
    if not isinstance(speaker, str) or speaker not in ROLES or not value:
        raise UnusableRecord(f"a turn of {shorten(speaker)} that says {shorten(value)}", "no_conversation")
    content = without_control_tokens(as_text(value, "value")).strip()
    if not content:
        raise UnusableRecord("a turn of control tokens alone", "no_conversation")
    return {"role": ROLES[speaker], "content": content}


def _own_media(own: Any) -> dict[str, Any]:
    """The media of a record written by this project."""
    media = optional_of(own, "media")
    if not isinstance(media, dict) or not set(media) <= set(MEDIA):
        raise UnusableRecord(f"media is {shorten(media)}")
    paths = [as_text(media[kind], kind) for kind in MEDIA_KINDS if media.get(kind) is not None]
    if any(is_unsafe(path) for path in paths):
        raise UnusableRecord(f"media leads out of its folder: {shorten(paths)}", "unsafe_media_name")
    return media | {key: as_number(media[key], key) for key in ("start", "end") if media.get(key) is not None}


def clamp_times(row: Row, *, report: RecordReport, source: str) -> None:
    """
    Clamps the spans of a row that begin before 0 or end after the duration.

    Raises:
        UnusableRecord: a duration that is not positive, times without a duration, a span that cannot be used
            (`check_span`), or a single time outside of the video. One such time makes the whole conversation unusable,
            because its text refers to it.
    """
    times = {time["name"]: time for time in row["times"]}
    if row["duration"] is None and times or row["duration"] is not None and row["duration"] <= 0:
        raise UnusableRecord(row["duration"], "unknown_duration")
    for name, begin in times.items():
        is_start = re.fullmatch(r"<s\d+>", name) is not None
        finish = times.get(f"<e{name[2:]}" if is_start else f"<s{name[2:]}")
        if finish is None and not 0 <= begin["seconds"] <= row["duration"] + ROUNDING:
            raise UnusableRecord(begin["seconds"], "time_outside_of_the_video")
        if finish is None or not is_start:
            continue
        check_span(begin["seconds"], finish["seconds"], row["duration"])
        if begin["seconds"] < 0:
            report.repair(source, row["id"], "negative_start", detail=begin["seconds"])
            begin["seconds"] = 0.0
        if finish["seconds"] > row["duration"] + ROUNDING:
            report.repair(source, row["id"], "end_after_duration", detail=[finish["seconds"], row["duration"]])
            finish["seconds"] = row["duration"]


def read_segments(meta: dict[str, Any], own: Any) -> list[dict[str, Any]]:
    """
    The composition of a record.

    A published record has no clip times: its clips are 10 s long, consecutive, and each stretched by its scale.

    Raises:
        UnusableRecord: ids, scales and times that differ in number or have the wrong type.
    """
    ids, scales = meta.get("sub_videos") or [], meta.get("scale") or []
    if not isinstance(ids, list) or not isinstance(scales, list) or len(ids) != len(scales):
        reason = "clips_and_scales_differ_in_number"
        raise UnusableRecord(f"clips {shorten(ids)}, scales {shorten(scales)}", reason)
    clip_ids = [as_text(clip_id, "clip id") for clip_id in ids]
    lengths = [as_number(scale, "scale") for scale in scales]
    if any(is_unsafe(clip_id) for clip_id in clip_ids) or any(length <= 0 for length in lengths):
        raise UnusableRecord(f"clips {shorten(ids)}, scales {shorten(scales)}")
    if own:
        starts, ends = ([as_number(time, key) for time in list_of(own, key)] for key in ("starts", "ends"))
        captions = [None if text is None else as_text(text, "caption") for text in list_of(own, "captions")]
    else:
        ends = np.cumsum([10.0 * length for length in lengths]).tolist()
        starts, captions = [0.0, *ends][: len(ids)], [None] * len(ids)
    columns: dict[str, list] = {
        "clip_id": clip_ids,
        "start": starts,
        "end": ends,
        "scale": lengths,
        "caption": captions,
    }
    if own and own.get("tracks") is not None:
        columns["tracks"] = [None if name is None else as_text(name, "tracks") for name in list_of(own, "tracks")]
    if len({len(column) for column in columns.values()}) > 1:
        raise UnusableRecord(f"{list(columns)} differ in number", "clips_and_scales_differ_in_number")
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def name_media(record: Any) -> tuple[tuple[str, ...], tuple[float, float] | None]:
    """
    The possible names of a published record's media file, and the part of the second file that the record covers.

    An excerpt is a file named by id, start and end, or a part of the file named by the id. Records written by this
    project have no names here, since they contain their media paths.
    """
    meta = optional_of(record, "meta") or {}
    if OWN in meta:
        return (), None
    name = text_of(record, "id")
    if is_unsafe(name):
        raise UnusableRecord(f"an id that leads out of the media folder: {shorten(name)}", "unsafe_media_name")
    if meta.get("split") is None:
        return (name,), None
    start, end = as_span(meta["split"])
    if not 0 <= start < end:
        raise UnusableRecord(f"an excerpt from {start} s to {end} s", "end_before_start")
    return (f"{name}_{start:.3f}_{end:.3f}", name), (start, end)
