"""Typed access to the fields of published records, and handling of records that cannot be used.

Code that finds a record unusable raises `UnusableRecord` with the reason. Training drops the record and counts the
reason (`count_drop`, `count_in`); an evaluation rejects the file (`refuse`). The readers of published files accept
`count_in` or `refuse` as their argument `drop`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from .record_report import RecordReport


Drop = Callable[[str, str, Any], None]  # record id, reason, detail
Parsed = TypeVar("Parsed")
# Reasons which mean that a record does not belong to this data set.
FORM_REASONS = frozenset({"malformed_record", "malformed_line", "malformed_row", "unknown_form"})


class UnusableRecord(ValueError):
    """A record that is not used.

    detail: what the report lists beside the record; None: nothing.
    reason (`str`): snake_case identifier under which the record is counted; by default, a wrong format.
    """

    def __init__(self, detail: Any, reason: str = "malformed_record"):
        super().__init__(detail)
        self.detail, self.reason = detail, reason


def refuse(path: str | Path) -> Drop:
    """A `drop` that raises ValueError with the name of the file and the record."""

    def drop(record_id: str, reason: str, detail: Any) -> None:
        raise ValueError(f"{path}: {record_id}: {reason} ({detail})")

    return drop


@contextmanager
def count_drop(
    report: RecordReport, source: str, record_id: str, *, detail: Any = None, num: int = 1
) -> Iterator[None]:
    """Counts `num` records as dropped if the body raises `UnusableRecord`; `detail` is used if the error has none."""
    try:
        yield
    except UnusableRecord as error:
        report.drop(source, record_id, error.reason, detail=detail if error.detail is None else error.detail, num=num)


def count_in(report: RecordReport, source: str) -> Drop:
    """A `drop` that counts the record as read and dropped."""

    def drop(record_id: str, reason: str, detail: Any) -> None:
        report.read(source)
        report.drop(source, record_id, reason, detail=detail)

    return drop


def parse_each(
    path: str | Path, records: Iterable[tuple[str, Any]], parse: Callable[[Any], Parsed], drop: Drop
) -> Iterator[Parsed]:
    """`parse` of each (name, record) pair; a record that raises `UnusableRecord` is dropped under its name.

    Raises:
        ValueError: there are records and all of them are malformed, so the file has another format.
    """
    is_of_form, first = False, None
    for name, record in records:
        try:
            parsed = parse(record)
        except UnusableRecord as error:
            first = first or error
            is_of_form = is_of_form or error.reason not in FORM_REASONS
            drop(name, error.reason, error.detail)
            continue
        is_of_form = True
        yield parsed
    if first is not None and not is_of_form:
        raise ValueError(f"{path} has no record of the expected form; the first: {first}")


def numbered(path: str | Path, records: Any) -> Iterator[tuple[str, Any]]:
    """("record 0", record), ... of a list. ValueError, naming the file, for a value that is not a list."""
    if not isinstance(records, list):
        raise ValueError(f"{path} does not hold a list of records but {shorten(records)}")
    return ((f"record {number}", record) for number, record in enumerate(records))


def named(path: str | Path, records: Any) -> Iterator[tuple[str, Any]]:
    """(key, (key, value)) of an object. ValueError, naming the file, for a value that is not an object."""
    if not isinstance(records, dict):
        raise ValueError(f"{path} does not hold an object of records but {shorten(records)}")
    return ((shorten(key), (key, value)) for key, value in records.items())


def member(path: str | Path, content: Any, key: str, form: str) -> Any:
    """`content[key]`. Raises ValueError with the file and the format if the key is missing."""
    if not isinstance(content, dict) or key not in content:
        raise ValueError(f"{path} is not in {form}'s form: no {key!r} at the top level")
    return content[key]


def field_of(record: Any, key: str) -> Any:
    """The value of a field, whatever its type."""
    value = optional_of(record, key)
    if value is None:
        raise UnusableRecord(f"{key} is {'null' if key in record else 'not among ' + str(list(record))}"[:200])
    return value


def optional_of(record: Any, key: str) -> Any:
    """The value of a field, None if there is no such field."""
    if not isinstance(record, dict):
        raise UnusableRecord(f"an object was expected, got {shorten(record)}")
    return record.get(key)


def text_of(record: Any, key: str) -> str:
    """A text, or an integer converted to text: ids and answers occur in both forms."""
    return as_text(field_of(record, key), key)


def as_text(value: Any, name: str) -> str:
    """`value` as text, as `text_of` accepts it."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise UnusableRecord(f"{name} is not a text: {shorten(value)}")
    if is_broken(value):
        raise UnusableRecord(f"{name} has half of a surrogate pair: {value[:40]!a}")
    return value


def is_broken(text: str) -> bool:
    """Whether a text has an unpaired surrogate, which cannot be encoded as UTF-8."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def list_of(record: Any, key: str) -> list[Any]:
    """A list."""
    value = field_of(record, key)
    if not isinstance(value, list):
        raise UnusableRecord(f"{key} is not a list: {shorten(value)}")
    return value


def number_of(record: Any, key: str) -> float:
    """A finite number; reason "time_is_not_a_number" for anything else."""
    return as_number(field_of(record, key), key)


def as_number(value: Any, name: str) -> float:
    """`value`, a number or its text, as a finite float."""
    number = read_number(value)
    if number is None:
        raise UnusableRecord(f"{name} is not a number: {shorten(value)}", "time_is_not_a_number")
    return number


def read_number(value: Any) -> float | None:
    """`value`, a number or its text, as a finite float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or "_" in str(value):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_span(value: Any) -> tuple[float, float]:
    """[start, end] as two finite floats."""
    if not isinstance(value, list) or len(value) != 2:
        raise UnusableRecord(f"a pair of times was expected, got {shorten(value)}")
    return as_number(value[0], "start"), as_number(value[1], "end")


def shorten(value: Any) -> str:
    """`value` for an error message or a report: printable, 60 characters at most."""
    text = (
        repr(value)
        if not isinstance(value, int) or abs(value) < 1 << 64
        else f"an integer of {value.bit_length()} bits"
    )
    return ascii(text)[1:-1][:60] if not text.isascii() else text[:60]
