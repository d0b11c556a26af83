"""Writes the rejected answers of rows in the form that trl's preference training (DPO) reads.

    {"id", "reason", "prompt": [user message], "chosen": [assistant message], "rejected": [assistant message],
     "duration", "media", "segments"}

One pair of answers to one question a line, as JSON lines. Messages are conversational (`role`, `content`), and a
`<video>` in the text marks the medium. `media` and `segments` are the columns of `schema.FEATURES`. `sharegpt.py`
writes rows for supervised training.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..atomic_files import atomic_path
from .rows import Row, without_media
from .text_cleaning import TIME_PLACEHOLDER


TIMES = ("digits", "seconds")
VIDEO = "<video>\n"  # before the question


def write_preferences(rows: Iterable[Row], path: str | Path, *, times: str = "digits") -> int:
    """Writes the pairs of rows with the column `rejected` (`pu_valor` with `preferences`) as JSON lines.

    Args:
        rows: rows of `schema.with_rejected`; other columns are not read.
        path: the file to write.
        times (*optional*): `"digits"` writes times as this project's models say them, 00 to 99 of the duration;
            `"seconds"` as `12.3 s`, for other models.

    Returns:
        The number of pairs.

    Raises:
        ValueError: unknown `times`, a row without the column `rejected`, or no pair in any row. No file is left.
    """
    if times not in TIMES:
        raise ValueError(f"times must be one of {TIMES}, got {times!r}")
    path, num_pairs = Path(path), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row in without_media(rows):
            for pair in list_pairs(row, times=times):
                file.write(json.dumps(pair, ensure_ascii=False) + "\n")
                num_pairs += 1
        if not num_pairs:
            raise ValueError("no row has a rejected answer: build with preferences=True and grounding questions")
    return num_pairs


def list_pairs(row: Row, *, times: str = "digits") -> Iterator[dict]:
    """The pairs of one row; see `write_preferences`."""
    if "rejected" not in row:
        raise ValueError(f"row {row['id']!r} has no column 'rejected': build with preferences=True")
    messages = [write_times(m["content"], row["times"], row["duration"], times) for m in row["messages"]]
    for rejected in row["rejected"]:
        question, answer = messages[2 * rejected["turn"]], messages[2 * rejected["turn"] + 1]
        wrong = write_times(rejected["content"], rejected["times"], row["duration"], times)
        if wrong == answer:  # the two differ by less than one step of the digits
            continue
        yield {
            "id": f"{row['id']}/{rejected['turn']}",
            "reason": rejected["reason"],
            "prompt": [{"role": "user", "content": VIDEO + question.removeprefix(VIDEO)}],
            "chosen": [{"role": "assistant", "content": answer}],
            "rejected": [{"role": "assistant", "content": wrong}],
            "duration": row["duration"],
            "media": row["media"],
            "segments": row["segments"],
        }


def write_times(text: str, named: list[dict], duration: float, times: str) -> str:
    """The text with the value of each placeholder of a time."""
    seconds = {time["name"]: time["seconds"] for time in named}
    if times == "seconds":
        return TIME_PLACEHOLDER.sub(lambda match: f"{seconds[match[0]]:.1f} s", text)
    from modeling_avicuna.timestamp_avicuna import DEFAULT_CODEC

    return TIME_PLACEHOLDER.sub(lambda match: DEFAULT_CODEC.encode(seconds[match[0]], duration), text)
