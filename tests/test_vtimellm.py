"""Conversation files of AVicuna and VTimeLLM: lossless round trip of our rows, and reading of published records."""

import gzip
import json

import datasets
from datasets import load_dataset

import dataset_builders  # noqa: F401  (registers pu_valor)
from dataset_builders.sources.record_report import RecordReport
from dataset_builders.sources.rows import make_row
from dataset_builders.sources.vtimellm import read_vtimellm, write_vtimellm

from .curation_fixtures import quick_options, write_captions
from .media_files import pictures, write_media


def test_written_rows_are_read_back_unchanged(tmp_path):
    options = quick_options(write_captions(tmp_path / "desc.json"))
    dataset = load_dataset("pu_valor", cache_dir=str(tmp_path / "cache"), split="train", **options)
    rows = list(dataset)
    path = tmp_path / "pu_valor.json"
    assert write_vtimellm(rows, path) == 40
    report = RecordReport()
    assert list(read_vtimellm(path, report=report)) == rows
    assert report.counts()["vtimellm"] == {"read": 40, "kept": 40, "dropped": {}, "repaired": {}}
    record = json.loads(path.read_text())[0]
    assert set(record) == {"id", "source", "conversations", "meta"} and record["source"] == "pseudo-valor"
    assert {turn["from"] for turn in record["conversations"]} == {"human", "gpt"}
    assert set(record["meta"]) >= {"duration", "token", "sub_videos", "scale"}
    assert write_vtimellm([], tmp_path / "none.json") == 0
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_published_records_are_read(tmp_path):
    turns = [{"from": "human", "value": "<video>\nWhen?"}, {"from": "gpt", "value": "From <s0> to <e0>."}]
    timeless = [turns[0], {"from": "gpt", "value": "Later."}]
    meta = {"duration": 21.0, "token": {"<s0>": 10, "<e0>": 21.0}, "sub_videos": ["a", "b"], "scale": [1.0, 1.1]}
    excerpt = {"split": [3.5, 9.0], "duration": 5.5, "token": {}}
    records = [
        {"id": "x", "source": "pseudo-valor", "conversations": turns, "meta": meta},
        {"id": "x", "conversations": timeless, "meta": excerpt},
        {"id": "gone", "conversations": timeless, "meta": {"duration": 4}},
        {"id": "empty", "conversations": []},
        {"id": "timeless", "conversations": turns, "meta": {"token": {"<s0>": 1}}},
        {"id": "uneven", "conversations": timeless, "meta": {**meta, "scale": [1.0]}},
    ]
    path = tmp_path / "stage.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    (tmp_path / "media").mkdir()
    write_media(tmp_path / "media" / "x_3.500_9.000.mp4", frames=pictures(55))
    report = RecordReport()
    first, second = read_vtimellm(path, report=report, media_dir=tmp_path / "media", source="internvid")
    assert first["segments"] == [
        {"clip_id": "a", "start": 0.0, "end": 10.0, "scale": 1.0, "caption": None},
        {"clip_id": "b", "start": 10.0, "end": 21.0, "scale": 1.1, "caption": None},
    ]
    assert second["media"]["video"].endswith("x_3.500_9.000.mp4") and second["source"] == "internvid"
    assert len({first["id"], second["id"]}) == 2
    assert report.counts()["internvid"]["dropped"] == {
        "clips_and_scales_differ_in_number": 1,
        "no_conversation": 1,
        "missing_media": 1,
        "time_without_seconds": 1,
    }


def test_a_dataset_with_a_video_column_is_written_without_decoding(tmp_path):
    options = quick_options(write_captions(tmp_path / "desc.json"))
    dataset = load_dataset("pu_valor", cache_dir=str(tmp_path / "cache"), split="train", **options)
    videos = [{"bytes": b"not a video", "path": "a.mp4"}] * len(dataset)
    features = datasets.Features({**dataset.features, "video": datasets.Video()})
    rendered = datasets.Dataset.from_list(
        [{**row, "video": one} for row, one in zip(dataset, videos)], features=features
    )
    for rows, name in (
        (dataset, "plain.json"),
        (rendered, "rendered.json"),
        (rendered.to_iterable_dataset(), "stream.json"),
    ):
        assert write_vtimellm(rows, tmp_path / name) == 40
    assert len({(tmp_path / name).read_bytes() for name in ("plain.json", "rendered.json", "stream.json")}) == 1


def test_gzipped_files_are_deterministic(tmp_path):
    row = make_row("a", source="s", turns=[("Q?", "A.")], video="a.mp4")
    for name in ("x.json.gz", "y.json.gz"):
        write_vtimellm([row], tmp_path / name)
    assert (tmp_path / "x.json.gz").read_bytes() == (tmp_path / "y.json.gz").read_bytes()
    assert json.loads(gzip.decompress((tmp_path / "x.json.gz").read_bytes()))[0]["id"] == "a"
    assert [one["id"] for one in read_vtimellm(tmp_path / "x.json.gz", report=RecordReport())] == ["a"]
