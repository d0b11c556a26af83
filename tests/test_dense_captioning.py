"""Dense captioning: caption similarity, the ordered alignment of SODA_c, the protocol of the ActivityNet challenge."""

import itertools

import evaluate
import pytest

from eval.metrics.dense_captioning.captions import JavaMeteor, NltkMeteor, cider_d, split_words
from eval.metrics.dense_captioning.stories import captions_at, score_stories, soda_c
from tests.curation_fixtures import make_captions


def story(*events):
    return [{"start": float(start), "end": float(end), "caption": caption} for start, end, caption in events]


class Exact:
    """1 for equal captions and 0 for others, or the values of a table."""

    suffix = ""

    def __init__(self, table=None, other=0.0):
        self.table, self.other = table or {}, other

    def compare(self, pairs):
        scores = [self.table.get(pair, self.other if self.table else float(pair[0] == pair[1])) for pair in pairs]
        return sum(scores) / max(len(scores), 1), scores


def meteor(prediction, reference):
    return NltkMeteor().compare([(prediction, reference)])[0]


GRASS = story((0, 10, "a man cuts the grass"), (10, 20, "he empties the bag"), (15, 30, "a dog runs by"))


def test_cider_equals_pycocoevalcap():
    """Values of pycocoevalcap 1.2 (`Cider().compute_score`) for the same words."""
    predictions = ["a man is cutting grass", "two dogs run in a park", "she plays the violin"]
    references = [
        ["a man cuts the grass", "the man is cutting the grass with a mower"],
        ["two dogs are running in the park"],
        ["a woman plays the violin on a stage"],
    ]
    assert cider_d(predictions, references) == pytest.approx([2.44796651, 2.22666358, 2.43320375], abs=1e-8)


def test_meteor_uses_stems_and_order_and_is_zero_without_common_words():
    same = meteor("the dogs are barking", "the dog is barking")
    assert 0 < meteor("barking are dogs the", "the dog is barking") < same < meteor("a dog barks", "a dog barks") <= 1
    assert meteor("rain", "a dog barks") == 0.0


def test_soda_is_one_for_the_references_in_any_order_and_zero_for_no_prediction():
    assert soda_c(GRASS, GRASS, meteor=Exact()) == pytest.approx(1.0)
    assert soda_c(GRASS[::-1], GRASS, meteor=Exact()) == pytest.approx(1.0)
    assert soda_c([], GRASS, meteor=Exact()) == 0.0
    assert soda_c([], [], meteor=Exact()) == 1.0


def test_soda_keeps_the_order_of_events_with_equal_starts():
    truth = story((0, 20, "a"), (0, 10, "b"))
    assert soda_c(story((0, 20, "a"), (0.1, 10, "b")), truth, meteor=Exact()) > 0.9
    # the pairs (a, a) and (b, b) would cross
    assert soda_c(story((0, 10, "b"), (0.1, 20, "a")), truth, meteor=Exact()) == pytest.approx(0.5, abs=0.01)


def test_soda_is_the_best_alignment_that_keeps_the_order():
    """Compared with all alignments of small stories."""
    prediction = story((0, 9, "b"), (2, 12, "a"), (11, 21, "c"), (12, 30, "b"))
    reference = story((0, 10, "a"), (8, 20, "b"), (14, 30, "c"))

    similar = Exact({("a", "a"): 1.0, ("b", "b"): 0.8, ("c", "c"): 0.7}, other=0.2)

    def iou(a, b):
        shared = max(0, min(a["end"], b["end"]) - max(a["start"], b["start"]))
        return shared / (a["end"] - a["start"] + b["end"] - b["start"] - shared)

    best = max(
        sum(
            iou(prediction[i], reference[j])
            * similar.compare([(reference[j]["caption"], prediction[i]["caption"])])[0]
            for i, j in zip(rows, columns)
        )
        for size in range(1, 4)
        for rows in itertools.combinations(range(4), size)
        for columns in itertools.combinations(range(3), size)
    )
    precision, recall = best / 4, best / 3
    assert soda_c(prediction, reference, meteor=similar) == pytest.approx(
        2 * precision * recall / (precision + recall)
    )


def captions_at_half(prediction, *annotators):
    return captions_at(prediction, annotators, threshold=0.5, meteor=NltkMeteor())


def test_a_caption_without_an_overlapping_reference_scores_zero():
    one_prediction = captions_at_half(GRASS[:1], GRASS)
    with_unmatched = captions_at_half([*GRASS[:1], *story((90, 99, "a man cuts the grass"))], GRASS)
    assert one_prediction["METEOR"] > 0.9 and with_unmatched["METEOR"] == pytest.approx(one_prediction["METEOR"] / 2)
    assert (one_prediction["precision"], with_unmatched["precision"]) == (1.0, 0.5)
    assert one_prediction["recall"] == with_unmatched["recall"] == pytest.approx(1 / 3)


def test_unmatched_captions_are_documents_of_cider():
    """One match among four predictions: each of its n-grams is in one of four documents, so the pair scores 10."""
    others = story((90, 99, "one"), (91, 95, "two dogs"), (80, 85, "three cats run away"))
    assert captions_at_half([*GRASS[:1], *others], GRASS[:1])["CIDEr"] == pytest.approx(2.5)
    assert score_stories([[*GRASS[:1], *others]], [[GRASS[:1]]])["CIDEr"] == pytest.approx(250.0)


def test_pairs_of_all_annotators_are_pooled():
    both = captions_at_half(GRASS[:1], GRASS[:1], story((0, 10, "rain")))
    one = captions_at_half(GRASS[:1], GRASS[:1])
    assert both["METEOR"] == pytest.approx(one["METEOR"] / 2) == pytest.approx(0.498)


