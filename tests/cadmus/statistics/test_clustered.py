"""Intervals and tests of whole maps: against plain references, and on planted truths that depend within clusters."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from cadmus.statistics import clustered


def ratio(totals: np.ndarray) -> np.ndarray:
    return totals[..., 0] / totals[..., 1]


def r_squared(totals: np.ndarray) -> np.ndarray:
    return 1 - totals[..., 0] / (totals[..., 2] - totals[..., 1] ** 2 / totals[..., 3])


def counts(clusters: int, cells: int, seed: int = 0, size: int = 8) -> np.ndarray:
    """(right, control right, n) of each cluster and cell: float [clusters, cells, 3]; n varies, 0 included."""
    rng = np.random.default_rng(seed)
    n = rng.integers(0, size, (clusters, cells))
    share = rng.beta(1, 1, (clusters, cells))
    return np.stack([rng.binomial(n, share), rng.binomial(n, 0.8 * share), n], 2).astype(float)


# --- many intervals at once ------------------------------------------------------------------------------------------


def plain_bootstrap(sums: np.ndarray, statistic: Callable, resamples: int) -> tuple[float, float, float]:
    """One cell, one draw at a time."""
    rng, clusters, draws = np.random.default_rng(0), len(sums), []
    for _ in range(resamples):
        times = rng.multinomial(clusters, np.full(clusters, 1 / clusters))
        draws.append(statistic((times[:, None] * sums).sum(0)))
    return (statistic(sums.sum(0)), *np.nanpercentile(draws, [2.5, 97.5]))


@pytest.mark.parametrize("chunk", [1 << 23, 700])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_many_cells_are_bootstrapped_as_each_alone(chunk: int, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustered, "_CHUNK", chunk)  # so that cells and draws are cut into pieces
    clustered._resampling_weights.cache_clear()
    sums = counts(40, 7)[..., [0, 2]].astype(dtype)
    intervals = clustered.bootstrap_many(sums, ratio, resamples=101)
    for cell in range(7):
        interval = clustered.bootstrap(sums[:, cell], ratio, resamples=101)
        bounds = (intervals.estimate[cell], intervals.low[cell], intervals.high[cell])
        assert bounds == pytest.approx((interval.estimate, interval.low, interval.high), rel=1e-6)
        assert bounds == pytest.approx(plain_bootstrap(sums[:, cell].astype(float), ratio, 101), rel=1e-6)
        assert intervals.clusters[cell] == (sums[:, cell, 1] > 0).sum() < 40
    clustered._resampling_weights.cache_clear()


def test_r_squared_of_many_cells() -> None:
    rng = np.random.default_rng(0)
    y = 50 + rng.normal(size=(60, 5, 4))
    error = rng.normal(size=y.shape) * [0.1, 0.3, 1, 3]
    rows = np.stack([error**2, y, y**2, np.ones(y.shape)], -1)  # [clusters, rows, cells, 4]
    intervals = clustered.bootstrap_many(rows.sum(1), r_squared)
    skeletons = np.arange(60).repeat(5)
    for cell in range(4):
        interval = clustered.r_squared(y[..., cell].ravel(), (y - error)[..., cell].ravel(), skeletons, np.arange(300))
        assert (interval.estimate, interval.low, interval.high) == pytest.approx(
            (intervals.estimate[cell], intervals.low[cell], intervals.high[cell]), rel=1e-9
        )
    summed = clustered.cluster_sums(rows.reshape(300, 4, 4), skeletons, np.arange(300))
    assert np.allclose(summed, rows.sum(1))


def test_cells_that_few_clusters_have_leave_out_the_draws_without_them() -> None:
    """One of three cells is in 2 of 40 clusters, one in none: in 0.95^40 = 13 % of draws neither is drawn."""
    sums = counts(40, 3)[..., [0, 2]]
    sums[2:, 1] = 0
    sums[:2, 1] = [[1, 4], [3, 4]]
    sums[:, 2] = 0
    intervals = clustered.bootstrap_many(sums, ratio)
    assert intervals.clusters.tolist()[1:] == [2, 0]
    assert (intervals.estimate[1], intervals.low[1], intervals.high[1]) == (0.5, 0.25, 0.75)
    assert np.isnan([intervals.estimate[2], intervals.low[2], intervals.high[2]]).all()
    accuracy = clustered.accuracy_many(sums)
    assert np.isnan([accuracy.estimate[2], accuracy.low[2], accuracy.high[2]]).all()


def test_the_shape_of_sums_is_checked() -> None:
    with pytest.raises(ValueError, match=r"sums have shape \(40, 2\); expected \[clusters, cells, totals\]"):
        clustered.bootstrap_many(np.ones((40, 2)), ratio)
    with pytest.raises(ValueError, match="no clusters to resample: the score rests on no data"):
        clustered.bootstrap_many(np.ones((0, 3, 2)), ratio)
    with pytest.raises(ValueError, match="no clusters to resample: the score rests on no data"):
        clustered.accuracy(np.zeros(0, np.bool_), np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match=r"differences have shape \(40,\); expected \[clusters, cells\]"):
        clustered.sign_flip(np.ones(40))
    with pytest.raises(ValueError, match="no clusters to flip: the differences rest on no data"):
        clustered.sign_flip(np.ones((0, 3)))


def test_accuracies_of_many_cells_are_those_of_each() -> None:
    skeletons, rng = np.arange(35).repeat(4), np.random.default_rng(0)
    correct = rng.random((140, 4)) < [0.5, 0.9, 1.0, 0.0]
    values = np.stack([correct, np.ones(correct.shape)], 2)
    intervals = clustered.accuracy_many(clustered.cluster_sums(values, skeletons, skeletons))
    for cell in range(4):
        interval = clustered.accuracy(correct[:, cell], skeletons, skeletons)
        assert intervals.low[cell] == pytest.approx(interval.low)
        assert intervals.high[cell] == pytest.approx(interval.high)
    assert 0.8 < intervals.low[2] < 1 == intervals.high[2], "a perfect score has Wilson's interval"


def test_simultaneous_bounds_hold_for_all_cells_at_once() -> None:
    """Of 400 maps of 50 cells, in which bounds of single cells nearly always fail somewhere."""
    rng = np.random.default_rng(0)
    estimates = rng.normal(size=(400, 50))
    low = estimates - 1.96
    widened = np.stack([clustered.simultaneous(*row) for row in zip(estimates, low, strict=True)])
    assert (low > 0).any(1).mean() > 0.6
    assert 0.005 <= (widened > 0).any(1).mean() <= 0.06
    assert clustered.simultaneous(estimates[0, :1], low[0, :1]) == pytest.approx(low[0, :1])
    high = clustered.simultaneous(estimates[0], estimates[0] + 1.96)
    assert high - estimates[0] == pytest.approx(estimates[0] - widened[0])


# --- score minus control ---------------------------------------------------------------------------------------------


def test_differences_are_paired() -> None:
    """Score and control hang together: the interval of their difference is far shorter than two intervals are."""
    rng = np.random.default_rng(0)
    n = np.full(100, 10.0)
    control = rng.binomial(10, rng.beta(0.5, 0.5, 100)).astype(float)
    score = np.minimum(control + rng.integers(0, 2, 100), 10)
    sums = np.stack([score, control, n], 1)[:, None]
    intervals = clustered.difference_many(sums)
    interval = clustered.bootstrap(sums[:, 0], lambda t: (t[..., 0] - t[..., 1]) / t[..., 2])
    assert (intervals.estimate[0], intervals.low[0], intervals.high[0]) == pytest.approx(
        (interval.estimate, interval.low, interval.high)
    )
    separate = clustered.accuracy_many(np.stack([sums[..., [0, 2]], sums[..., [1, 2]]], 1)[:, :, 0])
    assert intervals.high[0] - intervals.low[0] < 0.2 * (separate.high - separate.low).sum()


def test_differences_cover_the_truth_where_rows_depend() -> None:
    """300 data sets at once, as cells of their own draws: 95 %, four standard errors of which are 5 %."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(100, 300, 1))
    chance = 1 / (1 + np.exp(-2 * shared))
    n = rng.integers(1, 12, (100, 300))
    correct = rng.binomial(n, np.minimum(1, chance[..., 0] * 0.9 + 0.1))
    control = rng.binomial(n, 0.9 * chance[..., 0])
    intervals = clustered.difference_many(np.stack([correct, control, n], 2).astype(np.float32))
    covered = (intervals.low <= 0.1) & (intervals.high >= 0.1)
    assert 0.90 <= covered.mean() <= 0.99
    rows = clustered.bootstrap_many(np.stack([correct, n], 2), ratio)
    assert 0.90 <= ((rows.low <= 0.55) & (rows.high >= 0.55)).mean() <= 0.99


