"""Decodes the sound of a media file on the time axis of its picture: all of it, or the spans that are asked for.

Gaps in the sound are silent and nothing moves in time. How sound is cut into windows is decided in feature_extraction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import chain

import numpy as np
import torch

from .media_file_avicuna import MediaFile
from .media_index_avicuna import MISSING
from .media_source_avicuna import Media, MediaError


try:
    import av
except ImportError:
    av = None
try:
    import torchaudio
except ImportError:
    torchaudio = None


LAYOUTS = {1: "mono", 2: "stereo"}
GAP_SECONDS = 0.05  # time stamps jitter by less than that; a longer pause is silence
LONGEST_GAP_SECONDS = 3600.0  # filled with silence; a longer gap is a damaged time stamp (our choice)
PREROLL_SECONDS = 1.0  # decoded before a span and dropped: decoders have a state (MP3, Opus, AAC with SBR)
MARGIN_SECONDS = 0.1  # decoded around a span for the filter that resamples it
JUMP_SECONDS = 5.0  # a nearer span is reached without a seek
# torchaudio keeps one filter per output phase. Nearly coprime rates have many phases and go through FFmpeg's
# resampler.
MAX_PHASES = 1000
Block = tuple[int, int, np.ndarray]  # number of its first sample, rate in Hz, samples
# From this many separate channels on, PyAV reads past the end of a frame's list of them and may crash.
MAX_PLANES = 8


def load_audio(
    source: Media, *, sampling_rate: int = 48_000, start: float | None = None, end: float | None = None
) -> np.ndarray | None:
    """
    The sound of a media file, or of a part of it, as one mono waveform on the time axis of the picture.

    Channels are averaged. A sound that starts after the picture is preceded by silence, one that starts before it is
    cut, and gaps and damaged packets are silent, so that position is time.

    Args:
        source (`str`, `os.PathLike`, `bytes` or binary file): see `open_media`.
        sampling_rate (`int`): of the result, in Hz.
        start, end (`float`, *optional*): part of the file, in seconds from the beginning of the picture.

    Returns:
        `np.ndarray` of shape `(num_samples,)`, float32, nominally in -1 ... 1; `None` where the file has no sound
        stream or no sound in it.

    Raises:
        MediaError: the file cannot be opened, or none of its sound can be decoded.
    """
    samples = decode_audio(source, sampling_rate=sampling_rate, num_channels=1, start=start, end=end)
    return samples[0] if samples is not None and samples.shape[1] else None


def decode_audio(
    source: Media, *, sampling_rate: int, num_channels: int = 2, start: float | None = None, end: float | None = None
) -> np.ndarray | None:
    """
    The sound of a media file, or of a part of it, mixed to 1 or 2 channels, on the time axis of the picture.

    Args:
        sampling_rate (`int`): of the result, in Hz.
        num_channels (`int`): 1 (the mean of all channels) or 2 (mono goes to both at full level, more than two are
            mixed by FFmpeg's own matrix).
        start, end (`float`, *optional*): part of the file, in seconds from the beginning of the picture.

    Returns:
        `np.ndarray` of shape `(num_channels, num_samples)`, float32; None where the file has no sound stream, or no
        sound in the part.

    Raises:
        MediaError: the file cannot be opened, or none of its sound can be decoded.
    """
    with MediaFile(source) as media:
        if media.sound is None:
            return None
        sound = Sound(media, sampling_rate=sampling_rate, num_channels=num_channels)
        return sound.read_all() if start is None and end is None else sound.read_part(start, end)


class Sound:
    """
    The sound of a media file at one rate and number of channels. Reading a span decodes that span, by seeking.

    Args:
        media: a file with a sound stream, which stays open while this is used.
        sampling_rate (`int`): of what is read, in Hz.
        num_channels (`int`): 1 (the mean of all channels) or 2.
    """

    def __init__(self, media: MediaFile, *, sampling_rate: int, num_channels: int = 1):
        if torchaudio is None:
            raise ImportError("reading sound needs torchaudio: pip install torchaudio")
        if num_channels not in LAYOUTS:
            raise ValueError(f"num_channels must be 1 or 2, got {num_channels}")
        self.media, self.sampling_rate, self.num_channels = media, sampling_rate, num_channels
        self.table = media.packets[media.sound.index]
        self.zero, self.time_base = media.zero, float(media.sound.time_base)

    @cached_property
    def num_samples(self) -> int:
        """Samples from the beginning of the picture to the end of the sound; 0 where none can be heard."""
        start = 0.0
        if self._has_usable_stamps:
            start = max(0.0, math.floor(self._seconds(self.table.pts[-1]) - PREROLL_SECONDS))
        return self._count_samples(start) or self._count_samples(0.0)

    def _count_samples(self, start: float) -> int:
        ends = (
            Fraction((at + samples.shape[1]) * self.sampling_rate, rate) for at, rate, samples in self._blocks(start)
        )
        return max(0, math.ceil(max(ends, default=0)))

    def read_all(self) -> np.ndarray:
        """All samples, `(num_channels, num_samples)`."""
        pieces = self._join(self._blocks(0.0), 0.0)
        if len(pieces) == 1 and pieces[0][0] == 0:
            return pieces[0][1]
        return self._cut(pieces, 0, max((first + piece.shape[1] for first, piece in pieces), default=0))

    def read_part(self, start: float | None, end: float | None) -> np.ndarray | None:
        """The samples from `start` to `end` seconds, `(num_channels, num_samples)`; None if the sound ends before."""
        first = round((start or 0.0) * self.sampling_rate)
        last = self.num_samples if end is None else min(round(end * self.sampling_rate), self.num_samples)
        return self.read([(first, last)])[0] if first < last else None

    def read(self, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """
        Spans of samples, each `(first, last)` at `sampling_rate`, in rising order; long gaps are not decoded.

        The samples are those of `read_all`, with two exceptions. AAC and AC-3 decoders add noise from a generator
        whose state depends on what they decoded before: its level is the same, its samples are not. After a change of
        the sampling rate inside a stream the samples can be shifted by less than one packet.

        Returns:
            arrays of shape `(num_channels, last - first)`; silent where there is no sound.
        """
        groups: list[list[tuple[int, int]]] = []  # spans that are decoded together
        end = -math.inf
        for first, last in spans:
            if first > end + JUMP_SECONDS * self.sampling_rate:
                groups.append([])
            groups[-1].append((first, last))
            end = max(end, last)
        results: list[np.ndarray] = []
        for group, (start, blocks) in zip(groups, self._read_groups(groups)):
            pieces = self._join(blocks, start)
            results += [self._cut(pieces, first, last) for first, last in group]
        return results

    def _read_groups(self, groups: list[list[tuple[int, int]]]) -> Iterator[tuple[float, Iterable[Block]]]:
        """For each group the second from which it is read, and its blocks."""
        parts = []
        for group in groups:
            # from a whole second on: there the samples of every rate lie at the same times
            start = max(0.0, math.floor(group[0][0] / self.sampling_rate - MARGIN_SECONDS))
            parts.append((start, max(last for _, last in group) / self.sampling_rate + MARGIN_SECONDS))
        if self._has_usable_stamps:
            yield from ((start, self._blocks(start, end)) for start, end in parts)
            return
        blocks: list[list[Block]] = [[] for _ in parts]  # without a seek: all groups in one pass over the file
        for at, rate, samples in self._blocks(0.0, max((end for _, end in parts), default=0.0)):
            for found, (start, end) in zip(blocks, parts):
                if at <= end * rate and at + samples.shape[1] >= start * rate:
                    found.append((at, rate, samples))
        yield from ((start, found) for found, (start, _) in zip(blocks, parts))

    def _cut(self, pieces: list[tuple[int, np.ndarray]], first: int, last: int) -> np.ndarray:
        """A span of samples out of pieces that begin at the given samples."""
        result = np.zeros((self.num_channels, last - first), dtype=np.float32)
        for begin, piece in pieces:
            skipped, begin = max(0, first - begin), max(0, begin - first)
            piece = piece[:, skipped : skipped + max(0, last - first - begin)]
            result[:, begin : begin + piece.shape[1]] = piece
        return result

    def _blocks(self, start: float, end: float = math.inf) -> Iterator[Block]:
        """The decoded sound in blocks, each with the number of its first sample, counted at its rate from time 0."""
        rate = following = 0
        for first, block_rate, samples in self._decode(start, end):
            if block_rate != rate:
                if rate:
                    following = math.ceil(following / rate * block_rate)
                    following = following if first is None else max(first, following)
                else:
                    following = round(start * block_rate) if first is None else first
                rate = block_rate
            elif first is not None and first - following > GAP_SECONDS * rate:
                following = first
            yield following, rate, samples
            following += samples.shape[1]

    def _join(self, blocks: Iterable[Block], start: float) -> list[tuple[int, np.ndarray]]:
        """
        The resampled sound from a whole second on, with the number of its first sample: one piece per original rate,
        so nearly always a single one. Gaps are filled with silence, and what comes before `start` is cut.
        """
        pieces: list[tuple[int, np.ndarray]] = []
        parts: list[np.ndarray] = []  # of the piece that begins at sample `begin` and has reached `position`
        rate = begin = position = 0
        for at, block_rate, samples in blocks:
            if block_rate != rate:
                if parts:
                    pieces.append(self._finish(parts, begin, rate))
                begin = position = math.ceil(position / rate * block_rate) if parts else round(start * block_rate)
                parts, rate = [], block_rate
            end = at + samples.shape[1]
            if at > position:
                if at - position > LONGEST_GAP_SECONDS * rate:
                    gap = (at - position) / rate
                    raise MediaError(self.media.name, "damaged time stamps", f"a gap of {gap:.0f} s in the sound")
                samples = np.pad(samples, ((0, 0), (at - position, 0)))
            else:  # what lies before the start
                samples = samples[:, position - at :]
            if samples.shape[1]:
                parts.append(samples)
                position = end
        if parts:
            pieces.append(self._finish(parts, begin, rate))
        return pieces

    def _finish(self, parts: list[np.ndarray], begin: int, rate: int) -> tuple[int, np.ndarray]:
        second, rest = divmod(begin, rate)
        if rest:
            parts = [np.zeros((self.num_channels, rest), np.float32), *parts]
        lead = round(rest / rate * self.sampling_rate)
        samples = np.concatenate(parts, axis=1)
        if not np.isfinite(samples).all():  # floating-point samples of a damaged file: silent, as other damaged parts
            samples = np.where(np.isfinite(samples), samples, np.float32(0))
        samples = resample(samples, rate, self.sampling_rate)
        return second * self.sampling_rate + lead, samples[:, lead:]

    def _decode(self, start: float, end: float) -> Iterator[tuple[int | None, int, np.ndarray]]:
        """Decoded samples from a little before `start` to `end`: number of the first one, rate in Hz, and samples."""
        packets, is_aligned = self._packets_from(start)
        failure, num_blocks = None, 0
        for packet in packets:
            try:
                frames = packet.decode()
            except av.FFmpegError as error:  # damaged: silent
                failure = error
                continue
            for frame in frames:
                rate, first = frame.sample_rate, None
                if frame.pts is not None and frame.pts not in self._damaged_stamps:
                    exact = (frame.pts * float(frame.time_base) - self.zero) * rate
                    first = round(exact) if num_blocks or is_aligned else self._align(exact, frame)
                    if first > end * rate:
                        return
                num_blocks += 1
                yield first, rate, _to_channels(frame, self.num_channels)
        if failure is not None and num_blocks == 0 and start == 0.0:
            raise MediaError(self.media.name, "unreadable audio stream", str(failure)) from failure

    def _packets_from(self, start: float) -> tuple[Iterable[av.Packet], bool]:
        """The packets from a little before `start` on, and whether they are those from the beginning of the file."""
        if start <= JUMP_SECONDS or not self._has_usable_stamps:
            self.media.rewind()
            return self.media.demux(self.media.sound), True
        start -= PREROLL_SECONDS
        self._first_end  # noqa: B018  computed now, because it moves through the file
        try:
            target = math.floor((start + self.zero) / self.time_base)
            self.media.container.seek(target, stream=self.media.sound, backward=True)
            packets: Iterator[av.Packet] = self.media.demux(self.media.sound)
            packet = next(packets)
            # uncompressed samples need nothing that came before them: after a seek they are cut into other packets
            is_known = packet.pts in self._stamps or self.media.sound.codec_context.name.startswith("pcm_")
            if is_known and (self._seconds(packet.pts) <= start or packet.pts == self.table.pts[0]):
                return self._late(chain([packet], packets), start), False
        except (av.FFmpegError, MediaError, StopIteration):
            pass
        self.media.rewind()
        return self._late(self.media.demux(self.media.sound), start), False

    def _late(self, packets: Iterable[av.Packet], start: float) -> Iterator[av.Packet]:
        """Without the packets that end before `start`."""
        for packet in packets:
            if packet.pts is None or self._seconds(packet.pts + (packet.duration or 0)) >= start:
                yield packet

    def _seconds(self, stamp: int) -> float:
        return stamp * self.time_base - self.zero

    @cached_property
    def _stamps(self) -> frozenset[int]:
        return frozenset(self.table.pts)

    @cached_property
    def _damaged_stamps(self) -> frozenset[int]:
        return self.table.damaged_stamps(GAP_SECONDS)

    @cached_property
    def _has_usable_stamps(self) -> bool:
        stamps = np.array(self.table.pts)
        return (
            len(stamps) > 0
            and not self._damaged_stamps
            and not (stamps == MISSING).any()
            and bool((np.diff(stamps) > 0).all())
        )

    @cached_property
    def _first_end(self) -> tuple[int, int]:
        """Rate, and number of the sample after the first block of the file."""
        first, rate, samples = next(self._decode(0.0, math.inf), (0, 1, np.zeros((1, 0))))
        return rate, (first or 0) + samples.shape[1]

    def _align(self, exact: float, frame: av.AudioFrame) -> int:
        """
        The number of a block's first sample where reading begins inside a file. Time stamps are rounded (to 1 ms in
        Matroska), but blocks of equal length follow the first one at whole multiples of their length.
        """
        rate, origin = self._first_end
        aligned = origin + round((exact - origin) / frame.samples) * frame.samples
        is_near = rate == frame.sample_rate and abs(aligned - exact) <= self.time_base * rate + 1
        return aligned if is_near else round(exact)


def _to_channels(frame: av.AudioFrame, num_channels: int) -> np.ndarray:
    """A block of any format and layout as float32 of shape `(num_channels, num_samples)`."""
    num_given = frame.layout.nb_channels
    if num_given > 2 and (num_channels == 2 or num_given >= MAX_PLANES):
        layout = "stereo" if num_channels == 2 else None
        resampler = av.AudioResampler(format="flt", layout=layout, rate=frame.sample_rate)
        parts = [part.to_ndarray() for part in resampler.resample(frame)]
        samples = np.concatenate(parts, axis=1).reshape(-1, 2 if layout else num_given).T
    else:
        samples = frame.to_ndarray()
        if not frame.format.is_planar:
            samples = samples.reshape(-1, num_given).T
    samples = scale_samples(samples)
    if num_channels == 1:  # the mean, in a third of the time of np.mean
        return np.add.reduce(samples, axis=0, keepdims=True) / np.float32(len(samples))
    return np.repeat(samples, 2, axis=0) if len(samples) == 1 else samples


def scale_samples(samples: np.ndarray) -> np.ndarray:
    """
    Samples of any numeric type as float32: integers are divided by their range, so that full scale is -1 ... 1.

    Raises:
        ValueError: samples that are neither integers nor floats.
    """
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    if samples.dtype.kind not in "iu":
        raise ValueError(f"samples must be integers or floats, got {samples.dtype}")
    half = 2 ** (8 * samples.dtype.itemsize - 1)
    middle = half if samples.dtype.kind == "u" else 0  # unsigned samples lie around the middle of their range
    return ((samples.astype(np.float64) - middle) / half).astype(np.float32)


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """`(..., num_samples)` float32 at another rate, in Hz; of the result, sample k lies at k / to_rate seconds."""
    ratio = Fraction(to_rate, from_rate)
    if ratio == 1:
        return samples
    if max(ratio.numerator, ratio.denominator) <= MAX_PHASES:
        return _resampler(from_rate, to_rate)(torch.from_numpy(samples)).numpy()
    rows = [_resample_by_ffmpeg(row, from_rate, to_rate) for row in samples.reshape(-1, samples.shape[-1])]
    return np.stack(rows).reshape(*samples.shape[:-1], -1)


@lru_cache(maxsize=8)
def _resampler(from_rate: int, to_rate: int) -> torchaudio.transforms.Resample:
    """Keeps its filter, which takes longer to compute than a second of sound to resample."""
    return torchaudio.transforms.Resample(from_rate, to_rate)


def _resample_by_ffmpeg(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    resampler, parts = av.AudioResampler(format="fltp", layout="mono", rate=to_rate), []
    for begin in range(0, len(samples), from_rate):
        block = np.ascontiguousarray(samples[None, begin : begin + from_rate])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate = from_rate
        parts += resampler.resample(frame)
    parts += resampler.resample(None)
    num_samples = math.ceil(len(samples) * Fraction(to_rate, from_rate))
    joined = np.concatenate([part.to_ndarray()[0] for part in parts] or [samples[:0]])[:num_samples]
    return np.pad(joined, (0, num_samples - len(joined)))
