"""From samples to CLAP's input: the windows of a sound and their log-mel spectrograms, by torchaudio.

`media_avicuna` decodes sound; which windows are shown, and by how many tokens, is decided by `slot_encoding_avicuna`.
"""

import os
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ClapFeatureExtractor, FeatureExtractionMixin

from .media_avicuna import scale_samples


try:
    import torchaudio
except ImportError:
    torchaudio = None


# Bounds the memory of the analysis, which needs about 13 MB in double precision for a 10-s window.
WINDOWS_AT_A_TIME = 8


def split_windows(
    num_samples: int, *, sampling_rate: int = 48_000, window_seconds: float = 10.0, stride_seconds: float = 4.0
) -> list[tuple[int, int]]:
    """
    The spans of samples that the audio tower sees, `[(start, end), ...]` with `end <= num_samples`.

    The published rule: a remainder of at most one second beyond a whole number of 10-s windows is dropped, a longer
    one is padded with silence to a whole window; then one window every 4 s. Two choices of ours: for windows of
    another length the threshold is a tenth of the window, and a sound shorter than the threshold is one padded window,
    where the published code makes an empty one.
    """
    window, stride = round(window_seconds * sampling_rate), round(stride_seconds * sampling_rate)
    rest = num_samples % window
    if 0 < rest <= window // 10 and num_samples > window:
        num_samples -= rest
    padded = -(-num_samples // window) * window
    starts = range(0, padded - window + 1, stride)
    return [(start, min(start + window, num_samples)) for start in starts]


def as_waveform(samples: np.ndarray | torch.Tensor) -> np.ndarray:
    """
    Mono samples `(num_samples,)` as float32; integers are divided by their range, see `scale_samples`.

    Raises:
        ValueError: another shape, samples that are neither integers nor floats, or samples that are not finite.
    """
    if isinstance(samples, torch.Tensor) and samples.is_floating_point():
        samples = samples.float()  # NumPy has no bfloat16
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise ValueError(f"a waveform must be mono, of shape (num_samples,), got {samples.shape}")
    waveform = scale_samples(samples)
    if not np.isfinite(waveform).all():
        raise ValueError("a waveform must hold finite numbers, got infinite ones or NaN")
    return waveform


def clap_settings(audio_tower: str | os.PathLike, *, is_fused: bool) -> dict[str, Any]:
    """
    Settings of `AVicunaFeatureExtractor` with which it analyses sound as a CLAP checkpoint's own preprocessor does.

    Args:
        audio_tower: folder or Hub id of the checkpoint.
        is_fused (`bool`): `enable_fusion` of its configuration. It decides the mel scale where the checkpoint has no
            preprocessor_config.json: the fused checkpoints were trained on the HTK scale, the others on Slaney's.
    """
    try:
        clap = ClapFeatureExtractor.from_pretrained(audio_tower)
    except OSError:  # weights and configuration alone
        return {"mel_scale": "htk" if is_fused else "slaney"}
    return {
        "feature_size": clap.feature_size,
        "sampling_rate": clap.sampling_rate,
        "fft_window_size": clap.fft_window_size,
        "hop_length": clap.hop_length,
        "frequency_min": clap.frequency_min,
        "frequency_max": clap.frequency_max,
        "mel_scale": "htk" if clap.truncation == "fusion" else "slaney",  # as ClapFeatureExtractor chooses its filters
    }


class AVicunaFeatureExtractor(FeatureExtractionMixin):
    r"""
    Log-mel windows for a CLAP audio tower, computed by torchaudio; equal to transformers' `ClapFeatureExtractor` on
    each window up to the single precision of torchaudio's filters (the tests give the tolerance).

    Args:
        feature_size (`int`, defaults to 64): mel bands.
        sampling_rate (`int`, defaults to 48000): of the waveforms, in Hz.
        window_seconds, stride_seconds (`float`, default to 10 and 4, as published): length and distance of the
            windows.
        fft_window_size, hop_length (`int`, defaults to 1024 and 480): CLAP's, in samples.
        frequency_min, frequency_max (`float`, defaults to 50 and 14000): CLAP's, in Hz.
        mel_scale (`str`, defaults to `"htk"`): `"htk"` for the fused CLAP checkpoints (the published choice),
            `"slaney"` for the unfused ones.
    """

    model_input_names = ["input_features"]

    def __init__(
        self,
        feature_size: int = 64,
        sampling_rate: int = 48_000,
        window_seconds: float = 10.0,
        stride_seconds: float = 4.0,
        fft_window_size: int = 1024,
        hop_length: int = 480,
        frequency_min: float = 50.0,
        frequency_max: float = 14_000.0,
        mel_scale: str = "htk",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if mel_scale not in ("htk", "slaney"):
            raise ValueError(f"mel_scale must be 'htk' or 'slaney', got {mel_scale!r}")
        if window_seconds <= 0 or stride_seconds <= 0:
            raise ValueError(f"window_seconds={window_seconds} and stride_seconds={stride_seconds} must be above 0")
        self.feature_size = feature_size
        self.sampling_rate = sampling_rate
        self.window_seconds = window_seconds
        self.stride_seconds = stride_seconds
        self.fft_window_size = fft_window_size
        self.hop_length = hop_length
        self.frequency_min = frequency_min
        self.frequency_max = frequency_max
        self.mel_scale = mel_scale

    def split_windows(self, num_samples: int) -> list[tuple[int, int]]:
        """`split_windows` with this extractor's rate and window sizes."""
        return split_windows(
            num_samples,
            sampling_rate=self.sampling_rate,
            window_seconds=self.window_seconds,
            stride_seconds=self.stride_seconds,
        )

    def analyse_windows(self, windows: list[np.ndarray]) -> torch.Tensor:
        """
        Log-mel of single windows.

        Args:
            windows: mono samples at `sampling_rate`, each of at most one window's length; the rest is silence.

        Returns:
            `(num_windows, num_frames, feature_size)` in dB, float32.
        """
        length = round(self.window_seconds * self.sampling_rate)
        results = []
        for begin in range(0, len(windows), WINDOWS_AT_A_TIME):
            batch = windows[begin : begin + WINDOWS_AT_A_TIME]
            padded = torch.zeros(len(batch), length)  # [W, samples]
            for row, samples in zip(padded, batch):
                row[: len(samples)] = torch.from_numpy(samples)
            results.append(self._log_mel(padded))
        return torch.cat(results)

    def extract_windows(self, waveform: np.ndarray | torch.Tensor) -> torch.Tensor:
        """
        Log-mel of all windows of a sound.

        Args:
            waveform: `(num_samples,)` at `sampling_rate`, floats or integers; see `as_waveform`.

        Returns:
            `(num_windows, num_frames, feature_size)` in dB, float32.

        Raises:
            ValueError: without a sample, or see `as_waveform`.
        """
        waveform = as_waveform(waveform)
        if len(waveform) == 0:
            raise ValueError("a waveform must have at least one sample, got shape (0,)")
        return self.analyse_windows([waveform[start:end] for start, end in self.split_windows(len(waveform))])

    def _log_mel(self, windows: torch.Tensor) -> torch.Tensor:
        if torchaudio is None:
            raise ImportError("log-mel windows need torchaudio: pip install torchaudio")
        # double precision: in float32 the rounding of loud bins shows as up to 0.2 dB in the quiet ones
        spectrum = torchaudio.functional.spectrogram(
            windows.double(),
            pad=0,
            window=torch.hann_window(self.fft_window_size, dtype=torch.float64),
            n_fft=self.fft_window_size,
            hop_length=self.hop_length,
            win_length=self.fft_window_size,
            power=None,
            normalized=False,
        )  # [W, bins, frames], complex
        power = spectrum.real.square() + spectrum.imag.square()  # torchaudio's power=2 takes twice the time
        filters = torchaudio.functional.melscale_fbanks(
            n_freqs=self.fft_window_size // 2 + 1,
            f_min=self.frequency_min,
            f_max=self.frequency_max,
            n_mels=self.feature_size,
            sample_rate=self.sampling_rate,
            norm="slaney" if self.mel_scale == "slaney" else None,
            mel_scale=self.mel_scale,
        )  # [bins, mels]
        mel = power.transpose(1, 2) @ filters.double()  # [W, frames, mels]
        return (10.0 * torch.log10(mel.clamp(min=1e-10))).float()

    def __call__(
        self,
        waveforms: np.ndarray | torch.Tensor | list,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """
        One waveform or a list of them -> `input_features` of shape `(batch, max_windows, num_frames, feature_size)`,
        padded with zeros, and `audio_lengths` `(batch,)`, the number of real windows of each.

        Raises:
            ValueError: `sampling_rate` is given and is not this extractor's, or a waveform is not mono.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"waveforms must be sampled at {self.sampling_rate} Hz, got {sampling_rate} Hz")
        if not isinstance(waveforms, (list, tuple)):
            waveforms = [waveforms]
        windows = [self.extract_windows(waveform) for waveform in waveforms]
        features = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True)
        lengths = torch.tensor([len(rows) for rows in windows])
        return BatchFeature({"input_features": features, "audio_lengths": lengths}, tensor_type=return_tensors)
