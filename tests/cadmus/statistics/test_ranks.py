"""Rank correlation within blocks: against scipy, and on planted truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from cadmus.statistics.ranks import block_spearman


def planted(seed: int, slope: float, blocks: int = 5, levels: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    level = np.tile(np.arange(levels), blocks)
    block = np.repeat(np.arange(blocks), levels)
    return level, slope * level + rng.normal(size=len(level)) + 10 * rng.normal(size=blocks)[block], block


def test_it_is_the_mean_of_scipys_over_blocks() -> None:
    level, value, block = planted(0, 0.4)
    ours = block_spearman(level, value, block)
    theirs = [spearmanr(level[block == b], value[block == b]).statistic for b in range(5)]
    assert ours.rho == pytest.approx(np.mean(theirs))
    assert ours.low < ours.rho < ours.high
    assert ours.blocks == 5
    assert ours == block_spearman(level, value, block)


def test_differences_between_blocks_do_not_matter() -> None:
    level, value, block = planted(1, 0.4)
    assert block_spearman(level, value + 1000 * block, block) == block_spearman(level, value, block)


def test_a_perfect_order_has_an_interval_and_a_p_value() -> None:
    level, _, block = planted(0, 1)
    perfect = block_spearman(level, 3.0 * level, block)
    assert perfect.rho == pytest.approx(1)
    assert perfect.high == 1
    assert 0 < perfect.low < 0.9
    assert perfect.p < 0.001


def test_levels_that_differ_for_reasons_of_their_own_are_no_order_where_they_are_permuted_alike() -> None:
    """200 tables: 5 % within 4 standard errors; permuted block by block, far more are positive."""
    n_positive = np.zeros(2)
    for seed in range(200):
        level, value, block = planted(seed, 0.0)
        value = value + 2 * np.random.default_rng([seed, 1]).normal(size=5)[level]
        for k, strata in enumerate((np.zeros(len(level)), None)):
            n_positive[k] += block_spearman(level, value, block, strata=strata, draws=199).p <= 0.05
    assert n_positive[0] <= 23
    assert n_positive[1] > 40


def test_nothing_to_order() -> None:
    level, value, block = planted(2, 1)
    assert np.isnan(block_spearman(level * 0, value, block).rho)
    flat = block_spearman(level, value * 0, block)
    assert (flat.rho, flat.p) == (0, 1)
    one = block_spearman(level[:5], value[:5], block[:5])
    assert np.isnan(one.low)
    with pytest.raises(ValueError, match=r"expected \[n\]"):
        block_spearman(level, value[:3], block)


@pytest.mark.parametrize(("levels", "blocks"), [(5, 5), (3, 10), (4, 10)])
def test_the_interval_holds_the_truth_whatever_rho_is(levels: int, blocks: int) -> None:
    rng = np.random.default_rng(0)
    level, block = np.tile(np.arange(levels), blocks), np.repeat(np.arange(blocks), levels)
    many = np.tile(np.arange(levels), 4000), np.repeat(np.arange(4000), levels)
    for slope in (0.0, 0.5, 1.0, 2.0, 4.0):
        truth = block_spearman(many[0], slope * many[0] + rng.normal(size=4000 * levels), many[1], draws=1).rho
        tables = [
            block_spearman(level, slope * level + rng.normal(size=len(level)), block, draws=1) for _ in range(300)
        ]
        assert np.mean([table.low <= truth <= table.high for table in tables]) >= 0.88, (slope, truth)


def test_false_positives_are_as_stated_and_the_interval_covers() -> None:
    """200 tables: 5 % within 4 standard errors; the truth is the mean over many blocks."""
    n_positive = sum(block_spearman(*planted(seed, 0.0), draws=199).p <= 0.05 for seed in range(200))
    assert 2 <= n_positive <= 23
    truth = block_spearman(*planted(0, 0.5, blocks=4000), draws=1).rho
    results = [block_spearman(*planted(seed, 0.5), draws=1) for seed in range(200)]
    assert 0.88 <= np.mean([row.low <= truth <= row.high for row in results]) <= 0.995
