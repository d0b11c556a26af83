"""Plan pseudo-untrimmed videos: clips, their order, times and scales (steps 3 to 5 of the paper).

Every draw is a function of (seed, row, attempt, slot) only, so the draws of a row do not depend on which other
rows are planned with it, nor on the number of workers. `filtering.py` decides which plans are rejected. Nothing is
read or written here.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .time_line import BOTH


SAME_VIDEO = "same_video"
REJECTION = np.dtype([("row", np.int64), ("attempt", np.int64), ("reason", "U32")])
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
# The random streams as (first, size), each with separate slots. A stream without a size has a separate region. The
# others share a region, with `size` slots from `first` on, and use a separate region beyond that.
SLOTS = {
    "cluster": (0, 1),
    "num_clips": (1, 1),
    "clip": (2, 48),
    "scale": (50, 50),
    "repeat": (100, 100),
    "turn": (200, 1 << 20),
    "gap": (0, 0),
    "gap_length": (0, 0),
    "background": (0, 0),
    "overlap": (0, 0),
    "overlap_length": (0, 0),
    "absent": (0, 0),
    "recurrence": (0, 0),
    "caption": (0, 0),
    "sound": (0, 0),
    "silence": (0, 0),
    "darkness": (0, 0),
}
REGION = 1 << 32
MAX_OCCURRENCES = 5  # of one event in a video, with `recurrence`; our choice
OVERLAP_PERCENT = (20, 70)  # of the previous segment, as in the sandbox's untrimmed videos (our choice)


@dataclass(frozen=True)
class Segment:
    """One clip in a composed video: from `start` to `end` seconds, which is `scale` times its length.

    A segment without a caption is background: it has no event and no question. `tracks` is one of
    `time_line.TRACKS`.
    """

    clip_id: str
    start: float
    end: float
    scale: float
    caption: str | None = None
    tracks: str = BOTH

    def transfer_time(self, time: float) -> float:
        """Map a time in the original clip to the composed video, in seconds (step 5 of the paper)."""
        return self.start + self.scale * time


@dataclass(frozen=True)
class Plan:
    """Planned videos, one row each. Clips are positions in the list of clips; -1 means no clip."""

    rows: np.ndarray  # [R] row numbers, ascending
    clips: np.ndarray  # [R, K] the segments in order, padded at the right
    scales: np.ndarray  # [R, K] hundredths: integers have the same representation in every file
    gaps: np.ndarray  # [R, K + 1] background before each segment and, last, at the end: hundredths of a second
    overlaps: np.ndarray  # [R, K] percent of the previous segment that remains when a segment begins
    backgrounds: np.ndarray  # [R, K + 1] clips that fill the gaps, or first the one of the whole video (`overlay`)
    absent: np.ndarray  # [R, T] clips whose event does not occur, one per turn that asks about it
    shifts: np.ndarray  # [R, 1] hundredths of a second by which all sounds are moved, or `counterfactual_sound.MUTED`
    swaps: np.ndarray  # [R, 2] a segment without its sound, and the clip that is heard instead; -1: none
    silences: np.ndarray  # [R, K + 1] gaps without the sound of the background, 1 or 0
    darknesses: np.ndarray  # [R, K + 1] gaps without its picture

    @staticmethod
    def gapless(rows: np.ndarray, clips: np.ndarray, scales: np.ndarray) -> "Plan":
        """A plan without gaps, overlaps and absent events, as in the paper."""
        num_rows, most = clips.shape
        return Plan(
            rows,
            clips,
            scales,
            gaps=np.zeros((num_rows, most + 1), np.int64),
            overlaps=np.zeros((num_rows, most), np.int64),
            backgrounds=np.full((num_rows, most + 1), -1, np.int64),
            absent=np.full((num_rows, 1), -1, np.int64),
            shifts=np.zeros((num_rows, 1), np.int64),
            swaps=np.full((num_rows, 2), -1, np.int64),
            silences=np.zeros((num_rows, most + 1), np.int64),
            darknesses=np.zeros((num_rows, most + 1), np.int64),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: slice | np.ndarray) -> "Plan":
        """Some of the rows: a slice, a mask, or positions."""
        return Plan(*(getattr(self, field.name)[which] for field in dataclasses.fields(self)))

    @staticmethod
    def join(plans: list["Plan"]) -> "Plan":
        """The rows of all plans, by ascending row number."""
        names = [field.name for field in dataclasses.fields(Plan)]
        joined = Plan(*(np.concatenate([getattr(plan, name) for plan in plans]) for name in names))
        return joined.take(np.argsort(joined.rows))

    @property
    def event_clips(self) -> np.ndarray:
        """The clips of all events, `(R, K + 1)`: those of the segments, then the one that replaces a sound."""
        return np.concatenate([self.clips, self.swaps[:, 1:]], axis=1)

    def place(self, durations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Start and end of each segment `(R, K)` and length of each video `(R,)`, in seconds."""
        lengths = np.where(self.clips >= 0, durations[self.clips], 0.0) * np.maximum(self.scales, 0) / 100.0
        return place_segments(lengths, self.gaps, self.overlaps)


