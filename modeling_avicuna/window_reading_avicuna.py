"""Decodes a long file as overlapping windows in one pass from its beginning to its end.

Each window is an `EncodedSlot` with a full budget of tokens and its own sound, as `SlotEncoder.encode` makes it of a
part of the file. Only the windows that are not complete yet are in memory.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from .interleaving_avicuna import num_modality_tokens
from .media_avicuna import MediaFile, Sound
from .media_pictures_avicuna import CHUNK_SIZE, PyAVReader
from .media_slots_avicuna import OWN_SOUND, MediaSlot
from .media_sound_avicuna import MARGIN_SECONDS, Block
from .slot_encoding_avicuna import EncodedSlot, SlotEncoder, WaveformSound
from .video_processing_avicuna import describe_part, frame_indices
from .windows_avicuna import plan_windows


class SequentialFile(MediaFile):
    """
    A media file whose picture and sound are decoded in a single pass.

    After `begin`, packets are read once, in file order. A packet of the other stream than the one that is asked for is
    kept, still compressed, until it is asked for.
    """

    _queues: dict[int, deque] | None = None

    def begin(self, *, has_picture: bool, has_sound: bool) -> None:
        """From now on `demux` gives the packets of one stream in order, from the beginning of the file."""
        self.packets  # noqa: B018  read now: it takes a pass over the file
        self.rewind()
        streams = [self.picture] * has_picture + [self.sound] * has_sound
        self._queues = {stream.index: deque() for stream in streams}
        self._packets = super().demux(*streams)

    def rewind(self) -> None:
        if self._queues is None:
            super().rewind()

    def demux(self, *streams: Any) -> Iterator[Any]:
        if self._queues is None:
            yield from super().demux(*streams)
            return
        (stream,) = streams
        queue = self._queues[stream.index]
        while True:
            while not queue:
                packet = next(self._packets, None)
                if packet is None:
                    return
                self._queues[packet.stream.index].append(packet)
            yield queue.popleft()


class SequentialSound(Sound):
    """The sound of a `SequentialFile`. Spans are read in rising order; `forget` frees what no later span needs."""

    def __init__(self, media: SequentialFile, *, sampling_rate: int):
        super().__init__(media, sampling_rate=sampling_rate)
        self._kept: deque[Block] = deque()
        self._rest = super()._blocks(0.0)

    def forget(self, seconds: float) -> None:
        """Drops the samples that only spans before `seconds` need."""
        # a span is read from the whole second before its margin
        while self._kept and self._end_of(self._kept[0]) < seconds - MARGIN_SECONDS - 1:
            self._kept.popleft()

    def _blocks(self, start: float, end: float = math.inf) -> Iterator[Block]:
        for block in chain(tuple(self._kept), self._read_on()):
            if block[0] > end * block[1]:
                return
            if self._end_of(block) >= start:
                yield block

    def _read_on(self) -> Iterator[Block]:
        for block in self._rest:
            self._kept.append(block)
            yield block

    @staticmethod
    def _end_of(block: Block) -> float:
        first, rate, samples = block
        return (first + samples.shape[1]) / rate


class SequentialFrames:
    """
    The frames that the windows of a `SequentialFile` show, transformed; each one is decoded once.

    Args:
        windows: the numbers of the frames of each window, in the order in which the windows are read.
        transform: applied to chunks of frames, uint8 `(num, height, width, 3)`.
    """

    def __init__(
        self,
        media: SequentialFile,
        windows: Sequence[np.ndarray],
        *,
        transform: Callable[[np.ndarray], torch.Tensor],
    ):
        self._windows, self._transform = deque(windows), transform
        self._wanted = deque(np.unique(np.concatenate(windows)).tolist())
        reader = PyAVReader(media)
        reader.can_seek = False
        self._frames = reader.read(np.array(self._wanted))
        self._rows: dict[int, torch.Tensor] = {}

    def read_window(self) -> tuple[np.ndarray, torch.Tensor]:
        """Numbers of the next window's frames, and its transformed frames `(num_frames, ...)`."""
        indices = self._windows.popleft()
        while self._wanted and self._wanted[0] <= indices[-1]:
            numbers: list[int] = []
            while self._wanted and self._wanted[0] <= indices[-1] and len(numbers) < CHUNK_SIZE:
                numbers.append(self._wanted.popleft())
            rows = self._transform(np.stack([next(self._frames) for _ in numbers]))
            self._rows.update(zip(numbers, rows))
        shown = torch.stack([self._rows[number] for number in indices.tolist()])
        first = self._windows[0][0] if self._windows else math.inf
        self._rows = {number: row for number, row in self._rows.items() if number >= first}
        return indices, shown


