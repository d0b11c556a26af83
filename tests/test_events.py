"""`eval.events` scores predictions of any model: the formats it reads, its report, and its few dependencies."""

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from eval import events
from eval.events_reading import read_queries
from eval.events_scoring import bootstrap
from eval.metrics.event_localization.average_precision import mean_average_precision
from eval.metrics.temporal_grounding.spans import score_spans


# the libraries of the training environment; importing one of them fails
BLOCKED = ("torch", "transformers", "datasets", "evaluate", "accelerate", "modeling_avicuna", "dataset_builders")
BLOCKED += ("nltk", "matplotlib", "pandas", "sklearn")
RUN_BLOCKED = f"""
import importlib.util, runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {BLOCKED!r} else find_spec(name, package)
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


def answer_line(video_id, query, answer, **more):
    return {"video_id": video_id, "query": query, "text" if isinstance(answer, str) else "spans": answer, **more}


def evaluate(annotations, path, *more, task="unav100"):
    output = path.with_suffix("")
    words = ["--task", task, "--annotations", str(annotations), "--predictions", str(path), "--output", str(output)]
    events.main([*words, "--num-resamples", "20", *more])
    return json.loads((output / "values.json").read_text())


def evaluate_one(tmp_path, text, *, spans=((10.0, 20.0),), duration=50.0, options=()):
    """The result for one text about one query of a video."""
    own = write_lines(tmp_path / "own.jsonl", {"video_id": "v", "query": "x", "spans": spans, "duration": duration})
    return evaluate(own, write_lines(tmp_path / "p.jsonl", answer_line("v", "x", text)), *options, task="spans")


def test_correct_texts_and_spans_score_100_with_intervals_of_width_0(annotations, tmp_path):
    lines = [
        answer_line("a", "Dog.", "From 00 to 10 and from 40 to 60."),
        answer_line("a", "rain", [[5, 20]], score=0.5),
        answer_line("b", "dog", "0:50 - 1:30"),
        answer_line("b", "rain", "It does not happen."),
    ]
    result = evaluate(annotations, write_lines(tmp_path / "p.jsonl", *lines))
    names = {"average_mAP", "mAP@0.5", "mIoU", "R1@0.7", "union_IoU", "F1@0.5", "tF1@0.5", "EtF1", "CountF1"}
    names |= {"count_accuracy", "rejection_precision", "rejection_recall", "rejection_F1"}
    assert names <= result["values"].keys() == result["intervals"].keys()
    assert all(value == pytest.approx(100.0) for value in result["values"].values())
    # a resample without an absent class has nothing to reject: its value is also 100
    assert all(interval == pytest.approx([100.0, 100.0]) for interval in result["intervals"].values())
    assert result["counts"] == {
        "num_videos": 2,
        "num_queries": 4,
        "num_absent_queries": 1,
        "num_without_prediction": 0,
        "num_predictions_of_unknown_queries": 0,
        "num_events_without_class": 0,
        "num_pieces_of_text_not_read": 0,
    }


def test_values_equal_the_metrics_and_missing_predictions_are_counted(annotations, tmp_path, capsys):
    lines = [
        answer_line("a", "dog", [[0, 10, 0.9], [70, 80, 0.8]]),
        answer_line("b", "dog", "It barks a lot."),
        answer_line("b", "rain", [[0, 5]], score=0.95),
        answer_line("c", "dog", [[0, 5]]),
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
    moments = score_spans([[(0, 10), (70, 80)], [], []], [[(0, 10), (40, 60)], [(5, 20)], [(50, 90)]])
    assert {name: result["values"][name] for name in moments} == pytest.approx(moments)
    assert result["values"]["rejection_recall"] == 0.0
    assert result["counts"]["num_without_prediction"] == 1 and result["counts"]["num_pieces_of_text_not_read"] == 1
    assert result["not_read"] == {"no time span": {"count": 1, "examples": ["line 2: 'It barks a lot.'"]}}
    assert result["unknown_queries"] == ["line 4: c 'dog'"] and result["intervals"] == {}
    printed = capsys.readouterr().out
    assert "not read, no time span (1): line 2: 'It barks a lot.'" in printed and "| mIoU " in printed


def test_intervals_equal_those_of_scoring_each_resample_separately(tmp_path):
    """Compared with scoring each resample as a separate data set, for every value of the task."""
    videos = [[(2.0, 20.0, "dog"), (15.0, 40.0, "rain"), (60.0, 75.0, "dog")], [(10.0, 30.0, "dog")]]
    videos += [[(0.0, 20.0, "rain"), (40.0, 50.0, "rain")], [(5.0, 9.0, "dog")]]

    def run(drawn, num_resamples):
        database, lines = {}, []
        for copy, index in enumerate(drawn):
            events = [{"segment": [start, end], "label": label} for start, end, label in videos[index]]
            database[f"v{copy}"] = {"duration": 100.0, "subset": "test", "annotations": events}
            for asked in ("dog", "rain"):
                spans = [[s + index, e + 2 * index, 1 - s / 100] for s, e, label in videos[index] if label == asked]
                lines.append(answer_line(f"v{copy}", asked, spans))
        (tmp_path / "drawn.json").write_text(json.dumps({"database": database}))
        path = write_lines(tmp_path / "p.jsonl", *lines)
        return evaluate(tmp_path / "drawn.json", path, "--num-resamples", str(num_resamples))

    intervals = run(range(4), 20)["intervals"]
    rows = [run(sorted(drawn), 0)["values"] for drawn in np.random.default_rng(0).integers(4, size=(20, 4))]
    for name, interval in intervals.items():
        # a resample without absent events has no value for rejection; `eval.events` uses 100
        expected = np.percentile([row.get(name, 100.0) for row in rows], [2.5, 97.5])
        assert interval == pytest.approx(expected.tolist()), name


NARRATION = "From 00 to 10 and from 40 to 60, Dog. From 05 to 20, rain. From 70 to 80, a cat."


@pytest.mark.parametrize(
    "line",
    [
        {"video_id": "a", "text": NARRATION},
        {"video_id": "a", "query": "", "text": f"<think>From 80 to 90, dog.</think>{NARRATION}"},
        {
            "video_id": "a",
            "events": [
                {"start": 0, "end": 10, "label": "dog"},
                {"start": 40, "end": 60, "label": "dog"},
                {"start": 5, "end": 20, "label": "Rain", "score": 0.5},
                {"start": 70, "end": 80, "caption": "a cat"},
            ],
        },
    ],
)  # fmt: skip
def test_a_narration_answers_the_queries_about_all_classes(annotations, tmp_path, line):
    other = {"video_id": "b", "text": "From 50 to 90, dog."}
    result = evaluate(annotations, write_lines(tmp_path / "p.jsonl", line, other))
    assert result["values"]["average_mAP"] == result["values"]["rejection_F1"] == pytest.approx(100.0)
    assert result["labels_without_class"] == ["a cat"] and result["counts"]["num_events_without_class"] == 1
    assert result["counts"]["num_without_prediction"] == 0


@pytest.mark.parametrize(
    "text, options",
    [
        ("From 20 to 40.", ()),
        ("20% - 40%", ()),
        ("from 10.0 to 20.0 seconds", ()),
        ("10 to 20", ("--unit", "seconds")),
        ("0:10 - 0:20", ()),
        ("00:00:10 to 00:00:20", ()),
        ("From frame 250 to frame 500", ("--unit", "frames", "--fps", "25")),
        ("[250, 500]", ("--unit", "frames", "--fps", "25")),
        ("[[10, 20]]", ("--unit", "seconds")),
        ('[{"start": 10.0, "end": "20 s"}]', ("--unit", "seconds")),
        ("<think>At 30 - 40 s?</think><answer>10.0 to 20.0</answer>", ("--unit", "seconds")),
        ("At 30 - 40 s? </think>10.0 to 20.0", ("--unit", "seconds")),  # the prompt had the opening tag
        ("<time>10.0 - 20.0 seconds</time>", ()),
        ("00:00:10,000 --> 00:00:20,000", ()),
    ],
)
def test_times_are_read_in_all_formats(tmp_path, text, options):
    result = evaluate_one(tmp_path, text, options=options)
    assert result["values"]["mIoU"] == pytest.approx(100.0) and result["not_read"] == {}


def test_words_or_an_empty_list_reject_absent_events(tmp_path):
    for answer in ("The event does not happen in this video.", "none", "[]", []):
        assert evaluate_one(tmp_path, answer, spans=())["values"] == dict.fromkeys(
            ("rejection_precision", "rejection_recall", "rejection_F1"), 100.0
        )
    assert evaluate_one(tmp_path, "from 10 to 20", spans=())["values"]["rejection_recall"] == 0.0


def test_formats_of_published_moment_files_are_read(tmp_path):
    record = {"qid": 1, "vid": "v", "duration": 150, "query": "A dog barks.", "relevant_windows": [[10, 20], [30, 40]]}
    moments = write_lines(tmp_path / "highlight.jsonl", record)
    path = write_lines(tmp_path / "p.jsonl", answer_line("v", "a dog barks", "10 to 20 seconds, 30 to 40 seconds"))
    result = evaluate(moments, path, "--unit", "seconds", task="qvhighlights")
    assert result["values"]["mIoU"] == result["values"]["CountF1"] == result["values"]["MR-mAP"] == 100.0
    submission = {
        "qid": 1,
        "vid": "v",
        "query": "A dog barks.",
        "pred_relevant_windows": [[10, 20, 0.2], [90, 95, 0.9]],
    }
    result = evaluate(moments, write_lines(tmp_path / "s.jsonl", submission), task="qvhighlights")
    assert result["values"]["mIoU"] == 0.0 and result["values"]["MR-mAP"] == 25.0  # the second of two is right

    lines = tmp_path / "charades.txt"
    lines.write_text("V 1.0 2.0##a man sits.\nV 4.0 6.0##a man sits.\n")
    (tmp_path / "lengths.csv").write_text("id,length\nV,10.0\n")
    queries = read_queries("charades_sta", [lines, tmp_path / "lengths.csv"], None)
    assert [(query.duration, query.copy) for query in queries] == [(10.0, 0), (10.0, 1)]
    both = write_lines(
        tmp_path / "c.jsonl", answer_line("V", "a man sits", [[1, 2]]), answer_line("V", "a man sits", [[4, 6]])
    )
    assert evaluate(lines, both, task="charades_sta")["values"]["mIoU"] == 100.0
    one = write_lines(tmp_path / "c.jsonl", answer_line("V", "a man sits", [[1, 2]]))
    assert evaluate(lines, one, task="charades_sta")["values"]["mIoU"] == 50.0


def test_thoughts_without_an_end_are_not_an_answer(tmp_path):
    result = evaluate_one(tmp_path, "<think>from 10.0 to 20.0 seconds?")
    assert result["values"]["mIoU"] == 0.0 and list(result["not_read"]) == ["the thoughts have no end"]


def as_submission(records, key):
    """The form of the challenges' servers; `key` is the name of a span."""
    videos = {}
    for record in records:
        events = [{key: span, "label": record["query"], "score": 1.0} for span in record["spans"]]
        videos.setdefault(record["video_id"], []).extend(events)
    return {"version": "VERSION 1.3", "results": videos, "external_data": {}}


