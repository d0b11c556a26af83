"""Readers of questions about whole videos and images, on the real files."""

import json

import pytest

from dataset_builders.sources import published_questions
from dataset_builders.sources.published_questions import fill_template
from dataset_builders.sources.questions import (
    QuestionedVideo,
    question_rows,
    read_activitynet_qa,
    read_avsd,
    read_music_avqa,
    read_question_answers,
)
from dataset_builders.sources.record_report import RecordReport
from dataset_builders.sources.records import refuse
from dataset_builders.sources.text_cleaning import detokenize


def read(reader, *paths, **settings):
    report = RecordReport()
    return list(reader(*paths, report=report, **settings)), report.counts()


def test_avsd_dialogs_are_complete_and_detokenized(data_dir):
    videos, counts = read(read_avsd, data_dir / "avsd" / "lbl_test_set4DSTC7-AVSD.json.gz")
    assert len(videos) == 1_710 and counts["avsd"]["read"] == sum(len(video.turns) for video in videos) == 6_745
    by_id = {video.record_id: video.turns for video in videos}
    assert by_id["YEDU4"][0] == (
        "Hello. Did someone come to the door?",
        "No and it is a window that he is standing in front of.",
    )
    texts = [text for video in videos for turn in video.turns for text in turn]
    assert not [text for text in texts if " ?" in text or " ." in text or " 't" in text or " 's " in text]


def test_undisclosed_and_missing_answers_are_dropped_with_their_reason(tmp_path):
    turns = [("is he alone ?", "__UNDISCLOSED__"), ("who ?", ""), ("", "no"), ("where ?", "at home")]
    dialog = [{"question": question, "answer": answer} for question, answer in turns]
    (tmp_path / "avsd.json").write_text(json.dumps({"dialogs": [{"image_id": "AB", "dialog": dialog}]}))
    videos, counts = read(read_avsd, tmp_path / "avsd.json")
    assert videos == [QuestionedVideo("AB", ("AB", "AB"), (("Where?", "At home"),))]
    assert counts["avsd"]["dropped"] == {"no_answer": 1, "no_question": 1, "undisclosed_answer": 1}


def test_detokenize_does_not_change_normal_text():
    assert detokenize("He isn't here. It's 2:30!") == "He isn't here. It's 2:30!"


@pytest.mark.parametrize(
    ("name", "num_read", "num_dropped"),
    [
        ("avqa-test", 9_185, 110),
        ("avqa-val", 4_595, 54),
        ("avqa-val.update", 4_568, 0),
        ("avqa-train_fake", 6_233, 112),
    ],
)
def test_music_avqa_templates_are_filled_and_conflicting_answers_dropped(data_dir, name, num_read, num_dropped):
    path = data_dir / "music_avqa" / f"{name}.json.gz"
    videos, counts = read(read_music_avqa, path)
    counts = counts["music_avqa"]
    assert counts["read"] == num_read
    assert sum(len(video.turns) for video in videos) == num_read - sum(counts["dropped"].values())
    assert set(counts["dropped"]) <= {"conflicting_answers", "duplicate_question"}
    assert counts["dropped"].get("conflicting_answers", 0) == num_dropped
    for video in videos:
        questions = [question for question, _ in video.turns]
        assert len(set(questions)) == len(questions)
        assert all(
            question == question.strip() and "<" not in question and "\uff1f" not in question for question in questions
        )


def test_music_avqa_has_41_answers_and_three_kinds_of_questions(data_dir):
    asked = {
        name: list(published_questions.read_music_avqa(data_dir / "music_avqa" / f"{name}.json.gz", drop=refuse(name)))
        for name in ("avqa-test", "avqa-val", "avqa-val.update")
    }
    test, val, update = ({one.answer for one in questions} for questions in asked.values())
    assert len(test) == 41 and test == val == update
    assert "acoustic guitar" in test and "more than ten" in test
    assert len(asked["avqa-test"]) == 9_185
    assert {one.kind.split(" ")[0] for one in asked["avqa-test"]} == {"Audio", "Visual", "Audio-Visual"}


