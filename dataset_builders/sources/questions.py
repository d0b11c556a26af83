"""Questions about whole videos and images, cleaned for training: AVSD, MUSIC-AVQA, ActivityNet-QA, and JSON lists of
questions and answers.

Each reader yields `QuestionedVideo` records: a video and the turns about it, in plain text. The turns mention no
times, so their rows need no duration. `question_rows` makes the rows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..wordings import IMAGE_QUESTIONS, SHORT_ANSWER_QUESTIONS, choose_wording
from . import published_questions
from .annotation_files import read_json, read_json_records, read_text
from .published_questions import UNDISCLOSED, AskedQuestion
from .record_report import RecordReport
from .records import UnusableRecord, as_text, count_in, is_broken, list_of, optional_of, parse_each, text_of
from .rows import Row, make_row
from .text_cleaning import clean_lines, clean_text, detokenize


@dataclass(frozen=True)
class QuestionedVideo:
    """A video (or image) and its (question, answer) turns; `record_id` is unique in its source."""

    record_id: str
    media_names: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]


def read_avsd(path: str | Path, *, report: RecordReport) -> Iterator[QuestionedVideo]:
    """AVSD's dialogs. The report counts turns.

    Turns without an answer are dropped as "no_answer", those whose answer the challenge does not disclose as
    "undisclosed_answer".
    """
    for dialog in published_questions.read_avsd(path, drop=count_in(report, "avsd")):
        turns = [(detokenize(question), detokenize(answer)) for question, answer in dialog.turns]
        name = dialog.video_id
        yield from _questioned(name, (name, name.split("_")[0]), turns, source="avsd", report=report)


def read_music_avqa(path: str | Path, *, report: RecordReport) -> Iterator[QuestionedVideo]:
    """MUSIC-AVQA's questions, one record per video. The report counts questions.

    The files ask some questions twice with different answers; all copies of such a question are dropped as
    "conflicting_answers" (the authors' later update keeps one of them), an identical copy as "duplicate_question".
    """
    videos: dict[str, dict[str, list[AskedQuestion]]] = {}
    for question in published_questions.read_music_avqa(path, drop=count_in(report, "music_avqa")):
        report.read("music_avqa")
        videos.setdefault(question.video_id, {}).setdefault(question.question, []).append(question)
    for video_id, asked in videos.items():
        turns = []
        for copies in asked.values():
            conflicting = len({copy.answer for copy in copies}) > 1
            for copy in copies if conflicting else copies[1:]:
                reason = "conflicting_answers" if conflicting else "duplicate_question"
                report.drop("music_avqa", copy.question_id, reason, detail=[video_id, copy.question, copy.answer])
            if not conflicting:
                turns.append((clean_text(copies[0].question), clean_text(copies[0].answer)))
        if turns:
            yield QuestionedVideo(video_id, (video_id,), tuple(turns))


def read_activitynet_qa(
    questions_path: str | Path, answers_path: str | Path, *, report: RecordReport
) -> Iterator[QuestionedVideo]:
    """ActivityNet-QA's pair of files, one record per video. The report counts questions."""
    videos: dict[str, list[tuple[str, str]]] = {}
    drop = count_in(report, "activitynet_qa")
    for asked in published_questions.read_activitynet_qa(questions_path, answers_path, drop=drop):
        turn = (as_question(clean_text(asked.question)), clean_text(asked.answer))
        videos.setdefault(asked.video_id, []).append(turn)
    for name, turns in videos.items():
        yield from _questioned(name, (name, f"v_{name}"), turns, source="activitynet_qa", report=report)


def as_question(text: str) -> str:
    """A question with an initial capital and one final question mark; an empty text is unchanged.

    >>> as_question("is the athlete wearing trousers")
    'Is the athlete wearing trousers?'
    """
    text = " ".join(text.split()).rstrip("? \uff1f")
    return f"{text[:1].upper()}{text[1:]}?" if text else ""


def read_question_answers(path: str | Path, *, source: str, report: RecordReport) -> Iterator[QuestionedVideo]:
    """A list of question-answer records in any of the published formats. The report counts turns.

    * VideoInstruct100K: `{"q", "a", "video_id"}`;
    * VideoChat: `{"video" or "image", "QA": [{"i", "q", "a"}]}`, instruction and question joined;
    * LLaVA: `{"id", "video" or "image", "conversations": [{"from": "human" | "gpt", "value"}]}`, placeholders removed;
    * instructions: `{"image", "instruction", "output"}`;
    * caption lists: `{"train": {"<id>": ["caption", ...]}}`, with the questions of `IMAGE_QUESTIONS`.

    A record in another format is dropped as "unknown_form", a conversation that does not alternate as
    "not_alternating", one with a value of the wrong type as "malformed_record".
    """

    def parse(item: tuple[int, Any]) -> QuestionedVideo:
        number, record = item
        key = next((key for key in ("video", "image", "video_id") if optional_of(record, key) is not None), None)
        turns = _turns(record)
        if turns is None or key is None:
            raise UnusableRecord(f"{list(record)}"[:200], "unknown_form")
        if not turns:
            raise UnusableRecord("questions and answers do not alternate", "not_alternating")
        name = text_of(record, key)
        names = (name, name.removeprefix("v_")) if name.startswith("v_") else (name,)
        return QuestionedVideo(f"{number:07d}", names, tuple(turns))

    items = ((f"{number:07d}", (number, record)) for number, record in enumerate(_question_answer_records(path)))
    for one in parse_each(path, items, parse, count_in(report, source)):
        yield from _questioned(one.record_id, one.media_names, one.turns, source=source, report=report)


def _question_answer_records(path: str | Path) -> Iterator[Any]:
    """The records of a JSON list, JSON lines, or an object of splits of caption lists."""
    content = _caption_lists(path)
    if content is None:
        yield from read_json_records(path)
        return
    for split, images in content.items():
        if not isinstance(images, dict):
            raise ValueError(f"{path}: {split!r} holds a {type(images).__name__}, expected an object of caption lists")
        for name, captions in images.items():
            question = choose_wording(IMAGE_QUESTIONS, ascii(name) if is_broken(name) else name)
            captions = captions if isinstance(captions, list) else [captions]
            yield from ({"image": name, "q": question, "a": caption} for caption in captions)


def _caption_lists(path: str | Path) -> dict[str, Any] | None:
    """The object of a file that is one JSON object of objects; None for a list or JSON lines."""
    if not read_text(path).lstrip().startswith("{"):
        return None
    try:
        content = read_json(path)
    except ValueError:  # JSON lines; the line reader reports errors in them
        return None
    return content if all(isinstance(part, dict) for part in content.values()) else None


def _turns(record: dict[str, Any]) -> list[tuple[str, str]] | None:
    """(question, answer) turns; empty for a conversation that does not alternate, None for an unknown format."""
    for question, answer in (("q", "a"), ("instruction", "output")):
        if question in record and answer in record:
            return [(clean_lines(_said(record, question)), clean_lines(_said(record, answer)))]
    if "QA" in record:
        return [(_instruction(turn), clean_lines(text_of(turn, "a"))) for turn in list_of(record, "QA")]
    if "conversations" in record:
        turns = list_of(record, "conversations")
        said = [(text_of(turn, "from"), clean_lines(text_of(turn, "value"))) for turn in turns]
        if [speaker for speaker, _ in said] != ["human", "gpt"] * (len(said) // 2):
            return []
        return [(question[1], answer[1]) for question, answer in zip(said[::2], said[1::2])]
    return None


def _instruction(turn: Any) -> str:
    """The question of a turn, after VideoChat2's instruction; either may be missing."""
    parts = [as_text(turn[key], key) for key in ("i", "q") if optional_of(turn, key) is not None]
    return " ".join(part for part in map(clean_lines, parts) if part)


def _said(record: dict[str, Any], key: str) -> str:
    """A text; null becomes an empty text, which is dropped as "no_question" or "no_answer"."""
    return "" if record[key] is None else as_text(record[key], key)


def _questioned(
    record_id: str,
    names: tuple[str, ...],
    turns: Iterable[tuple[str, str]],
    *,
    source: str,
    report: RecordReport,
) -> Iterator[QuestionedVideo]:
    kept = []
    for question, answer in turns:
        report.read(source)
        if not question:
            report.drop(source, record_id, "no_question", detail=answer)
        elif not answer:
            report.drop(source, record_id, "no_answer", detail=question)
        elif answer.lower() == UNDISCLOSED:
            report.drop(source, record_id, "undisclosed_answer", detail=question)
        else:
            kept.append((question, answer))
    if kept:
        yield QuestionedVideo(record_id, names, tuple(kept))


def question_rows(
    video: QuestionedVideo,
    *,
    source: str,
    media: str,
    kind: str = "video",
    short_answers: bool = False,
    max_turns: int = 10,
    seed: int = 0,
) -> Iterator[Row]:
    """The rows of one record: its turns in order, at most `max_turns` per row.

    Args:
        kind: "video" or "image".
        short_answers: ask in several wordings, some of which ask for a short answer (for one-word answers).
    """
    for number in range(0, len(video.turns), max_turns):
        row_id = f"{source}-{video.record_id}" + (f"-{number // max_turns}" if number else "")
        turns = list(video.turns[number : number + max_turns])
        if short_answers:
            turns = [
                (
                    choose_wording(SHORT_ANSWER_QUESTIONS, f"{row_id}-{turn}", seed=seed).format(question=question),
                    answer,
                )
                for turn, (question, answer) in enumerate(turns)
            ]
        yield make_row(
            row_id,
            source=source,
            turns=turns,
            video=media if kind == "video" else None,
            image=media if kind == "image" else None,
        )
