"""What every probe refuses, in the same words: too few rows, constant outputs, activations that are not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight, validate_data

FLOATS = (np.float64, np.float32)


def validated(estimator: BaseEstimator, X: np.ndarray, *y: np.ndarray, **options: Any) -> Any:
    """What scikit-learn's `validate_data` makes of X, or of X and y, as float64 or float32: the one door by which
    arrays come to our estimators.

    Raises ValueError as it does, and for an array of which entries are masked: they would be read as if they were not.
    """
    for array in (X, *y):
        check_unmasked(array)
    return validate_data(estimator, X, *y, dtype=FLOATS, **options)


def weighted(
    X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The rows that have a weight, and their weights float64 [rows], or None where none are given: a row of weight 0 is
    left out, whatever it holds.

    sample_weight: numbers from 0 on, [n], or one for all. Raises ValueError for others, and where all are 0.
    """
    if sample_weight is None:
        return X, y, None
    check_unmasked(sample_weight)
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if not weight.any():
        raise ValueError("every sample_weight is 0, so that no row is left to learn from")
    if weight.all():
        return X, y, weight
    return X[weight > 0], y[weight > 0], weight[weight > 0]


class Unmasked:
    """Estimators whose `score` refuses labels behind a mask, too."""

    def score(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> float:
        """scikit-learn's: the accuracy, or R^2, of predictions of X [n, features] for y [n]."""
        check_unmasked(X)
        check_unmasked(y)
        return super().score(X, y, sample_weight)  # type: ignore[misc]  # of the mixin behind


def check_unmasked(array: Any) -> None:
    """Raise ValueError for a masked array with masked entries."""
    if np.ma.is_masked(array):
        n = int(np.ma.getmaskarray(array).sum())
        raise ValueError(f"{n:,} entries are masked, and would be read as if they were not; leave those rows out")


def check_rows(n: float, rows: str = "rows", minimum: int = 2) -> None:
    """Raise ValueError for fewer than `minimum` rows; `rows` says of what, in the plural."""
    if n < minimum:
        raise ValueError(f"{int(n)} {rows}; a probe needs {minimum} or more")


def check_classes(classes: np.ndarray, labels: str = "the labels") -> None:
    """Raise ValueError for fewer than two classes; `labels` says whose, in the plural."""
    if len(classes) < 2:
        value = f" ({classes[0]})" if len(classes) else ""
        raise ValueError(f"{labels} have one class only{value}; there is nothing to probe")


def constant_message(output: str, value: Any) -> str:
    """Say that `output`, a name in the singular, is the same `value` in all rows."""
    return f"{output} is constant ({value}); there is nothing to probe"


def check_finite_rows(x: np.ndarray, activations: str = "the activations") -> None:
    """Raise ValueError for x [rows, features] with NaN or infinity, counting the rows that have some."""
    if not np.isfinite(x).all():
        n_broken = int((~np.isfinite(x)).any(1).sum())
        raise ValueError(f"{activations} are not finite in {n_broken} of {len(x)} rows; leave those rows out")


def check_finite_sums(*sums: np.ndarray) -> None:
    """Raise ValueError for sums of activations, or of products of them, that are not finite."""
    if not all(np.isfinite(array).all() for array in sums):
        raise ValueError("the sums of squared activations are not finite; leave out or scale down what is so large")
