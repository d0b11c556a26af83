"""Scores anybody's predictions of timed events: texts or spans, of any model, without torch.

    python -m eval.events --task unav100 --annotations unav100_annotations.json --predictions predictions.jsonl

Each line of the predictions answers one query: `{"video_id": ..., "query": ..., "text": "From 03 to 17."}`, or
`{..., "spans": [[start, end], ...]}` in seconds, optionally with `score` (of the line, or a third number of each
span). In UnAV-100's form every class is a query of every video. Each value is printed with a 95 % interval by
bootstrap over videos. It needs numpy and scipy alone.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from .light_import import import_light
from .metrics.event_localization.average_precision import drop_duplicate_references, mean_average_precision
from .metrics.temporal_grounding.spans import score_queries_by_count, score_spans


TASKS = ("unav100", "charades_sta", "didemo", "qvhighlights")
UNITS = {"relative": "steps of 1/100 of the video (00-99)", "seconds": "seconds"}


@dataclass(frozen=True)
class Query:
    """A question of the annotation file: `spans` are its annotated times in seconds; none: the event is absent.

    `copy` distinguishes the copies of a video that the bootstrap draws several times.
    """

    video_id: str
    text: str
    spans: tuple[tuple[float, float], ...]
    duration: float | None
    copy: int = 0


@dataclass(frozen=True)
class Prediction:
    """The answer to a query: spans in seconds with a score each, in the order of the answer."""

    spans: tuple[tuple[float, float, float], ...]


class OneLineParser(argparse.ArgumentParser):
    """Errors are one line. `dataset_builders.command_line` has the same for commands that may import transformers."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m eval.events", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--task", required=True, choices=TASKS, help="form of the annotation file")
    parser.add_argument("--annotations", required=True, type=Path)
    parser.add_argument("--predictions", required=True, type=Path, help="JSON lines, one per query")
    parser.add_argument("--subset", default="test", help="of a file in UnAV-100's form")
    parser.add_argument("--unit", choices=UNITS, default="relative", help="meaning of a time without a unit in a text")
    parser.add_argument("--num-resamples", "--num_resamples", type=int, default=200, help="of the bootstrap; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the values")
    options = parser.parse_args(arguments)
    queries = read_queries(options.task, options.annotations, options.subset)
    predictions, unread, unknown = read_predictions(options.predictions, queries, unit=options.unit)
    score = score_classes if options.task == "unav100" else score_moments
    values = score(queries, predictions)
    intervals = bootstrap(queries, predictions, score, num_resamples=options.num_resamples, seed=options.seed)
    counts = {
        "num_videos": len({query.video_id for query in queries}),
        "num_queries": len(queries),
        "num_without_prediction": sum((q.video_id, _key(q.text)) not in predictions for q in queries),
        "num_predictions_of_unknown_queries": len(unknown),
        "num_texts_not_fully_read": len(unread),
    }
    protocol = {"times_in_texts": UNITS[options.unit], "missing_prediction": "counts as an answer without a span"}
    result = {"task": options.task, "values": values, "intervals": intervals, "counts": counts, "protocol": protocol}
    result |= {"not_read": unread[:20], "unknown_queries": unknown[:20]}
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, value in values.items():
        low, high = intervals.get(name, (math.nan, math.nan))
        print(f"{name:<22} {value:7.2f}   [{low:.2f}, {high:.2f}]")
    for name, count in counts.items():
        print(f"{name:<36} {count}")


def read_queries(task: str, path: Path, subset: str | None) -> list[Query]:
    """The queries of an annotation file, as published.

    Raises:
        ValueError: the file does not have the form of the task, or no query.
    """
    published = import_light("dataset_builders.sources.published_events")
    drop = import_light("dataset_builders.sources.records").refuse(path)
    if task == "unav100":
        videos = [v for v in published.read_unav100(path, drop=drop) if subset is None or v.subset == subset]
        classes = sorted({event.text for video in videos for event in video.events})
        queries = [
            Query(video.video_id, name, _class_spans(video.events, name), video.duration)
            for video in videos
            for name in classes
        ]
    else:
        moments = list(getattr(published, f"read_{task}")(path, drop=drop))
        chosen = (lambda spans: (published.consensus(spans),)) if task == "didemo" else tuple
        queries = [Query(m.video_id, m.text, chosen(m.spans), m.duration) for m in moments]
        queries = [query for query in queries if any(end > start for start, end in query.spans)]
    if not queries:
        raise ValueError(f"{path} has no query of {task}" + (f" in subset {subset!r}" if task == "unav100" else ""))
    return queries


def _class_spans(events: Sequence[Any], name: str) -> tuple[tuple[float, float], ...]:
    rows = [{"label": name, "start": event.start, "end": event.end} for event in events if event.text == name]
    return tuple((row["start"], row["end"]) for row in drop_duplicate_references(rows))


