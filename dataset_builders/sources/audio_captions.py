"""Captioned sounds: AudioCaps, Clotho, Auto-ACD, WavCaps, AudioSet labels, and captioned clips in VALOR's format.

Each reader yields `AudioCaption` records with the captions of the file; `normalize_caption` is applied by the
selection. The `audio_keys` identify a sound across sources, so that de-duplication and the exclusion of test sets need
no file names.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from ..wordings import LABEL_CAPTIONS, choose_wording
from .annotation_files import read_csv, read_csv_rows, read_json, read_text
from .captions import read_clips
from .clip_ids import LOOSELY_TIMED_ID, without_media_suffix, youtube_id_of
from .record_report import RecordReport
from .records import (
    UnusableRecord,
    as_number,
    count_in,
    member,
    number_of,
    numbered,
    optional_of,
    parse_each,
    text_of,
)


CLIP_SECONDS = 10.0  # clips of AudioSet and of data sets derived from it are 10 s long
AUTO_ACD_ID_COLUMNS = ("youtube_id", "youtube id", "audio_id", "video_id", "file_name", "id")


@dataclass(frozen=True)
class AudioCaption:
    """One (sound, caption) pair; `duration` in seconds, None if the file does not give it."""

    record_id: str
    caption: str
    audio_keys: tuple[str, ...]
    media_names: tuple[str, ...]
    duration: float | None = None


def read_audiocaps(path: str | Path, *, report: RecordReport) -> Iterator[AudioCaption]:
    """AudioCaps' csv: `audiocap_id,youtube_id,start_time,caption`, either version, any split."""
    columns = ("audiocap_id", "youtube_id", "start_time", "caption")
    for row in read_csv(path, columns=columns, drop=count_in(report, "audiocaps")):
        report.read("audiocaps")
        record_id, youtube_id, start = (row[name].strip() for name in columns[:3])
        if youtube_id_of(youtube_id) != youtube_id:
            report.drop("audiocaps", record_id, "malformed_id", detail=youtube_id)
            continue
        yield AudioCaption(
            record_id=record_id,
            caption=row["caption"],
            audio_keys=(f"youtube:{youtube_id}",),
            media_names=(youtube_id, f"Y{youtube_id}", f"{youtube_id}_{start}", record_id),
            duration=CLIP_SECONDS,
        )


def read_clotho(path: str | Path, *, report: RecordReport) -> Iterator[AudioCaption]:
    """Clotho's csv: `file_name,caption_1,...,caption_5`; HTML entities in file names are resolved.

    Clotho's sounds come from FreeSound; the csv has only the FreeSound file name, which is used as the key.
    """
    columns = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
    for row in read_csv(path, columns=columns, drop=count_in(report, "clotho")):
        name = unescape(row["file_name"]).strip()
        for number in range(1, 6):
            report.read("clotho")
            yield AudioCaption(
                record_id=f"{name}-{number}",
                caption=row[f"caption_{number}"],
                audio_keys=(freesound_name_key(name),),
                media_names=(name, row["file_name"]),
            )


def read_wavcaps(path: str | Path, *, report: RecordReport) -> Iterator[AudioCaption]:
    """One of WavCaps' JSON files (FreeSound, BBC, SoundBible or AudioSet part)."""
    records = numbered(path, member(path, read_json(path), "data", "WavCaps"))
    for pair in parse_each(path, records, _parse_wavcaps, count_in(report, "wavcaps")):
        report.read("wavcaps")
        yield pair


def _parse_wavcaps(record: Any) -> AudioCaption:
    sound_id, caption = text_of(record, "id"), text_of(record, "caption")
    part, keys = _wavcaps_part(record, sound_id)
    name = without_media_suffix(sound_id)
    return AudioCaption(f"{part}-{name}", caption, keys, (name,), number_of(record, "duration"))


def _wavcaps_part(record: dict[str, Any], sound_id: str) -> tuple[str, tuple[str, ...]]:
    """Which part of WavCaps a record is from, by its id and links, and the keys of its sound."""
    link = f"{record.get('download_link', '')} {record.get('href', '')}".lower()
    if re.fullmatch(r"Y[\w-]{11}\.wav", sound_id):
        return "audioset", (f"youtube:{sound_id[1:12]}",)
    if "freesound" in link:
        file_name = optional_of(record, "file_name")
        names = (freesound_name_key(unescape(text_of(record, "file_name"))),) if file_name else ()
        return "freesound", (f"freesound:{sound_id}", *names)
    part = "soundbible" if "soundbible" in link else "bbc" if "bbc" in link else "other"
    return part, (f"{part}:{sound_id}",)


def read_auto_acd(path: str | Path, *, report: RecordReport) -> Iterator[AudioCaption]:
    """Auto-ACD's csv: a column of AudioSet or VGGSound ids and one named `caption`.

    Known names of the id column are AUTO_ACD_ID_COLUMNS; the id may have a leading "Y", a start time or a suffix.
    """
    for number, row in enumerate(read_csv(path, columns=("caption",), drop=count_in(report, "auto_acd"))):
        column = next((name for name in AUTO_ACD_ID_COLUMNS if name in row), None)
        if column is None:
            raise ValueError(f"{path} has the columns {list(row)}, expected one of {AUTO_ACD_ID_COLUMNS} among them")
        report.read("auto_acd")
        youtube_id = youtube_id_of(row[column])
        if youtube_id is None:
            report.drop("auto_acd", row[column] or f"row {number}", "malformed_id")
            continue
        name = without_media_suffix(row[column].strip())
        yield AudioCaption(
            record_id=name,
            caption=row["caption"],
            audio_keys=(f"youtube:{youtube_id}",),
            media_names=(name, youtube_id, f"Y{youtube_id}"),
            duration=CLIP_SECONDS,
        )


