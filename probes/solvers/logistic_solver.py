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
    """A site's n rows of activations, ready for many problems. Equal rows are one: embeddings and first tokens have few
    different ones."""

    x: Tensor
    """float [m, features + 1]: the m different rows about the mean, with a column of ones."""

    row: Tensor
    """int64 [n]: the row of x that each row of activations is."""

    mean: Tensor
    """float [features]: the mean of all n rows."""

    moments: Tensor
    """float [features + 1, features + 1]: x'x / n, summed over all n rows."""

    weight: Tensor | None = None
    """float64 [n]: how often each row of activations counts; None: once."""

    @staticmethod
    def of(x: Tensor, weight: Tensor | None = None) -> Design:
        """The design of activations x [n, features]: float32 stays float32, all else becomes float64. weight: float64
        [n], above 0."""
        x = x if x.dtype == torch.float32 else x.double()
        first, row = _distinct_rows(x)
        weights = torch.bincount(row, weight, minlength=len(first)).to(x)
        n: float | Tensor = max(1, len(x)) if weight is None else weight.sum().to(x)
        mean = x.mean(0) if weight is None else weights @ x[first] / n
        x = torch.cat([x[first] - mean, x.new_ones(len(first), 1)], 1)
        return Design(x, row, mean, (x * weights[:, None]).T @ x / n, weight)


