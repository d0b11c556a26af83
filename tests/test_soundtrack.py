"""The soundtrack of composed videos as arrays: stretching, joining, noise."""

import numpy as np
import pytest

from dataset_builders.pseudo_untrimmed.soundtrack import add_background_noise, join_tracks, limit_peak, stretch_audio


RATE = 48_000


@pytest.mark.parametrize("sampling_rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("scale", [0.3, 0.6, 0.999, 1.0, 1.9, 3.5])
def test_stretching_gives_the_requested_length_and_scales_times(sampling_rate, scale):
    samples = np.zeros((2, 3 * sampling_rate), dtype=np.float32)
    samples[:, sampling_rate : sampling_rate + sampling_rate // 20] = 0.5
    wanted = round(3 * scale * sampling_rate)
    stretched = stretch_audio(samples, scale=scale, sampling_rate=sampling_rate, num_samples=wanted)
    assert stretched.shape == (2, wanted)
    assert stretched.dtype == np.float32
    begin = np.flatnonzero(np.abs(stretched[0]) > 0.05)[0] / sampling_rate
    assert begin == pytest.approx(scale, abs=0.030 * max(1, scale))


def test_a_scale_that_is_not_positive_is_an_error():
    with pytest.raises(ValueError, match="-0.5"):
        stretch_audio(np.zeros((1, 10), dtype=np.float32), scale=-0.5, sampling_rate=RATE, num_samples=10)


def test_noise_is_pink_and_seeded_and_added_to_silence():
    silence = np.zeros((2, 3 * RATE), dtype=np.float32)
    first, again, other = (
        add_background_noise(silence, snr_db=20, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert 20 * np.log10(first.std()) == pytest.approx(-60, abs=0.5)
    power = np.abs(np.fft.rfft(first[0])) ** 2
    octaves = [10 * np.log10(power[3 * low : 6 * low].sum()) for low in (100, 1000, 8000)]
    assert np.ptp(octaves) < 1.5  # dB; pink noise has equal power per octave


def test_tracks_shorter_than_the_cross_fade_are_joined():
    tracks = [np.ones((1, size), dtype=np.float32) for size in (1000, 3, 0, 1, 500)]
    joined = join_tracks(tracks, sampling_rate=RATE)
    assert joined.shape == (1, 1504) and np.isfinite(joined).all()


def test_a_loud_track_is_attenuated_as_a_whole():
    samples = np.array([[0.5, -2.0, 1.0]], dtype=np.float32)
    assert np.allclose(limit_peak(samples), [[0.25, -1.0, 0.5]])
    assert limit_peak(samples / 4) is not samples and np.array_equal(limit_peak(samples / 4), samples / 4)


def test_a_join_is_smooth_and_changes_nothing_else():
    one, two = np.full((1, RATE), 0.4, dtype=np.float32), np.full((1, RATE), -0.4, dtype=np.float32)
    joined = join_tracks([one, two, one], sampling_rate=RATE)
    assert joined.shape == (1, 3 * RATE)
    assert np.abs(np.diff(joined[0])).max() < 0.01
    assert np.array_equal(joined[:, 1000 : RATE - 1000], one[:, 1000:-1000])
