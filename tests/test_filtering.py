"""Filtering of plans: each rule rejects with its reason."""

import numpy as np
import pytest

from dataset_builders.pseudo_untrimmed.filtering import PlanFilter, number_events
from dataset_builders.pseudo_untrimmed.planning import Plan


def unit(angle):
    radians = np.deg2rad(angle)
    return [np.cos(radians), np.sin(radians)]


EMBEDDINGS = np.array([unit(0), unit(60), unit(120), unit(5)])  # cosines: 0-1 0.5, 0-2 -0.5, 1-2 0.5, 0-3 0.996
DURATIONS = np.array([10.0, 10.0, 10.0, 4.0])


def reject(clips, scales=100, **rules):
    width = len(clips)
    plan = Plan.gapless(
        np.array([0]), np.array([clips]), np.where(np.array([clips]) >= 0, scales, -1).reshape(1, width)
    )
    return str(PlanFilter(DURATIONS, np.arange(4), EMBEDDINGS, **rules)(plan)[0])


def test_incoherent_sequences_are_rejected_by_the_mean_cosine():
    assert reject([0, 1, 2, -1], coherence_threshold=0.16) == ""  # (0.5 - 0.5 + 0.5) / 3 = 0.167
    assert reject([0, 1, 2, -1], coherence_threshold=0.17) == "incoherent"
    assert reject([0, 1, -1, -1], coherence_threshold=0.45) == ""


def test_a_repeated_clip_does_not_make_a_video_more_coherent():
    assert reject([0, 2, 0, -1], coherence_threshold=0.0) == "incoherent"


def test_two_similar_events_are_ambiguous():
    assert reject([0, 1, 3], ambiguity_threshold=0.9) == "ambiguous"
    assert reject([0, 1, 0], ambiguity_threshold=0.9) == ""


def test_a_repeated_adjacent_event_is_rejected():
    assert reject([0, 0, 1]) == "event_follows_itself"
    assert reject([0, 1, -1, -1]) == ""  # padding is ignored


def test_durations_out_of_range_are_rejected():
    assert reject([0, 1, 3], duration_range=(0, 24)) == ""
    assert reject([0, 1, 3], duration_range=(0, 23.9)) == "duration_out_of_range"
    assert reject([0, 1, 3], scales=50, duration_range=(12.1, 100)) == "duration_out_of_range"


def test_many_plans_are_filtered_as_single_ones():
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 4, size=(9000, 5))
    plan = Plan.gapless(np.arange(9000), clips, np.full((9000, 5), 100))
    rules = PlanFilter(DURATIONS, np.arange(4), EMBEDDINGS, coherence_threshold=0.3, ambiguity_threshold=0.9)
    together = rules(plan)
    assert {"", "incoherent", "ambiguous", "event_follows_itself"} >= set(together)
    for row in range(0, 9000, 450):
        assert rules(plan.take(slice(row, row + 1)))[0] == together[row]


def test_thresholds_on_cosines_need_embeddings():
    with pytest.raises(ValueError, match="need embeddings"):
        PlanFilter(DURATIONS, np.arange(4), coherence_threshold=0.3)


def test_captions_equal_up_to_case_and_punctuation_are_one_event():
    assert number_events(["A dog barks.", "a dog barks", "A dog  barks!", "A dog barked."]).tolist() == [0, 0, 0, 1]
