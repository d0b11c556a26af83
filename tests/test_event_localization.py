"""The mAP of timed events: equal to the official evaluator and to plain loops, and the edge cases."""

import gzip
import json
import random

import evaluate
import numpy as np
import pytest

from eval.metrics.event_localization.average_precision import (
    THRESHOLDS,
    drop_duplicate_references,
    interpolated_average_precision,
    match_classes,
    match_predictions,
    mean_average_precision,
)


@pytest.fixture(scope="module")
def metric(project_dir):
    return evaluate.load(str(project_dir / "eval/metrics/event_localization"))


@pytest.fixture(scope="module")
def golden(golden_dir):
    """Synthetic events of 150 videos and the mAP that the official evaluator gave for them."""
    recorded = json.loads((golden_dir / "metrics" / "mean_average_precision.json").read_text(encoding="utf-8"))
    predictions, references = ([[] for _ in range(recorded["num_videos"])] for _ in range(2))
    for video, label, start, end in recorded["references"]:
        references[video].append({"start": start, "end": end, "label": str(label)})
    for video, label, start, end, score in recorded["predictions"]:
        predictions[video].append({"start": start, "end": end, "label": str(label), "score": score})
    return predictions, references, recorded


def assert_published(result, recorded):
    for threshold, value in recorded["mAP"].items():
        assert result[f"mAP@{threshold}"] == pytest.approx(100 * value, abs=1e-6)
    assert result["average_mAP"] == pytest.approx(100 * recorded["average_mAP"], abs=1e-6)


def plain_average_precision(predictions, references, thresholds):
    """The evaluator's definition in plain loops, independent of the code under test."""
    truth = []
    for video, events in enumerate(references):
        for event in events:
            same = [t for t in truth if t[0] == video and t[3] == event["label"]]
            if not any(abs(t[1] - event["start"]) <= 1e-3 and abs(t[2] - event["end"]) <= 1e-3 for t in same):
                truth.append((video, event["start"], event["end"], event["label"]))
    means = []
    for threshold in thresholds:
        per_class = []
        for label in {t[3] for t in truth}:
            positives = [t for t in truth if t[3] == label]
            ranked = [(v, p) for v, events in enumerate(predictions) for p in events if p["label"] == label]
            ranked.sort(key=lambda item: -item[1]["score"])
            taken, hits = set(), []
            for video, event in ranked:
                best, best_iou = None, -1.0
                for index, (other, start, end, _) in enumerate(positives):
                    shared = max(0.0, min(end, event["end"]) - max(start, event["start"]))
                    iou = shared / ((end - start) + (event["end"] - event["start"]) - shared)
                    if other == video and index not in taken and iou >= threshold and iou >= best_iou:
                        best, best_iou = index, iou
                hits.append(best is not None)
                taken.add(best)
            precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
            gains = [max(precisions[n:]) for n in range(len(hits)) if hits[n]]
            per_class.append(sum(gains) / len(positives))
        means.append(100 * sum(per_class) / len(per_class))
    return means


def random_events(seed, *, num_videos=25, labels="abcd", extra_label="unseen", ties=False):
    rng = random.Random(seed)

    def event():
        start = rng.uniform(0, 50)
        return {"start": start, "end": start + rng.uniform(0.5, 40), "label": rng.choice(labels)}

    references = [[event() for _ in range(rng.randint(0, 5))] for _ in range(num_videos)]
    references[0] = [event()] * 3  # annotated three times
    predictions = []
    for events in references:
        found = [
            {**e, "start": e["start"] + rng.gauss(0, 2), "end": e["end"] + rng.gauss(0, 2)}
            for e in events
            for _ in range(rng.randint(0, 3))
        ]
        found += [event() for _ in range(rng.randint(0, 2))] + [{**event(), "label": extra_label}]
        predictions.append([{**e, "score": rng.randint(0, 3) if ties else rng.random()} for e in found])
    return predictions, references


def test_golden_events_score_as_in_the_official_evaluator(metric, golden):
    predictions, references, recorded = golden
    assert_published(metric.compute(predictions=predictions, references=references), recorded)


def test_unav100_events_score_as_in_the_official_evaluator(metric, shared_golden_dir, data_dir):
    with gzip.open(data_dir / "unav100/unav100_annotations.json.gz") as file:
        database = json.load(file)["database"]
    with gzip.open(shared_golden_dir / "metrics/unav100_test_predictions_a.json.gz") as file:
        rows = json.load(file)
    references = {
        key: [
            {"start": event["segment"][0], "end": event["segment"][1], "label": event["label"]}
            for event in video["annotations"]
        ]
        for key, video in database.items()
        if video["subset"] == "test"
    }
    predictions = {key: [] for key in references}
    for row in rows:
        predictions[row["video_id"]].append(row)
    result = metric.compute(predictions=list(predictions.values()), references=list(references.values()))
    assert_published(result, json.loads((shared_golden_dir / "metrics/expected_a.json").read_text()))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_equal_to_plain_loops_on_random_events(seed, ties):
    predictions, references = random_events(seed, ties=ties)
    result = mean_average_precision(predictions, references)
    expected = plain_average_precision(predictions, references, THRESHOLDS)
    assert [result[f"mAP@{t:g}"] for t in THRESHOLDS] == pytest.approx(expected, abs=1e-9)
    assert result["average_mAP"] == pytest.approx(sum(expected) / len(expected), abs=1e-9)