def _distinct_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where each of the m different rows of x [n, features] stands, int64 [m], and which of them each row is, [n]."""
    bits = x.view(torch.int32 if x.dtype == torch.float32 else torch.int64)
    factors = torch.randint(1 << 62, (x.shape[1],), generator=torch.Generator().manual_seed(0)).to(x.device)
    hashes = torch.cat([(part * factors).sum(1) for part in bits.split(_CHUNK)])
    unique, row = torch.unique(hashes, return_inverse=True)
    every = torch.arange(len(x), device=x.device)
    first = torch.empty_like(unique).scatter_(0, row, every)
    for at, part in zip(row.split(_CHUNK), bits.split(_CHUNK), strict=True):
        if not torch.equal(bits[first[at]], part):  # two different rows have one hash
            return every, every
    return first, row


@dataclass(frozen=True)
class Problem:
    """Mean log-loss and penalty as a function of weights W [k, features + 1], the last column the intercepts, and of
    scores [k, m] = W x'. k is the number of classes, but 1 for two: the second's, the first's score being 0.

    With the probabilities P = softmax(W x') [k, m] (two classes: the logistic function), the number N of rows of each
    class [k, m] that a row of x stands for, their totals T [m], and the penalty A = diag(1 / (C n), ..., 0):

        gradient      G = (T P - N) x / n + W A
        Hessian block of class k    H_k = x' diag(T P_k (1 - P_k)) x / n + A

    Scores have a row per class, as what is taken over the classes is then taken over long rows.
    """

    x: Tensor
    """float [m, features + 1]: the design's different rows that the problem has."""

    n: float
    """How many rows are summed in those of x, or the sum of their weights."""

    moments: Tensor
    """float [features + 1, features + 1]: the design's."""

    counts: Tensor
    """float [k, m], N: how many rows of the class are summed in each row of x."""

    total: Tensor
    """float [m], T: how many rows of any class."""

    penalty: Tensor
    """float [features + 1], the diagonal of A: 1 / (C n), of the intercept 0."""

    binary: bool
    """Whether there are two classes, and k is 1."""

    @staticmethod
    def of(design: Design, rows: np.ndarray, target: np.ndarray, classes: int, C: float) -> Problem:
        """The problem of some rows of a design; target int [len(rows)] is the class, from 0, of each."""
        x = design.x
        weight = None if design.weight is None else design.weight[torch.from_numpy(rows).to(x.device)]
        n = float(len(rows) if weight is None else weight.sum())
        place, codes = (torch.from_numpy(array).to(x.device) for array in (rows, target))
        cells = torch.bincount(codes * len(x) + design.row[place], weight, minlength=classes * len(x))
        counts = cells.view(classes, len(x)).to(x)
        total = counts.sum(0)
        if not total.all():
            x, counts, total = x[total > 0], counts[:, total > 0], total[total > 0]
        penalty = x.new_full((x.shape[1],), 1 / (C * n))
        penalty[-1] = 0
        binary = classes == 2
        return Problem(x, n, design.moments, counts[1:] if binary else counts, total, penalty, binary)

    def start(self) -> Tensor:
        """Weights of 0, and intercepts that give the classes their shares: [k, features + 1]."""
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
        """[k, features + 1]."""
        # G = (T P - N) x / n + W A
        return (self.total * probabilities - self.counts) @ self.x / self.n + weights * self.penalty

    def bound(self) -> Callable[[Tensor], Tensor]:
        """Multiplication by the inverse of Böhning's bound on the Hessian, which is the same for all classes."""
        # H_k <= moments / 2 + A; with two classes moments / 4 + A, as P (1 - P) is at most 1/4
        inverse = self._inverse(self.moments * (0.25 if self.binary else 0.5))
        return lambda vectors: vectors @ inverse

    def blocks(self, probabilities: Tensor) -> Callable[[Tensor], Tensor]:
        """Multiplication by the inverse of the Hessian's block diagonal; for each class the rows of largest P (1 - P)
        stand for all."""
        # H_k = x' diag(T P_k (1 - P_k)) x / n + A
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
        """The inverse of hessian + A, which it overwrites: [..., features + 1, features + 1]."""
        resolution = torch.finfo(hessian.dtype).eps
        diagonal = hessian.diagonal(dim1=-2, dim2=-1)
        diagonal.mul_(1 + resolution * hessian.shape[-1]).add_(self.penalty)
        diagonal[..., -1].add_(resolution)
        return torch.cholesky_inverse(torch.linalg.cholesky(hessian))


@torch.no_grad()
def minimize(problem: Problem, start: Tensor | None, max_iter: int, tol: float) -> tuple[Tensor, int, bool]:
    """Preconditioned L-BFGS, from `start` or `Problem.start()`: (weights, iterations, whether they sufficed)."""
    weights = problem.start() if start is None else start
    scores = weights @ problem.x.T
    objective, log_probabilities = problem.loss(weights, scores)
    pairs: list[tuple[Tensor, Tensor, float]] = []
    previous: tuple[Tensor, Tensor] | None = None  # the last step and the gradient before it
    for iteration in range(max_iter):
        probabilities = log_probabilities.exp()
        gradient = problem.gradient(weights, probabilities)
        if iteration % _RENEWAL == 0:
            at_default_start = iteration == 0 and start is None
            multiply = problem.bound() if at_default_start else problem.blocks(probabilities)
        if previous is not None:
            step, earlier_gradient = previous
            change = gradient - earlier_gradient
            curvature = float(_dot(step, change))
            if curvature > 0:
                pairs = [*pairs[1 - _MEMORY :], (step, change, curvature)]
        direction = -_quasi_newton(gradient, pairs, multiply)
        promised = -float(_dot(gradient, direction))
        if promised < 2 * tol:
            return weights, iteration, True
        point = _line_search(problem, weights, scores, objective, direction, promised)
        if point is None:
            if not pairs:  # this is as far as the precision reaches
                return weights, iteration, True
            pairs = []
            previous = None
            continue
        length, weights, scores, objective, log_probabilities = point
        previous = length * direction, gradient
    return weights, max_iter, False


def _line_search(
    problem: Problem, weights: Tensor, scores: Tensor, objective: float, direction: Tensor, promised: float
) -> tuple[float, Tensor, Tensor, float, Tensor] | None:
    """The first point along `direction`, shorter and shorter steps, that lowers the objective by enough (Armijo) of
    what is `promised` per length: (length, weights, scores, objective, log-probabilities). None where none does."""
    slopes = direction @ problem.x.T
    length = 1.0
    while length > 1e-10:
        trial = weights + length * direction
        trial_scores = torch.add(scores, slopes, alpha=length)
        trial_objective, log_probabilities = problem.loss(trial, trial_scores)
        if trial_objective <= objective - _SUFFICIENT * length * promised:
            return length, trial, trial_scores, trial_objective, log_probabilities
        # the minimum of the parabola through objective and slope here and the objective there
        minimum = promised * length**2 / (2 * (trial_objective - objective + promised * length))
        length = min(max(minimum, 0.1 * length), 0.5 * length)
    return None


def _quasi_newton(gradient: Tensor, pairs: list, multiply: Callable[[Tensor], Tensor]) -> Tensor:
    """The inverse of L-BFGS's Hessian times the gradient, by the two-loop recursion; `multiply` is the initial inverse.

    pairs: steps, changes of gradient, and their products, from the oldest to the latest.
    """
    product = gradient.clone()
    shares = []
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
