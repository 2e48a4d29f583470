"""Linear probes as scikit-learn estimators, fitted from sums: `partial_fit` batch after batch gives what `fit` gives.

`RidgeProbe` is scikit-learn's `Ridge`, `LeastSquaresProbe` its `RidgeClassifier` and `DiscriminantProbe` its
`LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)`: same parameters, same optimum. A `sample_weight` of 2 is the
row twice, one of 0 no row, in all of them.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from probes.solvers import linear
from probes.solvers.checks import Unmasked, check_classes, validated, weighted
from probes.solvers.moments import Moments


class RidgeProbe(Unmasked, MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Ridge regression: ||y - X coef - intercept||^2 + alpha ||coef||^2 is least.

    `fit` makes `coef_` [features] or [targets, features] and `intercept_`.
    """

    _moments: Moments | None = None  # of all rows so far
    _outputs: tuple[int, ...]  # the shape of y behind its rows
    coef_: np.ndarray
    intercept_: np.ndarray

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Self:
        """Fit to X float [n, features] and numbers y [n] or [n, targets]; sample_weight [n]: how much a row counts."""
        self._moments = None
        return self.partial_fit(X, y, sample_weight=sample_weight)

    def partial_fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Self:
        """Add rows; the fit is then to all rows so far."""
        earlier = self._moments
        X, y = validated(self, X, y, reset=earlier is None, multi_output=True, y_numeric=True, ensure_min_samples=1)
        outputs = y.shape[1:]
        if earlier is not None and outputs != self._outputs:
            raise ValueError(
                f"y has shape {y.shape}, but earlier calls had {('n', *self._outputs)}; give as many outputs each time"
            )
        X, y, weight = weighted(X, y, sample_weight)
        self._outputs = outputs
        added = Moments.of(X, y.reshape(len(y), -1), weight)
        self._moments = added if earlier is None else earlier + added
        solution = linear.solve_ridge(self._moments, self.alpha)
        coef, intercept = solution.coef.T, solution.intercept
        self.coef_, self.intercept_ = (coef, intercept) if outputs else (coef[0], intercept[0])
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The predicted numbers: [n] or [n, targets], as y was."""
        check_is_fitted(self)
        return validated(self, X, reset=False) @ self.coef_.T + self.intercept_


class _Classifier(Unmasked, ClassifierMixin, BaseEstimator):
    """The part that the two classifiers share: moments with one output per class; two classes have one row of
    coefficients. A subclass has `_solve`."""

    _moments: Moments | None = None  # of all rows so far
    _n_rows = 0  # of them

    def _solve(self, moments: Moments) -> linear.Linear:
        """The map from activations to a score per class."""
        raise NotImplementedError

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Self:
        """Fit to X float [n, features] and y [n], labels of any type; sample_weight [n]: how much a row counts."""
        self._moments = None
        return self.partial_fit(X, y, sample_weight=sample_weight)

    def partial_fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        classes: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Add rows; the fit is then to all rows so far.

        classes: every class that later calls will have, needed in the first one (default: those of y). Raises
        ValueError for labels of one class, and for labels that are not among the classes.
        """
        earlier = self._moments
        X, y = validated(self, X, y, reset=earlier is None)
        check_classification_targets(y)
        X, y, weight = weighted(X, y, sample_weight)
        if earlier is None:
            self.classes_ = np.unique(y if classes is None else classes)
            check_classes(self.classes_)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"labels {unknown.tolist()} are not among classes_; name all classes in the first call")
        added = Moments.of(X, y[:, None] == self.classes_, weight)
        self._n_rows = len(X) + (0 if earlier is None else self._n_rows)
        self._moments = added if earlier is None else earlier + added
        scores = self._solve(self._moments)
        coef, intercept = scores.coef, scores.intercept
        if len(self.classes_) == 2:  # the second class's score minus the first's
            coef, intercept = coef[:, 1:] - coef[:, :1], intercept[1:] - intercept[:1]
        self.coef_, self.intercept_ = coef.T, intercept
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """The score of every class, [n, classes]; of two classes [n], above 0 for the second."""
        check_is_fitted(self)
        scores = validated(self, X, reset=False) @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The class of the highest score: [n]."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]


class LeastSquaresProbe(_Classifier):
    """A classifier by ridge regression onto -1 and 1, one class against the rest.

    `fit` makes `classes_`, `coef_` [classes, features] (two classes: one row) and `intercept_`.
    """

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def _solve(self, moments: Moments) -> linear.Linear:
        outputs = np.full((len(self.classes_), len(self.classes_)), -1.0)
        np.fill_diagonal(outputs, 1.0)
        if len(self.classes_) == 2:
            outputs = outputs / 2  # so that the difference of the two rows is scikit-learn's single row
        return linear.solve_ridge(moments.mapped(outputs), self.alpha)


class DiscriminantProbe(_Classifier):
    """Linear discriminant analysis with the priors of the data, its covariance shrunk by `shrinkage` (0 to 1).

    `fit` makes `classes_`, `coef_` [classes, features] (two classes: one row) and `intercept_`.
    """

    def __init__(self, shrinkage: float = 0.0):
        self.shrinkage = shrinkage

    def _solve(self, moments: Moments) -> linear.Linear:
        present = moments.y_mean > 0
        if present.sum() < 2:  # as long as rows have one class only, predict it
            scores = np.where(present, 0.0, -np.inf)
            return linear.Linear(np.zeros_like(moments.xy), scores.clip(min=-1e30), scores)
        moments = moments.scaled(self._n_rows / moments.n)  # the size of weights is of no matter, the number of rows is
        solution = linear.discriminant(moments.mapped(np.eye(len(present))[:, present]), (self.shrinkage,))
        coef = np.zeros_like(moments.xy)
        intercept = np.full(len(present), -1e30)  # of a class without rows
        coef[:, present] = solution.coef
        intercept[present] = solution.intercept
        return linear.Linear(coef, intercept, solution.penalty)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """The posterior probability of every class: [n, classes]."""
        scores = self.decision_function(X)
        scores = np.stack([np.zeros(len(scores)), scores], 1) if scores.ndim == 1 else scores
        likelihoods = np.exp(scores - scores.max(1, keepdims=True))
        return likelihoods / likelihoods.sum(1, keepdims=True)
