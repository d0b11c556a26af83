"""load_dataset("instruction", "<source>", ...): rows of annotated videos, one configuration per source."""

import json

import pytest
from datasets import load_dataset

import dataset_builders  # noqa: F401 - registers the builder
from dataset_builders.instruction import EVENT_SOURCES, QUESTION_SOURCES, InstructionConfig, read_rows
from dataset_builders.schema import FEATURES
from dataset_builders.sources.record_report import RecordReport

from .media_files import pictures, write_media


def rows_of(source, **settings):
    report = RecordReport()
    return list(read_rows(InstructionConfig(name=source, **settings), report=report)), report.counts()[source]


@pytest.mark.parametrize(
    ("source", "names", "num_kept", "num_rows"),
    [
        ("unav100", ["unav100/unav100_annotations.json.gz"], 18_123, None),
        ("activitynet_captions", ["activitynet_captions/val_1.json.gz"], 17_505, None),
        ("didemo", ["didemo/val_data.json.gz"], None, None),
        ("qvhighlights", ["qvhighlights/highlight_val_release.jsonl.gz"], 2_803, None),
        ("avsd", ["avsd/lbl_test_set4DSTC7-AVSD.json.gz"], 6_745, 1_710),
        ("music_avqa", ["music_avqa/avqa-val.update.json.gz"], 4_568, None),
        ("video_instruct", ["image_text/llava_complex_reasoning_2k.json.gz"], 2_000, 2_000),
    ],
)
def test_each_source_gives_rows_of_the_schema_and_counts_all_records(data_dir, source, names, num_kept, num_rows):
    rows, counts = rows_of(source, annotations_file=[data_dir / name for name in names])
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values()) > 0
    assert num_kept in (None, counts["kept"]) and num_rows in (None, len(rows))
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == set(FEATURES) and row["source"] == source and row["media"]["video"]
        assert row["messages"][0]["content"].startswith("<video>\n") and len(row["messages"]) <= 20
        assert (row["duration"] is not None) == (source in EVENT_SOURCES)
        assert all(0 <= time["seconds"] <= row["duration"] for time in row["times"])


def test_load_dataset_takes_the_name_of_a_source(data_dir, tmp_path):
    path = str(data_dir / "unav100" / "unav100_annotations.json.gz")
    dataset = load_dataset("instruction", "unav100", annotations_file=path, subset="test", cache_dir=str(tmp_path))
    assert list(dataset) == ["test"] and dataset["test"].features == FEATURES
    assert len({row.rsplit("-", 1)[0] for row in dataset["test"]["id"] if row.endswith("-narration")}) == 2_167
    with pytest.raises(ValueError, match="instruction/avsd needs annotations_file"):
        load_dataset("instruction", "avsd", cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="no_such_source"):
        load_dataset("instruction", "no_such_source", annotations_file=path, cache_dir=str(tmp_path))


def test_activitynet_qa_joins_questions_with_answers(data_dir):
    folder = data_dir / "activitynet_qa"
    rows, counts = rows_of(
        "activitynet_qa", annotations_file=folder / "test_q.json.gz", answers_file=folder / "test_a.json.gz"
    )
    assert counts["kept"] == 8_000 and sum(len(row["messages"]) for row in rows) == 16_000
    with pytest.raises(ValueError, match="1 files of questions but 0 of answers"):
        rows_of("activitynet_qa", annotations_file=folder / "test_q.json.gz")


def test_durations_of_charades_are_read_from_the_videos_without_a_durations_file(data_dir, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "AO8RW.mp4").symlink_to(data_dir / "msrvtt" / "video7013.mp4")
    (tmp_path / "videos" / "Y6R7T.mp4").write_bytes(b"not a video")
    (tmp_path / "sta.txt").write_text("AO8RW 0.0 6.9##a person puts a book down.\nY6R7T 2.0 3.0##person waves.\n")
    rows, counts = rows_of("charades_sta", annotations_file=tmp_path / "sta.txt", media_dir=str(tmp_path / "videos"))
    assert [row["id"] for row in rows] == ["charades_sta-AO8RW-grounding", "charades_sta-AO8RW-segment"]
    assert 6.9 < rows[0]["duration"] < 60 and counts["dropped"] == {"unreadable_media": 1}


