"""Writes small real media files with PyAV for the tests: a moving picture, a tone, or both. Not a test itself."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def tone(seconds: float, *, frequency: float = 440.0, sampling_rate: int = 48_000) -> np.ndarray:
    """A sine of amplitude 0.5, float32 of shape `(num_samples,)`."""
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * sampling_rate)) / sampling_rate)).astype(
        np.float32
    )


def pictures(num_frames: int, *, width: int = 64, height: int = 48) -> np.ndarray:
    """Frames whose brightness grows from black to white, uint8 of shape `(num_frames, height, width, 3)`."""
    levels = np.linspace(0, 255, num_frames).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def write_media(
    path: Path,
    *,
    frames: np.ndarray | None = None,
    fps: int = 10,
    frame_times: list[float] | None = None,
    waveform: np.ndarray | None = None,
    sampling_rate: int = 48_000,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
) -> Path:
    """
    Writes a media file; the container follows from the suffix.

    Args:
        frames: uint8 `(num_frames, height, width, 3)`; None for a file without a picture.
        frame_times: seconds at which the frames appear (variable frame rate); None for a constant `fps`.
        waveform: mono float32; None for a silent file.
    """
    with av.open(str(path), "w") as container:
        video = audio = None
        if frames is not None:
            video = container.add_stream(video_codec, rate=fps)
            video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
            video.codec_context.time_base = Fraction(1, 1000)
        if waveform is not None:
            audio = container.add_stream(audio_codec, rate=sampling_rate, layout="mono")
        if video is not None:
            for number, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                seconds = number / fps if frame_times is None else frame_times[number]
                frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None:
            sound = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = sampling_rate, 0, Fraction(1, sampling_rate)
            resampler = av.AudioResampler(format=audio.codec_context.format, layout="mono", rate=sampling_rate)
            fifo = av.AudioFifo()
            for frame in resampler.resample(sound):
                fifo.write(frame)
            size = audio.codec_context.frame_size or 1024
            while (frame := fifo.read(size)) is not None:
                container.mux(audio.encode(frame))
            if (frame := fifo.read(0, partial=True)) is not None:
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path
