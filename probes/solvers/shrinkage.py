"""Shrinkage of a covariance matrix towards a multiple of the identity: by a given amount, or by one estimated."""

from __future__ import annotations

import numpy as np


def shrink_towards_identity(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    """Shrink a covariance [d, d] towards its mean variance, by a `shrinkage` of 0 (not at all) to 1 (completely).

        (1 - shrinkage) * covariance + shrinkage * trace(covariance) / d * identity,

    as scikit-learn's `shrunk_covariance`, plus 1e-9 of the mean variance, which keeps it invertible against rounding.
    Where nothing is shrunk it is 1e-9 of each one's own variance, so that features may differ in scale; those whose
    variance is rounding of the largest (1e-15 of it) count as constant.
    """
    variance = np.trace(covariance) / len(covariance)
    own = np.diag(covariance)
    out = (1 - shrinkage) * covariance
    rounding = variance if shrinkage else np.where(own > 1e-15 * own.max(), own, variance)
    out[np.diag_indices_from(out)] += shrinkage * variance + 1e-9 * rounding + 1e-30
    return out


def oas_shrinkage(covariance: np.ndarray, n: int) -> np.ndarray:
    """Shrink a covariance [d, d] of n rows towards its mean variance, by the oracle approximating shrinkage.

    The amount that minimizes the expected squared error for Gaussian rows (Chen, Wiesel, Eldar & Hero 2010, arXiv
    0907.4698), as scikit-learn's `OAS` has it. With m = trace(covariance) / d, and s the mean of the squared entries:

        shrinkage = (s + m^2) / ((n + 1) * (s - m^2 / d)), at most 1
    """
    d = len(covariance)
    mean, square = np.trace(covariance) / d, (covariance**2).mean()
    excess = (n + 1) * (square - mean**2 / d)
    shrinkage = min((square + mean**2) / excess, 1.0) if excess > 0 else 1.0
    return (1 - shrinkage) * covariance + shrinkage * mean * np.eye(d)
