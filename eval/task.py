"""What an evaluation task is: questions about videos, answers, a named protocol, and a score.

The records that `tasks/` make from annotation files, `generation.py` answers and `run.py` stores. Nothing here reads a
file or runs a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modeling_avicuna.timestamp_avicuna import Event


@dataclass(frozen=True)
class Question:
    """One question about one video.

    id (`str`): unique in the task.
    prompt (`str`): what the model is asked, without a media slot.
    kind (`str`): "events": the answer names several events and when they happen; "spans": it says when the event `label`
        happens; "text": it is free text.
    label (`str`): the event that a "spans" question asks for.
    reference: the expected answer, in the form that the task's score reads.
    group (`str`, *optional*): part of the data set that gets a score of its own (a question type).
    asked (`str`): the bare question, without what the prompt adds; a judge is shown this.
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
    """One video with all its questions: it is decoded and encoded once for all of them.

    video_id (`str`): as in the annotation file.
    media_names (`tuple[str, ...]`): file names or stems under which the media may lie, the likeliest first.
    duration (`float`, *optional*): s, as annotated; None where the annotation does not say, then the media's own counts.
    questions (`tuple[Question, ...]`)
    events (`tuple[Event, ...]`): annotated events of the whole video, for localization.
    """

    video_id: str
    media_names: tuple[str, ...]
    duration: float | None
    questions: tuple[Question, ...]
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the model said to one question: `text`, and the events read from it, in seconds, with time-token scores."""

    question_id: str
    video_id: str
    duration: float
    text: str
    events: tuple[Event, ...] = ()
    prompt: str = ""


@dataclass(frozen=True)
class Protocol:
    """How text becomes (class, score): stated, and part of every localization result's name.

    label: "exact": an event counts for the class whose name its text equals after normalisation, and for none otherwise;
        "embedding": for the class whose name is nearest to the text in the sentence encoder's space.
    score: "time_tokens": geometric mean of the probabilities of the event's time tokens; "constant": 1.0 for all, ties
        broken by order of mention.
    encoder (`str`): sentence encoder of "embedding": a folder or a Hub id.
    """

    label: Literal["exact", "embedding"] = "exact"
    score: Literal["time_tokens", "constant"] = "time_tokens"
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Score:
    """A task's result.

    metrics: values in 0-100.
    counts: what they stand on, beyond the number of videos.
    protocol (`str`): the protocol's part of the result's name.
    drawn: video id -> the events as they were scored, for time-line pictures.
    """

    metrics: dict[str, float]
    counts: dict[str, int] = field(default_factory=dict)
    protocol: str = ""
    drawn: dict[str, list[Event]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A benchmark: how to read its questions and how to score the answers.

    name (`str`): as in `--task`.
    prompts (`tuple[str, ...]`): names in `prompts.PROMPTS` that it asks.
    read: annotation files and subset -> examples. The number and order of files is the reader's to state.
    score: examples that were answered, answers by question id, protocol -> `Score`.
    default_subset (`str`, *optional*): where one file holds several.
    """

    name: str
    prompts: tuple[str, ...]
    read: Callable[[Sequence[Path], str | None], list[Example]]
    score: Callable[[Sequence[Example], Mapping[str, Answer], Protocol], Score]
    default_subset: str | None = None
