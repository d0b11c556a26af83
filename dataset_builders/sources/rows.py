"""Makes one row of the schema from plain values.

Used by all builders of published annotations. Time placeholders are checked against the times; media files are not
opened.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from ..schema import FEATURES
from .text_cleaning import TIME_PLACEHOLDER


Row = dict[str, Any]


def make_row(
    row_id: str,
    *,
    source: str,
    turns: Sequence[tuple[str, str]],
    video: str | None = None,
    audio: str | None = None,
    image: str | None = None,
    start: float | None = None,
    end: float | None = None,
    duration: float | None = None,
    times: Mapping[str, float] | None = None,
) -> Row:
    """One row of `schema.FEATURES` from (question, answer) turns.

    The first message begins with the media placeholder on a separate line.

    Args:
        start: start of the used part of the file, in seconds; None: the start of the file.
        end: end of that part, in seconds; None: the end of the file.
        duration: seconds of that part; None for images and for sources without durations and times.
        times: seconds relative to `start`, by placeholder name without brackets ("s0": 3.5).

    Raises:
        ValueError: not exactly one media file, no turn, a part that is empty or begins before 0, or placeholders that
            do not match `times`.
    """
    media = {"video": video, "audio": audio, "image": image}
    given = [kind for kind, path in media.items() if path is not None]
    if not 0.0 <= (start or 0.0) < (math.inf if end is None else end):
        raise ValueError(f"row {row_id!r} is about the part from {start} s to {end} s of its file")
    if len(given) != 1 or not turns:
        raise ValueError(f"row {row_id!r} has the media {given} and {len(turns)} turns, expected one medium, one turn")
    messages = []
    for number, (question, answer) in enumerate(turns):
        content = f"<{given[0]}>\n{question}" if number == 0 else question
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    times = times or {}
    named = {name[1:-1] for message in messages for name in TIME_PLACEHOLDER.findall(message["content"])}
    if named != set(times):
        raise ValueError(f"row {row_id!r} names the times {sorted(named)} but gives {sorted(times)}")
    return {
        "id": row_id,
        "source": source,
        "duration": duration,
        "media": {**media, "start": start, "end": end},
        "segments": [],
        "messages": messages,
        "times": [{"name": f"<{name}>", "seconds": seconds} for name, seconds in times.items()],
    }


def of_file(rows: Iterable[Row], number: int) -> Iterator[Row]:
    """Rows of the `number`-th annotation file: "@1", "@2", ... is appended to the ids of all but the first file."""
    for row in rows:
        yield row if number == 0 else {**row, "id": f"{row['id']}@{number}"}


def without_media(rows: Any) -> Iterable[Row]:
    """The rows; those of a `datasets.Dataset` with our columns only, so that a rendered set needs no video decoder."""
    if not hasattr(rows, "select_columns"):
        return rows
    has_rejected = "rejected" in (rows.column_names or ())
    return rows.select_columns([*FEATURES, "rejected"] if has_rejected else list(FEATURES))


def write_records(rows: Iterable[Row], file: TextIO, convert: Callable[[Row], dict]) -> int:
    """Writes `convert(row)` of each row as a JSON list with one record per line; returns the number of rows."""
    num_rows = 0
    for row in without_media(rows):
        file.write((",\n" if num_rows else "[\n") + json.dumps(convert(row), ensure_ascii=False))
        num_rows += 1
    file.write("\n]\n" if num_rows else "[]\n")
    return num_rows