def draw_plan(
    rows: np.ndarray,
    clusters: list[np.ndarray],
    *,
    clips_per_video: tuple[int, int] = (3, 8),
    scale_range: tuple[float, float] = (0.6, 1.9),
    max_repeats: int = 2,
    repeat_probability: float = 0.15,
    events: np.ndarray | None = None,
    recurrence: float = 0.0,
    gap_share: float = 0.0,
    gap_seconds: tuple[float, float] = (0.5, 5.0),
    backgrounds: np.ndarray | None = None,
    silent_share: float = 0.0,
    dark_share: float = 0.0,
    overlap_share: float = 0.0,
    overlay: bool = False,
    attempts: np.ndarray | int = 0,
    seed: int = 0,
) -> Plan:
    """Draw one video per row: a cluster, some of its clips in random order, repeats, scales and times.

    Args:
        rows (`np.ndarray` of shape `(num_rows,)`):
            Row numbers; with `seed` and the attempt they determine all draws.
        clusters (list of `np.ndarray`):
            Positions of each cluster's clips. The probability of a cluster is proportional to its number of clips.
        clips_per_video (`tuple(int, int)`, *optional*, defaults to `(3, 8)`):
            Minimum and maximum number of segments (the paper's figure shows 4 to 6; the range is our choice). The
            number is limited to the number of clips in the cluster.
        scale_range (`tuple(float, float)`, *optional*, defaults to `(0.6, 1.9)`):
            Bounds of the uniform scale, rounded to hundredths (read from the paper's figure).
        max_repeats (`int`, *optional*, defaults to 2):
            Maximum number of segments of one video with the same clip, each with its own scale. 1: no repeats.
        repeat_probability (`float`, *optional*, defaults to 0.15):
            Probability, for each allowed repeat, that a video repeats a clip (our choice). Adjacent segments never
            have the same clip.
        events (`np.ndarray` of shape `(num_clips,)`, *optional*):
            Equal numbers for clips with the same caption; needed by `recurrence`.
        recurrence (`float`, *optional*, defaults to 0.0):
            Probability, for each segment from the third on, that it shows an event that the video had before the
            previous segment: a clip with the same caption, drawn from all clusters; it may be the same clip. An event
            occurs at most five times.
        gap_share (`float`, *optional*, defaults to 0.0):
            Probability of a gap, filled by background, before a segment that does not overlap the previous one, and
            at the end.
        gap_seconds (`tuple(float, float)`, *optional*, defaults to `(0.5, 5.0)`):
            Shortest and longest gap (our choice).
        backgrounds (`np.ndarray`, *optional*):
            Positions of the clips without an event that fill gaps. None: gaps are black and silent.
        silent_share, dark_share (`float`, *optional*, default to 0.0):
            Probabilities that a gap has no sound, and that it has no picture, instead of those of the background.
        overlap_share (`float`, *optional*, defaults to 0.0):
            Probability that a segment begins before the previous one has ended. At most two clips play at once.
        overlay (`bool`, *optional*, defaults to `False`):
            Draw one background for the whole video, which the segments are laid over.
        attempts (`np.ndarray` or `int`, *optional*, defaults to 0):
            How often each row was rejected before.
        seed (`int`, *optional*, defaults to 0):
            Random seed of all draws.
    """
    fewest, most = clips_per_video
    sizes = np.array([len(cluster) for cluster in clusters])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    members = np.concatenate(clusters)

    def draw(stream: str, number: int = 0) -> np.ndarray:
        return draw_uniform(rows, attempts, slot(stream, number), seed=seed)

    def draw_all(stream: str, count: int) -> np.ndarray:
        return np.stack([draw(stream, number) for number in range(count)], axis=1)

    chosen = np.searchsorted(offsets[1:], (draw("cluster") * offsets[-1]).astype(np.int64), side="right")  # [R]
    available = sizes[chosen]
    longest = np.minimum(most, available)
    shortest = np.minimum(fewest, longest)
    num_clips = shortest + (draw("num_clips") * (longest - shortest + 1)).astype(np.int64)

    picks = np.full((len(rows), most), -1, np.int64)
    taken = np.full((len(rows), most), np.iinfo(np.int64).max)  # ascending, to skip values already taken
    for index in range(most):
        active = index < num_clips
        pick = (draw("clip", index) * np.maximum(available - index, 1)).astype(np.int64)
        for earlier in range(index):
            pick += pick >= taken[:, earlier]
        picks[active, index] = pick[active]
        taken[active, index] = pick[active]
        taken.sort(axis=1)
    clips = np.where(picks >= 0, members[offsets[chosen][:, None] + np.maximum(picks, 0)], -1)
    for repeat in range(max_repeats - 1):
        repeat_clip(clips, num_clips, [draw("repeat", 3 * repeat + step) for step in range(3)], repeat_probability)

    if recurrence:
        assert events is not None
        for index in range(2, most):
            draws = [draw("recurrence", 3 * index + step) for step in range(3)]
            repeat_event(clips, num_clips, index, draws, recurrence, events=events, members=members)

    low, high = (round(100 * bound) for bound in scale_range)
    scales = low + (draw_all("scale", most) * (high - low + 1)).astype(np.int64)
    plan = Plan.gapless(np.asarray(rows), clips, np.where(clips >= 0, scales, -1))
    if overlap_share:
        low, high = OVERLAP_PERCENT
        percent = low + (draw_all("overlap_length", most) * (high - low + 1)).astype(np.int64)
        wanted = (draw_all("overlap", most) < overlap_share) & (clips >= 0)
        wanted[:, 0] = False
        plan = dataclasses.replace(plan, overlaps=np.where(wanted, percent, 0))
    if overlay:
        assert backgrounds is not None
        chosen_background = backgrounds[(draw("background") * len(backgrounds)).astype(np.int64)]
        backgrounds_drawn = np.where(np.arange(most + 1) == 0, chosen_background[:, None], -1)
        plan = dataclasses.replace(plan, backgrounds=backgrounds_drawn)
    if gap_share:
        low, high = (round(100 * bound) for bound in gap_seconds)
        lengths = low + (draw_all("gap_length", most + 1) * (high - low + 1)).astype(np.int64)
        wanted = draw_all("gap", most + 1) < gap_share
        wanted[:, :-1] &= (clips >= 0) & (plan.overlaps == 0)
        plan = dataclasses.replace(plan, gaps=np.where(wanted, lengths, 0))
        silences, darknesses = (
            wanted & (draw_all(stream, most + 1) < share) if share else np.zeros_like(wanted)
            for stream, share in (("silence", silent_share), ("darkness", dark_share))
        )
        plan = dataclasses.replace(plan, silences=silences.astype(np.int64), darknesses=darknesses.astype(np.int64))
        if backgrounds is not None and not overlay:
            shown = backgrounds[(draw_all("background", most + 1) * len(backgrounds)).astype(np.int64)]
            plan = dataclasses.replace(plan, backgrounds=np.where(plan.gaps > 0, shown, -1))
    return plan


