"""Read the captioned clips that pseudo-untrimmed videos are made of (step 1 of the paper).

VALOR's own JSON, JSON lines and csv, plain or gzipped, become `Clip` records. Each record that is left out has a reason,
told to a `CurationReport`. Nothing is embedded, clustered or decoded here.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..release.curation_report import CurationReport
from .annotation_files import read_json, read_json_records, read_text
from .rows import MEDIA_PLACEHOLDER, TIME_PLACEHOLDER


SOURCE = "captions"
# Names under which the published files carry the same thing, first match wins.
ID_KEYS = ("video_id", "clip_id", "youtube_id", "id")
CAPTION_KEYS = ("desc", "caption")
START_KEYS = ("start", "start_time")
END_KEYS = ("end", "end_time")
SPLIT_KEY = "split"
YOUTUBE_ID_LENGTH = 11


@dataclass(frozen=True)
class Clip:
    """One captioned clip. `duration` in seconds; `start` is where it lies in the video it was cut from, if known."""

    clip_id: str
    caption: str
    duration: float
    start: float | None = None
    youtube_id: str | None = None
    split: str = "train"


def read_clips(
    captions_file: str | Path,
    *,
    report: CurationReport,
    exclude_ids_file: str | Path | None = None,
    clip_duration: float = 10.0,
    min_clip_duration: float = 1.0,
    min_caption_words: int = 2,
) -> list[Clip]:
    """Read, check and deduplicate the captioned clips of a file, in file order.

    Args:
        captions_file (`str` or `Path`):
            `[{"video_id", "desc"}]` as JSON, the same records as JSON lines, or a csv whose first columns are an id, start,
            end and caption (later columns may be ragged); gzipped or not. A clip's length is taken from its start and end
            columns, else from an id of the form `<youtube id>_<start>_<end>`.
        report (`CurationReport`):
            Is told how many records were read and kept, and each drop with its reason.
        exclude_ids_file (`str` or `Path`, *optional*):
            Ids of clips, or YouTube ids, that must not be used: one a line, or a JSON list.
        clip_duration (`float`, *optional*, defaults to 10.0):
            Seconds of a clip whose record says nothing of its length (VALOR's clips have 10).
        min_clip_duration (`float`, *optional*, defaults to 1.0):
            Shorter clips are dropped (our choice).
        min_caption_words (`int`, *optional*, defaults to 2):
            Captions with fewer words of letters are dropped (our choice; the damaged "800" has none).

    Raises:
        ValueError: the file is not there, has no id or no caption column, or leaves no clip at all.
    """
    path = Path(captions_file)
    if not path.is_file():
        raise ValueError(f"no such captions file: {path}")
    excluded = read_excluded_ids(exclude_ids_file) if exclude_ids_file is not None else frozenset()
    clips: dict[str, Clip] = {}
    hits = set()
    for number, record in enumerate(read_records(path), start=1):
        report.read(SOURCE)
        name = str(record.get("id") or f"record {number}")
        reason, clip = make_clip(record, clip_duration=clip_duration)
        if reason is None:
            matched = known_ids(clip) & excluded
            hits |= matched
            reason = find_defect(clip, matched, min_clip_duration, min_caption_words)
        if reason is None and clip.clip_id in clips:
            reason = "repeated_record" if clips[clip.clip_id] == clip else "second_caption_of_a_clip"
        if reason is not None:
            report.drop(SOURCE, clip.clip_id if clip else name, reason, detail=record.get("caption"))
            continue
        clips[clip.clip_id] = clip
        report.keep(SOURCE)
    if excluded:
        report.settings["excluded_ids"] = {"in_file": len(excluded), "hit": len(hits)}
    if not clips:
        raise ValueError(f"{path} leaves no usable clip: {report.counts().get(SOURCE, 'it holds no records')}")
    return list(clips.values())


def read_records(path: str | Path) -> Iterator[dict]:
    """Records of a captions file as `{"id", "caption", "start", "end", "split"}`, values as the file has them.

    Raises:
        ValueError: no id or no caption among the csv's columns, or among the keys of any JSON record.
    """
    text = read_text(path)
    if text.lstrip()[:1] in ("[", "{"):
        records = read_json_records(path)
        check_records(path, records)
        keys = list(dict.fromkeys(key for record in records for key in record))
        columns = name_columns(path, keys)
        yield from ({name: record.get(key) for name, key in columns.items()} for record in records)
        return
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, [])
    columns = {name: header.index(key) for name, key in name_columns(path, header).items()}
    for row in reader:
        if row:
            yield {name: row[place] if place < len(row) else None for name, place in columns.items()}


def check_records(path: str | Path, records: list) -> None:
    """Raise unless every record is an object."""
    strange = next((record for record in records if not isinstance(record, dict)), None)
    if strange is not None:
        raise ValueError(f"{path} must hold a list of objects, found {json.dumps(strange)[:80]}")


def name_columns(path: str | Path, keys: list[str]) -> dict[str, str]:
    """Which column of the file is the id, the caption, ...; ValueError where a needed one is missing."""
    wanted = {"id": ID_KEYS, "caption": CAPTION_KEYS, "start": START_KEYS, "end": END_KEYS, "split": (SPLIT_KEY,)}
    columns = {}
    for name, candidates in wanted.items():
        found = next((key for key in candidates if key in keys), None)
        if found is not None:
            columns[name] = found
        elif name in ("id", "caption"):
            raise ValueError(f"{path} has no {name} column: one of {list(candidates)} is needed, it has {keys}")
    return columns


def make_clip(record: dict, *, clip_duration: float) -> tuple[str | None, Clip | None]:
    """`(None, clip)`, or the reason why the record is no clip."""
    if not isinstance(record.get("id"), str) or not record["id"].strip():
        return "no_id", None
    if not isinstance(record.get("caption"), str) or not record["caption"].strip():
        return "empty_caption", None
    clip_id = record["id"].strip()
    youtube_id, start, end = split_clip_id(clip_id)
    if record.get("start") not in (None, "") and record.get("end") not in (None, ""):
        given_start, given_end = read_seconds(record["start"]), read_seconds(record["end"])
        if given_start is None or given_end is None:
            return "time_is_not_a_number", None
        if start is None:  # the id is the bare YouTube id (csv): name the clip as VALOR does
            clip_id = f"{clip_id}_{given_start:.3f}_{given_end:.3f}"
        start, end = given_start, given_end
    if start is not None and not end > start:
        return "ends_before_it_starts", None
    clip = Clip(
        clip_id=clip_id,
        caption=" ".join(record["caption"].split()),
        duration=clip_duration if start is None else round(end - start, 6),
        start=start,
        youtube_id=youtube_id,
        split=str(record.get("split") or "train"),
    )
    return None, clip


def find_defect(clip: Clip, matched: set[str], min_clip_duration: float, min_caption_words: int) -> str | None:
    """The reason to leave a well-formed clip out, or None."""
    if matched:
        return "excluded_id"
    if clip.duration < min_clip_duration:
        return "clip_too_short"
    if sum(any(letter.isalpha() for letter in word) for word in clip.caption.split()) < min_caption_words:
        return "caption_without_words"
    if MEDIA_PLACEHOLDER.search(clip.caption) or TIME_PLACEHOLDER.search(clip.caption):
        return "caption_with_placeholder"
    return None


def split_clip_id(clip_id: str) -> tuple[str, float | None, float | None]:
    """YouTube id, start and end of an id; from the right, because YouTube ids hold "_" and begin with "-".

    ```python
    >>> split_clip_id("-u_HAvfqs2I_30.000_40.000")
    ('-u_HAvfqs2I', 30.0, 40.0)
    >>> split_clip_id("nLKEdmVu3FY")
    ('nLKEdmVu3FY', None, None)

    ```
    """
    parts = clip_id.rsplit("_", 2)
    if len(parts) == 3 and parts[0]:
        start, end = read_seconds(parts[1]), read_seconds(parts[2])
        if start is not None and end is not None:
            return parts[0], start, end
    if clip_id[YOUTUBE_ID_LENGTH : YOUTUBE_ID_LENGTH + 1] == "_":  # VGGSound: <youtube id>_<start>
        return clip_id[:YOUTUBE_ID_LENGTH], None, None
    return clip_id, None, None


def read_seconds(value) -> float | None:
    """A finite, non-negative number of seconds, or None."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def known_ids(clip: Clip) -> set[str]:
    """The ids under which another list may know a clip."""
    return {clip.clip_id, clip.youtube_id}


def read_excluded_ids(path: str | Path) -> frozenset[str]:
    """Ids of a text file (one a line) or of a JSON list, gzipped or not."""
    if not Path(path).is_file():
        raise ValueError(f"no such exclude_ids_file: {path}")
    text = read_text(path)
    ids: Iterable = read_json(path) if text.lstrip().startswith("[") else text.splitlines()
    return frozenset(str(name).strip() for name in ids if str(name).strip())
