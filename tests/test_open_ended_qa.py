"""Open-ended answers: normalisation, exact match and containment."""

import gzip
import json

import evaluate
import pytest

from eval.metrics.open_ended_qa.answers import is_contained, normalize_answer, score_answers


@pytest.fixture(scope="module")
def metric(project_dir):
    return evaluate.load(str(project_dir / "eval/metrics/open_ended_qa"))


def test_case_spaces_quotes_and_outer_punctuation_are_ignored(metric):
    result = metric.compute(predictions=["  The Man\u2019s  hat. ", "Yes!"], references=["the man's hat", "no"])
    assert result["exact_match"] == 50.0


def test_articles_are_compared_as_in_the_published_metric():
    assert score_answers(["the kitchen"], ["kitchen"]) == {"exact_match": 0.0, "contained": 100.0}


def test_normalisation_maps_no_two_real_answers_to_one(data_dir):
    """Otherwise exact match would differ from the published metric."""
    answers = set()
    for split in ("train", "test"):
        with gzip.open(data_dir / f"activitynet_qa/{split}_a.json.gz") as file:
            answers |= {row["answer"] for row in json.load(file)}
    assert len({normalize_answer(answer) for answer in answers}) == len(answers) == 6314


def test_normalisation_is_idempotent(data_dir):
    with gzip.open(data_dir / "avsd/lbl_test_set4DSTC7-AVSD.json.gz") as file:
        turns = [turn["answer"] for dialog in json.load(file)["dialogs"] for turn in dialog["dialog"]]
    assert all(normalize_answer(normalize_answer(text)) == normalize_answer(text) for text in turns)


def test_containment_is_of_whole_words_in_order():
    assert is_contained("There are two of them, I think.", "two")
    assert not is_contained("twofold", "two")
    assert not is_contained("red and big", "big red")
    assert not is_contained("yes", "")
    assert is_contained("\u6211\u8ba4\u4e3a\u662f\u94a2\u7434", "\u94a2\u7434")  # a script without spaces


def test_empty_and_unequal_lists_are_errors():
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        score_answers(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="0 predictions"):
        score_answers([], [])
