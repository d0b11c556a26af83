"""The one reader of media: opens a source, says what it holds, and decodes its pictures and its sound with PyAV.

Everything that looks into a media file goes through here: the processor, the pipeline, feature extraction, evaluation and
the builders of the data sets. Which frames and windows a model sees is decided elsewhere (video_processing, feature_extraction).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch


try:
    import av
except ImportError:
    av = None
try:
    import torchaudio
except ImportError:
    torchaudio = None


Media = str | os.PathLike | BinaryIO
LAYOUTS = {1: "mono", 2: "stereo"}


class MediaError(ValueError):
    """
    A media file that cannot be used: missing, unreadable, or without the stream that is asked for.

    Args:
        name (`str` or `Path`): the file, or what else the message is to name.
        reason (`str`): a short cause without names or numbers, so that equal causes can be counted together.
        detail (`str`, *optional*): the rest of the message.
    """

    def __init__(self, name: str | Path, reason: str, detail: str = ""):
        super().__init__(f"{name}: {reason}" + (f" ({detail})" if detail else ""))
        self.name, self.reason, self.detail = str(name), reason, detail

    def __reduce__(self):  # worker processes return their errors by pickle
        return type(self), (self.name, self.reason, self.detail)


def open_media(source: Media) -> tuple[str | BinaryIO, str]:
    """
    Checks a media source before a decoder sees it; returns what decoders open and the name that errors print.

    Args:
        source: a path, or a seekable binary file object, which is read from its beginning.

    Raises:
        MediaError: no such file, a folder, an empty file, or something that is no media source at all.
    """
    if hasattr(source, "read"):
        source.seek(0)
        return source, str(getattr(source, "name", None) or "<file object>")
    if not isinstance(source, (str, os.PathLike)):
        raise MediaError(f"{source!r:.80}", "is neither a path nor a binary file object")
    if str(source).startswith(("http://", "https://")):
        raise MediaError(str(source), "is a URL; download it first")
    path = Path(source)
    if not path.is_file():
        raise MediaError(path, "is a folder, not a media file" if path.is_dir() else "no such file")
    if path.stat().st_size == 0:
        raise MediaError(path, "an empty file")
    # an absolute path: a name such as "-a.mp4" or "http:x.mp4" must not look like an option or a protocol to a decoder
    return str(path.absolute()), str(path)


def load_audio(source: Media, *, sampling_rate: int = 48_000) -> np.ndarray | None:
    """
    The sound of a media file as one mono waveform, on the time axis of the file.

    Channels are averaged. A sound that starts after the picture is preceded by silence, one that starts before it (the
    priming samples of AAC) is cut, and gaps and damaged packets are silent, so that position stays time.

    Args:
        source (`str`, `os.PathLike` or binary file): video or sound file.
        sampling_rate (`int`): of the result, in Hz.

    Returns:
        `np.ndarray` of shape `(num_samples,)`, float32, nominally in -1 ... 1; `None` where the file has no sound stream or
        no sound in it.

    Raises:
        MediaError: the file cannot be opened, or none of its sound can be decoded.
    """
    if av is None or torchaudio is None:
        raise ImportError("reading sound needs PyAV and torchaudio: pip install av torchaudio")
    target, name = open_media(source)
    try:
        with av.open(target, metadata_errors="ignore") as container:
            if not container.streams.audio:
                return None
            waveform, rate = _decode_audio(container, name=name)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(name, "not a readable media file", str(error)) from error
    return None if waveform is None else resample(waveform, rate, sampling_rate)


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """`(num_samples,)` float32 at another rate, in Hz."""
    return torchaudio.functional.resample(torch.from_numpy(waveform), from_rate, to_rate).numpy()


def _decode_audio(container, *, name: str) -> tuple[np.ndarray | None, int]:
    """The best sound stream as one mono float32 waveform, and its rate in Hz; silence where the stream has a gap."""
    stream = container.streams.best("audio")
    to_float = av.AudioResampler(format="fltp", layout=None, rate=None)
    rate, begin, failure = stream.codec_context.sample_rate, _start_of_file(container), None
    chunks, position = [], 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:  # a damaged packet: its time is left silent
            failure = error
            continue
        for frame in frames:
            samples = np.concatenate([part.to_ndarray() for part in to_float.resample(frame)], axis=1).mean(axis=0)
            if frame.time is not None:
                shift = round((frame.time - begin) * rate) - position
                if shift > (0.05 * rate if chunks else 0):
                    samples = np.pad(samples, (shift, 0))
                elif shift < 0 and not chunks:
                    samples = samples[-shift:]
            chunks.append(samples)
            position += len(samples)
    if failure is not None and position == 0:
        raise MediaError(name, "unreadable audio stream", str(failure)) from failure
    return (np.concatenate(chunks) if position else None), rate


def _start_of_file(container) -> float:
    """Where the time axis of a file begins, in seconds: with the picture, or with the container where there is none."""
    for stream in container.streams.video:
        if stream.start_time is not None:
            return float(stream.start_time * stream.time_base)
    return (container.start_time or 0) / 1_000_000


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds. Sizes are those of the upright picture; None stands for a stream that is not there.

    `duration` (s) is the video stream's, or the sound's where there is no picture.
    """

    duration: float
    width: int | None
    height: int | None
    fps: float | None
    sampling_rate: int | None
    num_channels: int | None

    @property
    def has_video(self) -> bool:
        return self.width is not None

    @property
    def has_audio(self) -> bool:
        return self.sampling_rate is not None


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame: `time` (s) at which it begins, `rotation` (degrees, counter-clockwise) that sets it upright,
    `aspect` (width / height) of one of its pixels."""

    frame: av.VideoFrame
    time: float
    rotation: int
    aspect: Fraction


def probe(path: str | Path) -> MediaInfo:
    """Sizes, rates and duration of a media file, without decoding more than its first frame.

    Raises:
        MediaError: the file is missing, empty or unreadable, or holds neither picture nor sound.
    """
    with _open(path) as container:
        video, audio = _best_video(container), container.streams.best("audio")
        if video is None and audio is None:
            raise MediaError(path, "neither a video nor an audio stream")
        width = height = fps = None
        if video is not None:
            width, height = video.width, video.height
            fps = float(video.average_rate) if video.average_rate else None
            with naming_errors(path, "unreadable video stream"):
                first = next(container.decode(video), None)
            if first is None:
                raise MediaError(path, "a video stream without a frame")
            if first.rotation % 180:
                width, height = height, width
        main = video if video is not None else audio
        duration, main_index = _stated_duration(container, main), main.index
        sampling_rate, num_channels = (audio.rate, audio.channels) if audio is not None else (None, None)
    if duration is None:
        duration = _measure_duration(path, main_index)
    return MediaInfo(duration, width, height, fps, sampling_rate, num_channels)


def decode_video(path: str | Path) -> Iterator[TimedFrame]:
    """The frames of the best video stream in order of presentation, at strictly increasing times.

    Time 0 is the file's own beginning, the same as for `decode_audio`. A variable frame rate needs no care: each frame
    carries its time. Frames are not turned; each says how far it must be.

    Raises:
        MediaError: the file is missing, empty or unreadable, has no video stream, or breaks off.
    """
    with _open(path) as container:
        stream = _best_video(container)
        if stream is None:
            raise MediaError(path, "no video stream")
        # one thread: parallelism comes from rendering several videos at once
        stream.codec_context.thread_count = 1
        rate = float(stream.average_rate or 25)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        # AVI stores no presentation times and PyAV's guess steps back at B-frames; its frame rate is constant
        counted = container.format.name == "avi"
        origin, last = _origin(container), None
        frames = container.decode(stream)
        index = 0
        while True:
            with naming_errors(path, "unreadable video stream"):
                frame = next(frames, None)
            if frame is None:
                break
            time = index / rate if counted or frame.pts is None else float(frame.pts * frame.time_base) - origin
            if last is not None and time <= last:
                time = last + 1 / rate
            yield TimedFrame(frame, time, frame.rotation, aspect)
            last, index = time, index + 1
        if last is None:
            raise MediaError(path, "a video stream without a frame")


def decode_audio(path: str | Path, *, sampling_rate: int, num_channels: int = 2) -> np.ndarray | None:
    """The best audio stream, resampled and mixed to the asked number of channels.

    Time 0 is the file's own beginning: a track that starts later begins with silence, one that starts earlier is cut.

    Args:
        path (`Path`): the file.
        sampling_rate (`int`): Hz of the result.
        num_channels (`int`): 1 (the mean of left and right) or 2 (mono goes to both at full level); 5.1 and the like
            are mixed down to stereo by FFmpeg's own matrix first.

    Returns:
        `np.ndarray` of shape `(num_channels, num_samples)`, float32, or None where the file has no audio stream.

    Raises:
        MediaError: the file is missing, empty or unreadable, or its sound breaks off.
    """
    if num_channels not in LAYOUTS:
        raise ValueError(f"num_channels must be 1 or 2, got {num_channels}")
    with _open(path) as container:
        stream = container.streams.best("audio")
        if stream is None:
            return None
        # between mono and stereo FFmpeg would change the level by 3 dB, so that step is done below
        layout = LAYOUTS[min(2, stream.channels)]
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=sampling_rate)
        blocks, first_time = [], None
        with naming_errors(path, "unreadable audio stream"):
            for frame in container.decode(stream):
                if first_time is None:
                    first_time = float(frame.pts * frame.time_base) if frame.pts is not None else 0.0
                frame.pts = None  # a hole in the stamps must not make the resampler complain; order is enough
                blocks.extend(block.to_ndarray() for block in resampler.resample(frame))
            if blocks:
                blocks.extend(block.to_ndarray() for block in resampler.resample(None))
        origin = _origin(container)
    if not blocks:
        return np.zeros((num_channels, 0), dtype=np.float32)
    samples = np.concatenate(blocks, axis=1)
    if num_channels < samples.shape[0]:
        samples = samples.mean(axis=0, keepdims=True)
    elif num_channels > samples.shape[0]:
        samples = np.repeat(samples, num_channels, axis=0)
    offset = round((first_time - origin) * sampling_rate)
    if offset > 0:
        return np.pad(samples, ((0, 0), (offset, 0)))
    return samples[:, -offset:]


def _open(path: Media) -> av.container.InputContainer:
    target, name = open_media(path)
    with naming_errors(name, "not a readable media file"):
        return av.open(target, metadata_errors="ignore")


class naming_errors:
    """A context that turns FFmpeg's errors into `MediaError`s that name the file."""

    def __init__(self, path: str | Path, reason: str):
        self.path, self.reason = path, reason

    def __enter__(self) -> None:
        pass

    def __exit__(self, error_type, error, traceback) -> None:
        if isinstance(error, av.FFmpegError):
            raise MediaError(self.path, self.reason, str(error)) from error


