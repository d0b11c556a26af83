"""Encoding of slots without files: token order, rows, and padding of rows into tensors."""

import numpy as np
import pytest
import torch

from modeling_avicuna import AVicunaFeatureExtractor, AVicunaVideoProcessor
from modeling_avicuna.interleaving_avicuna import interleave_order, resample_rows
from modeling_avicuna.media_slots_avicuna import MediaSlot
from modeling_avicuna.slot_encoding_avicuna import (
    EncodedSlot,
    SlotEncoder,
    as_features,
    expand_slots,
    pack_pictures,
    pack_sounds,
)
from tests.media_files import pictures, tone


def encode(
    slot: MediaSlot,
    *,
    rate: float = 0.25,
    num_av_tokens: int = 8,
    alignment: str = "published",
    feature_extractor: AVicunaFeatureExtractor | None = None,
) -> EncodedSlot:
    encoder = SlotEncoder(
        video_processor=AVicunaVideoProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        feature_extractor=feature_extractor or AVicunaFeatureExtractor(),
        num_av_tokens=num_av_tokens,
        interleaving="uniform",
        alignment=alignment,
    )
    return encoder.encode(slot, rate=rate)


def cached(num_pictures: int, num_sounds: int | None) -> MediaSlot:
    """A video slot of features; row i has the value i. `num_sounds` None: silent."""
    sound = None if num_sounds is None else np.arange(num_sounds)[:, None] * np.ones(3)
    return MediaSlot(
        kind="video",
        picture=np.arange(num_pictures)[:, None] * np.ones(4),
        picture_is_features=True,
        sound=sound,
        sound_is_features=sound is not None,
    )


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("num_pictures", "num_sounds"), [(1, 1), (5, 3), (8, 40), (200, 2), (6, 0), (6, None)])
def test_each_token_has_one_row_in_order(rate, num_pictures, num_sounds):
    encoded = encode(cached(num_pictures, num_sounds), rate=rate)
    num_audio = round(8 * rate) if num_sounds else 0
    assert encoded.order == interleave_order(8 - num_audio, num_audio)
    for rows, total in ((encoded.pictures, num_pictures), (encoded.sounds, num_sounds)):
        if rows is not None:
            shown = rows[:, 0].tolist()
            assert shown == sorted(shown) and set(shown) <= set(range(total))
    assert (0 if encoded.pictures is None else len(encoded.pictures)) == encoded.order.count("video")
    assert (0 if encoded.sounds is None else len(encoded.sounds)) == encoded.order.count("audio")


def test_only_windows_of_a_token_are_computed():
    """30 s of audio have six windows; two tokens show two of them."""
    slot = MediaSlot(kind="video", picture=pictures(3), sound=tone(30.0))
    encoded = encode(slot)
    all_windows = AVicunaFeatureExtractor().extract_windows(tone(30.0))
    assert len(all_windows) == 6
    assert encoded.sound_rows == [0, 1]
    torch.testing.assert_close(encoded.sounds, all_windows[resample_rows(6, 2)], rtol=0, atol=0)


def test_centred_tokens_show_the_middle_of_their_interval():
    centred = encode(cached(40, 40), alignment="centred")
    assert centred.pictures[:, 0].tolist() == [3, 10, 16, 23, 30, 36]
    assert centred.sounds[:, 0].tolist() == [10, 30]
    published = encode(cached(40, 40))
    assert published.pictures[:, 0].tolist() == [0, 6, 13, 20, 26, 33]
    assert published.sounds[:, 0].tolist() == [0, 39]


@pytest.mark.parametrize(("seconds", "num_tokens"), [(1.0, 1), (10.0, 1), (10.5, 8), (30.0, 8)])
def test_audio_of_ten_seconds_is_one_token_also_with_short_windows(seconds, num_tokens):
    """10 s have nine 2-s windows; the token shows the middle one, from a file and from features."""
    short = AVicunaFeatureExtractor(window_seconds=2.0, stride_seconds=1.0)
    windows = short.extract_windows(tone(seconds))
    encoded = encode(MediaSlot(kind="audio", sound=tone(seconds)), feature_extractor=short)
    cached_rows = np.arange(len(windows))[:, None] * np.ones(3)
    from_cache = encode(MediaSlot(kind="audio", sound=cached_rows, sound_is_features=True), feature_extractor=short)
    assert encoded.order == from_cache.order == ["audio"] * num_tokens
    if num_tokens == 1:
        assert from_cache.sounds[0, 0] == len(windows) // 2
        torch.testing.assert_close(encoded.sounds, windows[len(windows) // 2][None], rtol=0, atol=0)


def test_slots_are_expanded_to_placeholders_with_positions():
    text, expansions = expand_slots(
        "a <video> b <image>", [EncodedSlot("video", ["audio", "video"]), EncodedSlot("image", ["video"])]
    )
    assert text == "a <audio><video> b <video>"
    assert expansions == [(2, 9, 14), (12, 19, 7)]


def test_rows_are_padded_per_text_and_windows_numbered_per_text():
    window = torch.ones(2, 5, 3)
    batch = [
        [],
        [
            EncodedSlot("video", [], sounds=window[:1], sound_rows=[0, 0]),
            EncodedSlot("video", [], sounds=window, sound_rows=[0, 1]),
        ],
        [EncodedSlot("video", [], pictures=torch.ones(2, 4))],
    ]
    sounds, shown = pack_sounds(batch), pack_pictures(batch)
    assert sounds["input_features"].shape == (3, 3, 5, 3)
    assert sounds["audio_lengths"].tolist() == [0, 3, 0]
    assert sounds["audio_row_ids"].tolist() == [[-1] * 4, [0, 0, 1, 2], [-1] * 4]
    assert shown["video_features"].shape == (3, 2, 4) and shown["video_lengths"].tolist() == [0, 0, 2]
    assert pack_pictures([[]]) == pack_sounds([[]]) == {}


def test_a_single_row_may_be_one_dimensional():
    assert as_features(np.ones(4), name="video_features").shape == (1, 4)
    with pytest.raises(ValueError, match=r"audio_features must have shape .* got \(1, 1, 4\)"):
        as_features(np.ones((1, 1, 4)), name="audio_features")
