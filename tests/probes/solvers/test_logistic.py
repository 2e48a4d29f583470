"""The logistic probe against scikit-learn's optimum, one problem at a time and many at once."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.estimator_checks import parametrize_with_checks

from probes.solvers.logistic import LogisticProbe, fit_many, fit_on_validation
from probes.solvers.logistic_solver import Design


def classification(n: int, classes: int, seed: int = 0, sharpness: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """x [n, 8] and labels drawn from a multinomial logistic model of it; labels are -3, -1, 1 ..."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    score = sharpness * x @ np.random.default_rng(97).normal(size=(8, classes)) + rng.gumbel(size=(n, classes))
    return x, 2 * score.argmax(1) - 3


def residual_stream(x: np.ndarray, features: int, seed: int = 0) -> np.ndarray:
    """x as in a residual stream: mixed into more features, far from centred, of scales 0.1 to 30, with noise."""
    rng = np.random.default_rng(seed)
    mixed = x @ rng.normal(size=(x.shape[1], features)) + 0.5 * rng.normal(size=(len(x), features))
    return ((mixed + rng.normal(size=features)) * np.geomspace(0.1, 30, features)).astype(np.float32)


def reference(x: np.ndarray, y: np.ndarray, C: float = 1.0) -> LogisticRegression:
    return LogisticRegression(C=C, solver="newton-cholesky", tol=1e-8).fit(x.astype(np.float64), y)


