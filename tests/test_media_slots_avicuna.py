"""Pairing media of a call with the slots of its texts: counts, the sound of videos, parts and rates."""

import numpy as np
import pytest

from modeling_avicuna.media_slots_avicuna import OWN_SOUND, MediaSlot, fill_slots


def filled(texts, **media):
    return [[(slot.kind, slot.picture, slot.sound) for slot in row] for row in fill_slots(texts, **media)]


def test_media_are_paired_in_reading_order_over_the_batch():
    texts = ["<video> and <image>", "nothing", "<audio> then <video>"]
    assert filled(texts, videos=["a", "b", "c"], audio=["d"]) == [
        [("video", "a", OWN_SOUND), ("image", "b", None)],
        [],
        [("audio", None, "d"), ("video", "c", OWN_SOUND)],
    ]


def test_one_list_per_text_equals_a_flat_list():
    texts = ["<video>", "<video><video>"]
    assert filled(texts, videos=[["a"], ["b", "c"]]) == filled(texts, videos=["a", "b", "c"])


def test_sounds_may_be_given_for_every_slot_or_only_for_audio_slots():
    texts = ["<video><audio><video>"]
    assert [slot[2] for slot in filled(texts, videos=["a", "b"], audio=[None, "d", True])[0]] == [None, "d", OWN_SOUND]
    assert [slot[2] for slot in filled(texts, videos=["a", "b"], audio="d")[0]] == [OWN_SOUND, "d", OWN_SOUND]
    assert [slot[2] for slot in filled(["<video>"], videos="a", audio=[False])[0]] == [None]


def test_video_features_have_no_sound():
    slot = fill_slots(["<video>"], video_features=[np.ones((3, 4))])[0][0]
    assert slot.picture_is_features and slot.sound is None


def test_the_dimensions_of_an_array_determine_the_number_of_entries():
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
def test_counts_that_differ_are_errors(text, media, message):
    with pytest.raises(ValueError, match=message):
        fill_slots([text], **media)


def test_a_nested_list_of_frames_is_one_video():
    """A flat list of frames is as many entries; the error explains the nesting."""
    frames = [np.zeros((4, 6, 3), np.uint8)] * 8
    assert fill_slots(["<video>"], videos=[frames])[0][0].picture is frames
    with pytest.raises(ValueError, match="videos has 8 entries; the frames of one video are a list inside this list"):
        fill_slots(["<video>"], videos=frames)


def test_properties_are_assigned_to_the_slots_they_apply_to():
    frames, waveform = np.zeros((5, 4, 6, 3), np.uint8), np.zeros(16_000)
    texts = ["<video><audio>", "<video>"]
    media = {"videos": [frames, "b"], "audio": [waveform]}
    slots = sum(fill_slots(texts, **media, fps=2, sampling_rate=16_000, start=[1, None, 2.5], end=3), [])
    assert [(slot.fps, slot.sampling_rate, slot.start, slot.end) for slot in slots] == [
        *((2, None, 1, 3), (None, 16_000, None, 3), (None, None, 2.5, 3)),
    ]
    with pytest.raises(ValueError, match="3 <video> and <audio> slots, but start has 1 values"):
        fill_slots(texts, **media, start=[1])
    with pytest.raises(ValueError, match="fps=2 is given, but applies to none of the media"):
        fill_slots(["<video>"], videos="a.mp4", fps=2)


@pytest.mark.parametrize(
    ("slot", "message"),
    [
        (MediaSlot("video", picture="a", start=-1), "start of a medium must be a positive number, got -1"),
        (MediaSlot("video", picture="a", end=float("nan")), "end of a medium must be a positive number, got nan"),
        (MediaSlot("video", picture="a", start="1"), "start of a medium must be a positive number, got '1'"),
        (MediaSlot("audio", sound="a", start=3, end=3), "from start=3 to end=3 s is empty"),
        (MediaSlot("video", picture="a", fps=2), "fps=2 does not apply to this video: .*a file has its own"),
        (MediaSlot("audio", sound="a", sampling_rate=8000), "sampling_rate=8000 does not apply to this audio"),
        (MediaSlot("image", picture="a", start=1), "start=1 does not apply to this image"),
        (
            MediaSlot("video", picture=np.ones((2, 3)), picture_is_features=True, end=4),
            "end=4 does not apply to this video: .* not of .* cached features",
        ),
    ],
)
def test_an_invalid_property_is_an_error_that_names_it(slot, message):
    with pytest.raises(ValueError, match=message):
        slot.check()
