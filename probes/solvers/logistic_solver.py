"""The solver of `probes.solvers.logistic`: preconditioned L-BFGS on multinomial logistic regression, on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_MEMORY = 10  # pairs of steps and changes of gradient that L-BFGS keeps
_RENEWAL = 10  # iterations after which the preconditioner is computed anew
_ROWS_PER_FEATURE = 4  # rows that a class's Hessian is estimated from, those with the largest weight
_CHUNK = 1 << 14  # rows that are hashed and compared at once
_SUFFICIENT = 1e-4  # share of the promised decrease that a step must bring (Armijo)


@dataclass(frozen=True)
class Design:
    """A site's activations about their mean with a column of ones, x [m, features + 1], and their x^T x / n.

    Equal rows are one row of x: `row` [n] tells which. Embeddings and first tokens have few different ones."""

    x: Tensor
    row: Tensor
    mean: Tensor
    moments: Tensor

    @staticmethod
    def of(x: Tensor) -> Design:
        x = x if x.dtype == torch.float32 else x.double()
        n, mean = max(1, len(x)), x.mean(0)
        first, row = _distinct(x)
        weights = torch.bincount(row, minlength=len(first)).to(x)
        x = torch.cat([x[first] - mean, x.new_ones(len(first), 1)], 1)
        return Design(x, row, mean, (x * weights[:, None]).T @ x / n)


def _distinct(x: Tensor) -> tuple[Tensor, Tensor]:
    """(where each of the m different rows of x [n, features] is found, which of them each row is): int64 [m], [n]."""
    bits = x.view(torch.int32 if x.dtype == torch.float32 else torch.int64)
    factors = torch.randint(1 << 62, (x.shape[1],), generator=torch.Generator().manual_seed(0)).to(x.device)
    hashes = torch.cat([(part * factors).sum(1) for part in bits.split(_CHUNK)])
    found, row = torch.unique(hashes, return_inverse=True)
    first = torch.empty_like(found).scatter_(0, row, torch.arange(len(x), device=x.device))
    if all(torch.equal(bits[first[at]], part) for at, part in zip(row.split(_CHUNK), bits.split(_CHUNK), strict=True)):
        return first, row
    return (torch.arange(len(x), device=x.device),) * 2  # two rows have one hash


@dataclass(frozen=True)
class Problem:
    """Mean log-loss and penalty as a function of weights [k, features + 1], the last column the intercepts, and of
    scores [k, m] = weights @ x^T. k is the number of classes, but 1 for two: the second's, the first's score being 0.

    Scores have a row per class, as what is taken over the classes is then taken over long rows.
    """

    x: Tensor  # [m, features + 1]
    n: int  # rows that are summed in those of x
    moments: Tensor
    counts: Tensor  # [k, m]: rows of the class
    total: Tensor  # [m]: rows of any
    penalty: Tensor  # [features + 1]: 1 / (C * n), of the intercept 0
    binary: bool

    @staticmethod
    def of(design: Design, rows: np.ndarray, target: np.ndarray, classes: int, C: float) -> Problem:
        """target [len(rows)]: the class, from 0, of each of the rows."""
        x, n = design.x, len(rows)
        place, target = (torch.from_numpy(array).to(x.device) for array in (rows, target))
        cells = torch.bincount(target * len(x) + design.row[place], minlength=classes * len(x))
        counts = cells.view(classes, len(x)).to(x)
        total = counts.sum(0)
        if not total.all():
            x, counts, total = x[total > 0], counts[:, total > 0], total[total > 0]
        penalty = x.new_full((x.shape[1],), 1 / (C * n))
        penalty[-1] = 0
        binary = classes == 2
        return Problem(x, n, design.moments, counts[1:] if binary else counts, total, penalty, binary)

    def start(self) -> Tensor:
        """No weights, and intercepts that give the classes their shares."""
        shares = self.counts.sum(1) / self.n
        intercept = torch.logit(shares) if self.binary else shares.log() - shares.log().mean()
        return torch.cat([self.x.new_zeros(len(shares), self.x.shape[1] - 1), intercept[:, None]], 1)

    def loss(self, weights: Tensor, scores: Tensor) -> tuple[float, Tensor]:
        """The objective and the log-probabilities [k, m]."""
        if self.binary:
            log_probabilities = F.logsigmoid(scores)
            likelihood = self.total * log_probabilities - (self.total - self.counts) * scores
        else:
            log_probabilities = torch.log_softmax(scores, 0)
            likelihood = self.counts * log_probabilities
        penalty = weights.square().sum(0, dtype=torch.float64) @ self.penalty.double() / 2
        return float(penalty - likelihood.sum(dtype=torch.float64) / self.n), log_probabilities

    def gradient(self, weights: Tensor, probabilities: Tensor) -> Tensor:
        return (self.total * probabilities - self.counts) @ self.x / self.n + weights * self.penalty

    def bound(self) -> Callable[[Tensor], Tensor]:
        """Multiplies by the inverse of Böhning's bound on the Hessian, which is the same for all classes."""
        inverse = self._inverse(self.moments * (0.25 if self.binary else 0.5))
        return lambda vectors: vectors @ inverse

    def blocks(self, probabilities: Tensor) -> Callable[[Tensor], Tensor]:
        """Multiplies by the inverse of the Hessian's block diagonal; for each class the rows of largest p (1 - p) stand
        for all."""
        m, features = self.x.shape
        curvature = self.total * probabilities * (1 - probabilities)
        largest, rows = curvature.topk(min(m, _ROWS_PER_FEATURE * features), 1)
        scale = (largest * (curvature.sum(1) / largest.sum(1).clamp_min(1e-30) / self.n)[:, None]).sqrt()
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
def minimize(problem: Problem, start: Tensor | None, max_iter: int, tol: float) -> tuple[Tensor, int, bool]:
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