@pytest.mark.parametrize("end, precision", [(5, 0.0), (5.001, 1.0)])
def test_an_iou_equal_to_the_threshold_does_not_match(end, precision):
    found = captions_at_half(story((0, end, "a man cuts the grass")), GRASS[:1])
    assert found["precision"] == found["recall"] == precision and bool(found["METEOR"]) == bool(precision)


def test_precision_and_recall_are_those_of_the_best_annotator():
    found = captions_at_half(GRASS[:2], GRASS[:1], GRASS)
    assert (found["precision"], found["recall"]) == (1.0, 1.0)


def test_references_score_higher_for_their_own_video(project_dir):
    metric = evaluate.load(str(project_dir / "eval/metrics/dense_captioning"))
    descs = [record["desc"] for record in make_captions(400)]
    stories = [story(*((9 * k, 9 * k + 7 + n / 4, descs[67 * k + 31 * n]) for k in range(3))) for n in range(8)]
    own = metric.compute(predictions=stories, references=[[s] for s in stories])
    assert metric.compute(predictions=stories, references=stories) == own  # a single annotator without outer list
    other = metric.compute(predictions=stories[1:] + stories[:1], references=[[s] for s in stories])
    assert own["recall"] == own["precision"] == 100.0
    assert own["SODA_c_nltk"] > 90 > 30 > other["SODA_c_nltk"] > 0
    assert own["METEOR_nltk"] > other["METEOR_nltk"] and own["CIDEr"] > other["CIDEr"]


@pytest.mark.parametrize(
    "caption, words",
    [
        ("Don\u2019t stop, 2 dogs!", ["do", "n't", "stop", "2", "dogs"]),
        ("The man's T-shirt: 1/2 off at 12:31...", ["the", "man", "'s", "t-shirt", "1/2", "off", "at", "12:31"]),
        (
            "He cannot (or won't) stop,then runs & waves",
            "he can not -lrb- or wo n't -rrb- stop then runs & waves".split(),
        ),
        ("The pi\u00f1ata", ["the", "pi\u00f1ata"]),
        (
            "\u0421\u043e\u0431\u0430\u043a\u0430 \u043b\u0430\u0435\u0442.",
            ["\u0441\u043e\u0431\u0430\u043a\u0430", "\u043b\u0430\u0435\u0442"],
        ),
        (
            "\u0915\u0941\u0924\u094d\u0924\u093e \u0939\u0948\u0964",
            ["\u0915\u0941\u0924\u094d\u0924\u093e", "\u0939\u0948"],
        ),
        ("\u72d7\u53eb\u3002", ["\u72d7", "\u53eb"]),
    ],
)
def test_words_are_split_as_in_the_penn_treebank_in_any_script(caption, words):
    assert split_words(caption) == words
    assert meteor(caption, caption) > 0.9


@pytest.mark.parametrize(
    "prediction, references, message",
    [
        (GRASS, [], r"1 videos have no reference, the first are \[0\]"),
        (GRASS, [GRASS, []], "1 videos have no reference"),
        (story((0, float("nan"), "a")), [GRASS], "prediction of video 0 has an event whose times are not finite"),
        (GRASS, [[{"start": 0.0, "caption": "a"}]], "reference of video 0 has an event whose times are not finite"),
        ([{"start": 0.0, "end": 1.0}], [GRASS], "prediction of video 0 has an event without a caption"),
    ],
)
def test_an_invalid_event_is_an_error_that_names_it(prediction, references, message):
    with pytest.raises(ValueError, match=message):
        score_stories([prediction], [references])


def test_the_module_ignores_additional_keys_and_accepts_integers(project_dir):
    metric = evaluate.load(str(project_dir / "eval/metrics/dense_captioning"))
    more = [{**event, "start": int(event["start"]), "id": 7} for event in GRASS]
    assert metric.compute(predictions=[more], references=[more]) == metric.compute(
        predictions=[GRASS], references=[[GRASS]]
    )
    with pytest.raises(ValueError, match="no such file: meteor.jar"):
        metric.compute(predictions=[GRASS], references=[[GRASS]], meteor_jar="meteor.jar")


JAVA = """#!/usr/bin/env python3
import sys
for line in sys.stdin:
    kind, *parts = line.rstrip("\\n").split(" ||| ")
    if kind == "SCORE":
        print(int(parts[0] == parts[1]), flush=True)
    else:
        print(*parts, sum(map(int, parts)) / len(parts), sep="\\n", flush=True)
"""


def test_values_of_the_official_program_are_named_without_suffix(tmp_path, monkeypatch):
    """A replacement implements the protocol of the program: statistics of each pair, then single and total values."""
    (tmp_path / "java").write_text(JAVA)
    (tmp_path / "java").chmod(0o755)
    (tmp_path / "meteor-1.5.jar").write_bytes(b"")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    meteor = JavaMeteor(tmp_path / "meteor-1.5.jar")
    assert meteor.compare([("a dog", "a dog"), ("rain", "a dog"), ("A dog!", "a dog")]) == (2 / 3, [1.0, 0.0, 1.0])
    scores = score_stories([GRASS], [[GRASS]], meteor=meteor)
    assert scores["METEOR"] > 60 and scores["SODA_c"] == pytest.approx(100.0) and "METEOR_nltk" not in scores
    with pytest.raises(ValueError, match="no word in ASCII letters"):
        meteor.compare([("\u72d7\u53eb", "a dog")])
    meteor.close()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="no `java` on the PATH"):
        JavaMeteor(tmp_path / "meteor-1.5.jar")
