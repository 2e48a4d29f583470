"""Ranks and neurons that a variable needs: against fits on the rows, brute force, and planted numbers of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, OrthogonalMatchingPursuit, Ridge
from sklearn.metrics import r2_score

from probes.geometry.dimensions import (
    by_components,
    by_neurons,
    by_rank,
    reduced_rank,
    select_neurons,
    smallest_sufficient,
)
from probes.solvers.moments import Moments


def correlated(n: int, features: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x, correlated and off centre, and noisy linear outputs of it; the law is the same for every seed."""
    law, rng = np.random.default_rng(99), np.random.default_rng(seed)
    mixing, coef = law.normal(size=(features, features)), law.normal(size=(features, outputs))
    x = rng.normal(size=(n, features)) @ mixing + 3
    return x, x @ coef - 7 + 3 * rng.normal(size=(n, outputs))


def r_squared(probe: object, x: np.ndarray, y: np.ndarray) -> float:
    return r2_score(y, np.asarray(probe.predict(x)).reshape(y.shape), multioutput="variance_weighted")


# --- against the rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 10.0])
def test_neurons_are_scored_as_ridge_on_their_columns_is(alpha: float) -> None:
    x, y = correlated(60, 12, 3)
    x_new, y_new = correlated(40, 12, 3, seed=1)
    table = by_neurons(Moments.of(x, y), Moments.of(x_new, y_new), alpha=alpha)
    assert table.k.tolist() == [1, 2, 4, 8, 12]
    for row in table.itertuples():
        assert len(set(row.neurons)) == row.k
        columns = list(row.neurons)
        expected = r_squared(Ridge(alpha=alpha).fit(x[:, columns], y), x_new[:, columns], y_new)
        assert row.score == pytest.approx(expected, abs=1e-9)
    assert table.score.iloc[-1] == pytest.approx(table.full.iloc[0], abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 10.0])
@pytest.mark.parametrize("outputs", [1, 3])
def test_each_neuron_is_the_one_that_helps_most(outputs: int, alpha: float) -> None:
    """Brute force: every candidate beside those chosen, fitted on the rows."""
    x, y = correlated(60, 12, outputs)
    neurons = select_neurons(Moments.of(x, y), 12, alpha=alpha).tolist()
    assert sorted(neurons) == list(range(12))

    def cost(columns: list[int]) -> float:
        probe = Ridge(alpha=alpha).fit(x[:, columns], y)
        return np.square(y - probe.predict(x[:, columns]).reshape(y.shape)).sum() + alpha * np.square(probe.coef_).sum()

    for k in range(12):
        costs = {j: cost([*neurons[:k], j]) for j in range(12) if j not in neurons[:k]}
        assert neurons[k] == min(costs, key=costs.get)


@pytest.mark.parametrize("seed", range(5))
def test_the_rule_residual_is_scikit_learns_orthogonal_matching_pursuit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 30)) @ (np.eye(30) + 0.2 * rng.normal(size=(30, 30)))
    x = (x - x.mean(0)) / x.std(0)
    y = x[:, :8] @ rng.normal(size=8) + 0.5 * rng.normal(size=200)
    neurons = select_neurons(Moments.of(x, y[:, None]), 10, alpha=0.0, rule="residual")
    for k in range(1, 11):
        theirs = OrthogonalMatchingPursuit(n_nonzero_coefs=k).fit(x, y)
        assert set(neurons[:k].tolist()) == set(np.flatnonzero(theirs.coef_).tolist())


def test_gain_sees_a_neuron_that_another_hides() -> None:
    """Neuron 1 holds all that neuron 0 leaves open, under three times as much of what neuron 0 holds already."""
    rng = np.random.default_rng(0)
    shared, rest, noise = rng.normal(size=(3, 2000))
    x = np.stack([shared, rest - 3 * shared, rest + noise], 1)
    train = Moments.of(x, (shared + rest / 2)[:, None])
    assert select_neurons(train, 2).tolist() == [0, 1]
    assert select_neurons(train, 2, rule="residual").tolist() == [0, 2]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("alpha", [0.0, 30.0])
