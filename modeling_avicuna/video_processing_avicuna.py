"""From a video or picture to the vision tower's input: evenly spaced frames, resized, cropped and normalised.

Decides which frames show a video; `media_avicuna` decodes them. How many frames a video gets is decided by
`slot_encoding_avicuna`.
"""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .media_avicuna import Media, MediaError, MediaFile, decode_frames, open_media


try:
    import PIL.Image
    import PIL.ImageOps
except ImportError:
    PIL = None


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

    With a constant frame rate these are the published indices; with a variable one the frames that are on screen at
    evenly spaced times, so that position stays time (the published code counts frames).

    Args:
        times (`np.ndarray` of shape `(num_total, 2)`): when each frame appears and vanishes, in seconds.
        alignment (`str`): `"published"` takes frames from the first to the last; `"centred"` takes the frame that is
            on screen at the middle of each of `num_frames` equal shares of the time.
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


def read_video(
    source: Media | MediaFile,
    *,
    num_frames: int,
    start: float | None = None,
    end: float | None = None,
    alignment: str = "published",
    transform: Callable[[np.ndarray], torch.Tensor] = torch.from_numpy,
) -> tuple[torch.Tensor, VideoMetadata]:
    """
    Decodes evenly spaced frames in chunks, so that a long or large video needs no more memory than its result.

    Args:
        source: a media source, or a file that is open already.
        start, end (`float`, *optional*): part of the video, in seconds from its beginning.
        alignment (`str`): see `frame_indices`.
        transform (`Callable`): applied to each chunk of different frames, uint8 of shape `(num, height, width, 3)`.

    Returns:
        the transformed frames, `num_frames` rows, and what is shown: `duration` in seconds of the part, `fps` and
        `total_num_frames` of the whole file, and `frames_indices`, one number per row.

    Raises:
        MediaError: see `open_media`; also a file without a video stream or without a picture that can be decoded.
        ValueError: `num_frames` below 1, or an interval that is empty or outside of the video.
    """
    if not isinstance(source, MediaFile):
        with MediaFile(source) as media:
            return read_video(
                media, num_frames=num_frames, start=start, end=end, alignment=alignment, transform=transform
            )
    times = source.times
    intervals = np.stack([times.begins, times.ends], axis=1)
    indices = frame_indices(intervals, num_frames, start=start, end=end, alignment=alignment)
    different, inverse = np.unique(indices, return_inverse=True)  # a short video shows its frames several times
    with closing(decode_frames(source, different)) as chunks:
        frames = torch.cat([transform(chunk) for chunk in chunks])
    metadata = describe_part(intervals, indices, start=start, end=end)
    return (frames if len(different) == num_frames else frames[torch.from_numpy(inverse)]), metadata


