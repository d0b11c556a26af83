"""Read and write the conversation files of AVicuna and VTimeLLM, without loss for our rows.

    {"id", "source", "conversations": [{"from": "human" | "gpt", "value"}],
     "meta": {"duration", "token": {"<s0>": seconds}, "sub_videos": [ids], "scale": [floats]}}

Other projects train on this format. What it has no place for (captions of the segments, media paths) is written under
`meta["avicuna"]`, which other readers ignore; a file without it is read as far as it goes.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..release.curation_report import CurationReport
from ..schema import MEDIA, MEDIA_KINDS
from .annotation_files import read_json_records
from .rows import TIME_PLACEHOLDER


SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
OWN = "avicuna"


def write_vtimellm(rows: Iterable[dict], path: str | Path) -> int:
    """Write rows of `schema.FEATURES` as one JSON list, a record a line; returns how many there were."""
    num_rows = 0
    with Path(path).open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(",\n" if num_rows else "[\n")
            file.write(json.dumps(row_to_record(row), ensure_ascii=False))
            num_rows += 1
        file.write("\n]\n" if num_rows else "[]\n")
    return num_rows


def read_vtimellm(
    path: str | Path, *, report: CurationReport, media_dir: str | Path | None = None, source: str | None = None
) -> Iterator[dict]:
    """Rows of a JSON list or of JSON lines in the format above.

    Args:
        path (`str` or `Path`):
            The file; gzipped or not.
        report (`CurationReport`):
            Is told of records read, kept and dropped: without turns, with a time in the text that has no seconds, with
            clips and scales that differ in number, or (with `media_dir`) without a media file.
        media_dir (`str` or `Path`, *optional*):
            Folder of the videos, named by id; for an excerpt (`meta["split"]` is `[start, end]`) by `<id>_<start>_<end>`.
        source (`str`, *optional*):
            Name to count under and to give to rows that name no source; by default "vtimellm".
    """
    name = source or "vtimellm"
    files = None if media_dir is None else {file.stem: file for file in sorted(Path(media_dir).iterdir())}
    for number, record in enumerate(read_json_records(path)):
        report.read(name)
        record_id = str(record.get("id", number))
        row, reason = record_to_row(record, number, source=name)
        if reason is None:
            reason = find_media(record, row, files)
        if reason is not None:
            report.drop(name, record_id, reason)
            continue
        report.keep(name)
        yield row


def find_media(record: dict, row: dict, files: dict[str, Path] | None) -> str | None:
    """Name the video of a published record in its row; the reason where its file is wanted but absent."""
    if (
        row["segments"]
        or any(row["media"][kind] is not None for kind in MEDIA_KINDS)
        or OWN in (record.get("meta") or {})
    ):
        return None
    stem = name_media(record)
    if files is not None and stem not in files:
        return "no_media_file"
    # unchecked media are named as the other builders name them
    row["media"]["video"] = f"{stem}.mp4" if files is None else str(files[stem])
    return None


def row_to_record(row: dict) -> dict:
    """One row in the published form."""
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
    turns = [{"from": SPEAKERS[message["role"]], "value": message["content"]} for message in row["messages"]]
    return {"id": row["id"], "source": row["source"], "conversations": turns, "meta": meta}


def record_to_row(record: dict, number: int, *, source: str) -> tuple[dict | None, str | None]:
    """`(row, None)`, or `(None, reason)`. Repeated ids of published files get a running number."""
    turns = record.get("conversations") or []
    if not turns or any(turn.get("from") not in ROLES or not turn.get("value") for turn in turns):
        return None, "no_conversation"
    meta = record.get("meta") or {}
    own = meta.get(OWN)
    times = [{"name": name, "seconds": seconds} for name, seconds in (meta.get("token") or {}).items()]
    if any(not isinstance(time["seconds"], (int, float)) for time in times):
        return None, "time_is_not_a_number"
    written = {name for turn in turns for name in TIME_PLACEHOLDER.findall(turn["value"])}
    if written - {time["name"] for time in times}:
        return None, "time_without_seconds"
    segments = read_segments(meta, own)
    if segments is None:
        return None, "clips_and_scales_differ_in_number"
    row = {
        "id": str(record.get("id")) if own else f"{record.get('id', source)}_{number:06d}",
        "source": record.get("source") or source,
        "duration": meta.get("duration"),
        "media": {**dict.fromkeys(MEDIA), **(own["media"] if own else {})},
        "segments": segments,
        "messages": [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in turns],
        "times": times,
    }
    return row, None


def read_segments(meta: dict, own: dict | None) -> list[dict] | None:
    """The composition, or None where its parts do not fit together.

    A published record has no times of its clips: they are 10-s clips, one after the other, each by its scale.
    """
    ids, scales = meta.get("sub_videos") or [], meta.get("scale") or []
    if len(ids) != len(scales):
        return None
    if own:
        starts, ends, captions = own["starts"], own["ends"], own["captions"]
    else:
        ends = np.cumsum([10.0 * scale for scale in scales]).tolist()
        starts, captions = [0.0, *ends[:-1]], [None] * len(ids)
    keys = ("clip_id", "start", "end", "scale", "caption")
    return [dict(zip(keys, values)) for values in zip(ids, starts, ends, scales, captions)]


def name_media(record: dict) -> str:
    """The stem of a record's media file: its id, with start and end where it is an excerpt."""
    split = (record.get("meta") or {}).get("split")
    if isinstance(split, (list, tuple)) and len(split) == 2:
        return f"{record['id']}_{split[0]:.3f}_{split[1]:.3f}"
    return str(record["id"])
