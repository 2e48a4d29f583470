"""Online code length of labels given activations: what it costs to tell the labels to someone who sees the activations
and learns as the labels come in (Voita & Titov 2020, arXiv 2003.12298, "online coding")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.sparse import csr_matrix

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)  # the paper's
EXPONENTS = (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0)  # from the second on, each twice the one before
FREQUENCY_SHARE = 0.01  # of every prediction
_RIDGE = 1e-5  # of a feature's variance: where classes determine a feature exactly, the covariance stays invertible
_CONSTANT = 1e-10  # variance over squared mean of a feature that is taken to be constant
_FURTHEST = -80.0  # log-likelihood ratio; e^-80 is nothing beside 1, and numbers below e^-87 are slow in float32
_MAX_SCORE = 2000.0  # of a score in float32, which rounds it by less than 1e-3; larger ones are computed in float64
_ROWS = 1024  # whose scores are held at once, so that they stay in the cache


@dataclass(frozen=True)
class CodeLength:
    """What labels cost, in bits.

    bits, uniform, by_frequency float64 [targets]: per label, by the probe, by naming one of its classes, and by an
    online code of label frequencies that sees no activations; NaN where nothing was coded. labels int64 [targets]: how
    many were. rows float32 [n, targets]: what each label cost, NaN where there is none, for intervals over skeletons.
    """

    bits: np.ndarray
    uniform: np.ndarray
    by_frequency: np.ndarray
    labels: np.ndarray
    rows: np.ndarray

    @property
    def compression(self) -> np.ndarray:
        """How many times shorter than the uniform code: [targets]."""
        return self.uniform / self.bits


def online_code_length(
    x: np.ndarray,
    labels: np.ndarray,
    defined: np.ndarray | None = None,
    programs: np.ndarray | None = None,
    fractions: Sequence[float] = FRACTIONS,
) -> CodeLength:
    """Bits per label when each block of rows is coded by a probe fitted to all blocks before it.

    x float [n, features]; labels integers [n, targets], each value a class: real labels and control labels side by
    side; defined bool [n, targets] says which of them there are (default: all). Blocks end at `fractions` of the rows,
    in the order given; with `programs` [n] they end where a program does, so that none is learned from and coded too.
    Which classes a target has is known beforehand, so that its first block costs log2(classes) a label.

    The probe is a discriminant of Gaussian classes with one covariance, shrunk (Chen et al. 2010) in units of each
    feature's standard deviation. Class means are shrunk too: along each discriminant direction they are Gaussian with
    the variance estimated from them, and directions that means of noise would show as well are left out, as a probe of
    199 classes has thousands of parameters, and an overconfident code is a long one. Likelihoods are raised to the
    exponent, of `EXPONENTS`, that would have coded the last block best, since activations are not Gaussian. A class has
    the prior (rows + 1/2) / (n + classes / 2); one not seen yet is therefore never impossible, its floor being
    `FREQUENCY_SHARE` of its prior 1/2 / (n + classes / 2): that share of every prediction is the prior alone.

    Raises ValueError for shapes that do not fit, activations that are not finite, a program in two places, fractions
    that do not rise to 1, and a target with fewer than two classes.
    """
    x, labels = np.asarray(x), np.asarray(labels)
    defined = np.ones(labels.shape, np.bool_) if defined is None else np.asarray(defined)
    _check(x, labels, defined, fractions)
    ends = _ends(len(x), fractions, programs)
    targets = [_LabelCoder(labels[defined[:, k], k], x.shape[1], k) for k in range(labels.shape[1])]
    rows, frequency = np.full((2, *labels.shape), np.nan, np.float32)
    pattern = np.unique(np.packbits(defined, axis=0), axis=1, return_inverse=True)[1].ravel()
    for group in np.unique(pattern):  # targets that have the same rows share their sums of products
        chosen = np.flatnonzero(pattern == group)
        at = np.flatnonzero(defined[:, chosen[0]])
        block_ends = np.unique(np.searchsorted(at, ends))
        shared = _RunningMoments(x[at])
        for first, end in zip(np.concatenate([[0], block_ends[:-1]]), block_ends, strict=True):
            for k in chosen:
                rows[at[first:end], k], frequency[at[first:end], k] = targets[k].code(shared, first, end)
            if end < len(at):
                shared.learn(first, end)
                for k in chosen:
                    targets[k].learn(shared, first, end)
    count = defined.sum(0)
    bits, by_frequency = (np.nansum(cost, 0, dtype=np.float64) / count for cost in (rows, frequency))
    uniform = np.log2([target.classes for target in targets])
    return CodeLength(bits, uniform, by_frequency, count, rows)


class _RunningMoments:
    """Sums over the rows learned so far that do not depend on labels."""

    def __init__(self, x: np.ndarray):
        self.x = x.astype(np.float64)
        self.x -= self.x.mean(0)  # a shift changes no probability, only rounding errors
        self.n, self.sum, self.products = 0, np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))

    def learn(self, first: int, end: int) -> None:
        block = self.x[first:end]
        self.n, self.sum, self.products = self.n + len(block), self.sum + block.sum(0), self.products + block.T @ block


class _LabelCoder:
    """The classes of one target: their counts and sums over the rows learned so far, and the exponent chosen last."""

    def __init__(self, labels: np.ndarray, features: int, index: int):
        found, self.y = np.unique(labels, return_inverse=True)
        self.classes = len(found)
        if self.classes < 2:
            raise ValueError(
                f"target {index} has {self.classes} classes ({found.tolist()}) where 2 are needed; leave it out"
            )
        self.counts, self.sums = np.zeros(self.classes), np.zeros((self.classes, features))
        self.exponent = 0

    def learn(self, shared: _RunningMoments, first: int, end: int) -> None:
        y = self.y[first:end]
        indicator = csr_matrix((np.ones(len(y)), (y, np.arange(len(y)))), (self.classes, len(y)))
        self.counts += np.bincount(y, minlength=self.classes)
        self.sums += indicator @ shared.x[first:end]

    def code(self, shared: _RunningMoments, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Bits of each label of the block, by the probe and by its frequency: float64 [rows] each."""
        prior = (self.counts + 0.5) / (shared.n + self.classes / 2)
        y = self.y[first:end]
        by_frequency = -np.log2(prior[y])
        found = self._directions(shared)
        if found is None:
            self.exponent = 0
            return by_frequency, by_frequency
        directions, variance = found
        mean = shared.sum / shared.n
        centers = (self.sums / np.maximum(self.counts, 1)[:, None] - mean) @ directions
        weight = self.counts[:, None] * variance  # a class never seen lies at the mean, with its whole variance
        centers *= weight / (weight + 1)
        spread = 1 + variance / (weight + 1)
        # log N(z; centers, spread) without -z^2 / 2, which all classes share and which would cost digits
        constant = -0.5 * (centers**2 / spread + np.log(spread)).sum(1, keepdims=True)
        terms = np.concatenate([0.5 - 0.5 / spread, centers / spread, constant], 1).T
        costs = np.empty((len(EXPONENTS), end - first))
        for start in range(first, end, _ROWS):
            at = slice(start, min(start + _ROWS, end))
            z = (shared.x[at] - mean) @ directions
            powers = np.concatenate([z**2, z, np.ones((len(z), 1))], 1)
            scores = powers.astype(np.float32) @ terms.astype(np.float32)
            if np.abs(scores).max() > _MAX_SCORE:  # where classes nearly determine a feature
                scores = powers @ terms
            costs[:, start - first : at.stop - first] = _costs(scores, self.y[at], prior)
        bits = costs[self.exponent]
        self.exponent = int(costs.mean(1).argmin())
        return bits, by_frequency

    def _directions(self, shared: _RunningMoments) -> tuple[np.ndarray, np.ndarray] | None:
        """Discriminant directions [features, k], of variance 1 within classes, and that of the class means along each:
        [k]. None where there are none.

        Of (seen classes - 1) noise means in so many features, the largest eigenvalue between classes is about (sqrt(
        features) + sqrt(seen classes - 1))^2 in units of the variance within (Marchenko & Pastur 1967); larger ones
        are directions, and what exceeds it their variance, times the rows that a mean rests on (analysis of variance).
        """
        n, features, seen = shared.n, len(shared.sum), int((self.counts > 0).sum())
        within_rows = n - seen
        if seen < 2 or within_rows < 2:
            return None
        mean = shared.sum / n
        total = shared.products - n * np.outer(mean, mean)
        variance = np.diag(total) / n
        constant = variance <= _CONSTANT * mean**2  # and what it varies by is rounding, of either sign
        scale = np.sqrt(np.where(constant, 1, variance))
        there = self.counts > 0
        means = (self.sums[there] / self.counts[there, None] - mean) / scale * np.sqrt(self.counts[there, None])
        within = oas_shrinkage((total / np.outer(scale, scale) - means.T @ means) / within_rows, within_rows)
        within[np.diag_indices(features)] += _RIDGE
        root = cholesky(within, lower=True)
        means = solve_triangular(root, means.T, lower=True)  # [features, seen], their noise of variance 1
        edge = (np.sqrt(features) + np.sqrt(seen - 1)) ** 2
        wide = seen > features
        values, vectors = eigh(means @ means.T if wide else means.T @ means, subset_by_value=(edge, np.inf))
        if not len(values):
            return None
        vectors = vectors if wide else means @ vectors / np.sqrt(values)
        rows_per_mean = n - (self.counts**2).sum() / n
        directions = solve_triangular(root, vectors, lower=True, trans=1)
        return directions / scale[:, None], (values - edge) / rows_per_mean


