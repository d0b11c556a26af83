"""Compose the features of a pseudo-untrimmed video from the cached features of its clips (`media="virtual"`).

Token k of n corresponds to the time (k + 1/2) / n of the duration. Each clip is divided into equal intervals, one per
row, and the row whose interval contains that time is used: the processor's alignment "centred" for files. If two clips
play at once, the visual row is that of the clip that began last, and the audio row is the mean over the clips with
sound (`time_line.py`). With `windows`, an audio token shows a window of the composed video instead, which can hold the
end of one sound and the beginning of the next. No file is read. A clip without features raises an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..features.feature_store import FeatureStore
from .planning import Segment
from .time_line import AUDIO, Span, find_playing, list_pictures, list_sounds, read_spans


COMPOSITION_RULES = ("even", "published")
NO_SILENCE = "no sound at {:.2f} s, and no row of silence is known: extract features again, or pass `silence`"
NO_DARKNESS = "no picture from {} to {} s, and no row of darkness is known: extract features again, or pass `darkness`"


def compose_features(
    segments: Sequence[Segment | Mapping],
    clip_features: FeatureStore | Mapping,
    *,
    num_video_tokens: int = 75,
    num_audio_tokens: int = 25,
    rule: str = "even",
    windows: tuple[float, float] | None = None,
    silence: np.ndarray | None = None,
    darkness: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Build the visual and audio rows of a composed video.

    Args:
        segments (list of `Segment` or of dicts with `clip_id`, `start`, `end`, `scale`):
            The composition in seconds, by start, optionally with `tracks` (`time_line.TRACKS`).
        clip_features (`FeatureStore` or mapping):
            Clip id -> `(video, audio)`, `video` of shape `(num_rows, vision_feature_size)` and `audio` of shape
            `(num_windows, audio_feature_size)`; a `{"video": ..., "audio": ...}` dictionary is accepted as well. A
            silent clip has no audio rows.
        num_video_tokens, num_audio_tokens (`int`, *optional*, default to 75 and 25):
            Number of rows of each stream (the best setting in the paper).
        rule (`str`, *optional*, defaults to `"even"`):
            `"even"`: token j of n shows the row of the clip that plays at (j + 1/2) / n of the duration.
            `"published"`: the published code, for ablation: `int(10 * scale)` rows per clip, concatenated. If there
            are fewer rows than tokens, the tail is zero, and visual position no longer corresponds to time.
        windows (`tuple(float, float)`, *optional*):
            Length and stride in seconds of the windows that the audio rows stand for (rule "even"). Token j then shows
            the window of the composed video that the processor's alignment "centred" shows for its file, as the mean
            of the clips' rows, weighted by how long each is heard in the window. None: each token shows one row.
        silence (`np.ndarray` of shape `(audio_feature_size,)`, *optional*):
            The audio row of a time without sound, if another time has sound (rule "even"). By default that of the
            store, if any.
        darkness (`np.ndarray` of shape `(vision_feature_size,)`, *optional*):
            The visual row of a time without a picture (rule "even"). By default that of the store, if any.

    Returns:
        `tuple(np.ndarray, np.ndarray)`: `(num_video_tokens, vision_feature_size)` and `(num_audio_tokens,
        audio_feature_size)`, float32; the latter has 0 rows when no clip has sound.

    Raises:
        ValueError: an unknown rule, no segments, segments out of order, clips without features (all are listed), clips
            without a visual row although there are visual tokens, or a time without sound or picture whose row is not
            known.
    """
    if rule not in COMPOSITION_RULES:
        raise ValueError(f"rule must be one of {COMPOSITION_RULES}, got {rule!r}")
    spans = [read_span(segment) for segment in segments]
    times = read_spans(spans)
    missing = missing_clips(segments, clip_features)
    if missing:
        raise ValueError(f"no features of {len(missing)} clip(s): {missing}")
    videos, audios = zip(*(read_features(clip_features, span["clip_id"]) for span in spans))
    empty = [span["clip_id"] for span, rows in zip(spans, videos) if not len(rows)]
    if empty and num_video_tokens:  # features of an audio-only checkpoint (interleaving rate 1) have no visual rows
        raise ValueError(f"clips without a visual row: {empty}")
    if rule == "published":
        return compose_published(spans, videos, audios, num_video_tokens, num_audio_tokens)
    if not isinstance(clip_features, Mapping):
        silence = clip_features.silence() if silence is None else silence
        darkness = clip_features.darkness() if darkness is None else darkness
    video = show_rows(times, videos, num_video_tokens, darkness=darkness)  # [V, vision_feature_size]
    if not any(len(rows) for rows in audios):
        return video, np.zeros((0, audios[0].shape[1]), np.float32)
    if windows is None:
        return video, mix_rows(times, audios, num_audio_tokens, silence=silence)
    scales = [float(span["scale"]) for span in spans]
    return video, mix_windows(times, audios, scales, num_audio_tokens, windows=windows, silence=silence)


