"""Checks the conversations of training rows when they are loaded, so that a bad row does not end a training later.

`training_rows.py` checks the columns and their types before.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from dataset_builders.schema import MEDIA_KINDS
from dataset_builders.sources.text_cleaning import MEDIA_PLACEHOLDER, TIME_PLACEHOLDER
from dataset_builders.sources.timed_events import DURATION_TOLERANCE, RELATIVE_DURATION_TOLERANCE


MESSAGE, TIME = ("role", "content"), ("name", "seconds")
ROLES = ("system", "user", "assistant")


def check_conversations(rows: Dataset):
    """
    Args:
        rows: with the columns of `dataset_builders.schema`.

    Raises:
        ValueError: a row with another role, without an answer or with an empty one; with media but no placeholder for
            them, or the reverse; about an empty part of a file; or with a time that has no value, is outside of the
            duration, or ends before it starts. The message has the number of rows and the first id.
    """
    found: dict[str, list[str]] = defaultdict(list)  # problem -> ids of rows
    for row_id, problem in (pair for batch in rows.data.to_batches() for pair in find_problems(batch)):
        found[problem].append(row_id)
    for problem, ids in found.items():
        raise ValueError(f"{len(ids)} of {len(rows)} rows {problem}, the first: {ids[0]!r}")


def find_problems(batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
    """(id, problem) of each row that has one; the first one of a row counts."""
    messages, times = (list_values(batch[name], keys) for name, keys in (("messages", MESSAGE), ("times", TIME)))
    media = [pc.is_valid(pc.struct_field(batch["media"], kind)).to_pylist() for kind in MEDIA_KINDS]
    part = [pc.struct_field(batch["media"], name).to_pylist() for name in ("start", "end")]
    is_composed = pc.greater(pc.list_value_length(batch["segments"]), 0).to_pylist()
    columns = (batch["id"].to_pylist(), batch["duration"].to_pylist(), messages, times, is_composed, *part)
    for row_id, duration, said, named, composed, start, end, *given in zip(*columns, *media):
        kinds = {kind for kind, is_given in zip(MEDIA_KINDS, given) if is_given} | ({"video"} if composed else set())
        problem = find_problem(said, duration=duration, times=dict(named), media=kinds)
        if not 0 <= (start or 0.0) < (math.inf if end is None else end):
            problem = f"use the part from {start} s to {end} s of their file"
        if problem is not None:
            yield row_id, problem


def list_values(column: Any, keys: tuple[str, ...]) -> list[list[tuple]]:
    """For each row of a column of lists of objects, the values of `keys` of each object."""
    ends = pc.cumulative_sum(pc.fill_null(pc.list_value_length(column), 0)).to_pylist()
    flat = pc.list_flatten(column)
    values = list(zip(*(pc.struct_field(flat, key).to_pylist() for key in keys)))
    return [values[begin:end] for begin, end in zip([0, *ends], ends)]


def find_problem(
    messages: list[tuple[str, str]], *, duration: float | None, times: dict[str, float], media: set[str]
) -> str | None:
    """What is wrong with one row, or None; `messages` are (role, content) pairs, `media` the kinds it has."""
    if wrong := [role for role, _ in messages if role not in ROLES]:
        return f"have the role {wrong[0]!r}; known are {', '.join(ROLES)}"
    answers = [content for role, content in messages if role == "assistant"]
    if not answers:
        return "have no answer (a message of the role 'assistant')"
    if any(content is None for _, content in messages) or not all(answer.strip() for answer in answers):
        return "have a message without content"
    text = "".join(content for _, content in messages if "<" in content)
    slots = {slot[1:-1] for slot in MEDIA_PLACEHOLDER.findall(text)}
    if media and not slots:
        return "have media, but no <video>, <audio> or <image> in their messages"
    if missing := sorted(slots - media):
        return f"have <{missing[0]}> in their messages, but no {missing[0]} in their media"
    named = set(TIME_PLACEHOLDER.findall(text))
    if missing := sorted(named - set(times)):
        return f"have {missing[0]} in their messages, but not in their times"
    if not named:
        return None
    if duration is None or duration <= 0:
        return "have times in their messages, but no positive duration"
    latest = duration + max(DURATION_TOLERANCE, RELATIVE_DURATION_TOLERANCE * duration)
    if not all(0 <= times[name] <= latest for name in named):
        return "have a time before 0 or after their duration"
    if any(times[name] > times.get(f"<e{name[2:]}", math.inf) for name in named if name.startswith("<s")):
        return "have a span that ends before it starts"
    return None
