"""The base class of the annotation builders: cache keys, unique ids, shards, split names."""

import json

import pytest
from datasets import load_dataset

import dataset_builders  # noqa: F401 - registers the builders
from dataset_builders import builder_base
from dataset_builders.builder_base import AnnotationBuilder, check_split_name, with_unique_ids
from dataset_builders.image_text import ImageTextConfig


def write_pairs(path, names):
    records = [
        {
            "id": name,
            "image": name,
            "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A bell."}],
        }
        for name in names
    ]
    path.write_text(json.dumps(records), encoding="utf-8")
    return str(path)


def load_pairs(tmp_path, **options):
    return load_dataset("image_text", split="train", cache_dir=str(tmp_path / "cache"), **options)


def test_a_changed_media_folder_is_read_again(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_bytes(b"-")
    options = {"annotations_file": write_pairs(tmp_path / "p.json", ["a.jpg", "b.jpg"]), "image_dir": str(images)}
    assert len(load_pairs(tmp_path, **options, max_missing=0.5)) == 1
    (images / "b.jpg").write_bytes(b"-")
    assert len(load_pairs(tmp_path, **options, max_missing=0.5)) == 2
    (images / "b.jpg").unlink()
    assert len(load_pairs(tmp_path, **options, max_missing=0.5)) == 1


def test_the_same_relative_path_in_another_folder_gives_another_cache_key(tmp_path, monkeypatch):
    found = []
    for project in ("one", "two"):
        (tmp_path / project / "images").mkdir(parents=True)
        (tmp_path / project / "images" / "a.jpg").write_bytes(b"-")
        write_pairs(tmp_path / project / "p.json", ["a.jpg"])
        monkeypatch.chdir(tmp_path / project)
        config = ImageTextConfig(annotations_file="p.json", image_dir="images")
        found.append(config.create_config_id({}))
    assert found[0] != found[1]


def test_a_number_is_appended_to_repeated_ids():
    names = ["a", "a", "b", "a#2", "a", "a#2"]
    ids = [row["id"] for row in with_unique_ids({"id": name} for name in names)]
    assert len(set(ids)) == 6 and ids[:3] == ["a", "a#2", "b"]
    assert all(unique.split("#")[0] == name.split("#")[0] for unique, name in zip(ids, names))


def test_a_stream_has_shards_of_rows_per_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(builder_base, "ROWS_PER_SHARD", 4)
    path = write_pairs(tmp_path / "p.json", [f"{number}.jpg" for number in range(10)])
    stream = load_pairs(tmp_path, annotations_file=path, streaming=True)
    assert stream.num_shards == 3
    sizes, make_table = [], AnnotationBuilder._make_table
    monkeypatch.setattr(
        AnnotationBuilder, "_make_table", lambda self, rows: sizes.append(len(rows)) or make_table(self, rows)
    )
    assert [row["id"] for row in stream] == load_pairs(tmp_path, annotations_file=path, num_proc=2)["id"]
    assert sizes == [4, 4, 2]  # as many rows are Python objects at a time


@pytest.mark.parametrize("name", ["val-1", "Test Set", "", "a/b", "..", "all", "t\u00e9st", "a."])
def test_an_invalid_split_name_is_an_error(name):
    with pytest.raises(ValueError, match="use letters, digits and underscores"):
        check_split_name(name)


@pytest.mark.parametrize("name", ["train", "val_1", "test.v2", "2024"])
def test_a_valid_split_name_is_accepted(name):
    check_split_name(name)


def test_an_invalid_subset_of_the_instruction_builder_is_an_error(tmp_path):
    path = write_pairs(tmp_path / "p.json", ["a.mp4"])
    with pytest.raises(ValueError, match="split 'val-1'"):
        load_dataset(
            "instruction", "video_instruct", annotations_file=path, subset="val-1", cache_dir=str(tmp_path / "cache")
        )
