"""Pairing media with slots: counts, own sounds, content blocks, literal placeholders."""

import numpy as np
import pytest

from modeling_avicuna.media_slots_avicuna import OWN_SOUND, check_conversation, fill_slots, media_of_conversations


def filled(texts, **media):
    return [[(slot.kind, slot.picture, slot.sound) for slot in row] for row in fill_slots(texts, **media)]


def user(*blocks):
    return [{"role": "user", "content": list(blocks)}]


def test_media_are_paired_in_reading_order_over_the_batch():
    texts = ["<video> and <image>", "nothing", "<audio> then <video>"]
    assert filled(texts, videos=["a", "b", "c"], audio=["d"]) == [
        [("video", "a", OWN_SOUND), ("image", "b", None)],
        [],
        [("audio", None, "d"), ("video", "c", OWN_SOUND)],
    ]


def test_one_list_per_text_is_the_same_as_a_flat_list():
    texts = ["<video>", "<video><video>"]
    assert filled(texts, videos=[["a"], ["b", "c"]]) == filled(texts, videos=["a", "b", "c"])


def test_sounds_may_be_given_for_every_slot_or_only_for_audio_slots():
    texts = ["<video><audio><video>"]
    assert [slot[2] for slot in filled(texts, videos=["a", "b"], audio=[None, "d", True])[0]] == [None, "d", OWN_SOUND]
    assert [slot[2] for slot in filled(texts, videos=["a", "b"], audio="d")[0]] == [OWN_SOUND, "d", OWN_SOUND]
    assert [slot[2] for slot in filled(["<video>"], videos="a", audio=[False])[0]] == [None]


def test_cached_pictures_have_no_sound_of_their_own():
    slot = fill_slots(["<video>"], video_features=[np.ones((3, 4))])[0][0]
    assert slot.picture_is_features and slot.sound is None


def test_arrays_are_one_entry_or_a_batch_by_their_dimensions():
    for shape, entries in (((3, 4), 1), ((2, 3, 4), 2)):
        text = ["<video>"] * entries
        assert [len(row) for row in fill_slots(text, video_features=np.ones(shape))] == [1] * entries


@pytest.mark.parametrize(
    ("text", "media", "message"),
    [
        ("<video>", {}, "1 <video> and <image> slots, but videos has 0"),
        ("hello", {"videos": ["a"]}, "0 <video> and <image> slots, but videos has 1"),
        ("<video>", {"video_features": [1, 2]}, "video_features has 2"),
        ("<image>", {"images": ["a", "b"]}, "1 <image> slots, but images has 2"),
        (
            "<video><audio>",
            {"videos": ["a"]},
            "1 <video> and 1 <audio> slots, so audio must have 1 or 2 entries, got 0",
        ),
        ("<video>", {"videos": ["a"], "audio": ["b", "c"]}, "audio must have 0 or 1 entries, got 2"),
        ("<video>", {"videos": ["a"], "video_features": ["a"]}, "either videos or video_features"),
        ("<audio>", {"audio": ["a"], "audio_features": ["a"]}, "either audio or audio_features"),
    ],
)
def test_counts_that_differ_are_told(text, media, message):
    with pytest.raises(ValueError, match=message):
        fill_slots([text], **media)


@pytest.mark.parametrize("literal", ["<video>", "<audio>", "<image>"])
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_a_literal_placeholder_in_text_is_an_error_that_names_it(literal, role):
    for content in (f"see {literal} here", [{"type": "text", "text": f"see {literal} here"}]):
        messages = [{"role": "user", "content": "Hi"}, {"role": role, "content": content}]
        with pytest.raises(ValueError, match=f"message 1 .*{literal}"):
            check_conversation(messages)


def test_a_dropped_opening_turn_may_hold_anything():
    check_conversation([{"role": "assistant", "content": "Ready. <video>"}, {"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("block", [{"type": "picture", "path": "a"}, {"text": "a"}, {"type": "text"}])
def test_a_block_of_no_known_kind_is_an_error(block):
    with pytest.raises(ValueError, match="content block"):
        check_conversation(user(block))


def test_blocks_become_media():
    video, silent, other = (
        {"type": "video", "path": "a"},
        {"type": "video", "path": "b", "audio": False},
        {"type": "video", "video": "c", "audio": "d"},
    )
    sound, image = {"type": "audio", "audio": "e"}, {"type": "image", "url": "f"}
    assert media_of_conversations([user(video, silent), user(other, sound, image)]) == {
        "videos": ["a", "b", "c", "f"],
        "audio": [True, False, "d", "e"],
    }


def test_blocks_may_carry_features():
    rows, sound_rows = np.ones((3, 4)), np.ones((2, 5))
    media = media_of_conversations([user({"type": "video", "video_features": rows, "audio_features": sound_rows})])
    assert media == {"video_features": [rows], "audio_features": [sound_rows]}
    media = media_of_conversations([user({"type": "video", "video_features": rows})])
    assert media == {"video_features": [rows], "audio": [False]}


def test_bare_blocks_leave_the_media_to_the_call():
    assert media_of_conversations([user({"type": "video"}, {"type": "audio"})]) == {}


@pytest.mark.parametrize(
    "blocks",
    [
        [{"type": "video", "path": "a"}, {"type": "video"}],
        [{"type": "video", "path": "a"}, {"type": "video", "video_features": np.ones((1, 1))}],
        [{"type": "video", "path": "a"}, {"type": "audio", "audio_features": np.ones((1, 1))}],
    ],
)
def test_blocks_of_two_minds_are_an_error(blocks):
    with pytest.raises(ValueError, match="content block"):
        media_of_conversations([user(*blocks)])
