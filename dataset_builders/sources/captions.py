"""Reads the captioned clips for composing pseudo-untrimmed videos (step 1 of the paper).

Converts VALOR's JSON, JSON lines and csv, plain or gzipped, to `Clip` records. Annotated events of whole videos, in
the forms of UnAV-100 and ActivityNet Captions, are clips as well. Each dropped record is counted in a `RecordReport`
with its reason. Nothing is embedded, clustered or decoded here.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .annotation_files import as_paths, read_csv_rows, read_json_records, read_text
from .clip_ids import split_clip_id, without_media_suffix
from .excluded_ids import ExcludedIds
from .media_folder import is_unsafe
from .published_events import AnnotatedVideo, read_activitynet_captions, read_unav100
from .record_report import RecordReport
from .records import Drop, UnusableRecord, as_text, count_drop, count_in, read_number, shorten, text_of
from .text_cleaning import MEDIA_PLACEHOLDER, TIME_PLACEHOLDER, split_words, without_control_tokens


SOURCE = "captions"
# Field names in the published files; the first match is used.
ID_KEYS = ("video_id", "clip_id", "youtube_id", "id")
CAPTION_KEYS = ("desc", "caption")
START_KEYS = ("start", "start_time", "start_seconds", "start_sec")
END_KEYS = ("end", "end_time", "end_seconds", "end_sec")
DURATION_KEY = "duration"
SPLIT_KEY = "split"
TRACKS_KEY = "tracks"
EVENT_TRACKS = ("both", "video", "audio")


@dataclass(frozen=True)
class Clip:
    """One captioned clip. `duration` in seconds; `start` is its position in the video it was cut from, if known."""

    clip_id: str
    caption: str
    duration: float
    start: float | None = None
    youtube_id: str | None = None
    split: str = "train"
    tracks: str = "both"  # those that carry the event: "video", "audio" or "both"
    other_captions: tuple[str, ...] = ()  # more texts for the same event


def read_clips(
    captions_file: str | Path | list[str] | list[Path],
    *,
    report: RecordReport,
    exclude_ids_file: str | Path | list[str] | list[Path] | None = None,
    clip_duration: float = 10.0,
    min_clip_duration: float = 1.0,
    min_caption_words: int = 2,
    caption_field: str | None = None,
) -> list[Clip]:
    """Read, check and deduplicate captioned clips, in the order of the files.

    Args:
        captions_file: `[{"video_id", "desc"}]` as JSON, the same records as JSON lines, or a csv with an id, start,
            end and caption (rows may differ in the number of further columns); gzipped or not. The duration of a clip
            is given by its start and end columns, by an id `<youtube id>_<start>_<end>` with decimals, or by the field
            `duration`; a start without an end is that of a clip of `clip_duration`. The field
            `tracks` gives the tracks of the clip that carry the event: "video", "audio" or "both". Or a file of
            UnAV-100 or ActivityNet Captions: each event is a clip of its video (`clip_files.locate_clip`).
        exclude_ids_file: ids of clips, or YouTube ids, to exclude, in the formats of `excluded_ids`.
        clip_duration: seconds of a clip whose record does not give them (10 for VALOR).
        min_clip_duration: seconds; shorter clips are dropped (our choice).
        min_caption_words: captions with fewer words of letters are dropped (our choice; the damaged "800" has none).
        caption_field: field of the caption, for files with several (VAST's `vast_cap`, `vision_cap` and `audio_cap`).
            A list of texts is several captions of one clip. None: the first of `desc` and `caption`.

    Raises:
        ValueError: a file that does not exist, has no id or caption field, or files without a usable clip.
    """
    paths = as_paths(captions_file, kind="captions")
    excluded = ExcludedIds.from_files(as_paths(exclude_ids_file, kind="exclude_ids"))
    clips: dict[str, Clip] = {}
    for name, record in _numbered_records(paths, caption_field, count_in(report, SOURCE)):
        report.read(SOURCE)
        caption = record.get("caption")
        detail = caption if isinstance(caption, str) and caption.isprintable() else shorten(caption)
        with count_drop(report, SOURCE, name, detail=detail):
            clip = make_clip(record, clip_duration=clip_duration, allow_lists=caption_field is not None)
            with count_drop(report, SOURCE, clip.clip_id, detail=detail):
                excluded.check((clip.clip_id, clip.youtube_id))
                if clip.duration < min_clip_duration:
                    raise UnusableRecord(None, "clip_too_short")
                clip = keep_suitable(clip, min_caption_words, report)
                if clip.clip_id in clips:
                    same = clips[clip.clip_id] == clip
                    raise UnusableRecord(None, "repeated_record" if same else "second_caption_of_a_clip")
                clips[clip.clip_id] = clip
                report.keep(SOURCE)
    if excluded.num_ids:
        report.settings["excluded_ids"] = {"in_file": excluded.num_ids, "hit": excluded.num_met}
        excluded.warn_if_unmet("exclude_ids_file")
    if not clips:
        names = ", ".join(map(str, paths))
        raise ValueError(f"{names} leaves no usable clip: {report.counts().get(SOURCE, 'no records')}")
    return list(clips.values())


def _numbered_records(
    paths: list[Path], caption_field: str | None, drop: Drop
) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths:
        events = read_annotated_events(path, drop=drop)
        records = read_records(path, caption_field=caption_field) if events is None else events
        for number, record in enumerate(records, start=1):
            yield shorten(record.get("id") or f"record {number}").strip("'"), record


def read_annotated_events(path: str | Path, *, drop: Drop) -> Iterator[dict[str, Any]] | None:
    """The events of a file of UnAV-100 or ActivityNet Captions, as records like those of `read_records`; None for a
    file of another form."""
    text = read_text(path)
    try:
        value = json.loads(text) if text.lstrip()[:1] == "{" else None
    except (ValueError, RecursionError):  # JSON lines, or damaged: `read_records` reports it
        return None
    if not isinstance(value, dict):
        return None
    if "database" in value:
        return _events_of(read_unav100(path, drop=drop))
    if any(isinstance(record, dict) and "timestamps" in record for record in value.values()):
        return _events_of(read_activitynet_captions(path, drop=drop))
    return None


def _events_of(videos: Iterator[AnnotatedVideo]) -> Iterator[dict[str, Any]]:
    for video in videos:
        for event in video.events:
            end = event.end if video.duration is None else min(event.end, video.duration)
            yield {
                "id": video.video_id,
                "caption": event.text,
                "start": event.start,
                "end": end,
                "split": video.subset,
            }


def read_records(path: str | Path, *, caption_field: str | None = None) -> Iterator[dict[str, Any]]:
    """Records of a captions file as `{"id", "caption", "start", "end", "duration", "split", "tracks"}`, unchanged.

    Raises:
        ValueError: no id or no caption among the csv's columns, or among the keys of all JSON records.
    """
    if read_text(path).lstrip()[:1] in ("[", "{"):
        records = _objects(path, read_json_records(path))
        keys = list(dict.fromkeys(key for record in records for key in record))
        columns = name_columns(path, keys, caption_field)
        yield from ({name: record.get(key) for name, key in columns.items()} for record in records)
        return
    rows = read_csv_rows(path)
    _, header = next(rows, (0, []))
    positions = {name: header.index(key) for name, key in name_columns(path, header, caption_field).items()}
    for _, row in rows:
        yield {name: row[position] if position < len(row) else None for name, position in positions.items()}


def _objects(path: str | Path, records: list[Any]) -> list[dict[str, Any]]:
    """The records, with {} for each that is not an object; raises ValueError if none is an object."""
    objects = [record if isinstance(record, dict) else {} for record in records]
    if not any(objects):
        raise ValueError(f"{path} must hold a list of objects, found {shorten(records)}")
    return objects


def name_columns(path: str | Path, keys: list[str], caption_field: str | None = None) -> dict[str, str]:
    """The columns of the id, the caption, ...; raises ValueError if a required one is missing."""
    caption_keys = CAPTION_KEYS if caption_field is None else (caption_field,)
    wanted = {"id": ID_KEYS, "caption": caption_keys, "start": START_KEYS, "end": END_KEYS}
    wanted |= {"duration": (DURATION_KEY,), "split": (SPLIT_KEY,), "tracks": (TRACKS_KEY,)}
    columns = {}
    for name, candidates in wanted.items():
        found = next((key for key in candidates if key in keys), None)
        if found is not None:
            columns[name] = found
        elif name in ("id", "caption"):
            raise ValueError(
                f"{path} has no {name} column: one of {list(candidates)} is needed, it has {shorten(keys)}"
            )
    return columns


def make_clip(record: dict[str, Any], *, clip_duration: float, allow_lists: bool = False) -> Clip:
    """
    The clip of a record of `read_records`; with `allow_lists`, a caption may be a list of texts.

    Raises:
        UnusableRecord: the record is not a clip; see its `reason`.
    """
    try:
        clip_id = without_media_suffix(text_of(record, "id").strip())
    except UnusableRecord as error:
        raise UnusableRecord(None, "no_id") from error
    given = record.get("caption")
    try:
        texts = [as_text(text, "caption") for text in (given if allow_lists and isinstance(given, list) else [given])]
    except UnusableRecord as error:
        raise UnusableRecord(None, "empty_caption" if given is None else error.reason) from error
    captions = [" ".join(without_control_tokens(text).split()) for text in texts]
    captions = list(dict.fromkeys(caption for caption in captions if caption))
    if not clip_id or not clip_id.isprintable() or is_unsafe(clip_id):
        raise UnusableRecord(None, "unsafe_id" if clip_id else "no_id")
    if not captions:
        raise UnusableRecord(None, "empty_caption")
    youtube_id, start, end = split_clip_id(clip_id)
    given = {name: record[name] for name in ("start", "end", "duration") if record.get(name) not in (None, "")}
    seconds = {name: time for name, value in given.items() if (time := read_seconds(value)) is not None}
    if len(seconds) < len(given):
        raise UnusableRecord(None, "time_is_not_a_number")
    length = seconds.get("duration", clip_duration)
    if "end" in seconds and "start" not in seconds and start is None:
        raise UnusableRecord(None, "end_without_start")
    if "start" in seconds and ("end" in seconds or start is None):
        # without an id in VALOR's format (csv), the clip is named in it
        times = seconds["start"], seconds.get("end", seconds["start"] + length)
        clip_id = f"{clip_id}_{times[0]:.3f}_{times[1]:.3f}" if start is None else clip_id
        start, end = times
    if length <= 0 or (start is not None and end is not None and end <= start):
        raise UnusableRecord(None, "ends_before_it_starts")
    tracks = record.get("tracks") or "both"
    if tracks not in EVENT_TRACKS:
        raise UnusableRecord(f"tracks is {shorten(tracks)}", "unknown_tracks")
    return Clip(
        clip_id=clip_id,
        caption=captions[0],
        duration=length if start is None or end is None else round(end - start, 6),
        start=start,
        youtube_id=youtube_id,
        split=str(record.get("split") or "train"),
        tracks=tracks,
        other_captions=tuple(captions[1:]),
    )


def keep_suitable(clip: Clip, min_caption_words: int, report: RecordReport) -> Clip:
    """The clip with those of its captions that are suitable; the others of a longer list are reported as repairs.

    Raises:
        UnusableRecord: none is; the reason is that of the first.
    """
    captions = (clip.caption, *clip.other_captions)
    defects = [find_defect(caption, min_caption_words) for caption in captions]
    kept = [caption for caption, defect in zip(captions, defects) if defect is None]
    if not kept:
        raise UnusableRecord(None, str(defects[0]))
    for caption, defect in zip(captions, defects):
        if defect is not None:
            report.repair(SOURCE, clip.clip_id, defect, detail=shorten(caption))
    return dataclasses.replace(clip, caption=kept[0], other_captions=tuple(kept[1:]))


def find_defect(caption: str, min_caption_words: int) -> str | None:
    """Why a caption is unsuitable, or None."""
    if sum(any(letter.isalpha() for letter in word) for word in split_words(caption)) < min_caption_words:
        return "caption_without_words"
    if MEDIA_PLACEHOLDER.search(caption) or TIME_PLACEHOLDER.search(caption):
        return "caption_with_placeholder"
    return None


def read_seconds(value: Any) -> float | None:
    """A finite, non-negative number of seconds, or None."""
    seconds = read_number(value)
    return seconds if seconds is not None and seconds >= 0 else None
