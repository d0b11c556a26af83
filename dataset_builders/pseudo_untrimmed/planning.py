"""Plan pseudo-untrimmed videos: which clips, how often, in which order, each at which scale (steps 3 to 5 of the paper).

Pure. Every draw is a function of (seed, row, attempt, slot) and of nothing else, so a row's draws do not depend on which
other rows are planned beside it, nor by how many workers. Rejecting plans is `filtering.py`'s task; this file reads and
writes nothing.
"""

from dataclasses import dataclass

import numpy as np


SAME_VIDEO = "same_video"
REJECTION = np.dtype([("row", np.int64), ("attempt", np.int64), ("reason", "U32")])
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Segment:
    """One clip in a composed video: `start` and `end` in its seconds, `end - start` = `scale` x the clip's own length."""

    clip_id: str
    start: float
    end: float
    scale: float
    caption: str

    def transfer_time(self, time: float) -> float:
        """Where a moment of the original clip (s from its begin) lies in the composed video (step 5 of the paper)."""
        return self.start + self.scale * time


@dataclass(frozen=True)
class Plan:
    """Planned videos, one row each: numbers of clips, and scales in hundredths, both padded with -1 at the right."""

    rows: np.ndarray  # [R] row numbers, ascending
    clips: np.ndarray  # [R, K] positions in the list of clips
    scales: np.ndarray  # [R, K] hundredths: a whole number has one spelling in every file

    def __len__(self) -> int:
        return len(self.rows)

    def slice(self, first: int, last: int) -> "Plan":
        return Plan(self.rows[first:last], self.clips[first:last], self.scales[first:last])


def draw_plan(
    rows: np.ndarray,
    clusters: list[np.ndarray],
    *,
    clips_per_video: tuple[int, int] = (3, 8),
    scale_range: tuple[float, float] = (0.6, 1.9),
    max_repeats: int = 2,
    repeat_probability: float = 0.15,
    attempts: np.ndarray | int = 0,
    seed: int = 0,
) -> Plan:
    """Draw one video per row: a cluster, some of its clips in random order, now and then one of them again, and scales.

    Args:
        rows (`np.ndarray` of shape `(num_rows,)`):
            Row numbers; with `seed` and the attempt they decide everything.
        clusters (list of `np.ndarray`):
            Positions of each cluster's clips. A cluster is drawn as often as it has clips, so all clips are used alike.
        clips_per_video (`tuple(int, int)`, *optional*, defaults to `(3, 8)`):
            Fewest and most segments (the paper's figure shows 4 to 6; the range is our choice). A smaller cluster gives
            as many as it has clips.
        scale_range (`tuple(float, float)`, *optional*, defaults to `(0.6, 1.9)`):
            Bounds of the uniform scale, rounded to hundredths (read off the paper's figure).
        max_repeats (`int`, *optional*, defaults to 2):
            How many segments of one video may show the same clip, at scales of their own. 1: never twice.
        repeat_probability (`float`, *optional*, defaults to 0.15):
            Chance, for each repeat allowed, that a video repeats a clip (our choice). A clip never follows itself.
        attempts (`np.ndarray` or `int`, *optional*, defaults to 0):
            How often each row was rejected before.
        seed (`int`, *optional*, defaults to 0):
            Of all draws.
    """
    fewest, most = clips_per_video
    sizes = np.array([len(cluster) for cluster in clusters])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    members = np.concatenate(clusters)

    def draw(slot: int) -> np.ndarray:
        return draw_uniform(rows, attempts, slot, seed=seed)

    chosen = np.searchsorted(offsets[1:], (draw(0) * offsets[-1]).astype(np.int64), side="right")  # [R]
    available = sizes[chosen]
    longest = np.minimum(most, available)
    shortest = np.minimum(fewest, longest)
    num_clips = shortest + (draw(1) * (longest - shortest + 1)).astype(np.int64)

    picks = np.full((len(rows), most), -1, np.int64)
    taken = np.full((len(rows), most), np.iinfo(np.int64).max)  # ascending, for skipping what is taken
    for place in range(most):
        active = place < num_clips
        pick = (draw(2 + place) * np.maximum(available - place, 1)).astype(np.int64)
        for earlier in range(place):
            pick += pick >= taken[:, earlier]
        picks[active, place] = pick[active]
        taken[active, place] = pick[active]
        taken.sort(axis=1)
    clips = np.where(picks >= 0, members[offsets[chosen][:, None] + np.maximum(picks, 0)], -1)
    for repeat in range(max_repeats - 1):
        repeat_clip(clips, num_clips, [draw(100 + 3 * repeat + step) for step in range(3)], repeat_probability)

    low, high = (round(100 * bound) for bound in scale_range)
    scales = np.stack([low + (draw(50 + place) * (high - low + 1)).astype(np.int64) for place in range(most)], axis=1)
    return Plan(np.asarray(rows), clips, np.where(clips >= 0, scales, -1))


