"""Compares the values of `eval.events` with those of the metrics' authors' own code, on the same prediction files.

    python -m benchmarks.authors_metrics --repositories DIR --unav100 unav100_annotations.json \
        --qvhighlights highlight_val_release.jsonl --activitynet val_1.json --meteor-jar meteor-1.5.jar

`--repositories` holds clones of ttgeng233/UnAV, jayleicn/moment_detr, open-compass/VLMEvalKit, fujiso/SODA and
ranjaykrishna/densevid_eval, under their own names. Their code is imported from there and none of it is copied. It
needs pandas, joblib, scikit-learn, pycocoevalcap and Java. `--golden FILE` writes the values for made-up events, which
tests/test_authors_metrics.py compares without these repositories.
"""

import contextlib
import importlib
import io
import json
import random
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.conditions import RESULTS, describe_conditions, write_results
from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.sources.annotation_files import read_json, read_json_records
from eval.events import choose_meteor
from eval.events_reading import TextForm, read_predictions, read_queries
from eval.events_scoring import prepare, video_indices


PROGRAM = "python -m benchmarks.authors_metrics"
TIOUS = [0.3, 0.5, 0.7, 0.9]
NUM_STORIES = 100  # videos of val_1
WORDS = "a the dog barks man woman plays sings red ball in on park street then it they he runs jumps guitar".split()


@dataclass
class Options:
    """Options of `python -m benchmarks.authors_metrics`."""

    repositories: Path = field(metadata={"help": "Folder with clones of the authors' repositories."})
    unav100: Path = field(metadata={"help": "unav100_annotations.json"})
    qvhighlights: Path = field(metadata={"help": "highlight_val_release.jsonl"})
    activitynet: Path = field(metadata={"help": "val_1.json of ActivityNet Captions"})
    meteor_jar: Path = field(metadata={"help": "meteor-1.5.jar"})
    output: Path = field(default=RESULTS / "authors_metrics.json", metadata={"help": "File for the figures."})
    golden: Path | None = field(default=None, metadata={"help": "Also write the values of made-up events here."})


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(Options, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    conditions = describe_conditions(["numpy", "scipy"], seed=0, num_stories=NUM_STORIES)
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "UnAV-100, perturbed annotations": compare_unav100(options, Path(folder)),
            "QVHighlights, Moment-DETR's own predictions": compare_moment_detr(options, Path(folder)),
            "QVHighlights, Moment-DETR's disjoint spans": compare_omtg(options, Path(folder)),
            "ActivityNet Captions, perturbed captions": compare_stories(options, Path(folder)),
            "the same captions without letters outside ASCII": compare_stories(options, Path(folder), ascii_only=True),
        }
    if options.golden:
        write_golden(options)
    write_results(options.output, conditions=conditions, results=results)


def ours(task: str, annotations: Path, predictions: Path, *, meteor_jar: Path | None = None) -> dict[str, float]:
    """The values of `eval.events` without intervals."""
    queries = read_queries(task, [annotations], "test")
    said = read_predictions(predictions, queries, form=TextForm())
    meteor, _ = choose_meteor(meteor_jar)
    return prepare(task, queries, said, meteor=meteor)(np.ones(len(video_indices(queries)), int))


def side_by_side(authors: dict[str, float], mine: dict[str, float]) -> dict[str, dict[str, float]]:
    """Both values of every name that the authors' code gives, and the largest difference."""
    rows = {name: {"authors": round(value, 6), "ours": round(mine[name], 6)} for name, value in authors.items()}
    largest = max(abs(value - mine[name]) for name, value in authors.items())
    return {**rows, "largest_difference": {"absolute": float(f"{largest:.2g}")}}


