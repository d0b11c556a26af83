"""Move, remove or replace the sounds of the events of a planned video (options `shifted_sound_share`,
`muted_sound_share` and `swapped_sound_share`; our choice, the paper has no such videos).

The answers then follow the sound, or the picture of an event that is only seen, so that a model learns to listen. Only
videos with a background (`overlay`) are changed: it is heard where the sounds were. Works on plans; nothing is read.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from .planning import Plan, draw_uniform, slot
from .time_line import AUDIO, BOTH, VIDEO


SHIFT_SECONDS = (1.0, 5.0)  # shortest and longest shift, in either direction
MUTED = -(10**6)  # in `Plan.shifts`
NUM_TRIES = 8  # draws of a sound that replaces another; if none of them fits, the video keeps its sounds
CHUNK_ROWS = 4096  # rows whose embeddings are in memory at a time


def draw_sound_changes(
    plan: Plan,
    durations: np.ndarray,
    tracks: np.ndarray,
    *,
    shifted_sound_share: float,
    muted_sound_share: float,
    swapped_sound_share: float,
    members: np.ndarray,
    events: np.ndarray,
    embeddings: np.ndarray | None,
    ambiguity_threshold: float | None,
    scale_range: Sequence[float],
    seed: int,
) -> Plan:
    """The plan with `shifts` and `swaps` filled in; a video has at most one kind of change.

    Shifted: all sounds of a video move together, and none leaves the video. Where there is no room for a shift of a
    second, the video stays as it is. Muted: no sound is heard. A video whose events are only heard is not muted:
    nothing would be left to ask about. Swapped: the sound of one event is replaced, see `draw_swaps`.

    Args:
        durations (`np.ndarray` of shape `(num_clips,)`): seconds of the clips.
        tracks (`np.ndarray` of shape `(num_clips,)`): tracks that carry the event of each clip.
        shifted_sound_share, muted_sound_share, swapped_sound_share (`float`): probabilities of the three changes;
            their sum is at most 1.
        members, events, embeddings, ambiguity_threshold, scale_range: as in `draw_swaps`.
    """
    kind, side, size = (draw_uniform(plan.rows, 0, slot("sound", number), seed=seed) for number in range(3))
    starts, ends, totals = plan.place(durations)
    present = plan.clips >= 0  # [R, K]
    heard = present & (tracks[plan.clips] != VIDEO)
    is_seen = (present & (tracks[plan.clips] != AUDIO)).any(axis=1)
    shortest, longest = SHIFT_SECONDS
    before = np.minimum(np.where(heard, starts, np.inf).min(axis=1), longest)
    after = np.minimum(totals - np.where(heard, ends, -np.inf).max(axis=1), longest)
    backwards = np.where(after < shortest, True, (before >= shortest) & (side < 0.5))
    room = np.where(backwards, before, after)
    shift = np.floor(100 * (shortest + size * np.maximum(room - shortest, 0.0))) * np.where(backwards, -1, 1)
    is_shifted = (kind < shifted_sound_share) & (room >= shortest) & heard.any(axis=1)
    is_muted = (kind >= 1 - muted_sound_share) & heard.any(axis=1) & is_seen
    shifts = np.where(is_muted, MUTED, np.where(is_shifted, shift, 0)).astype(np.int64)
    swaps = np.full((len(plan), 2), -1, np.int64)
    asked = (kind >= shifted_sound_share) & (kind < shifted_sound_share + swapped_sound_share) & heard.any(axis=1)
    rows = np.flatnonzero(asked)
    for first in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[first : first + CHUNK_ROWS]
        swaps[chunk] = draw_swaps(
            plan.take(chunk),
            heard[chunk],
            (ends - starts)[chunk],
            durations,
            tracks,
            members=members,
            events=events,
            embeddings=embeddings,
            ambiguity_threshold=ambiguity_threshold,
            scale_range=scale_range,
            seed=seed,
        )
    return dataclasses.replace(plan, shifts=shifts[:, None], swaps=swaps)


def draw_swaps(
    plan: Plan,
    heard: np.ndarray,
    lengths: np.ndarray,
    durations: np.ndarray,
    tracks: np.ndarray,
    *,
    members: np.ndarray,
    events: np.ndarray,
    embeddings: np.ndarray | None,
    ambiguity_threshold: float | None,
    scale_range: Sequence[float],
    seed: int,
) -> np.ndarray:
    """For each video, a segment that is heard and the clip whose sound replaces its own, `(R, 2)`; -1 if none fits.

    The new sound is stretched to the length of the segment, within `scale_range`.

    Args:
        heard, lengths (`np.ndarray` of shape `(R, K)`): whether a segment has sound, and its seconds.
        members (`np.ndarray`): the clips that a sound is drawn from.
        events (`np.ndarray` of shape `(num_clips,)`): equal numbers for clips with the same caption. The new sound
            is of an event that the video does not have.
        embeddings (`np.ndarray` of shape `(num_clips, embedding_size)`, *optional*): unit-length caption embeddings.
        ambiguity_threshold (`float`, *optional*): largest cosine of the new event's caption to one of the video's.
    """
    where = draw_uniform(plan.rows, 0, slot("sound", 3), seed=seed)
    wanted = (where * heard.sum(axis=1)).astype(np.int64)  # among the segments that are heard
    segment = np.argmax(heard.cumsum(axis=1) > wanted[:, None], axis=1)  # [R]
    length = lengths[np.arange(len(plan)), segment]
    present = plan.clips >= 0
    known = np.where(present, events[plan.clips], -1)
    low, high = scale_range
    replacement = np.full(len(plan), -1, np.int64)
    for attempt in range(NUM_TRIES):
        draw = draw_uniform(plan.rows, 0, slot("sound", 4 + attempt), seed=seed)
        clip = members[(draw * len(members)).astype(np.int64)]
        scale = length / durations[clip]
        fits = (
            (tracks[clip] != VIDEO) & (low <= scale) & (scale <= high) & ~(known == events[clip][:, None]).any(axis=1)
        )
        if embeddings is not None and ambiguity_threshold is not None:
            cosines = np.einsum("rkd,rd->rk", embeddings[np.maximum(plan.clips, 0)], embeddings[clip])
            fits &= np.where(present, cosines, -1).max(axis=1) <= ambiguity_threshold
        replacement = np.where((replacement < 0) & fits, clip, replacement)
    return np.stack([np.where(replacement < 0, -1, segment), replacement], axis=1)


def answered_events(
    plan: Plan, tracks: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start and end of each event of `Plan.event_clips` as answers name them, and whether it occurs, `(R, K + 1)`
    each.

    Args:
        tracks, starts, ends (`np.ndarray` of shape `(R, K)`): of the segments.
    """
    is_muted = plan.shifts == MUTED  # [R, 1]
    moved = np.where((tracks != VIDEO) & ~is_muted, plan.shifts, 0) / 100.0
    replaced = np.maximum(plan.swaps[:, :1], 0)  # [R, 1]
    is_gone = (is_muted | is_replaced(plan)) & (tracks == AUDIO)
    is_gone = np.concatenate([is_gone, np.zeros((len(plan), 1), bool)], axis=1)
    heard_from, heard_to = (
        np.concatenate([times + moved, np.take_along_axis(times, replaced, axis=1)], axis=1)
        for times in (starts, ends)
    )
    return heard_from, heard_to, (plan.event_clips >= 0) & ~is_gone


def is_replaced(plan: Plan) -> np.ndarray:
    """Whether the sound of each segment is replaced by another, `(R, K)`."""
    return np.arange(plan.clips.shape[1]) == plan.swaps[:, :1]


def split_sounds(plan: Plan, tracks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each segment still shows at its own time, `(R, K)`, and what is heard in addition of each event of
    `Plan.event_clips`, `(R, K + 1)`, as tracks; "": nothing."""
    is_moved = (plan.shifts != 0) & (plan.shifts != MUTED)
    is_changed = (plan.shifts != 0) | is_replaced(plan)
    stays = np.where(is_changed & (tracks == BOTH), VIDEO, np.where(is_changed & (tracks == AUDIO), "", tracks))
    moves = np.where(is_moved & (tracks != VIDEO), AUDIO, "")
    replacements = np.where(plan.swaps[:, 1:] >= 0, AUDIO, "")
    return stays, np.concatenate([moves, replacements], axis=1)
