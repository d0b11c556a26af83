"""Compose the features of a pseudo-untrimmed video from the cached features of its clips (`media="virtual"`).

Token k of n corresponds to the time (k + 1/2) / n of the duration. Each clip is divided into equal intervals, one per
row, and the row whose interval contains that time is used: the processor's alignment "centred" for files. If two clips
play at once, the visual row is that of the clip that began last, and the audio row is the mean over the clips with
sound (`time_line.py`). No file is read; a missing clip raises an error and is never replaced by zeros.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ..features.feature_store import FeatureStore
from .planning import Segment
from .time_line import check_spans, find_playing, list_pictures


RULES = ("even", "published")


def compose_features(
    segments: Sequence[Segment | Mapping],
    clip_features: FeatureStore | Mapping,
    *,
    num_video_tokens: int = 75,
    num_audio_tokens: int = 25,
    rule: str = "even",
    silence: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Build the visual and audio rows of a composed video.

    Args:
        segments (list of `Segment` or of dicts with `clip_id`, `start`, `end`, `scale`):
            The composition in seconds, by start. It has no gaps: a background is also a segment.
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
        silence (`np.ndarray` of shape `(audio_feature_size,)`, *optional*):
            The audio row of a silent clip among clips with sound (rule "even"). By default that of the store, if any.

    Returns:
        `tuple(np.ndarray, np.ndarray)`: `(num_video_tokens, vision_feature_size)` and `(num_audio_tokens,
        audio_feature_size)`, float32; the latter has 0 rows when no clip has sound.

    Raises:
        ValueError: an unknown rule, no segments, segments out of order, a moment at which no clip plays, clips without
            features (all are listed), clips without a visual row, or silence among clips with sound if no silence row
            is available.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {RULES}, got {rule!r}")
    spans = [read_span(segment) for segment in segments]
    times = check_spans([(span["start"], span["end"]) for span in spans])
    missing = missing_clips(segments, clip_features)
    if missing:
        raise ValueError(f"no features of {len(missing)} clip(s): {missing}")
    videos, audios = zip(*(read_features(clip_features, span["clip_id"]) for span in spans))
    empty = [span["clip_id"] for span, rows in zip(spans, videos) if not len(rows)]
    if empty:
        raise ValueError(f"clips without a visual row: {empty}")
    if rule == "published":
        return compose_published(spans, videos, audios, num_video_tokens, num_audio_tokens)
    video = show_rows(times, videos, num_video_tokens)  # [V, vision_feature_size]
    if not any(len(rows) for rows in audios):
        return video, np.zeros((0, audios[0].shape[1]), np.float32)
    return video, mix_rows(times, audios, num_audio_tokens, silence=find_silence(clip_features, silence))


def missing_clips(segments: Sequence[Segment | Mapping], clip_features: FeatureStore | Mapping) -> list[str]:
    """Ids of the segments' clips without features, unique and in order: the clips to drop or to extract."""
    ids = dict.fromkeys(read_span(segment)["clip_id"] for segment in segments)
    return [clip_id for clip_id in ids if clip_id not in clip_features]


def token_moments(times: list[tuple[float, float]], num_tokens: int) -> np.ndarray:
    """The centre of each token's interval, in seconds."""
    return (np.arange(num_tokens) + 0.5) / num_tokens * max(end for _, end in times)


def row_at(span: tuple[float, float], num_rows: int, moment: float) -> int:
    """Index of the row of a clip, with rows evenly spaced over its segment, at a moment of the composition."""
    return min(int((moment - span[0]) / (span[1] - span[0]) * num_rows), num_rows - 1)


def show_rows(times: list[tuple[float, float]], clips: Sequence[np.ndarray], num_tokens: int) -> np.ndarray:
    """The visual rows of a composition, `(num_tokens, feature_size)` float32.

    Raises:
        ValueError: a moment at which no clip plays, since the features of a black frame are not available.
    """
    pictures = list_pictures(times, max(end for _, end in times))
    dark = [(start, end) for start, end, index in pictures if index is None]
    if dark:
        raise ValueError(
            f"no clip plays from {dark[0][0]} to {dark[0][1]} s: gaps of virtual videos need background clips"
        )
    starts = np.array([start for start, _, _ in pictures])
    moments = token_moments(times, num_tokens)
    shown = [pictures[index][2] for index in np.searchsorted(starts, moments, side="right") - 1]
    rows = [clips[index][row_at(times[index], len(clips[index]), moment)] for index, moment in zip(shown, moments)]
    return np.stack(rows).astype(np.float32) if rows else np.zeros((0, clips[0].shape[1]), np.float32)


def mix_rows(
    times: list[tuple[float, float]], clips: Sequence[np.ndarray], num_tokens: int, *, silence: np.ndarray | None
) -> np.ndarray:
    """The audio rows of a composition, `(num_tokens, feature_size)` float32: means over the clips with sound."""
    mixed = []
    for moment in token_moments(times, num_tokens):
        playing = [index for index in find_playing(times, moment) if len(clips[index])]
        if not playing and silence is None:
            raise ValueError(f"only silent clips at {moment:.2f} s, and no row of silence is known: pass `silence`")
        rows = [clips[index][row_at(times[index], len(clips[index]), moment)] for index in playing] or [silence]
        mixed.append(np.mean(rows, axis=0, dtype=np.float32))
    return np.stack(mixed) if mixed else np.zeros((0, clips[0].shape[1]), np.float32)


def compose_published(
    spans: list[Mapping],
    videos: Sequence[np.ndarray],
    audios: Sequence[np.ndarray],
    num_video_tokens: int,
    num_audio_tokens: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The published composition: `int(10 * scale)` rows per clip, a zero tail, audio cut at the token budget."""
    picked = []
    for span, rows in zip(spans, videos):
        # int(scale * 10), as published; float32 rounding of a scale must not remove a row
        num_rows = int(round(float(span["scale"]), 6) * 10)
        picked.append(rows[truncated_linspace(len(rows), num_rows)])
    video = np.concatenate(picked).astype(np.float32)
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


def find_silence(clip_features: FeatureStore | Mapping, silence: np.ndarray | None) -> np.ndarray | None:
    """The given silence row, or that of the store, or None."""
    return silence if silence is not None or isinstance(clip_features, Mapping) else clip_features.silence()


def read_span(segment: Segment | Mapping) -> Mapping:
    """clip_id, start, end and scale of a `Segment` or of a row's dictionary."""
    if isinstance(segment, Mapping):
        return segment
    return {"clip_id": segment.clip_id, "start": segment.start, "end": segment.end, "scale": segment.scale}


def read_features(clip_features: FeatureStore | Mapping, clip_id: str) -> tuple[np.ndarray, np.ndarray]:
    """The (video, audio) rows of one clip of a store or a mapping."""
    if not isinstance(clip_features, Mapping):
        return clip_features.video(clip_id), clip_features.audio(clip_id)
    features = clip_features[clip_id]
    video, audio = (features["video"], features["audio"]) if isinstance(features, Mapping) else features
    return np.asarray(video), np.asarray(audio)
