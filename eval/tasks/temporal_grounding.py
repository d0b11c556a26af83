"""Temporal grounding of sentences: Charades-STA, DiDeMo, QVHighlights.

References are the annotations as published, not cleaned as for training. Queries without a reference span that ends
after it starts are skipped.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dataset_builders.sources import published_events
from dataset_builders.sources.records import refuse

from ..metrics import METRIC_NAMES, load_metric
from ..prompts import PROMPTS
from ..task import Answer, Example, Protocol, Question, Score, Task, scored_events
from .files import one_file, two_files


def read_charades_sta(files: Sequence[Path], subset: str | None) -> list[Example]:
    """charades_sta_test.txt and Charades_v1_test.csv (durations), in this order.

    Spans may end after the end of the video, as in the published protocol.
    """
    lines, durations = two_files(files, "Charades-STA's text file and the csv with the durations of the videos")
    seconds = published_events.read_durations(durations)
    moments = list(published_events.read_charades_sta(lines, drop=refuse(lines)))
    missing = sorted({moment.video_id for moment in moments} - seconds.keys())
    if missing:
        raise ValueError(f"{durations} has no length of {len(missing)} videos of {lines}, the first: {missing[:3]}")
    rows = [(moment.video_id, moment.text, moment.spans) for moment in moments]
    return _examples(rows, duration=seconds.__getitem__)


def read_didemo(files: Sequence[Path], subset: str | None) -> list[Example]:
    """DiDeMo's test_data.json or val_data.json. The reference is the annotators' `consensus`.

    The annotations cover the first 25 or 30 s of a file; only this part is shown to the model.
    """
    path = one_file(files, "DiDeMo")
    moments = list(published_events.read_didemo(path, drop=refuse(path)))
    rows = [
        (moment.video_id, " ".join(moment.text.split()), [published_events.consensus(moment.spans)])
        for moment in moments
    ]
    seconds = {moment.video_id: moment.duration for moment in moments}
    examples = _examples(
        rows, duration=seconds.__getitem__, media_names=lambda video_id: (video_id, video_id.rstrip("."))
    )
    return [replace(example, end=example.duration) for example in examples]


def read_qvhighlights(files: Sequence[Path], subset: str | None) -> list[Example]:
    """highlight_val_release.jsonl: one or several windows per query, in seconds of the 150-s excerpt."""
    path = one_file(files, "QVHighlights")
    moments = list(published_events.read_qvhighlights(path, drop=refuse(path)))
    seconds = {moment.video_id: moment.duration for moment in moments}
    rows = [(moment.video_id, moment.text.strip(), moment.spans) for moment in moments]
    return _examples(rows, duration=seconds.__getitem__, ids=[moment.moment_id for moment in moments])


def score_grounding(examples: Sequence[Example], answers: Mapping[str, Answer], protocol: Protocol) -> Score:
    """mIoU, R1, union IoU, F1, CountF1. With "time_tokens", spans are ranked by score, otherwise as in the answer."""
    questions = [question for example in examples for question in example.questions]
    predictions = []
    for question in questions:
        events = scored_events(answers[question.id], protocol)
        if protocol.score == "time_tokens":
            events.sort(key=lambda event: event.score or 0.0, reverse=True)
        predictions.append([{"start": event.start, "end": event.end} for event in events])
    references = [[{"start": start, "end": end} for start, end in question.reference] for question in questions]
    metrics = load_metric("temporal_grounding").compute(predictions=predictions, references=references)
    order = "best-scored" if protocol.score == "time_tokens" else "first-said"
    return Score(metrics, {"num_questions": len(questions)}, f"spans-{order}")


def _examples(
    rows: Iterable[tuple[str, str, Sequence]],
    *,
    duration: Callable[[str], float | None],
    media_names: Callable[[str], tuple[str, ...]] = lambda video_id: (video_id,),
    ids: Sequence[str] | None = None,
) -> list[Example]:
    """One example per video from (video, query, spans) rows."""
    videos: dict[str, list[Question]] = {}
    for number, (video_id, query, spans) in enumerate(rows):
        spans = [(float(start), float(end)) for start, end in spans if end > start]
        if spans:
            videos.setdefault(video_id, []).append(
                Question(
                    id=str(number) if ids is None else ids[number],
                    prompt=PROMPTS["grounding"].format(query=query.rstrip(". ")),
                    kind="spans",
                    label=query,
                    reference=spans,
                )
            )
    return [Example(key, media_names(key), duration(key), tuple(questions)) for key, questions in videos.items()]


METRICS = METRIC_NAMES["temporal_grounding"]
CHARADES_STA = Task("charades_sta", ("grounding",), METRICS, read_charades_sta, score_grounding)
DIDEMO = Task("didemo", ("grounding",), METRICS, read_didemo, score_grounding)
QVHIGHLIGHTS = Task("qvhighlights", ("grounding",), METRICS, read_qvhighlights, score_grounding)
