"""Conversion of rows to messages: times in the format of the codec, media slots as content blocks."""

import pytest

from dataset_builders.sources.rows import make_row
from modeling_avicuna.timestamp_avicuna import TimeCodec
from train.conversation import build_messages, split_slots, write_times


def example_row(answer: str = "From <s0> to <e0>, a dog barks.", **changes) -> dict:
    times = {"s0": 5.0, "e0": 20.0} if "<s0>" in answer else {}
    row = make_row("r1", source="test", turns=[("What happens?", answer)], video="v.mp4", duration=50.0, times=times)
    return {**row, **changes}


def test_times_are_written_by_the_codec_of_the_model():
    messages = build_messages(example_row(), codec=TimeCodec())
    assert messages[1]["content"] == [{"type": "text", "text": "From 10 to 40, a dog barks."}]
    messages = build_messages(example_row(), codec=TimeCodec(unit="seconds"))
    assert messages[1]["content"][0]["text"] == "From 5.0 to 20.0, a dog barks."


def test_a_name_that_is_the_prefix_of_another_is_replaced_exactly():
    seconds = {"<s1>": 10.0, "<s10>": 90.0}
    text = write_times("<s10> then <s1>", seconds=seconds, duration=100.0, codec=TimeCodec())
    assert text == "90 then 10"


def test_slots_become_blocks_in_order():
    assert split_slots("<video>\nWhat is <audio>?") == [
        {"type": "video"},
        {"type": "text", "text": "\nWhat is "},
        {"type": "audio"},
        {"type": "text", "text": "?"},
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"times": []}, ["r1", "<s0>"]),
        ({"duration": None}, ["r1", "duration"]),
        ({"messages": [{"role": "user", "content": "<video> Hello"}]}, ["r1", "no assistant"]),
        ({"messages": [{"role": "assistant", "content": "  "}]}, ["r1", "empty answer"]),
    ],
)
def test_a_row_unusable_for_training_is_an_error_that_names_it(changes, words):
    with pytest.raises(ValueError) as error:
        build_messages(example_row(**changes), codec=TimeCodec())
    assert all(word in str(error.value) for word in words)
