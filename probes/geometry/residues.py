"""Which residues of an integer activations tell apart linearly: v mod T, period by period, on values held out.

A code by circles of period T tells v mod T; a code by size tells none. `probes.geometry.number_bases` says which
functions of v the activations hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular
from scipy.stats import binomtest

from probes.geometry.value_statistics import Means, ValueStatistics, leave_out

SHRINKAGES = tuple(10.0**p for p in range(-3, 2))  # of the covariance of means towards that within values
_INNER = 4  # folds within the training values


def separability(
    statistics: ValueStatistics,
    periods: Sequence[int] = range(2, 11),
    folds: int = 5,
    seed: int = 0,
    permutations: int = 5,
) -> pd.DataFrame:
    """A row per period T: the share of held-out values whose mean activation tells v mod T to a linear classifier.

    A discriminant with one covariance for all residues, fitted to the training values' mean activations: their weighted
    covariance within residues, plus `shrinkage` times that of activations within a value (pooled over all values: it
    does not say where a mean lies), chosen by further folds within the training values. `score` with Wilson's interval,
    a value counted as one trial; `chance`, the share of the values that have the most frequent residue, which is what
    always answering it scores; `control`, the score at permuted values, mean of `permutations`. Raises ValueError for
    fewer than two values per residue.
    """
    means = Means.of(statistics)
    n, features = means.centred.shape
    for period in periods:
        if not 2 <= period <= n // 2:
            raise ValueError(f"period {period} of {n} values; expected 2 to {n // 2}; lower it or gather more values")
    spread = np.trace(means.within) + (means.centred**2).sum() / n
    whitening = np.linalg.cholesky(means.within + 1e-3 * spread / features * np.eye(features))
    u, s, _ = np.linalg.svd(solve_triangular(whitening, means.centred.T, lower=True).T, full_matrices=False)
    y = u * s  # where activations within a value have unit covariance, so that shrinkage adds to the diagonal
    rng = np.random.default_rng(seed)
    orders = np.array([np.arange(n), *(rng.permutation(n) for _ in range(permutations))])
    fold, rows = leave_out(n, folds, rng), []
    right = {period: np.zeros((len(orders), n), bool) for period in periods}
    for left_out in range(folds):
        train, test = np.flatnonzero(fold != left_out), np.flatnonzero(fold == left_out)
        inner = leave_out(len(train), _INNER, rng)
        splits = [_Split(y, means.weights, train[inner != i], train[inner == i]) for i in range(_INNER)]
        outer = _Split(y, means.weights, train, test)
        for period in periods:
            residues = (means.values % period)[orders]
            agreed = sum(split.right(residues, period).sum(2) for split in splits)
            best = len(SHRINKAGES) - 1 - agreed[::-1].argmax(0)  # of equals the strongest
            right[period][:, test] = outer.right(residues, period)[best, np.arange(len(orders))]
    for period in periods:
        found = right[period].sum(1)
        wilson = binomtest(int(found[0]), n).proportion_ci(method="wilson")
        row = {"period": period, "score": found[0] / n, "low": float(wilson.low), "high": float(wilson.high)}
        row["chance"] = np.bincount(means.values % period).max() / n
        row["control"] = found[1:].mean() / n if permutations else np.nan
        rows.append({**row, "values": n, "rows": means.rows, "folds": folds, "seed": seed})
    return pd.DataFrame(rows)


class _Split:
    """Discriminants of residues from the means of some values, judged on those of others."""

    def __init__(self, y: np.ndarray, weights: np.ndarray, train: np.ndarray, test: np.ndarray):
        self.train, self.test = train, test
        self.share = weights[train] / weights[train].sum()
        centred = y - self.share @ y[train]
        lengths, axes = np.linalg.eigh((self.share[:, None] * centred[train]).T @ centred[train])
        turned = centred @ axes
        self.fitted, self.judged = turned[train], turned[test]
        self.variance = lengths + np.array(SHRINKAGES)[:, None]  # [shrinkages, coordinates]

    def right(self, residues: np.ndarray, period: int) -> np.ndarray:
        """residues [labellings, n] -> whether each tested value is told rightly: [shrinkages, labellings, tested]."""
        member = (residues[:, self.train, None] == np.arange(period)).astype(float)  # [labellings, trained, residues]
        mass = self.share @ member
        prior = np.where(mass > 0, 0, -np.inf)  # equal: those of the training values are the less likely held out
        centres = (member * self.share[:, None]).transpose(0, 2, 1) @ self.fitted / np.maximum(mass, 1e-300)[..., None]
        scaled = (centres / self.variance[:, None, None]).transpose(0, 1, 3, 2)  # ..., coordinates, residues
        inner = centres @ scaled
        # the covariance within residues is the total less that of the centres: Woodbury
        solved = np.linalg.inv(np.eye(period) - mass[..., None] * inner)
        offset = prior - np.einsum("slij,slji->sli", inner, solved) / 2
        scores = self.judged @ (scaled @ solved) + offset[:, :, None]
        return scores.argmax(3) == residues[:, self.test]
