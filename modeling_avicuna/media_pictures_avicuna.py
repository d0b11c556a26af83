"""Decodes the pictures of an opened media file: all of them in order, or the ones that are asked for.

Chosen frames of small files come from decord where its index is provably that of the file, all others from PyAV; both
read the one open file and give upright RGB frames of one size. `video_processing_avicuna` chooses the frames.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np

from .media_file_avicuna import Media, MediaError, MediaFile, Orientation, decode_packet, naming_errors
from .media_index_avicuna import MISSING, FrameTimes


try:
    import av
    from av.video.reformatter import VideoReformatter
except ImportError:
    av = None
try:
    import decord
    from decord import DECORDError
except ImportError:
    decord = None

    class DECORDError(Exception):  # type: ignore[no-redef]
        """Replaces decord's own error where decord is not installed."""


CHUNK_SIZE = 16  # frames decoded at a time
CHUNK_BYTES = 2**28  # at most; large frames come in smaller chunks
# Containers and codecs on which decord's frames were compared with sequential decoding (tests/test_media_pictures).
# It hangs on MPEG transport streams and returns wrong frames of AVI files.
DECORD_FORMATS = ("mov", "matroska")
DECORD_CODECS = frozenset({"h264", "hevc", "mpeg4", "vp8", "vp9"})
# decord is faster for small pictures; for large ones and for long files PyAV takes half of its time or less (measured
# on clips of 10 s to 60 min). decord opens a path itself, so it gets a copy of the file in memory that has a path.
# Its own reader of bytes crashes on damaged files: it reads beyond their end.
DECORD_BYTES = 2**25
DECORD_PIXELS = 640 * 360
SEEK_DISTANCE = 50  # frames; a nearer frame is reached without a seek
# Codecs whose decoders leave out single frames that no other frame refers to; the others are the same bytes (tests).
SKIPPING_CODECS = ("h264", "hevc")


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame, the time (s) at which it begins, how to set it upright, and the aspect of one of its pixels."""

    frame: av.VideoFrame
    time: float
    orientation: Orientation
    aspect: Fraction


def decode_video(source: Media) -> Iterator[TimedFrame]:
    """
    The frames of a file in order of presentation, at strictly increasing times that begin at 0. Frames are not turned.

    Raises:
        MediaError: see `open_media`; also a file without a video stream or with one that cannot be read.
    """
    with MediaFile(source) as media:
        times = media.times
        # one thread: parallelism comes from rendering several videos at once
        media.picture.codec_context.thread_count = 1
        aspect = media.picture.sample_aspect_ratio or Fraction(1)
        last = -1
        with naming_errors(media.name, "unreadable video stream"):
            for frame in media.container.decode(media.picture):
                index = last + 1 if times.stamps is None else _index_of(frame, times)
                if last < index < len(times.begins):
                    yield TimedFrame(frame, float(times.begins[index]), Orientation.of(frame), aspect)
                    last = index


def _index_of(frame: av.VideoFrame, times: FrameTimes) -> int:
    """The number of a decoded frame by its stamp; -1 where the stamp is none of the file's."""
    if frame.pts is None:
        return -1
    index = int(np.searchsorted(times.stamps, frame.pts))
    return index if index < len(times.stamps) and times.stamps[index] == frame.pts else -1