def test_a_list_and_a_submission_have_the_values_of_lines(annotations, tmp_path):
    records = [answer_line("a", "dog", [[0, 10], [40, 50]]), answer_line("b", "dog", [[50, 70]])]
    expected = evaluate(annotations, write_lines(tmp_path / "lines.jsonl", *records))["values"]
    contents = [records, as_submission(records, "segment"), as_submission(records, "timestamp")]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.json").write_text(json.dumps(content, indent=2 if number == 1 else None))
        assert evaluate(annotations, tmp_path / f"{number}.json")["values"] == expected


def test_videos_of_the_second_annotator_alone_count(tmp_path):
    record = {"duration": 100.0, "timestamps": [[0, 10]], "sentences": ["a dog barks"]}
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps({f"v_{name}": record}))
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    assert [query.video_id for query in read_queries("activitynet_captions", files, None)] == ["v_a", "v_b"]


def test_dense_captions_are_scored_by_the_metric(tmp_path, capsys):
    record = {"duration": 100.0, "timestamps": [[0, 10], [50, 90]], "sentences": ["a dog barks", "rain falls"]}
    (tmp_path / "val.json").write_text(json.dumps({"a": record, "b": record}))
    prediction = {"video_id": "a", "text": "From 00 to 10, a dog barks. From 50 to 90, rain falls."}
    result = evaluate(
        tmp_path / "val.json", write_lines(tmp_path / "p.jsonl", prediction), task="activitynet_captions"
    )
    assert result["values"]["precision"] == result["values"]["recall"] == 50.0  # half of the videos have a prediction
    assert {"SODA_c_nltk", "METEOR_nltk", "CIDEr"} <= result["values"].keys() and result["protocol"][
        "meteor"
    ] == "nltk"
    assert result["intervals"]["recall"] == [0.0, 100.0] and result["counts"]["num_without_prediction"] == 1


