"""Questions about whole videos: AVSD dialogs, MUSIC-AVQA, ActivityNet-QA and question-answer JSON lists.

Each reader yields `QuestionedVideo` records: a video and the turns asked about it, in plain text. No time is named, so
a row of these needs no duration. Rows are made by `question_rows`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..release.curation_report import CurationReport
from ..wordings import IMAGE_QUESTIONS, SHORT_ANSWER_QUESTIONS, choose_wording
from .annotation_files import read_json, read_json_records, read_text
from .rows import Row, make_row
from .timed_events import clean_text


UNDISCLOSED = "__undisclosed__"  # stands for the answer in the challenge's own test set


@dataclass(frozen=True)
class QuestionedVideo:
    """A video (or image) and its (question, answer) turns; `record_id` is unique in its source."""

    record_id: str
    media_names: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]


def read_avsd(path: str | Path, *, report: CurationReport) -> Iterator[QuestionedVideo]:
    """AVSD (DSTC7) dialogs, one conversation a video. The report counts turns.

    The tokenised text is joined up again (`detokenize`). Turns without an answer, and those whose answer the challenge
    keeps back, are dropped as "no_answer" and "undisclosed_answer".
    """
    for dialog in read_json(path)["dialogs"]:
        turns = [(detokenize(turn["question"]), detokenize(turn["answer"])) for turn in dialog["dialog"]]
        name = dialog["image_id"]
        yield from _questioned(name, (name, name.split("_")[0]), turns, source="avsd", report=report)


@dataclass(frozen=True)
class MusicQuestion:
    """One MUSIC-AVQA question: `kind` is its pair of modality and type, as in ("Audio", "Counting")."""

    question_id: str
    video_id: str
    kind: tuple[str, ...]
    question: str
    answer: str


def iterate_music_avqa(path: str | Path) -> Iterator[MusicQuestion]:
    """Every question of a MUSIC-AVQA file in file order, repeated ones included, template filled, answer with spaces.

    Questions that the file marks as deleted are left out.
    """
    for record in read_json(path):
        if not record["question_deleted"]:
            yield MusicQuestion(
                question_id=str(record["question_id"]),
                video_id=record["video_id"],
                kind=tuple(json.loads(record["type"])),
                question=fill_template(record["question_content"], json.loads(record["templ_values"])),
                answer=record["anser"].replace("_", " "),
            )


def read_music_avqa(path: str | Path, *, report: CurationReport) -> Iterator[QuestionedVideo]:
    """MUSIC-AVQA's questions, one record per video, for training. The report counts questions.

    The files ask some questions twice with different answers; all copies of such a question are dropped as
    "conflicting_answers" (the dataset's own later update keeps one of them), an equal copy as "duplicate_question".
    """
    videos: dict[str, dict[str, list[MusicQuestion]]] = {}
    for question in iterate_music_avqa(path):
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
                turns.append((copies[0].question, copies[0].answer))
        if turns:
            yield QuestionedVideo(video_id, (video_id,), tuple(turns))


def fill_template(template: str, values: Sequence[str]) -> str:
    """A MUSIC-AVQA question with its placeholders (<Object>, <LR>, ...) filled in order.

    Raises:
        ValueError: the number of placeholders is not the number of values.

    >>> fill_template("Is the <Object> on the <LR> louder than the <Object>? ", ["flute", "left", "cello"])
    'Is the flute on the left louder than the cello?'
    """
    parts = re.split(r"<[A-Za-z]+>", template.replace("\uff1f", "?"))
    if len(parts) != len(values) + 1:
        raise ValueError(f"{len(parts) - 1} placeholders but {len(values)} values: {template!r}, {list(values)}")
    filled = parts[0] + "".join(f"{value.replace('_', ' ')}{part}" for value, part in zip(values, parts[1:]))
    return " ".join(filled.split())


def music_avqa_answers(path: str | Path) -> list[str]:
    """The answer vocabulary of a MUSIC-AVQA file, sorted, as the rows spell it (no file of the dataset lists it)."""
    return sorted({question.answer for question in iterate_music_avqa(path)})


def read_activitynet_qa(
    questions_path: str | Path, answers_path: str | Path, *, report: CurationReport
) -> Iterator[QuestionedVideo]:
    """ActivityNet-QA's pair of files, joined by question_id, one record per video. The report counts questions."""
    answers = {record["question_id"]: record["answer"] for record in read_json(answers_path)}
    videos: dict[str, list[tuple[str, str]]] = {}
    for record in read_json(questions_path):
        answer = clean_text(answers.get(record["question_id"], ""))
        question = clean_text(record["question"])
        question = f"{question[:1].upper()}{question[1:].rstrip('?')}?"
        videos.setdefault(record["video_name"], []).append((question, answer))
    for name, turns in videos.items():
        yield from _questioned(name, (name, f"v_{name}"), turns, source="activitynet_qa", report=report)


def read_question_answers(path: str | Path, *, source: str, report: CurationReport) -> Iterator[QuestionedVideo]:
    """A list of question-answer records, in any of the forms that are about. The report counts turns.

    * VideoInstruct100K: `{"q", "a", "video_id"}`;
    * VideoChat: `{"video" or "image", "QA": [{"q", "a"}]}`;
    * LLaVA: `{"id", "video" or "image", "conversations": [{"from": "human" | "gpt", "value"}]}`, placeholders taken out;
    * instructions: `{"image", "instruction", "output"}`;
    * caption lists: `{"train": {"<id>": ["caption", ...]}}`, asked in `IMAGE_QUESTIONS`.

    A record of another form is dropped as "unknown_form", a conversation that does not alternate as "not_alternating".
    """
    for number, record in enumerate(_question_answer_records(path)):
        name = record.get("video") or record.get("image") or record.get("video_id")
        record_id = f"{number:07d}"
        turns = _turns(record)
        if turns is None or not name:
            report.read(source)
            report.drop(source, record_id, "unknown_form", detail=sorted(record))
        elif not turns:
            report.read(source)
            report.drop(source, record_id, "not_alternating")
        else:
            names = (name, name.removeprefix("v_")) if name.startswith("v_") else (name,)
            yield from _questioned(record_id, names, turns, source=source, report=report)


def _question_answer_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON list, JSON lines, or an object of splits of caption lists."""
    if not (read_text(path).lstrip().startswith("{") and _is_one_object(path)):
        yield from read_json_records(path)
        return
    for split, images in read_json(path).items():
        if not isinstance(images, dict):
            raise ValueError(f"{path}: {split!r} holds a {type(images).__name__}, expected an object of caption lists")
        for name, captions in images.items():
            question = choose_wording(IMAGE_QUESTIONS, name)
            yield from ({"image": name, "q": question, "a": caption} for caption in captions)


def _is_one_object(path: str | Path) -> bool:
    """Whether a file that begins with "{" is one JSON object of objects, not JSON lines."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError:
        return False
    return all(isinstance(part, dict) for part in value.values())


def _turns(record: dict[str, Any]) -> list[tuple[str, str]] | None:
    """(question, answer) turns; empty for a conversation that does not alternate, None for an unknown form."""
    if "q" in record and "a" in record:
        return [(clean_lines(record["q"]), clean_lines(record["a"]))]
    if "instruction" in record and "output" in record:
        return [(clean_lines(record["instruction"]), clean_lines(record["output"]))]
    if "QA" in record:
        return [(clean_lines(turn["q"]), clean_lines(turn["a"])) for turn in record["QA"]]
    if "conversations" in record:
        values = [(turn["from"], clean_lines(turn["value"])) for turn in record["conversations"]]
        speakers = [speaker for speaker, _ in values]
        if speakers != ["human", "gpt"] * (len(values) // 2):
            return []
        return [(question[1], answer[1]) for question, answer in zip(values[::2], values[1::2])]
    return None


def _questioned(
    record_id: str,
    names: tuple[str, ...],
    turns: Iterable[tuple[str, str]],
    *,
    source: str,
    report: CurationReport,
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


def clean_lines(text: str) -> str:
    """`clean_text` line by line: an answer's paragraphs and lists stay, media placeholders and special tokens go.

    >>> clean_lines("<image>\\nWhat is it?  ")
    'What is it?'
    """
    text = re.sub(r"<(?:video|audio|image)>", " ", text)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(clean_text(line) for line in text.strip().split("\n"))).strip()


def detokenize(text: str) -> str:
    """Tokenised lower-case text as one writes it.

    >>> detokenize("no , he isn 't . i can 't tell what it 's ( the box ) .")
    "No, he isn't. I can't tell what it's (the box)."
    """
    text = clean_text(text)
    text = re.sub(r" (?=[.,!?;:%)]|'(?:s|t|m|re|d|ve|ll)\b)", "", text)
    text = re.sub(r"\( ", "(", text)
    text = re.sub(r"\bi\b(?=$|[ ,.!?;']|'m\b)", "I", text)
    return re.sub(r"(^|[.!?] )([a-z])", lambda hit: hit[1] + hit[2].upper(), text)


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
    """The rows of one record: its turns in order, `max_turns` to a row.

    Args:
        kind: "video" or "image", the medium that the row shows.
        short_answers: ask in several wordings, some of which wish for a short answer (for one-word answers).
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
        yield make_row(row_id, source=source, turns=turns, **{kind: media})
