"""Online code length of labels given activations: how many bits transmit the labels to somebody who sees the
activations, and learns as the labels come in (Voita & Titov 2020, arXiv 2003.12298, "online coding")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.sparse import csr_matrix

from probes.solvers.checks import check_finite_rows
from probes.solvers.shrinkage import oas_shrinkage

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)  # the paper's
EXPONENTS = (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0)  # from the second on, each twice the one before
FREQUENCY_SHARE = 0.01  # of every prediction
_RIDGE = 1e-5  # of a feature's variance: where classes determine a feature exactly, the covariance stays invertible
_CONSTANT = 1e-10  # variance over squared mean of a feature that is taken to be constant
_MIN_LOG_RATIO = -80.0  # of likelihoods; e^-80 is nothing beside 1, and numbers below e^-87 are slow in float32
_MAX_SCORE = 2000.0  # of a score in float32, which rounds it by less than 1e-3; larger ones are computed in float64
_CHUNK = 1024  # rows whose scores are held at once, so that they stay in the processor's cache


@dataclass(frozen=True)
class CodeLength:
    """What the labels of some targets cost, in bits."""

    bits: np.ndarray
    """float64 [targets]: bits per label, coded by the probe."""

    uniform: np.ndarray
    """float64 [targets]: bits per label, coded as one of the target's classes: log2(classes)."""

    by_frequency: np.ndarray
    """float64 [targets]: bits per label, coded online by label frequencies, without activations."""

    labels: np.ndarray
    """int64 [targets]: how many labels were coded."""

    rows: np.ndarray
    """float32 [n, targets]: what each label cost, NaN where there is none, for intervals over skeletons."""

    @property
    def compression(self) -> np.ndarray:
        """How many times shorter the probe's code is than the uniform one: [targets]."""
        return self.uniform / self.bits

    def __repr__(self) -> str:
        return f"CodeLength({len(self.bits)} targets, {len(self.rows)} rows)"


def online_code_length(
    x: np.ndarray,
    labels: np.ndarray,
    defined: np.ndarray | None = None,
    programs: np.ndarray | None = None,
    fractions: Sequence[float] = FRACTIONS,
) -> CodeLength:
    """Bits per label when each block of rows is coded by a probe fitted to all blocks before it.

    The probe is a discriminant of Gaussian classes with one covariance, shrunk (`oas_shrinkage`) in units of each
    feature's standard deviation. Class means are shrunk too: along each discriminant direction they are Gaussian with
    the variance estimated from them, and directions that means of noise would show as well are left out, as a probe of
    199 classes has thousands of parameters, and an overconfident code is a long one. Likelihoods are raised to the
    exponent, of `EXPONENTS`, that would have coded the last block best, since activations are not Gaussian. A class has
    the prior (rows + 1/2) / (n + classes / 2); one not seen yet is therefore never impossible, its floor being
    `FREQUENCY_SHARE` of its prior 1/2 / (n + classes / 2): that share of every prediction is the prior alone.

    Which classes a target has is known beforehand, so that its first block costs log2(classes) a label.

    Args:
        x: activations, float [n, features].
        labels: integers [n, targets], each value a class; real labels and control labels side by side.
        defined: bool [n, targets], which of the labels exist (default: all).
        programs: [n], the program of each row. With them blocks end where a program does, so that no program is both
            learned from and coded.
        fractions: where blocks end, in fractions of the rows in the order given, from above 0 to 1.

    Returns:
        The code lengths, target by target and row by row.

    Raises:
        ValueError: shapes that do not fit, activations that are not finite, a program in two places, fractions that do
            not rise to 1, or a target with fewer than two classes.
    """
    x, labels = np.asarray(x), np.asarray(labels)
    defined = np.ones(labels.shape, np.bool_) if defined is None else np.asarray(defined)
    _check(x, labels, defined, fractions)
    ends = _block_ends(len(x), fractions, programs)
    coders = [_LabelCoder(labels[defined[:, k], k], x.shape[1], k) for k in range(labels.shape[1])]
    rows, frequency = np.full((2, *labels.shape), np.nan, np.float32)
    pattern = np.unique(np.packbits(defined, axis=0), axis=1, return_inverse=True)[1].ravel()
    for group in np.unique(pattern):  # targets that have the same rows share their sums of products
        targets = np.flatnonzero(pattern == group)
        at = np.flatnonzero(defined[:, targets[0]])
        block_ends = np.unique(np.searchsorted(at, ends))
        shared = _RunningMoments(x[at])
        for first, end in zip(np.concatenate([[0], block_ends[:-1]]), block_ends, strict=True):
            for k in targets:
                rows[at[first:end], k], frequency[at[first:end], k] = coders[k].code(shared, first, end)
            if end < len(at):
                shared.learn(first, end)
                for k in targets:
                    coders[k].learn(shared, first, end)
    count = defined.sum(0)
    bits, by_frequency = (np.nansum(cost, 0, dtype=np.float64) / count for cost in (rows, frequency))
    uniform = np.log2([coder.n_classes for coder in coders])
    return CodeLength(bits, uniform, by_frequency, count, rows)


