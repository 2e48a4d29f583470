"""Intervals and tests that respect dependence: skeletons are resampled or flipped, not tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from scipy.stats import false_discovery_control, norm

from cadmus.statistics.proportions import wilson

RESAMPLES = 1000
FLIPS = 2000
MIN_CLUSTERS = 30  # below it, programs are resampled in place of skeletons
_CHUNK = 1 << 23  # numbers that an intermediate array may hold
_TIE = 1e-4  # standard units; flips this near to what was observed count as ties, since they are summed in float32

T = TypeVar("T")


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    estimate: float
    """The score."""
    low: float
    """The lower bound."""
    high: float
    """The upper bound."""
    clusters: int
    """How many clusters the estimate rests on."""


@dataclass(frozen=True)
class Intervals:
    """Estimates of many cells with their 95 % intervals; NaN where a cell has no data."""

    estimate: np.ndarray
    """float64 [cells]."""
    low: np.ndarray
    """The lower bounds, float64 [cells]."""
    high: np.ndarray
    """The upper bounds, float64 [cells]."""
    clusters: np.ndarray
    """How many clusters each estimate rests on, those that add anything to it: int64 [cells]."""


@dataclass(frozen=True)
class SignFlip:
    """One-sided p-values of many cells; NaN where a cell has no data."""

    p: np.ndarray
    """The p-value of each cell alone, float64 [cells]."""
    familywise: np.ndarray
    """The p-value corrected for the best of all cells (family-wise), float64 [cells]."""

    @property
    def somewhere(self) -> float:
        """The p-value of "somewhere in the map"; 1 where no cell has data."""
        p_values = self.familywise[~np.isnan(self.familywise)]
        return float(p_values.min()) if len(p_values) else 1.0


def bootstrap(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """The percentile bootstrap over clusters.

    sums float [clusters, k]: what each cluster adds to the k totals; statistic maps totals [.., k] to the estimate
    [..]. Raises ValueError where there is no cluster.
    """
    intervals = bootstrap_many(np.asarray(sums)[:, None], statistic, seed, resamples)
    return Interval(float(intervals.estimate[0]), float(intervals.low[0]), float(intervals.high[0]), len(sums))


def bootstrap_many(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0, resamples: int = RESAMPLES
) -> Intervals:
    """The percentile bootstrap of many cells on the same clusters, every draw taking the same clusters in all cells.

    sums [clusters, cells, k]: what each cluster adds to the k totals of a cell, zeros where it has nothing there;
    statistic maps totals [.., k] to the estimate [..]. Draws in which it is not a number (0/0, a cell that no drawn
    cluster has) are left out. Sums in float32 are added in float32: exact for counts below 2^24 and twice as fast, but
    squares want float64. Raises ValueError for another shape and where there is no cluster.
    """
    sums = np.asarray(sums)
    if sums.ndim != 3:
        raise ValueError(f"sums have shape {sums.shape}; expected [clusters, cells, totals]")
    clusters, cells, k = sums.shape
    if not clusters:
        raise ValueError("no clusters to resample: the score rests on no data")
    precision: type[np.floating] = np.float32 if sums.dtype == np.float32 else np.float64
    weights = _resampling_weights(clusters, seed, resamples)
    rows = max(1, _CHUNK // clusters)
    width = max(1, _CHUNK // (resamples * k))
    bounds = np.full((2, cells), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = np.asarray(statistic(sums.sum(0, dtype=np.float64)), np.float64)
        for first in range(0, cells, width):
            part = sums[:, first : first + width].astype(precision, copy=False)
            draws = np.empty((part.shape[1], resamples))
            for start in range(0, resamples, rows):
                # [rows, clusters] @ [clusters, width * k]
                totals = weights[start : start + rows].astype(precision) @ part.reshape(clusters, -1)
                draws[:, start : start + rows] = statistic(totals.reshape(len(totals), -1, k)).T
            bounds[:, first : first + width] = _percentiles(draws)
    low, high = bounds
    return Intervals(estimate, low, high, (sums != 0).any(2).sum(0))


def _percentiles(draws: np.ndarray) -> np.ndarray:
    """The 2.5th and the 97.5th percentile of draws [cells, resamples], NaN left out: [2, cells]."""
    is_nan = np.isnan(draws)
    complete = ~is_nan.any(1)
    partial = is_nan.any(1) & ~is_nan.all(1)
    bounds = np.full((2, len(draws)), np.nan)
    bounds[:, complete] = np.percentile(draws[complete], [2.5, 97.5], axis=1)
    if partial.any():  # slower by far
        bounds[:, partial] = np.nanpercentile(draws[partial], [2.5, 97.5], axis=1)
    return bounds


@lru_cache(maxsize=8)
def _resampling_weights(clusters: int, seed: int, resamples: int) -> np.ndarray:
    """How often each draw takes each cluster: uint8 [resamples, clusters]. Many scores rest on the same clusters.

    A cluster is drawn once on average, and practically never 256 times in one resample.
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, clusters), np.uint8)
    rows = max(1, _CHUNK // clusters)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        weights[start : start + size] = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size)
    weights.flags.writeable = False
    return weights


def cluster_sums(values: np.ndarray, skeletons: np.ndarray, programs: np.ndarray) -> np.ndarray:
    """Sum rows values [n, ...] by skeleton, or by program where there are fewer than 30 skeletons: [clusters, ...]."""
    labels, index = np.unique(skeletons, return_inverse=True)
    if len(labels) < MIN_CLUSTERS:
        labels, index = np.unique(programs, return_inverse=True)
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    sums = np.empty((len(labels), flat.shape[1]))
    for column in range(flat.shape[1]):
        sums[:, column] = np.bincount(index, flat[:, column], len(labels))
    return sums.reshape(len(labels), *values.shape[1:])


def accuracy(correct: np.ndarray, skeletons: np.ndarray, programs: np.ndarray, seed: int = 0) -> Interval:
    """The share of `correct` (bool [n]) with its interval; skeletons and programs [n] say what each row belongs to.

    Where every row agrees there is nothing to resample: the interval is then Wilson's, a cluster counted as one trial.
    """
    values = np.stack([correct, np.ones(len(correct))], 1).astype(float)
    cell = accuracy_many(cluster_sums(values, skeletons, programs)[:, None], seed)
    return Interval(float(cell.estimate[0]), float(cell.low[0]), float(cell.high[0]), int(cell.clusters[0]))


def accuracy_many(sums: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> Intervals:
    """`accuracy` of many cells from sums [clusters, cells, (correct, n)]."""
    cells = bootstrap_many(sums, lambda t: t[..., 0] / t[..., 1], seed, resamples)
    margin = _wilson_margin(cells.clusters)
    low = np.where(cells.estimate == 1, 1 - margin, cells.low)
    high = np.where(cells.estimate == 0, margin, cells.high)
    return Intervals(cells.estimate, low, high, cells.clusters)


def difference_many(sums: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> Intervals:
    """Score minus control, paired: both are resampled together.

    sums [clusters, cells, (correct, control correct, n)], counted on the same rows.

    Where the difference is the same in every cluster there is nothing to resample: the interval then reaches as far to
    either side as Wilson's does from a perfect score, a cluster counted as one trial.
    """
    cells = bootstrap_many(sums, lambda t: (t[..., 0] - t[..., 1]) / t[..., 2], seed, resamples)
    n = sums[..., 2].astype(np.float64)
    differs = abs(sums[..., 0] - sums[..., 1] - cells.estimate * n) > 1e-6 * n
    margin = np.where(differs.any(0), 0.0, _wilson_margin(cells.clusters))
    low = np.maximum(cells.low - margin, -1)
    high = np.minimum(cells.high + margin, 1)
    return Intervals(cells.estimate, low, high, cells.clusters)


def simultaneous(estimate: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Move bounds of 95 % intervals, float [cells], away from the estimates until they hold for all cells at once.

    Bonferroni's correction, which asks nothing of how the cells depend on one another, with the tails of a normal
    distribution.
    """
    cells = max(1, len(np.atleast_1d(bound)))
    return estimate + (bound - estimate) * norm.isf(0.025 / cells) / norm.isf(0.025)


def _wilson_margin(trials: np.ndarray) -> np.ndarray:
    """How far Wilson's interval reaches above 0 where no trial succeeds, or below 1 where all do."""
    return wilson(np.zeros_like(trials), trials)[1]


def sign_flip(differences: np.ndarray, flips: int = FLIPS, seed: int = 0) -> SignFlip:
    """Whether a score beats its control, by flipping the sign of each cluster's paired difference.

    differences [clusters, cells]: rows correct by the score minus rows correct by the control, summed over a cluster (0
    or NaN where it has no such row). Were score and control as good, each cluster's difference might as well have come
    with the other sign, however its rows depend on one another. All cells share the flips, so that their dependence is
    kept: the family-wise p-value compares a cell, in units of its own standard error under flips, with the largest
    cell of every flip (Westfall & Young 1993, single step). One-sided; (1 + flips as extreme) / (1 + flips). Raises
    ValueError for another shape and where there is no cluster.
    """
    differences = np.asarray(differences)
    if differences.ndim != 2:
        raise ValueError(f"differences have shape {differences.shape}; expected [clusters, cells]")
    clusters, cells = differences.shape
    if not clusters:
        raise ValueError("no clusters to flip: the differences rest on no data")
    no_data = np.isnan(differences).all(0)
    sums = np.nan_to_num(differences.astype(np.float64), nan=0.0)
    norms = np.sqrt((sums**2).sum(0))  # no flip changes it
    units = (sums / np.where(norms > 0, norms, 1)).astype(np.float32)
    observed = units.sum(0, dtype=np.float64).astype(np.float32) - np.float32(_TIE)
    rng = np.random.default_rng(seed)
    n_as_extreme = np.zeros(cells, np.int64)
    largest = np.full(flips, -np.inf, np.float32)
    rows = max(1, _CHUNK // clusters)
    for start in range(0, flips, rows):
        size = min(rows, flips - start)
        signs = (2 * rng.integers(0, 2, (size, clusters), np.int8) - 1).astype(np.float32)
        width = max(1, _CHUNK // size)
        for first in range(0, cells, width):
            flipped = signs @ units[:, first : first + width]
            n_as_extreme[first : first + width] += (flipped >= observed[first : first + width]).sum(0)
            flipped[:, no_data[first : first + width]] = -np.inf
            np.maximum(largest[start : start + size], flipped.max(1), out=largest[start : start + size])
    p = (1 + n_as_extreme) / (1 + flips)
    n_exceeding = flips - np.searchsorted(np.sort(largest), observed, side="left")
    familywise = (1 + n_exceeding) / (1 + flips)
    return SignFlip(np.where(no_data, np.nan, p), np.where(no_data, np.nan, familywise))


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjust the p-values of a map, of any shape, so that calling those up to q positive keeps the expected share of
    false ones among the positives within q (Benjamini & Hochberg 1995). NaN cells are not tests and stay NaN."""
    adjusted_p = np.array(p, np.float64)
    mask = ~np.isnan(adjusted_p)
    if mask.any():
        adjusted_p[mask] = false_discovery_control(adjusted_p[mask])
    return adjusted_p


def r_squared(
    y: np.ndarray, predicted: np.ndarray, skeletons: np.ndarray, programs: np.ndarray, seed: int = 0
) -> Interval:
    """R^2, 1 - squared error / variance of y, with its interval; all arrays [n]."""
    values = np.stack([(y - predicted) ** 2, y, y**2, np.ones(len(y))], 1).astype(float)
    return bootstrap(
        cluster_sums(values, skeletons, programs),
        lambda t: 1 - t[..., 0] / (t[..., 2] - t[..., 1] ** 2 / t[..., 3]),
        seed,
    )


def columns(probe: str, metric: str, interval: Interval) -> dict[str, object]:
    """The columns of a score in a tidy table."""
    return {
        "probe": probe,
        "metric": metric,
        "score": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "clusters": interval.clusters,
    }


def interval_names(name: str) -> tuple[str, str, str]:
    """The columns of a number with an interval in a tidy table: `gap`, `gap_low`, `gap_high`."""
    return name, f"{name}_low", f"{name}_high"


def interval_columns(name: str, estimate: T, low: T, high: T) -> dict[str, T]:
    """A number (or a column of them) with its interval, under `interval_names(name)`."""
    return dict(zip(interval_names(name), (estimate, low, high), strict=True))
