"""From a slot and its medium to tokens: how many of each kind, in which order, and which row each one shows.

Between `media_slots_avicuna` (which medium fills which slot) and `processing_avicuna` (the public call). Decoding is
done by `media_avicuna` and the video processor, log-mel windows by the feature extractor.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from .feature_extraction_avicuna import AVicunaFeatureExtractor, as_waveform
from .interleaving_avicuna import ALIGNMENTS, interleave_order, num_modality_tokens, resample_rows
from .media_avicuna import MediaFile, Sound, resample
from .media_slots_avicuna import OWN_SOUND, MediaSlot
from .prompt_avicuna import AUDIO_TOKEN, SLOT_PATTERN, VIDEO_TOKEN
from .video_processing_avicuna import AVicunaVideoProcessor, read_video


# The longest sound alone that is one token: a clip of the audio-text pairs of stage II.
SINGLE_TOKEN_SECONDS = 10.0


@dataclasses.dataclass
class EncodedSlot:
    """
    A slot after decoding.

    Args:
        kind (`str`): "video", "audio" or "image".
        order (`list[str]`): "video" or "audio" per token.
        pictures (`torch.Tensor`, *optional*): one row per video token, frames `(V, 3, H, W)` or features `(V, D)`.
        sounds (`torch.Tensor`, *optional*): windows `(M, frames, mels)`, or features `(A, D)` with one row per audio
            token.
        sound_rows (`list[int]`): the window that each audio token shows; empty for features.
        start (`float`): where the part shown begins, in seconds of the file.
        duration (`float`, *optional*): seconds of the part shown; None for an image, cached features and frames
            without `fps`.
        metadata (`VideoMetadata`, *optional*): of a video that was decoded or given as frames.
    """

    kind: str
    order: list[str]
    pictures: torch.Tensor | None = None
    sounds: torch.Tensor | None = None
    sound_rows: list[int] = dataclasses.field(default_factory=list)
    start: float = 0.0
    duration: float | None = None
    metadata: VideoMetadata | None = None


@dataclasses.dataclass(frozen=True)
class WaveformSound:
    """Samples in memory, `(num_samples,)`, read as `media_avicuna.Sound` reads those of a file."""

    samples: np.ndarray

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    def read(self, spans: list[tuple[int, int]]) -> list[np.ndarray]:
        """Spans as arrays of shape `(1, last - first)`, silent beyond the end."""
        parts = [self.samples[first:last] for first, last in spans]
        return [np.pad(part, (0, last - first - len(part)))[None] for part, (first, last) in zip(parts, spans)]


@dataclasses.dataclass(frozen=True)
class SlotEncoder:
    """
    Decodes and resamples the medium of a slot. The fields are those of `AVicunaProcessor`, or a call's own.

    An image is one visual token (stage I). A sound alone of at most `SINGLE_TOKEN_SECONDS` is one audio token (stage
    II), which shows its middle window where short windows give it several; a longer sound gets the whole budget. A
    video with sound shares the budget at the interleaving rate. A silent one spends all of it on frames, so that
    position is still time. The sound of a video is cut, or padded with silence, to the length of its picture.
    """

    video_processor: AVicunaVideoProcessor
    feature_extractor: AVicunaFeatureExtractor
    num_av_tokens: int
    interleaving: str
    alignment: str

    def __post_init__(self):
        if self.num_av_tokens < 1:
            raise ValueError(f"num_av_tokens must be at least 1, got {self.num_av_tokens}")

    def encode(self, slot: MediaSlot, *, rate: float) -> EncodedSlot:
        """
        Args:
            rate (`float`): audio interleaving rate of a video with sound, 0 to 1.

        Raises:
            MediaError: a file that cannot be used; the message names it.
            ValueError: an array or a property that does not fit its slot.
        """
        slot.check()
        medium = slot.sound if slot.kind == "audio" else slot.picture
        if isinstance(medium, EncodedSlot):
            if medium.kind != slot.kind:
                raise ValueError(f"an <{slot.kind}> slot got a prepared medium of kind {medium.kind!r}")
            properties = (slot.start, slot.end, slot.fps, slot.sampling_rate)
            if any(value is not None for value in properties) or (
                slot.kind == "video" and slot.sound is not OWN_SOUND
            ):
                raise ValueError(
                    "a prepared medium is decoded already: give its part, rate and sound to prepare_media"
                )
            return medium
        if slot.kind == "image":
            return EncodedSlot("image", ["video"], pictures=self._image(slot))
        if slot.kind == "audio":
            return self._encode_sound(slot)
        return self._encode_video(slot, rate=rate)

    def _encode_sound(self, slot: MediaSlot) -> EncodedSlot:
        with _opened(slot.sound) as medium:
            sound = self._sound(slot, medium)
            if sound is None:
                raise ValueError(f"an <audio> slot got something without sound: {_named(slot.sound)}")
            if isinstance(sound, torch.Tensor):
                duration, num_rows = None, len(sound)
            else:
                duration = self._part_seconds(sound, slot)
                num_rows = self._count_windows(duration)
            is_single = num_rows <= self._count_windows(SINGLE_TOKEN_SECONDS)
            order = ["audio"] * (1 if is_single else self.num_av_tokens)
            encoded = EncodedSlot("audio", order, start=slot.start or 0.0, duration=duration)
            self._add_sound(encoded, sound)
        return encoded

    def _encode_video(self, slot: MediaSlot, *, rate: float) -> EncodedSlot:
        num_video, num_audio = num_modality_tokens(self.num_av_tokens, rate)
        other = None if slot.sound is OWN_SOUND else slot.sound
        with _opened(slot.picture) as picture, _opened(other) as other:
            sound = self._sound(slot, picture if slot.sound is OWN_SOUND else other) if num_audio else None
            if sound is None:
                num_video, num_audio = self.num_av_tokens, 0
            order = interleave_order(num_video, num_audio, self.interleaving)
            encoded = EncodedSlot("video", order, start=slot.start or 0.0)
            if slot.picture_is_features:
                rows = as_features(slot.picture, name="video_features")
                rule, _ = ALIGNMENTS[self.alignment]
                encoded.pictures = rows[resample_rows(len(rows), num_video, rule)] if num_video else None
            else:
                # a rate of 1 shows no frame, but the video is still as long as its picture
                frames, encoded.metadata = self._frames(slot, picture, num_frames=max(num_video, 1))
                encoded.pictures, encoded.duration = (frames if num_video else None), encoded.metadata.duration
            if sound is not None:
                self._add_sound(encoded, sound)
        return encoded

    def _frames(self, slot: MediaSlot, picture: Any, *, num_frames: int) -> tuple[torch.Tensor, VideoMetadata]:
        how: dict[str, Any] = {"num_frames": num_frames, "start": slot.start, "end": slot.end}
        how["alignment"] = self.alignment
        if isinstance(picture, MediaFile):
            # `video_processor.load` of a checkpoint's own code would not recognise this module's MediaFile
            return read_video(picture, **how, transform=self.video_processor.preprocess_frames)
        return self.video_processor.load(picture, **how, fps=slot.fps)

    def _add_sound(self, encoded: EncodedSlot, sound: torch.Tensor | Sound | WaveformSound) -> None:
        """
        Gives each audio token its row: of features `(M, D)`, or of the windows of the part, each analysed once.
        """
        num_tokens, (_, rule) = encoded.order.count("audio"), ALIGNMENTS[self.alignment]
        if isinstance(sound, torch.Tensor):
            encoded.sounds = sound[resample_rows(len(sound), num_tokens, rule)]
            return
        rate = self.feature_extractor.sampling_rate
        first = round(encoded.start * rate)
        seconds = encoded.duration
        windows = self.feature_extractor.split_windows(
            sound.num_samples - first if seconds is None else round(seconds * rate)
        )
        shown = resample_rows(len(windows), num_tokens, rule)
        numbers = sorted(set(shown))
        spans = [(first + windows[number][0], first + windows[number][1]) for number in numbers]
        encoded.sounds = self.feature_extractor.analyse_windows([samples[0] for samples in sound.read(spans)])
        encoded.sound_rows = [numbers.index(number) for number in shown]

    def _sound(self, slot: MediaSlot, medium: Any) -> torch.Tensor | Sound | WaveformSound | None:
        """
        The sound of a slot, by `medium`, its opened file or its array: features `(M, D)`, or samples at the feature
        extractor's rate; None where there is none.
        """
        if slot.sound is None:
            return None
        if slot.sound_is_features:
            rows = as_features(slot.sound, name="audio_features")
            return rows if len(rows) else None
        rate = self.feature_extractor.sampling_rate
        sound: Sound | WaveformSound
        if isinstance(medium, MediaFile):
            if medium.sound is None:
                return None
            sound = Sound(medium, sampling_rate=rate)
        elif slot.sound is OWN_SOUND:  # frames have none
            return None
        else:
            sound = WaveformSound(resample(as_waveform(medium), slot.sampling_rate or rate, rate))
        return sound if sound.num_samples else None

    def _count_windows(self, seconds: float) -> int:
        return len(self.feature_extractor.split_windows(round(seconds * self.feature_extractor.sampling_rate)))

    def _part_seconds(self, sound: Sound | WaveformSound, slot: MediaSlot) -> float:
        """Seconds of the part of a sound alone that a slot asks for."""
        whole = sound.num_samples / self.feature_extractor.sampling_rate
        start, end = slot.start or 0.0, whole if slot.end is None else min(slot.end, whole)
        if start >= end:
            raise ValueError(f"the part from {start} s is beyond the {whole:.3f} s of sound in {_named(slot.sound)}")
        return end - start

    def _image(self, slot: MediaSlot) -> torch.Tensor:
        """One row; of cached features, of a video and of an array of frames the one in the middle."""
        if slot.picture_is_features:
            rows = as_features(slot.picture, name="video_features")
            return rows[len(rows) // 2][None]
        return self.video_processor.load_image(slot.picture)


@contextmanager
def _opened(medium: Any) -> Iterator[Any]:
    """A file opened for the time of the block; arrays, lists of pictures and open files are yielded as they are."""
    if medium is None or isinstance(medium, (np.ndarray, torch.Tensor, list, tuple, MediaFile)):
        yield medium
    else:
        with MediaFile(medium) as media:
            yield media


def _named(source: Any) -> str:
    return f"an array of shape {tuple(source.shape)}" if hasattr(source, "shape") else f"{source!s:.200}"


def as_features(rows: np.ndarray | torch.Tensor, *, name: str) -> torch.Tensor:
    """
    Cached tower outputs as float32 `(num_rows, feature_size)`; a single row may come without its first dimension.
    """
    features = torch.as_tensor(rows).float()
    features = features[None] if features.ndim == 1 else features
    if features.ndim != 2:
        raise ValueError(f"{name} must have shape (num_rows, feature_size), got {tuple(features.shape)}")
    if not torch.isfinite(features).all():
        raise ValueError(f"{name} of shape {tuple(features.shape)} hold NaN or infinite values")
    return features


def expand_slots(text: str, encoded: list[EncodedSlot]) -> tuple[str, list[tuple[int, int, int]]]:
    """The text with each slot replaced by its placeholder tokens; and `(start, end, new length)` of each slot."""
    matches = list(SLOT_PATTERN.finditer(text))
    if len(matches) != len(encoded):
        raise ValueError(f"the text has {len(matches)} slots for {len(encoded)} media: {text[:200]!r}")
    pieces, expansions, position = [], [], 0
    for match, slot in zip(matches, encoded):
        tokens = "".join(VIDEO_TOKEN if modality == "video" else AUDIO_TOKEN for modality in slot.order)
        pieces += [text[position : match.start()], tokens]
        expansions.append((match.start(), match.end(), len(tokens)))
        position = match.end()
    return "".join([*pieces, text[position:]]), expansions


def pack_pictures(batch: list[list[EncodedSlot]]) -> dict[str, torch.Tensor]:
    """`pixel_values_videos` or `video_features`, padded, and `video_lengths`; empty where no text has pictures."""
    rows = [[slot.pictures for slot in slots if slot.pictures is not None] for slots in batch]
    if not any(rows):
        return {}
    name = "video_features" if _num_dims(rows) == 2 else "pixel_values_videos"
    return {name: _pad(rows), "video_lengths": torch.tensor([sum(map(len, sample)) for sample in rows])}


def pack_sounds(batch: list[list[EncodedSlot]]) -> dict[str, torch.Tensor]:
    """
    `input_features` and `audio_row_ids`, or `audio_features`, padded, and `audio_lengths`; empty without any sound.
    """
    rows = [[slot.sounds for slot in slots if slot.sounds is not None] for slots in batch]
    if not any(rows):
        return {}
    lengths = {"audio_lengths": torch.tensor([sum(map(len, sample)) for sample in rows])}
    if _num_dims(rows) == 2:
        return {"audio_features": _pad(rows), **lengths}
    row_ids = []
    for slots in batch:
        offset, ids = 0, []
        for slot in slots:
            ids += [offset + row for row in slot.sound_rows]
            offset += 0 if slot.sounds is None else len(slot.sounds)
        row_ids.append(torch.tensor(ids, dtype=torch.long))
    row_ids = torch.nn.utils.rnn.pad_sequence(row_ids, batch_first=True, padding_value=-1)
    return {"input_features": _pad(rows), "audio_row_ids": row_ids, **lengths}


def _num_dims(rows: list[list[torch.Tensor]]) -> int:
    """Dimensions of each slot's rows: 2 for cached features, more for what a tower takes."""
    dims = {row.ndim for sample in rows for row in sample}
    if len(dims) > 1:
        raise ValueError("a batch holds either media or cached features of one modality, got both")
    return dims.pop()


def _pad(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    """Rows of each sample, one after the other, padded with zeros to the longest sample."""
    shape = next(row for sample in rows for row in sample).shape[1:]
    samples = [torch.cat(sample) if sample else torch.zeros(0, *shape) for sample in rows]
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