class _RunningMoments:
    """Sums over the rows learned so far that do not depend on labels."""

    def __init__(self, x: np.ndarray):
        self.x = x.astype(np.float64)
        self.x -= self.x.mean(0)  # a shift changes no probability, only rounding errors
        features = x.shape[1]
        self.n = 0
        self.sum = np.zeros(features)
        self.products = np.zeros((features, features))

    def learn(self, first: int, end: int) -> None:
        """Add the rows of a block."""
        block = self.x[first:end]
        self.n += len(block)
        self.sum = self.sum + block.sum(0)
        self.products = self.products + block.T @ block

    @property
    def mean(self) -> np.ndarray:
        return self.sum / self.n


class _LabelCoder:
    """The classes of one target: their counts and sums over the rows learned so far, and the exponent chosen last."""

    def __init__(self, labels: np.ndarray, features: int, index: int):
        classes, self.y = np.unique(labels, return_inverse=True)
        self.n_classes = len(classes)
        if self.n_classes < 2:
            raise ValueError(
                f"target {index} has {self.n_classes} classes ({classes.tolist()}) where 2 are needed; leave it out"
            )
        self.counts = np.zeros(self.n_classes)
        self.sums = np.zeros((self.n_classes, features))
        self.exponent = 0  # index into EXPONENTS

    def learn(self, shared: _RunningMoments, first: int, end: int) -> None:
        """Add the labels of a block."""
        y = self.y[first:end]
        indicator = csr_matrix((np.ones(len(y)), (y, np.arange(len(y)))), (self.n_classes, len(y)))
        self.counts += np.bincount(y, minlength=self.n_classes)
        self.sums += indicator @ shared.x[first:end]

    def code(self, shared: _RunningMoments, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Bits of each label of the block, by the probe and by its frequency: float64 [rows] each."""
        prior = (self.counts + 0.5) / (shared.n + self.n_classes / 2)
        by_frequency = -np.log2(prior[self.y[first:end]])
        probe = self._directions(shared)
        if probe is None:
            self.exponent = 0
            return by_frequency, by_frequency
        directions, variance = probe
        mean = shared.mean
        terms = self._likelihood_terms(mean, directions, variance)
        costs = np.empty((len(EXPONENTS), end - first))
        for start in range(first, end, _CHUNK):
            at = slice(start, min(start + _CHUNK, end))
            z = (shared.x[at] - mean) @ directions
            powers = np.concatenate([z**2, z, np.ones((len(z), 1))], 1)
            scores = powers.astype(np.float32) @ terms.astype(np.float32)
            if np.abs(scores).max() > _MAX_SCORE:  # where classes nearly determine a feature
                scores = powers @ terms
            costs[:, start - first : at.stop - first] = _costs(scores, self.y[at], prior)
        bits = costs[self.exponent]
        self.exponent = int(costs.mean(1).argmin())
        return bits, by_frequency

    def _likelihood_terms(self, mean: np.ndarray, directions: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Coefficients of z^2, z and 1, z [k] along the directions, in each class's log-likelihood: [2 k + 1, classes].

        A class's rows are Gaussian about its mean, which is shrunk towards the overall one and known as well as its
        rows tell: z ~ N(center, 1 + variance / (weight + 1)).
        """
        centers = (self.sums / np.maximum(self.counts, 1)[:, None] - mean) @ directions  # [classes, k]
        weight = self.counts[:, None] * variance  # a class never seen lies at the mean, with its whole variance
        centers *= weight / (weight + 1)
        spread = 1 + variance / (weight + 1)
        # log N(z; centers, spread) without -z^2 / 2, which all classes share and which would cost digits
        constant = -0.5 * (centers**2 / spread + np.log(spread)).sum(1, keepdims=True)
        return np.concatenate([0.5 - 0.5 / spread, centers / spread, constant], 1).T

    def _directions(self, shared: _RunningMoments) -> tuple[np.ndarray, np.ndarray] | None:
        """Discriminant directions [features, k], of variance 1 within classes, and the variance of the class means
        along each, [k]. None where the rows show no direction.

        Of (classes present - 1) noise means in so many features, the largest eigenvalue between classes is about (sqrt(
        features) + sqrt(classes present - 1))^2 in units of the variance within (Marchenko & Pastur 1967); larger ones
        are directions, and the excess is their variance, times the rows that a mean rests on (analysis of variance).
        """
        n, features = shared.n, len(shared.sum)
        present = self.counts > 0
        n_present = int(present.sum())
        if n_present < 2 or n - n_present < 2:
            return None
        mean = shared.mean
        total = shared.products - n * np.outer(mean, mean)
        variance = np.diag(total) / n
        constant = variance <= _CONSTANT * mean**2  # and what it varies by is rounding, of either sign
        scale = np.sqrt(np.where(constant, 1, variance))
        counts = self.counts[present, None]
        means = (self.sums[present] / counts - mean) / scale * np.sqrt(counts)
        within_rows = n - n_present
        within = oas_shrinkage((total / np.outer(scale, scale) - means.T @ means) / within_rows, within_rows)
        within[np.diag_indices(features)] += _RIDGE
        root = cholesky(within, lower=True)
        means = solve_triangular(root, means.T, lower=True)  # [features, classes present], their noise of variance 1
        edge = (np.sqrt(features) + np.sqrt(n_present - 1)) ** 2
        wide = n_present > features  # the smaller of the two products has the same eigenvalues
        values, vectors = eigh(means @ means.T if wide else means.T @ means, subset_by_value=(edge, np.inf))
        if not len(values):
            return None
        vectors = vectors if wide else means @ vectors / np.sqrt(values)
        rows_per_mean = n - (self.counts**2).sum() / n
        directions = solve_triangular(root, vectors, lower=True, trans=1)
        return directions / scale[:, None], (values - edge) / rows_per_mean


def _costs(scores: np.ndarray, y: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Bits of the labels y int [n] at each of `EXPONENTS` of the likelihoods e^scores [n, classes]: [exponents, n].

    Overwrites `scores`.
    """
    scores -= scores.max(1, keepdims=True)
    scores = np.maximum(scores, _MIN_LOG_RATIO).astype(np.float32, copy=False)
    likelihood = np.exp(np.float32(EXPONENTS[1]) * scores)
    weights = prior.astype(np.float32)
    rows = np.arange(len(y))
    posteriors = np.empty((len(EXPONENTS), len(y)))  # of the labels' own classes
    posteriors[0] = prior[y]
    for k in range(1, len(EXPONENTS)):
        posteriors[k] = likelihood[rows, y] * prior[y] / (likelihood @ weights)
        if k + 1 < len(EXPONENTS):
            likelihood *= likelihood  # the next exponent is twice this one
    return -np.log2((1 - FREQUENCY_SHARE) * posteriors + FREQUENCY_SHARE * prior[y])


def _block_ends(n: int, fractions: Sequence[float], programs: np.ndarray | None) -> np.ndarray:
    """The row counts at which blocks end, increasing, the last of them n: int64 [blocks]."""
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
    check_finite_rows(x)
    if not fractions or fractions[-1] != 1 or fractions[0] <= 0 or (np.diff(fractions) <= 0).any():
        raise ValueError(f"fractions {tuple(fractions)}; expected to rise from above 0 to 1")
