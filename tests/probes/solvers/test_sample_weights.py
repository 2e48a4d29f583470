"""Weights of rows, in every estimator of ours: 2 is the row twice, 0 no row, as in scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import probes
from probes import (
    DiscriminantProbe,
    LeastSquaresProbe,
    LogisticProbe,
    MLPClassifierProbe,
    MLPRegressorProbe,
    RidgeProbe,
)

CLOSED = [RidgeProbe(2.0), LeastSquaresProbe(2.0), DiscriminantProbe(), DiscriminantProbe(0.2)]
EVERY = [
    *CLOSED,
    LogisticProbe(),
    MLPClassifierProbe(batch_size=10_000, epochs=20),  # all rows at once, as otherwise batches differ
    MLPRegressorProbe(batch_size=10_000, epochs=20),
]
each = pytest.mark.parametrize("probe", EVERY, ids=lambda probe: type(probe).__name__)


def data(probe: BaseEstimator, n: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x [n, 6] off centre and of unlike scales; three classes, or a number."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n)
    x = (np.eye(3, 6)[codes] + rng.normal(size=(n, 6))) * [1, 2, 3, 4, 5, 6] + 7
    if isinstance(probe, RidgeProbe | MLPRegressorProbe):
        return x, codes + rng.normal(size=n)
    return x, np.array(["c", "a", "b"])[codes]


def fit(probe: BaseEstimator, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> BaseEstimator:
    """A fit whose early stopping, where there is one, has data of its own."""
    fitted = clone(probe)
    options = {"validation": data(probe, 60, 1)} if hasattr(probe, "patience") else {}
    return fitted.fit(x, y, sample_weight=weight, **options)


def outputs(probe: BaseEstimator, x: np.ndarray) -> np.ndarray:
    return probe.decision_function(x) if hasattr(probe, "decision_function") else probe._raw(x)


@each
def test_a_weight_is_how_often_a_row_counts_and_0_leaves_it_out(probe: BaseEstimator) -> None:
    x, y = data(probe)
    weight = np.random.default_rng(2).integers(0, 4, len(x))
    assert (weight == 0).sum() > 20
    x[weight == 0] = 1e9  # whatever stands there
    weighted = fit(probe, x, y, weight)
    repeated = fit(probe, x.repeat(weight, 0), y.repeat(weight))
    new, _ = data(probe, 40, 3)
    tolerance = 1e-2 if hasattr(probe, "patience") else 1e-6  # AdamW makes much of rounding
    predict = RidgeProbe.predict if isinstance(probe, RidgeProbe) else outputs
    assert np.allclose(predict(weighted, new), predict(repeated, new), rtol=tolerance, atol=tolerance)
    assert not np.allclose(
        predict(weighted, new), predict(fit(probe, x[weight > 0], y[weight > 0]), new), rtol=0, atol=0.05
    )


@each
def test_equal_weights_are_none(probe: BaseEstimator) -> None:
    """Where a penalty does not set the sum of the losses against that of the coefficients."""
    x, y = data(probe)
    new, _ = data(probe, 40, 3)
    predict = RidgeProbe.predict if isinstance(probe, RidgeProbe) else outputs
    plain = predict(fit(probe, x, y), new)
    for weight in (np.ones(len(x)), np.full(len(x), 1e-3)):
        if weight[0] == 1 or isinstance(probe, DiscriminantProbe | MLPClassifierProbe | MLPRegressorProbe):
            assert np.allclose(predict(fit(probe, x, y, weight), new), plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("probe", "reference"),
    [
        (RidgeProbe(3.0), Ridge(3.0)),
        (LeastSquaresProbe(3.0), RidgeClassifier(3.0)),
        (LogisticProbe(0.5, tol=1e-12), LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000)),
    ],
)
def test_fractional_weights_are_scikit_learns(probe: BaseEstimator, reference: BaseEstimator) -> None:
    x, y = data(probe)
    x = (x - x.mean(0)) / x.std(0)
    weight = np.random.default_rng(4).gamma(1.0, size=len(x))
    weight[:10] = 0
    ours, theirs = probe.fit(x, y, sample_weight=weight), reference.fit(x, y, sample_weight=weight)
    difference = ours.coef_ - theirs.coef_
    if difference.ndim > 1:
        difference -= difference.mean(0)  # what all classes share is free in a softmax
    assert abs(difference).max() < 1e-4
    assert ours.score(x, y, sample_weight=weight) == pytest.approx(theirs.score(x, y, sample_weight=weight), abs=1e-4)


@pytest.mark.parametrize("probe", CLOSED, ids=lambda probe: type(probe).__name__)
def test_weights_piece_by_piece_are_those_all_at_once(probe: BaseEstimator) -> None:
    x, y = data(probe)
    weight = np.random.default_rng(5).gamma(1.0, size=len(x))
    classes = {} if isinstance(probe, RidgeProbe) else {"classes": np.unique(y)}
    pieces = clone(probe)
    for rows in (slice(0, 40), slice(40, 41), slice(41, 150)):
        pieces.partial_fit(x[rows], y[rows], sample_weight=weight[rows], **(classes if rows.start == 0 else {}))
    assert np.allclose(pieces.coef_, fit(probe, x, y, weight).coef_)


@each
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.full(150, -1.0), "Negative values in data passed to `sample_weight`"),
        (
            np.zeros(150),
            "every sample_weight is 0, so that no row is left|at least one non-zero",
        ),
        (np.ones(149), "sample_weight.shape == "),
        (np.full(150, np.nan), "contains NaN"),
        (np.ma.masked_less(np.arange(150.0), 1), "1 entries are masked, and would be read as if they were not"),
    ],
    ids=["negative", "zero", "short", "NaN", "masked"],
)
def test_weights_that_are_none_are_refused(probe: BaseEstimator, weight: np.ndarray, message: str) -> None:
    x, y = data(probe)
    with pytest.raises(ValueError, match=message):
        fit(probe, x, y, weight)


@each
def test_scores_take_weights(probe: BaseEstimator) -> None:
    x, y = data(probe)
    fitted = fit(probe, x, y)
    weight = np.random.default_rng(6).integers(0, 3, len(x))
    metric = r2_score if isinstance(probe, RidgeProbe | MLPRegressorProbe) else accuracy_score
    expected = metric(y.repeat(weight), fitted.predict(x.repeat(weight, 0)))
    assert fitted.score(x, y, sample_weight=weight) == pytest.approx(expected)


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@each
def test_weights_find_their_way_through_a_pipeline(probe: BaseEstimator, routing: None) -> None:
    x, y = data(probe)
    weight = np.random.default_rng(7).integers(0, 3, len(x)).astype(float)
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    pipeline = make_pipeline(
        scaler, clone(probe).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    )
    pipeline.fit(x, y, sample_weight=weight)
    direct = clone(probe).fit(StandardScaler().fit_transform(x), y, sample_weight=weight)
    assert np.array_equal(pipeline.predict(x), direct.predict(StandardScaler().fit_transform(x)))
    results = cross_validate(pipeline, x, y, cv=3, params={"sample_weight": weight}, error_score="raise")
    assert np.isfinite(results["test_score"]).all()


def test_every_estimator_of_the_package_is_tried() -> None:
    estimators = {name for name in probes.__all__ if name.endswith("Probe") and name != "Probe"}
    assert estimators == {type(probe).__name__ for probe in EVERY}