def missing_clips(segments: Sequence[Segment | Mapping], clip_features: FeatureStore | Mapping) -> list[str]:
    """Ids of the segments' clips without features, unique and in order: the clips to drop or to extract."""
    ids = dict.fromkeys(read_span(segment)["clip_id"] for segment in segments)
    return [clip_id for clip_id in ids if clip_id not in clip_features]


def token_moments(times: list[Span], num_tokens: int) -> np.ndarray:
    """The centre of each token's interval, in seconds."""
    return (np.arange(num_tokens) + 0.5) / num_tokens * max(span.end for span in times)


def row_at(span: Span, num_rows: int, moment: float) -> int:
    """Index of the row of a clip, with rows evenly spaced over its segment, at a moment of the composition."""
    return min(int((moment - span.start) / (span.end - span.start) * num_rows), num_rows - 1)


def show_rows(
    times: list[Span], clips: Sequence[np.ndarray], num_tokens: int, *, darkness: np.ndarray | None
) -> np.ndarray:
    """The visual rows of a composition, `(num_tokens, feature_size)` float32; `darkness` is the row of a black
    frame."""
    if not num_tokens:
        return np.zeros((0, clips[0].shape[1]), np.float32)
    pictures = list_pictures(times, max(span.end for span in times))
    dark = [(start, end) for start, end, index in pictures if index is None]
    if dark and darkness is None:
        raise ValueError(NO_DARKNESS.format(*dark[0]))
    starts = np.array([start for start, _, _ in pictures])
    moments = token_moments(times, num_tokens)
    shown = [pictures[index][2] for index in np.searchsorted(starts, moments, side="right") - 1]
    rows: list[Any] = [
        darkness if index is None else clips[index][row_at(times[index], len(clips[index]), moment)]
        for index, moment in zip(shown, moments)
    ]
    return np.stack(rows).astype(np.float32)


def mix_rows(
    times: list[Span], clips: Sequence[np.ndarray], num_tokens: int, *, silence: np.ndarray | None
) -> np.ndarray:
    """The audio rows of a composition, `(num_tokens, feature_size)` float32: means over the clips with sound."""
    mixed = []
    for moment in token_moments(times, num_tokens):
        playing = [index for index in find_playing(times, moment, track=AUDIO) if len(clips[index])]
        if not playing and silence is None:
            raise ValueError(NO_SILENCE.format(moment))
        rows = [clips[index][row_at(times[index], len(clips[index]), moment)] for index in playing] or [silence]
        mixed.append(np.mean(rows, axis=0, dtype=np.float32))
    return np.stack(mixed) if mixed else np.zeros((0, clips[0].shape[1]), np.float32)


