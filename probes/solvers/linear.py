"""Linear probes in closed form from `probes.solvers.moments.Moments`: ridge regression and the discriminant classifier,
a path of penalties chosen on validation moments; no rows are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, lapack

from probes.solvers.checks import check_finite_sums, check_rows, constant_message
from probes.solvers.moments import Moments
from probes.solvers.shrinkage import shrink_towards_identity

ALPHAS = tuple(10.0**k for k in range(-2, 6))
_NO_VARIANCE = 1e-6  # of the whole variance, or of the square of the mean: what sums in single precision leave of none
SHRINKAGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_CONSTANT = 1e-9  # of the mean square, at most: a variance that is rounding

_Factor = tuple[np.ndarray, bool]  # a Cholesky factor, as `cho_factor` gives it


@dataclass(frozen=True)
class Linear:
    """A fitted map from activations to t outputs: outputs = x @ coef + intercept."""

    coef: np.ndarray
    """float64 [features, t]"""

    intercept: np.ndarray
    """float64 [t]"""

    penalty: np.ndarray
    """float64 [t]: the ridge penalty, or the shrinkage, of each output."""

    @classmethod
    def concatenate(cls, parts: Sequence[Linear]) -> Linear:
        """The outputs of several maps of the same features, one after the other."""
        return cls(
            np.concatenate([part.coef for part in parts], 1),
            np.concatenate([part.intercept for part in parts]),
            np.concatenate([part.penalty for part in parts]),
        )

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Apply the map: x [n, features] -> [n, t], in the dtype of x."""
        return x @ self.coef.astype(x.dtype) + self.intercept.astype(x.dtype)

    def __repr__(self) -> str:
        return f"Linear({self.coef.shape[0]} features -> {self.coef.shape[1]} outputs)"


# --- ridge regression ------------------------------------------------------------------------------------------------


def ridge(train: Moments, alphas: Sequence[float] = ALPHAS, validation: Moments | None = None) -> Linear:
    """Ridge regression of every output, each with the penalty of `alphas` that `choose_penalty` prefers.

    Output k has the weights w and the intercept b, which is not penalized, that minimize scikit-learn's objective

        ||y_k - X w - b||^2 + alpha_k ||w||^2

    Raises ValueError for fewer than 2 rows, constant outputs, sums that are not finite, penalties below 0, and several
    penalties without validation data to choose by.
    """
    _check(train, alphas, validation)
    constant = train.yy <= _CONSTANT * (train.yy + train.n * train.y_mean**2)
    if constant.any():
        k = int(constant.argmax())
        raise ValueError(constant_message(f"output {k}", f"{train.y_mean[k]:g}"))
    if len(alphas) == 1:
        return solve_ridge(train, alphas[0])
    assert validation is not None, "several penalties have validation data, as _check sees to"
    _, vectors = train.spectrum
    rotated = vectors.T @ train.xy
    penalized = np.stack([_penalized(train, alpha) for alpha in alphas], 1)
    best = choose_penalty(train, validation, rotated, penalized)
    # w = V (L + alpha)^-1 V' X'y, as in `solve_ridge`, with an alpha for each output
    coef = vectors @ (rotated / penalized[:, best])
    return Linear(coef, train.y_mean - train.mean @ coef, np.asarray(alphas, float)[best])


def choose_penalty(train: Moments, validation: Moments, rotated: np.ndarray, penalized: np.ndarray) -> np.ndarray:
    """Choose the penalty that leaves the least squared error on the validation rows, output by output.

    In the coordinates of the eigenvectors V of X'X: rotated [features, t] = V' X'y, penalized [features, penalties] =
    eigenvalues + alpha. Returns indices into the penalties: int [t].
    """
    _, vectors = train.spectrum
    scatter, xy, _ = validation.about(train.mean, train.y_mean)
    scatter, xy = vectors.T @ scatter @ vectors, vectors.T @ xy
    errors = np.empty((penalized.shape[1], xy.shape[1]))  # [penalties, t]
    for k in range(len(errors)):
        coef = rotated / penalized[:, k, None]
        # ||y - X w||^2 = w' X'X w - 2 w' X'y + y'y, whose last term all penalties share
        errors[k] = ((scatter @ coef - 2 * xy) * coef).sum(0)
    return errors.argmin(0)


def solve_ridge(train: Moments, alpha: float) -> Linear:
    """Ridge regression with one penalty, constant outputs allowed.

    Minimizes ||y_k - X w - b||^2 + alpha ||w||^2 for each output k; with alpha = 0, of all least-squares solutions that
    of least norm. Raises ValueError for a penalty below 0.
    """
    if not alpha >= 0:  # nan is neither
        raise ValueError(f"alpha = {alpha} must be 0 or more")
    _, vectors = train.spectrum
    # w = (X'X + alpha)^-1 X'y = V (L + alpha)^-1 V' X'y, where X'X = V L V'
    coef = vectors @ ((vectors.T @ train.xy) / _penalized(train, alpha)[:, None])
    return Linear(coef, train.y_mean - train.mean @ coef, np.full(coef.shape[1], float(alpha)))


