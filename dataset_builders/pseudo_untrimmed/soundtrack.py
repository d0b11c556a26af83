"""The audio of a composed video: time-stretch each clip without changing its pitch, join the clips, add background
noise.

Works on arrays; `rendering.py` decodes the clips and encodes the result. Time-stretching uses FFmpeg's `atempo`
(waveform similarity overlap-add), which is included in PyAV.
"""

import math
from fractions import Fraction

import av
import numpy as np


CROSS_FADE = 0.01  # s, centred on a join: long enough to avoid a click, too short to be audible as a fade (our choice)
SILENT_NOISE_LEVEL = 1e-3  # standard deviation (-60 dB) of background noise for a track without any signal


def stretch_audio(samples: np.ndarray, *, scale: float, sampling_rate: int, num_samples: int) -> np.ndarray:
    """Stretch audio to `scale` times its length at the same pitch; sound at time u moves to `scale * u`.

    The timing error is at most the search window of the overlap-add: under 15 ms in our measurements at 48 kHz with
    scales from 0.6 to 1.9.

    Args:
        samples (`np.ndarray` of shape `(num_channels, num_input_samples)`): float32, 1 or 2 channels.
        scale (`float`): new length / old length, positive; 1 leaves the samples unchanged.
        sampling_rate (`int`): Hz.
        num_samples (`int`): exact length of the result, which is cut or padded with silence.

    Raises:
        ValueError: a scale that is not positive.
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    # one stage changes the tempo by a factor of 2 at most: beyond that `atempo` drops samples instead of blending them
    num_stages = math.ceil(abs(math.log2(scale)) - 1e-9) if abs(scale - 1) > 1e-6 else 0
    for _ in range(num_stages):
        samples = _stretch_once(samples, scale ** (1 / num_stages), sampling_rate)
    samples = samples[:, :num_samples]
    return np.pad(samples, ((0, 0), (0, num_samples - samples.shape[1])))


def _stretch_once(samples: np.ndarray, scale: float, sampling_rate: int) -> np.ndarray:
    num_channels = samples.shape[0]
    # The filter drops the first half of its window (a power of two of at least 1/24 s) and the last one: padding with
    # silence keeps the timing unchanged.
    half_window = 2 ** math.ceil(math.log2(sampling_rate // 24)) // 2
    packed = np.pad(samples, ((0, 0), (half_window, 2 * half_window))).T.reshape(1, -1)
    layout = "mono" if num_channels == 1 else "stereo"
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        sample_rate=sampling_rate, format="flt", layout=layout, time_base=Fraction(1, sampling_rate)
    )
    tempo, sink = graph.add("atempo", repr(1 / scale)), graph.add("abuffersink")
    source.link_to(tempo)
    tempo.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed, dtype=np.float32), format="flt", layout=layout)
    frame.sample_rate, frame.pts = sampling_rate, 0
    source.push(frame)
    source.push(None)
    blocks = [np.zeros((1, 0), dtype=np.float32)]
    while True:
        try:
            blocks.append(sink.pull().to_ndarray())
        except av.EOFError:
            break
    return np.concatenate(blocks, axis=1).reshape(-1, num_channels).T


def join_tracks(tracks: list[np.ndarray], *, sampling_rate: int) -> np.ndarray:
    """Concatenate with a short cross-fade of constant power centred on each join; the total length is the sum.

    Each track is extended at both ends by reflection, so that no content moves in time.

    Args:
        tracks (list of `np.ndarray` of shape `(num_channels, num_samples)`): float32.
        sampling_rate (`int`): Hz.
    """
    joined = np.concatenate(tracks, axis=1)
    position = 0
    for before, after in zip(tracks, tracks[1:]):
        position += before.shape[1]
        half = min(round(CROSS_FADE * sampling_rate / 2), before.shape[1] // 2, after.shape[1] // 2)
        if half == 0:
            continue
        fade = (np.arange(2 * half, dtype=np.float32) + 0.5) / np.float32(2 * half) * np.float32(np.pi / 2)
        outgoing = np.concatenate([before[:, -half:], before[:, : -half - 1 : -1]], axis=1)
        incoming = np.concatenate([after[:, half - 1 :: -1], after[:, :half]], axis=1)
        joined[:, position - half : position + half] = outgoing * np.cos(fade) + incoming * np.sin(fade)
    return joined


def add_background_noise(samples: np.ndarray, *, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add pink noise with a power of `snr_db` below the mean power of the whole track.

    Pink noise (power falling with frequency, from 40 Hz up) resembles ambient noise of rooms and streets. It is the
    same in all channels. A silent track gets noise at -60 dB. The paper only says that background noise was added; the
    rest is our choice.

    Args:
        samples (`np.ndarray` of shape `(num_channels, num_samples)`): float32.
        snr_db (`float`): decibels; 20 is clearly audible, 40 is not.
        rng (`np.random.Generator`): generates the noise.
    """
    num_samples = samples.shape[1]
    if num_samples == 0:
        return samples
    length = 1 << max(1, (num_samples - 1).bit_length())
    bins = rng.standard_normal((2, length // 2 + 1), dtype=np.float32)
    # about 40 Hz at 48 kHz: lower frequencies are inaudible but would take most of the power
    floor = max(1, length // 1200)
    shape = 1 / np.sqrt(np.maximum(np.arange(length // 2 + 1, dtype=np.float32), floor))
    shape[:floor] = 0
    noise = np.fft.irfft((bins[0] + 1j * bins[1]) * shape, n=length)[:num_samples].astype(np.float32)
    noise /= np.sqrt(np.mean(noise**2, dtype=np.float64)) + 1e-20
    power = float(np.mean(samples**2, dtype=np.float64))
    level = math.sqrt(power) * 10 ** (-snr_db / 20) if power > 0 else SILENT_NOISE_LEVEL
    return samples + np.float32(level) * noise


def limit_peak(samples: np.ndarray) -> np.ndarray:
    """Scale the whole track down if it would clip, so that neither its balance nor the noise ratio changes."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples / np.float32(peak) if peak > 1 else samples
