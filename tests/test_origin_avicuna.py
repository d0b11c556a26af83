"""The origin of a checkpoint is recorded by names and Hub ids, without local paths."""

import json
from pathlib import Path

import pytest

from modeling_avicuna.origin_avicuna import ORIGIN_FILE, RANDOM, is_hub_id, name_of_part, write_origin


@pytest.mark.parametrize(
    "name", ["vicuna-7b-v1.5", "/home/me/vicuna", "./lmsys/vicuna", "a/b/c", "user/", "-user/model", "user/mo del"]
)
def test_names_that_are_not_hub_ids(name):
    assert not is_hub_id(name)


def test_an_existing_folder_is_not_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("lmsys/vicuna-7b-v1.5")
    Path("lmsys/vicuna-7b-v1.5").mkdir(parents=True)
    assert not is_hub_id("lmsys/vicuna-7b-v1.5") and name_of_part("lmsys/vicuna-7b-v1.5") == "vicuna-7b-v1.5"
    assert name_of_part(".") == tmp_path.name


def test_the_record_has_names_without_paths(tmp_path):
    parts = {"language_model": tmp_path / "vicuna", "vision_tower": "openai/clip", "vision_adapter": RANDOM}
    write_origin(tmp_path, made_by="test", merged=[tmp_path / "stage3"], audio_tower=None, **parts)
    text = (tmp_path / ORIGIN_FILE).read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert json.loads(text) == {
        "made_by": "test",
        "merged": ["stage3"],
        "parts": {
            "language_model": "vicuna",
            "vision_tower": "openai/clip",
            "audio_tower": None,
            "vision_adapter": RANDOM,
        },
    }
