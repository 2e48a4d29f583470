"""Online code lengths against a plain reference, and on planted truths: a signal compresses, noise does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.stats import multivariate_normal

from probes.controls.codelength import EXPONENTS, FRACTIONS, FREQUENCY_SHARE, online_code_length
from probes.solvers.shrinkage import oas_shrinkage


def planted(n: int, classes: int, distance: float, features: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x [n, features]: each class Gaussian about a centre of its own, that far from the others; y [n, 1]."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    centers = distance / 2**0.5 * np.linalg.qr(rng.normal(size=(features, features)))[0][:classes]
    return (centers[y] + rng.normal(size=(n, features)) + 5).astype(np.float32), y[:, None]


def reference(x: np.ndarray, y: np.ndarray, fractions: tuple[float, ...]) -> np.ndarray:
    """Bits of each label, one row and one class at a time, out of densities: float [n]."""
    classes, x = np.unique(y).tolist(), x.astype(np.float64)
    ends = sorted({int(np.ceil(fraction * len(x) - 1e-9)) for fraction in fractions})
    bits, exponent, first = [], 0.0, 0
    for end in ends:
        rows_of = {c: x[:first][y[:first] == c] for c in classes}
        prior = {c: (len(rows_of[c]) + 0.5) / (first + len(classes) / 2) for c in classes}
        density = fit_densities(x[:first], rows_of)
        costs = np.empty((end - first, len(EXPONENTS)))
        for row in range(first, end):
            logs = {c: log_density(x[row]) for c, log_density in density.items()} or dict.fromkeys(classes, 0.0)
            for k, power in enumerate(EXPONENTS):
                weights = {c: prior[c] * np.exp(power * (logs[c] - max(logs.values()))) for c in classes}
                share = weights[y[row]] / sum(weights.values())
                costs[row - first, k] = -np.log2(0.99 * share + 0.01 * prior[y[row]])
        bits += costs[:, EXPONENTS.index(exponent)].tolist()
        exponent = EXPONENTS[int(costs.mean(0).argmin())] if density else 0.0
        first = end
    return np.array(bits)


def fit_densities(x: np.ndarray, rows_of: dict[int, np.ndarray]) -> dict:
    """For each class, the log density of its rows to come; nothing where there are too few rows or no direction."""
    groups = [rows for rows in rows_of.values() if len(rows)]
    n, d, k = len(x), x.shape[1], len(groups)
    if k < 2 or n - k < 2:
        return {}
    mean, scale = x.mean(0), x.std(0)
    residuals = np.concatenate([rows - rows.mean(0) for rows in groups]) / scale
    within = oas_shrinkage(residuals.T @ residuals / (n - k), n - k) + 1e-5 * np.eye(d)
    means = [(rows.mean(0) - mean) / scale for rows in groups]
    between = sum(len(rows) * np.outer(m, m) for rows, m in zip(groups, means, strict=True))
    values, vectors = eigh(between, within)
    edge = (d**0.5 + (k - 1) ** 0.5) ** 2
    large = values > edge
    if not large.any():
        return {}
    variance = (values[large] - edge) / (n - sum(len(rows) ** 2 for rows in groups) / n)
    basis = vectors[:, large] / scale[:, None]
    densities = {}
    for c, rows in rows_of.items():
        precision = len(rows) + 1 / variance  # of the mean, in units of the variance within
        at = rows.sum(0) @ basis - len(rows) * mean @ basis if len(rows) else np.zeros(len(variance))
        normal = multivariate_normal(at / precision, np.diag(1 + 1 / precision))
        densities[c] = lambda row, normal=normal: normal.logpdf((row - mean) @ basis)
    return densities


@pytest.mark.parametrize(("classes", "distance", "features"), [(3, 3.0, 6), (5, 1.5, 6), (9, 4.0, 4), (4, 0.0, 5)])
def test_it_is_the_plain_reference(classes: int, distance: float, features: int) -> None:
    rng = np.random.default_rng(1)
    x, y = planted(500, min(classes, features), distance, features)
    y = np.where(rng.random(500) < 0.02, rng.integers(0, classes, 500), y[:, 0])  # seldom: some come late
    x = x @ rng.normal(size=(features, features)) * 7
    fractions = (0.05, 0.1, 0.2, 0.5, 1.0)
    cost = online_code_length(x, y[:, None], fractions=fractions)
    expected = reference(x, y, fractions)
    assert cost.rows[:, 0] == pytest.approx(expected, abs=1e-3)
    assert cost.bits[0] == pytest.approx(expected.mean(), abs=1e-4)
    assert cost.uniform[0] == np.log2(len(np.unique(y)))


# --- planted truths --------------------------------------------------------------------------------------------------


def test_well_separated_classes_cost_next_to_nothing() -> None:
    x, y = planted(8000, 8, 12.0)
    cost = online_code_length(x, y)
    assert cost.uniform[0] == 3
    assert cost.by_frequency[0] == pytest.approx(3, abs=0.02)
    assert cost.bits[0] < 0.15, "the first blocks, and 1 % of frequency in the others"
    assert cost.compression[0] > 20


def test_overlapping_classes_cost_their_entropy_given_x() -> None:
    """Two classes at distance 2, and integers along one direction: a code by the truth is hardly shorter."""
    x, y = planted(16_000, 2, 2.0, features=64)
    rng = np.random.default_rng(1)
    numbers = rng.binomial(60, 0.5, 16_000) - 30
    x[:, :] += 3 * numbers[:, None] * np.linalg.qr(rng.normal(size=(64, 1)))[0][:, 0] / 15**0.5
    cost = online_code_length(x, np.stack([y[:, 0], numbers], 1))
    draws = rng.normal(size=200_000) + 1
    assert cost.bits[0] == pytest.approx(np.log2(1 + np.exp(-2 * draws)).mean(), rel=0.06)
    values = np.arange(-30, 31)
    chance = np.exp(-(values**2) / 30)
    measured = 3 * numbers / 15**0.5 + rng.normal(size=16_000)
    posterior = chance * np.exp(-0.5 * (measured[:, None] - 3 * values / 15**0.5) ** 2)
    ideal = -np.log2(posterior[np.arange(16_000), numbers + 30] / posterior.sum(1)).mean()
    assert ideal < cost.bits[1] < ideal + 0.25 < cost.by_frequency[1] - 0.8


@pytest.mark.parametrize("classes", [2, 10, 199])
def test_noise_costs_the_entropy_of_the_label(classes: int) -> None:
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(classes, 2.0))
    y = rng.choice(classes, (8000, 1), p=share)
    x = rng.normal(size=(8000, 48)) @ rng.normal(size=(48, 48)) * rng.gamma(1, 1, (8000, 1))  # heavy tails
    cost = online_code_length(x, y)
    entropy = -(share * np.log2(share)).sum()
    assert entropy - 0.05 < cost.bits[0] < cost.by_frequency[0] + 0.02
    assert cost.by_frequency[0] < entropy + 0.25


def test_a_permuted_label_costs_what_noise_costs_beside_a_planted_one() -> None:
    x, y = planted(6000, 6, 8.0)
    control = np.random.default_rng(0).permutation(y)
    cost = online_code_length(x, np.concatenate([y, control, y % 2], 1))
    assert cost.bits[0] < 0.15 < 2.5 < cost.bits[1] < cost.by_frequency[1] + 0.02
    assert cost.compression[0] > 15 > 1.05 > cost.compression[1]
    alone = online_code_length(x, y % 2)
    assert cost.bits[2] == alone.bits[0], "targets side by side change each other"


def test_little_data_says_less() -> None:
    """The same signal, more of it: bits a label fall, as what is learned once serves longer."""
    bits = [online_code_length(*planted(n, 8, 6.0)).bits[0] for n in (200, 1000, 5000)]
    assert 3.3 > bits[0] > 1.3 * bits[1] > 1.3**2 * bits[2]


# --- rows and blocks -------------------------------------------------------------------------------------------------


def test_targets_have_their_own_rows() -> None:
    x, y = planted(3000, 5, 4.0)
    labels = np.repeat(y, 3, 1)
    defined = np.random.default_rng(0).random(labels.shape) < [0.4, 1.0, 0.7]
    garbage = np.where(defined, labels, 10**9)
    cost = online_code_length(x, garbage, defined)
    assert cost.labels.tolist() == defined.sum(0).tolist()
    assert np.array_equal(np.isnan(cost.rows), ~defined)
    assert cost.bits == pytest.approx(np.nanmean(cost.rows, 0), rel=1e-5)
    assert cost.bits[1] == online_code_length(x, y).bits[0]
    assert cost.bits[0] == pytest.approx(online_code_length(x[defined[:, 0]], y[defined[:, 0]]).bits[0], rel=0.05)


def test_the_first_block_and_classes_to_come_have_their_floor() -> None:
    """The last class appears in the second half only: it costs at most its share of the frequency code."""
    x, y = planted(1000, 4, 8.0)
    y = np.where(np.arange(1000)[:, None] < 500, y % 3, y)
    rows = online_code_length(x, y).rows[:, 0]
    assert rows[:1] == pytest.approx(2.0)
    late = rows[500:][y[500:, 0] == 3]
    assert late.max() <= -np.log2(FREQUENCY_SHARE * 0.5 / 502) + 1e-4
    assert late.min() > 1
    assert rows[500:][y[500:, 0] != 3].mean() < 0.6


def test_no_program_is_both_learned_from_and_coded() -> None:
    """Labels and activations of a program are its own, and 40 rows repeat them: blocks that cut it would code those."""
    rng = np.random.default_rng(0)
    programs = np.arange(100).repeat(40)
    x = rng.normal(size=(100, 30)).repeat(40, 0)
    y = rng.integers(0, 100, 100).repeat(40)[:, None]
    fractions = (*(np.arange(1, 21) / 20 - 0.005).tolist(), 1.0)  # amid a program all, but the last
    whole = online_code_length(x, y, programs=programs, fractions=fractions)
    cut = online_code_length(x, y, fractions=fractions)
    within, within_cut = (np.ptp(cost.rows.reshape(100, 40), axis=1) for cost in (whole, cut))
    assert within.max() < 1e-5, "a block ended within a program"
    assert (within_cut > 1).sum() >= 15
    assert cut.bits[0] < whole.bits[0]


def test_activations_are_shifted_and_scaled_at_will() -> None:
    x, y = planted(2000, 4, 3.0)
    x = x.astype(np.float64)
    expected = online_code_length(x, y).bits[0]
    constant = np.concatenate([x, np.full((2000, 1), 3.0)], 1)
    assert online_code_length(1000 * x - 77, y).bits[0] == pytest.approx(expected, abs=1e-3)
    assert online_code_length(x * np.logspace(-3, 3, 24), y).bits[0] == pytest.approx(expected, abs=1e-3)
    assert np.isfinite(online_code_length(constant, y).bits[0])
    exact = online_code_length(np.eye(4)[y[:, 0]], y)  # no variance within classes at all
    assert exact.bits[0] < 0.1


def test_features_that_were_constant_so_far_say_nothing() -> None:
    """Neurons that fire late: until then, sums of squares about the mean of all rows leave rounding, of either sign."""
    x, y = planted(3000, 4, 2.0)
    late = np.zeros((len(x), 12))
    late[2500:] = np.random.default_rng(0).normal(size=(500, 12)) + np.linspace(0.1, 3, 12)
    cost = online_code_length(np.concatenate([x, late], 1), y)
    assert cost.bits[0] == pytest.approx(online_code_length(x, y).bits[0], abs=0.1)


def test_what_cannot_be_coded_is_an_error() -> None:
    x, y = planted(100, 3, 3.0)
    with pytest.raises(ValueError, match=r"target 1 has 1 classes \(\[7\]\) where 2 are needed; leave it out"):
        online_code_length(x, np.concatenate([y, np.full_like(y, 7)], 1))
    with pytest.raises(ValueError, match=r"target 0 has 0 classes \(\[\]\) where 2 are needed; leave it out"):
        online_code_length(x, y, np.zeros(y.shape, np.bool_))
    with pytest.raises(ValueError, match=r"activations \(100, 24\), labels \(99, 1\), defined \(99, 1\); expected"):
        online_code_length(x, y[1:])
    with pytest.raises(ValueError, match="labels are float64, defined bool; expected integers and bool"):
        online_code_length(x, y.astype(float))
    with pytest.raises(ValueError, match=r"activations are not finite in \d+ of 100 rows; leave those rows out"):
        online_code_length(np.where(x > 7, np.inf, x), y)
    with pytest.raises(ValueError, match="the rows of a program do not follow one another; sort the rows by program"):
        online_code_length(x, y, programs=np.arange(100) % 7)
    with pytest.raises(ValueError, match=r"programs have shape \(7,\); expected one for each of 100 rows"):
        online_code_length(x, y, programs=np.arange(7))
    for fractions in ((), (0.5,), (0.5, 0.2, 1.0), (0.0, 1.0)):
        with pytest.raises(ValueError, match="expected to rise from above 0 to 1"):
            online_code_length(x, y, fractions=fractions)
    assert FRACTIONS[-1] == 1
    cost = online_code_length(x, y)
    assert replace(cost, bits=cost.uniform).compression.tolist() == [1.0]
    assert repr(cost) == "CodeLength(1 targets, 100 rows)"