def test_no_map_of_its_rank_is_better(rank: int, alpha: float) -> None:
    """A numerical search over factors of that rank finds the same least cost, and the same map."""
    x, y = correlated(50, 5, 4)
    train = Moments.of(x, y)
    probe = reduced_rank(train, rank, alpha)
    assert np.linalg.matrix_rank(probe.coef, tol=1e-8) == rank
    x0, y0 = x - x.mean(0), y - y.mean(0)

    def cost(factors: np.ndarray) -> tuple[float, np.ndarray]:
        left, right = factors[: 5 * rank].reshape(5, rank), factors[5 * rank :].reshape(rank, 4)
        error = x0 @ left @ right - y0
        slope = 2 * x0.T @ error + 2 * alpha * left @ right
        value = np.square(error).sum() + alpha * np.square(left @ right).sum()
        return value, np.concatenate([(slope @ right.T).ravel(), (left.T @ slope).ravel()])

    starts = np.random.default_rng(0).normal(size=(5, 9 * rank))
    searches = (minimize(cost, start, jac=True, options={"gtol": 1e-9}) for start in starts)
    best = min(searches, key=lambda search: search.fun)
    ours = np.square(probe(x) - y).sum() + alpha * np.square(probe.coef).sum()
    assert ours == pytest.approx(best.fun, rel=1e-9)
    coef = best.x[: 5 * rank].reshape(5, rank) @ best.x[5 * rank :].reshape(rank, 4)
    np.testing.assert_allclose(probe.coef, coef, atol=1e-4)


def test_ranks_are_scored_as_their_maps_are_on_the_rows() -> None:
    x, y = correlated(50, 6, 5)
    x_new, y_new = correlated(40, 6, 5, seed=1)
    train, validation = Moments.of(x, y), Moments.of(x_new, y_new)
    table = by_rank(train, validation, alpha=2.0)
    assert table.k.tolist() == [1, 2, 4, 5]
    for row in table.itertuples():
        expected = r2_score(y_new, reduced_rank(train, row.k, 2.0)(x_new), multioutput="variance_weighted")
        assert row.score == pytest.approx(expected, abs=1e-9)
    full = r_squared(Ridge(alpha=2.0).fit(x, y), x_new, y_new)
    assert table.full.tolist() == pytest.approx([full] * 4, abs=1e-9)
    assert table.score.iloc[-1] == pytest.approx(full, abs=1e-9)


def test_components_are_scored_as_principal_component_regression_is() -> None:
    x, y = correlated(50, 6, 2)
    x_new, y_new = correlated(40, 6, 2, seed=1)
    table = by_components(Moments.of(x, y), Moments.of(x_new, y_new), (1, 3, 5, 6), alpha=0.0)
    for row in table.itertuples():
        pca = PCA(row.k).fit(x)
        expected = r_squared(LinearRegression().fit(pca.transform(x), y), pca.transform(x_new), y_new)
        assert row.score == pytest.approx(expected, abs=1e-9)


# --- planted truth ---------------------------------------------------------------------------------------------------


def halves(x: np.ndarray, y: np.ndarray) -> tuple[Moments, Moments]:
    half = len(x) // 2
    return Moments.of(x[:half], y[:half]), Moments.of(x[half:], y[half:])


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_a_planted_rank_is_found(rank: int) -> None:
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(4000, 20))
    into, out = (np.linalg.qr(rng.normal(size=(size, rank)))[0] for size in (20, 10))
    y = x @ into @ out.T + 0.05 * rng.normal(size=(4000, 10))
    train, validation = halves(x, y)
    table = by_rank(train, validation, range(1, 11))
    assert smallest_sufficient(table) == rank
    assert (table.control[: rank - 1] < table.score[: rank - 1] / 2).all()
    space = reduced_rank(train, rank).coef
    cosines = np.linalg.svd(np.linalg.qr(into)[0].T @ np.linalg.svd(space)[0][:, :rank])[1]
    assert cosines.min() > 0.999, "the subspace read is the one planted"