def test_a_template_needs_one_value_per_placeholder():
    assert fill_template("Is the <Object> in the video\uff1f", ["cello"]) == "Is the cello in the video?"
    with pytest.raises(ValueError, match="2 placeholders but 1 values"):
        fill_template("<LR> or <Object>", ["left"])


def test_activitynet_qa_joins_questions_and_answers_by_id(data_dir):
    folder = data_dir / "activitynet_qa"
    videos, counts = read(read_activitynet_qa, folder / "train_q.json.gz", folder / "train_a.json.gz")
    assert len(videos) == 3_200 and counts["activitynet_qa"]["read"] == 32_000
    assert sum(len(video.turns) for video in videos) == 32_000
    assert all(question[0].isupper() and question.endswith("?") for video in videos for question, _ in video.turns)


@pytest.mark.parametrize(
    ("path", "num_records"),
    [
        ("image_text/minigpt_caption_3k.json.gz", 3_362),
        ("image_text/llava_complex_reasoning_2k.json.gz", 2_000),
        ("image_text/coco2014_val_gpt4_qa_30x3.jsonl.gz", 90),
        ("violet_samples/txt_cc3m.json.gz", 450),
    ],
)
def test_all_records_of_the_real_image_files_are_read(data_dir, path, num_records):
    records, counts = read(read_question_answers, data_dir / path, source="images")
    assert len(records) == counts["images"]["read"] == num_records and counts["images"]["dropped"] == {}
    texts = [text for record in records for turn in record.turns for text in turn]
    assert not [text for text in texts if "</s>" in text or "<image>" in text or text != text.strip()]


def test_paragraphs_of_an_answer_are_kept(data_dir):
    records, _ = read(read_question_answers, data_dir / "image_text/llava_complex_reasoning_2k.json.gz", source="i")
    assert "precautions include:\n\n1. Wearing reflective" in records[0].turns[0][1]


def test_formats_of_llava_video_instruct_and_videochat_give_the_same_records(tmp_path):
    question, answer = "What is\nthis?", "A dog."
    forms = [
        {"video_id": "v_abc", "q": question, "a": answer},
        {"video": "v_abc", "QA": [{"q": question, "a": answer}]},
        {
            "id": "1",
            "video": "v_abc",
            "conversations": [
                {"from": "human", "value": f"{question}\n<video>"},
                {"from": "gpt", "value": answer},
            ],
        },
    ]
    forms.append(
        {
            **forms[2],
            "conversations": [{"from": "human", "value": f"<image>\n{question}"}, *forms[2]["conversations"][1:]],
        }
    )
    (tmp_path / "forms.json").write_text(json.dumps(forms))
    records, counts = read(read_question_answers, tmp_path / "forms.json", source="video_instruct")
    assert {record.turns for record in records} == {((question, answer),)} and len(records) == 4
    assert {record.media_names for record in records} == {("v_abc", "abc")}


def test_records_of_an_unknown_format_are_dropped(tmp_path):
    gpt = {"from": "gpt", "value": "Hi."}
    forms = [{"video": "a", "text": "b"}, {"q": "What?", "a": "That."}, {"video": "a", "conversations": [gpt, gpt]}]
    (tmp_path / "forms.json").write_text(json.dumps(forms))
    records, counts = read(read_question_answers, tmp_path / "forms.json", source="video_instruct")
    assert records == []
    assert counts["video_instruct"] == {
        "read": 3,
        "kept": 0,
        "dropped": {"not_alternating": 1, "unknown_form": 2},
        "repaired": {},
    }


def test_short_answer_wordings_contain_the_question_unchanged():
    turns = tuple((f"Is {number} here {{?}}", "yes") for number in range(25))
    rows = list(question_rows(QuestionedVideo("v", ("v",), turns), source="q", media="v.mp4", short_answers=True))
    asked = [message["content"].removeprefix("<video>\n") for row in rows for message in row["messages"][::2]]
    assert len(rows) == 3 and len(asked) == 25
    assert all(question in text for (question, _), text in zip(turns, asked))
    assert len({text.replace(question, "") for (question, _), text in zip(turns, asked)}) == 4
