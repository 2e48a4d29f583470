"""Intervals that respect dependence: bootstrap over skeletons, not over tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 1000
FEWEST_CLUSTERS = 30  # below it, programs are resampled in place of skeletons


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval and the number of clusters it rests on."""

    estimate: float
    low: float
    high: float
    clusters: int


def bootstrap(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Percentile bootstrap over clusters. sums float [clusters, k]: what each cluster adds to k totals;
    statistic maps totals [.., k] to the estimate [..]. Raises ValueError where there is no cluster."""
    if not len(sums):
        raise ValueError("no clusters to resample: the score rests on no data")
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = statistic(_resampling_weights(len(sums), seed, resamples) @ sums)
        estimate = statistic(sums.sum(0))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Interval(float(estimate), float(low), float(high), len(sums))


@lru_cache(maxsize=8)
def _resampling_weights(clusters: int, seed: int, resamples: int) -> np.ndarray:
    """How often each draw takes each cluster: float [resamples, clusters]. Many scores rest on the same clusters."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), resamples).astype(float)


def cluster_sums(values: np.ndarray, skeletons: np.ndarray, programs: np.ndarray) -> np.ndarray:
    """Sum rows values [n, k] by skeleton, or by program where there are fewer than 30 skeletons: [clusters, k]."""
    labels, index = np.unique(skeletons, return_inverse=True)
    if len(labels) < FEWEST_CLUSTERS:
        labels, index = np.unique(programs, return_inverse=True)
    return np.stack([np.bincount(index, column, len(labels)) for column in values.T], 1)


def accuracy(right: np.ndarray, skeletons: np.ndarray, programs: np.ndarray, seed: int = 0) -> Interval:
    """The share of `right` (bool [n]) with its interval; skeletons and programs [n] say what each row belongs to.

    Where every row agrees there is nothing to resample: the interval is then Wilson's, a cluster counted as one trial.
    """
    values = np.stack([right, np.ones(len(right))], 1).astype(float)
    found = bootstrap(cluster_sums(values, skeletons, programs), lambda t: t[..., 0] / t[..., 1], seed)
    if found.estimate not in (0, 1):
        return found
    wilson = binomtest(int(found.estimate) * found.clusters, found.clusters).proportion_ci(method="wilson")
    return replace(found, low=float(wilson.low), high=float(wilson.high))


def r_squared(
    y: np.ndarray, predicted: np.ndarray, skeletons: np.ndarray, programs: np.ndarray, seed: int = 0
) -> Interval:
    """1 - squared error / variance of y, with its interval."""
    values = np.stack([(y - predicted) ** 2, y, y**2, np.ones(len(y))], 1).astype(float)
    return bootstrap(
        cluster_sums(values, skeletons, programs),
        lambda t: 1 - t[..., 0] / (t[..., 2] - t[..., 1] ** 2 / t[..., 3]),
        seed,
    )


def columns(probe: str, metric: str, interval: Interval) -> dict[str, object]:
    """A score's columns in a tidy table."""
    return {
        "probe": probe,
        "metric": metric,
        "score": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "clusters": interval.clusters,
    }
