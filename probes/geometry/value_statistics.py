"""What activations add up to, value by value of an integer: all that the studies of how it is held rest on.

How many rows each value has, their sum, and one total of products: so it streams, and statistics of different rows add
up. `probes.geometry.number_bases` compares bases of value functions, `probes.geometry.residues` tells residues; both
work on `Means`, of values that `leave_out` holds out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_VALUES = 8


@dataclass(frozen=True)
class ValueStatistics:
    """What activations add up to, value by value.

    values int64 [values], increasing; counts [values], rows of each; sums float64 [values, features]; scatter float64
    [features, features], the sum of x xᵀ over all rows. Raises ValueError for shapes that do not belong together,
    values that do not increase, and what is not finite.
    """

    values: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    scatter: np.ndarray

    def __post_init__(self) -> None:
        n, features = len(self.values), self.sums.shape[-1]
        came = (self.values.shape, self.counts.shape, self.sums.shape, self.scatter.shape)
        if came != ((n,), (n,), (n, features), (features, features)):
            raise ValueError(
                f"values, counts, sums, scatter have shapes {came}; expected [k], [k], [k, features] and "
                "[features, features]; pass them of the same rows"
            )
        if self.values.dtype.kind not in "iu" or (np.diff(self.values) <= 0).any():
            raise ValueError(f"{self.values.dtype} values {self.values}; expected increasing integers; sort them first")
        if not (np.isfinite(self.sums).all() and np.isfinite(self.scatter).all()):
            raise ValueError("sums or scatter hold NaN or infinity; expected finite ones; leave such rows out")

    @classmethod
    def from_rows(cls, x: np.ndarray, v: np.ndarray) -> ValueStatistics:
        """x [rows, features] activations, v int [rows] the integer of each."""
        x, v = np.asarray(x, np.float64), np.asarray(v)
        if x.ndim != 2 or v.shape != x.shape[:1] or v.dtype.kind not in "iu":
            raise ValueError(
                f"activations {x.shape} and {v.dtype} values {v.shape}; expected [rows, features] and integers [rows]; "
                "flatten heads, and select the rows where the integer is defined"
            )
        unfit = int((~np.isfinite(x)).any(1).sum())
        if unfit:
            raise ValueError(f"{unfit} of {len(x)} rows hold NaN or infinity; expected none; leave those rows out")
        values, counts = np.unique(v, return_counts=True)
        starts = np.cumsum(counts) - counts
        sums = np.add.reduceat(x[np.argsort(v, kind="stable")], starts) if len(v) else np.zeros((0, x.shape[1]))
        return cls(values.astype(np.int64), counts, sums, x.T @ x)

    def __add__(self, other: ValueStatistics) -> ValueStatistics:
        mine, theirs = self.sums.shape[1], other.sums.shape[1]
        if mine != theirs:
            raise ValueError(f"{mine} and {theirs} features; expected as many; add statistics of one site")
        values = np.union1d(self.values, other.values)
        counts, sums = np.zeros(len(values), np.int64), np.zeros((len(values), mine))
        for part in (self, other):
            at = np.searchsorted(values, part.values)
            counts[at] += part.counts.astype(np.int64)
            sums[at] += part.sums
        return ValueStatistics(values, counts, sums, self.scatter + other.scatter)


@dataclass(frozen=True)
class Means:
    """Mean activations by value, centred, in as many coordinates as they span: y [n, coordinates]. noise [n]: the
    expected squared error of each as an estimate. weights [n], of average 1: the inverse of the variance of a value's
    mean about that of all (the one-way random-effects estimate), so that values seen often count alike, rare ones less.
    """

    values: np.ndarray
    y: np.ndarray
    noise: np.ndarray
    weights: np.ndarray
    rows: int
    within: np.ndarray  # covariance within values [features, features]
    centred: np.ndarray  # as y, in the features themselves

    @classmethod
    def of(cls, statistics: ValueStatistics) -> Means:
        """Of the values that have rows. Raises ValueError for fewer than 8 of them, for values that come only once
        each, and for activations that are the same in all rows."""
        seen = statistics.counts > 0
        values, counts, sums = statistics.values[seen], statistics.counts[seen].astype(float), statistics.sums[seen]
        n, rows = len(values), counts.sum()
        if n < MIN_VALUES:
            raise ValueError(f"{n} distinct values; expected {MIN_VALUES} or more; gather rows of other values")
        if rows == n:
            raise ValueError(
                f"{n} rows of {n} values; expected several of a value, to know their noise; gather more rows"
            )
        means = sums / counts[:, None]
        centre = counts @ means / rows
        between = ((means - centre) ** 2).sum(1)
        within = (statistics.scatter - sums.T @ means) / (rows - n)
        scatter = float(np.trace(statistics.scatter))
        spread = max(float(np.trace(within)), 0.0)
        spread = spread if spread * rows > 1e-12 * scatter else 0.0
        if spread == 0 and counts @ between <= 1e-12 * scatter:
            raise ValueError("the activations are the same in all rows; expected some that vary; choose another site")
        signal = max((counts @ between - (n - 1) * spread) / (rows - (counts @ counts) / rows), 0.0)
        weights = 1 / (signal + spread / counts)
        centred = means - means.mean(0)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        return cls(values, u * s, spread / counts, weights / weights.mean(), int(rows), within, centred)


def leave_out(n: int, folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold that leaves each value out: int [n]. Of `folds` neighbours each goes to another, in random order: every
    fold takes from the whole range, and no fold is a residue class. Raises ValueError unless 2 <= folds <= n."""
    if not 2 <= folds <= n:
        raise ValueError(f"folds = {folds} of {n} values; expected 2 to {n}; pass folds=5")
    return rng.permuted(np.tile(np.arange(folds), (-(-n // folds), 1)), axis=1).ravel()[:n]
