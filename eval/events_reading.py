"""Reads the questions of annotation files and anybody's predictions for `eval.events`; no metric is computed here.

Annotation files are read as published, with the readers that training uses. A prediction is one JSON record: a text,
or spans in seconds. Texts are read by `modeling_avicuna.timestamp_avicuna`, the parser of this project's own model.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .light_import import import_light
from .metrics.event_localization.average_precision import drop_duplicate_references
from .metrics.open_ended_qa.answers import normalize_answer
from .thoughts import without_thoughts


TASKS = {
    "unav100": "UnAV-100's JSON: every class is a query of every video",
    "charades_sta": "Charades-STA's text file, and its csv with the durations if the texts need them",
    "didemo": "DiDeMo's JSON; the reference is the annotators' consensus span",
    "qvhighlights": "QVHighlights' JSON lines",
    "activitynet_captions": "val_1.json, or val_1.json and val_2.json: dense captioning",
    "spans": 'JSON lines, {"video_id", "query", "spans": [[start, end], ...]}; without a span the event is absent',
}
UNITS = ("relative", "seconds", "frames")
_RESULTS = re.compile(r'\s*\{[^{}]*"results"\s*:')  # how a submission to an ActivityNet challenge begins
NUM_EXAMPLES = 5  # per reason, in the result


@dataclass(frozen=True)
class Query:
    """A question of the annotation file.

    video_id (`str`): the video it is about.
    text (`str`): what is asked for: a class, a sentence; empty for a narration of the whole video.
    spans: its annotated times in seconds, or for a narration the events of each annotator; none: the event is absent.
    duration (`float`, *optional*): of the video, in seconds.
    copy (`int`): how many queries before it ask the same about the same video; published files repeat a few.
    """

    video_id: str
    text: str
    spans: tuple
    duration: float | None
    copy: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What a prediction names; case, outer punctuation and spaces do not count."""
        return self.video_id, normalize_answer(self.text)


@dataclass(frozen=True)
class TextForm:
    """How times in texts are meant: `unit` of a number without one, and the frames per second for "frames"."""

    unit: str = "relative"
    fps: float | None = None

    def read(self, text: str, duration: float) -> Any:
        """An `EventReading`. What a reasoning model thinks is not part of its answer."""
        timestamp = import_light("modeling_avicuna.timestamp_avicuna")
        answer = without_thoughts(text)
        if answer is None:
            return timestamp.EventReading([], [], [timestamp.Unread(text, "the thoughts have no end")])
        is_relative = self.unit == "relative"
        codec = timestamp.TimeCodec("relative" if is_relative else "seconds")
        if self.unit == "frames":
            codec = timestamp.FrameCodec(self.fps)
        return timestamp.read_events(answer, duration, codec=codec)


