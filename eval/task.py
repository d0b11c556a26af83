"""Data types of an evaluation: questions about videos, answers, protocols, scores and tasks.

`tasks/` reads the questions from annotation files, `generation.py` answers them, and `run.py` stores the answers.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from modeling_avicuna.timestamp_avicuna import Event


ScoreKind = Literal["time_tokens", "presence", "constant"]


@dataclass(frozen=True)
class Question:
    """One question about one video.

    id (`str`): unique in the task.
    prompt (`str`): the prompt without a media slot.
    kind (`str`): "events": the answer lists events with times; "spans": it gives the times of the event `label`;
        "text": it is free text.
    reference: the expected answer, in the format of the task's `score`.
    group (`str`, *optional*): question type with a separate score.
    asked (`str`): the question without the instructions of the prompt, for the judge.
    """

    id: str
    prompt: str
    kind: Literal["events", "spans", "text"]
    label: str = ""
    reference: Any = None
    group: str | None = None
    asked: str = ""


@dataclass(frozen=True)
class Example:
    """One video with all its questions.

    media_names (`tuple[str, ...]`): possible file names or stems of the media, the most likely first.
    duration (`float`, *optional*): seconds, as annotated; None: that of the media.
    events (`tuple[Event, ...]`): annotated events, for localization.
    start, end (`float`, *optional*): the annotated part of the file in seconds; None: its beginning, its end. Duration
        and events are relative to `start`.
    """

    video_id: str
    media_names: tuple[str, ...]
    duration: float | None
    questions: tuple[Question, ...]
    events: tuple[Event, ...] = ()
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Answer:
    """A model's answer to one question.

    text (`str`): without special tokens.
    events (`tuple[Event, ...]`): the events parsed from it, in seconds, with the scores of their time tokens.
    presence (`float`, *optional*): the probability that the answer names a span rather than "No event.".
    query (`str`): the event or sentence that was asked for; empty for a narration and for free questions.
    """

    question_id: str
    video_id: str
    duration: float
    text: str
    events: tuple[Event, ...] = ()
    prompt: str = ""
    presence: float | None = None
    query: str = ""


@dataclass(frozen=True)
class Protocol:
    """How text becomes a class and a score; part of the name of every localization result.

    label: "exact": an event has the class whose name equals its normalised text, otherwise none; "embedding": the
        class whose name is nearest to its text in the sentence encoder's space.
    score: "time_tokens": geometric mean of the probabilities of the event's time tokens; "presence": probability that
        the answer contains a span, the same for all its events; "constant": 1.0. Ties are broken by the order in the
        answer. An answer without a span ("No event.") is not a prediction.
    encoder (`str`): sentence encoder of "embedding": a folder or a Hub id.
    meteor_jar (`Path`, *optional*): meteor-1.5.jar for dense captioning; None: nltk's METEOR.
    """

    label: Literal["exact", "embedding"] = "exact"
    score: ScoreKind = "time_tokens"
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    meteor_jar: Path | None = None


@dataclass(frozen=True)
class Score:
    """A task's result.

    metrics: values in 0-100.
    counts: numbers of questions, events, ...
    protocol (`str`): part of the result's name.
    drawn: video id -> the scored events, for time lines.
    """

    metrics: dict[str, float]
    counts: dict[str, int] = field(default_factory=dict)
    protocol: str = ""
    drawn: dict[str, list[Event]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A benchmark: how its questions are read and how the answers are scored.

    name (`str`): as in `--task`.
    prompts (`tuple[str, ...]`): names of its prompts in `prompts.PROMPTS`.
    metrics (`tuple[str, ...]`): names of its metrics; with question types, also followed by "/" and the type.
    read: annotation files and subset -> examples.
    score: answered examples, answers by question id, protocol -> `Score`.
    default_subset (`str`, *optional*): if a file has several.
    """

    name: str
    prompts: tuple[str, ...]
    metrics: tuple[str, ...]
    read: Callable[[Sequence[Path], str | None], list[Example]]
    score: Callable[[Sequence[Example], Mapping[str, Answer], Protocol], Score]
    default_subset: str | None = None


def scored_events(answer: Answer, protocol: Protocol) -> list[Event]:
    """The events of an answer with their scores under a protocol, in the order of the answer.

    With "time_tokens", an event without a time token ("to the end") has score 0.

    Raises:
        ValueError: "presence", for an answer that was stored without it.
    """
    if protocol.score == "presence" and answer.presence is None:
        raise ValueError(f"the answer to {answer.question_id!r} has no presence score: run the evaluation again")
    if protocol.score == "time_tokens":
        return [replace(event, score=event.score or 0.0) for event in answer.events]
    score = answer.presence if protocol.score == "presence" else 1.0
    return [replace(event, score=score) for event in answer.events]


def read_examples(task: Task, files: Sequence[Path], subset: str | None = None) -> list[Example]:
    """The examples of annotation files; `subset` defaults to the task's.

    Raises:
        ValueError: no example, or duplicate ids of videos or questions.
    """
    examples = task.read(files, subset or task.default_subset)
    if not examples:
        raise ValueError(f"no question of {task.name} in {[str(path) for path in files]}")
    for kind, ids in (
        ("video", [example.video_id for example in examples]),
        ("question", [question.id for example in examples for question in example.questions]),
    ):
        repeated = [key for key, count in Counter(ids).items() if count > 1]
        if repeated:
            raise ValueError(
                f"{len(repeated)} {kind} ids occur more than once in {[str(path) for path in files]}, "
                f"the first: {repeated[:3]}"
            )
    return examples
