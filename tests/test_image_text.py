"""load_dataset("image_text", ...): pairs for stage I from all supported file formats."""

import json

import pytest
from datasets import load_dataset

import dataset_builders  # noqa: F401 - registers the builder
from dataset_builders.image_text import ImageTextConfig, read_rows
from dataset_builders.schema import FEATURES, MEDIA
from dataset_builders.sources.record_report import RecordReport


LCS_ROWS = [
    {
        "id": "004539375",
        "image": "00453/004539375.jpg",
        "conversations": [
            {"from": "human", "value": "Render a clear and concise summary of the photo.\n<image>"},
            {"from": "gpt", "value": "select luxury furniture 3 - inch gel memory foam mattress topper"},
        ],
    },
    {
        "id": "002239345",
        "image": "00223/002239345.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is this?"},
            {"from": "gpt", "value": "the divine queen"},
            {"from": "human", "value": "And now?"},
            {"from": "gpt", "value": "the same"},
        ],
    },
]


def rows_of(**settings):
    report = RecordReport()
    return list(read_rows(ImageTextConfig(**settings), report=report)), report.counts()


def test_each_record_of_the_real_files_gives_one_row(data_dir, tmp_path):
    names = ("image_text/minigpt_caption_3k.json.gz", "image_text/llava_complex_reasoning_2k.json.gz")
    names += ("image_text/coco2014_val_gpt4_qa_30x3.jsonl.gz", "violet_samples/txt_cc3m.json.gz")
    files = [str(data_dir / name) for name in names]
    dataset = load_dataset("image_text", annotations_file=files, split="train", cache_dir=str(tmp_path))
    assert dataset.features == FEATURES and len(dataset) == len(set(dataset["id"])) == 3_362 + 2_000 + 90 + 450
    for row in dataset.select(range(0, len(dataset), 211)):
        assert row["media"]["image"].endswith(".jpg") and row["duration"] is None
        assert [message["content"].count("<image>") for message in row["messages"]] == [1, 0]
    (report,) = tmp_path.rglob("report.json")
    counts = json.loads(report.read_text())["sources"]
    assert sum(row["kept"] for row in counts.values()) == len(dataset)
    assert not any(row["dropped"] for row in counts.values())


def test_the_image_placeholder_is_moved_to_the_start_of_the_question(tmp_path):
    (tmp_path / "lcs.json").write_text(json.dumps(LCS_ROWS))
    rows, _ = rows_of(annotations_file=tmp_path / "lcs.json")
    assert [row["messages"][0]["content"] for row in rows] == [
        "<image>\nRender a clear and concise summary of the photo.",
        "<image>\nWhat is this?",
        "<image>\nAnd now?",
    ]
    assert [row["media"]["image"] for row in rows] == [LCS_ROWS[0]["image"]] + [LCS_ROWS[1]["image"]] * 2
    rows, _ = rows_of(annotations_file=tmp_path / "lcs.json", max_turns=10)
    assert [len(row["messages"]) for row in rows] == [2, 4]


def test_missing_images_are_counted_with_all_their_turns(tmp_path):
    (tmp_path / "lcs.json").write_text(json.dumps(LCS_ROWS))
    (tmp_path / "images" / "00453").mkdir(parents=True)
    (tmp_path / "images" / "00453" / "004539375.jpg").write_bytes(b"-")
    settings = {"annotations_file": tmp_path / "lcs.json", "image_dir": str(tmp_path / "images")}
    with pytest.raises(ValueError, match="1 of 2 media files are missing"):
        rows_of(**settings)
    rows, counts = rows_of(**settings, max_missing=0.5)
    assert [row["media"]["image"] for row in rows] == [str(tmp_path / "images" / "00453" / "004539375.jpg")]
    assert counts["lcs"] == {"read": 3, "kept": 1, "dropped": {"missing_media": 2}, "repaired": {}}


def test_captioned_clips_give_image_rows_and_clips_without_video_are_dropped(data_dir, tmp_path):
    (tmp_path / "clips").mkdir()
    sources = {
        "heard": data_dir / "clips" / "gs-16b-2c-44100hz_audio_only.mp4",
        "seen": data_dir / "msrvtt" / "video7013.mp4",
    }
    for name, path in sources.items():
        (tmp_path / "clips" / f"{name}.mp4").symlink_to(path)
    captions = [{"video_id": name, "desc": "a man cuts wood"} for name in sources]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    rows, counts = rows_of(captions_file=tmp_path / "captions.json", clips_dir=str(tmp_path / "clips"))
    (row,) = rows
    assert row["media"] == {**dict.fromkeys(MEDIA), "image": str(tmp_path / "clips" / "seen.mp4")}
    assert row["messages"][1]["content"] == "A man cuts wood."
    assert counts["captions"] == {"read": 2, "kept": 1, "dropped": {"no_picture": 1}, "repaired": {}}


def test_a_repeated_file_gives_different_ids(tmp_path):
    (tmp_path / "lcs.json").write_text(json.dumps(LCS_ROWS))
    rows, _ = rows_of(annotations_file=[tmp_path / "lcs.json"] * 2)
    assert len({row["id"] for row in rows}) == len(rows) == 6


def test_no_file_is_an_error():
    with pytest.raises(ValueError, match="needs annotations_file or captions_file"):
        rows_of()
