"""Audio-visual event localization: UnAV-100, and every set in its annotation form (the sandbox).

Two kinds of questions. Narration: one question per video; the protocol maps the texts of the events to classes.
Queries: one question per class, with one shared encoding of the video; the scores rank the answers.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataset_builders.sources import published_events
from dataset_builders.sources.published_events import AnnotatedVideo
from dataset_builders.sources.records import refuse
from modeling_avicuna.timestamp_avicuna import Event

from ..labels import match_labels
from ..metrics import METRIC_NAMES, load_metric
from ..metrics.event_localization.average_precision import drop_duplicate_references
from ..metrics.temporal_grounding.spans import score_queries_by_count
from ..prompts import PROMPTS
from ..task import Answer, Example, Protocol, Question, Score, Task, scored_events
from .files import one_file


def read_database(files: Sequence[Path], subset: str | None) -> tuple[list[AnnotatedVideo], list[str]]:
    """The videos of one subset, and all class names of the file in the order of their ids, or by name without ids.

    Raises:
        ValueError: not one file, no "database" in it, a malformed record, an empty subset, or a class with two ids.
    """
    path = one_file(files, "UnAV-100")
    database = list(published_events.read_unav100(path, drop=refuse(path)))
    videos = [video for video in database if subset is None or video.subset == subset]
    if not videos:
        subsets = sorted({str(video.subset) for video in database})
        raise ValueError(f"{path} has no video of subset {subset!r}; its subsets are {subsets}")
    ids = {(event.class_id, event.text) for video in database for event in video.events}
    given = sorted((number, name) for number, name in ids if number is not None)
    classes = [name for _, name in given]
    if len(set(classes)) != len(classes):
        raise ValueError(f"{path} gives one class several ids: {given}")
    return videos, classes + sorted({name for number, name in ids if number is None} - set(classes))


def read_narrations(files: Sequence[Path], subset: str | None) -> list[Example]:
    """One question per video: narrate all events."""
    videos, classes = read_database(files, subset)
    prompt = PROMPTS["narration"]
    return [
        _example(video, (Question(id=video.video_id, prompt=prompt, kind="events", reference=classes),))
        for video in videos
    ]


def read_queries(files: Sequence[Path], subset: str | None) -> list[Example]:
    """One question per video and class, present or not."""
    videos, classes = read_database(files, subset)
    prompts = {label: PROMPTS["grounding"].format(query=label) for label in classes}
    return [
        _example(
            video,
            tuple(
                Question(id=f"{video.video_id}/{label}", prompt=prompts[label], kind="spans", label=label)
                for label in classes
            ),
        )
        for video in videos
    ]


def score_narrations(examples: Sequence[Example], answers: Mapping[str, Answer], protocol: Protocol) -> Score:
    """mAP of narrated events."""
    said = [answers[example.questions[0].id] for example in examples]
    texts = [event.label for answer in said for event in answer.events]
    labels = iter(match_labels(texts, examples[0].questions[0].reference, protocol))
    predictions = [[_as_row(event, next(labels)) for event in scored_events(answer, protocol)] for answer in said]
    kept = [[event for event in video if event["label"] is not None] for video in predictions]
    counts = _counts(said, protocol) | {"num_events_without_class": len(texts) - sum(map(len, kept))}
    return _score(examples, kept, counts, f"narration-{protocol.label}-{protocol.score}")


def score_queries(examples: Sequence[Example], answers: Mapping[str, Answer], protocol: Protocol) -> Score:
    """mAP of the spans, rejection of absent classes, and CountF1 of the other classes."""
    predictions = [
        [
            _as_row(event, question.label)
            for question in example.questions
            for event in scored_events(answers[question.id], protocol)
        ]
        for example in examples
    ]
    said = [answers[question.id] for example in examples for question in example.questions]
    answered = [len(answer.events) for answer in said]
    annotated: list[int] = []
    for example in examples:
        num_events = Counter(event["label"] for event in _references(example))
        annotated += [num_events[question.label] for question in example.questions]
    score = _score(examples, predictions, _counts(said, protocol), f"query-{protocol.score}")
    counts = {"num_queries": len(said), "num_absent_queries": annotated.count(0)}
    metrics = {**score.metrics, **score_queries_by_count(answered, annotated)}
    return replace(score, metrics=metrics, counts={**score.counts, **counts})


def _example(video: AnnotatedVideo, questions: tuple[Question, ...]) -> Example:
    events = tuple(Event(event.start, event.end, event.text) for event in video.events)
    return Example(video.video_id, (video.video_id,), video.duration, questions, events)


def _references(example: Example) -> list[dict[str, Any]]:
    """The annotated events without duplicates."""
    rows = [{"start": event.start, "end": event.end, "label": event.label} for event in example.events]
    return [dict(row) for row in drop_duplicate_references(rows)]


def _as_row(event: Event, label: str | None) -> dict[str, Any]:
    return {"start": event.start, "end": event.end, "label": label, "score": event.score}


def _counts(answers: Sequence[Answer], protocol: Protocol) -> dict[str, int]:
    """Numbers of events, and of events without a time-token score. ValueError if no event has one."""
    events = [event for answer in answers for event in answer.events]
    without = sum(event.score is None for event in events)
    if protocol.score == "time_tokens" and events and without == len(events):
        raise ValueError(f"none of {len(events)} events has a score: use the constant protocol (score 1.0 for all)")
    return {"num_events": len(events), "num_events_without_score": without}


def _score(
    examples: Sequence[Example], predictions: Sequence[Sequence[dict]], counts: dict[str, int], name: str
) -> Score:
    references = [_references(example) for example in examples]
    metrics = load_metric("event_localization").compute(predictions=predictions, references=references)
    drawn = {example.video_id: [Event(**event) for event in video] for example, video in zip(examples, predictions)}
    return Score(metrics, counts, name, drawn)


NARRATION_METRICS = METRIC_NAMES["event_localization"]
QUERY_METRICS = (*NARRATION_METRICS, "CountF1", "rejection_precision", "rejection_recall", "rejection_F1")
UNAV100 = Task("unav100", ("narration",), NARRATION_METRICS, read_narrations, score_narrations, "test")
UNAV100_QUERY = Task("unav100_query", ("grounding",), QUERY_METRICS, read_queries, score_queries, "test")
SANDBOX = Task("sandbox", ("narration",), NARRATION_METRICS, read_narrations, score_narrations, "test")
SANDBOX_QUERY = Task("sandbox_query", ("grounding",), QUERY_METRICS, read_queries, score_queries, "test")
