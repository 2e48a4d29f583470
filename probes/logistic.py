"""Multinomial logistic regression, the paper's probe: scikit-learn's objective and conventions, solved in torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F


class LogisticProbe:
    """Multinomial logistic regression with scikit-learn's objective: C * sum of log-losses + |coef|^2 / 2.

    Solved by L-BFGS, at most `max_iter` iterations. Constructor parameters are stored only; `fit` makes `classes_`,
    `coef_` [classes, features], `intercept_`.
    """

    def __init__(self, C: float = 1.0, max_iter: int = 100, tol: float = 1e-5):
        self.C = C
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, x: np.ndarray, y: np.ndarray, warm_start: LogisticProbe | None = None) -> LogisticProbe:
        """x [n, features], y [n] any labels. `warm_start`, fitted on the same labels, is where the solver begins."""
        self.classes_, target = np.unique(y, return_inverse=True)
        # scikit-learn has one row of coefficients for two classes: w where softmax has w/2 and -w/2, half the penalty
        weight = 2 if len(self.classes_) == 2 else 1
        if len(self.classes_) < 2:
            raise ValueError(f"the labels are constant ({self.classes_}); there is nothing to probe")
        x, target = torch.from_numpy(np.asarray(x, np.float32)), torch.from_numpy(target)
        coef = torch.zeros(len(self.classes_), x.shape[1])
        intercept = torch.zeros(len(self.classes_))
        if warm_start is not None and np.array_equal(warm_start.classes_, self.classes_):
            coef.copy_(torch.from_numpy(warm_start.coef_))
            intercept.copy_(torch.from_numpy(warm_start.intercept_))
        coef.requires_grad_(), intercept.requires_grad_()
        solver = torch.optim.LBFGS(
            [coef, intercept],
            max_iter=self.max_iter,
            tolerance_grad=self.tol,
            tolerance_change=1e-7,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        def objective() -> torch.Tensor:
            solver.zero_grad()
            penalty = weight * coef.square().sum() / (2 * self.C * len(x))
            loss = F.cross_entropy(x @ coef.T + intercept, target) + penalty
            loss.backward()
            return loss

        with torch.enable_grad():
            solver.step(objective)
        self.coef_, self.intercept_ = coef.detach().numpy(), intercept.detach().numpy()
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The most probable class of each row: [n]."""
        return self.classes_[(np.asarray(x, np.float32) @ self.coef_.T + self.intercept_).argmax(1)]

    def score(self, x: np.ndarray, y: np.ndarray) -> float:
        """Accuracy."""
        return float((self.predict(x) == y).mean())


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
        last = LogisticProbe(C).fit(x, y, warm_start=last)
        score = last.score(x_validation, y_validation)
        if score > best_score:
            best, best_score = last, score
    return best