def _best_video(container: av.container.InputContainer) -> av.video.VideoStream | None:
    """The stream that FFmpeg, and so decord, would show; the cover of a music file is not a video."""
    stream = container.streams.best("video")
    cover = stream is not None and stream.disposition & av.stream.Disposition.attached_pic
    return None if cover else stream


def _origin(container: av.container.InputContainer) -> float:
    """The file's beginning in seconds: where its earliest stream starts."""
    return container.start_time / av.time_base if container.start_time is not None else 0.0


def _stated_duration(container: av.container.InputContainer, stream: av.stream.Stream) -> float | None:
    if stream.duration is not None:
        start = float((stream.start_time or 0) * stream.time_base)
        return float(stream.duration * stream.time_base) + max(0.0, start - _origin(container))
    if container.duration is not None:
        return container.duration / av.time_base
    return None


def _measure_duration(path: str | Path, stream_index: int) -> float:
    """Reads all packets of a file whose header states no duration (live WebM)."""
    end = 0.0
    with _open(path) as container:
        stream = container.streams[stream_index]
        gap = 1 / float(stream.average_rate) if stream.type == "video" and stream.average_rate else 0.0
        with naming_errors(path, "not a readable media file"):
            for packet in container.demux(stream):
                if packet.pts is not None:
                    length = float(packet.duration * packet.time_base) if packet.duration else gap
                    end = max(end, float(packet.pts * packet.time_base) + length)
        return end - _origin(container)
