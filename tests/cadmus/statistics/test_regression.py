"""Regression with few clusters: against its definition, against statsmodels, and on planted truth."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import statsmodels.api as sm

from cadmus.statistics import regression


def planted(
    seed: int, cells: int = 6, seeds: int = 5, effect: float = 0.5, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, x and clusters: an intercept, a predictor between cells and one within; cells differ by themselves."""
    rng = np.random.default_rng(seed)
    cell = np.repeat(np.arange(cells), seeds)
    between = np.linspace(-1, 1, cells)[cell] + 0.05 * rng.normal(size=len(cell))
    x = np.column_stack([np.ones(len(cell)), between, rng.normal(size=len(cell))])
    y = x @ [1, effect, 0.2] + spread * rng.normal(size=cells)[cell] + rng.normal(size=len(cell))
    return y, x, cell


def test_clusters_of_one_row_are_heteroskedasticity_robust_hc2() -> None:
    y, x, _ = planted(0)
    by_row = regression.cluster_robust(y, x, np.arange(len(y)))
    assert np.allclose(by_row.estimate, sm.OLS(y, x).fit().params)
    assert np.allclose(by_row.error, sm.OLS(y, x).fit(cov_type="HC2").bse)


def test_clusters_bring_errors_near_those_of_statsmodels_where_they_are_many() -> None:
    y, x, cell = planted(1, cells=200)
    ours = regression.cluster_robust(y, x, cell)
    theirs = sm.OLS(y, x).fit(cov_type="cluster", cov_kwds={"groups": cell})
    assert np.allclose(ours.error, theirs.bse, rtol=0.03)
    assert ours.freedom[1] > 80


def test_degrees_of_freedom_are_few_where_clusters_are() -> None:
    """With predictors that are constant in equal clusters, at most clusters - 2."""
    y, x, cell = planted(2, cells=5)
    freedom = regression.cluster_robust(y, x[:, :2], cell).freedom
    assert 1 < freedom[1] < 3.5