@dataclass
class Predictions:
    """What a file of predictions says.

    events: for each key the events of its answers: {"start", "end", "label", "score"}, in the order of the answer.
        The second answer with a key is about the second query with that key.
    not_read: reason -> pieces of texts that could not be read.
    unknown: lines about a video or a query that the annotation file does not have.
    without_class: labels of narrated events that are no class.
    """

    events: dict[tuple[str, str], list[list[dict[str, Any]]]] = field(default_factory=dict)
    not_read: dict[str, list[str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    without_class: list[str] = field(default_factory=list)

    def of(self, query: Query) -> list[dict[str, Any]]:
        """The events of an answer; none for a query without a prediction. One answer serves equal queries."""
        answers = self.events.get(query.key, [[]])
        return answers[query.copy] if len(answers) > 1 else answers[0]


def read_queries(task: str, files: Sequence[Path], subset: str | None) -> list[Query]:
    """The queries of annotation files.

    Raises:
        ValueError: a file that does not have the form of the task, or no query in it.
    """
    path, *more = files
    allowed = 2 if task in ("charades_sta", "activitynet_captions") else 1
    if len(files) > allowed:
        raise ValueError(f"--task {task} takes at most {allowed} annotation files, got {list(map(str, files))}")
    published = import_light("dataset_builders.sources.published_events")
    drop = import_light("dataset_builders.sources.records").refuse(path)
    if task == "unav100":
        queries = _class_queries(list(published.read_unav100(path, drop=drop)), subset)
    elif task == "activitynet_captions":
        queries = story_queries([list(published.read_activitynet_captions(file, drop=drop)) for file in files])
    elif task == "spans":
        queries = _own_queries(path)
    else:
        moments = list(getattr(published, f"read_{task}")(path, drop=drop))
        seconds = published.read_durations(more[0]) if more else {}
        chosen = (lambda spans: (published.consensus(spans),)) if task == "didemo" else tuple
        # as in eval/tasks: a span without length, and a query without another one, cannot be scored
        spans = [tuple((start, end) for start, end in chosen(moment.spans) if end > start) for moment in moments]
        queries = [
            Query(moment.video_id, moment.text, kept, moment.duration or seconds.get(moment.video_id))
            for moment, kept in zip(moments, spans)
            if kept
        ]
    if not queries:
        raise ValueError(f"{path} has no query of {task}" + (f" in subset {subset!r}" if task == "unav100" else ""))
    seen: Counter = Counter()
    for index, query in enumerate(queries):
        queries[index] = replace(query, copy=seen[query.key])
        seen[query.key] += 1
    return queries


def _class_queries(videos: Sequence[Any], subset: str | None) -> list[Query]:
    classes = sorted({event.text for video in videos for event in video.events})  # of all subsets, as in eval/tasks
    queries = []
    for video in videos:
        if subset is not None and video.subset != subset:
            continue
        rows = [{"label": event.text, "start": event.start, "end": event.end} for event in video.events]
        kept = drop_duplicate_references(rows)
        for name in classes:
            spans = tuple((row["start"], row["end"]) for row in kept if row["label"] == name)
            queries.append(Query(video.video_id, name, spans, video.duration))
    return queries


def story_queries(annotators: Sequence[Sequence[Any]]) -> list[Query]:
    """One query per video of any file, as in the challenge's evaluator, with the events of every annotator who has
    some."""
    by_id = [{video.video_id: video for video in videos} for videos in annotators]
    everyone: dict[str, Any] = {}
    for videos in by_id:
        everyone = everyone | {key: video for key, video in videos.items() if key not in everyone}
    queries = []
    for video_id, video in everyone.items():
        stories = [
            [
                {"start": event.start, "end": event.end, "caption": " ".join(event.text.split())}
                for event in videos[video_id].events
                if event.end > event.start
            ]
            for videos in by_id
            if video_id in videos
        ]
        if any(stories):
            queries.append(Query(video_id, "", tuple(story for story in stories if story), video.duration))
    return queries


def _own_queries(path: Path) -> list[Query]:
    queries: dict[tuple[str, str], Query] = {}
    for where, record in _records(path):
        query = _text_of(record, "query", where)
        spans = tuple((start, end) for start, end, _ in _checked_spans(record.get("spans"), where))
        if any(start >= end for start, end in spans):
            raise ValueError(f"{where} has a span that does not end after it starts: {list(spans)}")
        made = Query(_text_of(record, "video_id", where), query, spans, _duration_of(record, where))
        if made.key in queries:
            raise ValueError(f"{where} asks {query!r} about {made.video_id} a second time")
        queries[made.key] = made
    return list(queries.values())


def read_predictions(path: Path, queries: Sequence[Query], *, form: TextForm) -> Predictions:
    """Predictions of the queries.

    A line names a `video_id` (or `vid`) and a `query`, and has `spans` in seconds ([start, end] or [start, end,
    score]; also `pred_relevant_windows`), `events` ({"start", "end", "label", "score"}), or a `text`; where there are
    several, the first of these three counts. A `score` of the line is that of every span without its own; 1 if there
    is none. A line without a `query` narrates the video: the labels of its events are classes, or captions. `_records`
    has the forms of the file.

    Raises:
        ValueError: a line that does not have this form, or a query that is answered twice; file and line are named. Or
            no prediction of any query.
    """
    known: dict[tuple[str, str], list[Query]] = {}
    of_video: dict[str, list[Query]] = {}
    for query in queries:
        known.setdefault(query.key, []).append(query)
        of_video.setdefault(query.video_id, []).append(query)
    found = Predictions()
    for where, record in _records(path):
        video_id = _text_of(record, "vid" if "vid" in record else "video_id", where)
        text = _text_of(record, "query", where) if record.get("query") else ""
        asked = known.get((video_id, normalize_answer(text)), []) if text else of_video.get(video_id, [])
        if not asked:
            found.unknown.append(f"{where.rsplit(', ', 1)[1]}: {video_id} {text!r}")
            continue
        limit = len(asked) if text else 1  # a narration answers every query of its video
        if again := next((q for q in asked if len(found.events.get(q.key, [])) >= limit), None):
            raise ValueError(f"{where} answers the query {again.text!r} of {video_id} a second time")
        events = _events_of(record, asked[0], form=form, where=where, found=found)
        if text or not asked[0].text:
            found.events.setdefault(asked[0].key, []).append(events)
        elif any(not event["label"] for event in events) and "text" not in record:
            raise ValueError(f"{where} has spans, but neither a query nor labels that tell their classes")
        else:
            _sort_by_class(events, asked, found)
    if not found.events:
        raise ValueError(
            f"{path} has no prediction of a query of the annotation file, which begins with {queries[0].text!r} of "
            f"{queries[0].video_id!r}; {len(found.unknown)} other predictions, the first: {found.unknown[:1]}"
        )
    for key, answers in found.events.items():
        if 1 < len(answers) < len(known[key]):
            raise ValueError(
                f"{path} answers {known[key][0].text!r} of {key[0]} {len(answers)} times, the annotation file asks it "
                f"{len(known[key])} times: give one answer, or one for each"
            )
    return found


def _sort_by_class(events: list[dict], asked: Sequence[Query], found: Predictions) -> None:
    """Narrated events answer the query that their label names; labels that name none are kept for the report."""
    found.events |= {query.key: [[]] for query in asked}
    for event in events:
        key = (asked[0].video_id, normalize_answer(event["label"]))
        if key in found.events:
            found.events[key][0].append(event)
        else:
            found.without_class.append(event["label"])


def _events_of(
    record: Mapping, query: Query, *, form: TextForm, where: str, found: Predictions
) -> list[dict[str, Any]]:
    """The events of one line. What cannot be read in its text is added to `found.not_read`."""
    score = 1.0 if record.get("score") is None else record["score"]
    if not _is_number(score):
        raise ValueError(f"{where} has {score!r:.60} where a score is expected")
    spans = record.get("spans", record.get("pred_relevant_windows"))
    if spans is not None:
        rows = _checked_spans(spans, where, score=score)
        return [{"start": start, "end": end, "label": "", "score": value} for start, end, value in rows]
    if record.get("events") is not None:
        return [_checked_event(event, where, score=score) for event in _list_of(record["events"], where)]
    if not isinstance(record.get("text"), str):
        raise ValueError(f"{where} has neither a text nor a list of spans or events")
    duration = _duration_of(record, where) or query.duration
    if duration is None:
        raise ValueError(f"{where} needs a duration: the annotation file has none for {query.video_id}")
    reading = form.read(record["text"], float(duration))
    for piece in reading.unread:
        found.not_read.setdefault(piece.reason, []).append(f"{where.rsplit(', ', 1)[1]}: {piece.text[:200]!r}")
    return [{"start": e.start, "end": e.end, "label": e.label, "score": float(score)} for e in reading.events]


def _records(path: Path) -> Iterator[tuple[str, dict]]:
    """("FILE, line N" or "FILE, record N", record) of JSON lines, of a JSON list, or of a submission to an ActivityNet
    challenge, `{"results": {video id: [event, ...]}}`."""
    files = import_light("dataset_builders.sources.annotation_files")
    text = files.read_text(path)
    if text.lstrip()[:1] == "[" or _RESULTS.match(text):
        content = files.read_json(path)
        if isinstance(content, dict):
            if not isinstance(content["results"], dict):
                raise ValueError(f"{path}: 'results' is not an object of videos")
            content = [{"video_id": video_id, "events": events} for video_id, events in content["results"].items()]
        numbered = ((f"{path}, record {number}", record) for number, record in enumerate(content, start=1))
    else:
        lines = ((f"{path}, line {number}", line) for number, line in files.read_lines(path))
        numbered = ((where, _parse_line(line, where)) for where, line in lines)
    for where, record in numbered:
        if not isinstance(record, dict):
            raise ValueError(f"{where} is not an object: {record!r:.60}")
        yield where, record


def _parse_line(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def _duration_of(record: Mapping, where: str) -> float | None:
    duration = record.get("duration")
    if duration is not None and not (_is_number(duration) and duration > 0):
        raise ValueError(f"{where} has {duration!r:.60} where a duration in seconds is expected")
    return duration


def _text_of(record: Mapping, name: str, where: str) -> str:
    value = record.get(name)
    if name in ("vid", "video_id") and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # annotation files are read in the same way
    if not isinstance(value, str):
        raise ValueError(f"{where} has no text in {name!r}")
    return value


def _list_of(value: Any, where: str) -> list:
    if not isinstance(value, list):
        raise ValueError(f"{where} has {value!r:.60} where a list is expected")
    return value


def _checked_spans(spans: Any, where: str, *, score: float = 1.0) -> list[tuple[float, float, float]]:
    rows = []
    for span in _list_of(spans, where):
        row = [*span, score] if isinstance(span, list) and len(span) == 2 else span
        if not isinstance(row, list) or len(row) != 3 or not all(map(_is_number, row)):
            raise ValueError(f"{where} has a span that is not two times, or two times and a score: {span!r:.80}")
        rows.append((float(row[0]), float(row[1]), float(row[2])))
    return rows


def _checked_event(event: Any, where: str, *, score: float) -> dict[str, Any]:
    if not isinstance(event, dict):
        raise ValueError(f"{where} has an event that is not an object: {event!r:.80}")
    given = score if event.get("score") is None else event["score"]
    numbers: dict[str, Any] = {"start": event.get("start"), "end": event.get("end"), "score": given}
    span = event.get("segment", event.get("timestamp"))  # of the challenges' submissions
    if isinstance(span, list) and len(span) == 2:
        numbers |= {"start": span[0], "end": span[1]}
    label = event.get("label", event.get("caption", event.get("sentence", "")))
    if not all(map(_is_number, numbers.values())) or not isinstance(label, str):
        raise ValueError(f"{where} has an event without numbers in start and end, or without a text: {event!r:.80}")
    return {"label": label, **numbers}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