def compare_unav100(options: Options, folder: Path) -> dict[str, Any]:
    database = read_json(options.unav100)["database"]
    videos = {name: video for name, video in database.items() if video["subset"] == "test"}
    labels = {event["label"]: event["label_id"] for video in database.values() for event in video["annotations"]}
    rng, rows = random.Random(0), []
    for name, video in videos.items():
        for event in video["annotations"]:
            start, end = event["segment"]
            for _ in range(rng.choice([0, 1, 1, 2])):
                label = event["label"] if rng.random() < 0.8 else rng.choice(list(labels))
                rows.append((name, label, start + rng.gauss(0, 2), end + rng.gauss(0, 2), rng.random()))
    events: dict[str, list[dict]] = {name: [] for name in videos}
    for name, *event in rows:
        events[name].append(dict(zip(("label", "start", "end", "score"), event)))
    lines = [{"video_id": name, "events": said} for name, said in events.items()]
    (folder / "unav.json").write_text(json.dumps({"database": database}))
    mine = ours("unav100", options.unav100, write_lines(folder / "unav.jsonl", lines))
    detection = official_unav(options.repositories / "UnAV", folder / "unav.json")
    columns = [np.array(column) for column in zip(*rows)]
    given = {"video-id": list(columns[0]), "label": np.array([labels[label] for label in columns[1]])}
    given |= {name: column.astype(float) for name, column in zip(("t-start", "t-end", "score"), columns[2:])}
    means, average = detection.evaluate(given, verbose=False)
    authors = {f"mAP@0.{n}": 100.0 * value for n, value in enumerate(means, start=1)}
    return side_by_side({**authors, "average_mAP": 100.0 * average}, mine)


def compare_moment_detr(options: Options, folder: Path) -> dict[str, Any]:
    predictions = options.repositories / "moment_detr/standalone_eval/sample_val_preds.jsonl"
    truth = read_json_records(options.qvhighlights)
    said = read_json_records(predictions)
    mine = ours("qvhighlights", options.qvhighlights, predictions)
    return side_by_side(moment_detr_values(options, said, truth), mine)


def moment_detr_values(options: Options, said: list[dict], truth: list[dict]) -> dict[str, float]:
    evaluator = import_from(options.repositories / "moment_detr", "standalone_eval.eval")
    precision = evaluator.compute_mr_ap(said, truth, num_workers=1)  # rounded to two decimals
    first = evaluator.compute_mr_r1(said, truth)
    values = {"MR-mAP@0.5": precision["0.5"], "MR-mAP@0.75": precision["0.75"], "MR-mAP": precision["average"]}
    return values | {"R1@0.5": first["0.5"], "R1@0.7": first["0.7"]}


def compare_omtg(options: Options, folder: Path) -> dict[str, Any]:
    """Spans above a score of 0.1 that do not touch a better one. Where spans of one answer touch, the authors' code
    makes the earlier one longer before it compares it (it merges the spans in the caller's list); ours does not."""
    predictions = options.repositories / "moment_detr/standalone_eval/sample_val_preds.jsonl"
    truth = {row["qid"]: row for row in read_json_records(options.qvhighlights)}
    lines, pairs, kept = [], [], []
    for row in read_json_records(predictions):
        references = truth[row["qid"]]["relevant_windows"]
        spans = disjoint([window for window in row["pred_relevant_windows"] if window[2] > 0.1])
        if len(disjoint(references)) == len(references):
            lines.append({"video_id": row["vid"], "query": row["query"], "spans": spans})
            pairs.append((spans, references))
            kept.append(truth[row["qid"]])
    annotations = write_lines(folder / "windows.jsonl", kept)
    mine = ours("qvhighlights", annotations, write_lines(folder / "omtg.jsonl", lines))
    return {"num_queries": len(pairs), **side_by_side(omtg_values(options, pairs), mine)}


def omtg_values(options: Options, pairs: Sequence[tuple[list, list]]) -> dict[str, float]:
    source = (options.repositories / "VLMEvalKit/vlmeval/dataset/omtgbench.py").read_text()
    # the functions alone: the class below them needs the whole kit
    names: dict[str, Any] = {}
    exec(re.sub(r"^from (?:\.|hugging).*$", "", source.split("class OMTGBench")[0], flags=re.MULTILINE), names)
    rows = [names["compute_one_to_many_metrics"]([list(s) for s in p], [list(s) for s in r]) for p, r in pairs]
    theirs = {"tIoU": "union_IoU", "C-Acc": "count_accuracy", "EtF1": "EtF1"} | {
        f"tF1@{t}": f"tF1@{t}" for t in TIOUS[:3]
    }
    return {name: 100.0 * float(np.mean([row[key] for row in rows])) for key, name in theirs.items()}


