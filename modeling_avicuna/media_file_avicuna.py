"""Opens a media file and finds its video and audio streams and the times of their packets (see `media_index_avicuna`).

Decodes only the first frame. `media_pictures_avicuna` and `media_sound_avicuna` decode the rest, both on the time axis
of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .media_index_avicuna import (
    MISSING,
    PICTURE_TOLERANCE,
    FrameTimes,
    MediaIndex,
    PacketTable,
    list_frame_times,
    recall_index,
)
from .media_source_avicuna import Media, MediaError, open_media


try:
    import av
except ImportError:
    av = None


# Formats that refer to other files or addresses. They are refused: a hostile one could read local files.
REFERRING_FORMATS = frozenset("hls applehttp dash concat sdp rtsp rtp sap imf image2 webm_dash_manifest ftp".split())
# 8192 x 8192. A damaged header can state a size whose frames do not fit into memory.
MAX_PIXELS = 2**26


class naming_errors:
    """A context that turns errors of FFmpeg and of file objects into `MediaError`s that name the file."""

    def __init__(self, name: str, reason: str):
        self.name, self.reason = name, reason

    def __enter__(self) -> None:
        pass

    def __exit__(self, error_type: type | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, (av.FFmpegError, OSError, EOFError)):
            raise MediaError(self.name, self.reason, str(error)) from error


@dataclass(frozen=True)
class MediaInfo:
    """
    Contents of a media file. Sizes are those of the upright picture; None where the file has no such stream.

    `duration` (s) is the picture's, or the sound's where there is no picture. `fps` is the average frame rate.
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


def probe(source: Media) -> MediaInfo:
    """
    Sizes, rates and duration of a media file, decoding no more than its first frame.

    Raises:
        MediaError: see `open_media`; also a file that cannot be read, or holds neither picture nor sound.
    """
    with MediaFile(source) as media:
        return media.info


class MediaFile:
    """
    A media source, opened: its best picture and sound stream, the times of their packets, and its first frame.

    The time axis of everything that is decoded from it begins where the picture begins (the sound, if there is no
    picture). A cover image is not a picture stream. Use it as a context manager.

    Args:
        source: see `open_media`.

    Raises:
        MediaError: see `open_media`; also a file that FFmpeg cannot open, or that names other files (a playlist).
    """

    def __init__(self, source: Media):
        if av is None:
            raise ImportError("reading media files needs PyAV: pip install av")
        self.file, self.name = open_media(source)
        self._is_ours = self.file is not source
        try:
            self._read_header()
        except BaseException:
            self._close_file()
            raise

    def _read_header(self) -> None:
        self.file.seek(0)
        self._has_moved = False
        # FFmpeg reads the open file only: no protocol is allowed, so it cannot open a file or an address itself
        options = {"format_whitelist": _media_formats(), "protocol_whitelist": "none"}
        with naming_errors(self.name, "not a readable media file"):
            # tags that are not UTF-8 do not matter here
            self.container = av.open(self.file, metadata_errors="ignore", container_options=options)
        self.picture: Any = _picture_stream(self.container)
        self.sound: Any = _sound_stream(self.container)
        if self.picture is not None:
            self.picture.codec_context.options = {"max_pixels": str(MAX_PIXELS)}

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.container.close()
        self._close_file()

    def _close_file(self) -> None:
        if self._is_ours:
            self.file.close()

    def rewind(self) -> None:
        """Back to the first packet. Reads the header again: a seek to the start is not exact in every container."""
        if self._has_moved:
            self.container.close()
            self._read_header()

    def demux(self, *streams: av.stream.Stream) -> Iterator[av.Packet]:
        """The packets of the streams from the current position on, the last ones empty (they flush the decoders)."""
        self._has_moved = True
        try:
            with naming_errors(self.name, "not a readable media file"):
                yield from self.container.demux(*streams)
        except IndexError as error:  # raised by PyAV for a stream that was absent when the file was opened
            raise MediaError(self.name, "a stream that starts in the middle of the file") from error

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.container.size

    @cached_property
    def _index(self) -> MediaIndex:
        return recall_index(self.file, self._scan)

    def _scan(self) -> MediaIndex:
        """One pass over the file."""
        streams = [stream for stream in (self.picture, self.sound) if stream is not None]
        tables, first = {stream.index: PacketTable(stream.time_base) for stream in streams}, None
        if not streams:
            raise MediaError(self.name, "neither a video nor an audio stream")
        self.rewind()
        for packet in self.demux(*(self.container.streams[index] for index in tables)):
            if packet.size:
                tables[packet.stream_index].append(packet)
            if first is None and self.picture is not None and packet.stream_index == self.picture.index:
                first = next(iter(decode_packet(packet)), None)
        self.rewind()
        return MediaIndex(tables, first)

    @property
    def packets(self) -> dict[int, PacketTable]:
        """The packets of picture and sound, by stream index."""
        return self._index.packets

    @property
    def first_frame(self) -> av.VideoFrame:
        """
        Raises:
            MediaError: the file has no picture stream, or none of its pictures can be decoded.
        """
        if self.picture is None:
            raise MediaError(self.name, "no video stream")
        if self._index.first_frame is None:
            raise MediaError(self.name, "a video stream without a frame")
        return self._index.first_frame

    @property
    def times(self) -> FrameTimes:
        """When each frame of the picture is shown."""
        if self._index.times is None:
            self._index.times = self._list_times()
        return self._index.times

    def _list_times(self) -> FrameTimes:
        first = self.first_frame
        table = self.packets[self.picture.index]
        is_counted = (
            self.container.format.name == "avi"
            or MISSING in table.pts
            or first.pts not in table.pts
            or first.pts in table.damaged_stamps(PICTURE_TOLERANCE)
        )
        return list_frame_times(
            table,
            first=first.pts,
            fps=float(self.picture.average_rate or self.picture.guessed_rate or 25),
            is_counted=is_counted,
        )

    @property
    def zero(self) -> float:
        """Where the time axis begins, in seconds of the file's own clock."""
        if self.picture is not None:
            return self.times.zero
        return (self.container.start_time or 0) / av.time_base

    @property
    def duration(self) -> float:
        """Seconds of the picture, or of the sound where there is no picture."""
        if self.picture is not None:
            return self.times.duration
        if self.sound is None:
            raise MediaError(self.name, "neither a video nor an audio stream")
        table = self.packets[self.sound.index]
        unusable = table.damaged_stamps(0.0) | {MISSING}
        ends = [pts + length for pts, length in zip(table.pts, table.durations) if pts not in unusable]
        if not ends:
            return (self.container.duration or 0) / av.time_base
        return max(0.0, float(max(ends) * self.sound.time_base) - self.zero)

    @cached_property
    def info(self) -> MediaInfo:
        duration, sampling_rate, num_channels = self.duration, None, None
        if self.sound is not None:
            sampling_rate, num_channels = self.sound.rate, self.sound.channels
        if self.picture is None:
            return MediaInfo(duration, None, None, None, sampling_rate, num_channels)
        frame = self.first_frame
        width, height = frame.width, frame.height
        if Orientation.of(frame).transpose:
            width, height = height, width
        return MediaInfo(duration, width, height, len(self.times.begins) / duration, sampling_rate, num_channels)