def test_a_difference_that_is_the_same_everywhere_has_an_interval() -> None:
    n = np.full((40, 4), 5.0)
    correct, control = n * [1, 0, 0.4, 0.8], n * [0, 1, 0.4, 0.6]
    intervals = clustered.difference_many(np.stack([correct, control, n], 2))
    margin = 1.96**2 / (40 + 1.96**2)
    assert intervals.estimate == pytest.approx([1, -1, 0, 0.2])
    assert intervals.low == pytest.approx([1 - margin, -1, -margin, 0.2 - margin], abs=1e-4)
    assert intervals.high == pytest.approx([1, -1 + margin, margin, 0.2 + margin], abs=1e-4)


# --- sign flips ------------------------------------------------------------------------------------------------------


def test_sign_flips_are_those_of_all_signs() -> None:
    """With eight clusters, every one of the 256 flips: the drawn p-values come near the exact ones."""
    rng = np.random.default_rng(0)
    d = rng.integers(-3, 6, (8, 5)).astype(float)
    signs = np.array(list(itertools.product([-1, 1], repeat=8)))
    units = d / np.sqrt((d**2).sum(0))
    exact = (signs @ d >= d.sum(0) - 1e-9).mean(0)
    largest = (signs @ units).max(1)
    familywise = (largest[:, None] >= units.sum(0) - 1e-9).mean(0)
    result = clustered.sign_flip(d, flips=20_000)
    assert result.p == pytest.approx(exact, abs=0.015)
    assert result.familywise == pytest.approx(familywise, abs=0.015)
    assert result.somewhere == result.familywise.min()
    assert (result.familywise >= result.p).all()
    assert exact.min() < 0.1 < 0.5 < exact.max()
    for cell in range(5):
        alone = clustered.sign_flip(d[:, [cell]])
        assert alone.familywise == alone.p, "one cell needs no correction"