def test_classes_on_a_circle_need_two_dimensions_and_a_line_of_numbers_one() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 7, 6000)
    plane = np.linalg.qr(rng.normal(size=(16, 2)))[0]
    angle = 2 * np.pi * classes / 7
    circle = np.stack([np.cos(angle), np.sin(angle)], 1) @ plane.T
    line = ((classes - 3) / 2)[:, None] * plane[:, 0]
    one_hot = classes[:, None] == np.arange(7)
    for points, dimensions in ((circle, 2), (line, 1)):
        x = points + 0.05 * rng.normal(size=(6000, 16))
        table = by_rank(*halves(x, one_hot), range(1, 7))
        assert smallest_sufficient(table) == dimensions
    train, validation = halves(x, one_hot)
    value = np.arange(7.0)[:, None]
    (row,) = by_rank(train.mapped(value), validation.mapped(value)).itertuples()
    assert row.k == 1
    assert row.score > 0.99, "the line carries the number itself"
    assert row.control < row.score - 0.1


@pytest.mark.parametrize("k", [1, 3, 8])
def test_planted_neurons_are_found(k: int) -> None:
    rng = np.random.default_rng(k)
    planted = rng.permutation(64)[:k]
    x = rng.normal(size=(6000, 64)) * rng.uniform(0.1, 10, 64)
    weights = rng.choice([-1, 1], (k, 2)) * rng.uniform(1, 2, (k, 2)) / x[:, planted].std(0)[:, None]
    y = x[:, planted] @ weights + 0.05 * rng.normal(size=(6000, 2))
    table = by_neurons(*halves(x, y), range(1, 17))
    assert set(table.neurons[k - 1]) == set(planted.tolist())
    assert smallest_sufficient(table, 0.99) == k
    assert (table.control[:k] < 0.5 * table.score[:k]).all()
    assert (table.control_low <= table.control).all()
    assert (table.control <= table.control_high).all()


def test_a_rotated_signal_needs_many_neurons_and_one_dimension() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6000, 32))
    y = x @ np.ones((32, 1)) + 0.05 * rng.normal(size=(6000, 1))
    train, validation = halves(x, y)
    assert smallest_sufficient(by_rank(train, validation)) == 1
    assert smallest_sufficient(by_neurons(train, validation, range(1, 33))) == 31


def test_components_tell_where_in_the_variance_a_number_lies() -> None:
    rng = np.random.default_rng(0)
    basis, scales = np.linalg.qr(rng.normal(size=(10, 10)))[0], np.geomspace(10, 0.1, 10)
    latent = rng.normal(size=(6000, 10))
    x = (latent * scales) @ basis.T
    for component in (0, 4, 9):
        y = latent[:, [component]] + 0.05 * rng.normal(size=(6000, 1))
        assert smallest_sufficient(by_components(*halves(x, y), range(1, 11))) == component + 1


def test_noise_needs_nothing() -> None:
    rng = np.random.default_rng(0)
    moments = halves(rng.normal(size=(400, 30)), rng.normal(size=(400, 3)))
    for variant in (by_rank, by_components, by_neurons):
        table = variant(*moments)
        assert table.score.max() < 0.05
        assert smallest_sufficient(table) is None


# --- the tables ------------------------------------------------------------------------------------------------------


def test_controls_are_drawn_from_the_seed() -> None:
    moments = halves(*correlated(100, 12, 2))
    for variant in (by_rank, by_components, by_neurons):
        pd.testing.assert_frame_equal(variant(*moments, seed=3), variant(*moments, seed=3))
        assert not variant(*moments, seed=3).control[:1].equals(variant(*moments, seed=4).control[:1])
        single = variant(*moments, draws=1)
        assert single.control_low.equals(single.control_high)


def test_tables_of_all_kinds_stack() -> None:
    moments = halves(*correlated(100, 12, 2))
    table = pd.concat([by_rank(*moments), by_components(*moments), by_neurons(*moments)])
    assert set(table.groupby("probe").apply(smallest_sufficient).index) == {
        "reduced rank",
        "principal components",
        "neurons",
    }
    with pytest.raises(ValueError, match=r"no or several measurements; give the rows of one.*group the table first"):
        smallest_sufficient(table)


