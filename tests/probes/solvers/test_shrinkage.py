"""Shrunk covariances are scikit-learn's."""

from __future__ import annotations

import numpy as np
from sklearn.covariance import OAS, shrunk_covariance

from probes.solvers.shrinkage import oas_shrinkage, shrink_towards_identity


def covariance(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, d] of mean 0 and of unequal variances, and their covariance [d, d]."""
    x = np.random.default_rng(n).normal(size=(n, d)) * np.linspace(1, 3, d)
    return x, x.T @ x / n


def test_shrinkage_by_a_given_amount_is_scikit_learns() -> None:
    _, cov = covariance(30, 20)
    before = cov.copy()
    for amount in (0.0, 1e-3, 0.3, 1.0):
        assert np.allclose(shrink_towards_identity(cov, amount), shrunk_covariance(cov, amount), atol=1e-7), amount
    assert np.array_equal(cov, before), "the covariance itself was shrunk"
    singular = np.ones((3, 3))
    assert np.linalg.matrix_rank(np.linalg.cholesky(shrink_towards_identity(singular, 0.0)), tol=1e-7) == 3


def test_oracle_approximating_shrinkage_is_scikit_learns() -> None:
    for n, d in ((8, 20), (30, 20), (500, 5)):
        x, cov = covariance(n, d)
        assert np.allclose(oas_shrinkage(cov, n), OAS(assume_centered=True).fit(x).covariance_), (n, d)
    assert np.array_equal(oas_shrinkage(np.eye(3), 10), np.eye(3))
