"""Audio-visual event localization: UnAV-100, and every set in its annotation form (the sandbox).

Two ways to ask. Narration: one question per video, the texts of the answer's events become classes by the protocol.
Queries: one question per class on one shared encoding; the class is known and the score alone ranks the answers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset_builders.sources.annotation_files import read_json
from modeling_avicuna.timestamp_avicuna import Event

from ..labels import match_labels
from ..metrics import load_metric
from ..prompts import PROMPTS
from ..task import Answer, Example, Protocol, Question, Score, Task


def read_database(files: Sequence[Path], subset: str | None) -> tuple[dict[str, dict], list[str]]:
    """The videos of one subset, and all class names of the file ordered by their id.

    Raises:
        ValueError: not one file, no "database" in it, an empty subset, or a class with two ids.
    """
    if len(files) != 1:
        raise ValueError(f"one annotation file in UnAV-100's form is needed, got {[str(path) for path in files]}")
    content = read_json(files[0])
    if not isinstance(content, dict) or "database" not in content:
        raise ValueError(f"{files[0]} is not in UnAV-100's form: no 'database' at the top level")
    database = content["database"]
    videos = {key: value for key, value in database.items() if subset is None or value["subset"] == subset}
    if not videos:
        subsets = sorted({value["subset"] for value in database.values()})
        raise ValueError(f"{files[0]} has no video of subset {subset!r}; its subsets are {subsets}")
    ids = {(item["label_id"], item["label"]) for value in database.values() for item in value["annotations"]}
    classes = [label for _, label in sorted(ids)]
    if len(set(classes)) != len(classes):
        raise ValueError(f"{files[0]} gives one class several ids: {sorted(ids)}")
    return videos, classes


def read_narrations(files: Sequence[Path], subset: str | None) -> list[Example]:
    """One question per video: narrate all events."""
    videos, classes = read_database(files, subset)
    question = {"prompt": PROMPTS["narration"], "kind": "events", "reference": classes}
    return [_example(key, value, (Question(id=key, **question),)) for key, value in videos.items()]


def read_queries(files: Sequence[Path], subset: str | None) -> list[Example]:
    """One question per video and class, present or not."""
    videos, classes = read_database(files, subset)
    prompts = {label: PROMPTS["grounding"].format(query=label) for label in classes}
    return [
        _example(
            key,
            value,
            tuple(
                Question(id=f"{key}/{label}", prompt=prompts[label], kind="spans", label=label) for label in classes
            ),
        )
        for key, value in videos.items()
    ]


def score_narrations(examples: Sequence[Example], answers: Mapping[str, Answer], protocol: Protocol) -> Score:
    """mAP of narrated events; the texts become classes by `protocol.label`."""
    events = [event for example in examples for event in answers[example.questions[0].id].events]
    classes = examples[0].questions[0].reference
    labels = dict(zip([id(event) for event in events], match_labels([e.label for e in events], classes, protocol)))
    predictions = [
        [_scored(event, labels[id(event)], protocol) for event in answers[example.questions[0].id].events]
        for example in examples
    ]
    kept = [[event for event in video if event["label"] is not None] for video in predictions]
    counts = _counts(events, protocol) | {"num_events_without_class": len(events) - sum(map(len, kept))}
    return _score(examples, kept, counts, f"narration-{protocol.label}-{protocol.score}")


def score_queries(examples: Sequence[Example], answers: Mapping[str, Answer], protocol: Protocol) -> Score:
    """mAP of the spans that were answered to class queries."""
    predictions = [
        [
            _scored(event, question.label, protocol)
            for question in example.questions
            for event in answers[question.id].events
        ]
        for example in examples
    ]
    events = [event for example in examples for question in example.questions for event in answers[question.id].events]
    return _score(examples, predictions, _counts(events, protocol), f"query-{protocol.score}")


def _example(key: str, value: dict, questions: tuple[Question, ...]) -> Example:
    events = tuple(Event(float(a["segment"][0]), float(a["segment"][1]), a["label"]) for a in value["annotations"])
    return Example(key, (key,), float(value["duration"]), questions, events)


def _scored(event: Event, label: str | None, protocol: Protocol) -> dict:
    # a span without a digit of its own has no time token and so no score: it ranks last
    score = 1.0 if protocol.score == "constant" else 0.0 if event.score is None else event.score
    return {"start": event.start, "end": event.end, "label": label, "score": score}


def _counts(events: Sequence[Event], protocol: Protocol) -> dict[str, int]:
    """How many events there are, and how many of them rank last for want of a score. ValueError if all do."""
    without = sum(event.score is None for event in events)
    if protocol.score == "time_tokens" and events and without == len(events):
        raise ValueError(f"none of {len(events)} events has a score: use the constant protocol (score 1.0 for all)")
    return {"num_events": len(events), "num_events_without_score": without}


def _score(examples, predictions, counts, name) -> Score:
    references = [[{"start": e.start, "end": e.end, "label": e.label} for e in example.events] for example in examples]
    metrics = load_metric("event_localization").compute(predictions=predictions, references=references)
    drawn = {example.video_id: [Event(**event) for event in video] for example, video in zip(examples, predictions)}
    return Score(metrics, counts, name, drawn)


UNAV100 = Task(
    "unav100", ("narration",), "event_localization", read_narrations, score_narrations, default_subset="test"
)
UNAV100_QUERY = Task(
    "unav100_query", ("grounding",), "event_localization", read_queries, score_queries, default_subset="test"
)
SANDBOX = Task(
    "sandbox", ("narration",), "event_localization", read_narrations, score_narrations, default_subset="test"
)
SANDBOX_QUERY = Task(
    "sandbox_query", ("grounding",), "event_localization", read_queries, score_queries, default_subset="test"
)