def repeat_clip(clips: np.ndarray, num_clips: np.ndarray, draws: list[np.ndarray], probability: float) -> None:
    """In some rows let a later segment, not the next one, show the clip of an earlier segment again. In place."""
    wanted, where_from, where_to = draws
    chosen = np.flatnonzero((wanted < probability) & (num_clips >= 3))
    first = (where_from[chosen] * (num_clips[chosen] - 2)).astype(np.int64)
    second = first + 2 + (where_to[chosen] * (num_clips[chosen] - first - 2)).astype(np.int64)
    clips[chosen, second] = clips[chosen, first]


def draw_uniform(rows: np.ndarray, attempts: np.ndarray | int, slot: int, *, seed: int = 0) -> np.ndarray:
    """A number in [0, 1) for each row: a hash of (seed, row, attempt, slot), by the mixing step of splitmix64.

    ```python
    >>> rows = np.arange(1000)
    >>> bool((draw_uniform(rows, 0, 3)[500:] == draw_uniform(rows[500:], 0, 3)).all())
    True

    ```
    """
    with np.errstate(over="ignore"):
        state = mix_bits(np.uint64(seed % 2**64) + GOLDEN_GAMMA)
        for part in (rows, attempts, slot):
            state = mix_bits(state ^ (np.asarray(part).astype(np.uint64) + GOLDEN_GAMMA))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix_bits(state: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): each output bit depends on every input bit."""
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def place_segments(lengths: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of each segment in seconds, `(R, K)` each: every end is the next start, the first start is 0.

    Args:
        lengths (`np.ndarray` of shape `(R, K)`):
            Seconds of the original clips, 0 where there is no segment.
        scales (`np.ndarray` of shape `(R, K)`):
            Hundredths.
    """
    ends = np.cumsum(lengths * np.maximum(scales, 0) / 100.0, axis=1)
    starts = np.concatenate([np.zeros((len(ends), 1)), ends[:, :-1]], axis=1)
    return starts, ends


def plan_pseudo_untrimmed(
    num_videos: int,
    clusters: list[np.ndarray],
    *,
    find_rejected,
    max_attempts: int = 16,
    seed: int = 0,
    **drawing,
) -> tuple[Plan, np.ndarray]:
    """Draw `num_videos` videos, drawing again for rows whose plan is rejected or was planned before.

    Args:
        num_videos (`int`):
            Rows wanted.
        clusters (list of `np.ndarray`):
            As `draw_plan` takes them.
        find_rejected (callable):
            `Plan -> np.ndarray` of one reason per row, "" where the plan is good (`filtering.PlanFilter`).
        max_attempts (`int`, *optional*, defaults to 16):
            Draws per row; a row without a good plan after these is left out.
        seed (`int`, *optional*, defaults to 0):
            Of all draws.
        drawing:
            Further arguments of `draw_plan`.

    Returns:
        `tuple(Plan, np.ndarray)`: the accepted videos by ascending row, and a structured array of all rejected draws with
        the fields `row`, `attempt` and `reason`. No two videos show the same clips in the same order.
    """
    pending = np.arange(num_videos)
    seen: set[bytes] = set()
    accepted, rejected = [], []
    for attempt in range(max_attempts):
        if not len(pending):
            break
        plan = draw_plan(pending, clusters, attempts=attempt, seed=seed, **drawing)
        reasons = find_rejected(plan)
        reasons = np.where((reasons == "") & find_known(plan, reasons == "", seen), SAME_VIDEO, reasons)
        good = reasons == ""
        accepted.append(Plan(plan.rows[good], plan.clips[good], plan.scales[good]))
        bad = np.empty(int((~good).sum()), REJECTION)
        bad["row"], bad["attempt"], bad["reason"] = pending[~good], attempt, reasons[~good]
        rejected.append(bad)
        pending = pending[~good]
    rows = np.concatenate([plan.rows for plan in accepted])
    order = np.argsort(rows)
    clips = np.concatenate([plan.clips for plan in accepted])[order]
    scales = np.concatenate([plan.scales for plan in accepted])[order]
    return Plan(rows[order], clips, scales), np.concatenate(rejected)


def find_known(plan: Plan, candidates: np.ndarray, seen: set[bytes]) -> np.ndarray:
    """True for candidates that show clips in an order already in `seen`; the others are added to it, in row order."""
    known = np.zeros(len(plan), bool)
    for place in np.flatnonzero(candidates):
        key = plan.clips[place].tobytes()
        known[place] = key in seen
        seen.add(key)
    return known
