"""Content blocks: every known format becomes a slot; errors name what is unknown."""

import base64

import numpy as np
import pytest

from modeling_avicuna.content_blocks_avicuna import read_conversations
from modeling_avicuna.media_slots_avicuna import OWN_SOUND, MediaSlot


def user(*blocks):
    return [{"role": "user", "content": list(blocks)}]


def slots_of(*conversations):
    return read_conversations(list(conversations))[1]


@pytest.mark.parametrize("literal", ["<video>", "<audio>", "<image>"])
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_a_literal_placeholder_in_text_is_an_error_that_names_it(literal, role):
    for content in (f"see {literal} here", [{"type": "text", "text": f"see {literal} here"}]):
        messages = [{"role": "user", "content": "Hi"}, {"role": role, "content": content}]
        with pytest.raises(ValueError, match=f"message 1 .*{literal}"):
            read_conversations([messages])


def test_a_dropped_opening_turn_is_not_checked():
    opening = {"role": "assistant", "content": [{"type": "picture"}, {"type": "video", "path": "a"}]}
    conversation = [opening, {"role": "user", "content": "Hi"}]
    assert read_conversations([conversation]) == ([conversation], None)
    read_conversations([[{"role": "assistant", "content": "Ready. <video>"}, {"role": "user", "content": "Hi"}]])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "picture", "path": "a"}, "unknown type; known are text, video, audio, image"),
        ({"text": "a"}, "unknown type"),
        ({"type": "text"}, "has no text"),
        ({"type": "text", "text": "a", "txt": "b"}, r"unknown keys \['txt'\]"),
        ({"type": "video", "path": "a", "video_strat": 3}, r"unknown keys \['video_strat'\]"),
        ({"type": "video", "path": "a", "nframes": 8}, r"unknown keys \['nframes'\]"),
        ({"type": "image", "path": "a", "start": 3}, r"unknown keys \['start'\]"),
        ({"type": "video", "path": "a", "video": "b"}, r"more than one medium: \['path', 'video'\]"),
        ({"type": "video", "path": "a", "start": 1, "video_start": 1}, "has both start and video_start"),
        ({"type": "input_audio", "input_audio": {"data": "!"}}, "input_audio does not hold base64"),
        ({"type": "input_audio", "input_audio": "abc"}, "input_audio must be"),
        ({"type": "image_url", "image_url": {"link": "a"}}, "image_url must be a URL or"),
        ("a", "must be a dict, got 'a'"),
    ],
)
def test_an_invalid_block_is_an_error_that_names_it(block, message):
    with pytest.raises(ValueError, match=f"message 0.*{message}|{message}"):
        read_conversations([user(block)])


@pytest.mark.parametrize(
    ("conversations", "message"),
    [
        ([[]], "the conversation is empty"),
        ([[{"role": "user", "content": "Hi"}], []], "the conversation is empty"),
        ([[{"role": "user", "content": None}]], "message 0 must have a role and a content"),
        ([[{"role": "user"}]], "message 0 must have a role and a content"),
        ([[{"content": "Hi"}]], "message 0 must have a role and a content"),
        ([[{"role": "user", "content": 3}]], "message 0 must have a role and a content"),
        ([[{"role": "user", "content": {"type": "text", "text": "Hi"}}]], "message 0 must have a role and a content"),
        ([["Hi"]], "message 0 must have a role and a content"),
    ],
)
def test_an_invalid_message_is_an_error_that_names_it(conversations, message):
    with pytest.raises(ValueError, match=message):
        read_conversations(conversations)


def test_blocks_become_slots():
    video, silent, other = (
        {"type": "video", "path": "a"},
        {"type": "video", "path": "b", "audio": False},
        {"type": "video", "video": "c", "audio": "d"},
    )
    sound, image = {"type": "audio", "audio": "e"}, {"type": "image", "url": "f"}
    assert slots_of(user(video, silent), user(other, sound, image)) == [
        [MediaSlot("video", picture="a", sound=OWN_SOUND), MediaSlot("video", picture="b")],
        [
            MediaSlot("video", picture="c", sound="d"),
            MediaSlot("audio", sound="e"),
            MediaSlot("image", picture="f"),
        ],
    ]
    assert read_conversations([user(video)], own_sound=False)[1] == [[MediaSlot("video", picture="a")]]


@pytest.mark.parametrize("kind", ["video", "audio"])
@pytest.mark.parametrize("names", [("start", "end"), ("{}_start", "{}_end")])
def test_a_block_may_have_start_and_end(kind, names):
    keys = dict(zip((name.format(kind) for name in names), (12.0, 19.5)))
    (slot,) = slots_of(user({"type": kind, "path": "a", **keys}))[0]
    assert (slot.start, slot.end) == (12.0, 19.5)


def test_openai_formats_become_the_same_slots():
    url, data = "https://example.org/a.mp4", base64.b64encode(b"sound").decode()
    blocks = [
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "video_url", "video_url": url},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "auto"}},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "image", "base64": data},
    ]
    messages, (slots,) = read_conversations([user(*blocks)])
    kinds = ["video", "video", "image", "audio", "audio", "image"]
    assert [block["type"] for block in messages[0][0]["content"]] == [slot.kind for slot in slots] == kinds
    assert [slot.picture for slot in slots[:3]] == [url, url, "data:image/png;base64,AA=="]
    assert slots[3].sound == url and slots[4].sound.read() == slots[5].picture.read() == b"sound"


def test_blocks_may_hold_features():
    rows, sound_rows = np.ones((3, 4)), np.ones((2, 5))
    (slot,) = slots_of(user({"type": "video", "video_features": rows, "audio_features": sound_rows}))[0]
    assert slot.picture is rows and slot.picture_is_features and slot.sound is sound_rows and slot.sound_is_features
    (slot,) = slots_of(user({"type": "video", "video_features": rows}))[0]
    assert slot.picture_is_features and slot.sound is None


def test_blocks_without_media_give_no_slots():
    assert slots_of(user({"type": "video"}, {"type": "audio"})) is None


@pytest.mark.parametrize(
    "blocks",
    [
        [{"type": "video", "path": "a"}, {"type": "video"}],
        [{"type": "video", "path": "a"}, {"type": "video", "video_features": np.ones((1, 1))}],
        [{"type": "video", "path": "a"}, {"type": "audio", "audio_features": np.ones((1, 1))}],
    ],
)
def test_media_mixed_with_features_or_empty_blocks_are_an_error(blocks):
    with pytest.raises(ValueError, match="content block"):
        read_conversations([user(*blocks)])
