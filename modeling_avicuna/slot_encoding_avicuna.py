"""From a filled slot to its tokens and the rows that they show; then rows to padded tensors.

Between media_slots (who belongs where) and processing (the public call): decides how many visual and audio tokens a medium
gets and in which order they stand. Decoding itself is done by video_processing and feature_extraction.
"""

import dataclasses
from typing import Any

import numpy as np
import torch

from .feature_extraction_avicuna import AVicunaFeatureExtractor, fit_waveform
from .interleaving_avicuna import ALIGNMENTS, interleave_order, num_modality_tokens, resample_rows
from .media_avicuna import load_audio, resample
from .media_slots_avicuna import OWN_SOUND, MediaSlot
from .prompt_avicuna import AUDIO_TOKEN, SLOT_PATTERN, VIDEO_TOKEN
from .video_processing_avicuna import AVicunaVideoProcessor, load_image


# The longest sound alone that is one token: a clip of the audio-text pairs of stage II.
SINGLE_TOKEN_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class SlotSettings:
    """How tokens are shared out (fields of `AVicunaProcessor`), and the rate in Hz of waveforms given as arrays."""

    num_av_tokens: int
    interleaving: str
    alignment: str
    sampling_rate: int


@dataclasses.dataclass
class EncodedSlot:
    """
    A slot after decoding.

    `order` has "video" or "audio" per token. `pictures` has one row per video token: frames `(V, 3, H, W)` or features
    `(V, D)`. `sounds` are windows `(M, frames, mels)`, of which audio token k shows row `sound_rows[k]`, or features
    `(A, D)`, one row per audio token.
    """

    order: list[str]
    pictures: torch.Tensor | None = None
    sounds: torch.Tensor | None = None
    sound_rows: list[int] = dataclasses.field(default_factory=list)


def encode_slot(
    slot: MediaSlot,
    *,
    audio_interleaving_rate: float,
    settings: SlotSettings,
    video_processor: AVicunaVideoProcessor,
    feature_extractor: AVicunaFeatureExtractor,
) -> EncodedSlot:
    """
    Decodes and resamples what fills a slot.

    An image is one visual token (stage I). A sound alone of at most `SINGLE_TOKEN_SECONDS` is one audio token (stage II),
    which shows its middle window where short windows give it several; a longer sound gets the whole budget. A video with sound shares the budget at the interleaving rate, a silent one spends it on pictures, so
    that position stays time. A video file's sound is cut or filled with silence to the length of its pictures.

    Raises:
        MediaError, ValueError: a medium that cannot be used, named.
    """
    if slot.kind == "image":
        return EncodedSlot(["video"], pictures=_image(slot, video_processor=video_processor))
    if slot.kind == "audio":
        sound = _sound(slot, rate=settings.sampling_rate, feature_extractor=feature_extractor)
        if sound is None:
            raise ValueError(f"an <audio> slot got something without sound: {_named(slot.sound)}")
        num_rows = len(sound) if slot.sound_is_features else len(feature_extractor.split_windows(len(sound)))
        is_single = num_rows <= _rows_of_single_token(feature_extractor)
        encoded, duration = EncodedSlot(["audio"] * (1 if is_single else settings.num_av_tokens)), None
    else:
        num_video, num_audio = num_modality_tokens(settings.num_av_tokens, audio_interleaving_rate)
        sound = _sound(slot, rate=settings.sampling_rate, feature_extractor=feature_extractor) if num_audio else None
        if sound is None:
            num_video, num_audio = settings.num_av_tokens, 0
        encoded, duration = EncodedSlot(interleave_order(num_video, num_audio, settings.interleaving)), None
        if num_video:
            encoded.pictures, duration = _frames(
                slot, num_frames=num_video, alignment=settings.alignment, video_processor=video_processor
            )
    if sound is not None:
        _add_sound(
            encoded, sound, duration=duration, feature_extractor=feature_extractor, alignment=settings.alignment
        )
    return encoded


def _rows_of_single_token(feature_extractor: AVicunaFeatureExtractor) -> int:
    """Most windows that a sound alone may have to be one token: one with the published windows."""
    num_samples = round(SINGLE_TOKEN_SECONDS * feature_extractor.sampling_rate)
    return len(feature_extractor.split_windows(num_samples))