def test_a_table_and_a_figure_are_written(annotations, tmp_path, capsys):
    evaluate(annotations, write_lines(tmp_path / "p.jsonl", answer_line("a", "dog", "From 00 to 10.")), "--figure")
    assert (tmp_path / "p/values.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "p/table.md").read_text()
    assert table in capsys.readouterr().out and table.count("\n") == 2 + 28


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 1 is not JSON"),
        ("[1]", "record 1 is not an object"),
        ("1", "line 1 is not an object"),
        ('{"version": "1", "results": [1]}', "'results' is not an object of videos"),
        ("", "has no prediction of a query"),
        (json.dumps(answer_line("a.mp4", "dog", [[0, 10]])), "no prediction of a query.* 1 other .*a.mp4"),
        (json.dumps({"video_id": "a", "spans": [[0, 10]]}), "neither a query nor labels"),
        (json.dumps({"query": "dog"}), "line 1 has no text in 'video_id'"),
        (json.dumps({"video_id": "a", "query": 3}), "line 1 has no text in 'query'"),
        (json.dumps({"video_id": "a", "query": "dog"}), "has neither a text nor a list of spans or events"),
        (json.dumps(answer_line("a", "dog", [[0]])), "a span that is not two times"),
        (json.dumps(answer_line("a", "dog", [["0", 1]])), "a span that is not two times"),
        (json.dumps(answer_line("a", "dog", [[0, float("nan")]])), "a span that is not two times"),
        (json.dumps({"video_id": "a", "spans": {}}), "where a list is expected"),
        (json.dumps({"video_id": "a", "events": [{"start": 1}]}), "an event without numbers in start and end"),
        *(
            (
                json.dumps(answer_line("a", "dog", "From 1 to 2", score=score)),
                "line 1 has .* where a score is expected",
            )
            for score in ([1], "high", float("nan"), True)
        ),
        *(
            (json.dumps(answer_line("a", "dog", "From 1 to 2", duration=duration)), "line 1 .* a duration in seconds")
            for duration in (-3, 0, "12", float("nan"), True)
        ),
        (
            "\n".join([json.dumps({"video_id": "a", "text": "x"})] * 2),
            "line 2 answers the query .* of a a second time",
        ),
        (
            "\n".join([json.dumps(answer_line("a", "dog", [[0, 1]]))] * 2),
            "line 2 answers the query 'dog' of a a second time",
        ),
        (
            json.dumps({"video_id": "a", "text": "x"}) + "\n" + json.dumps(answer_line("a", "dog", [])),
            "line 2 .* a second time",
        ),
    ],
)
def test_an_invalid_line_raises_with_its_number(annotations, tmp_path, line, message):
    (tmp_path / "p.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        evaluate(annotations, tmp_path / "p.jsonl")


def test_a_narration_answers_repeated_queries_once_and_repeated_queries_need_an_answer_each(tmp_path):
    """A query that the file repeats has one answer for all, or one for each; a second narration replaces nothing."""
    query = {"qid": 1, "vid": "a", "query": "dog", "duration": 100, "relevant_windows": [[0, 10]]}
    file = write_lines(tmp_path / "windows.jsonl", query, query, query)
    narration = {"vid": "a", "events": [{"start": 0, "end": 10, "label": "dog"}]}
    for lines, message in (
        ([narration, narration], "line 2 answers the query 'dog' of a a second time"),
        ([answer_line("a", "dog", [[0, 10]]), narration], "line 2 answers the query 'dog' of a a second time"),
        ([answer_line("a", "dog", [[0, 10]])] * 2, "answers 'dog' of a 2 times, the annotation file asks it 3 times"),
    ):
        path = write_lines(tmp_path / "p.jsonl", *lines)
        with pytest.raises(ValueError, match=message):
            evaluate(file, path, task="qvhighlights")
    for lines in ([narration], [answer_line("a", "dog", [[0, 10]])] * 3):
        result = evaluate(file, write_lines(tmp_path / "p.jsonl", *lines), task="qvhighlights")
        assert result["values"]["mIoU"] == 100.0


def test_every_class_of_the_file_is_a_query_of_a_subset(annotations, tmp_path):
    database = json.loads(annotations.read_text())
    database["database"]["b"]["annotations"][0]["label"] = "bell"
    database["database"]["b"]["subset"] = "train"
    annotations.write_text(json.dumps(database))
    assert {query.text for query in read_queries("unav100", [annotations], "test")} == {"dog", "rain", "bell"}


@pytest.mark.parametrize("span", [[8, 2], [5, 5]])
def test_a_reference_that_does_not_end_after_it_starts_raises(tmp_path, span):
    path = write_lines(tmp_path / "own.jsonl", answer_line("a", "dog", [span]))
    with pytest.raises(ValueError, match="line 1 has a span that does not end after it starts"):
        read_queries("spans", [path], None)


def test_a_text_without_a_known_duration_raises(tmp_path):
    with pytest.raises(ValueError, match="line 1 needs a duration: the annotation file has none for v"):
        evaluate_one(tmp_path, "from 10 to 20", duration=None)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--unit", "frames"], "--unit frames and --fps belong together"),
        (["--fps", "25"], "--unit frames and --fps belong together"),
        (["--figure"], "--figure needs --output"),
    ],
)
def test_options_that_need_each_other_raise(words, message, capsys):
    with pytest.raises(SystemExit):
        events.main(["--task", "spans", "--annotations", "a", "--predictions", "p", *words])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("task", ["unav100", "activitynet_captions"])
