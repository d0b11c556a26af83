"""Captioned sounds: AudioCaps, Clotho, Auto-ACD, WavCaps, AudioSet labels, and captioned clips of VALOR's form.

Each reader yields `AudioCaption` records as the files have them; `normalize_caption` is applied by the builder. The
`audio_keys` say which sound it is across sources, so that de-duplication and test-set exclusion need no file names.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from ..release.curation_report import CurationReport
from ..wordings import LABEL_CAPTIONS, choose_wording
from .annotation_files import read_csv, read_json, read_text
from .captions import read_clips, split_clip_id
from .timed_events import clean_text


CLIP_SECONDS = 10.0  # AudioSet and its children are cut in clips of 10 s
YOUTUBE_ID = re.compile(r"[\w-]{11}")
AUDIO_SUFFIX = re.compile(r"\.(?:wav|flac|mp3|ogg|m4a|mp4)$", re.IGNORECASE)
AUTO_ACD_ID_COLUMNS = ("youtube_id", "youtube id", "audio_id", "video_id", "file_name", "id")


@dataclass(frozen=True)
class AudioCaption:
    """One (sound, caption) pair; `duration` in seconds or None where the file does not tell it."""

    record_id: str
    caption: str
    audio_keys: tuple[str, ...]
    media_names: tuple[str, ...]
    duration: float | None = None


def read_audiocaps(path: str | Path, *, report: CurationReport) -> Iterator[AudioCaption]:
    """AudioCaps' csv: `audiocap_id,youtube_id,start_time,caption`, either version, any split."""
    for row in read_csv(path, columns=("audiocap_id", "youtube_id", "start_time", "caption")):
        report.read("audiocaps")
        youtube_id, start = row["youtube_id"], row["start_time"]
        yield AudioCaption(
            record_id=row["audiocap_id"],
            caption=row["caption"],
            audio_keys=(f"youtube:{youtube_id}",),
            media_names=(youtube_id, f"Y{youtube_id}", f"{youtube_id}_{start}", row["audiocap_id"]),
            duration=CLIP_SECONDS,
        )


def read_clotho(path: str | Path, *, report: CurationReport) -> Iterator[AudioCaption]:
    """Clotho's csv: `file_name,caption_1,...,caption_5`; HTML entities in file names are resolved.

    Clotho's sounds come from FreeSound; the file name is all that the csv keeps of that, so it is the key.
    """
    for row in read_csv(path, columns=("file_name", *(f"caption_{number}" for number in range(1, 6)))):
        name = unescape(row["file_name"]).strip()
        for number in range(1, 6):
            report.read("clotho")
            yield AudioCaption(
                record_id=f"{name}-{number}",
                caption=row[f"caption_{number}"],
                audio_keys=(freesound_name_key(name),),
                media_names=(name, row["file_name"]),
            )


def read_wavcaps(path: str | Path, *, report: CurationReport) -> Iterator[AudioCaption]:
    """One of WavCaps' JSON files (FreeSound, BBC, SoundBible or AudioSet part)."""
    for record in read_json(path)["data"]:
        report.read("wavcaps")
        part, keys = _wavcaps_part(record)
        name = AUDIO_SUFFIX.sub("", record["id"])
        yield AudioCaption(
            record_id=f"{part}-{name}",
            caption=record["caption"],
            audio_keys=keys,
            media_names=(name,),
            duration=float(record["duration"]),
        )


