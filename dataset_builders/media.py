"""Read and write media files with PyAV, whose wheel carries its codecs. The one home of media decoding for the builders.

`probe` says what a file holds, `decode_video` and `decode_audio` give frames and samples in order, `MediaWriter` makes an
mp4 with h264 and aac. Sequential reading only: random access to frames for the model is the processor's business.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


LAYOUTS = {1: "mono", 2: "stereo"}
# Tags of what we write, by their numbers in ITU-T H.273: limited range, BT.601 matrix. A reader that ignores the tags
# assumes the same, which is why it is not BT.709.
LIMITED_RANGE, BT601 = 1, 6


class MediaError(ValueError):
    """A media file that cannot be used. A builder counts it as a drop under `reason`.

    Args:
        path (`Path`): the file.
        reason (`str`): a short cause without names or numbers, so that equal causes count together.
        detail (`str`, *optional*): the rest of the message.
    """

    def __init__(self, path: str | Path, reason: str, detail: str = ""):
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))
        self.path, self.reason, self.detail = Path(path), reason, detail

    def __reduce__(self):  # worker processes send their errors home by pickle
        return type(self), (self.path, self.reason, self.detail)


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


def _open(path: str | Path) -> av.container.InputContainer:
    path = Path(path)
    if not path.is_file():
        raise MediaError(path, "no such file")
    if path.stat().st_size == 0:
        raise MediaError(path, "an empty file")
    with naming_errors(path, "not a readable media file"):
        # "file:" keeps a name with a colon from being read as a protocol; damaged stamps and tags do not matter here
        return av.open(f"file:{path}", metadata_errors="ignore")


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


class MediaWriter:
    """Write one mp4 (h264 and aac), frame by frame, under a temporary name that becomes the real one on success.

    Used as a context manager: leaving it without an error flushes the encoders and renames the file; leaving it with
    one deletes the temporary file, so a killed or failed run never leaves a half-written `path`.

    Args:
        path (`Path`): the file to make; its folder is made if need be.
        width, height (`int`): pixels, both even (4:2:0 chroma).
        fps (`Fraction` or `int`): frames per second, constant.
        sampling_rate (`int`, *optional*): Hz of the sound track; None writes none.
        num_channels (`int`): 1 or 2.
        crf (`int`): x264's constant quality, lower is better; 23 is x264's own default.
        preset (`str`): x264's speed preset.
        audio_bit_rate (`int`): bits per second of the sound track.

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
        self._video.options = {"crf": str(crf), "preset": preset}
        self._num_frames = 0
        self._audio = None
        if sampling_rate is not None:
            self._layout = LAYOUTS[num_channels]
            self._audio = self._container.add_stream("aac", rate=sampling_rate, layout=self._layout)
            self._audio.bit_rate = audio_bit_rate
            # half the time of the default search, at no lower signal-to-noise ratio where we measured it
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
        """Append samples of shape `(num_channels, num_samples)`, float32 in [-1, 1]; what lies beyond is clipped."""
        samples = np.ascontiguousarray(np.clip(samples, -1.0, 1.0), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self._layout)
        frame.sample_rate = self._audio.rate
        frame.pts, frame.time_base = self._num_samples, Fraction(1, self._audio.rate)
        self._num_samples += samples.shape[1]
        for packet in self._audio.encode(frame):
            self._container.mux(packet)

    def __exit__(self, error_type, error, traceback) -> None:
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
