"""From a video or picture file to the vision tower's input: evenly spaced frames, resized, cropped and normalised.

Frames come from decord, and from PyAV where decord cannot (AV1, files without a duration, damaged ones); both give
upright frames. This file reads no sound (feature_extraction) and does not decide how many frames a video gets (processing).
"""

from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .interleaving_avicuna import resample_rows
from .media_avicuna import Media, MediaError, open_media


try:
    import av
except ImportError:
    av = None
try:
    import decord
    from decord import DECORDError
except ImportError:
    decord = None

    class DECORDError(Exception):
        """Stands in for decord's own error where decord is not installed."""


try:
    import PIL.Image
    import PIL.ImageOps
except ImportError:
    PIL = None


# Frames decoded at a time: bounds the memory of a 4K video to about 0.4 GB.
CHUNK_SIZE = 16


def evenly_spaced(num_total: int, num_frames: int, *, first: int = 0, last: int | None = None) -> np.ndarray:
    """
    `num_frames` indices from `first` to `last` inclusive, as the published inference code takes them (truncated
    `linspace`); repeats indices where there are fewer frames.
    """
    return np.linspace(first, num_total - 1 if last is None else last, num_frames, dtype=np.int32)


def frame_indices(
    times: np.ndarray,
    num_frames: int,
    *,
    start: float | None = None,
    end: float | None = None,
    alignment: str = "published",
) -> np.ndarray:
    """
    Which frames show a video evenly over its time.

    With a constant frame rate these are the published indices; with a variable one the frames that are on screen at evenly
    spaced times, so that position stays time (the published code counts frames).

    Args:
        times (`np.ndarray` of shape `(num_total, 2)`): when each frame appears and vanishes, in seconds.
        alignment (`str`): `"published"` takes frames from the first to the last; `"centred"` takes the frame that is on
            screen at the middle of each of `num_frames` equal shares of the time.
        start, end (`float`, *optional*): part of the video, in seconds from its beginning; clamped to it.

    Raises:
        ValueError: `num_frames` below 1, or an interval that is empty or outside of the video.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    begins = times[:, 0] - times[0, 0]
    duration = float(times[-1, 1] - times[0, 0])
    start, end = max(start or 0.0, 0.0), duration if end is None else end
    if not 0.0 <= start < end or start >= duration:
        raise ValueError(f"the interval from {start} to {end} s is not within a video of {duration:.3f} s")
    if alignment == "centred":
        moments = start + (np.arange(num_frames) + 0.5) / num_frames * (min(end, duration) - start)
        return np.searchsorted(begins, moments + 1e-4, side="right").astype(np.int32) - 1
    first, last = (int(np.searchsorted(begins, t + 1e-4, side="right")) - 1 for t in (start, end))
    first, last = max(first, 0), max(last, first, 0)
    steps = np.diff(begins)
    if len(steps) == 0 or np.ptp(steps) <= 0.1 * np.median(steps):
        return evenly_spaced(len(times), num_frames, first=first, last=last)
    moments = np.linspace(begins[first], begins[last], num_frames)
    return np.searchsorted(begins, moments + 1e-4, side="right").astype(np.int32) - 1


def _usable_times(times: np.ndarray, *, fps: float) -> np.ndarray:
    """The frames' own times where they make sense, otherwise those of a constant frame rate."""
    sensible = len(times) and np.isfinite(times).all() and np.abs(times).max() < 1e7
    if sensible and (np.diff(times[:, 0]) > 0).all() and (times[:, 1] > times[:, 0]).all():
        return times
    begins = np.arange(len(times)) / fps
    return np.stack([begins, begins + 1 / fps], axis=1)


class _DecordReader:
    """
    Random access to the frames of a file through decord: `times` `(num_total, 2)` in seconds, and `chunks(indices)`, the
    frames of strictly growing indices, at most `CHUNK_SIZE` at a time.
    """

    def __init__(self, target, *, name: str):
        try:
            self.reader = decord.VideoReader(target, ctx=decord.cpu(0))
        except RuntimeError as error:  # decord's answer to a file that it cannot open
            raise DECORDError(str(error)) from error
        times = np.asarray(self.reader.get_frame_timestamp(range(len(self.reader))), dtype=np.float64)
        self.times = _usable_times(times.reshape(-1, 2), fps=self.reader.get_avg_fps() or 25.0)

    def close(self):
        """Ends decord's threads. Were it left to the garbage collector, a forked process could wait for them forever."""
        self.reader = None

    def chunks(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        for begin in range(0, len(indices), CHUNK_SIZE):
            batch = self.reader.get_batch(indices[begin : begin + CHUNK_SIZE].tolist())
            frames = batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)
            if frames.ndim != 4 or frames.shape[-1] != 3:  # decord on a 1x1 picture
                raise DECORDError(f"decord gave frames of shape {frames.shape}")
            yield frames


