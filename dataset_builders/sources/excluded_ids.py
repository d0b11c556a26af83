"""Reads lists of videos to exclude from training, in their published formats.

The annotation file of an evaluation can be used directly. `ExcludedIds` matches names in different spellings and
counts the matched ids, so that a list without any match can be reported.
"""

import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .annotation_files import read_csv_rows, read_json, read_json_records, read_lines, read_text
from .clip_ids import without_media_suffix, youtube_id_of
from .records import UnusableRecord, shorten


# Fields and columns that hold the id of a video, clip or sound, first match wins.
ID_FIELDS = (
    "video_id", "clip_id", "youtube_id", "ytid", "video_name", "image_id", "vid", "video", "audio_id", "file_name",
    "filename", "YoutubeID", "YTID", "id", "ids", "name",
)  # fmt: skip
LIST_FIELDS = ("data", "dialogs", "annotations", "videos")  # keys under which an object has its list of records
TRAINING_SUBSETS = ("train", "training")
FORMS = (
    "one id a line; a JSON list of ids or of records; JSON lines; a csv with a header that names an id column; "
    "UnAV-100's, ActivityNet Captions', AVSD's or Charades-STA's own file"
)


class ExcludedIds:
    """
    Ids of one or more lists, matched with and without media suffix and ActivityNet's "v_".

    >>> excluded = ExcludedIds(["-abcdefghij.mp4"])
    >>> excluded.matches(["v_-abcdefghij"]), excluded.num_met
    (True, 1)
    """

    def __init__(self, ids: Iterable[str] = ()):
        self._ids = {spelling: name for name in dict.fromkeys(ids) for spelling in _spellings(name)}
        self.num_ids = len(set(self._ids.values()))
        self._met: set[str] = set()

    @classmethod
    def from_files(cls, paths: Iterable[str | Path]) -> "ExcludedIds":
        """The ids of all files. Raises ValueError for a file in an unknown format."""
        return cls(name for path in paths for name in read_excluded_ids(path))

    def matches(self, names: Iterable[str | None]) -> bool:
        """Whether any of the names of a video is excluded."""
        met = {self._ids[one] for name in names if name for one in _spellings(name) if one in self._ids}
        self._met |= met
        return bool(met)

    def check(self, names: Iterable[str | None]) -> None:
        """Raises `UnusableRecord`, "excluded_id", if any of the names of a video is excluded."""
        if self.matches(names):
            raise UnusableRecord(None, "excluded_id")

    @property
    def num_met(self) -> int:
        """Number of ids matched so far."""
        return len(self._met)

    def warn_if_unmet(self, setting: str) -> None:
        """A warning if there are ids but none was matched, which is probably the wrong list."""
        if self.num_ids and not self._met:
            warnings.warn(
                f"none of the {self.num_ids} ids of {setting} occurs in the data: nothing was excluded. "
                f"The first: {shorten(next(iter(self._ids.values())))}",
                stacklevel=2,
            )


def _spellings(name: str) -> set[str]:
    stem = without_media_suffix(name)
    return {name, stem, stem.removeprefix("v_")}


def read_excluded_ids(path: str | Path) -> list[str]:
    """
    The ids of one list, in its order, plain or gzipped.

    Of UnAV-100's annotations, and of any file whose records name a subset, the training videos are skipped: the list
    is used to exclude evaluation videos from training.

    Raises:
        ValueError: a file without ids, or in an unknown format; the message lists the known formats.
    """
    text = read_text(path)
    ids = _json_ids(path) if text.lstrip()[:1] in ("[", "{") else _text_ids(path)
    ids = [name.strip() for name in ids if name.strip()]
    if not ids:
        raise ValueError(f"{path} has no ids")
    return ids


def _json_ids(path: str | Path) -> list[str]:
    try:
        content = read_json(path)
    except ValueError:  # JSON lines; the line reader reports errors in them
        content = read_json_records(path)
    if _find_id(content) is not None:  # JSON lines with one line
        return [_id_of(path, content)]
    if isinstance(content, list):
        return [_id_of(path, record) for record in content if not _is_training(record)]
    if isinstance(content.get("database"), dict):
        content = content["database"]
    values = list(content.values())
    if values and all(isinstance(value, list) for value in values) and not set(content) & set(LIST_FIELDS):
        return [_id_of(path, name) for value in values for name in value]  # WavCaps' list of lists
    records = next((content[name] for name in LIST_FIELDS if isinstance(content.get(name), list)), None)
    if records is not None:
        return [_id_of(path, record) for record in records if not _is_training(record)]
    if values and all(isinstance(value, dict) for value in values):
        return [str(name) for name, record in content.items() if not _is_training(record)]
    raise ValueError(f"{path} is not a list of ids: {FORMS}")


def _is_training(record: Any) -> bool:
    return isinstance(record, dict) and record.get("subset") in TRAINING_SUBSETS


def _find_id(record: Any) -> str | None:
    if isinstance(record, (str, int)) and not isinstance(record, bool):
        return str(record)
    if isinstance(record, dict):
        found = (record[name] for name in ID_FIELDS if isinstance(record.get(name), (str, int)))
        return next((str(value) for value in found), None)
    return None


def _id_of(path: str | Path, record: Any) -> str:
    name = _find_id(record)
    if name is None:
        raise ValueError(f"{path}: a record without an id: {shorten(record)}; known forms: {FORMS}")
    return name


def _text_ids(path: str | Path) -> Iterator[str]:
    lines = [line.strip() for _, line in read_lines(path) if not line.startswith("# ")]
    if not lines:
        return
    delimiter = "\t" if "\t" in lines[0] else ","
    header = [cell.strip().strip('"') for cell in lines[0].split(delimiter)]
    column = next((header.index(name) for name in ID_FIELDS if name in header), None)
    if column is not None:
        for line, fields in list(read_csv_rows(path, delimiter=delimiter))[1:]:
            if len(fields) <= column:
                raise ValueError(f"{path}, line {line}: {len(fields)} fields, the id is in column {column + 1}")
            yield fields[column]
    elif all(re.fullmatch(r"\S+ [\d.]+ [\d.]+##.*", line) for line in lines):
        yield from (line.split(" ")[0] for line in lines)
    elif not any(set(line) & set(",\t;&{}<>") for line in lines) or all(
        without_media_suffix(line) != line for line in lines
    ):
        yield from lines
    elif all(youtube_id_of(line.split(delimiter)[0]) for line in lines):  # a csv without a header, as AudioSet's
        yield from (line.split(delimiter)[0] for line in lines)
    else:
        raise ValueError(f"{path} is not a list of ids: {FORMS}; its first line: {shorten(lines[0])}")
