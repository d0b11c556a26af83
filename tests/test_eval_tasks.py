"""Tasks: questions from the real annotation files, scores of answers, and frozen prompts."""

import gzip
import json
from dataclasses import replace

import pytest

from dataset_builders import wordings
from eval.labels import match_labels
from eval.metrics import METRIC_NAMES, load_metric
from eval.prompts import PROMPTS, prompts_hash
from eval.task import Answer, Protocol
from eval.tasks import TASKS, unav100
from eval.tasks.question_answering import closed_answer
from modeling_avicuna import prompt_avicuna
from modeling_avicuna.timestamp_avicuna import Event


# Changing a prompt changes all results. To regenerate this table:
#   python -c "from eval.prompts import PROMPTS; import json; print(json.dumps(PROMPTS, indent=4))"
FROZEN_PROMPTS = {
    "narration": "List the events of this video with their times.",
    "grounding": 'When does "{query}" happen?',
    "short_answer": "{question}\nAnswer the question with a single word or a short phrase.",
    "dialog_turn": "Q: {question}\nA: {answer}\n",
    "dialog_question": "{history}Q: {question}\nAnswer the last question in one sentence.",
    "music_answer": "{question}\nAnswer with one of these words: {choices}.",
    "judge_system": "You grade answers to questions about videos. You have not seen the video: the reference answer is "  # noqa: E501
    "right by definition. Judge the meaning, not the wording. Synonyms and paraphrases are right, and so is an answer "
    "that says more than the reference without contradicting it.",
    "judge_question": "Question: {question}\nReference answer: {reference}\nAnswer to grade: {prediction}\n\n"
    "Does the answer mean the same as the reference? Reply with one JSON object and nothing else: "
    '{{"pred": "yes" or "no", "score": an integer from 0 (unrelated) to 5 (the same meaning)}}.',
}


def answered(examples, make):
    """Answers to all questions; `make(example, question)` gives text or events."""
    answers = {}
    for example in examples:
        for question in example.questions:
            answer = make(example, question)
            text, events = (answer, ()) if isinstance(answer, str) else ("", tuple(answer))
            answers[question.id] = Answer(
                question.id, example.video_id, example.duration or 1.0, text, events, presence=0.5
            )
    return answers


def questions_of(examples):
    return [question for example in examples for question in example.questions]


@pytest.fixture(scope="module")
def unav100_files(data_dir):
    return [data_dir / "unav100/unav100_annotations.json.gz"]


@pytest.fixture(scope="module")
def small_annotations(tmp_path_factory):
    """Two videos in the format of UnAV-100; the first has overlapping events and one event annotated twice."""
    path = tmp_path_factory.mktemp("annotations") / "small.json"
    first = [([0, 4.5], "dog barking", 0), ([3.0, 9.0], "rain", 1), ([0.0005, 4.5], "dog barking", 0)]
    second = [([5.0, 20.0], "rain", 1)]
    database = {
        name: {
            "duration": duration,
            "subset": "test",
            "annotations": [{"segment": s, "label": label, "label_id": i} for s, label, i in events],
        }
        for name, duration, events in (("-first", 10, first), ("second", 20.0, second))
    }
    path.write_text(json.dumps({"version": "x", "database": database}))
    return [path]


def test_prompts_are_frozen_and_used_in_the_pipeline_and_in_training():
    assert PROMPTS == FROZEN_PROMPTS
    assert prompt_avicuna.NARRATION_PROMPT in wordings.NARRATION_QUESTIONS
    assert prompt_avicuna.GROUNDING_PROMPT in wordings.GROUNDING_QUESTIONS


def test_the_prompts_hash_depends_on_the_prompts_and_not_on_their_order():
    assert prompts_hash(["narration"]) != prompts_hash(["grounding"])
    assert prompts_hash(["narration", "grounding"]) == prompts_hash(["grounding", "narration"])


def test_unav100_has_one_narration_per_video_and_one_query_per_class(unav100_files):
    narrations = TASKS["unav100"].read(unav100_files, "test")
    queries = TASKS["unav100_query"].read(unav100_files, "test")
    assert len(narrations) == len(queries) == 2167
    assert sum(len(example.events) for example in narrations) == 5900
    assert {len(example.questions) for example in queries} == {100}
    assert len({question.id for question in questions_of(queries)}) == 216_700
    assert narrations[0].questions[0].reference[36] == "skateboarding"  # classes are in the order of their ids


def test_a_missing_subset_or_wrong_file_is_an_error_that_names_it(unav100_files, data_dir):
    with pytest.raises(
        ValueError, match=r"no video of subset 'val'; its subsets are \['test', 'train', 'validation'\]"
    ):
        TASKS["unav100"].read(unav100_files, "val")
    with pytest.raises(ValueError, match="not in UnAV-100's form"):
        TASKS["unav100"].read([data_dir / "didemo/val_data.json.gz"], "test")
    with pytest.raises(ValueError, match="one annotation file"):
        TASKS["unav100"].read([], "test")


