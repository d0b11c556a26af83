"""What an evaluation leaves on disk: answers as they come (resumable), settings, and the result.

    OUTPUT/settings.json       what the answers depend on; another run with other settings is refused
    OUTPUT/predictions.jsonl   one line per question; lines of unfinished runs are kept and not asked again
    OUTPUT/results.json        metric values, protocol, prompts' hash, what is missing, commit, versions, seconds

While several processes answer, each appends to a file of its own; they are joined at the end.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modeling_avicuna.timestamp_avicuna import Event

from .task import Answer, Example, Question


class AnswerLog:
    """The answers of one run, on disk.

    Args:
        output: folder of the run, made if need be.
        rank: number of this process.

    Raises:
        ValueError: a damaged line that is not the last one of its file.
    """

    def __init__(self, output: Path, *, rank: int = 0):
        self.output, self.rank = output, rank
        self.path = output / f"predictions.{rank}.jsonl"
        output.mkdir(parents=True, exist_ok=True)
        _cut_unfinished_line(self.path)
        files = sorted([*output.glob("predictions.jsonl"), *output.glob("predictions.*.jsonl")])
        self.answers = {answer.question_id: answer for path in files for answer in read_answers(path)}
        self.unreadable: dict[str, str] = {}

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Writes the settings of a new run; ValueError, naming the difference, if the folder was made with others."""
        path = self.output / "settings.json"
        if not path.exists():
            write_json(path, settings)
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
        if changed:
            told = "; ".join(f"{key}: {before.get(key)!r} -> {settings.get(key)!r}" for key in changed)
            raise ValueError(f"{self.output} holds answers of a run with other settings ({told}): use another output")

    def write(self, answers: Iterable[Answer]) -> None:
        """Appends answers to this process's file; they are on disk when the call returns."""
        with self.path.open("a", encoding="utf-8") as file:
            for answer in answers:
                file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
                self.answers[answer.question_id] = answer
            file.flush()
            os.fsync(file.fileno())

    def write_unreadable(self, video_id: str, reason: str) -> None:
        """Notes a video whose media cannot be used; the next run tries it again."""
        self.unreadable[video_id] = reason
        write_json(self.output / f"unreadable.{self.rank}.json", self.unreadable)

    def join(self, order: Sequence[str]) -> None:
        """Brings all files into one predictions.jsonl, in the order of the question ids; by the main process alone."""
        self.answers = AnswerLog(self.output).answers
        place = {key: index for index, key in enumerate(order)}
        ranked = sorted(self.answers.values(), key=lambda answer: place.get(answer.question_id, len(place)))
        lines = [json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in ranked]
        write_text(self.output / "predictions.jsonl", "".join(lines))
        for path in self.output.glob("predictions.*.jsonl"):
            path.unlink()
        for path in sorted(self.output.glob("unreadable.*.json")):
            self.unreadable |= json.loads(path.read_text(encoding="utf-8"))
            path.unlink()

    def unanswered(self, example: Example) -> list[Question]:
        """The questions of an example that have no answer yet."""
        return [question for question in example.questions if question.id not in self.answers]


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file. A last line without its line break was cut by a kill and is left out."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    answers = []
    for number, line in enumerate(whole.split("\n") if whole else [], start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is damaged: {error}") from error
        answers.append(Answer(**{**row, "events": tuple(Event(**event) for event in row["events"])}))
    return answers


def _cut_unfinished_line(path: Path) -> None:
    """Makes a file that a kill left in the middle of a line fit for appending; by the process that writes it alone."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and not text.endswith("\n"):
        write_text(path, text[: text.rfind("\n") + 1])


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes beside the file, then renames: a killed process leaves the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
