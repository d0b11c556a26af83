"""Mixes data sets by weight: a weight is the number of passes over a source in one epoch of the mixture."""

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from datasets import Dataset, concatenate_datasets


def mixture_order(num_rows: Mapping[str, int], weights: Mapping[str, float], *, seed: int = 0) -> np.ndarray:
    """The rows of one epoch, shuffled: `(num_mixed,)` positions in the sources as concatenated in the given order.

    With weight 1 each row of a source occurs once, and with weight 2 twice. With 0.25 a random quarter of the rows
    occurs once. With 1.5 all rows occur once and a random half of them again. Fractions of a row are rounded up, so
    that a source with a positive weight has at least one row.

    Raises:
        ValueError: a source without a weight, a weight without a source, a negative weight, or nothing to mix.

    >>> sorted(mixture_order({"a": 2, "b": 4}, {"a": 2, "b": 0.5}, seed=1).tolist())[:4]
    [0, 0, 1, 1]
    """
    if set(num_rows) != set(weights):
        raise ValueError(f"sources {sorted(num_rows)} but weights for {sorted(weights)}")
    wrong = {name: weight for name, weight in weights.items() if not (weight >= 0 and math.isfinite(weight))}
    if wrong:
        raise ValueError(f"weights must be finite and not negative: {wrong}")
    offsets = dict(zip(num_rows, np.cumsum([0, *num_rows.values()]).tolist()))
    parts = [np.empty(0, np.int64)]
    for position, (name, num) in enumerate(sorted(num_rows.items())):
        rng = np.random.default_rng([seed, position])
        passes, rest = divmod(Fraction(str(weights[name])), 1)
        drawn = rng.permutation(num)[: math.ceil(rest * num)]
        parts += [offsets[name] + np.tile(np.arange(num), int(passes)), offsets[name] + np.sort(drawn)]
    order = np.concatenate(parts)
    if not len(order):
        raise ValueError(f"nothing to mix: rows {dict(num_rows)}, weights {dict(weights)}")
    return order[np.random.default_rng([seed, len(num_rows)]).permutation(len(order))]


def mix(datasets: Mapping[str, Dataset], weights: Mapping[str, float], *, seed: int = 0) -> Dataset:
    """The mixture as one data set, its rows in the order of `mixture_order`. All inputs need the same columns."""
    order = mixture_order({name: len(dataset) for name, dataset in datasets.items()}, weights, seed=seed)
    return concatenate_datasets(list(datasets.values())).select(order)