class _PyAVReader:
    """The same through PyAV: one pass that only notes the times, one that converts the frames asked for."""

    def __init__(self, target, *, name: str):
        if av is None:
            raise ImportError("reading this video needs PyAV: pip install av")
        self.target, self.name = target, name
        times = [(frame.time, frame.duration, frame.time_base) for frame, _ in self._frames()]
        if not times:
            raise MediaError(name, "a video stream without a frame")
        begins = np.array([np.nan if time is None else time for time, _, _ in times])
        ends = np.append(begins[1:], begins[-1] + self._last_duration(times[-1], begins))
        self.times = _usable_times(np.stack([begins, ends], axis=1), fps=self.fps)

    def close(self):
        """Nothing stays open between two passes."""

    def _last_duration(self, last: tuple, begins: np.ndarray) -> float:
        _, duration, time_base = last
        if duration:
            return float(duration * time_base)
        return float(begins[-1] - begins[-2]) if len(begins) > 1 else 1 / self.fps

    def _frames(self) -> Iterator[tuple]:
        """Decoded frames and their running numbers; damaged packets are left out."""
        if hasattr(self.target, "seek"):
            self.target.seek(0)
        try:
            with av.open(self.target, metadata_errors="ignore") as container:
                if not container.streams.video:
                    raise MediaError(self.name, "no video stream")
                stream = container.streams.best("video")
                stream.thread_type = "AUTO"
                self.fps = float(stream.average_rate or stream.guessed_rate or 25)
                number = 0
                for packet in container.demux(stream):
                    for frame in self._decode(packet):
                        yield frame, number
                        number += 1
        except (av.FFmpegError, OSError) as error:
            raise MediaError(self.name, "not a readable media file", str(error)) from error

    def _decode(self, packet) -> list:
        try:
            return packet.decode()
        except av.FFmpegError:
            return []

    def chunks(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        wanted, last, chunk = set(indices.tolist()), int(indices[-1]), []
        for frame, number in self._frames():
            if number in wanted:
                chunk.append(np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90)))
            if chunk and (len(chunk) == CHUNK_SIZE or number == last):
                yield np.stack(chunk)
                chunk = []
            if number == last:
                break


def read_video(
    source: Media,
    *,
    num_frames: int,
    start: float | None = None,
    end: float | None = None,
    alignment: str = "published",
    transform: Callable[[np.ndarray], torch.Tensor] = torch.from_numpy,
) -> tuple[torch.Tensor, float]:
    """
    Decodes evenly spaced frames chunk by chunk, so that a long or large video needs no more memory than its result.

    Args:
        alignment (`str`): see `frame_indices`.
        transform (`Callable`): applied to each chunk of different frames, uint8 of shape `(num, height, width, 3)`.

    Returns:
        the transformed frames, `num_frames` rows, and the duration in seconds of the part shown.

    Raises:
        MediaError: see `open_media`; also a file without a video stream or without a picture that can be decoded.
    """
    target, name = open_media(source)
    what = {"name": name, "num_frames": num_frames, "start": start, "end": end}
    what |= {"alignment": alignment, "transform": transform}
    if decord is not None:
        try:
            return _read_frames(_DecordReader, target, **what)
        except DECORDError:  # not kept: its traceback holds the decoder
            pass
    if hasattr(target, "seek"):
        target.seek(0)
    return _read_frames(_PyAVReader, target, **what)


def _read_frames(
    reader_class, target, *, name, num_frames, start, end, alignment, transform
) -> tuple[torch.Tensor, float]:
    with closing(reader_class(target, name=name)) as reader:
        indices = frame_indices(reader.times, num_frames, start=start, end=end, alignment=alignment)
        different, place = np.unique(indices, return_inverse=True)  # a short video shows its frames several times
        with closing(reader.chunks(different)) as chunks:
            frames = torch.cat([transform(chunk) for chunk in chunks])
    duration = float(reader.times[-1, 1] - reader.times[0, 0])
    shown = min(duration if end is None else end, duration) - max(start or 0.0, 0.0)
    return (frames if len(different) == num_frames else frames[torch.from_numpy(place)]), shown