def test_the_arrays_of_a_class_do_not_grow_with_the_number_of_videos():
    """With free labels there are as many classes as videos."""
    events = [[{"start": 0.0, "end": 4.0, "label": f"event {video}", "score": 1.0}] for video in range(300)]
    classes = match_classes(events, events)
    assert len(classes) == 300 and all(matches.found.all() for matches in classes.values())
    arrays = [array for matches in classes.values() for array in vars(matches).values()]
    assert sum(array.size for array in arrays) == 300 * (len(THRESHOLDS) + 1 + 1)


def test_perfect_predictions_score_100_and_names_cover_nine_thresholds():
    _, references = random_events(3)
    predictions = [[{**e, "score": 1.0} for e in drop_duplicate_references(events)] for events in references]
    result = mean_average_precision(predictions, references)
    assert set(result) == {f"mAP@0.{n}" for n in range(1, 10)} | {"average_mAP"}
    assert all(value == pytest.approx(100.0) for value in result.values())


def test_the_order_of_equal_scores_matters_the_order_of_videos_does_not():
    predictions, references = random_events(1)
    order = random.Random(0).sample(range(len(references)), len(references))
    shuffled = mean_average_precision([predictions[i] for i in order], [references[i] for i in order])
    assert shuffled == pytest.approx(mean_average_precision(predictions, references))
    truth = {"start": 0.0, "end": 10.0, "label": "a"}
    right, wrong = {**truth, "score": 1.0}, {**truth, "start": 9.0, "score": 1.0}
    assert mean_average_precision([[right, wrong]], [[truth]], thresholds=[0.5])["average_mAP"] == 100.0
    assert mean_average_precision([[wrong, right]], [[truth]], thresholds=[0.5])["average_mAP"] == 50.0


def test_each_reference_matches_at_most_one_prediction():
    ious = np.array([[0.9, 0.6], [0.8, 0.55], [0.7, 0.65]])
    assert match_predictions(ious, [0.5, 0.7]).tolist() == [[True, True, False], [True, False, False]]


@pytest.mark.parametrize("seed", range(5))
def test_videos_matched_together_are_matched_as_if_alone(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(4, size=30)
    ious = rng.integers(0, 10, size=(30, 3)) / 10  # with equal ones
    ious[groups == 2, 2] = -1.0  # this video has two references
    together = match_predictions(ious, [0.1, 0.5, 0.9], groups=groups)
    for group in range(4):
        alone = ious[groups == group][:, : 2 if group == 2 else 3]
        assert np.array_equal(together[:, groups == group], match_predictions(alone, [0.1, 0.5, 0.9]))


def test_average_precision_interpolates_from_the_right():
    assert interpolated_average_precision(np.array([False, True, True]), 2) == pytest.approx(2 / 3)
    assert interpolated_average_precision(np.array([], bool), 3) == 0.0


def test_missing_wrong_and_reversed_predictions_score_zero(metric):
    reference = [{"start": 0.0, "end": 1.0, "label": "a"}]
    assert metric.compute(predictions=[[]], references=[reference])["average_mAP"] == 0.0
    wrong = [{"start": 0.0, "end": 1.0, "label": "b", "score": 1.0}]
    assert metric.compute(predictions=[wrong, []], references=[reference, []])["average_mAP"] == 0.0
    reversed_span = [{"start": 1.0, "end": 0.0, "label": "a", "score": 1.0}]
    assert metric.compute(predictions=[reversed_span], references=[reference])["average_mAP"] == 0.0


def test_integers_and_additional_keys_are_accepted(metric):
    event = {"start": 0, "end": 4, "label": "a", "score": 1, "video_id": "-x", "label_id": 7}
    assert metric.compute(predictions=[[event]], references=[[event]])["average_mAP"] == 100.0


@pytest.mark.parametrize(
    "event, message",
    [
        ({"start": 0.0, "end": 1.0, "label": "a", "score": None}, "score = None"),
        ({"start": 0.0, "end": 1.0, "label": "a"}, "score = None"),
        ({"start": float("nan"), "end": 1.0, "label": "a", "score": 1.0}, "start = nan"),
        ({"start": 0.0, "end": 1.0, "score": 1.0}, "no label"),
    ],
)
def test_an_invalid_prediction_is_an_error_that_names_the_field(metric, event, message):
    good = {"start": 0.0, "end": 1.0, "label": "a"}
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=[[], [event]], references=[[good], [good]])


def test_no_reference_event_and_lists_of_unequal_length_are_errors():
    with pytest.raises(ValueError, match="undefined"):
        mean_average_precision([[]], [[]])
    with pytest.raises(ValueError, match="1 lists of predictions for 2"):
        mean_average_precision([[]], [[], []])