def _add_sound(
    encoded: EncodedSlot,
    sound: np.ndarray | torch.Tensor,
    *,
    duration: float | None,
    feature_extractor: AVicunaFeatureExtractor,
    alignment: str,
):
    """Gives each audio token its row: of features `(M, D)`, or of the windows of a waveform, each analysed once."""
    num_tokens, (_, rule) = encoded.order.count("audio"), ALIGNMENTS[alignment]
    if sound.ndim == 2:
        encoded.sounds = sound[resample_rows(len(sound), num_tokens, rule)]
        return
    if duration is not None:
        sound = fit_waveform(sound, round(duration * feature_extractor.sampling_rate))
    shown = resample_rows(len(feature_extractor.split_windows(len(sound))), num_tokens, rule)
    window_ids = sorted(set(shown))
    encoded.sounds = feature_extractor.extract_windows(sound, window_ids=window_ids)
    encoded.sound_rows = [window_ids.index(number) for number in shown]


def _frames(
    slot: MediaSlot, *, num_frames: int, alignment: str, video_processor: AVicunaVideoProcessor
) -> tuple[torch.Tensor, float | None]:
    """Frames or features of a video, one row per token, and the duration in seconds where it is known."""
    if not slot.picture_is_features:
        return video_processor.load(slot.picture, num_frames=num_frames, alignment=alignment)
    rows = as_features(slot.picture, name="video_features")
    rule, _ = ALIGNMENTS[alignment]
    return rows[resample_rows(len(rows), num_frames, rule)], None


def _image(slot: MediaSlot, *, video_processor: AVicunaVideoProcessor) -> torch.Tensor:
    if slot.picture_is_features:
        rows = as_features(slot.picture, name="video_features")
        return rows[len(rows) // 2][None]
    if isinstance(slot.picture, (np.ndarray, torch.Tensor)):
        frames = slot.picture if slot.picture.ndim == 4 else slot.picture[None]
        return video_processor.load(frames[len(frames) // 2][None], num_frames=1)[0]
    return video_processor.load(load_image(slot.picture), num_frames=1)[0]


def _sound(slot: MediaSlot, *, rate: int, feature_extractor: AVicunaFeatureExtractor) -> Any:
    """Waveform `(num_samples,)` or features `(M, D)` of a slot; None where there is no sound."""
    if slot.sound is None:
        return None
    if slot.sound_is_features:
        rows = as_features(slot.sound, name="audio_features")
        return rows if len(rows) else None
    source, target_rate = slot.picture if slot.sound is OWN_SOUND else slot.sound, feature_extractor.sampling_rate
    if isinstance(source, (np.ndarray, torch.Tensor)):
        if slot.sound is OWN_SOUND or len(source) == 0:
            return None
        waveform = np.asarray(source, dtype=np.float32)
        if waveform.ndim != 1:
            raise ValueError(f"a waveform must be mono, of shape (num_samples,), got {waveform.shape}")
        return waveform if rate == target_rate else resample(waveform, rate, target_rate)
    return load_audio(source, sampling_rate=target_rate)


def _named(source: Any) -> str:
    return f"an array of shape {tuple(source.shape)}" if hasattr(source, "shape") else str(source)


def as_features(rows: np.ndarray | torch.Tensor, *, name: str) -> torch.Tensor:
    """Cached tower outputs as float32 `(num_rows, feature_size)`; a single row may come without its first dimension."""
    features = torch.as_tensor(rows).float()
    features = features[None] if features.ndim == 1 else features
    if features.ndim != 2:
        raise ValueError(f"{name} must have shape (num_rows, feature_size), got {tuple(features.shape)}")
    return features


def expand_slots(text: str, encoded: list[EncodedSlot]) -> tuple[str, list[tuple[int, int, int]]]:
    """The text with each slot replaced by its placeholder tokens; and `(start, end, new length)` of each slot."""
    pieces, expansions, position = [], [], 0
    for match, slot in zip(SLOT_PATTERN.finditer(text), encoded, strict=True):
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
    name = "video_features" if next(row for sample in rows for row in sample).ndim == 2 else "pixel_values_videos"
    return {name: _pad(rows), "video_lengths": torch.tensor([sum(map(len, sample)) for sample in rows])}


def pack_sounds(batch: list[list[EncodedSlot]]) -> dict[str, torch.Tensor]:
    """`input_features` and `audio_row_ids`, or `audio_features`, padded, and `audio_lengths`; empty without any sound."""
    rows = [[slot.sounds for slot in slots if slot.sounds is not None] for slots in batch]
    if not any(rows):
        return {}
    lengths = {"audio_lengths": torch.tensor([sum(map(len, sample)) for sample in rows])}
    if next(row for sample in rows for row in sample).ndim == 2:
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


def _pad(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    """Rows of each sample, one after the other, padded with zeros to the longest sample."""
    shape = next(row for sample in rows for row in sample).shape[1:]
    samples = [torch.cat(sample) if sample else torch.zeros(0, *shape) for sample in rows]
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
