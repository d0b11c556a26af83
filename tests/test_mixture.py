"""Mixing sources by weight."""

import collections

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.sources.mixture import mix, mixture_order


def name_rows(num_rows: dict[str, int], weights: dict[str, float], *, seed: int) -> list[tuple[str, int]]:
    """(source, row) of each position of `mixture_order`."""
    named = [(name, index) for name, num in num_rows.items() for index in range(num)]
    return [named[position] for position in mixture_order(num_rows, weights, seed=seed)]


def test_mixture_covers_all_rows_deterministically():
    order = name_rows({"a": 50, "b": 30}, {"a": 1.0, "b": 2.0}, seed=4)
    counts = collections.Counter(order)
    assert {counts["a", index] for index in range(50)} == {1} and {counts["b", index] for index in range(30)} == {2}
    assert order == name_rows({"b": 30, "a": 50}, {"b": 2.0, "a": 1.0}, seed=4)
    assert order != name_rows({"a": 50, "b": 30}, {"a": 1.0, "b": 2.0}, seed=5)
    assert len({name for name, _ in order[:12]}) == 2  # shuffled, not concatenated
    assert order[:4] == [("a", 24), ("a", 0), ("a", 27), ("b", 23)]


@settings(max_examples=100, deadline=None)
@given(
    sources=st.dictionaries(
        st.sampled_from("abcd"),
        st.tuples(st.integers(1, 40), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 1.5, 3.0])),
        min_size=1,
    ),
    seed=st.integers(0, 5),
)
def test_each_row_occurs_as_often_as_its_weight(sources, seed):
    num_rows = {name: num for name, (num, _) in sources.items()}
    weights = {name: weight for name, (_, weight) in sources.items()}
    if not any(weights.values()):
        with pytest.raises(ValueError, match="nothing to mix"):
            mixture_order(num_rows, weights, seed=seed)
        return
    counts = collections.Counter(name_rows(num_rows, weights, seed=seed))
    for name, num in num_rows.items():
        repeats = [counts[name, index] for index in range(num)]
        assert max(repeats) - min(repeats) <= 1 and min(repeats) in (int(weights[name]), int(weights[name]) + 1)
        assert 0 <= sum(repeats) - weights[name] * num < 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"a": 1.0}, "weights for"), ({"a": 1.0, "b": -1.0}, "not negative"), ({"a": 1.0, "b": float("nan")}, "finite")],
)
def test_invalid_weights_are_errors(weights, message):
    with pytest.raises(ValueError, match=message):
        mixture_order({"a": 3, "b": 3}, weights)


def test_mixed_rows_are_the_rows_of_their_sources():
    parts = {
        "a": datasets.Dataset.from_dict({"id": [f"a{index}" for index in range(7)]}),
        "b": datasets.Dataset.from_dict({"id": [f"b{index}" for index in range(5)]}),
    }
    weights = {"a": 1.0, "b": 1.4}
    order = name_rows({"a": 7, "b": 5}, weights, seed=2)
    assert mix(parts, weights, seed=2)["id"] == [f"{name}{index}" for name, index in order]
