"""Opens annotation files: plain or gzipped text, JSON, JSON lines and csv.

Every reader of `sources/` opens its file here, so an unreadable file (a git-LFS pointer, a truncated gzip, invalid
JSON, an unclosed quote) raises a ValueError that names it. The readers interpret the records.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .records import Drop, refuse


GZIP_MAGIC = b"\x1f\x8b"
LFS_POINTER = "version https://git-lfs.github.com/spec/"
# A quoted field over more lines than this is treated as an unclosed quote (our choice; real captions have up to
# three).
MAX_LINES_PER_ROW = 10
BLOCK_BYTES = 2**20  # read at a time for a hash


def as_paths(files: str | Path | Iterable[str | Path] | None, *, kind: str = "annotation") -> list[Path]:
    """One path, several or None as a list of paths, in order. ValueError, "no such <kind> file", for a missing
    file."""
    given = [] if files is None else [files] if isinstance(files, (str, Path)) else list(files)
    paths = [Path(path) for path in given]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"no such {kind} file: {missing}")
    return paths


def read_text(path: str | Path) -> str:
    """The text of a plain or gzipped file: UTF-8, or UTF-16 or UTF-32 with a byte order mark, which is removed.

    Raises:
        ValueError: a damaged gzip file, another encoding, or a git-LFS pointer instead of the data.
    """
    data = Path(path).read_bytes()
    if data.startswith(GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file: {error}") from error
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
    marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((name for mark, name in marks.items() if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not {encoding.removesuffix('-sig').upper()} text: {error}") from error
    if text.startswith(LFS_POINTER):
        fields = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
        raise ValueError(
            f"{path} is a git-LFS pointer, not the data: the real file has {fields.get('size', '?')} bytes "
            f"({fields.get('oid', 'oid unknown')}); fetch it with `git lfs pull` or download it from its release page"
        )
    return text


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line that is not blank; a line ends at "\\n" alone, as in JSON lines."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def read_json(path: str | Path) -> Any:
    """The value of a JSON file. Raises ValueError, naming the file, for anything else."""
    return _parse_json(read_text(path), str(path))


def read_object(path: str | Path) -> dict[str, Any]:
    """The object of a JSON file. Raises ValueError, naming the file, for anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object, but {type(value).__name__}")
    return value


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for an integer of too many digits
        raise ValueError(f"{where} is not JSON: {error}") from error


def read_json_records(path: str | Path) -> list[Any]:
    """The records of a JSON list or of JSON lines, whichever the file contains."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        return _parse_json(text, str(path))
    return [_parse_json(line, f"{path}, line {number}") for number, line in read_lines(path)]


def read_csv(
    path: str | Path,
    *,
    columns: Iterable[str],
    drop: Drop | None = None,
    delimiter: str = ",",
    quotechar: str | None = '"',
) -> Iterator[dict[str, str]]:
    """The rows of a csv file with a header line, by column name.

    A row with more or fewer fields than the header is dropped as "malformed_row"; without `drop` it is an error.

    Raises:
        ValueError: the header lacks one of `columns`, a quoted field does not end, or no row has the header's fields.
    """
    rows = read_csv_rows(path, delimiter=delimiter, quotechar=quotechar)
    _, header = next(rows, (0, []))
    missing = [column for column in columns if column not in header]
    if missing:
        raise ValueError(f"{path} has the columns {header}, expected {missing} among them")
    num_rows = num_malformed = 0
    for line, fields in rows:
        if len(fields) == len(header):
            num_rows += 1
            yield dict(zip(header, fields))
        else:
            num_malformed += 1
            (drop or refuse(path))(f"line {line}", "malformed_row", f"{len(fields)} fields, {len(header)} expected")
    if num_malformed and not num_rows:
        raise ValueError(f"{path} has no row with the {len(header)} fields of its header")


def read_csv_rows(
    path: str | Path, *, delimiter: str = ",", quotechar: str | None = '"', skip_spaces: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, fields) of each row of a csv file that is not blank.

    Raises:
        ValueError: a quoted field that does not end, or one over more than `MAX_LINES_PER_ROW` lines; the message has
            the line on which it begins.
    """
    reader = csv.reader(
        io.StringIO(read_text(path), newline=""),
        delimiter=delimiter,
        quotechar=quotechar,
        quoting=csv.QUOTE_NONE if quotechar is None else csv.QUOTE_MINIMAL,
        skipinitialspace=skip_spaces,
        strict=True,
    )
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}, line {line}: {error} (a quote that is not closed?)") from error
        if fields is None:
            return
        if reader.line_num - line >= MAX_LINES_PER_ROW:
            raise ValueError(f"{path}, line {line}: a quoted field of {reader.line_num - line + 1} lines, not closed?")
        if fields:
            yield line, fields


def fingerprint(paths: Iterable[str | Path]) -> str:
    """16 hexadecimal digits of the files' contents: a changed annotation file must not reuse an old cache."""
    digest = hashlib.sha256()
    for path in paths:
        add_file(digest, path)
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def add_file(digest: "hashlib._Hash", path: str | Path) -> None:
    """Updates a hash with the content of a file, which may be larger than the memory."""
    with Path(path).open("rb") as file:
        for block in iter(partial(file.read, BLOCK_BYTES), b""):
            digest.update(block)
