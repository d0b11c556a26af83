"""Move or remove the sounds of the events of a planned video (options `shifted_sound_share` and `muted_sound_share`;
our choice, the paper has no such videos).

The answers then follow the sound, or the picture of an event that is only seen, so that a model learns to listen. Only
videos with a background (`overlay`) are changed: it is heard where the sounds were. Works on plans; nothing is read.
"""

import dataclasses

import numpy as np

from .planning import Plan, draw_uniform, slot
from .time_line import AUDIO, BOTH, VIDEO


SHIFT_SECONDS = (1.0, 5.0)  # shortest and longest shift, in either direction
MUTED = -(10**6)  # in `Plan.shifts`


def draw_sound_changes(
    plan: Plan,
    durations: np.ndarray,
    tracks: np.ndarray,
    *,
    shifted_sound_share: float,
    muted_sound_share: float,
    seed: int,
) -> Plan:
    """The plan with `shifts` filled in.

    All sounds of a video move together, and none leaves the video: where there is no room for a shift of a second, the
    video stays as it is. A video whose events are only heard is not muted: nothing would be left to ask about.

    Args:
        durations (`np.ndarray` of shape `(num_clips,)`): seconds of the clips.
        tracks (`np.ndarray` of shape `(num_clips,)`): tracks that carry the event of each clip.
        shifted_sound_share, muted_sound_share (`float`): probabilities of the two changes; their sum is at most 1.
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
    return dataclasses.replace(plan, shifts=shifts[:, None])


def answered_times(
    plan: Plan, tracks: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start and end of each event as answers name them, and whether the event is gone, `(R, K)` each.

    Args:
        tracks, starts, ends (`np.ndarray` of shape `(R, K)`): of the segments.
    """
    is_muted = plan.shifts == MUTED  # [R, 1]
    moved = np.where((tracks != VIDEO) & ~is_muted, plan.shifts, 0) / 100.0
    return starts + moved, ends + moved, is_muted & (tracks == AUDIO)


def split_sounds(plan: Plan, tracks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each segment still shows at its own time, and what of it is moved, as tracks `(R, K)`; "": nothing."""
    is_changed, is_muted = plan.shifts != 0, plan.shifts == MUTED
    stays = np.where(is_changed & (tracks == BOTH), VIDEO, np.where(is_changed & (tracks == AUDIO), "", tracks))
    moves = np.where(is_changed & ~is_muted & (tracks != VIDEO), AUDIO, "")
    return stays, moves
