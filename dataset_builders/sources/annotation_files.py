"""Opening annotation files: plain or gzipped text, JSON, JSON lines and csv, each error naming the file.

The one place where an annotation file is opened, so that a git-LFS pointer, a truncated JSON or a csv without the
expected columns is told clearly everywhere. What the records mean is the readers' business (`sources/`).
"""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


GZIP_MAGIC = b"\x1f\x8b"
LFS_POINTER = "version https://git-lfs.github.com/spec/"
READ_SIZE = 1 << 20  # bytes per step of a fingerprint


def as_paths(files: str | Path | Iterable[str | Path] | None) -> list[Path]:
    """One path, several or None as a list of paths, in order. ValueError for a path that is no file."""
    given = [] if files is None else [files] if isinstance(files, (str, Path)) else list(files)
    paths = [Path(path) for path in given]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"no such annotation file: {missing}")
    return paths


def read_text(path: str | Path) -> str:
    """The whole text (UTF-8, a byte order mark dropped) of a plain or gzipped file.

    Raises:
        ValueError: the file is a git-LFS pointer, not the data that it points to.
    """
    data = Path(path).read_bytes()
    if data.startswith(GZIP_MAGIC):
        data = gzip.decompress(data)
    text = data.decode("utf-8-sig")
    if text.startswith(LFS_POINTER):
        fields = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
        raise ValueError(
            f"{path} is a git-LFS pointer, not the data: the real file has {fields.get('size', '?')} bytes "
            f"({fields.get('oid', 'oid unknown')}); fetch it with `git lfs pull` or download it from its release page"
        )
    return text


def read_json(path: str | Path) -> Any:
    """The value of a JSON file. ValueError, naming the file, for what is not JSON."""
    return _parse_json(read_text(path), path)


def _parse_json(text: str, path: str | Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def read_json_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of a JSON list or of JSON lines, whichever the file holds."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        return _parse_json(text, path)
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
    return records


def read_csv(
    path: str | Path, *, columns: Iterable[str], delimiter: str = ",", quotechar: str | None = '"'
) -> Iterator[dict[str, str]]:
    """The rows of a csv file with a header line, by column name.

    Raises:
        ValueError: the header lacks one of `columns`; the message lists what it has.
    """
    quoting = csv.QUOTE_NONE if quotechar is None else csv.QUOTE_MINIMAL
    reader = csv.DictReader(
        io.StringIO(read_text(path), newline=""), delimiter=delimiter, quotechar=quotechar, quoting=quoting
    )
    missing = [column for column in columns if column not in (reader.fieldnames or [])]
    if missing:
        raise ValueError(f"{path} has the columns {reader.fieldnames}, expected {missing} among them")
    yield from reader


def fingerprint(paths: Iterable[str | Path]) -> str:
    """A hash of the files' contents: a changed annotation file must not meet a stale cache of `datasets`."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while block := file.read(READ_SIZE):
                digest.update(block)
        digest.update(b"\0")
    return digest.hexdigest()[:16]