def slot(stream: str, number: int = 0) -> int:
    """The slot of the `number`-th draw of a stream: no two draws share one.

    >>> slot("clip", 0), slot("scale", 0), slot("clip", 47)
    (2, 50, 49)
    """
    first, size = SLOTS[stream]
    return first + number if number < size else (1 + list(SLOTS).index(stream)) * REGION + number


def repeat_clip(clips: np.ndarray, num_clips: np.ndarray, draws: list[np.ndarray], probability: float) -> None:
    """In some rows, let a later, non-adjacent segment repeat the clip of an earlier one. In place."""
    wanted, where_from, where_to = draws
    chosen = np.flatnonzero((wanted < probability) & (num_clips >= 3))
    first = (where_from[chosen] * (num_clips[chosen] - 2)).astype(np.int64)
    second = first + 2 + (where_to[chosen] * (num_clips[chosen] - first - 2)).astype(np.int64)
    clips[chosen, second] = clips[chosen, first]


def repeat_event(
    clips: np.ndarray,
    num_clips: np.ndarray,
    index: int,
    draws: list[np.ndarray],
    probability: float,
    *,
    events: np.ndarray,
    members: np.ndarray,
) -> None:
    """In some rows, let segment `index` show the event of a segment before the previous one. In place."""
    wanted, where_from, which = draws
    rows = np.flatnonzero((wanted < probability) & (index < num_clips))
    event = events[clips[rows, (where_from[rows] * (index - 1)).astype(np.int64)]]  # [rows]
    allowed = (events[clips[rows, :index]] == event[:, None]).sum(axis=1) < MAX_OCCURRENCES
    rows, event = rows[allowed], event[allowed]
    by_event = members[np.argsort(events[members], kind="stable")]
    first, last = (np.searchsorted(events[by_event], event, side=side) for side in ("left", "right"))
    clips[rows, index] = by_event[first + (which[rows] * (last - first)).astype(np.int64)]


