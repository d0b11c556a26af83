"""The evaluator of anybody's predictions: runs without torch, reads spans and texts, counts what it cannot read."""

import json
import subprocess
import sys

import pytest

from eval import events
from eval.metrics.event_localization.average_precision import mean_average_precision


# the libraries of the training environment; importing one of them fails
BLOCKED = ("torch", "transformers", "datasets", "evaluate", "accelerate", "modeling_avicuna", "dataset_builders")
RUN_BLOCKED = f"""
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
sys.argv = ["eval.events", *sys.argv[1:]]
runpy.run_module("eval.events", run_name="__main__")
"""


@pytest.fixture
def annotations(tmp_path):
    """Two videos of 100 s and two classes; rain is absent from the second video."""
    rows = {"a": [([0, 10], "dog"), ([40, 60], "dog"), ([5, 20], "rain")], "b": [([50, 90], "dog")]}
    database = {
        name: {
            "duration": 100.0,
            "subset": "test",
            "annotations": [
                {"segment": segment, "label": label, "label_id": ["dog", "rain"].index(label)}
                for segment, label in parts
            ],
        }
        for name, parts in rows.items()
    }
    (tmp_path / "annotations.json").write_text(json.dumps({"database": database}))
    return tmp_path / "annotations.json"


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def said(video_id, query, said, **more):
    return {"video_id": video_id, "query": query, "text" if isinstance(said, str) else "spans": said, **more}


def evaluate(annotations, path, *more, task="unav100"):
    output = path.with_suffix(".values.json")
    words = ["--task", task, "--annotations", str(annotations), "--predictions", str(path), "--output", str(output)]
    events.main([*words, *more])
    return json.loads(output.read_text())


def test_texts_and_spans_of_the_truth_score_100_with_tight_intervals(annotations, tmp_path):
    lines = [
        said("a", "Dog.", "From 00 to 10 and from 40 to 60."),
        said("a", "rain", [[5, 20]], score=0.5),
        said("b", "dog", "0:50 - 1:30"),
        said("b", "rain", "It does not happen."),
    ]
    result = evaluate(annotations, write_lines(tmp_path / "p.jsonl", *lines), "--num_resamples", "20")
    expected = (
        "average_mAP",
        "mIoU",
        "R1@0.7",
        "union_IoU",
        "F1@0.5",
        "CountF1",
        "rejection_precision",
        "rejection_F1",
    )
    assert all(result["values"][name] == pytest.approx(100.0) for name in expected), result
    assert all(result["intervals"][name] == pytest.approx([100.0, 100.0]) for name in expected)
    assert result["counts"] == {
        "num_videos": 2,
        "num_queries": 4,
        "num_without_prediction": 0,
        "num_predictions_of_unknown_queries": 0,
        "num_texts_not_fully_read": 0,
    }


def test_values_are_those_of_the_metrics_and_what_is_missing_is_counted(annotations, tmp_path):
    lines = [
        said("a", "dog", [[0, 10, 0.9], [70, 80, 0.8]]),
        said("b", "dog", "It barks a lot."),
        said("b", "rain", [[0, 5]], score=0.95),
        said("c", "dog", [[0, 5]]),
    ]
    result = evaluate(annotations, write_lines(tmp_path / "p.jsonl", *lines), "--num-resamples", "0")
    truth = [
        [{"start": 0, "end": 10, "label": "dog"}, {"start": 40, "end": 60, "label": "dog"}]
        + [{"start": 5, "end": 20, "label": "rain"}],
        [{"start": 50, "end": 90, "label": "dog"}],
    ]
    predicted = [
        [
            {"start": 0, "end": 10, "label": "dog", "score": 0.9},
            {"start": 70, "end": 80, "label": "dog", "score": 0.8},
        ],
        [{"start": 0, "end": 5, "label": "rain", "score": 0.95}],
    ]
    assert result["values"]["average_mAP"] == pytest.approx(mean_average_precision(predicted, truth)["average_mAP"])
    assert result["values"]["rejection_recall"] == 0.0 and result["values"]["mIoU"] == pytest.approx(100 / 3)
    assert result["counts"]["num_without_prediction"] == 1 and result["counts"]["num_texts_not_fully_read"] == 1
    assert result["unknown_queries"] == ["line 4: c 'dog'"] and result["intervals"] == {}


def test_the_other_forms_are_read(tmp_path):
    record = {"qid": 1, "vid": "v", "duration": 150, "query": "A dog barks.", "relevant_windows": [[10, 20], [30, 40]]}
    moments = write_lines(tmp_path / "highlight.jsonl", record)
    path = write_lines(tmp_path / "p.jsonl", said("v", "a dog barks", "10 to 20 seconds, 30 to 40 seconds"))
    result = evaluate(moments, path, "--unit", "seconds", "--num-resamples", "5", task="qvhighlights")
    assert result["values"]["mIoU"] == 100.0 and result["values"]["CountF1"] == 100.0


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 1 is not JSON"),
        ('{"video_id": "a"}', "line 1 has no text in one of video_id, query"),
        (json.dumps({"video_id": "a", "query": "dog"}), "must have either a text or a list of spans"),
        (json.dumps(said("a", "dog", [[0]])), "a span that is not two times"),
        (json.dumps(said("a", "dog", [[0, float("nan")]])), "a span that is not two times"),
        ("\n".join([json.dumps(said("a", "dog", [[0, 1]]))] * 2), "line 2 answers the query 'dog' of a a second time"),
    ],
)
def test_a_wrong_line_is_named(annotations, tmp_path, line, message):
    (tmp_path / "p.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        evaluate(annotations, tmp_path / "p.jsonl")


def test_it_runs_with_numpy_and_scipy_alone(annotations, tmp_path, project_dir):
    path = write_lines(tmp_path / "p.jsonl", said("a", "dog", "From 00 to 10."))
    words = ["--task", "unav100", "--annotations", str(annotations), "--num-resamples", "5"]
    command = [sys.executable, "-c", RUN_BLOCKED, *words, "--predictions"]
    done = subprocess.run([*command, str(path)], cwd=project_dir, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "average_mAP" in done.stdout, done.stderr
    wrong = subprocess.run([*command, "nowhere"], cwd=project_dir, capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1 and "nowhere" in wrong.stderr
