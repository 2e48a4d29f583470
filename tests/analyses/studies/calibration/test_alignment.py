"""Hierarchical equality in the study: what is asked is reached, and rates are means of what was measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analyses.studies.calibration import alignment
from analyses.studies.calibration.study import MAX_FLOOR, MAX_NEURON, MIN_ALIGNMENT, targets


@pytest.fixture(scope="module")
def by_hand() -> pd.DataFrame:
    (network,) = [network for network in alignment._networks(1, 0) if network.condition == alignment.HAND]
    return alignment._search_one(network)


def test_a_linear_search_finds_both_variables_and_nothing_else_does(by_hand):
    score = by_hand.groupby("method").score
    assert score.min()["search"] >= MIN_ALIGNMENT
    assert score.min()["boundless search"] >= MIN_ALIGNMENT
    assert score.max()["one neuron"] <= MAX_NEURON
    assert score.max()["untrained"] <= MAX_FLOOR
    assert score.max()["arbitrary labels"] <= MAX_FLOOR
    assert (by_hand.task >= 0.998).all()
    assert (by_hand.score_low <= by_hand.score).all()
    assert (by_hand.score <= by_hand.score_high).all()


def test_rates_are_means_and_are_held_against_what_is_asked(by_hand):
    rows = alignment.rates(by_hand).set_index("instrument")
    part = by_hand[by_hand.method == "search"]
    assert rows.loc["subspace: search", "estimate"] == pytest.approx(part.score.mean())
    assert rows.loc["subspace: search", "n"] == part.pairs.sum()
    table = targets(rows.reset_index()).set_index("name")
    assert list(table.index) == [
        f"{method}, {alignment.HAND}" for method in ("search", "one neuron", "untrained", "arbitrary labels")
    ]
    assert table.passed.all()
    swapped = rows.assign(estimate=1 - rows.estimate).reset_index()
    assert not targets(swapped).passed.iloc[0]


def test_the_interval_of_a_mean_of_shares_covers_it():
    """Bounds of single shares in, bounds of their mean out: as wide as those of the mean of independent draws."""
    rng = np.random.default_rng(0)
    n, p = 400, np.array([0.9, 0.3])
    shares = rng.binomial(n, p, (2000, 2)) / n
    half = 1.96 * np.sqrt(shares * (1 - shares) / n)
    low, high = alignment._mean_interval(shares, shares - half, shares + half)
    assert 0.93 < ((low <= p.mean()) & (p.mean() <= high)).mean() < 0.97
    assert (high - low) / 2 == pytest.approx(np.sqrt(np.square(half).sum(1)) / 2)


@pytest.mark.slow
def test_networks_that_are_trained_reach_what_is_asked():
    table = targets(alignment.rates(alignment.search(1)))
    assert len(table) == 8
    assert table.passed.all()
