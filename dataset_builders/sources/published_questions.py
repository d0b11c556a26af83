"""Readers of the published files of questions about videos: AVSD, MUSIC-AVQA, ActivityNet-QA, MSVD-QA and MSR-VTT-QA.

Records are kept as published: tokenized text, repeated questions, missing answers. Training cleans them
(`questions.py`); the evaluation uses the answers as references. Malformed records are passed to `drop`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .annotation_files import read_json
from .records import (
    Drop,
    UnusableRecord,
    as_text,
    field_of,
    list_of,
    member,
    numbered,
    optional_of,
    parse_each,
    text_of,
)


UNDISCLOSED = "__undisclosed__"  # the answer in the AVSD test set of the challenge, case-insensitive
# ActivityNet-QA's question types 0-8, in the order of its paper.
ACTIVITYNET_QA_TYPES = (
    "motion",
    "spatial relation",
    "temporal relation",
    "yes/no",
    "color",
    "object",
    "location",
    "number",
    "other",
)


@dataclass(frozen=True)
class AskedQuestion:
    """A question about a video and its answer; `kind` is the data set's question type, None if it has no types."""

    question_id: str
    video_id: str
    question: str
    answer: str
    kind: str | None = None


@dataclass(frozen=True)
class Dialog:
    """An AVSD dialog: (question, answer) turns about one video, in order."""

    video_id: str
    turns: tuple[tuple[str, str], ...]


def read_avsd(path: str | Path, *, drop: Drop) -> Iterator[Dialog]:
    """AVSD's (DSTC7) dialogs, tokenized and in lower case as published; several may be about one video."""

    def parse(record: Any) -> Dialog:
        turns = tuple((text_of(turn, "question"), text_of(turn, "answer")) for turn in list_of(record, "dialog"))
        if not turns:
            raise UnusableRecord("dialog is empty")
        return Dialog(text_of(record, "image_id"), turns)

    return parse_each(path, numbered(path, member(path, read_json(path), "dialogs", "AVSD")), parse, drop)


def read_music_avqa(path: str | Path, *, drop: Drop) -> Iterator[AskedQuestion]:
    """Every question of a MUSIC-AVQA file in file order, including repeated ones: template filled in, underscores in
    answers replaced by spaces.

    `kind` joins modality and type, as in "Audio Counting". Questions marked as deleted are skipped.
    """

    def parse(record: Any) -> AskedQuestion | None:
        if field_of(record, "question_deleted"):
            return None
        try:
            kind, values = json.loads(text_of(record, "type")), json.loads(text_of(record, "templ_values"))
        except (json.JSONDecodeError, RecursionError) as error:
            raise UnusableRecord(f"type or templ_values is not JSON: {error}") from error
        if not isinstance(kind, list) or not isinstance(values, list):
            raise UnusableRecord(f"type or templ_values is not a list: {kind!r}, {values!r}"[:120])
        question = fill_template(text_of(record, "question_content"), [as_text(value, "value") for value in values])
        return AskedQuestion(
            question_id=text_of(record, "question_id"),
            video_id=text_of(record, "video_id"),
            question=question,
            answer=text_of(record, "anser").replace("_", " "),  # the key's spelling in the published files
            kind=" ".join(as_text(part, "type") for part in kind),
        )

    asked = parse_each(path, numbered(path, read_json(path)), parse, drop)
    return (question for question in asked if question is not None)


def fill_template(template: str, values: Sequence[str]) -> str:
    """A MUSIC-AVQA question with its placeholders (<Object>, <LR>, ...) replaced in order.

    Raises:
        UnusableRecord: the number of placeholders is not the number of values.

    >>> fill_template("Is the <Object> on the <LR> louder than the <Object>? ", ["flute", "left", "cello"])
    'Is the flute on the left louder than the cello?'
    """
    parts = re.split(r"<[A-Za-z]+>", template.replace("\uff1f", "?"))
    if len(parts) != len(values) + 1:
        raise UnusableRecord(f"{len(parts) - 1} placeholders but {len(values)} values: {template!r}, {list(values)}")
    filled = parts[0] + "".join(f"{value.replace('_', ' ')}{part}" for value, part in zip(values, parts[1:]))
    return " ".join(filled.split())


def read_activitynet_qa(
    questions_path: str | Path, answers_path: str | Path, *, drop: Drop
) -> Iterator[AskedQuestion]:
    """ActivityNet-QA's pair of files, joined by question_id: lower case, without question marks.

    A question without an answer is dropped as "no_answer".
    """

    def parse_answer(record: Any) -> tuple[str, str, str]:
        number = field_of(record, "type")
        if not isinstance(number, int) or not 0 <= number < len(ACTIVITYNET_QA_TYPES):
            raise UnusableRecord(f"type is not one of 0-8: {number!r}"[:80])
        return text_of(record, "question_id"), text_of(record, "answer"), ACTIVITYNET_QA_TYPES[number]

    def parse_question(record: Any) -> AskedQuestion:
        question_id = text_of(record, "question_id")
        if question_id not in answers:
            raise UnusableRecord(f"{answers_path} has no answer to {question_id!r}", "no_answer")
        return AskedQuestion(
            question_id, text_of(record, "video_name"), text_of(record, "question"), *answers[question_id]
        )

    records = numbered(answers_path, read_json(answers_path))
    answers = {key: (answer, kind) for key, answer, kind in parse_each(answers_path, records, parse_answer, drop)}
    yield from parse_each(questions_path, numbered(questions_path, read_json(questions_path)), parse_question, drop)


def read_indexed_qa(path: str | Path, *, subset: str | None, drop: Drop) -> Iterator[AskedQuestion]:
    """MSVD-QA's and MSR-VTT-QA's questions: a list of records, or an object of subsets with numbers into a `vocab`.

    Raises:
        ValueError: an object of subsets without `subset`.
    """
    content, words = read_json(path), None
    if isinstance(content, dict):
        subsets = sorted(key for key in content if key != "vocab")
        if subset not in subsets:
            raise ValueError(f"{path} has no subset {subset!r}; it has {subsets}")
        words, content = content.get("vocab"), content[subset]
        if words is not None and not isinstance(words, list):
            raise ValueError(f"{path}: 'vocab' is not a list")

    def parse(item: tuple[int, Any]) -> AskedQuestion:
        number, record = item
        video_id = text_of(record, "video" if optional_of(record, "video_id") is None else "video_id")
        question_id = str(number) if optional_of(record, "id") is None else text_of(record, "id")
        answer = field_of(record, "answer")
        if words is not None:
            if not isinstance(answer, int) or not 0 <= answer < len(words):
                raise UnusableRecord(f"answer is not a number into the vocabulary: {answer!r}"[:80])
            answer = words[answer]
        return AskedQuestion(question_id, video_id, text_of(record, "question"), as_text(answer, "answer"))

    items = ((name, (number, record)) for number, (name, record) in enumerate(numbered(path, content)))
    return parse_each(path, items, parse, drop)