@pytest.mark.parametrize("task", ["unav100", "unav100_query"])
@pytest.mark.parametrize("score", ["time_tokens", "presence", "constant"])
def test_the_references_score_100_under_every_protocol(small_annotations, task, score):
    def truth(example, question):
        own = [e for e in example.events if question.kind == "events" or e.label == question.label]
        return [Event(e.start, e.end, e.label, 0.5) for e in {(e.label, e.end): e for e in own}.values()]

    examples = TASKS[task].read(small_annotations, "test")
    result = TASKS[task].score(examples, answered(examples, truth), Protocol(score=score))
    assert result.metrics["average_mAP"] == pytest.approx(100.0)
    assert result.protocol.endswith(score) and set(result.drawn) == {"-first", "second"}


def test_events_without_a_class_are_counted_and_scores_rank_events(small_annotations):
    def predict(example, question):
        right = [Event(e.start, e.end, e.label.upper() + ".", 0.9) for e in example.events]
        return [*right, Event(0, 1, "a dog that barks", 0.1)]

    task = TASKS["unav100"]
    examples = task.read(small_annotations, "test")
    result = task.score(examples, answered(examples, predict), Protocol(label="exact"))
    assert result.counts == {"num_events": 6, "num_events_without_score": 0, "num_events_without_class": 2}
    assert result.protocol == "narration-exact-time_tokens"
    assert result.metrics["average_mAP"] > 90


def test_the_references_of_a_video_are_not_compared_for_each_of_its_queries(small_annotations, monkeypatch):
    task, compared = TASKS["unav100_query"], []
    examples = task.read(small_annotations, "test")
    answers = answered(examples, lambda example, question: [])
    references = unav100._references
    monkeypatch.setattr(unav100, "_references", lambda example: compared.append(example) or references(example))
    assert task.score(examples, answers, Protocol()).counts["num_queries"] == 2 * len(examples)
    assert len(compared) == 2 * len(examples)


def test_an_event_without_a_score_ranks_last_and_no_score_at_all_is_an_error(small_annotations):
    task = TASKS["unav100"]
    examples = task.read(small_annotations, "test")

    def predict(score):
        return lambda example, _: [
            Event(50, 60, "rain", 0.1),
            *(Event(e.start, e.end, e.label, score) for e in example.events),
        ]

    last = task.score(examples, answered(examples, predict(None)), Protocol(score="time_tokens"))
    first = task.score(examples, answered(examples, predict(0.9)), Protocol(score="time_tokens"))
    assert last.counts["num_events_without_score"] == 4
    assert 0 < last.metrics["average_mAP"] < first.metrics["average_mAP"]
    unscored = answered(examples, lambda example, question: [Event(0, 1, "rain", None)])
    with pytest.raises(ValueError, match="none of 2 events has a score: use the constant protocol"):
        task.score(examples, unscored, Protocol(score="time_tokens"))
    assert task.score(examples, unscored, Protocol(score="constant")).metrics["average_mAP"] == 0.0


def test_a_text_is_matched_to_the_nearest_class_by_embedding(sentence_encoder_dir):
    protocol = Protocol(label="embedding", encoder=str(sentence_encoder_dir))
    texts = ["a dog barks loudly at the door", "someone strums an acoustic guitar", "a dog barks loudly at the door"]
    classes = ["playing guitar", "dog barking", "rain"]
    assert match_labels(texts, classes, protocol) == ["dog barking", "playing guitar", "dog barking"]
    assert match_labels(texts, classes, Protocol(label="exact")) == [None, None, None]
    assert match_labels([], classes, protocol) == []


def test_charades_sta_keeps_spans_beyond_the_end_and_drops_reversed_ones(tmp_path, data_dir):
    lines = tmp_path / "charades_sta_test.txt"
    lines.write_text(
        "YSKX3 4.0 20.0##a person throws a pillow.\nYSKX3 9.0 2.0##reversed.\nT5ECU 0.0 3.5##a person drinks.\n"
    )
    files = [lines, data_dir / "charades_sta/Charades_v1_test.csv.gz"]
    examples = TASKS["charades_sta"].read(files, None)
    assert [example.video_id for example in examples] == ["YSKX3", "T5ECU"]
    assert examples[0].duration == 16.62 and examples[0].questions[0].reference == [(4.0, 20.0)]
    assert '"a person throws a pillow"' in examples[0].questions[0].prompt
    with pytest.raises(ValueError, match="has no length of"):
        TASKS["charades_sta"].read([data_dir / "charades_sta/charades_sta_train.txt.gz", files[1]], None)