def compare_stories(options: Options, folder: Path, *, ascii_only: bool = False) -> dict[str, Any]:
    videos = dict(list(read_json(options.activitynet).items())[:NUM_STORIES])
    rng = random.Random(0)
    said = {}
    for name, video in videos.items():
        video["sentences"] = [" ".join(text.split()) for text in video["sentences"]]
        if ascii_only:
            video["sentences"] = ["".join(c if c.isascii() else " " for c in text) for text in video["sentences"]]
        said[name] = perturbed_story(video, rng)
    (folder / "val.json").write_text(json.dumps(videos))
    lines = [{"video_id": name, "events": events} for name, events in said.items()]
    jar = options.meteor_jar
    mine = ours("activitynet_captions", folder / "val.json", write_lines(folder / "s.jsonl", lines), meteor_jar=jar)
    return side_by_side(story_values(options, folder, videos, said), mine)


def perturbed_story(video: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
    """The events with other times and fewer words, and some that overlap nothing."""
    events = []
    for (start, end), text in zip(video["timestamps"], video["sentences"]):
        words = [word for word in text.split() if rng.random() < rng.choice([0.7, 1.0])]
        times = max(0.0, start + rng.gauss(0, 4)), end + rng.gauss(0, 4)
        events.append({"start": times[0], "end": times[1], "caption": " ".join(words) or "a man"})
    if rng.random() < 0.3:
        events.append({"start": 5000.0, "end": 6000.0, "caption": "a person dances in a room"})
    return sorted(events, key=lambda event: event["start"])


def story_values(options: Options, folder: Path, videos: dict, said: dict, similarity: Any = None) -> dict[str, float]:
    """densevid_eval's and SODA's values; with `similarity` in place of METEOR, SODA's alone."""
    results = {
        name: [{"sentence": e["caption"], "timestamp": [e["start"], e["end"]]} for e in events]
        for name, events in said.items()
    }
    (folder / "said.json").write_text(json.dumps({"results": results, "version": "", "external_data": ""}))
    (folder / "truth.json").write_text(json.dumps(videos))
    soda = import_from(options.repositories / "SODA", "soda")
    with contextlib.redirect_stdout(io.StringIO()):
        paths = [str(folder / "truth.json")], str(folder / "said.json")
        data = soda.ANETCaptions.from_load_files(*paths, multi_reference=False)  # as their command line
        data.preprocess()
        scorer = soda.SODA(data)
        scorer.scorer = similarity or scorer.scorer
        values = {"SODA_c": 100.0 * scorer.evaluate()["Meteor"][2]}
        if similarity is None:
            names = {"__name__": "densevid_eval"}
            exec(as_python_3((options.repositories / "densevid_eval/evaluate.py").read_text()), names)
            challenge: Any = names["ANETcaptions"]
            evaluator = challenge(*paths, TIOUS, verbose=True)
            evaluator.scorers = [pair for pair in evaluator.scorers if pair[1] in ("METEOR", "CIDEr")]
            evaluator.evaluate()
            theirs = {"METEOR": "METEOR", "CIDEr": "CIDEr", "Precision": "precision", "Recall": "recall"}
            values |= {name: 100.0 * float(np.mean(evaluator.scores[key])) for key, name in theirs.items()}
    return values


def as_python_3(source: str) -> str:
    """densevid_eval is Python 2: print statements, `sets`, `xrange`, and values() as a list."""
    source = source.replace("from sets import Set", "Set = set").replace("xrange", "range")
    source = re.sub(r"^(\s*)print .*$", r"\1pass", source, flags=re.MULTILINE)
    return source.replace("all_scores.values()", "list(all_scores.values())")


class WordOverlap:
    """Share of common words of two captions: in place of METEOR, so that the golden values need no Java."""

    suffix = ""

    def compare(self, pairs: Sequence[tuple[str, str]]) -> tuple[float, list[float]]:
        """As `eval`'s METEOR classes."""
        sets = [(set(one.split()), set(other.split())) for one, other in pairs]
        scores = [len(one & other) / len(one | other) for one, other in sets]
        return float(np.mean(scores)) if scores else 0.0, scores

    def compute_score(self, references: dict[int, Any], captions: dict[int, Any]) -> tuple[float, np.ndarray]:
        """As pycocoevalcap's scorers."""
        mean, scores = self.compare([(references[key][0], captions[key][0]) for key in references])
        return mean, np.array(scores)


def write_golden(options: Options) -> None:
    """Made-up events, and what the authors' code says about them."""
    rng = random.Random(1)
    moments = []
    for number in range(60):
        truth = [
            [start := round(rng.uniform(0, 120), 1), round(start + rng.uniform(2, 30), 1)]
            for _ in range(1 + number % 4)
        ]
        said = [[round(s + rng.gauss(0, 3), 1), round(e + rng.gauss(0, 3), 1)] for s, e in truth if rng.random() < 0.8]
        said += [
            [start := round(rng.uniform(0, 120), 1), round(start + rng.uniform(2, 30), 1)]
            for _ in range(rng.randint(0, 2))
        ]
        said = [[s, max(e, s + 0.1), round(rng.random(), 4)] for s, e in said] or [[0.0, 1.0, 0.5]]
        moments.append({"truth": truth, "said": sorted(said, key=lambda span: -span[2])})
    submission = [{"qid": n, "pred_relevant_windows": row["said"]} for n, row in enumerate(moments)]
    truths = [{"qid": n, "relevant_windows": row["truth"]} for n, row in enumerate(moments)]
    videos = {}
    for number in range(30):
        times = [
            [start := round(rng.uniform(0, 60), 1), round(start + rng.uniform(2, 30), 1)]
            for _ in range(rng.randint(1, 6))
        ]
        texts = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 12))) for _ in times]
        videos[f"v{number}"] = {"duration": 100.0, "timestamps": times, "sentences": texts}
    said_stories = {name: perturbed_story(video, rng) for name, video in videos.items()}
    with tempfile.TemporaryDirectory() as folder:
        stories = story_values(options, Path(folder), videos, said_stories)
        overlap = story_values(options, Path(folder), videos, said_stories, WordOverlap())["SODA_c"]
    values = {
        "moment_detr": moment_detr_values(options, submission, truths),
        "omtg": omtg_values(options, [(disjoint(row["said"]), disjoint(row["truth"])) for row in moments]),
        "densevid_eval": {name: value for name, value in stories.items() if name != "SODA_c"},
        "soda": {"SODA_c": stories["SODA_c"], "SODA_c of word overlap": overlap},
    }
    golden = {
        "moments": moments,
        "stories": {name: [videos[name], said_stories[name]] for name in videos},
        "values": values,
    }
    assert options.golden is not None
    options.golden.write_text(json.dumps(golden, separators=(",", ":")) + "\n", encoding="utf-8")


def disjoint(spans: Sequence[Sequence[float]]) -> list[list[float]]:
    """The spans that do not touch an earlier one of the list."""
    kept: list[list[float]] = []
    for start, end, *_ in spans:
        if all(end < other[0] or other[1] < start for other in kept):
            kept.append([start, end])
    return kept


def official_unav(clone: Path, annotations: Path) -> Any:
    """The official evaluator of UnAV-100 for the test videos of an annotation file."""
    vars(np)["float"] = float  # it was written for numpy 1.23
    metrics = import_from(clone / "libs/utils", "metrics")
    return metrics.ANETdetection(str(annotations), "test", np.linspace(0.1, 0.9, 9), num_workers=1)


def import_from(folder: Path, name: str) -> ModuleType:
    """A module of a clone; modules of the same name from another clone are forgotten first."""
    for known in [key for key in sys.modules if key.split(".")[0] in ("utils", "dataset", "standalone_eval")]:
        del sys.modules[known]
    sys.path.insert(0, str(folder.resolve()))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def write_lines(path: Path, records: Sequence[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
