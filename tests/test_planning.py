"""Plans: deterministic per row, contiguous, in range, unique; exact times from clip, scale and offset."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset_builders.pseudo_untrimmed import shards, split_planning
from dataset_builders.pseudo_untrimmed.planning import (
    Segment,
    draw_plan,
    draw_uniform,
    plan_pseudo_untrimmed,
    slot,
)
from dataset_builders.pseudo_untrimmed.settings import CurationSettings
from dataset_builders.sources.captions import Clip


CLUSTERS = [np.arange(0, 12), np.arange(12, 20), np.arange(20, 60)]
ROWS = np.arange(4000)


def accept_all(plan):
    return np.full(len(plan), "", "U32")


def test_the_plan_of_a_row_does_not_depend_on_other_rows():
    whole = draw_plan(ROWS, CLUSTERS, seed=5)
    part = draw_plan(ROWS[1000:1100], CLUSTERS, seed=5)
    assert np.array_equal(whole.clips[1000:1100], part.clips) and np.array_equal(whole.scales[1000:1100], part.scales)
    other = draw_plan(ROWS, CLUSTERS, seed=6)
    assert (whole.clips != other.clips).any(axis=1).mean() > 0.99


def test_draws_are_uniform_and_independent():
    draws = np.stack([draw_uniform(np.arange(20000), attempt, slot) for attempt in (0, 1) for slot in (0, 1)])
    assert draws.min() >= 0 and draws.max() < 1
    assert np.abs(np.histogram(draws, bins=20)[0] / 4000 - 1).max() < 0.06
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.03


def test_counts_scales_and_clusters_are_in_range():
    plan = draw_plan(ROWS, CLUSTERS, clips_per_video=(3, 8), scale_range=(0.6, 1.9))
    present = plan.clips >= 0
    counts = present.sum(axis=1)
    assert set(counts) == {3, 4, 5, 6, 7, 8}
    assert np.array_equal(present, np.arange(8) < counts[:, None])
    assert plan.scales[present].min() == 60 and plan.scales[present].max() == 190
    owner = np.repeat([0, 1, 2], [12, 8, 40])
    for clips, mask in zip(plan.clips[:500], present):
        assert len(set(owner[clips[mask]])) == 1


def test_clips_are_used_about_equally_often():
    plan = draw_plan(np.arange(60000), CLUSTERS, clips_per_video=(4, 4), max_repeats=1)
    uses = np.bincount(plan.clips[plan.clips >= 0], minlength=60)
    assert uses.min() > 0.9 * uses.mean() and uses.max() < 1.1 * uses.mean()


def test_order_within_a_video_is_random():
    plan = draw_plan(np.arange(20000), [np.arange(8)], clips_per_video=(8, 8), max_repeats=1)
    first = np.bincount(plan.clips[:, 0], minlength=8) / len(plan)
    last = np.bincount(plan.clips[:, 7], minlength=8) / len(plan)
    assert np.abs(first - 1 / 8).max() < 0.01 and np.abs(last - 1 / 8).max() < 0.01


@pytest.mark.parametrize("max_repeats", [1, 2, 3])
def test_repeats_are_limited(max_repeats):
    plan = draw_plan(ROWS, CLUSTERS, max_repeats=max_repeats, repeat_probability=0.5)
    most = []
    for clips in plan.clips:
        shown = clips[clips >= 0]
        most.append(np.bincount(shown).max())
        if max_repeats <= 2:
            assert (shown[1:] != shown[:-1]).all()
    assert max(most) == max_repeats
    if max_repeats == 2:
        assert 0.4 < np.mean(np.array(most) == 2) < 0.6


def test_a_small_cluster_gives_shorter_videos():
    plan = draw_plan(ROWS, [np.arange(4)], clips_per_video=(3, 8))
    assert set((plan.clips >= 0).sum(axis=1)) == {3, 4}


def check_overlaps(starts, ends, present):
    """At most two segments overlap, and segments are in the order of their starts."""
    assert (np.diff(starts) >= -1e-9)[present[:, 1:]].all()
    for start, end, mask in zip(starts, ends, present):
        for first in start[mask]:
            assert ((start[mask] <= first + 1e-9) & (end[mask] > first + 1e-9)).sum() <= 2


def test_segments_are_contiguous_and_sum_to_the_duration():
    durations = np.round(np.random.default_rng(0).uniform(2, 10, size=60), 3)
    plan = draw_plan(ROWS, CLUSTERS)
    present = plan.clips >= 0
    lengths = np.where(present, durations[plan.clips], 0.0) * plan.scales / 100
    starts, ends, totals = plan.place(durations)
    assert (starts[:, 0] == 0).all() and np.array_equal(starts[:, 1:][present[:, 1:]], ends[:, :-1][present[:, 1:]])
    assert np.allclose(totals, np.where(present, lengths, 0).sum(axis=1), rtol=0, atol=1e-9)
    assert np.allclose((ends - starts)[present], lengths[present], rtol=0, atol=1e-9)


def test_gaps_have_the_drawn_length_and_a_background():
    durations = np.full(70, 10.0)
    plan = draw_plan(ROWS, CLUSTERS, gap_share=0.6, gap_seconds=(1, 4), backgrounds=np.arange(60, 70))
    present = plan.clips >= 0
    starts, ends, totals = plan.place(durations)
    gaps = plan.gaps / 100
    assert np.allclose(starts[:, 0], gaps[:, 0])
    assert np.allclose((starts[:, 1:] - ends[:, :-1])[present[:, 1:]], gaps[:, 1:-1][present[:, 1:]])
    assert np.allclose(totals, np.where(present, ends, 0).max(axis=1) + gaps[:, -1])
    drawn = gaps[:, :-1][present]
    assert abs((drawn > 0).mean() - 0.6) < 0.02 and set(np.unique(drawn[drawn > 0])) <= set(np.arange(100, 401) / 100)
    assert not plan.gaps[:, :-1][~present].any() and not plan.overlaps.any()
    assert (plan.backgrounds[plan.gaps > 0] >= 60).all() and (plan.backgrounds[plan.gaps == 0] == -1).all()
    without = draw_plan(ROWS, CLUSTERS)
    assert np.array_equal(plan.clips, without.clips) and np.array_equal(plan.scales, without.scales)


def test_at_most_two_clips_overlap():
    durations = np.round(np.random.default_rng(1).uniform(1, 10, size=60), 3)
    plan = draw_plan(ROWS, CLUSTERS, overlap_share=0.7, gap_share=0.5)
    present = plan.clips >= 0
    starts, ends, totals = plan.place(durations)
    check_overlaps(starts, ends, present)
    overlapped = (starts[:, 1:] < ends[:, :-1] - 1e-9)[present[:, 1:]]
    assert 0.6 < overlapped.mean() < 0.71
    assert not (plan.gaps[:, :-1][plan.overlaps > 0]).any()
    assert (totals >= ends.max(axis=1)).all()


def test_slots_of_draws_are_unique():
    streams = {"cluster": 1, "num_clips": 1, "clip": 300, "scale": 300, "repeat": 300, "turn": 300, "gap": 300}
    slots = [slot(stream, number) for stream, count in streams.items() for number in range(count)]
    assert len(set(slots)) == len(slots)


def test_times_are_scaled_and_shifted():
    segment = Segment("clip", start=12.5, end=12.5 + 1.3 * 10, scale=1.3, caption="A dog barks.")
    assert segment.transfer_time(0) == segment.start
    assert segment.transfer_time(10) == pytest.approx(segment.end, abs=1e-12)
    assert segment.transfer_time(4) == pytest.approx(12.5 + 5.2, abs=1e-12)


def test_plans_are_unique_even_if_few_are_possible():
    plan, rejected = plan_pseudo_untrimmed(
        200, [np.arange(4)], find_rejected=accept_all, clips_per_video=(3, 3), max_repeats=1, max_attempts=40
    )
    assert len(plan) == 24  # 4 x 3 x 2 orders of three of four clips
    assert len({clips.tobytes() for clips in plan.clips}) == 24
    assert set(rejected["reason"]) == {"same_video"}
    assert np.array_equal(plan.rows, np.sort(plan.rows))


def test_a_rejected_row_is_drawn_again_and_counted():
    def refuse_long(plan):
        return np.where((plan.clips >= 0).sum(axis=1) > 5, "too_long", "").astype("U32")

    plan, rejected = plan_pseudo_untrimmed(1000, CLUSTERS, find_rejected=refuse_long)
    assert len(plan) == 1000 and (plan.clips >= 0).sum(axis=1).max() == 5
    reasons, counts = np.unique(rejected["reason"], return_counts=True)
    assert "too_long" in reasons and counts[reasons == "too_long"] > 500
    # the row keeps its number, and its accepted draw is that of its attempt number
    row = rejected["row"][0]
    attempts = int((rejected["row"] == row).sum())
    again = draw_plan(np.array([row]), CLUSTERS, attempts=attempts)
    assert np.array_equal(plan.clips[plan.rows == row], again.clips)


def test_one_plan_per_seed_is_frozen():
    plan = draw_plan(np.arange(2), CLUSTERS, seed=0)
    assert plan.clips.tolist() == FROZEN_CLIPS and plan.scales.tolist() == FROZEN_SCALES


FROZEN_CLIPS = [[22, 48, 27, 30, 26, 43, -1, -1], [34, 54, 43, 33, 24, -1, -1, -1]]
FROZEN_SCALES = [[160, 118, 110, 103, 160, 171, -1, -1], [175, 143, 63, 125, 90, -1, -1, -1]]


def test_events_recur_as_often_as_asked_for():
    """Each event has three clips; with the same share as in the sandbox, one segment in four repeats an event."""
    clusters = [np.arange(90)]
    events = np.arange(90) // 3
    plan = draw_plan(
        np.arange(4000), clusters, clips_per_video=(3, 8), max_repeats=1, events=events, recurrence=0.25, seed=3
    )
    present = plan.clips >= 0
    shown = np.where(present, events[plan.clips], -1 - np.arange(8))
    earlier = (shown[:, :, None] == shown[:, None, :]) & np.tri(8, k=-2, dtype=bool)
    recurs = earlier.any(axis=2)[:, 2:][present[:, 2:]]
    by_chance = 0.04  # two other clips of the same event
    assert 0.25 <= recurs.mean() < 0.25 + by_chance + 0.02
    counts = [max(np.unique(row[row >= 0], return_counts=True)[1]) for row in shown]
    assert max(counts) in (4, 5) and np.mean(np.array(counts) > 2) > 0.02
    same_clip = [len(set(row[row >= 0])) < (row >= 0).sum() for row in plan.clips]
    assert np.mean(same_clip) < 0.5 * np.mean(np.array(counts) > 1)  # mostly another clip of the event
    again = draw_plan(
        np.arange(100, 200), clusters, max_repeats=1, events=events, recurrence=0.25, seed=3, clips_per_video=(3, 8)
    )
    assert np.array_equal(again.clips, plan.clips[100:200])


@pytest.mark.parametrize("num_rows", [0, 1, 50, 120])
def test_a_part_of_a_written_plan_is_read_from_its_own_row_groups(tmp_path, monkeypatch, num_rows):
    monkeypatch.setattr(shards, "PLAN_GROUP_ROWS", 50)
    plan, path, read = draw_plan(ROWS[:num_rows], CLUSTERS), tmp_path / "plan.parquet", []
    shards.write_plan(plan, path)
    original = pq.ParquetFile.read_row_groups

    def recorded(self, groups):
        read.append(groups)
        return original(self, groups)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", recorded)
    for begin in range(0, max(num_rows, 1), 20):
        part, expected = shards.read_plan(path, begin, begin + 20), plan.take(slice(begin, begin + 20))
        for field in dataclasses.fields(plan):
            assert np.array_equal(getattr(part, field.name), getattr(expected, field.name)), field.name
        assert len(read.pop()) <= 2
    assert np.array_equal(shards.read_plan(path).clips, plan.clips)


def test_the_labels_are_not_searched_for_each_cluster(monkeypatch):
    labels = np.random.default_rng(0).integers(-1, 100, size=2000)
    clusters = split_planning.list_clusters(labels)
    assert len(clusters) == 100
    assert all(np.array_equal(members, np.flatnonzero(labels == label)) for label, members in enumerate(clusters))
    calls, flatnonzero = [], np.flatnonzero
    monkeypatch.setattr(np, "flatnonzero", lambda array: calls.append(None) or flatnonzero(array))
    monkeypatch.setattr(split_planning, "cluster_clips", lambda *args, **options: (np.maximum(labels, 0), 0))
    settings = CurationSettings(captions_file="captions.json", coherence_threshold=None, ambiguity_threshold=None)
    clips = [Clip(f"clip{index}", f"event {index}", 10.0) for index in range(len(labels))]
    split_planning.plan_split(clips, None, backgrounds=[], num_videos=50, seed=0, settings=settings)
    assert len(calls) < 50