def losses(probe: LogisticProbe | LogisticRegression, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The mean log-loss, and with the penalty."""
    loss = log_loss(y, probe.predict_proba(x.astype(np.float64)), labels=probe.classes_)
    return loss, loss + float(np.square(probe.coef_.astype(np.float64)).sum()) / (2 * probe.C * len(y))


@parametrize_with_checks([LogisticProbe()])
def test_it_is_a_scikit_learn_estimator(estimator: LogisticProbe, check) -> None:
    check(estimator)


@pytest.mark.parametrize("C", [1e-2, 1e-1, 1.0, 10.0])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_it_is_scikit_learns(classes: int, C: float) -> None:
    x, y = classification(800, classes)
    x_new, _ = classification(2000, classes, seed=1)
    probe, expected = LogisticProbe(C).fit(x, y), reference(x, y, C)
    assert probe.classes_.tolist() == expected.classes_.tolist()
    assert probe.coef_.shape == expected.coef_.shape
    assert probe.intercept_.shape == expected.intercept_.shape
    assert probe.coef_.dtype == np.float32
    loss, objective = losses(probe, x, y)
    expected_loss, expected_objective = losses(expected, x, y)
    assert objective == pytest.approx(expected_objective, abs=1e-5)
    assert loss == pytest.approx(expected_loss, abs=5e-4)  # a slope at the optimum, where the objective has none
    assert np.abs(probe.coef_ - expected.coef_).max() < 0.02 * np.abs(expected.coef_).max()
    assert (probe.predict(x_new) == expected.predict(x_new)).mean() >= 0.99
    assert np.abs(probe.predict_proba(x_new) - expected.predict_proba(x_new)).max() < 0.02
    assert probe.decision_function(x_new).shape == expected.decision_function(x_new).shape
    assert np.allclose(np.exp(probe.predict_log_proba(x_new)).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_small_tolerance_leads_to_the_very_optimum(classes: int) -> None:
    x, y = classification(500, classes)
    x = residual_stream(x, 20).astype(np.float64)
    probe = LogisticProbe(tol=1e-14).fit(x, y)
    labels = probe.classes_ == y[:, None]
    surplus = probe.predict_proba(x) - labels
    surplus = surplus[:, 1:] if classes == 2 else surplus
    assert np.abs(surplus.T @ x + probe.coef_ / probe.C).max() < 1e-3 * np.abs(x).sum(0).max() * 1e-2
    assert np.abs(surplus.sum(0)).max() < 1e-4
    assert np.abs(probe.coef_.sum(0)).max() < 1e-9 or classes == 2, "of all optima, the one of least norm"


def test_badly_scaled_separable_data_need_few_iterations() -> None:
    """Where scikit-learn needs thousands; every third class has few rows."""
    x, y = classification(1500, 6, sharpness=20.0)
    x = residual_stream(x, 40)
    rare = (y % 3 == 0) & (np.arange(len(y)) % 10 > 0)
    x, y = x[~rare], y[~rare]
    probe, expected = LogisticProbe().fit(x, y), LogisticProbe(tol=1e-12, max_iter=3000).fit(x.astype(np.float64), y)
    assert losses(probe, x, y) == pytest.approx(losses(expected, x, y), abs=1e-4)
    assert probe.n_iter_ < 200
    first = LogisticProbe(max_iter=1)
    with pytest.warns(ConvergenceWarning):
        first.fit(x, y)
    assert losses(first, x, y)[1] > losses(expected, x, y)[1] + 0.05


def test_the_constructor_only_stores() -> None:
    probe = LogisticProbe(C=3.0, max_iter=7, tol=0.1)
    assert vars(probe) == {"C": 3.0, "max_iter": 7, "tol": 0.1}


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_warm_start_leads_to_the_same_probe(classes: int) -> None:
    x, y = classification(800, classes)
    x += 5
    cold, strong = LogisticProbe(1.0).fit(x, y), LogisticProbe(0.01).fit(x, y)
    before = strong.coef_.copy()
    warm = LogisticProbe(1.0).fit(x, y, warm_start=strong)
    assert np.abs(warm.coef_ - cold.coef_).max() < 0.02 * np.abs(cold.coef_).max()
    assert np.array_equal(strong.coef_, before), "the start was moved"
    again = LogisticProbe(1.0, max_iter=1).fit(x, y, warm_start=cold)  # one iteration suffices from the solution
    assert np.abs(again.coef_ - cold.coef_).max() < 0.02 * np.abs(cold.coef_).max()
    assert np.abs(LogisticProbe(1.0, max_iter=1).fit(x, y).coef_ - cold.coef_).max() > 0.1 * np.abs(cold.coef_).max()


def test_a_probe_fits_where_gradients_are_off_and_always_alike() -> None:
    x, y = classification(200, 3)
    expected = LogisticProbe().fit(x, y)
    with torch.no_grad():
        assert np.array_equal(LogisticProbe().fit(x, y).coef_, expected.coef_)


def test_the_limit_of_iterations_is_a_warning() -> None:
    x, y = classification(300, 3)
    message = "the solver stopped at its limit of 2 iterations with 3 classes and 300 rows; raise max_iter, standardize"
    with pytest.warns(ConvergenceWarning, match=message):
        probe = LogisticProbe(max_iter=2).fit(x, y)
    assert probe.n_iter_ == 2


def test_constant_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^the labels have one class only \(3\); there is nothing to probe"):
        LogisticProbe().fit(np.zeros((5, 2)), np.full(5, 3))


# --- many at once ----------------------------------------------------------------------------------------------------


def test_many_probes_are_scikit_learns_each() -> None:
    """Sites of several widths; variables of two and more classes, one of them defined at a part of the rows."""
    x, kind = classification(900, 4)
    _, live = classification(900, 2)
    sites = {"early": residual_stream(x, 12), "late": residual_stream(x, 24, seed=1)}
    defined = np.random.default_rng(2).random(900) < 0.6
    variables = {"kind": kind, "live": live, "part": np.ma.array(np.where(defined, kind, 10**6), mask=~defined)}
    probes = fit_many(sites, variables, C=0.3)
    assert list(probes) == [(site, variable) for site in sites for variable in variables]
    for (site, variable), probe in probes.items():
        rows = defined if variable == "part" else np.ones(900, np.bool_)
        x, y = sites[site][rows], np.ma.getdata(variables[variable])[rows]
        expected = reference(x, y, C=0.3)
        assert probe.n_features_in_ == x.shape[1]
        assert losses(probe, x, y) == pytest.approx(losses(expected, x, y), abs=1e-4)
        assert (probe.predict(x) == expected.predict(x)).mean() > 0.99
        assert losses(probe, x, y) == pytest.approx(losses(LogisticProbe(0.3).fit(x, y), x, y), abs=1e-4)


@pytest.mark.parametrize("classes", [2, 5])
def test_equal_rows_are_summed_to_the_same_optimum(classes: int) -> None:
    few, _ = classification(60, 2)
    which = np.random.default_rng(3).integers(60, size=900)
    y = np.random.default_rng(4).integers(classes, size=900) * (which % 3 > 0)  # which differs where rows are equal
    x = few[which]
    assert len(Design.of(torch.from_numpy(x)).x) == len(np.unique(which))
    for probe in (LogisticProbe().fit(x, y), LogisticProbe().fit(x.astype(np.float64), y)):
        assert losses(probe, x, y)[1] == pytest.approx(losses(reference(x, y), x, y)[1], abs=1e-6)
    part = np.ma.array(y, mask=which < 30)  # a mask leaves out whole rows of the design
    masked = fit_many({"site": x}, {"variable": part})["site", "variable"]
    x, y = x[which >= 30], y[which >= 30]
    assert losses(masked, x, y)[1] == pytest.approx(losses(reference(x, y), x, y)[1], abs=1e-6)


def test_rows_of_one_hash_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = classification(300, 3)
    expected = LogisticProbe().fit(x, y)
    monkeypatch.setattr(torch, "randint", lambda high, size, generator: torch.zeros(size, dtype=torch.int64))
    assert len(Design.of(torch.from_numpy(x)).x) == 300
    assert losses(LogisticProbe().fit(x, y), x, y) == pytest.approx(losses(expected, x, y), abs=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same_probes() -> None:
    x, y = classification(900, 5)
    sites = {"site": residual_stream(x, 24)}
    (on_gpu,), (on_cpu,) = (fit_many(sites, {"y": y}, device=device).values() for device in ("cuda", "cpu"))
    assert losses(on_gpu, sites["site"], y) == pytest.approx(losses(on_cpu, sites["site"], y), abs=1e-5)


def test_many_probes_name_the_variable_that_cannot_be_fitted() -> None:
    x, y = classification(50, 3)
    with pytest.raises(ValueError, match=r"variable 'kind' at site 'late': the labels have one class only \(7\); th"):
        fit_many({"late": x}, {"other": y, "kind": np.full(50, 7)})
    with pytest.raises(ValueError, match="variable 'kind' at site 'late': no row is defined"):
        fit_many({"late": x}, {"kind": np.ma.array(y, mask=True)})
    with pytest.raises(ValueError, match="variable 'y' has 50 labels; site 'late' has 49 rows"):
        fit_many({"late": x[:49]}, {"y": y})
    broken = x.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match=re.escape("activations of site 'late' are not finite in 1 of 50 rows")):
        fit_many({"late": broken}, {"y": y})
    with pytest.raises(ValueError, match=re.escape("C = -1; expected a positive number")):
        fit_many({"late": x}, {"y": y}, C=-1)


# --- choosing C, threads ---------------------------------------------------------------------------------------------


def test_validation_chooses_among_penalties() -> None:
    """Few rows, many small features that mean nothing: a weak penalty uses those, a very strong one says one class."""
    rng = np.random.default_rng(0)
    (x, y), (x_new, y_new) = (
        (np.hstack([x, 0.3 * rng.normal(size=(len(x), 100))]), y)
        for x, y in (classification(120, 3), classification(2000, 3, seed=1))
    )
    for penalties, best in [((1e-5, 1e-1), 1e-1), ((1e-1, 1e3), 1e-1), ((1e-5, 1e-1, 1e3), 1e-1), ((1e3,), 1e3)]:
        probe = fit_on_validation(x, y, x_new, y_new, penalties)
        assert best == probe.C
        for C in set(penalties) - {best}:
            assert LogisticProbe(C).fit(x, y).score(x_new, y_new) < probe.score(x_new, y_new) - 0.02
    with pytest.raises(ValueError, match="there is no penalty to fit with"):
        fit_on_validation(x, y, x_new, y_new, ())
