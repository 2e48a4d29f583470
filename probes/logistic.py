"""Multinomial logistic regression, the paper's probe: scikit-learn's objective and optimum, many problems at once."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

_MEMORY = 10  # pairs of steps and changes of gradient that L-BFGS keeps
_RENEWAL = 10  # iterations after which the preconditioner is computed anew
_ROWS_PER_FEATURE = 4  # rows that a class's Hessian is estimated from, those with the largest weight
_SUFFICIENT = 1e-4  # share of the promised decrease that a step must bring (Armijo)


class LogisticProbe(ClassifierMixin, BaseEstimator):
    """Multinomial logistic regression with scikit-learn's objective: C * sum of log-losses + |coef|^2 / 2.

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

    def fit(self, X: np.ndarray, y: np.ndarray, warm_start: LogisticProbe | None = None) -> LogisticProbe:
        """X [n, features], y [n] any labels. `warm_start`, fitted on the same labels, is where the solver begins.

        Raises ValueError where the labels are constant."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        return self._fit(_Design.of(torch.from_numpy(X if X.flags.writeable else X.copy())), y, warm_start)

    def _fit(
        self, design: _Design, y: np.ndarray, warm_start: LogisticProbe | None = None, about: str = ""
    ) -> LogisticProbe:
        if not self.C > 0:
            raise ValueError(f"C = {self.C}; expected a positive number, larger for a weaker penalty")
        classes, target = np.unique(y, return_inverse=True)
        if not len(classes):
            raise ValueError(f"{about}no row is defined")
        if len(classes) < 2:  # scikit-learn's checks look for "class"
            raise ValueError(f"{about}the labels are constant ({classes}), one class; there is nothing to probe")
        self.classes_, self.n_features_in_ = classes, len(design.mean)
        problem = _Problem.of(design, torch.from_numpy(target), len(classes), self.C)
        start = None
        if warm_start is not None and np.array_equal(warm_start.classes_, classes):
            coef = torch.from_numpy(warm_start.coef_).to(design.x)
            intercept = torch.from_numpy(warm_start.intercept_).to(design.x)
            start = torch.cat([coef, (intercept + coef @ design.mean)[:, None]], 1)
        weights, self.n_iter_, converged = _minimize(problem, start, self.max_iter, self.tol)
        if not converged:
            warnings.warn(
                f"{about}the solver stopped at its limit of {self.max_iter} iterations with {len(classes)} classes "
                f"and {len(y)} rows; raise max_iter, standardize the features or lower C = {self.C:g}",
                *(ConvergenceWarning, 3),
            )
        coef, intercept = weights[:, :-1], weights[:, -1] - weights[:, :-1] @ design.mean
        self.coef_, self.intercept_ = coef.cpu().numpy().copy(), intercept.cpu().numpy()
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Scores: [n, classes]; with two classes [n], that of the second."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The most probable class of each row: [n]."""
        scores = self.decision_function(X)
        return self.classes_[scores.argmax(1) if scores.ndim == 2 else (scores > 0).astype(int)]

    def predict_log_proba(self, X: np.ndarray) -> np.ndarray:
        """[n, classes], in the order of `classes_`."""
        scores = torch.from_numpy(self.decision_function(X))
        if scores.ndim == 1:
            return torch.stack([F.logsigmoid(-scores), F.logsigmoid(scores)], 1).numpy()
        return torch.log_softmax(scores, 1).numpy()

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[n, classes], in the order of `classes_`."""
        return np.exp(self.predict_log_proba(X))


def fit_many(
    activations: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    *,
    C: float = 1.0,
    max_iter: int = 1000,
    tol: float = 3e-7,
    device: torch.device | str = "cpu",
) -> dict[tuple[str, str], LogisticProbe]:
    """A probe per (site, variable): activations {site: float [n, features]}, labels {variable: [n]}.

    Sites may differ in features. Rows that a variable's `np.ma.MaskedArray` masks are left out of its probes. What the
    variables of a site share (activations on `device`, centred, and their second moments) is computed once. Raises
    ValueError, naming the variable, for labels that are constant, nowhere defined or of another length than the
    activations, and for activations that are not finite.
    """
    probes = {}
    rows = {variable: np.flatnonzero(~np.ma.getmaskarray(y)) for variable, y in labels.items()}
    for site, x in activations.items():
        if not np.isfinite(x).all():
            broken = int((~np.isfinite(x)).any(1).sum())
            raise ValueError(f"site {site!r} has activations that are not finite, in {broken} of {len(x)} rows")
        design = _Design.of(torch.as_tensor(x, device=device))
        for variable, y in labels.items():
            if len(y) != len(x):
                raise ValueError(f"variable {variable!r} has {len(y)} labels; site {site!r} has {len(x)} rows")
            part, y = design.rows(rows[variable]), np.ma.getdata(y)[rows[variable]]
            probe = LogisticProbe(C, max_iter, tol)
            probes[site, variable] = probe._fit(part, y, about=f"variable {variable!r} at site {site!r}: ")
    return probes


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within the context torch computes on one thread: products as small as a probe's lose by sharing (2.5 times as
    slow on two), so that many fits belong on many Python threads instead."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fit_on_validation(
    x: np.ndarray,
    y: np.ndarray,
    x_validation: np.ndarray,
    y_validation: np.ndarray,
    penalties: Sequence[float] = (1e-1, 1.0),
) -> LogisticProbe:
    """The probe whose C, of `penalties` from strong to weak, is most accurate on the validation data."""
    best, best_score, last = None, -1.0, None
    for C in penalties:
        last = LogisticProbe(C, tol=1e-5).fit(x, y, warm_start=last)  # its accuracy is there long before its digits
        score = last.score(x_validation, y_validation)
        if score > best_score:
            best, best_score = last, score
    return best


@dataclass(frozen=True)
class _Design:
    """Activations about the site's mean with a column of ones, x [n, features + 1], and the site's x^T x / n."""

    x: Tensor
    mean: Tensor
    moments: Tensor

    @staticmethod
    def of(x: Tensor) -> _Design:
        x = x if x.dtype == torch.float32 else x.double()
        mean = x.mean(0)
        x = torch.cat([x - mean, x.new_ones(len(x), 1)], 1)
        return _Design(x, mean, x.T @ x / max(1, len(x)))

    def rows(self, rows: np.ndarray) -> _Design:
        rows = torch.from_numpy(rows).to(self.x.device)
        return self if len(rows) == len(self.x) else _Design(self.x.index_select(0, rows), self.mean, self.moments)


@dataclass(frozen=True)
class _Problem:
    """Mean log-loss and penalty as a function of weights [k, features + 1], the last column the intercepts, and of
    scores [k, n] = weights @ x^T. k is the number of classes, but 1 for two: the second's, the first's score being 0.

    Scores have a row per class, as what is taken over the classes is then taken over long rows.
    """

    x: Tensor
    moments: Tensor
    target: Tensor  # int64 [1, n]
    penalty: Tensor  # [features + 1]: 1 / (C * n), of the intercept 0
    indicator: Tensor  # [k, n]: 1 where a row is of the class
    binary: bool

    @staticmethod
    def of(design: _Design, target: Tensor, classes: int, C: float) -> _Problem:
        x, target = design.x, target.to(design.x.device)[None]
        penalty = x.new_full((x.shape[1],), 1 / (C * len(x)))
        penalty[-1] = 0
        indicator = target.to(x.dtype) if classes == 2 else x.new_zeros(classes, len(x)).scatter_(0, target, 1.0)
        return _Problem(x, design.moments, target, penalty, indicator, classes == 2)

    def start(self) -> Tensor:
        """No weights, and intercepts that give the classes their shares."""
        shares = self.indicator.mean(1)
        intercept = torch.logit(shares) if self.binary else shares.log() - shares.log().mean()
        return torch.cat([self.x.new_zeros(len(shares), self.x.shape[1] - 1), intercept[:, None]], 1)

    def loss(self, weights: Tensor, scores: Tensor) -> tuple[float, Tensor]:
        """The objective and the log-probabilities [k, n]."""
        if self.binary:
            log_probabilities = F.logsigmoid(scores)
            chosen = log_probabilities - (1 - self.indicator) * scores
        else:
            log_probabilities = torch.log_softmax(scores, 0)
            chosen = log_probabilities.gather(0, self.target)
        penalty = weights.square().sum(0, dtype=torch.float64) @ self.penalty.double() / 2
        return float(penalty - chosen.sum(dtype=torch.float64) / len(self.x)), log_probabilities

    def gradient(self, weights: Tensor, probabilities: Tensor) -> Tensor:
        return (probabilities - self.indicator) @ self.x / len(self.x) + weights * self.penalty

    def bound(self) -> Callable[[Tensor], Tensor]:
        """Multiplies by the inverse of Böhning's bound on the Hessian, which is the same for all classes."""
        inverse = self._inverse(self.moments * (0.25 if self.binary else 0.5))
        return lambda vectors: vectors @ inverse

    def blocks(self, probabilities: Tensor) -> Callable[[Tensor], Tensor]:
        """Multiplies by the inverse of the Hessian's block diagonal; for each class the rows of largest p (1 - p) stand
        for all."""
        n, features = self.x.shape
        curvature = probabilities * (1 - probabilities)
        largest, rows = curvature.topk(min(n, _ROWS_PER_FEATURE * features), 1)
        scale = (largest * (curvature.sum(1) / largest.sum(1).clamp_min(1e-30) / n)[:, None]).sqrt()
        hessian = self.x.new_empty(len(curvature), features, features)
        for k in range(len(curvature)):
            x = self.x.index_select(0, rows[k]).mul_(scale[k][:, None])
            torch.mm(x.T, x, out=hessian[k])
        inverse = self._inverse(hessian)

        def multiply(vectors: Tensor) -> Tensor:
            product = torch.bmm(vectors.transpose(0, 1), inverse).transpose(0, 1)
            return product if self.binary else product - product.mean(1, keepdim=True)  # what all share is in vain

        return multiply

    def _inverse(self, hessian: Tensor) -> Tensor:
        """[..., features + 1, features + 1], the penalty added."""
        resolution = torch.finfo(hessian.dtype).eps
        diagonal = hessian.diagonal(dim1=-2, dim2=-1)
        diagonal.mul_(1 + resolution * hessian.shape[-1]).add_(self.penalty)
        diagonal[..., -1].add_(resolution)
        return torch.cholesky_inverse(torch.linalg.cholesky(hessian))