def read_predictions(
    path: Path, queries: Sequence[Query], *, unit: str
) -> tuple[dict[tuple[str, str], Prediction], list[str], list[str]]:
    """Predictions by video and query, the texts of which something could not be read, and the lines of unknown
    queries.

    Raises:
        ValueError: a line that is not of the documented form, or a query that is answered twice.
    """
    known = {(query.video_id, _key(query.text)): query for query in queries}
    found: dict[tuple[str, str], Prediction] = {}
    unread, unknown = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        record = _record(line, where)
        key = (record["video_id"], _key(record["query"]))
        if key not in known:
            unknown.append(f"line {number}: {record['video_id']} {record['query']!r}")
        elif key in found:
            raise ValueError(f"{where} answers the query {record['query']!r} of {record['video_id']} a second time")
        else:
            found[key], was_read = _prediction(record, known[key], unit=unit, where=where)
            unread += [] if was_read else [f"line {number}: {record['text']!r}"]
    return found, unread, unknown


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    names = ("video_id", "query")
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in names):
        raise ValueError(f"{where} has no text in one of {', '.join(names)}")
    if isinstance(record.get("text"), str) == isinstance(record.get("spans"), list):
        raise ValueError(f"{where} must have either a text or a list of spans")
    return record


def _prediction(record: dict[str, Any], query: Query, *, unit: str, where: str) -> tuple[Prediction, bool]:
    """The spans of a record, and whether all of its text could be read."""
    score = record.get("score", 1.0)
    if "text" in record:
        duration = record.get("duration", query.duration)
        if duration is None:
            raise ValueError(f"{where} needs a duration: the annotation file has none for {query.video_id}")
        timestamp = import_light("modeling_avicuna.timestamp_avicuna")
        reading = timestamp.read_events(record["text"], float(duration), codec=timestamp.TimeCodec(unit=unit))
        rows = [[event.start, event.end, score] for event in reading.events]
        was_read = not reading.unread
    else:
        rows, was_read = [[*span, score][:3] if len(span) == 2 else span for span in record["spans"]], True
    if not all(len(row) == 3 and all(isinstance(x, (int, float)) and math.isfinite(x) for x in row) for row in rows):
        raise ValueError(f"{where} has a span that is not two times, or two times and a score")
    return Prediction(tuple((float(start), float(end), float(value)) for start, end, value in rows)), was_read


def score_moments(queries: Sequence[Query], predictions: dict[tuple[str, str], Prediction]) -> dict[str, float]:
    """mIoU, R1@m, union IoU, F1@m, CountF1; the span with the highest score first, equal ones in the given order."""
    said = [_spans_of(query, predictions) for query in queries]
    ranked = [[span[:2] for span in sorted(spans, key=lambda span: -span[2])] for spans in said]
    return score_spans(ranked, [query.spans for query in queries])


def score_classes(queries: Sequence[Query], predictions: dict[tuple[str, str], Prediction]) -> dict[str, float]:
    """mAP over all queries, the values of `score_moments` over the present classes, rejection of the absent ones."""
    said = [_spans_of(query, predictions) for query in queries]
    events: dict[tuple[str, int], tuple[list[dict], list[dict]]] = {(q.video_id, q.copy): ([], []) for q in queries}
    for query, spans in zip(queries, said):
        predicted, annotated = events[query.video_id, query.copy]
        predicted += [{"start": s, "end": e, "label": query.text, "score": score} for s, e, score in spans]
        annotated += [{"start": s, "end": e, "label": query.text} for s, e in query.spans]
    values = mean_average_precision([p for p, _ in events.values()], [a for _, a in events.values()])
    values |= score_moments([query for query in queries if query.spans], predictions)
    return values | score_queries_by_count([len(spans) for spans in said], [len(query.spans) for query in queries])


def _spans_of(query: Query, predictions: dict[tuple[str, str], Prediction]) -> tuple[tuple[float, float, float], ...]:
    found = predictions.get((query.video_id, _key(query.text)))
    return found.spans if found else ()


def bootstrap(
    queries: Sequence[Query],
    predictions: dict[tuple[str, str], Prediction],
    score: Callable[[Sequence[Query], dict[tuple[str, str], Prediction]], dict[str, float]],
    *,
    num_resamples: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals: the videos are drawn with replacement and everything is scored again."""
    by_video: dict[str, list[Query]] = {}
    for query in queries:
        by_video.setdefault(query.video_id, []).append(query)
    videos, generator = list(by_video), np.random.default_rng(seed)
    rows = []
    for _ in range(num_resamples):
        drawn = generator.integers(len(videos), size=len(videos))
        # a video that is drawn twice counts as two videos
        sample = [replace(query, copy=copy) for copy, index in enumerate(drawn) for query in by_video[videos[index]]]
        rows.append(score(sample, predictions))
    intervals = {}
    for name in rows[0] if rows else ():
        low, high = np.percentile([row[name] for row in rows], [2.5, 97.5])
        intervals[name] = (float(low), float(high))
    return intervals


def _key(text: str) -> str:
    """A query without differences of case, spaces and a final full stop."""
    return " ".join(text.lower().split()).rstrip(".")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"python -m eval.events: error: {' '.join(str(error).split())}")
