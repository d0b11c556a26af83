"""Synthesise the sandbox's sounds: samples from a `Sound` and a length. Pure numpy; no events, no files."""

import numpy as np

from .classes import Sound


# s, attack and release of every envelope: short enough for a click, long enough to avoid spectral splatter
ATTACK = 0.004


def synthesise(
    sound: Sound, num_samples: int, *, sampling_rate: int, rng: np.random.Generator, detune: float = 1.0
) -> np.ndarray:
    """Samples of one sounding event.

    Args:
        sound (`Sound`): what to play.
        num_samples (`int`): length of the result.
        sampling_rate (`int`): Hz.
        rng (`np.random.Generator`): generates noise, irregular onsets and the initial phase.
        detune (`float`): factor on every frequency, so that two clips of a class differ.

    Returns:
        `np.ndarray` of shape `(num_samples,)`, float32, peak 1.
    """
    time = np.arange(num_samples, dtype=np.float32) / np.float32(sampling_rate)
    onsets = _draw_onsets(sound, num_samples / sampling_rate, rng)
    index = np.searchsorted(onsets, time, side="right") - 1
    since = time - onsets.astype(np.float32)[index]
    if sound.partials:
        carrier = _harmonic_carrier(sound, index, since, sampling_rate, detune)
    else:
        carrier = _noise_carrier(sound.low * detune, sound.high * detune, num_samples, sampling_rate, rng)
    samples = carrier * _envelope(sound, since)
    peak = float(np.abs(samples).max(initial=0.0))
    return samples / peak if peak > 0 else samples


def fade_ends(samples: np.ndarray, *, num_fade: int) -> np.ndarray:
    """The same samples with a linear fade of `num_fade` samples at both ends, which avoids a click."""
    num_fade = min(num_fade, samples.shape[-1] // 2)
    if num_fade:
        ramp = np.linspace(0.0, 1.0, num_fade, endpoint=False, dtype=np.float32)
        samples = samples.copy()
        samples[..., :num_fade] *= ramp
        samples[..., -num_fade:] *= ramp[::-1]
    return samples


def _draw_onsets(sound: Sound, duration: float, rng: np.random.Generator) -> np.ndarray:
    """Sorted onset times in seconds; the first is at or before 0, so that every sample belongs to an event."""
    period = 1.0 / sound.rate
    count = int(np.ceil(duration * sound.rate)) + 2
    if sound.irregular:
        gaps = rng.exponential(period, size=count * 2)
        return np.concatenate([[-period], np.cumsum(gaps)])
    return (np.arange(count) - rng.uniform(0.0, 1.0)) * period


def _harmonic_carrier(
    sound: Sound, index: np.ndarray, since: np.ndarray, sampling_rate: int, detune: float
) -> np.ndarray:
    if sound.low == sound.high:
        frequency = np.full(len(since), sound.low, dtype=np.float32)
    else:
        position = np.clip(since * np.float32(sound.rate / sound.duty), 0.0, 1.0)
        if sound.sway:
            position = 1.0 - np.abs(2.0 * position - 1.0)
        frequency = np.float32(sound.low) + np.float32(sound.high - sound.low) * position
    if len(sound.notes) > 1:
        frequency = frequency * np.asarray(sound.notes, dtype=np.float32)[index % len(sound.notes)]
    # float64 sum, wrapped before the cast: a float32 phase would have audible errors after a few seconds
    turns = np.cumsum(frequency, dtype=np.float64) * (detune / sampling_rate)
    carrier = np.zeros(len(since), dtype=np.float32)
    for number, partial in enumerate(sound.partials):
        phase = ((turns * partial) % 1.0).astype(np.float32)
        carrier += np.sin(np.float32(2 * np.pi) * phase) / np.float32(number + 1)
    return carrier


def _noise_carrier(
    low: float, high: float, num_samples: int, sampling_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Band-limited white noise. The spectrum is drawn directly, at a length that is efficient for the FFT."""
    length = 1 << max(1, int(num_samples - 1).bit_length())
    first, last = int(low * length / sampling_rate), int(high * length / sampling_rate) + 1
    spectrum = np.zeros(length // 2 + 1, dtype=np.complex64)
    last = min(last, len(spectrum))
    bins = rng.standard_normal((2, last - first), dtype=np.float32)
    spectrum[first:last] = bins[0] + 1j * bins[1]
    noise = np.fft.irfft(spectrum, n=length)[:num_samples].astype(np.float32)
    return noise / np.float32(np.abs(noise).max(initial=1e-12))


def _envelope(sound: Sound, since: np.ndarray) -> np.ndarray:
    if sound.duty >= 1.0 and sound.decay == 0.0:
        return np.ones(len(since), dtype=np.float32)
    level = np.clip(since / np.float32(ATTACK), 0.0, 1.0)
    if sound.duty < 1.0:
        level = level * np.clip((np.float32(sound.duty / sound.rate) - since) / np.float32(ATTACK), 0.0, 1.0)
    if sound.decay:
        level = level * np.exp(-since / np.float32(sound.decay))
    return level