def decode_frames(media: MediaFile, indices: np.ndarray) -> Generator[np.ndarray, None, None]:
    """
    Chosen frames of a file, upright and of one size.

    Args:
        indices: numbers of frames as `media.times` counts them, strictly increasing.

    Returns:
        chunks, uint8 of shape `(num_frames, height, width, 3)`, of at most `CHUNK_SIZE` frames. A frame that cannot be
        decoded is replaced by the one before it, as in a player.

    Raises:
        MediaError: no frame of the file can be decoded.
    """
    frame = media.first_frame
    size = min(CHUNK_SIZE, max(1, CHUNK_BYTES // (3 * frame.width * frame.height)))
    chunks = [indices[begin : begin + size] for begin in range(0, len(indices), size)]
    num_done = 0
    if decord is not None and decord_is_faster(media) and decord_is_exact(media):
        with closing(_DecordReader(media)) as reader:
            try:
                if reader.agrees_with(media.times):
                    for chunk in chunks:
                        yield reader.read(chunk)
                        num_done += 1
            except DECORDError:  # damaged inside: PyAV continues from the same chunk
                pass
    if num_done == len(chunks):
        return
    frames = PyAVReader(media).read(np.concatenate(chunks[num_done:]))
    with closing(frames):
        for chunk in chunks[num_done:]:
            yield np.stack([next(frames) for _ in chunk])


def decord_is_faster(media: MediaFile) -> bool:
    """Whether the file and its pictures are small enough, and the system has files in memory (Linux)."""
    if not hasattr(os, "memfd_create"):
        return False
    return media.size <= DECORD_BYTES and media.first_frame.width * media.first_frame.height <= DECORD_PIXELS


def decord_is_exact(media: MediaFile) -> bool:
    """
    Whether decord finds the right frames: it seeks to the key frame before a frame and counts frames from there.

    That is exact where every packet is one shown frame with its own time and each key frame begins a closed group:
    none of the frames after it is shown before it, and a seek to it cannot end at a later one. decord also reads the
    first of several video streams and applies no mirroring.
    """
    if not media.container.format.name.startswith(DECORD_FORMATS) or len(media.container.streams.video) != 1:
        return False
    if media.picture.codec_context.name not in DECORD_CODECS or Orientation.of(media.first_frame).is_mirrored:
        return False
    table = media.packets[media.picture.index]
    pts, is_key = np.array(table.pts), np.array(table.is_key, dtype=bool)
    if media.times.stamps is None or len(media.times.stamps) != len(pts) or not is_key[0]:
        return False
    if media.picture.frames not in (0, len(pts)):  # decord reserves memory for the number in the header
        return False
    keys = np.flatnonzero(is_key)
    group_starts = np.repeat(pts[keys], np.diff(np.append(keys, len(pts))))
    if (pts < group_starts).any():
        return False
    dts = np.array(table.dts)[keys]
    known = dts != MISSING
    return bool((dts[1:][known[1:]] > pts[keys][:-1][known[1:]]).all())


class _DecordReader:
    """decord on the same file. Closing it ends its threads: a process forked later could wait for them for ever."""

    def __init__(self, media: MediaFile):
        position = media.file.tell()
        media.file.seek(0)
        self.reader: Any = None
        with open(os.memfd_create("avicuna"), "wb") as copy:
            copy.write(media.file.read())
            copy.flush()
            with suppress(RuntimeError, DECORDError):  # raised by decord for a file that it cannot open
                self.reader = decord.VideoReader(f"/proc/self/fd/{copy.fileno()}", ctx=decord.cpu(0))
        media.file.seek(position)

    def agrees_with(self, times: FrameTimes) -> bool:
        """Whether decord counts the same frames at the same times."""
        if self.reader is None or len(self.reader) != len(times.begins):
            return False
        begins = np.asarray(self.reader.get_frame_timestamp(range(len(self.reader))), dtype=np.float64).reshape(-1, 2)
        return bool(np.allclose(begins[:, 0] - begins[0, 0], times.begins, rtol=0, atol=2e-3))

    def read(self, indices: np.ndarray) -> np.ndarray:
        batch = self.reader.get_batch(indices.tolist())
        frames = batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)
        if frames.ndim != 4 or frames.shape[-1] != 3:  # decord on a 1x1 picture
            raise DECORDError(f"decord returned frames of shape {frames.shape}")
        return frames

    def close(self) -> None:
        self.reader = None


class PyAVReader:
    """
    Frames by PyAV: decoded in order, with a seek where the next wanted one is far away. Between wanted frames, those
    on which no other depends are not decoded.

    A seek is trusted only where it ends at a packet at or before the wanted key frame; otherwise, and in files whose
    frames are recognised by their number, all frames from the beginning on are decoded.
    """

    def __init__(self, media: MediaFile):
        self.media, self.times = media, media.times
        self.first, self.converter = media.first_frame, VideoReformatter()
        table = media.packets[media.picture.index]
        keys = [row for row in range(len(table)) if table.is_key[row] and not table.is_hidden[row]]
        by_time = sorted((table.pts[row], row) for row in keys)
        self.key_stamps = np.array([stamp for stamp, _ in by_time], dtype=np.int64)
        self.key_rows = [row for _, row in by_time]
        self.row_of = {stamp: row for row, stamp in enumerate(table.pts)}
        self.table = table
        self.can_seek = self.times.stamps is not None and len(keys) > 0
        self._wanted: frozenset[int] | None = None  # stamps of the wanted frames, if others may be left out

    def read(self, indices: np.ndarray) -> Generator[np.ndarray, None, None]:
        """One upright RGB frame, `(height, width, 3)`, per index."""
        if self.times.stamps is not None and self.media.picture.codec_context.name in SKIPPING_CODECS:
            self._wanted = frozenset(self.times.stamps[indices].tolist())
        shown, ahead = self.first, None
        frames, position = self._from_start(), -1
        for index in indices.tolist():
            jump = self._jump(index, position)
            if jump is not None:
                frames, ahead = jump, None
            while True:
                if ahead is None:
                    ahead = next(frames, None)
                if ahead is None or ahead[0] > index:
                    break
                position, shown = ahead
                ahead = None
                if position == index:
                    break
            yield self._convert(shown)

    def _from_start(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Numbers and frames from the beginning on."""
        self.media.rewind()
        yield from self._number(self.media.demux(self._stream()))

    def _stream(self) -> av.video.VideoStream:
        stream = self.media.picture
        if not stream.codec_context.is_open:
            stream.thread_type = "AUTO"
        return stream

    def _number(self, packets: Iterable[av.Packet]) -> Iterator[tuple[int, av.VideoFrame]]:
        count = 0
        for packet in packets:
            if self._wanted is not None and packet.size:
                self._stream().codec_context.skip_frame = "DEFAULT" if packet.pts in self._wanted else "NONREF"
            for frame in decode_packet(packet):
                index = count if self.times.stamps is None else _index_of(frame, self.times)
                if index >= 0:
                    yield index, frame
                    count += 1

    def _jump(self, index: int, position: int) -> Iterator[tuple[int, av.VideoFrame]] | None:
        """Frames from a key frame before the wanted one; None where decoding from the current position is as fast."""
        if not self.can_seek or index - position < SEEK_DISTANCE:
            return None
        key = int(np.searchsorted(self.key_stamps, self.times.stamps[index], side="right")) - 1
        if key < 0 or np.searchsorted(self.times.stamps, self.key_stamps[key]) <= position + 1:
            return None
        row = self.key_rows[key]
        for target in (self.table.pts[row], self.table.dts[row]):  # the demuxers of FFmpeg differ in what they seek
            found = self._seek(target, row=row, index=index)
            if found is not None:
                return found
        self.can_seek = False
        return self._from_start()

    def _seek(self, target: int, *, row: int, index: int) -> Iterator[tuple[int, av.VideoFrame]] | None:
        """Frames from a packet at or before the one of a row, and up to that of a frame; None if a seek fails."""
        try:
            self.media.container.seek(target, stream=self._stream(), backward=True)
            packets = self.media.demux(self._stream())
            packet = next(packets)
            frames = self._number(chain([packet], packets))
            if self.row_of.get(packet.pts, row + 1) <= row:
                number, frame = next(frames)
                if number <= index:
                    return chain([(number, frame)], frames)
        except (av.FFmpegError, MediaError, StopIteration):
            pass
        return None

    def _convert(self, frame: av.VideoFrame) -> np.ndarray:
        with naming_errors(self.media.name, "a picture that cannot be converted"):
            # of the first frame's size, if the stream changes it
            rgb = self.converter.reformat(frame, width=self.first.width, height=self.first.height, format="rgb24")
            return np.ascontiguousarray(Orientation.of(self.first).turn(rgb.to_ndarray()))
