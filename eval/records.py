"""Files of an evaluation run: settings, answers (written as they are generated, so that a run can be resumed), result.

    OUTPUT/settings.json       settings that the answers depend on; a run with other settings is rejected
    OUTPUT/predictions.jsonl   one line per question; questions with a line are not asked again
    OUTPUT/results.json        metrics, protocol, prompt hash, missing media, commit, versions, run time

While several processes answer, each appends to its own `predictions.<rank>.jsonl`; the files are merged at the end.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataset_builders.atomic_files import atomic_path, check_output_folder, write_json
from dataset_builders.sources.annotation_files import read_json, read_object
from modeling_avicuna.timestamp_avicuna import Event

from .task import Answer, Example, Question


RESULT_KEYS = ("task", "name", "metrics", "judge", "num_examples", "num_expected")


class AnswerLog:
    """The answers of one run, on disk.

    Args:
        output: folder of the run; created if it does not exist.
        rank: index of this process.

    Raises:
        ValueError: a line other than the last one of its file is damaged.
    """

    def __init__(self, output: Path, *, rank: int = 0):
        self.output, self.rank = output, rank
        self.path = output / f"predictions.{rank}.jsonl"
        output.mkdir(parents=True, exist_ok=True)
        _cut_unfinished_line(self.path)
        files = sorted([*output.glob("predictions.jsonl"), *output.glob("predictions.*.jsonl")])
        self.answers = {answer.question_id: answer for path in files for answer in read_answers(path)}
        self.unreadable: dict[str, str] = {}

    def begin(self, settings: dict[str, Any]) -> None:
        """Writes the settings of a new run, and removes the lists of media that an interrupted run could not read.

        Called by the main process before any process writes answers.

        Raises:
            ValueError: the folder holds a run with other settings (the message names the differences), or files of
                the same names that are not of a run.
        """
        path = self.output / "settings.json"
        check_output_folder(self.output, marks=[path.name], writes=["results.json", "predictions*.jsonl"])
        before = read_object(path) if path.exists() else settings
        if "prompts_sha256" not in before:
            raise ValueError(f"{path} is not of a run of eval.run: use another output")
        before = before if self.answers else settings
        changed = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
        if changed:
            changes = "; ".join(f"{key}: {before.get(key)!r} -> {settings.get(key)!r}" for key in changed)
            raise ValueError(
                f"{self.output} holds answers of a run with other settings ({changes}): use another output"
            )
        write_json(path, settings)
        for path in self.output.glob("unreadable.*.jsonl"):
            path.unlink()

    def write(self, answers: Iterable[Answer]) -> None:
        """Appends answers to the file of this process and flushes them to disk."""
        with self.path.open("a", encoding="utf-8") as file:
            for answer in answers:
                file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
                self.answers[answer.question_id] = answer
            file.flush()
            os.fsync(file.fileno())

    def write_unreadable(self, video_id: str, reason: str) -> None:
        """Records a video whose media cannot be read; the next run tries it again."""
        self.unreadable[video_id] = reason
        with (self.output / f"unreadable.{self.rank}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps([video_id, reason]) + "\n")

    def join(self, order: Sequence[str]) -> None:
        """Merges all files into predictions.jsonl, in the given order of question ids. For the main process."""
        self.answers = {}  # not two copies in memory
        self.answers = AnswerLog(self.output).answers
        index = {key: number for number, key in enumerate(order)}
        ranked = sorted(self.answers.values(), key=lambda answer: index.get(answer.question_id, len(index)))
        with atomic_path(self.output / "predictions.jsonl") as path, path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in ranked)
        for path in self.output.glob("predictions.*.jsonl"):
            path.unlink()
        for path in sorted(self.output.glob("unreadable.*.jsonl")):
            self.unreadable |= dict(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
            path.unlink()

    def unanswered(self, example: Example) -> list[Question]:
        """The questions of an example that have no answer yet."""
        return [question for question in example.questions if question.id not in self.answers]


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file; none if it does not exist. An incomplete last line of a killed process is ignored.

    Raises:
        ValueError: a damaged line; the message names the file and the line.
    """
    if not path.exists():
        return []
    answers = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                answers.append(Answer(**{**row, "events": tuple(Event(**event) for event in row["events"])}))
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path}, line {number} is damaged: {error}") from error
    return answers


def read_result(path: Path, *, also: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a results.json or results_judge.json.

    Raises:
        ValueError: the file lacks one of RESULT_KEYS or of `also`, or its metrics are not numbers.
    """
    result = read_json(path)
    missing = [key for key in (*RESULT_KEYS, *also) if not isinstance(result, dict) or key not in result]
    if missing:
        raise ValueError(f"{path} is not a result of eval.run or eval.judge: it has no {missing[0]!r}")
    metrics = result["metrics"]
    if not isinstance(metrics, dict) or not all(isinstance(value, (int, float)) for value in metrics.values()):
        raise ValueError(f"{path}: metrics is not an object of numbers: {metrics!r:.80}")
    return result


def _cut_unfinished_line(path: Path) -> None:
    """Removes the incomplete last line of a killed process, so that the file can be appended to."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        num_bytes = sum(len(line) for line in file if line.endswith(b"\n"))
        if num_bytes < path.stat().st_size:
            file.truncate(num_bytes)
