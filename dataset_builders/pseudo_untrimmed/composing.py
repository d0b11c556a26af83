"""Compose the features of a pseudo-untrimmed video from the cached features of its clips (`media="virtual"`).

Pure: rows in, rows out. Token k of n shows what the plan has at (k + 1/2) / n of the duration, and of a clip's rows the
one whose equal share of the clip holds that moment: the processor's alignment "centred" for files. It reads no files; a
missing clip is an error, never zeros.
"""

from collections.abc import Mapping

import numpy as np


RULES = ("even", "published")


def compose_features(
    segments,
    clip_features,
    *,
    num_video_tokens: int = 75,
    num_audio_tokens: int = 25,
    rule: str = "even",
    silence: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Build the visual and audio rows of a composed video.

    Args:
        segments (list of `Segment` or of dicts with `clip_id`, `start`, `end`, `scale`):
            The composition in seconds, contiguous from 0.
        clip_features (`FeatureStore` or mapping):
            Clip id -> `(video, audio)`, `video` of shape `(num_rows, vision_feature_size)` and `audio` of shape
            `(num_windows, audio_feature_size)`; a `{"video": ..., "audio": ...}` dictionary serves as well. No audio rows:
            a silent clip.
        num_video_tokens, num_audio_tokens (`int`, *optional*, default to 75 and 25):
            Rows wanted of each stream (the paper's best mixture).
        rule (`str`, *optional*, defaults to `"even"`):
            `"even"`: token j of n shows the row of the clip that plays at (j + 1/2) / n of the duration.
            `"published"`: the published code, for ablation: `int(10 * scale)` rows per clip, all concatenated; where they
            are fewer than the tokens the tail is zero, and visual position no longer is time.
        silence (`np.ndarray` of shape `(audio_feature_size,)`, *optional*):
            The audio row of a silent clip among sounding ones (rule "even"). Taken from the store where it has one.

    Returns:
        `tuple(np.ndarray, np.ndarray)`: `(num_video_tokens, vision_feature_size)` and `(num_audio_tokens,
        audio_feature_size)`, float32; the latter has 0 rows when no clip has sound.

    Raises:
        ValueError: an unknown rule, no segments, segments that do not follow one another, clips without features (all are
            named), clips without a visual row, or a silent clip among sounding ones when no silence row is known.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {RULES}, got {rule!r}")
    spans = [read_span(segment) for segment in segments]
    if not spans:
        raise ValueError("a composition needs at least one segment, got none")
    missing = missing_clips(segments, clip_features)
    if missing:
        raise ValueError(f"no features of {len(missing)} clip(s): {missing}")
    videos, audios = zip(*(read_features(clip_features, span["clip_id"]) for span in spans))
    empty = [span["clip_id"] for span, rows in zip(spans, videos) if not len(rows)]
    if empty:
        raise ValueError(f"clips without a visual row: {empty}")
    if rule == "published":
        return compose_published(spans, videos, audios, num_video_tokens, num_audio_tokens)

    times = [(span["start"], span["end"]) for span in spans]
    check_contiguous(times)
    video = spread_rows(times, videos, num_video_tokens)  # [V, vision_feature_size]
    if not any(len(rows) for rows in audios):
        return video, np.zeros((0, audios[0].shape[1]), np.float32)
    if not all(len(rows) for rows in audios):
        audios = fill_silence(spans, audios, clip_features, silence)
    return video, spread_rows(times, audios, num_audio_tokens)  # [A, audio_feature_size]


def missing_clips(segments, clip_features) -> list[str]:
    """Ids of the segments' clips that have no features, each once, in order: what to drop or to extract."""
    ids = dict.fromkeys(read_span(segment)["clip_id"] for segment in segments)
    return [clip_id for clip_id in ids if clip_id not in clip_features]


def pick_rows(times: list[tuple[float, float]], num_rows: list[int], num_tokens: int) -> list[tuple[int, int]]:
    """For each token, at the middle of its share of the duration, which clip plays there and which of its rows.

    Args:
        times (list of `(start, end)`):
            Seconds of the segments, contiguous from 0.
        num_rows (`list[int]`):
            Rows (or frames) of each segment's clip, evenly spread over the clip.
        num_tokens (`int`):
            Tokens to fill.

    ```python
    >>> pick_rows([(0.0, 5.0), (5.0, 10.0)], [1, 2], 4)
    [(0, 0), (0, 0), (1, 0), (1, 1)]

    ```
    """
    starts = np.array([start for start, _ in times])
    ends = np.array([end for _, end in times])
    counts = np.array(num_rows)
    moments = (np.arange(num_tokens) + 0.5) / num_tokens * ends[-1]
    clips = np.searchsorted(starts, moments, side="right") - 1  # [num_tokens]
    shares = (moments - starts[clips]) / (ends[clips] - starts[clips])
    rows = np.minimum((shares * counts[clips]).astype(np.int64), counts[clips] - 1)
    return list(zip(clips.tolist(), rows.tolist()))


def spread_rows(times: list[tuple[float, float]], clips, num_tokens: int) -> np.ndarray:
    """The rows that `pick_rows` names, `(num_tokens, feature_size)` float32."""
    picks = pick_rows(times, [len(rows) for rows in clips], num_tokens)
    rows = [clips[clip][row] for clip, row in picks]
    return np.stack(rows).astype(np.float32) if rows else np.zeros((0, clips[0].shape[1]), np.float32)


def compose_published(spans, videos, audios, num_video_tokens, num_audio_tokens):
    """The published assembly : rows by `int(10 * scale)`, a zero tail, audio cut at the budget."""
    picked = []
    for span, rows in zip(spans, videos):
        # int(scale * 10), as published; a scale read from float32 must not lose a row to its last bit
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
    """Row indices that `torch.linspace(0, num_rows - 1, num_picked).long()` gives, float32 truncation included."""
    if num_picked <= 1:
        return np.zeros(num_picked, np.int64)
    end = np.float32(num_rows - 1)
    step = end / np.float32(num_picked - 1)
    index = np.arange(num_picked)
    forward = (step * index.astype(np.float32)).astype(np.float32)
    # torch counts the second half down from the end, by a fused multiply-add: one rounding, not two
    backward = (np.float64(end) - np.float64(step) * (num_picked - 1 - index)).astype(np.float32)
    return np.where(index < num_picked // 2, forward, backward).astype(np.int64)


def fill_silence(spans, audios, clip_features, silence) -> list[np.ndarray]:
    """Give silent clips among sounding ones the row of silence."""
    if silence is None and not isinstance(clip_features, Mapping):
        silence = clip_features.silence()
    if silence is None:
        names = [span["clip_id"] for span, rows in zip(spans, audios) if not len(rows)]
        raise ValueError(
            f"silent clip(s) {names} among sounding ones, and no row for silence is known: pass `silence`"
        )
    return [rows if len(rows) else np.asarray(silence, np.float32)[None] for rows in audios]


def check_contiguous(times: list[tuple[float, float]]) -> None:
    """Raise unless the spans begin at 0 and each begins where the one before it ends (within float32 of hours)."""
    position = 0.0
    for start, end in times:
        if abs(start - position) > 1e-3 or end <= start:
            raise ValueError(f"segments must be contiguous from 0: ({start}, {end}) does not follow {position}")
        position = end


def read_span(segment) -> dict:
    """clip_id, start, end and scale of a `Segment` or of a row's dictionary."""
    if isinstance(segment, dict):
        return segment
    return {"clip_id": segment.clip_id, "start": segment.start, "end": segment.end, "scale": segment.scale}


def read_features(clip_features, clip_id: str) -> tuple[np.ndarray, np.ndarray]:
    """The (video, audio) rows of one clip of a store or a mapping."""
    if not isinstance(clip_features, Mapping):
        return clip_features.video(clip_id), clip_features.audio(clip_id)
    features = clip_features[clip_id]
    video, audio = (features["video"], features["audio"]) if isinstance(features, Mapping) else features
    return np.asarray(video), np.asarray(audio)
