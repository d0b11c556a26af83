"""Writes mp4 files (H.264 and AAC) with PyAV, whose wheel includes its codecs.

Reading is in `modeling_avicuna/media_avicuna.py`.
"""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


SIMD_EXTENSIONS = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])  # of this processor
LAYOUTS = {1: "mono", 2: "stereo"}
# Colour tags by their codes in ITU-T H.273: limited range and the BT.601 matrix. Readers that ignore the tags assume
# these values, so with BT.709 they would show wrong colours.
LIMITED_RANGE, BT601 = 1, 6
# The AVX-512 code of x264 (165, in PyAV 18.1) gives other bytes in each run for some widths, such as 96, 112 and 224:
# its rate control reads uninitialised memory there. Its AVX2 code gives the same bytes as other processors do.
HAS_AVX512 = any(name == "X86_V4" or name.startswith("AVX512") for name in SIMD_EXTENSIONS)
REPRODUCIBLE = {"x264-params": "asm=avx2"} if HAS_AVX512 else {}


class MediaWriter:
    """Write one mp4 (H.264 and AAC) frame by frame to a temporary file that is renamed on success.

    Used as a context manager: on a normal exit it flushes the encoders and renames the file; on an error it deletes
    the temporary file. A killed or failed run never leaves an incomplete `path`.

    Args:
        path (`Path`): the file to write; its folder is created if needed.
        width, height (`int`): pixels, both even (4:2:0 chroma).
        fps (`Fraction` or `int`): frames per second, constant.
        sampling_rate (`int`, *optional*): Hz of the audio track; None: no audio track.
        num_channels (`int`): 1 or 2.
        crf (`int`): x264's constant quality, lower is better; 23 is x264's own default.
        preset (`str`): x264's speed preset.
        audio_bit_rate (`int`): bits per second of the audio track.

    Raises:
        ValueError: odd or non-positive sizes, or a number of channels other than 1 and 2.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        width: int,
        height: int,
        fps: Fraction | int,
        sampling_rate: int | None = None,
        num_channels: int = 2,
        crf: int = 23,
        preset: str = "veryfast",
        audio_bit_rate: int = 128_000,
    ):
        if width <= 0 or height <= 0 or width % 2 or height % 2:
            raise ValueError(f"h264 with 4:2:0 chroma needs positive even sizes, got {width}x{height} for {path}")
        if num_channels not in LAYOUTS:
            raise ValueError(f"num_channels must be 1 or 2, got {num_channels} for {path}")
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._container = av.open(str(self._temporary), "w", format="mp4")
        self._video = self._container.add_stream("libx264", rate=Fraction(fps))
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        # one thread: the same frames give the same bytes, and parallelism comes from rendering several videos at once
        self._video.codec_context.thread_count = 1
        self._video.codec_context.color_range, self._video.codec_context.colorspace = LIMITED_RANGE, BT601
        self._video.options = {"crf": str(crf), "preset": preset, **REPRODUCIBLE}
        self._num_frames = 0
        self._audio: Any = None
        if sampling_rate is not None:
            self._layout = LAYOUTS[num_channels]
            self._audio = self._container.add_stream("aac", rate=sampling_rate, layout=self._layout)
            self._audio.bit_rate = audio_bit_rate
            # half the time of the default search, with no lower signal-to-noise ratio in our measurements
            self._audio.options = {"aac_coder": "fast"}
        self._num_samples = 0

    def __enter__(self) -> "MediaWriter":
        return self

    def write_frame(self, frame: np.ndarray | av.VideoFrame) -> None:
        """Append one frame: `(height, width, 3)` uint8 RGB, or a decoded frame of the right size."""
        if isinstance(frame, np.ndarray):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        frame.pts, frame.time_base = self._num_frames, 1 / Fraction(self._video.codec_context.framerate)
        frame.pict_type = av.video.frame.PictureType.NONE
        self._num_frames += 1
        for packet in self._video.encode(frame):
            self._container.mux(packet)

    def write_audio(self, samples: np.ndarray) -> None:
        """Append samples of shape `(num_channels, num_samples)`, float32 in [-1, 1]; values outside are clipped."""
        samples = np.ascontiguousarray(np.clip(samples, -1.0, 1.0), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self._layout)
        frame.sample_rate = self._audio.rate
        frame.pts, frame.time_base = self._num_samples, Fraction(1, self._audio.rate)
        self._num_samples += samples.shape[1]
        for packet in self._audio.encode(frame):
            self._container.mux(packet)

    def __exit__(self, error_type: type | None, *_: object) -> None:
        try:
            if error_type is None:
                for stream in (self._video, self._audio):
                    for packet in stream.encode(None) if stream is not None else ():
                        self._container.mux(packet)
            self._container.close()
            if error_type is None:
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)