def draw_uniform(rows: np.ndarray, attempts: np.ndarray | int, slot: int, *, seed: int = 0) -> np.ndarray:
    """A number in [0, 1) for each row: a hash of (seed, row, attempt, slot), using the mixing step of splitmix64.

    ```python
    >>> rows = np.arange(1000)
    >>> bool((draw_uniform(rows, 0, 3)[500:] == draw_uniform(rows[500:], 0, 3)).all())
    True

    ```
    """
    with np.errstate(over="ignore"):
        state = mix_bits(np.asarray(np.uint64(seed % 2**64) + GOLDEN_GAMMA))
        for part in (rows, attempts, slot):
            state = mix_bits(state ^ (np.asarray(part).astype(np.uint64) + GOLDEN_GAMMA))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix_bits(state: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele, Lea and Flood, 2014): each output bit depends on every input bit."""
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def place_segments(
    lengths: np.ndarray, gaps: np.ndarray, overlaps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start and end of each segment in seconds, `(R, K)` each, and the length of each video, `(R,)`.

    A segment begins when all earlier ones have ended, or later by its gap, or earlier by its overlap with the previous
    one. It never begins before the second-to-last segment has ended, so that at most two clips play at once.

    Args:
        lengths (`np.ndarray` of shape `(R, K)`):
            Seconds of the segments, 0 for padding.
        gaps (`np.ndarray` of shape `(R, K + 1)`), overlaps (`np.ndarray` of shape `(R, K)`):
            As in `Plan`.
    """
    starts, ends = np.zeros_like(lengths), np.zeros_like(lengths)
    reached = np.zeros(len(lengths))  # where all earlier segments have ended
    free = np.zeros(len(lengths))  # where all earlier segments but the last have ended
    for index in range(lengths.shape[1]):
        start = reached + gaps[:, index] / 100.0
        if index and overlaps[:, index].any():
            early = ends[:, index - 1] - lengths[:, index - 1] * overlaps[:, index] / 100.0
            start = np.where(overlaps[:, index] > 0, np.maximum(early, free), start)
        starts[:, index], ends[:, index] = start, start + lengths[:, index]
        free, reached = reached, np.maximum(reached, ends[:, index])
    return starts, ends, reached + gaps[:, -1] / 100.0


def plan_pseudo_untrimmed(
    num_videos: int,
    clusters: list[np.ndarray],
    *,
    find_rejected: Callable[[Plan], np.ndarray],
    max_attempts: int = 16,
    seed: int = 0,
    **drawing: Any,
) -> tuple[Plan, np.ndarray]:
    """Draw `num_videos` videos, redrawing rows whose plan is rejected or is a duplicate.

    Args:
        num_videos (`int`):
            Number of rows.
        clusters (list of `np.ndarray`):
            As in `draw_plan`.
        find_rejected (callable):
            `Plan -> np.ndarray` of one reason per row, "" if the plan is accepted (`filtering.PlanFilter`).
        max_attempts (`int`, *optional*, defaults to 16):
            Maximum draws per row; a row without an accepted plan is dropped.
        seed (`int`, *optional*, defaults to 0):
            Of all draws.
        drawing:
            Further arguments of `draw_plan`.

    Returns:
        `tuple(Plan, np.ndarray)`: the accepted videos by ascending row, and a structured array of all rejected draws
        with the fields `row`, `attempt` and `reason`. No two videos have the same clips in the same order.
    """
    pending = np.arange(num_videos)
    seen: set[bytes] = set()
    accepted: list[Plan] = []
    rejected = []
    for attempt in range(max_attempts):
        if not len(pending) and accepted:
            break
        plan = draw_plan(pending, clusters, attempts=attempt, seed=seed, **drawing)
        reasons = find_rejected(plan)
        reasons = np.where((reasons == "") & find_known(plan, reasons == "", seen), SAME_VIDEO, reasons)
        good = reasons == ""
        accepted.append(plan.take(good))
        bad = np.empty(int((~good).sum()), REJECTION)
        bad["row"], bad["attempt"], bad["reason"] = pending[~good], attempt, reasons[~good]
        rejected.append(bad)
        pending = pending[~good]
    return Plan.join(accepted), np.concatenate(rejected)


def find_known(plan: Plan, candidates: np.ndarray, seen: set[bytes]) -> np.ndarray:
    """True for candidates whose clip sequence is already in `seen`; the others are added to it, in row order."""
    known = np.zeros(len(plan), bool)
    for index in np.flatnonzero(candidates):
        key = plan.clips[index].tobytes()
        known[index] = key in seen
        seen.add(key)
    return known
