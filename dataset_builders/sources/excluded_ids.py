"""Reads lists of videos to exclude from training, in their published formats.

The annotation file of an evaluation can be used directly. `ExcludedIds` matches names in different spellings and
counts the matched ids, so that a list without any match can be reported.
"""

import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .annotation_files import read_csv_rows, read_json, read_json_records, read_text
from .clip_ids import excerpt_of, without_media_suffix, youtube_id_of
from .records import UnusableRecord, shorten


# Fields and columns that hold the id of a video, clip or sound, first match wins; compared in lower case, without
# spaces and underscores.
VIDEO_FIELDS = ("videoid", "clipid", "youtubeid", "ytid", "videoname", "imageid", "vid", "video")
ID_FIELDS = (*VIDEO_FIELDS, "audioid", "filename", "id", "ids", "name")
LIST_FIELDS = ("data", "dialogs", "annotations", "videos")  # keys under which an object has its list of records
SUBSET_FIELDS = ("subset", "split")
TRAINING_SUBSETS = ("train", "training")
DELIMITERS = "\t,;&| "  # "&": AVE's annotations
FORMS = (
    "one id, file name or YouTube URL a line; a JSON list of ids or of records; JSON lines; a csv with a header that "
    "names an id column, or with a column of YouTube ids; UnAV-100's, ActivityNet Captions', AVSD's or Charades-STA's "
    "own file"
)


class ExcludedIds:
    """
    Ids of one or more lists, matched in any spelling: as a path or URL, with a media suffix, with ActivityNet's "v_",
    with AudioSet's "Y". The id of a video excludes all its excerpts; an excerpt (`clip_ids.excerpt_of`) excludes the
    excerpts that overlap it.

    >>> excluded = ExcludedIds(["test/-abcdefghij.mp4"])
    >>> excluded.matches(["v_-abcdefghij"]), excluded.matches(["-abcdefghij_5.000_9.500"]), excluded.num_met
    (True, True, 1)
    """

    def __init__(self, ids: Iterable[str] = ()):
        names = list(dict.fromkeys(ids))
        self.num_ids, self._first = len(names), next(iter(names), "")
        self._by_stem: dict[str, list[tuple[tuple[str, ...], str]]] = {}  # stem -> (folders, id)
        self._excerpts: dict[str, list[tuple[float, float, str]]] = {}  # video id -> (start, end, id)
        self._met: set[str] = set()
        for name in names:
            folders, stems = _spellings(name)
            for stem in stems:
                self._by_stem.setdefault(stem, []).append((folders, name))
                if excerpt := excerpt_of(stem):
                    self._excerpts.setdefault(excerpt[0], []).append((*excerpt[1:], name))

    @classmethod
    def from_files(cls, paths: Iterable[str | Path]) -> "ExcludedIds":
        """The ids of all files. Raises ValueError for a file in an unknown format."""
        return cls(name for path in paths for name in read_excluded_ids(path))

    def matches(self, names: Iterable[str | None]) -> bool:
        """Whether any of the names of a video is excluded."""
        met = {excluded for name in names if name for excluded in self._find(name)}
        self._met |= met
        return bool(met)

    def _find(self, name: str) -> Iterator[str]:
        folders, stems = _spellings(name)
        for stem in stems:
            excerpt = excerpt_of(stem)
            for key in (stem, excerpt[0]) if excerpt else (stem,):
                for excluded_folders, excluded in self._by_stem.get(key, ()):
                    num = min(len(folders), len(excluded_folders))  # "a/1.mp4" is "1", but not "b/1.mp4"
                    if folders[len(folders) - num :] == excluded_folders[len(excluded_folders) - num :]:
                        yield excluded
            if excerpt:
                video_id, start, end = excerpt
                for first, last, excluded in self._excerpts.get(video_id, ()):
                    if start < last and first < end:
                        yield excluded

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
                f"The first: {shorten(self._first)}",
                stacklevel=2,
            )


def _spellings(name: str) -> tuple[tuple[str, ...], set[str]]:
    """The folders of a name, and the spellings of its last part without media suffix."""
    *folders, stem = without_media_suffix(name).replace("\\", "/").split("/")
    stems = {stem, stem.removeprefix("v_")}
    youtube_id = youtube_id_of(name)
    if youtube_id is not None and excerpt_of(stem) is None:  # an excerpt is not its whole video
        stems.add(youtube_id)
    is_url = "//" in name
    return () if is_url else tuple(part for part in folders if part not in ("", ".")), stems


def read_excluded_ids(path: str | Path, *, with_training: bool = False) -> list[str]:
    """
    The ids of one list, in its order, plain or gzipped.

    Args:
        with_training: also those of records whose subset or split is training. By default they are skipped: the list
            is used to exclude evaluation videos from training.

    Raises:
        ValueError: a file without ids, or in an unknown format; the message lists the known formats.
    """
    text = read_text(path)
    is_json = text.lstrip()[:1] in ("[", "{") or re.match(r'\s*"[^"\n]*"\s*\r?\n\s*"', text) is not None
    records = _json_records(path) if is_json else _text_records(path, text)
    ids = [name.strip() for name, is_training in records if name.strip() and (with_training or not is_training)]
    if not ids:
        raise ValueError(f"{path} has no ids" + ("" if with_training else " but those of training videos, if any"))
    return ids