def decode_packet(packet: av.Packet) -> list:
    """The frames that a packet completes; none where it is damaged."""
    try:
        return packet.decode()
    except av.FFmpegError:
        return []


def _media_formats() -> str:
    return ",".join(sorted(av.formats_available - REFERRING_FORMATS))


def _picture_stream(container: av.container.InputContainer) -> av.video.VideoStream | None:
    """The stream that FFmpeg selects, without cover images and unknown codecs."""
    cover = av.stream.Disposition.attached_pic
    return _best(container, "video", [s for s in container.streams.video if not s.disposition & cover])


def _sound_stream(container: av.container.InputContainer) -> av.audio.AudioStream | None:
    return _best(container, "audio", list(container.streams.audio))


def _best(container: av.container.InputContainer, kind: str, streams: list) -> Any:
    """FFmpeg's choice, or the first stream: FFmpeg chooses none if it read no packet of any on opening the file."""
    streams = [stream for stream in streams if stream.codec_context is not None]
    best = container.streams.best(kind)
    return next(
        (stream for stream in streams if best is not None and stream.index == best.index), next(iter(streams), None)
    )


@dataclass(frozen=True)
class Orientation:
    """How a decoded frame becomes upright: swap rows and columns, then mirror left-right, then top-bottom."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """From the frame's display matrix, as FFmpeg's own player applies it; turns to the nearest right angle."""
        try:
            data = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:
            # PyAV has no name for another entry of the frame, such as EXIF or the view of a stereo pair. It gives the
            # angle of the matrix, but not whether the picture is mirrored.
            turns = round(frame.rotation / 90) % 4
            return cls(transpose=turns % 2 == 1, mirror_x=turns in (2, 3), mirror_y=turns in (1, 2))
        if data is None:
            return cls()
        a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    @property
    def is_mirrored(self) -> bool:
        """Whether this is more than a turn."""
        return (self.transpose + self.mirror_x + self.mirror_y) % 2 == 1

    def turn(self, picture: np.ndarray) -> np.ndarray:
        """`(height, width, channels)` -> the same picture, upright."""
        picture = picture.transpose(1, 0, 2) if self.transpose else picture
        picture = picture[:, ::-1] if self.mirror_x else picture
        return picture[::-1] if self.mirror_y else picture
