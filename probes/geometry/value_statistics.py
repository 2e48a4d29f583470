"""Sums of activations by value of an integer: the sufficient statistics of how the integer is represented.

The number of rows of each value, their sum, and one total of products: so they can be gathered batch by batch, and
statistics of different rows add up. `probes.geometry.number_bases` compares bases of value functions,
`probes.geometry.residues` separates residues; both work on `Means`, of values that `leave_out` holds out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probes.solvers.checks import check_finite_rows, check_finite_sums

MIN_VALUES = 8


@dataclass(frozen=True)
class ValueStatistics:
    """Sums of activations, value by value; `+` adds those of other rows.

    Raises ValueError for shapes that do not belong together, values that do not increase, and sums that are not finite.
    """

    values: np.ndarray
    """int64 [values], increasing."""

    counts: np.ndarray
    """[values]: how many rows each value has."""

    sums: np.ndarray
    """float64 [values, features]: the sum of the activations of each value."""

    scatter: np.ndarray
    """float64 [features, features]: the sum of x xᵀ over all rows."""

    def __post_init__(self) -> None:
        n, features = len(self.values), self.sums.shape[-1]
        shapes = (self.values.shape, self.counts.shape, self.sums.shape, self.scatter.shape)
        if shapes != ((n,), (n,), (n, features), (features, features)):
            raise ValueError(
                f"values, counts, sums, scatter have shapes {shapes}; expected [k], [k], [k, features] and "
                "[features, features]; pass them of the same rows"
            )
        if self.values.dtype.kind not in "iu" or (np.diff(self.values) <= 0).any():
            raise ValueError(f"{self.values.dtype} values {self.values}; expected increasing integers; sort them first")
        check_finite_sums(self.sums, self.scatter)

    @classmethod
    def from_rows(cls, x: np.ndarray, v: np.ndarray) -> ValueStatistics:
        """The statistics of activations x [rows, features] with the integer v [rows] of each."""
        x, v = np.asarray(x, np.float64), np.asarray(v)
        if x.ndim != 2 or v.shape != x.shape[:1] or v.dtype.kind not in "iu":
            raise ValueError(
                f"activations {x.shape} and {v.dtype} values {v.shape}; expected [rows, features] and integers [rows]; "
                "flatten heads, and select the rows where the integer is defined"
            )
        check_finite_rows(x)
        values, counts = np.unique(v, return_counts=True)
        starts = np.cumsum(counts) - counts
        sums = np.add.reduceat(x[np.argsort(v, kind="stable")], starts) if len(v) else np.zeros((0, x.shape[1]))
        return cls(values.astype(np.int64), counts, sums, x.T @ x)

    def __add__(self, other: ValueStatistics) -> ValueStatistics:
        features, others = self.sums.shape[1], other.sums.shape[1]
        if features != others:
            raise ValueError(f"{features} and {others} features; expected as many; add statistics of one site")
        values = np.union1d(self.values, other.values)
        counts = np.zeros(len(values), np.int64)
        sums = np.zeros((len(values), features))
        for part in (self, other):
            at = np.searchsorted(values, part.values)
            counts[at] += part.counts.astype(np.int64)
            sums[at] += part.sums
        return ValueStatistics(values, counts, sums, self.scatter + other.scatter)

    def __repr__(self) -> str:
        return (
            f"ValueStatistics({len(self.values)} values, {int(self.counts.sum())} rows, {self.sums.shape[1]} features)"
        )


@dataclass(frozen=True)
class Means:
    """The mean activations of n values, centred."""

    values: np.ndarray
    """int64 [n], increasing."""

    y: np.ndarray
    """float64 [n, coordinates]: the means, centred, in as many coordinates as they span."""

    noise: np.ndarray
    """float64 [n]: the expected squared error of each mean as an estimate."""

    weights: np.ndarray
    """float64 [n], of average 1: the inverse of the variance of a value's mean about that of all (the one-way
    random-effects estimate), so that frequent values count alike, rare ones less."""

    rows: int
    """How many rows the means rest on."""

    within: np.ndarray
    """float64 [features, features]: the covariance of activations within values."""

    centred: np.ndarray
    """float64 [n, features]: the means, centred, in the features themselves."""

    @classmethod
    def of(cls, statistics: ValueStatistics) -> Means:
        """The means of the values that have rows.

        Raises ValueError for fewer than 8 of them, for values that come only once each, and for activations that are
        the same in all rows.
        """
        with_rows = statistics.counts > 0
        values, sums = statistics.values[with_rows], statistics.sums[with_rows]
        counts = statistics.counts[with_rows].astype(float)
        n, rows = len(values), counts.sum()
        if n < MIN_VALUES:
            raise ValueError(f"{n} distinct values; expected {MIN_VALUES} or more; gather rows of other values")
        if rows == n:
            raise ValueError(
                f"{n} rows of {n} values; expected several of a value, to know their noise; gather more rows"
            )
        # one-way analysis of variance: squares between values, squares within, each summed over the features
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
    """The fold that leaves each value out: int [n].

    Of `folds` neighbours each goes to another fold, in random order: every fold takes from the whole range, and no fold
    is a residue class. Raises ValueError unless 2 <= folds <= n.
    """
    if not 2 <= folds <= n:
        raise ValueError(f"folds = {folds} of {n} values; expected 2 to {n}; pass folds=5")
    return rng.permuted(np.tile(np.arange(folds), (-(-n // folds), 1)), axis=1).ravel()[:n]