def test_excluded_and_missing_videos_are_counted_by_their_events(data_dir, tmp_path):
    database = {
        name: {
            "duration": 10.0,
            "subset": "train",
            "annotations": [{"segment": [0, 4], "label": "rain"}, {"segment": [5, 9.5], "label": "wind"}],
        }
        for name in ("-aaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc")
    }
    (tmp_path / "unav.json").write_text(json.dumps({"version": "1", "database": database}))
    (tmp_path / "ids.txt").write_text("bbbbbbbbbbb\n")
    (tmp_path / "videos").mkdir()
    write_media(tmp_path / "videos" / "-aaaaaaaaaa.mp4", frames=pictures(100))
    settings = {"annotations_file": tmp_path / "unav.json", "exclude_ids_file": tmp_path / "ids.txt"}
    settings["media_dir"] = str(tmp_path / "videos")
    with pytest.raises(ValueError, match=r"1 of 2 media files are missing.*\['ccccccccccc'\]"):
        rows_of("unav100", **settings)
    rows, counts = rows_of("unav100", **settings, max_missing=0.5)
    assert {row["media"]["video"] for row in rows} == {str(tmp_path / "videos" / "-aaaaaaaaaa.mp4")}
    assert counts == {"read": 6, "kept": 2, "dropped": {"excluded_id": 2, "missing_media": 2}, "repaired": {}}


def test_default_conversation_types_suit_the_source(data_dir):
    path = data_dir / "didemo" / "val_data.json.gz"
    kinds = {row["id"].split("-")[-1] for row in rows_of("didemo", annotations_file=path)[0]}
    assert {"grounding", "segment"} <= kinds and "narration" not in kinds
    chosen = rows_of("didemo", annotations_file=path, conversation_types=["grounding"])[0]
    assert not [row["id"] for row in chosen if "grounding" not in row["id"]]


def test_the_number_of_questions_about_absent_classes_is_set(data_dir):
    path = data_dir / "unav100" / "unav100_annotations.json.gz"
    settings = {"annotations_file": path, "subset": "validation", "conversation_types": ["grounding"]}
    for num_absent in (0, 2):
        rows, _ = rows_of("unav100", num_absent=num_absent, **settings)
        answers = [message["content"] for row in rows for message in row["messages"]]
        assert answers.count("No event.") == 2_134 * num_absent
    rows, _ = rows_of("unav100", absent_share=0.4, **settings)
    answers = [message["content"] for row in rows for message in row["messages"] if message["role"] == "assistant"]
    assert answers.count("No event.") / len(answers) == pytest.approx(0.4, abs=0.05)
    with pytest.raises(ValueError, match="absent_share must be"):
        rows_of("unav100", absent_share=1, **settings)


def test_ids_of_two_files_with_the_same_videos_are_unique(data_dir):
    path = data_dir / "vtimellm" / "data_example.json"
    rows, _ = rows_of("activitynet_captions", annotations_file=[path, path])
    assert len(rows) == len({row["id"] for row in rows}) == 12


def test_vtimellm_records_are_excerpts_or_compositions(tmp_path):
    turns = [
        {"from": "human", "value": "<video>\nWhat happens?"},
        {"from": "gpt", "value": "From <s0> to <e0>, a dog barks."},
    ]
    meta = {"duration": 54.2, "token": {"<s0>": 0, "<e0>": 9.4}}
    records = [
        {
            "id": "3n3oCNerzV0",
            "source": "internvid",
            "conversations": turns,
            "meta": {**meta, "split": [129.8, 184.0]},
        },
        {"id": "7", "conversations": turns, "meta": {**meta, "sub_videos": ["a", "b"], "scale": [1.0, 1.2]}},
        {"id": "8", "conversations": [], "meta": meta},
    ]
    (tmp_path / "stage2.json").write_text(json.dumps(records))
    rows, counts = rows_of("vtimellm", annotations_file=tmp_path / "stage2.json")
    assert [row["media"]["video"] for row in rows] == ["3n3oCNerzV0_129.800_184.000.mp4", None]
    assert [len(row["segments"]) for row in rows] == [0, 2]
    assert counts["read"] == 3 and counts["kept"] == 2 and sum(counts["dropped"].values()) == 1
    (tmp_path / "excerpts").mkdir()
    excerpt = tmp_path / "excerpts" / "3n3oCNerzV0_129.800_184.000.webm"
    write_media(excerpt, frames=pictures(55), fps=1, video_codec="libvpx")
    settings = {"annotations_file": tmp_path / "stage2.json", "media_dir": str(tmp_path / "excerpts")}
    assert rows_of("vtimellm", **settings)[0][0]["media"]["video"].endswith("184.000.webm")
    (tmp_path / "ids.txt").write_text("3n3oCNerzV0_129.800_184.000")
    rows, counts = rows_of("vtimellm", exclude_ids_file=tmp_path / "ids.txt", **settings)
    assert len(rows) == 1 and counts["dropped"]["excluded_id"] == 1


def test_all_sources_of_the_paper_are_supported():
    assert {"unav100", "activitynet_captions", "didemo", "charades_sta", "internvid"} <= set(EVENT_SOURCES)
    assert {"avsd", "music_avqa", "video_instruct"} <= set(QUESTION_SOURCES)