def test_the_smallest_sufficient_number_reaches_its_share() -> None:
    table = pd.DataFrame({"probe": "neurons", "full": 0.8, "k": [1, 2, 4, 8], "score": [0.3, 0.77, 0.75, 0.8]})
    assert smallest_sufficient(table) == 2
    assert smallest_sufficient(table, 1.0) == 8
    assert smallest_sufficient(table, 0.3) == 1
    assert smallest_sufficient(table[:1]) is None
    assert smallest_sufficient(table.assign(full=-0.1)) is None
    with pytest.raises(ValueError, match=r"share = 95 must be above 0 and at most 1"):
        smallest_sufficient(table, 95)


def test_dependent_neurons_come_last() -> None:
    x, y = correlated(60, 6, 1)
    x = np.concatenate([x, x[:, :2], np.ones((60, 1))], 1)
    assert sorted(select_neurons(Moments.of(x, y), 9).tolist()) == list(range(9))
    with pytest.raises(ValueError, match=r"only 6 neurons are linearly independent, not 7; ask for fewer or pass alph"):
        select_neurons(Moments.of(x, y), 7, alpha=0.0)
    with pytest.raises(ValueError, match="activations are linearly dependent and nothing is penalized; pass alpha > 0"):
        by_rank(Moments.of(np.zeros((60, 3)), y), Moments.of(np.zeros((60, 3)), y), alpha=0.0)


def test_rounding_of_large_dependent_activations_is_no_error() -> None:
    """An embedding of few tokens, large, its sums taken in single precision: some eigenvalues come out far below 0."""
    rng = np.random.default_rng(0)
    embedding = 30 * rng.normal(size=(8, 40)).astype(np.float32)
    tokens = rng.integers(0, 8, 20_000)
    x, y = embedding[tokens], np.eye(8)[tokens]
    exact = Moments.of(x, y)
    noise = rng.normal(size=(40, 40)) * 1e-6 * exact.scatter.diagonal().max()
    rounded = replace(exact, scatter=exact.scatter + noise + noise.T)
    assert rounded.spectrum[0][0] < -10, "far below the penalty"
    for measured in (by_rank, by_components, by_neurons):
        table = measured(rounded, exact, alpha=1.0, draws=2)
        expected = measured(exact, exact, alpha=1.0, draws=2)
        assert table.full.iloc[0] == pytest.approx(expected.full.iloc[0], abs=1e-3)
        assert table.score.iloc[-1] == pytest.approx(1.0, abs=1e-3)


def test_what_cannot_be_measured_is_refused() -> None:
    train, validation = halves(*correlated(60, 6, 2))
    cases = [
        (lambda: by_rank(train, validation, [3]), r"k = 3: there are 2 ranks \(6 features, 2 outputs\); ask for one"),
        (lambda: by_neurons(train, validation, [1, 7]), "k = 7: there are 6 neurons; ask for one or more of 1 to 6"),
        (lambda: by_components(train, validation, []), "no k: there are 6 principal components; ask for one or more"),
        (lambda: by_neurons(train, validation, [0]), "k = 0: there are 6 neurons"),
        (lambda: by_rank(train, validation, alpha=-1.0), "alpha = -1.0 must be 0 or more"),
        (lambda: by_rank(train, validation, draws=0), "draws = 0: the control needs 1 or more"),
        (lambda: by_neurons(train, validation, rule="best"), "rule = 'best'; expected one of gain, residual"),
        (lambda: by_rank(train, validation.mapped(np.eye(2)[:, :1])), "validation has 6 features and 1 outputs, train"),
        (lambda: by_rank(replace(train, n=1.0), validation), "1 rows; a probe needs 2 or more"),
        (lambda: by_rank(replace(train, yy=np.zeros(2)), validation), "the outputs are constant; there is nothing to"),
        (lambda: by_rank(train, replace(validation, yy=np.zeros(2))), "validation outputs are constant; a score needs"),
        (
            lambda: reduced_rank(replace(train, scatter=np.full((6, 6), np.nan)), 1),
            "squared activations are not finite",
        ),
        (lambda: reduced_rank(train, 3), "k = 3: there are 2 ranks"),
    ]
    for call, text in cases:
        with pytest.raises(ValueError, match=text):
            call()
