"""Linear probes as scikit-learn estimators, fitted from sums: `partial_fit` batch after batch gives what `fit` gives.

`RidgeProbe` is scikit-learn's `Ridge`, `LeastSquaresProbe` its `RidgeClassifier` and `DiscriminantProbe` its
`LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)`: same parameters, same optimum.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from probes.solvers import linear
from probes.solvers.moments import Moments

_FLOATS = (np.float64, np.float32)


class RidgeProbe(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Ridge regression; `coef_` [features] or [targets, features], `intercept_`."""

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """X [n, features], y [n] or [n, targets]."""
        self._moments = None
        return self.partial_fit(X, y)

    def partial_fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Add rows; the fit is that on all rows so far."""
        known = getattr(self, "_moments", None)
        X, y = validate_data(
            self, X, y, reset=known is None, dtype=_FLOATS, multi_output=True, y_numeric=True, ensure_min_samples=1
        )
        self._flat = y.ndim == 1
        added = Moments.of(X, y.reshape(len(y), -1))
        self._moments = added if known is None else known + added
        return self._solve()

    def _solve(self) -> Self:
        found = linear.solve_ridge(self._moments, self.alpha)
        coef, intercept = found.coef.T, found.intercept
        self.coef_, self.intercept_ = (coef[0], intercept[0]) if self._flat else (coef, intercept)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """[n] or [n, targets], as y was."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=_FLOATS) @ self.coef_.T + self.intercept_


class _Classifier(ClassifierMixin, BaseEstimator):
    """What the two classifiers share: moments with an output per class; two classes have one row of coefficients."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """X [n, features], y [n] labels."""
        self._moments = None
        return self.partial_fit(X, y)

    def partial_fit(self, X: np.ndarray, y: np.ndarray, classes: np.ndarray | None = None) -> Self:
        """Add rows; `classes`, all that will come, is needed in the first call."""
        known = getattr(self, "_moments", None)
        X, y = validate_data(self, X, y, reset=known is None, dtype=_FLOATS)
        check_classification_targets(y)
        if known is None:
            self.classes_ = np.unique(y if classes is None else classes)
            if len(self.classes_) < 2:
                raise ValueError(f"the labels have one class only ({self.classes_[0]}); there is nothing to probe")
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"labels {unknown.tolist()} are not among classes_; name all classes in the first call")
        added = Moments.of(X, y[:, None] == self.classes_)
        self._moments = added if known is None else known + added
        scores = self._solve()
        if len(self.classes_) == 2:
            coef, intercept = scores.coef[:, 1:] - scores.coef[:, :1], scores.intercept[1:] - scores.intercept[:1]
        else:
            coef, intercept = scores.coef, scores.intercept
        self.coef_, self.intercept_ = coef.T, intercept
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """[n, classes]; [n] for two classes, above 0 for the second."""
        check_is_fitted(self)
        scores = validate_data(self, X, reset=False, dtype=_FLOATS) @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The class of the greatest score: [n]."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]


class LeastSquaresProbe(_Classifier):
    """A classifier by ridge regression onto -1 and 1, one class against the rest; `coef_` [classes, features]."""

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def _solve(self) -> linear.Linear:
        outputs = np.full((len(self.classes_), len(self.classes_)), -1.0)
        np.fill_diagonal(outputs, 1.0)
        if len(self.classes_) == 2:
            outputs = outputs / 2  # the difference of the two rows is scikit-learn's one
        return linear.solve_ridge(self._moments.mapped(outputs), self.alpha)


class DiscriminantProbe(_Classifier):
    """Linear discriminant analysis with the priors of the data; `coef_` [classes, features]."""

    def __init__(self, shrinkage: float = 0.0):
        self.shrinkage = shrinkage

    def _solve(self) -> linear.Linear:
        present = self._moments.y_mean > 0
        if present.sum() < 2:  # until another class comes, what has come is said
            scores = np.where(present, 0.0, -np.inf)
            return linear.Linear(np.zeros_like(self._moments.xy), scores.clip(min=-1e30), scores)
        part = self._moments.mapped(np.eye(len(present))[:, present])
        found = linear.discriminant(part, (self.shrinkage,))
        coef, intercept = np.zeros_like(self._moments.xy), np.full(len(present), -1e30)
        coef[:, present], intercept[present] = found.coef, found.intercept
        return linear.Linear(coef, intercept, found.penalty)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Posteriors [n, classes]."""
        scores = self.decision_function(X)
        scores = np.stack([np.zeros(len(scores)), scores], 1) if scores.ndim == 1 else scores
        shares = np.exp(scores - scores.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)