def _wavcaps_part(record: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Which part of WavCaps a record is of, told by its id and links, and the keys of its sound."""
    link = f"{record.get('download_link', '')} {record.get('href', '')}".lower()
    if re.fullmatch(r"Y[\w-]{11}\.wav", record["id"]):
        return "audioset", (f"youtube:{record['id'][1:12]}",)
    if "freesound" in link:
        names = (freesound_name_key(unescape(record["file_name"])),) if record.get("file_name") else ()
        return "freesound", (f"freesound:{record['id']}", *names)
    part = "soundbible" if "soundbible" in link else "bbc" if "bbc" in link else "other"
    return part, (f"{part}:{record['id']}",)


def read_auto_acd(path: str | Path, *, report: CurationReport) -> Iterator[AudioCaption]:
    """Auto-ACD's csv: a column of AudioSet or VGGSound ids and one named `caption`.

    Known names of the id column are AUTO_ACD_ID_COLUMNS; the id may carry a leading "Y", a start time or a suffix.
    """
    for number, row in enumerate(read_csv(path, columns=("caption",))):
        column = next((name for name in AUTO_ACD_ID_COLUMNS if name in row), None)
        if column is None:
            raise ValueError(f"{path} has the columns {list(row)}, expected one of {AUTO_ACD_ID_COLUMNS} among them")
        report.read("auto_acd")
        youtube_id = youtube_id_of(row[column])
        if youtube_id is None:
            report.drop("auto_acd", row[column] or f"row {number}", "malformed_id")
            continue
        name = AUDIO_SUFFIX.sub("", row[column].strip())
        yield AudioCaption(
            record_id=name,
            caption=row["caption"] or "",
            audio_keys=(f"youtube:{youtube_id}",),
            media_names=(name, youtube_id, f"Y{youtube_id}"),
            duration=CLIP_SECONDS,
        )


def read_audioset_labels(
    path: str | Path, *, class_labels_file: str | Path, report: CurationReport
) -> Iterator[AudioCaption]:
    """AudioSet's segment csv (`YTID, start_seconds, end_seconds, "/m/..,/m/.."`), or LLP's tab-separated label lists.

    The caption is made of the class names; labels unknown to `class_labels_file` (class_labels_indices.csv, columns
    mid and display_name) are dropped as "unknown_label", the clip with them if none is left.
    """
    names = short_class_names(read_csv(class_labels_file, columns=("mid", "display_name")))
    for segment_id, youtube_id, duration, labels in _labelled_segments(path):
        report.read("audioset")
        if youtube_id_of(youtube_id) is None:
            report.drop("audioset", segment_id, "malformed_id")
            continue
        unknown = [label for label in labels if _label_key(label) not in names]
        known = list(dict.fromkeys(names[_label_key(label)] for label in labels if label not in unknown))
        for label in unknown:
            decide = report.repair if known else report.drop
            decide("audioset", segment_id, "unknown_label", detail=label)
        if known:
            sounds = known[0] if len(known) == 1 else f"{', '.join(known[:-1])} and {known[-1]}"
            yield AudioCaption(
                record_id=segment_id,
                caption=choose_wording(LABEL_CAPTIONS, segment_id).format(sounds=sounds),
                audio_keys=(f"youtube:{youtube_id}",),
                media_names=(youtube_id, f"Y{youtube_id}", segment_id),
                duration=duration,
            )


def _labelled_segments(path: str | Path) -> Iterator[tuple[str, str, float, list[str]]]:
    """(segment id, YouTube id, seconds, labels) of either form of label file."""
    text = read_text(path)
    if text.startswith("filename\t"):
        for row in read_csv(path, columns=("filename", "event_labels"), delimiter="\t", quotechar=None):
            youtube_id, start, end = split_clip_id(row["filename"])
            duration = CLIP_SECONDS if start is None or end is None or end <= start else end - start
            yield row["filename"], youtube_id, duration, row["event_labels"].split(",")
        return
    for row in csv.reader(io.StringIO(text, newline=""), skipinitialspace=True):
        if not row or row[0].startswith("#"):
            continue
        if len(row) != 4:
            raise ValueError(f"{path} has a row of {len(row)} columns, expected YTID, start, end, labels: {row}")
        start, end = float(row[1]), float(row[2])
        yield f"{row[0]}_{start:.3f}_{end:.3f}", row[0], end - start, row[3].split(",")


def short_class_names(classes: Iterator[dict[str, str]]) -> dict[str, str]:
    """Class names as a caption says them, by the key of their machine id and of their full name.

    "Male speech, man speaking" becomes "male speech"; where two classes share the part before the comma ("Inside,
    small room"), the whole name stays.
    """
    classes = list(classes)
    heads = [row["display_name"].split(",")[0] for row in classes]
    short = {}
    for row, head in zip(classes, heads):
        name = head if heads.count(head) == 1 else row["display_name"].replace(",", "")
        spoken = name if name.isupper() else name.lower()
        short[_label_key(row["mid"])] = short[_label_key(row["display_name"])] = spoken
    return short


def _label_key(label: str) -> str:
    return label.strip() if label.strip().startswith("/") else re.sub(r"[^a-z0-9]", "", label.lower())


def read_captioned_clips(path: str | Path, *, report: CurationReport) -> Iterator[AudioCaption]:
    """Captioned clips of VALOR's form (`[{"video_id", "desc"}]`, JSON lines or csv): their sound, their caption."""
    reading = CurationReport()
    clips = read_clips(path, report=reading)
    report.read("captions", num=sum(reading.num_read.values()))
    for entry in reading.entries:
        report.drop("captions", entry["id"], entry["reason"], detail=entry.get("detail"))
    for clip in clips:
        yield AudioCaption(
            record_id=clip.clip_id,
            caption=clip.caption,
            audio_keys=(f"youtube:{clip.youtube_id}",) if clip.youtube_id else (f"clip:{clip.clip_id}",),
            media_names=(clip.clip_id,),
            duration=clip.duration,
        )


def youtube_id_of(name: str) -> str | None:
    """The YouTube id in a clip's name; None if there is none.

    >>> youtube_id_of("Yb0RFKhbpFJA.wav"), youtube_id_of("-0SdAVK79lg_000030"), youtube_id_of("17iGUal2M_10_20")
    ('b0RFKhbpFJA', '-0SdAVK79lg', None)
    """
    stem = AUDIO_SUFFIX.sub("", name.strip())
    stem = stem[1:] if re.fullmatch(r"Y[\w-]{11}", stem) else stem
    without_times = split_clip_id(stem)[0]  # "<id>_<start>_<end>"
    without_start = re.sub(r"_\d{6}$", "", stem)  # "<id>_000030", VGGSound's way
    return next((one for one in (stem, without_times, without_start) if YOUTUBE_ID.fullmatch(one)), None)


def freesound_name_key(name: str) -> str:
    """The key of a FreeSound file name: its stem, whatever the case.

    >>> freesound_name_key("Santa Motor.wav")
    'freesound_name:santa motor'
    """
    return "freesound_name:" + AUDIO_SUFFIX.sub("", name.strip()).casefold()


def normalize_caption(caption: str) -> str:
    """A caption in the one form of the built set: one line, plain quotes, a capital first, a final period.

    >>> normalize_caption(" a dog barks ,then \\u201cwoof\\u201d")
    'A dog barks, then "woof".'
    """
    text = clean_text(unescape(caption).translate(TYPOGRAPHY))
    text = re.sub(r"\s*([,;])\s*(?=[^\d\s])", r"\1 ", text).rstrip(" ,;:-")
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


TYPOGRAPHY = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u2026": "...",
    "\u00a0": " ", "\u200b": None,
})  # fmt: skip


def caption_key(caption: str) -> str:
    """What two captions share that say the same: their letters and digits.

    >>> caption_key("A dog barks.") == caption_key("a dog  barks")
    True
    """
    return " ".join(re.findall(r"[^\W_]+", caption.casefold()))
