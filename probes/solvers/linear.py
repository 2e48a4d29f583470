"""Linear probes in closed form from `probes.solvers.moments.Moments`: ridge regression and the discriminant classifier,
a path of penalties chosen on validation moments; no rows are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, lapack

from probes.solvers.moments import Moments

ALPHAS = tuple(10.0**k for k in range(-2, 6))
SHRINKAGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_CONSTANT = 1e-9  # of the mean square, at most: a variance that is rounding


@dataclass(frozen=True)
class Linear:
    """A fitted map: outputs = x @ coef + intercept. coef [features, t], intercept [t], penalty [t] as chosen."""

    coef: np.ndarray
    intercept: np.ndarray
    penalty: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[n, features] -> [n, t]."""
        return x @ self.coef.astype(x.dtype) + self.intercept.astype(x.dtype)


def ridge(train: Moments, alphas: Sequence[float] = ALPHAS, validation: Moments | None = None) -> Linear:
    """Ridge regression of every output, scikit-learn's objective (squared error + alpha * |coef|², the intercept free),
    each with the penalty that leaves the least squared error on `validation`.

    Raises ValueError where the rows are fewer than 2, an output is constant, or several penalties have no validation
    data to choose by.
    """
    _check(train, alphas, validation)
    constant = train.yy <= _CONSTANT * (train.yy + train.n * train.y_mean**2)
    if constant.any():
        value = train.y_mean[constant.argmax()]
        raise ValueError(f"output {int(constant.argmax())} is constant ({value:g}); there is nothing to probe")
    if len(alphas) == 1:
        return solve_ridge(train, alphas[0])
    _, vectors = train.spectrum
    rotated, penalized = vectors.T @ train.xy, np.stack([_penalized(train, alpha) for alpha in alphas], 1)
    scatter, xy, _ = validation.about(train.mean, train.y_mean)
    scatter, xy = vectors.T @ scatter @ vectors, vectors.T @ xy
    errors = np.empty((len(alphas), xy.shape[1]))
    for k in range(len(alphas)):
        coef = rotated / penalized[:, k, None]
        errors[k] = ((scatter @ coef - 2 * xy) * coef).sum(0)
    chosen = errors.argmin(0)
    coef = vectors @ (rotated / penalized[:, chosen])
    return Linear(coef, train.y_mean - train.mean @ coef, np.asarray(alphas, float)[chosen])


def solve_ridge(train: Moments, alpha: float) -> Linear:
    """Ridge regression with one penalty, constant outputs allowed. ValueError for a penalty below 0."""
    if not alpha >= 0:  # nan is neither
        raise ValueError(f"alpha = {alpha} must be 0 or more")
    _, vectors = train.spectrum
    coef = vectors @ ((vectors.T @ train.xy) / _penalized(train, alpha)[:, None])
    return Linear(coef, train.y_mean - train.mean @ coef, np.full(coef.shape[1], float(alpha)))


def _penalized(train: Moments, alpha: float) -> np.ndarray:
    """Eigenvalues of the scatter plus the penalty; infinite (no weight: the least-norm solution) where both are 0."""
    eigenvalues = train.spectrum[0].clip(0)
    penalized = eigenvalues + alpha
    return np.where(penalized > 1e-12 * max(eigenvalues.max(), 1e-300), penalized, np.inf)


def discriminant(train: Moments, shrinkages: Sequence[float] = SHRINKAGES, validation: Moments | None = None) -> Linear:
    """Linear discriminant analysis over one-hot outputs: log posteriors up to a constant, by classes.

    The classes share a covariance, shrunk towards a multiple of the identity as scikit-learn's `shrinkage`; of several
    the one under which the validation activations are most likely, given their classes. Raises ValueError for fewer
    than two classes, for a shrinkage outside 0..1, for several without validation data, and where the covariance is
    singular, shrunk or not (sums in single precision of activations whose variances differ by more than it holds).
    """
    _check(train, shrinkages, validation, most=1)
    counts = train.n * train.y_mean
    if (counts > 0).sum() < 2:
        raise ValueError("one class only; there is nothing to probe")
    if (counts == 0).any():
        raise ValueError(f"class {int((counts == 0).argmax())} has no training rows; leave it out")
    means = train.xy / counts  # about the overall mean
    within = (train.scatter - means @ train.xy.T) / train.n
    factors = [_factor(shrink_towards_identity(within, shrinkage)) for shrinkage in shrinkages]
    if not any(factors):
        raise ValueError(
            f"the covariance within classes is singular in single precision, shrunk by {max(shrinkages):g} too; "
            "standardize the activations or shrink more"
        )
    best = 0
    if len(shrinkages) > 1:
        scatter, xy, _ = validation.about(train.mean, np.zeros_like(train.y_mean))  # xy: sums by class
        seen = validation.n * validation.y_mean
        apart = (scatter - xy @ means.T - means @ xy.T + (means * seen) @ means.T) / validation.n
        best = int(np.argmin([_surprise(factor, apart) if factor else np.inf for factor in factors]))
    coef = cho_solve(factors[best], means)
    intercept = np.log(train.y_mean) - 0.5 * (means * coef).sum(0) - train.mean @ coef
    return Linear(coef, intercept, np.full(coef.shape[1], float(shrinkages[best])))


def shrink_towards_identity(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    """The covariance shrunk towards the same variance everywhere, kept invertible against rounding."""
    variance = np.trace(covariance) / len(covariance)
    out = (1 - shrinkage) * covariance
    out[np.diag_indices_from(out)] += shrinkage * variance + 1e-9 * variance + 1e-30
    return out


def _factor(covariance: np.ndarray) -> tuple[np.ndarray, bool] | None:
    try:
        return cho_factor(covariance, lower=True)
    except np.linalg.LinAlgError:  # not positive definite
        return None


def _surprise(factor: tuple[np.ndarray, bool], covariance: np.ndarray) -> float:
    """Twice the mean negative log-likelihood, up to a constant, of Gaussian data with this covariance."""
    inverse = np.tril(lapack.dpotri(*factor)[0])  # of the shrunk one, which is symmetric: half of it will do
    trace = 2 * np.vdot(inverse, covariance) - np.diag(inverse) @ np.diag(covariance)
    return float(trace + 2 * np.log(np.diag(factor[0])).sum())


def _check(train: Moments, penalties: Sequence[float], validation: Moments | None, most: float = float("inf")) -> None:
    if train.n < 2:
        raise ValueError(f"{int(train.n)} rows; a probe needs 2 or more")
    if not np.isfinite(train.scatter).all():
        raise ValueError("the sums of squared activations are not finite; leave out or scale down what is so large")
    if not len(penalties) or not all(0 <= penalty <= most for penalty in penalties):
        what, bounds = ("penalties", "0 or more") if most > 1 else ("shrinkages", "0 to 1")
        raise ValueError(f"{what} {tuple(penalties)} must be one or more numbers, {bounds}")
    if len(penalties) > 1 and validation is None:
        raise ValueError(
            f"{len(penalties)} penalties need validation data to choose from; pass validation= or one penalty"
        )
