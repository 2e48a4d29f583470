"""The estimators against scikit-learn's own, its estimator checks, and one batch after another."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from probes.solvers.estimators import DiscriminantProbe, LeastSquaresProbe, RidgeProbe

PAIRS = [
    (RidgeProbe(3.0), Ridge(3.0)),
    (RidgeProbe(0.0), Ridge(0.0)),
    (LeastSquaresProbe(2.0), RidgeClassifier(2.0)),
    (DiscriminantProbe(0.2), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2)),
    (DiscriminantProbe(), LinearDiscriminantAnalysis(solver="lsqr")),
]


def unreachable_checks(estimator: BaseEstimator) -> dict[str, str]:
    """Those that cannot pass: 15 rows of 30 features have a singular covariance, and what is not shrunk is rounding."""
    if isinstance(estimator, DiscriminantProbe) and not estimator.shrinkage:
        return {"check_sample_weight_equivalence_on_dense_data": "the covariance is singular, and nothing is shrunk"}
    return {}


@parametrize_with_checks(
    [RidgeProbe(), LeastSquaresProbe(), DiscriminantProbe(), DiscriminantProbe(0.1)],
    expected_failed_checks=unreachable_checks,
)
def test_they_are_scikit_learn_estimators(estimator, check) -> None:
    check(estimator)


def data(classes: int, n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """x [n, 5] off centre, and labels that are text, not codes."""
    rng = np.random.default_rng(0)
    codes = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    x = rng.normal(size=(classes, 5))[codes] + rng.normal(size=(n, 5)) @ rng.normal(size=(5, 5)) + 9
    return x, np.array(["c", "a", "d", "b"])[codes]


def same(probe, expected, x: np.ndarray, atol: float = 1e-7) -> bool:
    """Whether two estimators predict alike, by all methods that both have."""
    for name in ("predict", "decision_function", "predict_proba"):
        if not hasattr(probe, name) or not hasattr(expected, name):
            continue
        a, b = getattr(probe, name)(x), getattr(expected, name)(x)
        if a.shape != b.shape or not (np.array_equal(a, b) if a.dtype.kind == "U" else np.allclose(a, b, atol=atol)):
            return False
    return True


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("classes", [2, 4])
def test_they_are_scikit_learns(ours, theirs, classes: int) -> None:
    x, y = data(classes)
    if isinstance(ours, RidgeProbe):
        y = x @ np.random.default_rng(1).normal(size=(5, classes)) - 3
    probe, expected = clone(ours).fit(x, y), theirs.fit(x, y)
    if not isinstance(ours, DiscriminantProbe):
        assert probe.coef_.shape == np.atleast_2d(expected.coef_).shape
        assert np.allclose(probe.coef_, expected.coef_, atol=1e-8)
        assert np.allclose(probe.intercept_, expected.intercept_, atol=1e-6)
        assert same(probe, expected, x)
        return
    assert np.allclose(probe.predict_proba(x), expected.predict_proba(x), atol=1e-6)
    assert np.array_equal(probe.predict(x), expected.predict(x))
    difference = probe.decision_function(x) - expected.decision_function(x)
    assert np.allclose(difference if classes == 2 else difference - difference[:, :1], 0, atol=1e-5)


@pytest.mark.parametrize("probe", [RidgeProbe(), LeastSquaresProbe(), DiscriminantProbe(0.1)])
def test_piece_by_piece_is_all_at_once(probe) -> None:
    x, y = data(4)
    order = np.argsort(y, kind="stable")  # so that classes come one after the other
    x, y = x[order], y[order]
    if isinstance(probe, RidgeProbe):
        y = (y == "a").astype(float)
    classes = {} if isinstance(probe, RidgeProbe) else {"classes": np.unique(y)}
    whole, pieces = clone(probe).fit(x, y), clone(probe)
    for part in (slice(0, 1), slice(1, 30), slice(30, 31), slice(31, 120)):
        pieces.partial_fit(x[part], y[part], **(classes if part.start == 0 else {}))
        assert pieces.predict(x).shape == (120,)
    assert same(pieces, whole, x)
    assert not same(clone(probe).fit(x[:100], y[:100]), whole, x)
    assert same(pieces.fit(x[::2], y[::2]), clone(probe).fit(x[::2], y[::2]), x), "fit starts anew"


def test_numbers_and_targets_keep_their_shape() -> None:
    x, _ = data(2)
    y = x[:, :2] * [2, 3]
    assert RidgeProbe().fit(x, y[:, 0]).predict(x).shape == (120,)
    assert RidgeProbe().fit(x, y[:, :1]).predict(x).shape == (120, 1)
    assert RidgeProbe().fit(x, y).coef_.shape == (2, 5)


@pytest.mark.parametrize("probe", [LeastSquaresProbe(), DiscriminantProbe()])
def test_classes_are_named_in_the_first_call(probe) -> None:
    x, y = data(4)
    with pytest.raises(ValueError, match=r"labels \['d'\] are not among classes_; name all classes in the first call"):
        clone(probe).partial_fit(x, y, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"the labels have one class only \(a\); there is nothing to probe"):
        clone(probe).fit(x, np.full(120, "a"))


def test_a_penalty_below_zero_is_refused() -> None:
    x, y = data(2)
    with pytest.raises(ValueError, match=r"alpha = -1\.0 must be 0 or more"):
        LeastSquaresProbe(-1.0).fit(x, y)


@pytest.mark.parametrize("shrinkage", [-0.1, 1.5, float("nan")])
def test_a_shrinkage_outside_0_to_1_is_refused(shrinkage: float) -> None:
    x, y = data(4)
    with pytest.raises(ValueError, match=r"shrinkages \(.*,\) must be one or more numbers, 0 to 1$"):
        DiscriminantProbe(shrinkage).fit(x, y)
    DiscriminantProbe(1.0).fit(x, y)


@pytest.mark.parametrize(
    "scales", [[1, 1e6, 1, 1, 1], [1, 1e-6, 1, 1e3, 1], [1e-6, 1, 1, 1, 1e6], [1e7, 1, 1, 1, 1], [1e-9, 1, 1, 1, 1e9]]
)
def test_discriminants_without_shrinkage_are_scikit_learns_at_any_scale_of_features(scales: list[float]) -> None:
    x, y = data(3)
    x = (x - x.mean(0)) * scales
    probe, expected = DiscriminantProbe(0).fit(x, y), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.0).fit(x, y)
    assert np.allclose(probe.predict_proba(x), expected.predict_proba(x), atol=1e-6)


def test_a_constant_feature_is_of_no_use_to_a_discriminant() -> None:
    x, y = data(3)
    for constant in (0.0, 0.1, 1e9):
        with_constant = DiscriminantProbe(0).fit(np.column_stack([x, np.full(len(x), constant)]), y)
        new = np.column_stack([x, np.full(len(x), constant)])
        assert np.allclose(with_constant.predict_proba(new), DiscriminantProbe(0).fit(x, y).predict_proba(x), atol=1e-5)
