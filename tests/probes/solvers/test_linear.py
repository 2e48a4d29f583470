"""Closed-form probes from sums against scikit-learn on the rows, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score

from probes.solvers.bank import Bank
from probes.solvers.linear import ALPHAS, SHRINKAGES, Linear, discriminant, ridge, solve_ridge
from probes.solvers.moments import Moments
from probes.solvers.rows import BatchLabels


def regression(n: int, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """x [n, 6], correlated and off centre, and two linear targets of it with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)) @ np.random.default_rng(99).normal(size=(6, 6)) + 3
    y = x @ np.random.default_rng(98).normal(size=(6, 2)) - 7 + noise * rng.normal(size=(n, 2))
    return x, y


def classes(n: int, seed: int = 0, classes: int = 4, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """x [n, 6] in Gaussian classes of unequal share, and their codes [n]."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(97).normal(size=(classes, 6))
    share = np.arange(1.0, classes + 1)
    codes = np.concatenate([np.arange(classes), rng.choice(classes, n - classes, p=share / share.sum())])
    mixing = np.random.default_rng(96).normal(size=(6, 6))
    return centers[codes] + spread * rng.normal(size=(n, 6)) @ mixing + 20, codes


def one_hot(codes: np.ndarray, classes: int = 4) -> np.ndarray:
    return np.eye(classes)[codes]


# --- ridge -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1e-2, 1.0, 30.0, 1e4])
def test_ridge_is_scikit_learns(alpha: float) -> None:
    x, y = regression(80)
    probe, expected = ridge(Moments.of(x, y), (alpha,)), Ridge(alpha=alpha).fit(x, y)
    assert probe.coef.shape == (6, 2)
    assert np.allclose(probe.coef, expected.coef_.T, atol=1e-8)
    assert np.allclose(probe.intercept, expected.intercept_, atol=1e-7)
    assert np.allclose(probe(x), expected.predict(x), atol=1e-7)
    assert probe.penalty.tolist() == [alpha, alpha]
    assert probe(x.astype(np.float32)).dtype == np.float32


def test_the_penalty_matters_where_it_is_compared() -> None:
    weak, strong = (ridge(Moments.of(*regression(80)), (alpha,)).coef for alpha in (1e-2, 1e4))
    assert np.abs(weak - strong).max() > 0.1


def test_validation_chooses_the_best_penalty_for_each_target() -> None:
    """One target is clean, the other mostly noise: the second wants a stronger penalty."""
    x, y = regression(30)
    x_new, y_new = regression(500, seed=1)
    for values, rng in ((y, np.random.default_rng(5)), (y_new, np.random.default_rng(6))):
        values[:, 1] = 0.02 * values[:, 1] + rng.normal(size=len(values))
    probe = ridge(Moments.of(x, y), validation=Moments.of(x_new, y_new))
    for target in range(2):
        peers = [Ridge(alpha).fit(x, y[:, target]) for alpha in ALPHAS]
        losses = [((peer.predict(x_new) - y_new[:, target]) ** 2).sum() for peer in peers]
        best = int(np.argmin(losses))
        assert len(set(losses)) == len(ALPHAS)
        assert probe.penalty[target] == ALPHAS[best]
        assert np.allclose(probe.coef[:, target], peers[best].coef_, atol=1e-9)
        assert np.allclose(probe.intercept[target], peers[best].intercept_, atol=1e-7)
    assert probe.penalty[0] < probe.penalty[1]


def test_numbers_of_one_mask_are_probed_at_once_from_streamed_sums() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(-50, 51, (3000, 2))
    x = (y @ rng.normal(size=(2, 8)) + 4 * rng.normal(size=(3000, 8)) + 300).astype(np.float32)
    defined, mask_of = rng.random((3000, 2)) < [0.5, 1.0], np.array([0, 0, 1])
    banks = []
    for part in (slice(0, 2000), slice(2000, 3000)):
        rows = BatchLabels.of(y[part][:, [0, 1, 1]], defined[part], mask_of)
        banks.append(Bank(8, mask_of).update(x[part], rows))
    probe = ridge(banks[0].numbers([0, 1]), validation=banks[1].numbers([0, 1]))
    train = defined[:, 0] & (np.arange(3000) < 2000)
    for target in range(2):
        expected = Ridge(probe.penalty[target]).fit(x[train].astype(float), y[train, target])
        assert np.allclose(probe.coef[:, target], expected.coef_, atol=1e-4 * abs(expected.coef_).max())
        assert np.allclose(probe(x)[:, target], expected.predict(x), atol=0.02)


def test_without_a_penalty_it_is_least_squares_of_least_norm() -> None:
    x, y = regression(80)
    x = np.concatenate([x, x[:, :2]], 1)  # singular
    probe, expected = solve_ridge(Moments.of(x, y), 0.0), LinearRegression().fit(x, y)
    assert np.allclose(probe.coef, expected.coef_.T, atol=1e-7)
    assert solve_ridge(Moments.of(np.zeros((9, 3)), y[:9]), 0.0).coef.tolist() == np.zeros((3, 2)).tolist()


def test_ridge_refuses_what_it_cannot_fit() -> None:
    x, y = regression(20)
    with pytest.raises(ValueError, match="8 penalties need validation data to choose from; pass validation= or one"):
        ridge(Moments.of(x, y))
    y[:, 1] = 4.5
    with pytest.raises(ValueError, match=r"output 1 is constant \(4\.5\); there is nothing to probe"):
        ridge(Moments.of(x, y), (1.0,))
    with pytest.raises(ValueError, match="1 rows; a probe needs 2 or more"):
        ridge(Moments.of(x[:1], y[:1]), (1.0,))
    for penalties in ((), (1.0, -1.0), (float("nan"),)):
        with pytest.raises(ValueError, match=r"penalties \(.*\) must be one or more numbers, 0 or more"):
            ridge(Moments.of(x, y), penalties)
    with pytest.raises(ValueError, match=r"alpha = -1\.0 must be 0 or more"):
        solve_ridge(Moments.of(x, y), -1.0)
    x[3, 3] = np.inf
    with np.errstate(invalid="ignore"):
        broken = Moments.of(x, y)
    with pytest.raises(ValueError, match="the sums of squared activations are not finite; leave out or scale down"):
        ridge(broken, (1.0,))


def test_maps_are_put_side_by_side() -> None:
    x, y = regression(40)
    parts = [ridge(Moments.of(x, y[:, [target]]), (alpha,)) for target, alpha in ((0, 2.0), (1, 5.0), (0, 9.0))]
    whole = Linear.concatenate(parts)
    assert np.allclose(whole(x), np.concatenate([part(x) for part in parts], 1), atol=1e-10)
    assert whole.penalty.tolist() == [2.0, 5.0, 9.0]
    assert repr(whole) == "Linear(6 features -> 3 outputs)"


def test_a_linear_signal_is_read_and_a_leaked_skeleton_would_show_in_the_score() -> None:
    """The same noise, split by program: the probe remembers the skeletons. That is what the folds prevent."""
    rng = np.random.default_rng(0)
    skeletons = np.arange(60).repeat(10)
    x = rng.normal(size=(60, 64)).repeat(10, 0) + 0.1 * rng.normal(size=(600, 64))
    noise, signal = rng.normal(size=60).repeat(10), 3 * x @ rng.normal(size=64) / 8
    scores = {}
    for split, test in (("program", np.arange(600) % 4 == 0), ("skeleton", skeletons % 4 == 0)):
        for name, y in (("noise", noise), ("signal", signal)):
            probe = ridge(Moments.of(x[~test], y[~test, None]), (1.0,))
            scores[split, name] = r2_score(y[test], probe(x[test])[:, 0])
    assert scores["program", "noise"] > 0.5
    assert scores["skeleton", "noise"] < 0.1
    assert min(scores["program", "signal"], scores["skeleton", "signal"]) > 0.6


# --- discriminant ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shrinkage", [0.0, 1e-3, 0.3, 1.0])
def test_the_discriminant_is_scikit_learns(shrinkage: float) -> None:
    x, codes = classes(300)
    probe = discriminant(Moments.of(x, one_hot(codes)), (shrinkage,))
    expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, codes)
    scores = probe(x)
    posteriors = np.exp(scores - scores.max(1, keepdims=True))
    posteriors /= posteriors.sum(1, keepdims=True)
    assert np.allclose(posteriors, expected.predict_proba(x), atol=1e-6)
    assert np.array_equal(scores.argmax(1), expected.predict(x))
    assert probe.penalty.tolist() == 4 * [shrinkage]


def test_the_shrinkage_is_that_under_which_validation_rows_are_most_likely() -> None:
    for n, expected in ((14, 1e-1), (4000, 1e-5)):
        (x, codes), (x_new, codes_new) = classes(n), classes(500, seed=1)
        train, validation = Moments.of(x, one_hot(codes)), Moments.of(x_new, one_hot(codes_new))
        surprises = []
        for shrinkage in SHRINKAGES:
            means = np.stack([x[codes == k].mean(0) for k in range(4)])
            within = (x - means[codes]).T @ (x - means[codes]) / n
            within = (1 - shrinkage) * within + shrinkage * np.trace(within) / 6 * np.eye(6)
            residuals = x_new - means[codes_new]
            distance = np.einsum("ni,ij,nj->n", residuals, np.linalg.inv(within), residuals)
            surprises.append(distance.mean() + np.linalg.slogdet(within)[1])
        shrinkage = discriminant(train, validation=validation).penalty[0]
        assert shrinkage == SHRINKAGES[int(np.argmin(surprises))]
        assert shrinkage == expected


def test_where_activations_are_all_the_same_the_most_frequent_class_is_said() -> None:
    """The embedding of one token, its sums in single precision: the scatter is rounding, its eigenvalues of either
    sign."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(1, 20)) * 30, 300, 0)
    y = np.eye(2)[(rng.random(300) < 0.7).astype(int)]
    moments = Moments.of(x, y)
    noise = rng.normal(size=(20, 20))
    moments = replace(moments, scatter=1e-4 * (noise + noise.T), xy=1e-8 * rng.normal(size=moments.xy.shape))
    assert (discriminant(moments, validation=moments)(x).argmax(1) == 1).all()


def test_a_covariance_that_is_singular_in_single_precision_needs_more_shrinkage() -> None:
    """One direction, across all features, of a million times the others' spread: a few sums come out negative."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 4000)
    massive = np.linalg.qr(rng.normal(size=(64, 64)))[0][0] * 1e5 * rng.normal(size=(4000, 1))
    x = (rng.normal(size=(4000, 64)) * 1e-3 + massive).astype(np.float32)
    rows = BatchLabels.of(codes[:, None], np.ones((4000, 1), np.bool_), np.zeros(1, int))
    moments = Bank(64, np.zeros(1, int)).update(x, rows).moments(0, np.arange(3))
    with pytest.raises(ValueError, match="the covariance within classes is singular in single precision, shrunk by 0 "):
        discriminant(moments, (0.0,))
    probe = discriminant(moments, (1e-6, 1e-2), validation=moments)
    assert probe.penalty.tolist() == 3 * [1e-2]
    assert np.isfinite(probe.coef).all()


@pytest.mark.parametrize("shrinkages", [(0.1,), SHRINKAGES])
def test_classes_that_do_not_vary_are_told_by_their_nearest_mean(shrinkages: tuple[float, ...]) -> None:
    """The embedding of a token, where positions are told otherwise: each class is one point."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, 400)
    points = rng.normal(size=(5, 64)).astype(np.float32)
    moments = Moments.of(points[codes], codes[:, None] == np.arange(5))
    probe = discriminant(moments, shrinkages, moments if len(shrinkages) > 1 else None)
    assert (probe(points + 1e-3 * rng.normal(size=points.shape)).argmax(1) == np.arange(5)).all()


def test_the_discriminant_refuses_what_it_cannot_fit() -> None:
    x, codes = classes(40)
    with pytest.raises(ValueError, match="one class only; there is nothing to probe"):
        discriminant(Moments.of(x, one_hot(0 * codes)), (0.1,))
    with pytest.raises(ValueError, match="class 4 has no training rows; leave it out"):
        discriminant(Moments.of(x, one_hot(codes, 5)), (0.1,))
    with pytest.raises(ValueError, match="5 penalties need validation data to choose from"):
        discriminant(Moments.of(x, one_hot(codes)))