@dataclass(frozen=True)
class _WindowEncoder(SlotEncoder):
    """Encodes the windows of opened files in order; see `encode_windows`."""

    frames: SequentialFrames | None = None
    sound: torch.Tensor | Sound | WaveformSound | None = None

    def _frames(self, slot: MediaSlot, picture: Any, *, num_frames: int) -> tuple[torch.Tensor, VideoMetadata]:
        assert self.frames is not None
        indices, shown = self.frames.read_window()
        times = np.stack([picture.times.begins, picture.times.ends], axis=1)
        return shown, describe_part(times, indices, start=slot.start, end=slot.end)

    def _sound(self, slot: MediaSlot, medium: Any) -> torch.Tensor | Sound | WaveformSound | None:
        if isinstance(self.sound, SequentialSound):
            self.sound.forget(slot.start or 0.0)
        return self.sound


def encode_windows(
    encoder: SlotEncoder, slot: MediaSlot, *, rate: float, window: float, overlap: float | None = None
) -> Iterator[EncodedSlot]:
    """
    The windows of a video or a sound, or of its part from `slot.start` to `slot.end`, one after the other.

    Args:
        rate (`float`): audio interleaving rate of windows with sound, 0 to 1.
        window, overlap (`float`): seconds; see `plan_windows`.

    Yields:
        `EncodedSlot`s, each as `encoder.encode` makes it of the same part; `start` and `duration` are in seconds of
        the file.

    Raises:
        MediaError: see `SlotEncoder.encode`.
        ValueError: see `plan_windows`; an image, cached features, or a medium that is decoded already.
    """
    slot.check()
    medium = slot.sound if slot.kind == "audio" else slot.picture
    if isinstance(medium, EncodedSlot) or not slot.can_have("start"):
        raise ValueError(f"windows are read from a video or a sound in a file or an array, not from this {slot.kind}")
    plan: dict[str, Any] = {"window": window, "overlap": overlap}
    plan_windows(window, **plan)  # refuses wrong numbers before a file is opened
    if _is_array(medium):
        whole = encoder.encode(slot, rate=rate)
        if whole.duration is None:
            raise ValueError("windows of frames need their fps")
        for start, end in plan_windows(whole.start + whole.duration, start=whole.start, **plan):
            yield encoder.encode(replace(slot, start=start, end=end), rate=rate)
        return
    with ExitStack() as stack:
        opened: dict[str, Any] = {
            name: stack.enter_context(SequentialFile(source))
            for name, source in (("picture", slot.picture), ("sound", slot.sound))
            if source is not None and source is not OWN_SOUND and not _is_array(source)
        }
        slot = replace(slot, **opened)
        windows, encoder = _begin(encoder, slot, rate=rate, plan=plan)
        for start, end in windows:
            yield encoder.encode(replace(slot, start=start, end=end), rate=rate)


def _begin(
    encoder: SlotEncoder, slot: MediaSlot, *, rate: float, plan: dict[str, Any]
) -> tuple[list[tuple[float, float]], _WindowEncoder]:
    """The windows of a slot with opened files, and the encoder that reads them; the files are at their beginning."""
    num_video, num_audio = num_modality_tokens(encoder.num_av_tokens, rate)
    heard = slot.picture if slot.sound is OWN_SOUND else slot.sound
    sound = encoder._sound(slot, heard) if num_audio or slot.kind == "audio" else None
    if slot.kind == "video":
        whole = slot.picture.duration
    elif sound is None:
        raise ValueError(f"an <audio> slot got something without sound: {heard.name}")
    else:
        whole = sound.num_samples / encoder.feature_extractor.sampling_rate
    windows = plan_windows(whole if slot.end is None else min(slot.end, whole), start=slot.start or 0.0, **plan)
    frames = None
    if slot.kind == "video":
        times = np.stack([slot.picture.times.begins, slot.picture.times.ends], axis=1)
        num_frames = encoder.num_av_tokens if sound is None else max(num_video, 1)
        indices = [
            frame_indices(times, num_frames, start=start, end=end, alignment=encoder.alignment)
            for start, end in windows
        ]
        has_own_sound = isinstance(sound, Sound) and heard is slot.picture
        slot.picture.begin(has_picture=True, has_sound=has_own_sound)
        frames = SequentialFrames(slot.picture, indices, transform=encoder.video_processor.preprocess_frames)
    if isinstance(sound, Sound):
        num_samples = sound.num_samples
        if heard is not slot.picture:
            heard.begin(has_picture=False, has_sound=True)
        sound = SequentialSound(heard, sampling_rate=encoder.feature_extractor.sampling_rate)
        sound.num_samples = num_samples  # of the whole file; counting them would need a seek
    settings = {field.name: getattr(encoder, field.name) for field in fields(SlotEncoder)}
    return windows, _WindowEncoder(**settings, frames=frames, sound=sound)


def _is_array(medium: Any) -> bool:
    return isinstance(medium, (np.ndarray, torch.Tensor, list, tuple))
