"""The lmms-eval plugin: conversion of its requests and answers.

lmms-eval requires older versions of some dependencies, so the project does not depend on it; tests/test_docs_slow.py
installs it separately and runs one of its tasks.
"""

import numpy as np
import pytest
from PIL import Image

from eval.lmms_plugin import models
from eval.lmms_plugin.content import content_blocks, cut_at, with_seconds
from modeling_avicuna.timestamp_avicuna import TimeCodec


def test_the_media_and_text_of_a_task_become_content_blocks():
    sound = {"array": np.ones((2, 8000)), "sampling_rate": 16_000}
    blocks = content_blocks("<video> What is it? <image>", ["a.mp4", Image.new("L", (4, 2)), sound, None])
    assert [block["type"] for block in blocks] == ["video", "image", "audio", "text"]
    assert blocks[0] == {"type": "video", "path": "a.mp4"} and blocks[3]["text"] == "What is it?"
    assert blocks[1]["image"].shape == (2, 4, 3) and blocks[2]["audio"].shape == (24_000,)
    assert content_blocks("Hello", None) == [{"type": "text", "text": "Hello"}]


def test_an_answer_ends_at_the_first_stop_string():
    assert cut_at("one\ntwo. three", [". ", "\n"]) == "one"
    assert cut_at("one", ["", "x"]) == "one"


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("From 10 to 50.", "From 2.0 to 10.0."),
        ("It happens from 10 to 50 and from 60 to 70.", "It happens from 2.0 to 10.0 and from 12.0 to 14.0."),
        ("From 50 to 10, rain.", "From 2.0 to 10.0, rain."),
        ("From 0:05 to 0:07, rain.", "From 5.0 to 7.0, rain."),
        ("There are 2 dogs.", "There are 2 dogs."),
        ("No event.", "No event."),
    ],
)
def test_times_are_converted_to_seconds_and_other_numbers_kept(answer, expected):
    assert with_seconds(answer, 20.0, codec=TimeCodec()) == expected


def test_the_class_and_task_names_for_lmms_eval_exist(project_dir):
    folder = project_dir / "eval/lmms_plugin"
    for module, name in models.AVAILABLE_MODELS.items():
        assert f"class {name}(lmms):" in (folder / "models" / f"{module}.py").read_text()
    assert (folder / "tasks" / "__init__.py").is_file()
