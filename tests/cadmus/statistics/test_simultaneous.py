"""Bounds over many cells, clustered two ways: they cover the truth together, and corrections equal known ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from cadmus.statistics import simultaneous
from cadmus.statistics.proportions import wilson

TRUTH = np.concatenate([np.zeros(30), np.full(8, 0.05), np.full(6, 0.4), np.full(4, 0.85)])


def planted_differences(
    seed: int, pairs: int, bases: int, sources: int, shared: float = 0.3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Success minus a control, whose mean is TRUTH, alike within a base, within a source and over cells of one pair."""
    rng = np.random.default_rng(seed)
    base, source = rng.integers(0, bases, pairs), rng.integers(0, sources, pairs)
    by_base = rng.normal(size=(len(TRUTH), bases))[:, base]
    by_source = rng.normal(size=(len(TRUTH), sources))[:, source]
    own = rng.normal(size=(len(TRUTH), pairs))
    latent = shared**0.5 * (by_base + by_source) + (1 - 2 * shared) ** 0.5 * own
    uniform = norm.cdf(0.8 * latent + 0.6 * rng.normal(size=pairs))
    control = rng.random(uniform.shape) < 0.1
    return (uniform < TRUTH[:, None] + 0.1).astype(float) - control, base, source


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pairs", "bases", "sources"),
    [(300, 150, 150), (200, 5000, 5000), (240, 40, 5000), (300, 60, 60)],
    ids=["shared", "unshared", "one way", "few skeletons"],
)
def test_bounds_cover_all_cells_at_once(pairs: int, bases: int, sources: int) -> None:
    """95 % over 200 data sets (4 standard errors are 6 %); each cell alone, all would be covered half the time."""
    all_inside, one_at_a_time = 0, 0
    for seed in range(200):
        values, base, source = planted_differences(seed, pairs, bases, sources)
        bounds = simultaneous.two_way(values, np.ones(values.shape, bool), base, source, seed=seed, resamples=500)
        all_inside += ((bounds.low <= TRUTH) & (bounds.high >= TRUTH)).all()
        naive = 1.96 * values.std(1) / pairs**0.5
        one_at_a_time += (abs(values.mean(1) - TRUTH) <= naive).all()
        assert np.allclose(bounds.estimate, values.mean(1))
    assert all_inside / 200 >= 0.90
    assert one_at_a_time / 200 < 0.60


def test_bounds_are_no_wider_than_they_must_be() -> None:
    """Pairs that share nothing: the error is the plain one (a bootstrap of both ways would have three times the
    variance), and 48 independent cells take 3.27 of them, as Sidak says."""
    values, _, _ = planted_differences(0, 400, 2, 2, shared=0)
    rows = np.arange(400)
    bounds = simultaneous.two_way(values, np.ones(values.shape, bool), rows, rows)
    assert bounds.critical == pytest.approx(norm.isf((1 - 0.95 ** (1 / 48)) / 2), abs=0.06)
    plain = values.std(1) / 400**0.5
    assert ((bounds.error[30:] / plain[30:] > 0.97) & (bounds.error[30:] / plain[30:] < 1.10)).all()
    one = simultaneous.two_way(values[:1], np.ones((1, 400), bool), rows, rows)
    assert one.critical == pytest.approx(1.96, abs=0.06)


def test_p_values_say_what_the_bounds_say() -> None:
    values, base, source = planted_differences(3, 260, 100, 100)
    bounds = simultaneous.two_way(values, np.ones(values.shape, bool), base, source)
    for threshold in (-0.1, 0.05, 0.3, 0.5):
        assert ((bounds.p_above(threshold) <= 0.05) == (bounds.low > threshold)).all()
        assert ((bounds.p_below(threshold) <= 0.05) == (bounds.high < threshold)).all()
    assert (bounds.p_alone(0.05) <= bounds.p_above(0.05)).all()