def test_it_runs_with_only_numpy_and_scipy(annotations, tmp_path, project_dir, task):
    path = write_lines(tmp_path / "p.jsonl", {"video_id": "a", "text": "From 00 to 10, dog."})
    record = {"duration": 100.0, "timestamps": [[0, 10]], "sentences": ["dog"]}
    (tmp_path / "val.json").write_text(json.dumps({"a": record}))
    files = {"unav100": annotations, "activitynet_captions": tmp_path / "val.json"}
    words = ["--task", task, "--annotations", str(files[task]), "--num-resamples", "5"]
    command = [sys.executable, "-c", RUN_BLOCKED, *words, "--predictions"]
    done = subprocess.run([*command, str(path)], cwd=project_dir, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and ("average_mAP" if task == "unav100" else "CIDEr") in done.stdout, done.stderr
    assert ("METEOR and SODA_c need nltk" in done.stdout) == (task == "activitynet_captions")
    wrong = subprocess.run([*command, "nowhere"], cwd=project_dir, capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "nowhere" in wrong.stderr
    picture = [*command, str(path), "--output", str(tmp_path), "--figure"]
    wrong = subprocess.run(picture, cwd=project_dir, capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2 and "--figure needs matplotlib" in wrong.stderr


def test_the_resamples_of_a_bootstrap_are_not_all_in_memory():
    tracemalloc.start()
    limits = bootstrap(lambda weights: {"first": weights[0]}, num_videos=10_001, num_resamples=100, seed=3)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20 * 8 * 10_001
    drawn = np.random.default_rng(3).integers(10_001, size=(100, 10_001))  # the same numbers
    assert limits["first"] == tuple(np.percentile((drawn == 0).sum(axis=1), [2.5, 97.5]))