def describe_part(
    times: np.ndarray, indices: np.ndarray, *, start: float | None = None, end: float | None = None
) -> VideoMetadata:
    """What the frames `indices` of a video with these `times` are; `duration` is that of the part, in seconds."""
    whole = float(times[-1, 1] - times[0, 0])
    shown = min(whole if end is None else end, whole) - max(start or 0.0, 0.0)
    return VideoMetadata(
        total_num_frames=len(times), fps=len(times) / whole, duration=shown, frames_indices=indices.tolist()
    )


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
        source: see `open_media`.
        num_frames (`int`, defaults to 75): frames to return; a shorter video repeats some.
        start, end (`float`, *optional*): part of the video, in seconds from its beginning.
        alignment (`str`): see `frame_indices`.

    Returns:
        frames, uint8 of shape `(num_frames, height, width, 3)`, and the duration in seconds of the part shown.

    Raises:
        MediaError: the file is missing, empty, has no video stream, or no picture of it can be decoded.
        ValueError: `num_frames` below 1 or an interval outside of the video.
    """
    frames, metadata = read_video(source, num_frames=num_frames, start=start, end=end, alignment=alignment)
    return frames.numpy(), metadata.duration


def load_image(source: Any) -> np.ndarray:
    """
    A picture (file or PIL image), or the middle frame of a video file, as upright RGB, uint8 `(1, height, width, 3)`.

    Raises:
        MediaError: the file is damaged, or its pixels have no defined range of brightness (floating point).
    """
    if PIL is None:
        raise ImportError("reading pictures needs Pillow: pip install pillow")
    if isinstance(source, PIL.Image.Image):
        return _to_rgb(source, name="the image")[None]
    file, name = open_media(source)
    try:
        with PIL.Image.open(file) as picture:
            return _to_rgb(picture, name=name)[None]
    except PIL.UnidentifiedImageError:
        return load_video_frames(file, 3)[0][1:2]
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:  # PIL's answers to damaged files
        raise MediaError(name, "a picture that cannot be decoded", str(error)) from error
    finally:
        if file is not source:
            file.close()


def _to_rgb(picture: "PIL.Image.Image", *, name: str) -> np.ndarray:
    """Any mode of PIL as uint8 `(height, width, 3)`. PIL itself clips 16-bit grey to white instead of scaling it."""
    picture = PIL.ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16-bit grey; some files of it open as 32-bit integers
        grey = np.asarray(picture).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65_535:
            raise MediaError(name, "a picture whose values exceed 16 bits", f"{grey.min()} to {grey.max()}")
        return np.repeat(((grey * 255 + 32_767) // 65_535).astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode == "F":
        raise MediaError(name, "a picture of floating-point values, whose range is not defined")
    try:
        return np.array(picture.convert("RGB"))
    except ValueError as error:
        raise MediaError(
            name, f"a picture of mode {picture.mode}, which cannot be shown as RGB", str(error)
        ) from error


class AVicunaVideoProcessor(BaseVideoProcessor):
    r"""
    CLIP's preprocessing for videos and pictures, batched in torch: bicubic resize of the short side, centre crop,
    normalisation.

    Args:
        num_frames (`int`, defaults to 75): frames per video where the caller gives no number.
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

    def fetch_videos(self, video_url_or_urls: Any, sample_indices_fn: Callable | None = None) -> Any:
        """Frames and metadata of files, read by `read_video`; the base class would need torchcodec."""
        if isinstance(video_url_or_urls, list):
            return list(zip(*[self.fetch_videos(source) for source in video_url_or_urls]))
        frames, metadata = read_video(video_url_or_urls, num_frames=self.num_frames)
        return frames.numpy(), metadata

    def preprocess_frames(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        """`(num_frames, height, width, 3)` uint8 RGB -> `(num_frames, 3, crop_height, crop_width)` float32."""
        frames = torch.as_tensor(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)  # [F, 3, H, W]
        batch = self.preprocess([frames], input_data_format="channels_first", return_tensors="pt")
        return batch["pixel_values_videos"][0]

    def load(
        self,
        video: Any,
        *,
        num_frames: int | None = None,
        start: float | None = None,
        end: float | None = None,
        fps: float | None = None,
        alignment: str = "published",
    ) -> tuple[torch.Tensor, VideoMetadata]:
        """
        One video -> `(num_frames, 3, crop_height, crop_width)` and its metadata.

        Args:
            video: a media file; RGB frames, uint8 of shape `(any, height, width, 3)` or `(any, 3, height, width)`; or
                a list of pictures (PIL images, image files or arrays of one frame), which may differ in size.
            start, end (`float`, *optional*): the part to show, in seconds.
            fps (`float`, *optional*): rate of the frames of an array or a list. Without it their duration is unknown.
            alignment (`str`): see `frame_indices`.

        Returns:
            the frames, and `VideoMetadata`: `duration` is that of the part in seconds, `frames_indices` count the
            frames of the file, the array or the list.

        Raises:
            MediaError, ValueError: see `read_video`; an array of another shape or type; a part of frames without
                `fps`.
        """
        num_frames = self.num_frames if num_frames is None else num_frames
        part = {"start": start, "end": end}
        if not isinstance(video, (np.ndarray, torch.Tensor, list, tuple)):
            return read_video(
                video, num_frames=num_frames, **part, alignment=alignment, transform=self.preprocess_frames
            )
        if fps is None and (start is not None or end is not None):
            raise ValueError(f"a part from {start} to {end} s of frames needs their fps")
        frames = video if isinstance(video, (list, tuple)) else _as_frames(video)
        if len(frames) == 0:
            raise ValueError("a list of frames is empty")
        begins = np.arange(len(frames)) / (fps or 1.0)
        times = np.stack([begins, begins + 1 / (fps or 1.0)], axis=1)
        indices = frame_indices(times, num_frames, **part, alignment=alignment)
        different, inverse = np.unique(indices, return_inverse=True)
        if isinstance(frames, np.ndarray):
            rows = self.preprocess_frames(frames[different])
        else:
            rows = torch.cat([self.load_image(frames[index]) for index in different])
        metadata = describe_part(times, indices, **part)
        if fps is None:
            metadata.fps = metadata.duration = None
        return rows[torch.from_numpy(inverse)], metadata

    def load_image(self, picture: Any) -> torch.Tensor:
        """
        One picture -> `(1, 3, crop_height, crop_width)`.

        Args:
            picture: an image file or PIL image, an array of one frame, or a video file or array, of which the middle
                frame is taken.
        """
        if isinstance(picture, (np.ndarray, torch.Tensor)):
            frames = _as_frames(picture if picture.ndim == 4 else picture[None])
            return self.preprocess_frames(frames[len(frames) // 2][None])
        return self.preprocess_frames(load_image(picture))


def _as_frames(frames: np.ndarray | torch.Tensor) -> np.ndarray:
    """Frames as uint8 of shape `(num, height, width, 3)`."""
    frames = np.asarray(frames)
    if frames.ndim == 4 and frames.shape[1] == 3 != frames.shape[3]:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(
            "frames must be uint8 of shape (num, height, width, 3) or (num, 3, height, width), "
            f"got {frames.dtype} {frames.shape}"
        )
    return frames
