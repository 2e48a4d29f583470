"""Control labels are permuted within a pair of tokens, uniformly, and by the seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from probes.data.permuted import control_labels


def sequence_data(n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, previous tokens [n] and labels [n, 3] that depend on both."""
    rng = np.random.default_rng(0)
    tokens, previous = rng.integers(0, 12, n), rng.integers(-1, 9, n)
    return tokens, previous, (tokens + previous)[:, None] % 5 + rng.integers(0, 4, (n, 3))


def test_control_labels_keep_the_marginal_of_every_pair_of_tokens() -> None:
    tokens, previous, labels = sequence_data()
    defined = np.random.default_rng(1).random(labels.shape) < [0.3, 0.9, 1.0]
    control = control_labels(labels, tokens, previous, seed=0, defined=defined)
    assert control.dtype == labels.dtype
    assert np.array_equal(control[~defined], labels[~defined]), "a row without a label got one"
    for k in range(3):
        counts = [Counter() for _ in range(2)]
        for count, values in zip(counts, (labels, control), strict=True):
            at = defined[:, k]
            count.update(zip(tokens[at].tolist(), previous[at].tolist(), values[at, k].tolist(), strict=True))
        assert counts[0] == counts[1]
        pairs = Counter(zip(tokens.tolist(), previous.tolist(), strict=True))
        assert len(pairs) > 100
    assert (control != labels)[defined].mean() > 0.5


def test_control_labels_are_uniform_over_the_permutations_of_a_pair() -> None:
    """Four rows of one pair, between rows of another: each of 24 orders comes as often as chance has it."""
    tokens = np.array([3, 3, 7, 3, 3, 7])
    labels = np.array([0, 1, 10, 2, 3, 11])
    orders = Counter()
    for seed in range(2400):
        control = control_labels(labels, tokens, np.zeros(6, int), seed)
        assert sorted(control[tokens == 7].tolist()) == [10, 11]
        orders[tuple(control[tokens == 3].tolist())] += 1
    assert len(orders) == 24
    assert sum((count - 100) ** 2 / 100 for count in orders.values()) < 50  # chi-squared of 23: p = 0.001


def test_variables_are_permuted_each_for_itself_and_by_the_seed() -> None:
    tokens, previous, labels = sequence_data()
    same = np.repeat(labels[:, :1], 2, 1)
    control = control_labels(same, tokens, previous, seed=0)
    assert not np.array_equal(control[:, 0], control[:, 1])
    assert np.array_equal(control, control_labels(same, tokens, previous, seed=0))
    assert not np.array_equal(control, control_labels(same, tokens, previous, seed=1))
    assert np.array_equal(control[:, 0], control_labels(same[:, 0], tokens, previous, seed=0))
    assert np.array_equal(same, np.repeat(labels[:, :1], 2, 1)), "the labels themselves were permuted"


def test_control_labels_need_a_token_for_each_row() -> None:
    message = r"labels \(5, 2\), defined \(5, 2\), tokens \(5,\) and previous tokens \(4,\); "
    with pytest.raises(ValueError, match=message):
        control_labels(np.zeros((5, 2), int), np.zeros(5), np.zeros(4), seed=0)
    assert control_labels(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), seed=0).shape == (0,)