def test_didemo_and_qvhighlights_are_complete_and_their_references_score_100(data_dir):
    for name, file, num_videos, num_queries in (
        ("didemo", "didemo/test_data.json.gz", 1037, 4021),
        ("qvhighlights", "qvhighlights/highlight_val_release.jsonl.gz", 1519, 1550),
    ):
        task = TASKS[name]
        examples = task.read([data_dir / file], None)
        assert (len(examples), len(questions_of(examples))) == (num_videos, num_queries)
        truth = answered(examples, lambda example, question: [Event(s, e, "", 0.5) for s, e in question.reference])
        metrics = task.score(examples, truth, Protocol()).metrics
        assert metrics["mIoU"] == metrics["union_IoU"] == metrics["CountF1"] == pytest.approx(100.0)
    several = [question for question in questions_of(examples) if len(question.reference) > 1]
    assert len(several) == 530
    names = {
        name
        for example in TASKS["didemo"].read([data_dir / "didemo/val_data.json.gz"], None)
        for name in example.media_names
    }
    assert any(name.endswith(".") for name in names)  # names without a suffix after the dot are kept


def test_spans_are_ranked_by_score_except_under_the_constant_protocol(data_dir):
    task = TASKS["didemo"]
    examples = task.read([data_dir / "didemo/test_data.json.gz"], None)[:20]

    def two_spans(example, question):
        (start, end) = question.reference[0]
        return [Event(start + 50, end + 50, "", 0.1), Event(start, end, "", 0.9), Event(90, 99, "", None)]

    answers = answered(examples, two_spans)
    assert task.score(examples, answers, Protocol(score="time_tokens")).metrics["mIoU"] == pytest.approx(100.0)
    assert task.score(examples, answers, Protocol(score="constant")).metrics["mIoU"] == 0.0


def test_activitynet_captions_has_two_annotators(data_dir, tmp_path):
    file = data_dir / "activitynet_captions/val_1.json.gz"
    task = TASKS["activitynet_captions"]
    one = task.read([file], None)
    assert len(one) == 4917 and one[0].media_names == ("v_uqiMw7tQ1Cc", "uqiMw7tQ1Cc")
    assert not any("\n" in event["caption"] for q in questions_of(one) for event in q.reference[0])
    second = tmp_path / "val_2.json"
    key = one[0].video_id
    second.write_text(json.dumps({key: {"duration": 55.15, "timestamps": [[0, 9]], "sentences": ["It begins."]}}))
    both = task.read([file, second], None)
    assert [len(example.questions[0].reference) for example in both[:2]] == [2, 1]
    examples = both[:4]
    truth = answered(examples, lambda _, q: [Event(e["start"], e["end"], e["caption"], 1.0) for e in q.reference[0]])
    score = task.score(examples, truth, Protocol())
    assert score.metrics["recall"] == 100.0 and score.protocol == "narration-meteor_nltk-annotators_2"


def test_activitynet_qa_joins_questions_with_answers_and_scores_per_type(data_dir):
    files = [data_dir / "activitynet_qa/test_q.json.gz", data_dir / "activitynet_qa/test_a.json.gz"]
    task = TASKS["activitynet_qa"]
    examples = task.read(files, None)
    assert (len(examples), len(questions_of(examples))) == (800, 8000)
    assert examples[0].questions[0].prompt.startswith("Is the athlete wearing trousers?\n")
    score = task.score(examples, answered(examples, lambda _, q: "yes"), Protocol())
    share = sum(q.reference == "yes" for q in questions_of(examples)) / 80
    assert score.metrics["exact_match"] == pytest.approx(share)
    assert score.metrics["exact_match/color"] < 1 < 30 < score.metrics["exact_match/yes/no"]
    assert sum(v for k, v in score.counts.items() if "/" in k) == 8000
    with pytest.raises(ValueError, match=r"test_q\.json\.gz: record 0: no_answer"):
        task.read([files[0], data_dir / "activitynet_qa/train_a.json.gz"], None)


def test_music_avqa_keeps_repeated_questions_and_scores_its_nine_types(data_dir):
    task = TASKS["music_avqa"]
    examples = task.read([data_dir / "music_avqa/avqa-test.json.gz"], None)
    asked = questions_of(examples)
    assert len(asked) == len({question.id for question in asked}) == 9185
    assert not any("<" in question.prompt for question in asked)
    assert len({question.reference for question in asked}) == 41
    answers = answered(examples, lambda _, q: f"I think the answer is {q.reference}.")
    score = task.score(examples, answers, Protocol())
    assert score.metrics["exact_match"] == 100.0 and score.protocol == "closed-set"
    types = {name: value for name, value in score.counts.items() if "/" in name}
    assert len(types) == 9 and types["num_questions/Audio-Visual Counting"] == 1274


