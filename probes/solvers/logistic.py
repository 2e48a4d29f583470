"""Multinomial logistic regression, the paper's probe: scikit-learn's objective and optimum, many problems at once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from joblib import cpu_count
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from cadmus.runtime.devices import resolve_device
from cadmus.runtime.threads import on_threads
from probes.solvers.checks import Unmasked, check_classes, check_finite_rows, validated, weighted
from probes.solvers.logistic_solver import Design, Problem, minimize


class LogisticProbe(Unmasked, ClassifierMixin, BaseEstimator):
    """Multinomial logistic regression with scikit-learn's objective: C * sum of log-losses + ||coef||^2 / 2.

    `fit` makes `classes_`, `coef_` [classes, features] and `intercept_` [classes] (two classes: one row, that of the
    second), `n_features_in_` and `n_iter_`. It ends where a step promises to lower objective / (C * n), a mean log-loss
    with its penalty, by less than `tol`, or warns after `max_iter` iterations. float32 activations are multiplied in
    single precision, all else in double.

    L-BFGS (Nocedal and Wright, section 7.2) whose initial Hessian is the block diagonal of the true one, a block per
    class, renewed every few iterations; at the start that of Böhning's bound (1992), the same for all classes, so that
    the first step goes to the scaled least-squares solution.
    """

    def __init__(self, C: float = 1.0, max_iter: int = 1000, tol: float = 3e-7):
        self.C = C
        self.max_iter = max_iter
        self.tol = tol

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        warm_start: LogisticProbe | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> LogisticProbe:
        """Fit to X float [n, features] and y [n], labels of any type.

        warm_start: a probe fitted to the same classes, from whose solution the solver starts. sample_weight: [n], how
        much the log-loss of a row counts: 2 is the row twice, 0 no row. Raises ValueError for labels of one class.
        """
        X, y = validated(self, X, y)
        check_classification_targets(y)
        X, y, weight = weighted(X, y, sample_weight)
        design = Design.of(
            torch.from_numpy(X if X.flags.writeable else X.copy()), None if weight is None else torch.from_numpy(weight)
        )
        return self._fit(design, np.arange(len(y)), y, warm_start)

    def _fit(
        self,
        design: Design,
        rows: np.ndarray,
        y: np.ndarray,
        warm_start: LogisticProbe | None = None,
        owner: str = "",
    ) -> LogisticProbe:
        """Fit to the labels y of `rows` of a design; `owner` begins every message, with a colon."""
        if not self.C > 0:
            raise ValueError(f"C = {self.C}; expected a positive number, larger for a weaker penalty")
        classes, target = np.unique(y, return_inverse=True)
        if not len(classes):
            raise ValueError(f"{owner}no row is defined")
        check_classes(classes, f"{owner}the labels")
        self.classes_ = classes
        self.n_features_in_ = len(design.mean)
        problem = Problem.of(design, rows, target, len(classes), self.C)
        start = None
        if warm_start is not None and np.array_equal(warm_start.classes_, classes):
            coef = torch.from_numpy(warm_start.coef_).to(design.x)
            intercept = torch.from_numpy(warm_start.intercept_).to(design.x)
            start = torch.cat([coef, (intercept + coef @ design.mean)[:, None]], 1)
        weights, self.n_iter_, converged = minimize(problem, start, self.max_iter, self.tol)
        if not converged:
            warnings.warn(
                f"{owner}the solver stopped at its limit of {self.max_iter} iterations with {len(classes)} classes "
                f"and {len(y)} rows; raise max_iter, standardize the features or lower C = {self.C:g}",
                ConvergenceWarning,
                stacklevel=3,
            )
        coef = weights[:, :-1]
        intercept = weights[:, -1] - coef @ design.mean
        self.coef_: np.ndarray = coef.cpu().numpy().copy()
        self.intercept_: np.ndarray = intercept.cpu().numpy()
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """The score of every class, [n, classes]; of two classes that of the second, [n]."""
        check_is_fitted(self)
        X = validated(self, X, reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The most probable class of each row: [n]."""
        scores = self.decision_function(X)
        return self.classes_[scores.argmax(1) if scores.ndim == 2 else (scores > 0).astype(int)]

    def predict_log_proba(self, X: np.ndarray) -> np.ndarray:
        """The log-probability of every class: [n, classes], in the order of `classes_`."""
        scores = torch.from_numpy(self.decision_function(X))
        if scores.ndim == 1:
            return torch.stack([F.logsigmoid(-scores), F.logsigmoid(scores)], 1).numpy()
        return torch.log_softmax(scores, 1).numpy()

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """The probability of every class: [n, classes], in the order of `classes_`."""
        return np.exp(self.predict_log_proba(X))