def test_cells_have_pairs_of_their_own() -> None:
    values, base, source = planted_differences(1, 300, 200, 200)
    mask = np.random.default_rng(0).random(values.shape) < 0.6
    mask[5] = False
    filled = np.where(mask, values, np.nan)  # what the mask hides is not looked at
    bounds = simultaneous.two_way(filled, mask, base, source)
    assert np.isnan(bounds.estimate[5])
    assert np.isnan(bounds.low[5])
    assert np.isnan(bounds.p_above(0.05)[5])
    assert bounds.n.tolist() == mask.sum(1).tolist()
    assert bounds.estimate[7] == pytest.approx(values[7, mask[7]].mean())
    without = np.delete(np.arange(len(values)), 5)
    again = simultaneous.two_way(values[without], mask[without], base, source)
    assert np.array_equal(bounds.low[without], again.low)


def test_where_nothing_differs_a_cluster_is_a_trial() -> None:
    zeros, mask = np.zeros((1, 400)), np.ones((1, 400), bool)
    rows = np.arange(400)
    alone = simultaneous.two_way(zeros, mask, rows, rows)
    assert 0.005 < alone.high[0] < 0.02  # Wilson's is 0.0095
    assert alone.low[0] == -alone.high[0]
    shared = simultaneous.two_way(zeros, mask, rows // 10, rows)
    assert shared.high[0] > 5 * alone.high[0]
    assert shared.clusters[0] == 40
    few = simultaneous.two_way(zeros, mask, rows // 20, rows)
    assert (few.clusters[0], few.units[0]) == (20, 400)  # pairs are taken instead, and 20 skeletons reported
    assert simultaneous.shares(zeros, mask, rows // 20, rows)[0].clusters == 20
    many = simultaneous.two_way(np.zeros((100, 400)), np.ones((100, 400), bool), rows, rows)
    assert many.high[0] > 2 * alone.high[0]


def test_shares_have_wilsons_interval_clustered_both_ways() -> None:
    rng = np.random.default_rng(0)
    rows, mask = np.arange(300), np.ones((1, 300), bool)
    correct = rng.random((1, 300)) < 0.7
    cell = simultaneous.shares(correct, mask, rows, rows)[0]
    low, high = wilson(correct.sum(), 300)
    assert (cell.low, cell.high) == (pytest.approx(low, abs=2e-3), pytest.approx(high, abs=2e-3))
    assert cell.estimate == correct.mean()
    alike = np.repeat(rng.random((1, 50)) < 0.7, 6, 1)
    cell = simultaneous.shares(alike, mask, rows // 6, rows)[0]
    low, high = wilson(alike.sum() / 6, 50)
    assert (cell.low, cell.high) == (pytest.approx(low, abs=5e-3), pytest.approx(high, abs=5e-3))
    perfect = simultaneous.shares(np.ones((1, 300)), mask, rows // 6, rows)[0]
    assert (perfect.low, perfect.high) == (pytest.approx(50 / (50 + 1.96**2), abs=1e-4), 1)
    empty = simultaneous.shares(correct, ~mask, rows, rows)[0]
    assert np.isnan([empty.estimate, empty.low, empty.high]).all()


def test_holm_by_hand() -> None:
    assert simultaneous.holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert simultaneous.holm(np.array([0.4, 0.7])) == pytest.approx([0.8, 0.8])
    assert simultaneous.holm(np.array([0.6, 0.6])) == pytest.approx([1, 1])
    adjusted = simultaneous.holm(np.array([[0.02, np.nan], [0.01, 0.5]]))
    assert adjusted[0, 0] == pytest.approx(0.04)
    assert np.isnan(adjusted[0, 1])
    assert len(simultaneous.holm(np.array([]))) == 0


def test_what_does_not_fit_is_told() -> None:
    rows, mask = np.arange(3), np.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"shape \(3,\) and their mask \(2, 3\); expected \[cells, pairs\]"):
        simultaneous.two_way(np.zeros(3), mask, rows, rows)
    with pytest.raises(ValueError, match=r"sources have shape \(2,\); expected one for each of 3 pairs"):
        simultaneous.two_way(np.zeros((2, 3)), mask, rows, rows[:2])
    with pytest.raises(ValueError, match=r"outside -1 \.\.\. 1"):
        simultaneous.shares(np.full((2, 3), 2), mask, rows, rows)
    with pytest.raises(ValueError, match=r"outside -1 \.\.\. 1"):
        simultaneous.two_way(np.full((2, 3), np.nan), mask, rows, rows)