def oas_shrinkage(covariance: np.ndarray, n: int) -> np.ndarray:
    """Oracle approximating shrinkage of a covariance [d, d] of n rows towards its mean variance (Chen et al. 2010, as
    scikit-learn's `OAS` has it)."""
    d = len(covariance)
    mean, square = np.trace(covariance) / d, (covariance**2).mean()
    apart = (n + 1) * (square - mean**2 / d)
    share = min((square + mean**2) / apart, 1.0) if apart > 0 else 1.0
    return (1 - share) * covariance + share * mean * np.eye(d)


def _costs(scores: np.ndarray, y: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Bits of the labels y [n], for each of `EXPONENTS` of the likelihoods e^scores [n, classes]: [exponents, n]."""
    scores -= scores.max(1, keepdims=True)
    scores = np.maximum(scores, _FURTHEST).astype(np.float32, copy=False)
    likelihood = np.exp(np.float32(EXPONENTS[1]) * scores)
    weights, rows = prior.astype(np.float32), np.arange(len(y))
    chances = np.empty((len(EXPONENTS), len(y)))
    chances[0] = prior[y]
    for k in range(1, len(EXPONENTS)):
        chances[k] = likelihood[rows, y] * prior[y] / (likelihood @ weights)
        if k + 1 < len(EXPONENTS):
            likelihood *= likelihood
    return -np.log2((1 - FREQUENCY_SHARE) * chances + FREQUENCY_SHARE * prior[y])


def _ends(n: int, fractions: Sequence[float], programs: np.ndarray | None) -> np.ndarray:
    """Where blocks end: increasing row counts, the last of them n."""
    ends = np.ceil(np.asarray(fractions) * n - 1e-9).astype(np.int64)
    if programs is not None:
        programs = np.asarray(programs)
        if programs.shape != (n,):
            raise ValueError(f"programs have shape {programs.shape}; expected one for each of {n} rows")
        bounds = np.append(np.flatnonzero(programs[1:] != programs[:-1]) + 1, n)
        if len(bounds) != len(np.unique(programs)):
            raise ValueError("the rows of a program do not follow one another; sort the rows by program first")
        ends = bounds[np.searchsorted(bounds, ends)]
    return np.unique(ends)


def _check(x: np.ndarray, labels: np.ndarray, defined: np.ndarray, fractions: Sequence[float]) -> None:
    if x.ndim != 2 or labels.ndim != 2 or len(x) != len(labels) or defined.shape != labels.shape:
        raise ValueError(
            f"activations {x.shape}, labels {labels.shape}, defined {defined.shape}; "
            "expected [n, features] and twice [n, targets]"
        )
    if labels.dtype.kind not in "iub" or defined.dtype != np.bool_:
        raise ValueError(f"labels are {labels.dtype}, defined {defined.dtype}; expected integers and bool")
    if not np.isfinite(x).all():
        raise ValueError("activations are not finite; leave out the rows that are not")
    if not fractions or fractions[-1] != 1 or fractions[0] <= 0 or (np.diff(fractions) <= 0).any():
        raise ValueError(f"fractions {tuple(fractions)}; expected to rise from above 0 to 1")