def _json_records(path: str | Path) -> Iterator[tuple[str, bool]]:
    """(id, whether it is in the training part) of each record of a JSON file."""
    try:
        content = read_json(path)
    except ValueError:  # JSON lines; the line reader reports errors in them
        content = read_json_records(path)
    if _find_id(content) is not None:  # JSON lines with one line
        content = [content]
    for name in ("database", *LIST_FIELDS):
        if isinstance(content, dict) and isinstance(content.get(name), (dict, list)):
            content = content[name]
            break
    if isinstance(content, list):
        yield from ((_id_of(path, record), _is_training(record)) for record in content)
        return
    values = list(content.values())
    if values and all(isinstance(value, list) for value in values):  # WavCaps' list of lists, or lists by split
        for key, names in content.items():
            yield from ((_listed_id(path, name), key.casefold() in TRAINING_SUBSETS) for name in names)
    elif values and all(isinstance(value, dict) for value in values):
        for name, record in content.items():
            yield _find_id(record, VIDEO_FIELDS) or str(name), _is_training(record)
    else:
        raise ValueError(f"{path} is not a list of ids: {FORMS}")


def _listed_id(path: str | Path, record: Any) -> str:
    """The id of an entry of an object of lists, which may also be one of captions by video id."""
    name = _id_of(path, record)
    if isinstance(record, str) and " " in name.strip() and without_media_suffix(name) == name:
        raise ValueError(f"{path}: {shorten(name)} is not an id but a text; known forms: {FORMS}")
    return name


def _is_training(record: Any) -> bool:
    if not isinstance(record, dict):
        return False
    subsets = (record.get(key) for key in SUBSET_FIELDS)
    return any(isinstance(subset, str) and subset.casefold() in TRAINING_SUBSETS for subset in subsets)


def _key(name: str) -> str:
    return re.sub(r"[\s_#]", "", name.casefold())


def _find_id(record: Any, fields: tuple[str, ...] = ID_FIELDS) -> str | None:
    if isinstance(record, (str, int)) and not isinstance(record, bool):
        return str(record)
    if isinstance(record, dict):
        given = {_key(name): value for name, value in record.items() if isinstance(value, (str, int))}
        return next((str(given[name]) for name in fields if name in given), None)
    return None


def _id_of(path: str | Path, record: Any) -> str:
    name = _find_id(record)
    if name is None:
        raise ValueError(f"{path}: a record without an id: {shorten(record)}; known forms: {FORMS}")
    return name


def _text_records(path: str | Path, text: str) -> Iterator[tuple[str, bool]]:
    """(id, whether it is in the training part) of each line of a text file."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip() and not line.startswith("# ")]
    if not lines:
        return
    for delimiter in DELIMITERS:
        header = [_key(cell.strip().strip('"')) for cell in lines[0].split(delimiter)]
        column = next((header.index(name) for name in ID_FIELDS if name in header), None)
        if column is not None and (len(header) > 1 or delimiter == DELIMITERS[-1]):
            yield from _csv_records(path, delimiter, header, column)
            return
    lines = [line.strip('"') if line.count('"') == 2 else line for line in lines]
    if all(re.fullmatch(r"\S+ [\d.]+ [\d.]+##.*", line) for line in lines):
        yield from ((line.split(" ")[0], False) for line in lines)
    elif all(without_media_suffix(line) != line or youtube_id_of(line) for line in lines):
        yield from ((line, False) for line in lines)
    elif (found := _youtube_column(lines)) is not None:  # a csv without a header, as AudioSet's and VGGSound's
        delimiter, column = found
        for cells in ([cell.strip().strip('"') for cell in line.split(delimiter)] for line in lines):
            yield cells[column], cells[-1].casefold() in TRAINING_SUBSETS
    elif not any(set(line) & set(",\t;&{}<>") for line in lines):
        yield from ((line, False) for line in lines)
    else:
        raise ValueError(f"{path} is not a list of ids: {FORMS}; its first line: {shorten(lines[0])}")


def _csv_records(path: str | Path, delimiter: str, header: list[str], column: int) -> Iterator[tuple[str, bool]]:
    subset = next((header.index(name) for name in SUBSET_FIELDS if name in header), None)
    for line, fields in list(read_csv_rows(path, delimiter=delimiter))[1:]:
        if len(fields) <= column:
            raise ValueError(f"{path}, line {line}: {len(fields)} fields, the id is in column {column + 1}")
        is_training = subset is not None and len(fields) > subset and fields[subset].casefold() in TRAINING_SUBSETS
        yield fields[column], is_training


def _youtube_column(lines: list[str]) -> tuple[str, int] | None:
    """The delimiter and the column in which every line has a YouTube id, if there is one."""
    for delimiter in DELIMITERS:
        rows = [[cell.strip().strip('"') for cell in line.split(delimiter)] for line in lines]
        for column in range(min(map(len, rows)) if len(rows[0]) > 1 else 0):
            if all(youtube_id_of(row[column]) for row in rows):
                return delimiter, column
    return None