def _penalized(train: Moments, alpha: float) -> np.ndarray:
    """Eigenvalues of the scatter plus the penalty; infinite (no weight: the least-norm solution) where both are 0."""
    eigenvalues = train.spectrum[0].clip(0)
    penalized = eigenvalues + alpha
    return np.where(penalized > 1e-12 * max(eigenvalues.max(), 1e-300), penalized, np.inf)


# --- the discriminant classifier -------------------------------------------------------------------------------------


def discriminant(train: Moments, shrinkages: Sequence[float] = SHRINKAGES, validation: Moments | None = None) -> Linear:
    """Linear discriminant analysis over one-hot outputs: log posteriors up to a constant, by classes.

    With the share p_k and the mean m_k of each class, x and m_k about the overall mean, and the covariance S within
    classes, shrunk as scikit-learn's `shrinkage` does (`shrink_towards_identity`), the output of class k is

        x' S^-1 m_k - m_k' S^-1 m_k / 2 + log p_k

    Of several shrinkages `choose_shrinkage` takes one. Where activations do not vary within classes at all, as the
    embedding of a digit without its position does not, the nearest mean decides; where they do not vary at all, as that
    of one token, the most frequent class. Raises ValueError for fewer than two classes, for a shrinkage outside 0..1,
    for several without validation data, and where the covariance is singular otherwise, shrunk or not (sums in single
    precision of activations whose variances differ by more than it holds).
    """
    _check(train, shrinkages, validation, maximum=1)
    counts = train.n * train.y_mean
    if (counts > 0).sum() < 2:
        raise ValueError("one class only; there is nothing to probe")
    if (counts == 0).any():
        raise ValueError(f"class {int((counts == 0).argmax())} has no training rows; leave it out")
    means = train.xy / counts  # about the overall mean: [features, classes]
    # S = (X'X - sum over classes of n_k m_k m_k') / n
    within = (train.scatter - means @ train.xy.T) / train.n
    factors = [_factor(shrink_towards_identity(within, shrinkage)) for shrinkage in shrinkages]
    if not any(factors):
        spread, square = np.trace(train.scatter) / train.n, train.mean @ train.mean
        if spread <= _NO_VARIANCE * square:  # so wide a covariance leaves the shares of classes to decide
            factors[-1] = _factor(square * np.eye(len(within)))
        elif np.trace(within) <= _NO_VARIANCE * spread:
            factors[-1] = _factor(np.eye(len(within)) * _NO_VARIANCE * spread / len(within))
    if not any(factors):
        raise ValueError(
            f"the covariance within classes is singular in single precision, shrunk by {max(shrinkages):g} too; "
            "standardize the activations or shrink more"
        )
    best = 0
    if len(shrinkages) > 1:
        assert validation is not None, "several shrinkages have validation data, as _check sees to"
        best = choose_shrinkage(factors, means, train, validation)
    coef = cho_solve(factors[best], means)  # S^-1 m_k
    intercept = np.log(train.y_mean) - 0.5 * (means * coef).sum(0) - train.mean @ coef
    return Linear(coef, intercept, np.full(coef.shape[1], float(shrinkages[best])))


def choose_shrinkage(factors: Sequence[_Factor | None], means: np.ndarray, train: Moments, validation: Moments) -> int:
    """Choose the covariance under which the validation activations are most likely, given their classes.

    factors: of the shrunk covariances, None where one is singular; means [features, classes] about the training mean.
    Returns the index of the factor.
    """
    scatter, xy, _ = validation.about(train.mean, np.zeros_like(train.y_mean))  # xy: sums by class
    counts = validation.n * validation.y_mean
    # the covariance of validation rows about their classes' training means: sum of (x - m)(x - m)' / n
    covariance = (scatter - xy @ means.T - means @ xy.T + (means * counts) @ means.T) / validation.n
    return int(np.argmin([_surprise(factor, covariance) if factor else np.inf for factor in factors]))


def _factor(covariance: np.ndarray) -> _Factor | None:
    try:
        return cho_factor(covariance, lower=True)
    except np.linalg.LinAlgError:  # not positive definite
        return None


def _surprise(factor: _Factor, covariance: np.ndarray) -> float:
    """Twice the mean negative log-likelihood, up to a constant, of Gaussian data with this covariance under the
    factored one, S: trace(S^-1 covariance) + log det S."""
    inverse = np.tril(lapack.dpotri(*factor)[0])  # of S, which is symmetric: half of it will do
    trace = 2 * np.vdot(inverse, covariance) - np.diag(inverse) @ np.diag(covariance)
    return float(trace + 2 * np.log(np.diag(factor[0])).sum())


def _check(
    train: Moments, penalties: Sequence[float], validation: Moments | None, maximum: float = float("inf")
) -> None:
    check_rows(train.n)
    check_finite_sums(train.scatter)
    if not len(penalties) or not all(0 <= penalty <= maximum for penalty in penalties):
        kind, bounds = ("penalties", "0 or more") if maximum > 1 else ("shrinkages", "0 to 1")
        raise ValueError(f"{kind} {tuple(penalties)} must be one or more numbers, {bounds}")
    if len(penalties) > 1 and validation is None:
        raise ValueError(
            f"{len(penalties)} penalties need validation data to choose from; pass validation= or one penalty"
        )
