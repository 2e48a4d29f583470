"""Which residues of an integer activations separate linearly: v mod T, period by period, on held-out values.

A code by circles of period T separates v mod T; a code by size separates no residues. `probes.geometry.number_bases`
says which functions of v the activations hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from einops import rearrange
from scipy.linalg import solve_triangular

from cadmus.statistics.proportions import wilson
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
    """The accuracy with which a linear classifier of held-out values' mean activations tells v mod T, by period T.

    A discriminant with one covariance for all residues, fitted to the training values' mean activations: their weighted
    covariance within residues, plus `shrinkage` times that of activations within a value (pooled over all values: it
    does not say where a mean lies), chosen by further folds within the training values.

    Columns: period; `score`, the share of values told right, with Wilson's interval `low`, `high`, a value counted as
    one trial; `chance`, the share of the values that have the most frequent residue, which is what always answering it
    scores; `control`, the score at permuted values, mean of `permutations`; values, rows, folds, seed. Raises
    ValueError for fewer than two values per residue.
    """
    means = Means.of(statistics)
    n = len(means.values)
    for period in periods:
        if not 2 <= period <= n // 2:
            raise ValueError(f"period {period} of {n} values; expected 2 to {n // 2}; lower it or gather more values")
    y = _whitened(means)
    rng = np.random.default_rng(seed)
    orders = np.array([np.arange(n), *(rng.permutation(n) for _ in range(permutations))])
    fold = leave_out(n, folds, rng)
    correct = {period: np.zeros((len(orders), n), bool) for period in periods}
    for left_out in range(folds):
        train, test = np.flatnonzero(fold != left_out), np.flatnonzero(fold == left_out)
        inner = leave_out(len(train), _INNER, rng)
        splits = [_Split(y, means.weights, train[inner != i], train[inner == i]) for i in range(_INNER)]
        outer = _Split(y, means.weights, train, test)
        for period in periods:
            residues = (means.values % period)[orders]
            n_correct = sum(split.correct(residues, period).sum(2) for split in splits)  # [shrinkages, labellings]
            best = len(SHRINKAGES) - 1 - n_correct[::-1].argmax(0)  # of equals the strongest
            correct[period][:, test] = outer.correct(residues, period)[best, np.arange(len(orders))]
    rows = []
    for period in periods:
        n_correct = correct[period].sum(1)  # [labellings], the true one first
        low, high = wilson(n_correct[0], n)
        rows.append(
            {
                "period": period,
                "score": n_correct[0] / n,
                "low": float(low),
                "high": float(high),
                "chance": np.bincount(means.values % period).max() / n,
                "control": n_correct[1:].mean() / n if permutations else np.nan,
                "values": n,
                "rows": means.rows,
                "folds": folds,
                "seed": seed,
            }
        )
    return pd.DataFrame(rows)


def _whitened(means: Means) -> np.ndarray:
    """The mean activations in coordinates where activations within a value have unit covariance, so that shrinkage adds
    to the diagonal: [values, coordinates]."""
    n, features = means.centred.shape
    spread = np.trace(means.within) + (means.centred**2).sum() / n
    root = np.linalg.cholesky(means.within + 1e-3 * spread / features * np.eye(features))
    u, s, _ = np.linalg.svd(solve_triangular(root, means.centred.T, lower=True).T, full_matrices=False)
    return u * s


class _Split:
    """Discriminants of residues from the means of some values, judged on those of others."""

    def __init__(self, y: np.ndarray, weights: np.ndarray, train: np.ndarray, test: np.ndarray):
        self.train, self.test = train, test
        self.share = weights[train] / weights[train].sum()
        centred = y - self.share @ y[train]
        # the covariance of the training values is diagonal along its own axes
        variances, axes = np.linalg.eigh((self.share[:, None] * centred[train]).T @ centred[train])
        turned = centred @ axes
        self.fitted, self.judged = turned[train], turned[test]  # [trained values, coordinates], [tested values, ...]
        self.variance = variances + np.array(SHRINKAGES)[:, None]  # [shrinkages, coordinates]

    def correct(self, residues: np.ndarray, period: int) -> np.ndarray:
        """Whether each tested value's residue is told right: bool [shrinkages, labellings, tested values].

        residues int [labellings, n]. The discriminant of residue r, of mean m_r and share p_r, is x' W^-1 m_r -
        m_r' W^-1 m_r / 2. The covariance within residues, W = S - sum of p_r m_r m_r', is the total one less that of
        the residues' means M [coordinates, residues], so that W^-1 M = S^-1 M (1 - diag(p) M' S^-1 M)^-1 (Woodbury).

        In the shapes: s shrinkages, l labellings, v trained values, t tested values, r residues, c coordinates.
        """
        member = (residues[:, self.train, None] == np.arange(period)).astype(float)  # [l, v, r]
        mass = self.share @ member  # [l, r], p
        prior = np.where(mass > 0, 0, -np.inf)  # equal: those of the training values are the less likely held out
        sums = rearrange(member * self.share[:, None], "l v r -> l r v") @ self.fitted  # [l, r, c]
        centres = sums / np.maximum(mass, 1e-300)[..., None]  # [l, r, c], M'
        scaled = rearrange(centres / self.variance[:, None, None], "s l r c -> s l c r")  # S^-1 M
        inner = centres @ scaled  # [s, l, r, r], M' S^-1 M
        solved = np.linalg.inv(np.eye(period) - mass[..., None] * inner)  # [s, l, r, r]
        offset = prior - np.einsum("slij,slji->sli", inner, solved) / 2  # [s, l, r]
        scores = self.judged @ (scaled @ solved) + offset[:, :, None]  # [s, l, t, r]
        return scores.argmax(3) == residues[:, self.test]