@pytest.mark.parametrize(
    "text, expected",
    [
        ("more than ten", "more than ten"),
        ("There are more than ten of them", "more than ten"),
        ("two, or three", "two"),
        ("Yes.", "yes"),
        ("a tuba", "a tuba"),
        ('I hear "two" of them.', "two"),
        ("The answer is **three**", "three"),
        ("It is (yes)", "yes"),
    ],
)
def test_a_closed_answer_is_the_first_choice_in_the_text(text, expected):
    assert closed_answer(text, ["more than ten", "three", "two", "yes", "ten"]) == expected


def test_the_prompt_of_avsd_holds_the_earlier_dialog(data_dir):
    task = TASKS["avsd"]
    examples = task.read([data_dir / "avsd/lbl_test_set4DSTC7-AVSD.json.gz"], None)
    assert len(examples) == 1710
    longest = max(examples, key=lambda example: len(example.questions[0].prompt)).questions[0]
    with gzip.open(data_dir / "avsd/lbl_test_set4DSTC7-AVSD.json.gz") as file:
        num_turns = max(len(dialog["dialog"]) for dialog in json.load(file)["dialogs"])
    assert longest.prompt.count("A: ") == num_turns - 1 and longest.prompt.count("Q: ") == num_turns
    assert longest.reference not in longest.prompt


def test_both_formats_of_msvd_qa_are_read(data_dir, tmp_path):
    task = TASKS["msvd_qa"]
    file = data_dir / "violet_samples/txt_msvd-qa.json.gz"
    examples = task.read([file], "test")
    with gzip.open(file) as opened:
        content = json.load(opened)
    assert questions_of(examples)[0].reference == content["vocab"][content["test"][0]["answer"]]
    assert len(questions_of(examples)) == 50
    original = tmp_path / "test_qa.json"
    original.write_text(
        '[{"id": 7, "video_id": 7010, "question": "what is a man doing?", "answer": "sing", "category_id": 0}]'
    )
    example = TASKS["msrvtt_qa"].read([original], None)[0]
    assert example.media_names == ("7010", "video7010")
    assert example.questions[0].id == "7" and example.questions[0].group == "what"
    with pytest.raises(ValueError, match="no subset 'dev'"):
        task.read([file], "dev")


def test_each_metric_computes_its_listed_names():
    event = {"start": 0.0, "end": 1.0, "label": "a", "score": 1.0, "caption": "a dog"}
    for name, names in METRIC_NAMES.items():
        one = ["a"] if name == "open_ended_qa" else [[event]]
        assert tuple(load_metric(name).compute(predictions=one, references=one)) == names


def test_a_task_computes_its_listed_metrics(small_annotations):
    for name in ("sandbox", "sandbox_query"):
        examples = TASKS[name].read(small_annotations, "test")
        answers = answered(examples, lambda example, question: [Event(0, 1, "rain", 0.5)])
        assert tuple(TASKS[name].score(examples, answers, Protocol()).metrics) == TASKS[name].metrics


def test_presence_ranks_absent_classes_and_no_event_is_no_prediction(small_annotations):
    """A span for an absent class reduces precision unless its score is lower; "No event." does not."""
    task = TASKS["unav100_query"]
    examples = task.read(small_annotations, "test")

    def predict(absent_events, absent_presence):
        answers = {}
        for example in examples:
            for question in example.questions:
                own = [e for e in example.events if e.label == question.label][:1]
                events = [replace(event, score=0.6) for event in own] or absent_events
                presence = 0.9 if own else absent_presence
                answers[question.id] = Answer(
                    question.id, example.video_id, 20.0, "", tuple(events), presence=presence
                )
        return answers

    invented = [Event(0.0, 1.0, "dog barking", 0.7)]
    value = {
        score: task.score(examples, predict(invented, 0.1), Protocol(score=score)).metrics
        for score in ("presence", "time_tokens", "constant")
    }
    assert value["presence"]["average_mAP"] == pytest.approx(100.0)
    assert value["time_tokens"]["average_mAP"] < 90
    assert value["presence"]["rejection_recall"] == 0.0
    for score in ("presence", "time_tokens", "constant"):
        result = task.score(examples, predict([], 0.1), Protocol(score=score))
        assert result.metrics["average_mAP"] == pytest.approx(100.0) and result.protocol == f"query-{score}"
        assert result.metrics["rejection_F1"] == result.metrics["CountF1"] == 100.0
        assert result.counts["num_absent_queries"] == 1
    old = {key: replace(answer, presence=None) for key, answer in predict(invented, 0.1).items()}
    with pytest.raises(ValueError, match="has no presence score: run the evaluation again"):
        task.score(examples, old, Protocol(score="presence"))