def load_video_frames(
    source: Media,
    num_frames: int = 75,
    *,
    start: float | None = None,
    end: float | None = None,
    alignment: str = "published",
) -> tuple[np.ndarray, float]:
    """
    Evenly spaced upright RGB frames of a video file.

    Args:
        source (`str`, `os.PathLike` or binary file): video file.
        num_frames (`int`, defaults to 75): frames to return; a shorter video repeats some.
        start, end (`float`, *optional*): part of the video, in seconds from its beginning.
        alignment (`str`): see `frame_indices`.

    Returns:
        frames, uint8 of shape `(num_frames, height, width, 3)`, and the duration in seconds of the part shown.

    Raises:
        MediaError: the file is missing, empty, has no video stream, or no picture of it can be decoded.
        ValueError: `num_frames` below 1 or an interval outside of the video.
    """
    frames, duration = read_video(source, num_frames=num_frames, start=start, end=end, alignment=alignment)
    return frames.numpy(), duration


def load_image(source) -> np.ndarray:
    """A picture (file or PIL), or the middle frame of a video file -> upright RGB, uint8 `(1, height, width, 3)`."""
    if PIL is None:
        raise ImportError("reading pictures needs Pillow: pip install pillow")
    if isinstance(source, PIL.Image.Image):
        return np.array(PIL.ImageOps.exif_transpose(source).convert("RGB"))[None]
    target, _ = open_media(source)
    try:
        with PIL.Image.open(target) as picture:
            return np.array(PIL.ImageOps.exif_transpose(picture).convert("RGB"))[None]
    except PIL.UnidentifiedImageError:
        return load_video_frames(source, 3)[0][1:2]


class AVicunaVideoProcessor(BaseVideoProcessor):
    r"""
    CLIP's preprocessing (bicubic resize of the short side, centre crop, normalisation) for videos and pictures, batched in
    torch.

    Args:
        num_frames (`int`, defaults to 75): frames per video where the caller does not say.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"shortest_edge": 224}
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = False
    num_frames = 75
    model_input_names = ["pixel_values_videos"]

    def fetch_videos(self, video_url_or_urls, sample_indices_fn=None):
        """Files -> frames and metadata, by our decoders (the base class would want torchcodec)."""
        if isinstance(video_url_or_urls, list):
            return list(zip(*[self.fetch_videos(source) for source in video_url_or_urls]))
        frames, duration = load_video_frames(video_url_or_urls, self.num_frames)
        return frames, VideoMetadata(total_num_frames=len(frames), fps=len(frames) / duration, duration=duration)

    def preprocess_frames(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        """`(num_frames, height, width, 3)` uint8 RGB -> `(num_frames, 3, crop_height, crop_width)` float32."""
        frames = torch.as_tensor(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)  # [F, 3, H, W]
        batch = self.preprocess([frames], input_data_format="channels_first", return_tensors="pt")
        return batch["pixel_values_videos"][0]

    def load(
        self, video, *, num_frames: int | None = None, alignment: str = "published"
    ) -> tuple[torch.Tensor, float | None]:
        """
        One video -> `(num_frames, 3, crop_height, crop_width)` and its duration in seconds (`None` for an array).

        Args:
            video: a media file, or RGB frames as uint8 of shape `(any, height, width, 3)` or `(any, 3, height, width)`, which
                are sampled evenly.
            alignment (`str`): see `frame_indices`.

        Raises:
            MediaError, ValueError: see `read_video`; an array of another shape or type.
        """
        num_frames = self.num_frames if num_frames is None else num_frames
        if not isinstance(video, (np.ndarray, torch.Tensor)):
            return read_video(video, num_frames=num_frames, alignment=alignment, transform=self.preprocess_frames)
        frames = np.asarray(video)
        if frames.ndim == 4 and frames.shape[1] == 3 != frames.shape[3]:
            frames = frames.transpose(0, 2, 3, 1)
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
            raise ValueError(
                "frames must be uint8 of shape (num, height, width, 3) or (num, 3, height, width), "
                f"got {frames.dtype} {frames.shape}"
            )
        if alignment == "centred":
            indices = np.array(resample_rows(len(frames), num_frames, "centred"))
        else:
            indices = evenly_spaced(len(frames), num_frames)
        different, place = np.unique(indices, return_inverse=True)
        return self.preprocess_frames(frames[different])[torch.from_numpy(place)], None