def read_audioset_labels(
    path: str | Path, *, class_labels_file: str | Path, report: RecordReport
) -> Iterator[AudioCaption]:
    """AudioSet's segment csv (`YTID, start_seconds, end_seconds, "/m/..,/m/.."`), or LLP's tab-separated label lists.

    The caption is made from the class names. Labels not in `class_labels_file` (class_labels_indices.csv, columns mid
    and display_name) are dropped as "unknown_label"; a clip without any known label is dropped.
    """
    names = short_class_names(read_csv(class_labels_file, columns=("mid", "display_name")))
    for segment_id, youtube_id, duration, labels in _labelled_segments(path, report):
        report.read("audioset")
        if youtube_id_of(youtube_id) is None:
            report.drop("audioset", segment_id, "malformed_id")
            continue
        unknown = [label for label in labels if _label_key(label) not in names]
        known = list(dict.fromkeys(names[_label_key(label)] for label in labels if label not in unknown))
        if known:
            for label in unknown:
                report.repair("audioset", segment_id, "unknown_label", detail=label)
            sounds = known[0] if len(known) == 1 else f"{', '.join(known[:-1])} and {known[-1]}"
            yield AudioCaption(
                record_id=segment_id,
                caption=choose_wording(LABEL_CAPTIONS, segment_id).format(sounds=sounds),
                audio_keys=(f"youtube:{youtube_id}",),
                media_names=(youtube_id, f"Y{youtube_id}", segment_id),
                duration=duration,
            )
        else:
            report.drop("audioset", segment_id, "unknown_label", detail=unknown)


def _labelled_segments(path: str | Path, report: RecordReport) -> Iterator[tuple[str, str, float, list[str]]]:
    """(segment id, YouTube id, seconds, labels) from either format of label file."""
    drop = count_in(report, "audioset")
    if read_text(path).startswith("filename\t"):
        columns = ("filename", "event_labels")
        for row in read_csv(path, columns=columns, drop=drop, delimiter="\t", quotechar=None):
            hit = LOOSELY_TIMED_ID.fullmatch(row["filename"])
            start, end = (float(time) for time in row["filename"].rsplit("_", 2)[1:]) if hit else (0.0, 0.0)
            name = hit[1] if hit else row["filename"]
            yield row["filename"], name, end - start if end > start else CLIP_SECONDS, row["event_labels"].split(",")
        return
    rows = ((f"line {line}", row) for line, row in read_csv_rows(path, skip_spaces=True) if not row[0].startswith("#"))
    yield from parse_each(path, rows, _parse_segment, drop)


def _parse_segment(row: list[str]) -> tuple[str, str, float, list[str]]:
    if len(row) != 4:
        raise UnusableRecord(f"{len(row)} fields, expected YTID, start, end, labels: {row}"[:160], "malformed_row")
    start, end = as_number(row[1], "start"), as_number(row[2], "end")
    if not 0 <= start < end:
        raise UnusableRecord(f"from {start} s to {end} s", "ends_before_it_starts")
    return f"{row[0]}_{start:.3f}_{end:.3f}", row[0], end - start, row[3].split(",")


def short_class_names(rows: Iterable[dict[str, str]]) -> dict[str, str]:
    """Class names for captions, by the key of their machine id and of their full name.

    "Male speech, man speaking" becomes "male speech"; if two classes share the part before the comma ("Inside,
    small room"), the whole name is used.
    """
    classes = list(rows)
    heads = [row["display_name"].split(",")[0] for row in classes]
    short = {}
    for row, head in zip(classes, heads):
        name = head if heads.count(head) == 1 else row["display_name"].replace(",", "")
        spoken = name if name.isupper() else name.lower()
        short[_label_key(row["mid"])] = short[_label_key(row["display_name"])] = spoken
    return short


def _label_key(label: str) -> str:
    return label.strip() if label.strip().startswith("/") else re.sub(r"[^a-z0-9]", "", label.lower())


def read_captioned_clips(path: str | Path, *, report: RecordReport) -> Iterator[AudioCaption]:
    """Audio and captions of clips in VALOR's format (`[{"video_id", "desc"}]`, JSON lines or csv)."""
    reading = RecordReport()
    clips = read_clips(path, report=reading)
    report.read("captions", num=sum(reading.num_read.values()))
    for entry in reading.entries:
        report.drop("captions", entry["id"], entry["reason"], detail=entry.get("detail"))
    for clip in clips:
        yield AudioCaption(
            record_id=clip.clip_id,
            caption=clip.caption,
            audio_keys=(captioned_clip_key(clip.clip_id),),
            media_names=(clip.clip_id,),
            duration=clip.duration,
        )


def captioned_clip_key(clip_id: str) -> str:
    """The key of a captioned clip: that of its YouTube video, or of the clip if its id contains no YouTube id.

    >>> captioned_clip_key("-u_HAvfqs2I_30.000_40.000"), captioned_clip_key("kitchen_03_15")
    ('youtube:-u_HAvfqs2I', 'clip:kitchen_03_15')
    """
    youtube_id = youtube_id_of(clip_id)
    return f"clip:{clip_id}" if youtube_id is None else f"youtube:{youtube_id}"


def freesound_name_key(name: str) -> str:
    """The key of a FreeSound file name: its stem in lower case.

    >>> freesound_name_key("Santa Motor.wav")
    'freesound_name:santa motor'
    """
    return "freesound_name:" + without_media_suffix(name.strip()).casefold()
