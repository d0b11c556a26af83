"""Metrics of spans: unions, matching, counts, and the scores of a dataset."""

import evaluate
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.temporal_grounding.spans import count_f1, num_matches, score_spans, union_iou, union_of
from eval.metrics.temporal_iou import pairwise_iou


moments = st.integers(0, 20).map(float)
span_lists = st.lists(st.tuples(moments, moments), max_size=6)


def sampled_iou(spans, others):
    """Union IoU by counting seconds; all times in these tests are integers."""
    inside = [{t for t in range(20) for start, end in side if start <= t + 0.5 < end} for side in (spans, others)]
    either = inside[0] | inside[1]
    return len(inside[0] & inside[1]) / len(either) if either else 0.0


@given(span_lists, span_lists)
def test_union_iou_counts_overlapping_time_once(spans, others):
    assert union_iou(spans, others) == pytest.approx(sampled_iou(spans, others))
    assert union_iou(spans, others) == pytest.approx(union_iou(others, spans))


@given(span_lists)
def test_the_parts_of_a_union_are_ordered_and_disjoint(spans):
    parts = union_of(spans)
    assert all(start < end for start, end in parts)
    assert all(a[1] < b[0] for a, b in zip(parts, parts[1:]))
    assert union_of(parts) == parts


@given(st.tuples(moments, moments), st.tuples(moments, moments))
def test_union_iou_of_single_spans_equals_their_iou(span, other):
    if span[0] < span[1] and other[0] < other[1]:
        assert pairwise_iou(np.array([span]), np.array([other]))[0, 0] == pytest.approx(union_iou([span], [other]))


def test_the_matching_is_maximal_and_may_omit_the_best_pair():
    ious = np.array([[0.9, 0.6], [0.8, 0.0]])
    assert num_matches(ious, 0.5) == 2
    assert num_matches(ious, 0.7) == 1
    assert num_matches(np.zeros((0, 3)), 0.5) == 0


def test_always_predicting_one_span_has_a_low_count_f1():
    expected = [1] * 8 + [2, 3]
    assert count_f1([1] * 10, expected) == pytest.approx((2 * 8 / 18) / 3)
    assert count_f1(expected, expected) == 1.0


def test_scores_of_a_small_set_computed_by_hand():
    result = score_spans([[(0, 5)], [], [(0, 2), (8, 10)]], [[(0, 10)], [(0, 1)], [(0, 2), (4, 6)]])
    assert result["mIoU"] == pytest.approx(100 * (0.5 + 0 + 1) / 3)
    assert result["R1@0.5"] == pytest.approx(100 * 2 / 3)
    assert result["R1@0.7"] == pytest.approx(100 * 1 / 3)
    assert result["union_IoU"] == pytest.approx(100 * (0.5 + 0 + 2 / 6) / 3)
    assert result["F1@0.3"] == pytest.approx(100 * (1 + 0 + 0.5) / 3)
    assert result["answered"] == pytest.approx(100 * 2 / 3)


def test_the_evaluate_module_gives_the_same_scores_and_100_for_the_references(project_dir):
    metric = evaluate.load(str(project_dir / "eval/metrics/temporal_grounding"))
    truth = [[{"start": 0, "end": 4.5}], [{"start": 1.0, "end": 2.0}, {"start": 6.0, "end": 9.0}]]
    assert set(metric.compute(predictions=truth, references=truth).values()) == {100.0}
    spans = [[(e["start"], e["end"]) for e in events] for events in truth]
    shifted = [[{"start": e["start"] + 1, "end": e["end"] + 1} for e in events] for events in truth]
    expected = score_spans([[(a + 1, b + 1) for a, b in s] for s in spans], spans)
    assert metric.compute(predictions=shifted, references=truth) == pytest.approx(expected)


def test_queries_without_reference_are_an_error():
    with pytest.raises(ValueError, match=r"1 queries have no reference span, the first are \[1\]"):
        score_spans([[], []], [[(0, 1)], []])
    with pytest.raises(ValueError, match="0 predictions"):
        score_spans([], [])


def test_many_equal_spans_are_matched_and_additional_keys_ignored(project_dir):
    metric = evaluate.load(str(project_dir / "eval/metrics/temporal_grounding"))
    many = [{"start": 1, "end": 2, "score": 0.5, "label": "dog"}] * 1500
    assert metric.compute(predictions=[many], references=[many])["F1@0.7"] == 100.0


@pytest.mark.parametrize(
    "span", [{"start": float("nan"), "end": 1.0}, {"start": 0.0}, {"start": 0.0, "end": float("inf")}]
)
def test_a_span_without_finite_times_is_an_error_that_names_the_query(project_dir, span):
    metric = evaluate.load(str(project_dir / "eval/metrics/temporal_grounding"))
    good = [{"start": 0.0, "end": 1.0}]
    with pytest.raises(ValueError, match="prediction of query 1 has a span whose times are not finite numbers"):
        metric.compute(predictions=[good, [span]], references=[good, good])
    with pytest.raises(ValueError, match="reference of query 0 has a span whose times are not finite numbers"):
        metric.compute(predictions=[good], references=[[span]])
