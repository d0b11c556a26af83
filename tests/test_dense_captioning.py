"""Dense captioning scores: caption similarity, the in-order alignment of SODA_c, the challenge's protocol."""

import gzip
import itertools
import json

import evaluate
import pytest

from eval.metrics.dense_captioning.captions import cider_d, meteor, split_words
from eval.metrics.dense_captioning.stories import captions_at, score_stories, soda_c


def story(*events):
    return [{"start": float(start), "end": float(end), "caption": caption} for start, end, caption in events]


GRASS = story((0, 10, "a man cuts the grass"), (10, 20, "he empties the bag"), (15, 30, "a dog runs by"))


def test_cider_is_that_of_pycocoevalcap():
    """Numbers of pycocoevalcap 1.2 (`Cider().compute_score`), run once on the same words."""
    predictions = ["a man is cutting grass", "two dogs run in a park", "she plays the violin"]
    references = [
        ["a man cuts the grass", "the man is cutting the grass with a mower"],
        ["two dogs are running in the park"],
        ["a woman plays the violin on a stage"],
    ]
    assert cider_d(predictions, references) == pytest.approx([2.44796651, 2.22666358, 2.43320375], abs=1e-8)


def test_meteor_knows_stems_and_order_and_is_zero_without_common_words():
    same = meteor("the dogs are barking", "the dog is barking")
    assert 0 < meteor("barking are dogs the", "the dog is barking") < same < meteor("a dog barks", "a dog barks") <= 1
    assert meteor("rain", "a dog barks") == 0.0


def test_soda_is_one_for_the_truth_in_any_order_and_zero_for_silence():
    perfect = soda_c(GRASS, GRASS, similarity=lambda a, b: float(a == b))
    assert perfect == pytest.approx(1.0)
    assert soda_c(GRASS[::-1], GRASS, similarity=lambda a, b: float(a == b)) == pytest.approx(1.0)
    assert soda_c([], GRASS) == 0.0
    assert soda_c([], []) == 1.0


def test_soda_takes_the_best_alignment_that_keeps_the_order():
    """Against all alignments of small stories, tried one by one."""
    prediction = story((0, 9, "b"), (2, 12, "a"), (11, 21, "c"), (12, 30, "b"))
    reference = story((0, 10, "a"), (8, 20, "b"), (14, 30, "c"))

    def alike(a, b):
        return {("a", "a"): 1.0, ("b", "b"): 0.8, ("c", "c"): 0.7}.get((a, b), 0.2)

    def iou(a, b):
        shared = max(0, min(a["end"], b["end"]) - max(a["start"], b["start"]))
        return shared / (a["end"] - a["start"] + b["end"] - b["start"] - shared)

    best = max(
        sum(
            iou(prediction[i], reference[j]) * alike(prediction[i]["caption"], reference[j]["caption"])
            for i, j in zip(rows, columns)
        )
        for size in range(1, 4)
        for rows in itertools.combinations(range(4), size)
        for columns in itertools.combinations(range(3), size)
    )
    precision, recall = best / 4, best / 3
    assert soda_c(prediction, reference, similarity=alike) == pytest.approx(
        2 * precision * recall / (precision + recall)
    )


def test_a_caption_that_overlaps_nothing_counts_as_a_zero():
    alone = captions_at(GRASS[:1], GRASS, threshold=0.5)
    astray = captions_at([*GRASS[:1], *story((90, 99, "a man cuts the grass"))], GRASS, threshold=0.5)
    assert alone["METEOR"] > 0.9 and astray["METEOR"] == pytest.approx(alone["METEOR"] / 2)
    assert (alone["precision"], astray["precision"]) == (1.0, 0.5)
    assert alone["recall"] == astray["recall"] == pytest.approx(1 / 3)


def test_real_annotators_agree_with_themselves_and_less_with_another_video(data_dir, project_dir):
    metric = evaluate.load(str(project_dir / "eval/metrics/dense_captioning"))
    with gzip.open(data_dir / "activitynet_captions/val_1.json.gz") as file:
        records = list(json.load(file).values())[:12]
    stories = [story(*((s, e, t) for (s, e), t in zip(r["timestamps"], r["sentences"]) if e > s)) for r in records]
    own = metric.compute(predictions=stories, references=[[s] for s in stories])
    assert metric.compute(predictions=stories, references=stories) == own  # a single annotator needs no outer list
    other = metric.compute(predictions=stories[1:] + stories[:1], references=[[s] for s in stories])
    assert own["recall"] == own["precision"] == 100.0
    assert own["SODA_c"] > 90 > 30 > other["SODA_c"] > 0
    assert own["METEOR"] > other["METEOR"] and own["CIDEr"] > other["CIDEr"]


def test_more_annotators_never_lower_the_challenge_scores():
    once = score_stories([GRASS[:2]], [[GRASS[1:]]])
    twice = score_stories([GRASS[:2]], [[GRASS[1:], GRASS]])
    assert all(twice[name] >= once[name] for name in ("METEOR", "CIDEr", "precision", "recall"))


def test_words_are_split_without_punctuation_and_missing_references_are_named():
    assert split_words("Don\u2019t stop, 2 dogs!") == ["don't", "stop", "2", "dogs"]
    with pytest.raises(ValueError, match=r"1 videos have no reference, the first are \[0\]"):
        score_stories([GRASS], [[]])
