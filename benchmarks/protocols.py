"""How much the protocol changes the mIoU of one set of answers: the table of docs/evaluate.md.

    python -m benchmarks.protocols --unav100 unav100_annotations.json

The answers are simulated, because nobody published those of the released AVicuna weights: one span per query, which is
what these weights are reported to answer, drawn around an annotated span with an error that gives an mIoU of 50.4. All
rows score these same answers, except where the row says otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from eval.events_reading import Query, TextForm, read_queries
from eval.metrics.temporal_grounding.spans import assigned_ious, score_spans, union_iou
from eval.metrics.temporal_iou import pairwise_iou


PROGRAM = "python -m benchmarks.protocols"
PUBLISHED = 50.4  # mIoU of the released weights in one paper; another one reports 30.4 over 3,455 queries
UNREAD_SHARE = 0.1  # of the answers whose text has no readable time, in the rows about them
Spans = list[tuple[float, float]]


@dataclass
class Options:
    """Options of `python -m benchmarks.protocols`."""

    unav100: Path = field(metadata={"help": "unav100_annotations.json"})
    output: Path = field(default=RESULTS / "protocols.json", metadata={"help": "File for the figures."})


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(Options, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    queries = read_queries("unav100", [options.unav100], "test")
    present = [query for query in queries if query.spans]
    results = {
        "num_queries_of_present_classes": len(present),
        "num_queries_of_all_classes": len(queries),
        "num_events": sum(len(query.spans) for query in present),
        "rows": score_protocols(present, num_absent=len(queries) - len(present)),
    }
    write_results(options.output, conditions=describe_conditions(["numpy"], seed=0), results=results)


def score_protocols(present: Sequence[Query], *, num_absent: int) -> dict[str, float]:
    """mIoU in 0-100 of the simulated answers by protocol; the last rows are of other values and of other answers."""
    answers = calibrated_answers(present)
    references = [list(query.spans) for query in present]
    first = best_ious(answers, references)
    usual = score_spans(answers, references)
    whole = score_spans([[(0.0, duration_of(query))] for query in present], references)
    generator = np.random.default_rng(1)
    read = generator.uniform(size=len(present)) >= UNREAD_SHARE
    classes = np.unique([query.text for query in present], return_inverse=True)[1]
    per_event = [best_ious([said], [[span]])[0] for said, spans in zip(answers, references) for span in spans]
    one_to_one = [
        assigned_ious(pairwise_iou(np.array(s), np.array(r))).sum() / max(len(s), len(r))
        for s, r in zip(answers, references)
    ]
    seconds = misread(answers, present)
    union_of_seconds = np.array([union_iou(said, spans) for said, spans in zip(seconds, references)])
    union = np.array([union_iou(said, spans) for said, spans in zip(answers, references)])
    rows = {
        "the nearest annotated span": first.mean(),
        "the same, mean over classes": np.mean(np.bincount(classes, first) / np.bincount(classes)),
        "the first annotated span": best_ious(answers, [spans[:1] for spans in references]).mean(),
        "the union of the annotated spans": union.mean(),
        "one-to-one, a missed span counts 0": np.mean(one_to_one),
        "every annotated span is a query": np.mean(per_event),
        "nearest; 10 % of the texts unread, left out": first[read].mean(),
        "nearest; 10 % of the texts unread, count 0": (first * read).mean(),
        "union; 10 % of the texts unread, count 0": (union * read).mean(),
        "nearest; one absent class asked for each present one, answered with a span": first.mean() / 2,
        "nearest; all 100 classes asked, absent ones answered with a span": first.sum() / (len(first) + num_absent),
        "nearest; 00-99 read as seconds": best_ious(seconds, references).mean(),
        "union; 00-99 read as seconds": union_of_seconds.mean(),
        "union; 00-99 read as seconds; 10 % of the texts unread, count 0": (union_of_seconds * read).mean(),
        "F1@0.5 of these answers, mean over queries": usual["F1@0.5"] / 100,
        "F1@0.5 of these answers, over all spans together": 2 * (first >= 0.5).sum() / (len(first) + len(per_event)),
        "CountF1 of these answers": usual["CountF1"] / 100,
        "other answers: the whole video; nearest": whole["mIoU"] / 100,
        "other answers: the whole video; union": whole["union_IoU"] / 100,
        "other answers: the whole video; F1@0.5": whole["F1@0.5"] / 100,
    }
    return {name: round(100.0 * float(value), 1) for name, value in rows.items()}


def calibrated_answers(present: Sequence[Query]) -> list[Spans]:
    """One span per query whose mIoU with the nearest annotated span is `PUBLISHED`."""
    references = [list(query.spans) for query in present]
    generator = np.random.default_rng(0)
    chosen = [spans[generator.integers(len(spans))] for spans in references]
    errors = generator.normal(size=(len(present), 2))

    def answers(error: float) -> list[Spans]:
        said = []
        for query, (start, end), pair in zip(present, chosen, errors):
            duration = duration_of(query)
            times = np.clip(np.sort([start, end] + error * duration * pair), 0.0, duration)
            said.append([(float(times[0]), float(times[1]))])
        return said

    error = brentq(lambda error: 100.0 * best_ious(answers(error), references).mean() - PUBLISHED, 0.0, 1.0, xtol=1e-4)
    return answers(float(error))


def best_ious(answers: Sequence[Spans], references: Sequence[Sequence]) -> np.ndarray:
    """IoU of the first answered span with the nearest annotated one, `(num_queries,)`."""
    return np.array([pairwise_iou(np.array(s[:1]), np.array(r)).max() for s, r in zip(answers, references)])


def misread(answers: Sequence[Spans], present: Sequence[Query]) -> list[Spans]:
    """The answers in the words of the released weights, "From 03 to 17.", read as seconds."""
    read = []
    for query, ((start, end),) in zip(present, answers):
        duration = duration_of(query)
        text = "From {:02.0f} to {:02.0f}.".format(*(min(99, 100 * time / duration) for time in (start, end)))
        events = TextForm("seconds").read(text, duration).events
        read.append([(event.start, event.end) for event in events])
    return read


def duration_of(query: Query) -> float:
    if query.duration is None:
        raise ValueError(f"the annotation file has no duration of {query.video_id}")
    return query.duration


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