@torch.no_grad()
def _minimize(problem: _Problem, start: Tensor | None, max_iter: int, tol: float) -> tuple[Tensor, int, bool]:
    """(weights, iterations, whether they sufficed) of preconditioned L-BFGS."""
    weights = problem.start() if start is None else start
    scores = weights @ problem.x.T
    objective, log_probabilities = problem.loss(weights, scores)
    pairs: list[tuple[Tensor, Tensor, float]] = []
    step = previous = multiply = None
    for iteration in range(max_iter):
        probabilities = log_probabilities.exp()
        gradient = problem.gradient(weights, probabilities)
        if iteration == 0 and start is None:
            multiply = problem.bound()
        elif iteration % _RENEWAL == 0:
            multiply = problem.blocks(probabilities)
        if previous is not None:
            change = gradient - previous
            curvature = float(_dot(step, change))
            if curvature > 0:
                pairs = [*pairs[1 - _MEMORY :], (step, change, curvature)]
        direction = -_quasi_newton(gradient, pairs, multiply)
        promised = -float(_dot(gradient, direction))
        if promised < 2 * tol:
            return weights, iteration, True
        slopes = direction @ problem.x.T
        length, decreased, here = 1.0, False, log_probabilities
        while length > 1e-10 and not decreased:
            trial, trial_scores = weights + length * direction, torch.add(scores, slopes, alpha=length)
            found, log_probabilities = problem.loss(trial, trial_scores)
            decreased = found <= objective - _SUFFICIENT * length * promised
            if not decreased:
                minimum = promised * length**2 / (2 * (found - objective + promised * length))  # of the parabola
                length = min(max(minimum, 0.1 * length), 0.5 * length)
        if not decreased:
            if not pairs:  # this is as far as the precision reaches
                return weights, iteration, True
            pairs, previous, log_probabilities = [], None, here
            continue
        step, previous = length * direction, gradient
        weights, scores, objective = trial, trial_scores, found
    return weights, max_iter, False


def _quasi_newton(gradient: Tensor, pairs: list, multiply: Callable[[Tensor], Tensor]) -> Tensor:
    """The inverse of L-BFGS's Hessian, which is that of `multiply` to begin with, times the gradient: the two-loop
    recursion."""
    product, shares = gradient.clone(), []
    for step, change, curvature in reversed(pairs):
        shares.append(_dot(step, product) / curvature)
        product.addcmul_(change, shares[-1], value=-1)
    if not pairs:
        return multiply(product[None])[0]
    _, change, curvature = pairs[-1]
    product, multiplied = multiply(torch.stack([product, change]))
    product = product * (curvature / _dot(change, multiplied))
    for (step, change, curvature), share in zip(pairs, reversed(shares), strict=True):
        product.addcmul_(step, share - _dot(change, product) / curvature)
    return product


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