def mix_windows(
    times: list[Span],
    clips: Sequence[np.ndarray],
    scales: Sequence[float],
    num_tokens: int,
    *,
    windows: tuple[float, float],
    silence: np.ndarray | None,
) -> np.ndarray:
    """The audio rows of a composition, `(num_tokens, feature_size)` float32, each of one window of the composed video.

    A window is the mean of the rows of the sounds in it, weighted by their seconds. The row of a clip is the one whose
    window has its centre closest to the middle of the part that is heard.
    """
    from modeling_avicuna.feature_extraction_avicuna import split_windows
    from modeling_avicuna.interleaving_avicuna import resample_rows

    length, stride = windows
    spans = split_windows(
        round(1000 * max(span.end for span in times)),
        sampling_rate=1000,
        window_seconds=length,
        stride_seconds=stride,
    )
    shown = np.array(spans, np.float64)[resample_rows(len(spans), num_tokens, "centred")] / 1000  # [num_tokens, 2]
    sounds = list_sounds(times)
    heard = np.array([piece[:2] for piece in sounds]).reshape(-1, 2)  # [S, 2]
    first = np.maximum(shown[:, :1], heard[:, 0])  # [num_tokens, S]
    last = np.minimum(shown[:, 1:], heard[:, 1])
    weights = np.maximum(last - first, 0.0)
    mixed = np.zeros((num_tokens, max(rows.shape[1] for rows in clips)), np.float32)
    known = np.zeros(num_tokens)
    for column, (_, _, index) in enumerate(sounds):
        rows = clips[index]
        tokens = np.flatnonzero(weights[:, column])
        if not len(rows) or not len(tokens):
            continue
        middle = ((first + last)[tokens, column] / 2 - times[index].start) / scales[index]
        numbers = np.clip(np.rint((middle - length / 2) / stride).astype(np.int64), 0, len(rows) - 1)
        mixed[tokens] += weights[tokens, column, None] * rows[numbers]
        known[tokens] += weights[tokens, column]
    silent = known == 0
    if silent.any() and silence is None:
        raise ValueError(NO_SILENCE.format(shown[silent][0, 0]))
    if silent.any():
        mixed[silent] = silence
    mixed[~silent] /= known[~silent, None]
    return mixed


def compose_published(
    spans: list[Mapping],
    videos: Sequence[np.ndarray],
    audios: Sequence[np.ndarray],
    num_video_tokens: int,
    num_audio_tokens: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The published composition: `int(10 * scale)` rows per clip, a zero tail, audio cut at the token budget."""
    picked: list[np.ndarray] = []
    for span, rows in zip(spans, videos if num_video_tokens else ()):
        # int(scale * 10), as published; float32 rounding of a scale must not remove a row
        num_rows = int(round(float(span["scale"]), 6) * 10)
        picked.append(rows[truncated_linspace(len(rows), num_rows)])
    video = np.concatenate([videos[0][:0], *picked]).astype(np.float32)
    if len(video) >= num_video_tokens:
        video = video[np.arange(num_video_tokens) * len(video) // num_video_tokens]
    else:
        padding = np.zeros((num_video_tokens - len(video), video.shape[1]), np.float32)
        video = np.concatenate([video, padding])
    audio = np.concatenate(audios).astype(np.float32)
    if not len(audio):
        return video, audio
    share, rest = divmod(num_audio_tokens, len(audio))
    return video, np.repeat(audio, [share + (row < rest) for row in range(len(audio))], axis=0)


def truncated_linspace(num_rows: int, num_picked: int) -> np.ndarray:
    """Row indices equal to `torch.linspace(0, num_rows - 1, num_picked).long()`, including float32 truncation."""
    if num_picked <= 1:
        return np.zeros(num_picked, np.int64)
    end = np.float32(num_rows - 1)
    step = end / np.float32(num_picked - 1)
    index = np.arange(num_picked)
    forward = (step * index.astype(np.float32)).astype(np.float32)
    # torch computes the second half backwards from the end with a fused multiply-add: one rounding, not two
    backward = (np.float64(end) - np.float64(step) * (num_picked - 1 - index)).astype(np.float32)
    return np.where(index < num_picked // 2, forward, backward).astype(np.int64)


def read_span(segment: Segment | Mapping) -> Mapping:
    """The fields of a `Segment` or of a row's dictionary."""
    return segment if isinstance(segment, Mapping) else vars(segment)


def read_features(clip_features: FeatureStore | Mapping, clip_id: str) -> tuple[np.ndarray, np.ndarray]:
    """The (video, audio) rows of one clip of a store or a mapping."""
    if not isinstance(clip_features, Mapping):
        return clip_features.video(clip_id), clip_features.audio(clip_id)
    features = clip_features[clip_id]
    video, audio = (features["video"], features["audio"]) if isinstance(features, Mapping) else features
    return np.asarray(video), np.asarray(audio)
