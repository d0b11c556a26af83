"""Temporal grounding: a sentence -> when it happens. Charades-STA, DiDeMo, QVHighlights.

References are the annotations as published, not cleaned as for training: a benchmark keeps its own mistakes. What has no
reference span at all, or none that ends after it begins, cannot be scored; it is left out and counted by the reader's test.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from dataset_builders.sources.annotation_files import read_json, read_json_records, read_text
from dataset_builders.sources.timed_events import CHUNK_SECONDS, consensus, read_durations

from ..metrics import METRIC_NAMES, load_metric
from ..prompts import PROMPTS
from ..task import Answer, Example, Protocol, Question, Score, Task, scored_events


def read_charades_sta(files: Sequence[Path], subset: str | None) -> list[Example]:
    """charades_sta_test.txt and Charades_v1_test.csv (durations), in this order.

    `subset` is not used: a file is one split. Spans keep ends beyond the video's length, as in the published protocol.
    """
    lines, durations = _two_files(files, "Charades-STA wants its text file and the csv with the videos' lengths")
    seconds, rows = read_durations(durations), []
    for line in read_text(lines).splitlines():
        hit = re.fullmatch(r"(\S+) ([\d.]+) ([\d.]+)##(.*)", line.strip())
        if hit is None:
            raise ValueError(f"{lines}: not a line of Charades-STA: {line!r}")
        rows.append((hit[1], hit[4].strip(), [(float(hit[2]), float(hit[3]))]))
    missing = sorted({video_id for video_id, _, _ in rows} - seconds.keys())
    if missing:
        raise ValueError(f"{durations} has no length of {len(missing)} videos of {lines}, the first: {missing[:3]}")
    return _examples(rows, duration=seconds.__getitem__)


def read_didemo(files: Sequence[Path], subset: str | None) -> list[Example]:
    """DiDeMo's test_data.json or val_data.json. The reference is the annotators' consensus span (`consensus`)."""
    records = read_json(_one_file(files))
    rows = []
    for record in records:
        first, last = consensus([tuple(chunks) for chunks in record["times"]])
        span = (first * CHUNK_SECONDS, (last + 1) * CHUNK_SECONDS)
        rows.append((record["video"], " ".join(record["description"].split()), [span]))
    chunks = {record["video"]: record["num_segments"] for record in records}
    return _examples(
        rows,
        duration=lambda video_id: chunks[video_id] * CHUNK_SECONDS,
        media_names=lambda video_id: (video_id, video_id.rstrip(".")),
    )


def read_qvhighlights(files: Sequence[Path], subset: str | None) -> list[Example]:
    """highlight_val_release.jsonl: one or several windows per query, in seconds of the 150-s excerpt."""
    records = read_json_records(_one_file(files))
    seconds = {record["vid"]: float(record["duration"]) for record in records}
    rows = [(record["vid"], record["query"].strip(), record["relevant_windows"]) for record in records]
    return _examples(rows, duration=seconds.__getitem__, ids=[str(record["qid"]) for record in records])


def score_grounding(examples: Sequence[Example], answers: Mapping[str, Answer], protocol: Protocol) -> Score:
    """mIoU, R1, union IoU, F1, CountF1. Under "time_tokens" the best-scored span of an answer comes first."""
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
    duration: Callable[[str], float],
    media_names: Callable[[str], tuple[str, ...]] = lambda video_id: (video_id,),
    ids: Sequence[str] | None = None,
) -> list[Example]:
    """One example per video from (video, query, spans) rows; queries without a span that holds time are left out."""
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


def _one_file(files: Sequence[Path]) -> Path:
    if len(files) != 1:
        raise ValueError(f"one annotation file is needed, got {[str(path) for path in files]}")
    return files[0]


def _two_files(files: Sequence[Path], wish: str) -> tuple[Path, Path]:
    if len(files) != 2:
        raise ValueError(f"{wish}; got {[str(path) for path in files]}")
    return files[0], files[1]


METRICS = METRIC_NAMES["temporal_grounding"]
CHARADES_STA = Task("charades_sta", ("grounding",), METRICS, read_charades_sta, score_grounding)
DIDEMO = Task("didemo", ("grounding",), METRICS, read_didemo, score_grounding)
QVHIGHLIGHTS = Task("qvhighlights", ("grounding",), METRICS, read_qvhighlights, score_grounding)