def fit_many(
    activations: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    *,
    C: float = 1.0,
    max_iter: int = 1000,
    tol: float = 3e-7,
    device: str = "auto",
) -> dict[tuple[str, str], LogisticProbe]:
    """Fit a probe for every pair of a site and a variable.

    What the variables of a site share (activations on the device, centred, and their second moments) is computed once.
    On the CPU as many probes are fitted at once as there are cores.

    Args:
        activations: float [n, features] by site; sites may differ in features.
        labels: [n] by variable. Rows that an `np.ma.MaskedArray` masks are left out of that variable's probes.
        C: the inverse of the penalty's strength, as for `LogisticProbe`.
        max_iter: iterations after which the solver stops with a warning.
        tol: the promised decrease of the objective at which the solver has arrived, as for `LogisticProbe`.
        device: "cpu", "cuda" or "auto", which takes a GPU where there is one.

    Returns:
        {(site, variable): fitted probe}, site by site.

    Raises:
        ValueError: naming the variable, for labels of one class, nowhere defined or of another length than the
            activations; for activations that are not finite; for an unavailable device.
    """
    rows = {variable: np.flatnonzero(~np.ma.getmaskarray(y)) for variable, y in labels.items()}
    for site, x in activations.items():
        check_finite_rows(x, f"the activations of site {site!r}")
        for variable, y in labels.items():
            if len(y) != len(x):
                raise ValueError(f"variable {variable!r} has {len(y)} labels; site {site!r} has {len(x)} rows")
    device = resolve_device(device)
    lock = Lock()

    @lru_cache(1 + cpu_count() if device == "cpu" else 1)
    def design_of(site: str) -> Design:
        return Design.of(torch.as_tensor(activations[site], device=device))

    def fit(site: str, variable: str) -> LogisticProbe:
        with lock:  # so that a site's design is computed once
            design = design_of(site)
        y = np.ma.getdata(labels[variable])[rows[variable]]
        owner = f"variable {variable!r} at site {site!r}: "
        return LogisticProbe(C, max_iter, tol)._fit(design, rows[variable], y, owner=owner)

    cells = [(site, variable) for site in activations for variable in labels]
    probes = on_threads(fit, cells) if device == "cpu" else [fit(*cell) for cell in cells]
    return dict(zip(cells, probes, strict=True))


def fit_on_validation(
    x: np.ndarray,
    y: np.ndarray,
    x_validation: np.ndarray,
    y_validation: np.ndarray,
    penalties: Sequence[float] = (1e-1, 1.0),
) -> LogisticProbe:
    """Fit with each C of `penalties`, from strong to weak: the probe that is most accurate on the validation data.

    Raises ValueError where there is no penalty.
    """
    best = probe = None
    best_score = -1.0
    for C in penalties:
        probe = LogisticProbe(C, tol=1e-5).fit(x, y, warm_start=probe)  # its accuracy is there long before its digits
        score = probe.score(x_validation, y_validation)
        if score > best_score:
            best, best_score = probe, score
    if best is None:
        raise ValueError("there is no penalty to fit with; give one or more values of C")
    return best
