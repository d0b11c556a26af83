"""The index of a media file: the times of its packets and frames, from one pass over the file.

The indexes of the local files that were read last are remembered, so that a further question about one of them, or
about another part of it, does not read the whole file again.
"""

from __future__ import annotations

import io
import os
import stat
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np


try:
    import av
except ImportError:
    av = None


PICTURE_TOLERANCE = 10.0  # s; a time stamp further than that after the following ones is damaged
LOOK_AHEAD = 16  # packets; the largest distance between decoding order and presentation order
MISSING = -(2**63)  # a packet without this time stamp
NUM_REMEMBERED = 4  # files; an index has 26 bytes per packet, 7 MB for an hour at 25 fps with AAC sound
SETTLED_SECONDS = 2.0  # a file that was changed later than that ago could change again without a new time of change


@dataclass
class PacketTable:
    """Times of a stream's packets in file order, in units of `time_base` (s); `MISSING` where not given."""

    time_base: Fraction
    pts: array = field(default_factory=lambda: array("q"))
    dts: array = field(default_factory=lambda: array("q"))
    durations: array = field(default_factory=lambda: array("q"))
    is_key: array = field(default_factory=lambda: array("b"))
    is_hidden: array = field(default_factory=lambda: array("b"))  # outside of the edit list: decoded, never shown

    def append(self, packet: av.Packet) -> None:
        self.pts.append(MISSING if packet.pts is None else packet.pts)
        self.dts.append(MISSING if packet.dts is None else packet.dts)
        self.durations.append(packet.duration or 0)
        self.is_key.append(packet.is_keyframe)
        self.is_hidden.append(packet.is_discard)

    def __len__(self) -> int:
        return len(self.pts)

    def damaged_stamps(self, tolerance: float) -> frozenset[int]:
        """
        Presentation times that are damaged: more than `tolerance` seconds after those of the following packets, or at
        the end of the file and more than a minute after all others. One of them could add hours of silence.
        """
        stamps = np.array([stamp for stamp in self.pts if stamp != MISSING], dtype=np.int64)
        lowest = np.full(len(stamps), np.iinfo(np.int64).max)
        for ahead in range(1, min(LOOK_AHEAD, len(stamps) - 1) + 1):
            lowest[:-ahead] = np.minimum(lowest[:-ahead], stamps[ahead:])
        is_damaged = stamps - tolerance / float(self.time_base) > lowest
        if len(stamps) > LOOK_AHEAD:
            highest = stamps[:-LOOK_AHEAD][~is_damaged[:-LOOK_AHEAD]].max(initial=stamps.min())
            is_damaged[-LOOK_AHEAD:] |= stamps[-LOOK_AHEAD:] - highest > 60 / float(self.time_base)
        return frozenset(stamps[is_damaged].tolist())


@dataclass(frozen=True)
class FrameTimes:
    """
    When the frames of a picture are shown.

    `begins` and `ends` are seconds from the beginning of the picture, of shape `(num_frames,)`, strictly increasing.
    `stamps` are the frames' presentation times in the stream's time base, by which decoded frames are recognised; None
    where the file has no usable ones and frames are recognised by their number. `zero` is the first frame's time on
    the file's own clock, in seconds.
    """

    begins: np.ndarray
    ends: np.ndarray
    stamps: Any
    zero: float

    @property
    def duration(self) -> float:
        return float(self.ends[-1])


def list_frame_times(table: PacketTable, *, first: int | None, fps: float, is_counted: bool) -> FrameTimes:
    """
    The times of a picture's frames from the times of its packets.

    Args:
        table: of the picture's stream.
        first: presentation time of the first frame that can be decoded; packets before it show nothing.
        fps: used for the length of a last frame that states none, and where packets carry no times at all.
        is_counted: presentation times cannot be relied on (AVI stores none); decoding times, in order, replace them.
    """
    time_base = table.time_base
    first_key = next((row for row in range(len(table)) if table.is_key[row]), 0)
    damaged = table.damaged_stamps(PICTURE_TOLERANCE)
    shown = [row for row in range(first_key, len(table)) if not table.is_hidden[row] and table.pts[row] not in damaged]
    length_of = dict(zip(table.pts, table.durations))
    stamps, length = None, 0
    if not is_counted:
        begins = stamps = np.unique(np.array([table.pts[row] for row in shown if table.pts[row] >= first], np.int64))
        length = length_of[int(stamps[-1])]
    else:
        begins = np.array([table.dts[row] for row in shown], dtype=np.int64)
        if (begins == MISSING).any() or (np.diff(begins) <= 0).any():
            begins, time_base = np.arange(len(shown)), 1 / Fraction(fps).limit_denominator(1001)
    if not length:
        length = int(begins[-1] - begins[-2]) if len(begins) > 1 else max(1, round(1 / fps / time_base))
    edges = (np.append(begins, begins[-1] + length) - begins[0]) * time_base.numerator / time_base.denominator
    return FrameTimes(edges[:-1], edges[1:], stamps, zero=0.0 if first is None else float(first * table.time_base))


@dataclass
class MediaIndex:
    """
    Args:
        packets: those of picture and sound, by stream index.
        first_frame: of the picture; None if there is none.
        times: of the picture's frames, once they were asked for.
    """

    packets: dict[int, PacketTable]
    first_frame: av.VideoFrame | None
    times: FrameTimes | None = None


_remembered: dict[tuple[int, ...], MediaIndex] = {}  # the last one was used last


def recall_index(file: Any, scan: Callable[[], MediaIndex]) -> MediaIndex:
    """The index of an open file: the remembered one, or what `scan` returns."""
    version = _file_version(file)
    if version is None:
        return scan()
    index = _remembered.pop(version, None) or scan()
    _remembered[version] = index
    for oldest in list(_remembered)[:-NUM_REMEMBERED]:
        _remembered.pop(oldest, None)
    return index


def _file_version(file: Any) -> tuple[int, ...] | None:
    """Identifies the content of a local file; None for other objects and for a file that was changed just now."""
    # what another object shows, even one with a file number, need not be the content of that file
    if type(file) is not io.BufferedReader or type(file.raw) is not io.FileIO:
        return None
    status = os.fstat(file.fileno())
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    if not stat.S_ISREG(status.st_mode) or time.time_ns() - changed < SETTLED_SECONDS * 1e9:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
