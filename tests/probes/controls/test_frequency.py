"""Majorities and n-grams against plain counting."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from probes.controls.frequency import Majority, NGram


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8])
def test_majority_counts(dtype: type) -> None:
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(0, 40, 500).astype(dtype), rng.integers(-3, 4, 500)
    new_groups = rng.integers(0, 60, 300).astype(dtype)
    expected = {group: most_frequent(labels[groups == group].tolist()) for group in set(groups.tolist())}
    overall = most_frequent(labels.tolist())
    majority = Majority(labels, groups)
    assert majority.overall == overall
    assert majority.predict(new_groups).tolist() == [expected.get(group, overall) for group in new_groups.tolist()]


def test_majority_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no labels to learn the most frequent one from"):
        Majority(np.zeros(0, int), np.zeros(0, int))


def most_frequent(labels: list[int]) -> int:
    """The smallest of the most frequent labels."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


@pytest.mark.parametrize(("order", "min_count"), [(0, 1), (1, 1), (2, 6), (3, 3), (3, 10)])
def test_ngram_counts_and_backs_off(order: int, min_count: int) -> None:
    rng = np.random.default_rng(order)
    x, new = rng.integers(0, 7, (800, 3)), rng.integers(0, 9, (400, 3))
    y = x[:, 0] * x[:, 1] % 5 + rng.integers(0, 2, 800)
    labels_of = defaultdict(list)
    for row, label in zip(x.tolist(), y.tolist(), strict=True):
        for k in range(order + 1):
            labels_of[tuple(row[:k])].append(label)
    expected = []
    n_backed_off = 0
    for row in new.tolist():
        k = max(k for k in range(order + 1) if k == 0 or len(labels_of[tuple(row[:k])]) >= min_count)
        expected.append(most_frequent(labels_of[tuple(row[:k])]))
        n_backed_off += k < order
    assert NGram(order, min_count).fit(x, y).predict(new).tolist() == expected
    assert order == 0 or n_backed_off > 0


def test_ngram_finds_what_three_tokens_give_away() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 6, (400, 20))
    x = np.stack([tokens[:, 4 - back : 20 - back] for back in range(4)], 2).reshape(-1, 4)
    y = (x[:, 0] + 2 * x[:, 1] + 3 * x[:, 2]) % 7
    scores = [NGram(order).fit(x[:5000], y[:5000]).score(x[5000:], y[5000:]) for order in (0, 1, 2, 3, 4)]
    assert scores[3] == 1
    assert max(scores[:3]) < 0.4
    assert scores[4] == 1, "contexts too long are rare; it backs off"


@pytest.mark.filterwarnings("ignore:Skipping check")
def test_ngram_is_an_estimator() -> None:
    check_estimator(NGram())
    with pytest.raises(ValueError, match="order = 3, min_count = 0; expected order >= 0 and min_count >= 1"):
        NGram(min_count=0).fit(np.zeros((4, 3)), np.arange(4))
