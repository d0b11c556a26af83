"""Renders a plan as one mp4 from clips of any size, rate and orientation, rescaled in time, with audio and video in
sync.

The last step of a build with `media="rendered"`. `planning.py` chooses the clips and their times, `media_avicuna.py`
of `modeling_avicuna` reads them, `media_writer.py` encodes, and `soundtrack.py` makes the audio track. Frames are
streamed, so memory use does not grow with their number.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from ..media_writer import MediaWriter
from ..sources.clip_files import ClipFile
from .planning import Segment
from .soundtrack import add_background_noise, join_tracks, limit_peak, stretch_audio
from .time_line import Span, divide_tracks, list_pictures, list_sounds, read_spans


if TYPE_CHECKING:
    from modeling_avicuna.media_avicuna import TimedFrame


# s; how much shorter than planned a clip may be. Its last frame is repeated for that time.
CLIP_TOLERANCE = 0.5
STAMP_TOLERANCE = 1e-3  # s; Matroska rounds its timestamps to this


@dataclass(frozen=True)
class RenderedVideo:
    """The written file, its duration in seconds (`num_frames / fps`) and its number of frames."""

    path: Path
    duration: float
    num_frames: int


def render_video(
    segments: Sequence[Segment | Mapping],
    clip_paths: Mapping[str, str | Path | ClipFile],
    output: str | Path,
    *,
    width: int = 480,
    height: int = 360,
    fps: float = 25,
    sampling_rate: int = 48_000,
    seed: int = 0,
    background_noise_snr_db: float | None = None,
    num_channels: int = 2,
    duration: float | None = None,
    crf: int = 23,
    preset: str = "veryfast",
) -> RenderedVideo:
    """Compose clips into one pseudo-untrimmed mp4 (H.264 and AAC).

    The frame at k / fps is the source frame at the centre of its interval in the plan, so that no event appears more
    than half a frame early or late. Frames are scaled to fit and centred on a black background. Clips without audio
    are silent. The file gets its final name only when it is complete.

    Args:
        segments (list of `Segment` or of dictionaries with its fields):
            The composition in seconds, by start, each `scale` times as long as its part of the clip. If clips overlap,
            the picture is that of the clip that began last and the sound is the sum; gaps are black and silent.
            `tracks` selects what a segment shows (`time_line.TRACKS`).
        clip_paths (`Mapping[str, Path | ClipFile]`):
            File, or part of a file, of each clip id.
        output (`Path`):
            The mp4 to write.
        width, height (`int`, *optional*, defaults to 480 and 360):
            Size of the result in pixels, even (our choice; CLIP uses 224).
        fps (`float`, *optional*, defaults to 25):
            Frames per second of the result.
        sampling_rate (`int`, *optional*, defaults to 48000):
            Sampling rate of the audio track in Hz; that of CLAP.
        seed (`int`, *optional*, defaults to 0):
            Random seed of the background noise.
        background_noise_snr_db (`float`, *optional*):
            Power ratio of the whole track to the added noise in decibels; None: no noise.
        num_channels (`int`, *optional*, defaults to 2):
            Channels of the audio track, 1 or 2.
        duration (`float`, *optional*):
            Seconds of the video; by default it ends with its last clip.
        crf, preset (*optional*, default to 23 and `"veryfast"`):
            x264's quality and speed.

    Returns:
        `RenderedVideo`.

    Raises:
        ValueError: segments that are empty, out of order or reversed; a clip id without a path; odd sizes.
        MediaError: (a `ValueError` with a countable `reason`) a clip that cannot be read, has no picture, or is more
            than 0.5 s shorter than planned.
    """
    plan = [segment if isinstance(segment, Segment) else Segment(**segment) for segment in segments]
    rate = Fraction(fps).limit_denominator(1001)
    clip_files = {name: file if isinstance(file, ClipFile) else ClipFile(file) for name, file in clip_paths.items()}
    spans = _check_plan(plan, clip_files)
    duration = max(span.end for span in spans) if duration is None else duration
    samples = _compose_soundtrack(
        plan, spans, clip_files, duration, sampling_rate=sampling_rate, num_channels=num_channels
    )
    if background_noise_snr_db is not None:
        rng = np.random.default_rng(seed)
        samples = add_background_noise(samples, snr_db=background_noise_snr_db, rng=rng)
    samples = limit_peak(samples)
    num_frames, num_written = round(duration * rate), 0
    with MediaWriter(
        output,
        width=width,
        height=height,
        fps=rate,
        sampling_rate=sampling_rate,
        num_channels=num_channels,
        crf=crf,
        preset=preset,
    ) as writer:
        frames = _compose_frames(plan, spans, clip_files, num_frames, rate, width, height)
        for index, frame in enumerate(frames):
            writer.write_frame(frame)
            # interleaved with the video, so that the muxer buffers at most one second of either
            if (index + 1) % int(rate) == 0:
                last = min(round((index + 1) / rate * sampling_rate), samples.shape[1])
                writer.write_audio(samples[:, num_written:last])
                num_written = last
        if num_written < samples.shape[1]:
            writer.write_audio(samples[:, num_written:])
    return RenderedVideo(Path(output), float(num_frames / rate), num_frames)


def _check_plan(segments: list[Segment], clip_files: Mapping[str, ClipFile]) -> list[Span]:
    """The spans of the segments; raises for every error that can be detected before the first frame is decoded."""
    from modeling_avicuna.media_avicuna import MediaError, probe

    spans = read_spans([vars(segment) for segment in segments])
    for index, segment in enumerate(segments):
        if not segment.scale > 0:
            raise ValueError(f"segment {index} must have a positive scale: {segment}")
        if segment.clip_id not in clip_files:
            raise ValueError(f"segment {index} uses clip {segment.clip_id!r}, which has no path")
    for clip_id in dict.fromkeys(segment.clip_id for segment in segments):
        file = clip_files[clip_id]
        info = probe(file.path)
        if not info.has_video:
            raise MediaError(file.path, "no video stream")
        wanted = max((s.end - s.start) / s.scale for s in segments if s.clip_id == clip_id)
        duration = file.measure(info.duration)
        if duration < wanted - CLIP_TOLERANCE:
            raise MediaError(file.path, "shorter than planned", f"{duration:.2f} s of the {wanted:.2f} s planned")
    return spans


def _compose_soundtrack(
    segments: list[Segment],
    spans: list[Span],
    clip_files: Mapping[str, ClipFile],
    duration: float,
    *,
    sampling_rate: int,
    num_channels: int,
) -> np.ndarray:
    """The time-stretched audio of all segments, joined and summed, `(num_channels, round(duration *
    sampling_rate))`."""
    mixed = np.zeros((num_channels, round(duration * sampling_rate)), np.float32)
    for track in divide_tracks(list_sounds(spans)):
        pieces, reached = [], 0
        for start, end, index in track:
            # differences of rounded times, not rounded differences, so that rounding errors do not accumulate over
            # clips
            begin, first, last, finish = (
                round(time * sampling_rate) for time in (spans[index].start, start, end, spans[index].end)
            )
            if first > reached:
                pieces.append(np.zeros((num_channels, first - reached), np.float32))
            stretched = _stretch_clip(segments[index], clip_files, finish - begin, sampling_rate, num_channels)
            pieces.append(stretched[:, first - begin : last - begin])
            reached = last
        joined = join_tracks(pieces, sampling_rate=sampling_rate)[:, : mixed.shape[1]]
        mixed[:, : joined.shape[1]] += joined
    return mixed


def _stretch_clip(
    segment: Segment,
    clip_files: Mapping[str, ClipFile],
    num_samples: int,
    sampling_rate: int,
    num_channels: int,
) -> np.ndarray:
    """The audio of one segment, `(num_channels, num_samples)`; silence if its clip has none."""
    from modeling_avicuna.media_avicuna import decode_audio

    file = clip_files[segment.clip_id]
    samples = decode_audio(
        file.path, sampling_rate=sampling_rate, num_channels=num_channels, start=file.start, end=file.end
    )
    if samples is None or samples.shape[1] == 0:
        return np.zeros((num_channels, num_samples), np.float32)
    samples = samples[:, : round((segment.end - segment.start) / segment.scale * sampling_rate)]
    return stretch_audio(samples, scale=segment.scale, sampling_rate=sampling_rate, num_samples=num_samples)


def _compose_frames(
    segments: list[Segment],
    spans: list[Span],
    clip_files: Mapping[str, ClipFile],
    num_frames: int,
    rate: Fraction,
    width: int,
    height: int,
) -> Iterator[av.VideoFrame]:
    """All frames of the video, scaled to the output size. A source frame that is used twice is scaled once."""
    from modeling_avicuna.media_avicuna import decode_video, naming_errors

    pictures = list_pictures(spans, max(float(num_frames / rate), max(span.end for span in spans)))
    index = 0
    for number, (_, end, shown_segment) in enumerate(pictures):
        moments = []
        while index < num_frames and (number == len(pictures) - 1 or (index + 0.5) / rate < end):
            moments.append(float((index + 0.5) / rate))
            index += 1
        if shown_segment is None:
            yield from (_dark_frame(width, height) for _ in moments)
            continue
        segment, letterbox = segments[shown_segment], Letterbox(width=width, height=height)
        file = clip_files[segment.clip_id]
        times = [(file.start or 0.0) + (moment - segment.start) / segment.scale for moment in moments]
        shown = None
        for timed in select_frames(decode_video(file.path), times):
            if shown is None or timed is not shown:
                with naming_errors(str(file.path), "a picture that cannot be converted"):
                    shown, fitted = timed, letterbox.fit(timed)
            yield fitted


def _dark_frame(width: int, height: int) -> av.VideoFrame:
    """A black frame, yuv420p in limited range."""
    planes = np.full((height * 3 // 2, width), 128, np.uint8)
    planes[:height] = 16
    return av.VideoFrame.from_ndarray(planes, format="yuv420p")


def select_frames(frames: "Iterator[TimedFrame]", times: Sequence[float]) -> "Iterator[TimedFrame]":
    """For each of the ascending times, the frame visible then: the last one that has begun (or the first, or the
    last).

    A frame that begins within the next millisecond counts as begun, since timestamps are rounded to a time base.
    """
    current = next(frames)
    following = next(frames, None)
    for time in times:
        while following is not None and following.time <= time + STAMP_TOLERANCE:
            current, following = following, next(frames, None)
        yield current


class Letterbox:
    """Rotates frames upright, scales them to the output size with the aspect ratio preserved, and pads them with
    black.

    One FFmpeg filter graph does this in one pass; it is rebuilt if the frame properties of a file change.

    Args:
        width, height (`int`): output size in pixels, even.
    """

    def __init__(self, *, width: int, height: int):
        self.width, self.height = width, height
        self._key: tuple | None = None

    def fit(self, timed: "TimedFrame") -> av.VideoFrame:
        """A new frame of the output size, yuv420p in limited range."""
        frame = timed.frame
        key = (frame.width, frame.height, frame.format.name, timed.orientation, frame.colorspace, frame.color_range)
        if key != self._key:
            self._build(timed)
            self._key = key
        self._source.push(frame)
        return self._sink.pull()

    def _build(self, timed: "TimedFrame") -> None:
        frame = timed.frame
        shown_width, shown_height = frame.width * timed.aspect, Fraction(frame.height)
        if timed.orientation.transpose:
            shown_width, shown_height = shown_height, shown_width
        inner_width, inner_height = fit_size(shown_width, shown_height, width=self.width, height=self.height)
        # even offsets keep chroma aligned with luma
        x, y = (self.width - inner_width) // 4 * 2, (self.height - inner_height) // 4 * 2
        turn = timed.orientation
        steps = [
            *(["transpose=cclock_flip"] if turn.transpose else []),  # rows and columns swapped
            *(["hflip"] if turn.mirror_x else []),
            *(["vflip"] if turn.mirror_y else []),
        ]
        steps.append(f"scale={inner_width}:{inner_height}:flags=bicubic:out_color_matrix=smpte170m:out_range=tv")
        steps.append("format=yuv420p")
        steps.append(f"pad={self.width}:{self.height}:{x}:{y}:black")
        graph = av.filter.Graph()
        graph.threads = 1
        self._source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        )
        node = self._source
        for step in steps:
            name, _, arguments = step.partition("=")
            following = graph.add(name, arguments)
            node.link_to(following)
            node = following
        self._sink = graph.add("buffersink")
        node.link_to(self._sink)
        graph.configure()
        self._graph = graph


def fit_size(shown_width: Fraction, shown_height: Fraction, *, width: int, height: int) -> tuple[int, int]:
    """The largest even size with (nearly) the given aspect ratio that fits in the output size.

    >>> fit_size(1280, 720, width=480, height=360)
    (480, 270)
    >>> fit_size(9, 16, width=480, height=360)
    (202, 360)
    """
    factor = min(Fraction(width) / Fraction(shown_width), Fraction(height) / Fraction(shown_height))
    return max(2, round(shown_width * factor / 2) * 2), max(2, round(shown_height * factor / 2) * 2)