def test_sign_flips_in_pieces_are_as_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    d = np.random.default_rng(0).integers(-3, 5, (30, 40)).astype(float)
    at_once = clustered.sign_flip(d)
    monkeypatch.setattr(clustered, "_CHUNK", 4000)
    pieces = clustered.sign_flip(d)
    assert pieces.p == pytest.approx(at_once.p, abs=0.06)
    assert pieces.familywise == pytest.approx(at_once.familywise, abs=0.06)
    assert at_once.p.min() < 0.01


def test_cells_without_data_have_no_p_value() -> None:
    d = np.random.default_rng(0).normal(size=(40, 4)) + 0.5
    d[:, 1] = np.nan
    d[:20, 2] = np.nan  # half of the clusters have none: as if they were 0
    d[:, 3] = 0
    result = clustered.sign_flip(d)
    assert np.isnan(result.p).tolist() == np.isnan(result.familywise).tolist() == [False, True, False, False]
    assert result.p[2] == clustered.sign_flip(np.nan_to_num(d)).p[2]
    assert result.p[3] == 1, "no difference at all"
    assert result.somewhere < 0.05
    assert clustered.sign_flip(np.full((40, 2), np.nan)).somewhere == 1
    assert clustered.sign_flip(d).p[0] == result.p[0], "another result with the same seed"


def noise(seed: int, cells: int, clusters: int = 60) -> np.ndarray:
    """Paired differences whose rows hang together, summed by cluster, of unequal size; cells hang together too."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(clusters, 1))
    return rng.integers(1, 20, (clusters, 1)) * (0.7 * common + rng.normal(size=(clusters, cells)))


def test_noise_is_positive_in_few_seeds() -> None:
    """At level 5 %, at most 16 of 200; where each row counts as a cluster of its own, far more."""
    positive = ignored = 0
    for seed in range(200):
        d = noise(seed, 1)
        positive += clustered.sign_flip(d, flips=1000).p[0] <= 0.05
        ignored += clustered.sign_flip((d / 8).repeat(8, 0), flips=1000).p[0] <= 0.05
    assert positive <= 16
    assert ignored > 40


def test_the_largest_of_a_map_is_corrected_for_its_size() -> None:
    """Of 200 maps of noise few have something somewhere, where most have a cell that is positive by itself."""
    somewhere = alone = 0
    for seed in range(200):
        result = clustered.sign_flip(noise(seed, 40), flips=500)
        somewhere += result.somewhere <= 0.05
        alone += result.p.min() <= 0.05
    assert somewhere <= 16
    assert alone > 100


def test_one_strong_cell_is_found_in_a_map_of_noise() -> None:
    significant = []
    for seed in range(20):
        d = noise(seed, 200)
        d[:, 17] += 15
        result = clustered.sign_flip(d)
        assert result.somewhere <= 0.01
        significant.append(np.flatnonzero(result.familywise <= 0.05).tolist())
    assert all(17 in cells for cells in significant)
    assert sum(cells == [17] for cells in significant) >= 17


# --- false discoveries -----------------------------------------------------------------------------------------------


def test_benjamini_hochberg_is_the_step_up_procedure() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((6, 10)) ** 2
    p[rng.random(p.shape) < 0.2] = np.nan
    adjusted = clustered.benjamini_hochberg(p)
    assert np.array_equal(np.isnan(adjusted), np.isnan(p))
    tested = np.sort(p[~np.isnan(p)])
    for q in (0.05, 0.2, 0.5):
        under = np.flatnonzero(tested <= q * np.arange(1, len(tested) + 1) / len(tested))
        limit = tested[under[-1]] if len(under) else -1
        assert np.array_equal(adjusted <= q, p <= limit)
    assert np.isnan(clustered.benjamini_hochberg(np.full(3, np.nan))).all()
    assert clustered.benjamini_hochberg(np.zeros(0)).shape == (0,)


def test_false_discoveries_are_few_where_four_of_five_cells_are_null() -> None:
    """q = 10 % over 100 maps of 50 cells: on average 8 % of what is found is false. Without correction, far more."""
    false, uncorrected, power = [], [], []
    for seed in range(100):
        d = noise(seed, 50)
        d[:, :10] += 6
        p = clustered.sign_flip(d, seed=seed).p
        positive = clustered.benjamini_hochberg(p) <= 0.1
        false.append(positive[10:].sum() / max(positive.sum(), 1))
        power.append(positive[:10].mean())
        uncorrected.append((p[10:] <= 0.1).sum() / (p <= 0.1).sum())
    assert np.mean(false) < 0.1 + 2 * np.std(false) / 10
    assert np.mean(power) > 0.8
    assert np.mean(uncorrected) > 0.2