@pytest.mark.parametrize("seed", range(4))
def test_random_intercepts_are_those_of_statsmodels(seed: int) -> None:
    y, x, cell = planted(seed, cells=30, spread=1.5)
    ours = regression.random_intercepts(y, x, cell, between_columns=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sm.MixedLM(y, x, groups=cell).fit(reml=True, method=["lbfgs"])
    assert np.allclose(ours.coefficients.estimate, theirs.fe_params, atol=1e-4)
    assert ours.between == pytest.approx(theirs.cov_re[0, 0], rel=1e-2)
    assert ours.within == pytest.approx(theirs.scale, rel=1e-2)
    assert np.allclose(ours.coefficients.error, theirs.bse_fe, rtol=0.05)
    assert (ours.coefficients.freedom == 28).all()


def test_random_intercepts_of_cells_that_do_not_differ_are_least_squares() -> None:
    for seed in range(20):
        y, x, cell = planted(seed, spread=0.0)
        ours = regression.random_intercepts(y, x, cell, between_columns=1)
        if ours.between == 0:
            assert np.allclose(ours.coefficients.error, sm.OLS(y, x).fit().bse)
            return
    pytest.fail("no table at the boundary")


@pytest.mark.parametrize("cells", [4, 8])
def test_the_bootstrap_is_that_of_its_definition(cells: int) -> None:
    """Against a plain loop: residuals under the tested value, weighted, refitted, studentized."""
    y, x, cell = planted(3, cells=cells)
    bootstrap = regression.wild_cluster(y, x, 1, cell, draws=999)
    weights = regression._weights(cells, 0, 999)
    rest = np.delete(x, 1, 1)
    restricted = rest @ np.linalg.lstsq(rest, y, rcond=None)[0]

    def statistic(values: np.ndarray) -> float:
        fit = np.linalg.lstsq(x, values, rcond=None)[0]
        scores = (x @ np.linalg.inv(x.T @ x)[:, 1]) * (values - x @ fit)
        return fit[1] / np.sqrt(sum(scores[cell == g].sum() ** 2 for g in range(cells)))

    observed = abs(statistic(y))
    drawn = [abs(statistic(restricted + w[cell] * (y - restricted))) for w in weights]
    assert bootstrap.p == pytest.approx((1 + np.sum(np.array(drawn) >= observed)) / 1000)


def test_the_bootstraps_interval_holds_what_is_not_rejected() -> None:
    y, x, cell = planted(4, cells=7, effect=3.0, spread=0.3)
    bootstrap = regression.wild_cluster(y, x, 1, cell)
    assert bootstrap.p < 0.05
    assert 0 < bootstrap.low < bootstrap.estimate < bootstrap.high
    for bound, inside in ((bootstrap.low, 1), (bootstrap.high, -1)):
        for shift, rejected in ((0.02 * inside, False), (-0.02 * inside, True)):
            shifted = y - (bound + shift) * x[:, 1]
            assert (regression.wild_cluster(shifted, x, 1, cell).p <= 0.05) == rejected
    assert bootstrap == regression.wild_cluster(y, x, 1, cell), "fixed by its seed"


def test_two_clusters_never_reject() -> None:
    y, x, cell = planted(5, cells=2)
    bootstrap = regression.wild_cluster(y, x[:, :2], 1, cell)
    assert bootstrap.p > 0.05
    assert (bootstrap.low, bootstrap.high) == (-np.inf, np.inf)


def test_intervals_cover_a_planted_effect_with_few_cells() -> None:
    """150 tables, so that 5 % are within 4 standard errors of 7 %; docs/generalization.md has the large version."""
    n_covered = np.zeros(3)
    for seed in range(150):
        y, x, cell = planted(seed)
        robust = regression.cluster_robust(y, x, cell)
        mixed = regression.random_intercepts(y, x, cell, 1).coefficients
        wild = regression.wild_cluster(y, x, 1, cell, draws=399)
        bounds = [(robust.low[1], robust.high[1]), (mixed.low[1], mixed.high[1]), (wild.low, wild.high)]
        n_covered += [low <= 0.5 <= high for low, high in bounds]
    assert (n_covered / 150 > 0.89).all(), n_covered
    assert (n_covered / 150 < 0.995).all(), n_covered


def test_partial_r_squared_by_hand() -> None:
    y, x, _ = planted(6)
    without = sm.OLS(y, x[:, [0, 2]]).fit().ssr
    assert regression.partial_r_squared(y, x, 1) == pytest.approx(1 - sm.OLS(y, x).fit().ssr / without)
    assert np.isnan(regression.partial_r_squared(x[:, 0] * 3, x, 1)), "nothing is left to explain"


def test_collinearity() -> None:
    rng = np.random.default_rng(0)
    apart = np.linalg.qr(rng.normal(size=(50, 3)) - 0.0)[0]
    apart -= apart.mean(0)
    apart = np.linalg.qr(apart)[0]
    assert np.allclose(regression.variance_inflation(apart), 1, atol=0.2)
    assert regression.condition_number(apart) < 1.3
    alike = np.column_stack([apart, apart[:, 0] + 0.01 * rng.normal(size=50)])
    assert regression.variance_inflation(alike)[0] > 50
    assert regression.condition_number(alike) > 10
    same = np.column_stack([apart, apart[:, 0] + apart[:, 1]])
    assert np.isinf(regression.variance_inflation(same)[3])
    assert np.isinf(regression.condition_number(np.column_stack([apart, np.ones(50)])))
    theirs = sm.OLS(alike[:, 0], sm.add_constant(alike[:, 1:])).fit().rsquared
    assert regression.variance_inflation(alike)[0] == pytest.approx(1 / (1 - theirs))


def test_cells_that_are_left_out_are_predicted_by_the_others() -> None:
    y, x, cell = planted(7, effect=5.0, spread=0.1)
    predicted, mean = regression.left_out_predictions(y, x, cell)
    rows = cell == 2
    others = np.linalg.lstsq(x[~rows], y[~rows], rcond=None)[0]
    assert np.allclose(predicted[rows], x[rows] @ others)
    assert np.allclose(mean[rows], y[~rows].mean())
    assert regression.left_out_r_squared(y, x, cell) > 0.5
    noise = np.random.default_rng(0).normal(size=len(y))
    assert regression.left_out_r_squared(noise, x, cell) < 0.3
    assert np.isnan(regression.left_out_r_squared(y[cell < 2], x[cell < 2][:, :2], np.zeros(10)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y, x, c: (y[:-1], x, c), "a regression needs y .n., x .n, k. and clusters .n., not"),
        (lambda y, x, c: (np.where(c == 0, np.nan, y), x, c), "a regression needs finite numbers; leave rows that"),
        (lambda y, x, c: (y, x[:, [0, 1, 1]], c), "3 columns of 30 rows are worth 2: some are sums of others; leave"),
        (lambda y, x, c: (y, x, c * 0), "one cluster has no spread between clusters: two or more are needed"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, message: str) -> None:
    y, x, cell = change(*planted(8))
    with pytest.raises(ValueError, match=message):
        regression.cluster_robust(y, x, cell)
    with pytest.raises(ValueError, match=message):
        regression.wild_cluster(y, x, 1, cell)


def test_too_few_clusters_for_a_mixed_model() -> None:
    y, x, cell = planted(9, cells=2)
    with pytest.raises(ValueError, match="2 clusters are too few for 1 predictors between them: 3 or more are needed"):
        regression.random_intercepts(y, x, cell, 1)
