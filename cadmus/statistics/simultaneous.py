"""Bounds that hold for many cells at once, over pairs that depend in two ways: by base and by source.

What happens to a pair (a base program and a source program) depends on other pairs of the same base skeleton and on
those of the same source skeleton. Errors are clustered both ways (Cameron, Gelbach & Miller 2011, J. Bus. Econ. Stat.
29), and how far the worst of all cells strays is simulated by a multiplier bootstrap of the maximum (Chernozhukov,
Chetverikov & Kato 2013, Ann. Stat. 41) whose multipliers are drawn per base skeleton and per source skeleton.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from cadmus.statistics.clustered import MIN_CLUSTERS, Interval, interval_columns
from cadmus.statistics.proportions import wilson

RESAMPLES = 4000
_CHUNK = 1 << 22  # numbers that an intermediate array may hold


@dataclass(frozen=True)
class Simultaneous:
    """Means of many cells with bounds that hold for all of them at once; NaN where a cell has no data."""

    estimate: np.ndarray
    """The mean of each cell's pairs, float64 [cells]."""
    low: np.ndarray
    """Simultaneous lower bounds, float64 [cells]."""
    high: np.ndarray
    """Simultaneous upper bounds, float64 [cells]."""
    center: np.ndarray
    """The middle of the bounds: the mean, drawn a little to 0 as Wilson's interval is to one half, float64 [cells]."""
    error: np.ndarray
    """The standard error of `center`, clustered both ways, float64 [cells]."""
    n: np.ndarray
    """Pairs in each cell, int64 [cells]."""
    clusters: np.ndarray
    """Distinct names that each cell's pairs are clustered by, of the way that has fewer, int64 [cells]: how much the
    cell rests on, also where there are so few that each pair was taken as a cluster of its own."""
    units: np.ndarray
    """What the error was computed from, clusters or, where those are too few, pairs, of the way that has fewer: int64
    [cells]."""
    maxima: np.ndarray
    """The largest absolute deviation of all cells in each resample, in standard errors: sorted, float64 [resamples]."""
    critical: float
    """How many standard errors the bounds lie from the center where clusters are many."""

    def p_above(self, threshold: float) -> np.ndarray:
        """P-values for "the mean lies above `threshold`", corrected for all cells and for both sides, float64 [cells].

        They are at most 0.05 just where the lower bound of level 0.95 lies above the threshold.
        """
        return self._family_wise(self._normal_units(threshold))

    def p_below(self, threshold: float) -> np.ndarray:
        """The same for "the mean lies below `threshold`"."""
        return self._family_wise(-self._normal_units(threshold))

    def p_alone(self, threshold: float) -> np.ndarray:
        """One-sided p-values for "above `threshold`" of each cell alone, as `benjamini_hochberg` takes them."""
        return norm.sf(self._normal_units(threshold))

    def _normal_units(self, threshold: float) -> np.ndarray:
        """How far the centers lie above the threshold, [cells], in units in which a normal law has Student's tails."""
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = (self.center - threshold) / self.error
        tails = student.sf(abs(statistic), np.maximum(self.units - 1, 1))
        return np.sign(statistic) * norm.isf(np.maximum(tails, 1e-300))

    def _family_wise(self, units: np.ndarray) -> np.ndarray:
        exceeding = len(self.maxima) - np.searchsorted(self.maxima, units, side="left")
        p_values = np.where(units > 0, (1 + exceeding) / (1 + len(self.maxima)), 1.0)
        return np.where(np.isnan(units), np.nan, p_values)


def two_way(
    values: np.ndarray,
    mask: np.ndarray,
    bases: np.ndarray,
    sources: np.ndarray,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Simultaneous:
    """Means of values over each cell's pairs, with two-sided bounds that hold for all cells at once.

    Args:
        values: [cells, pairs] in -1 ... 1: successes, or successes minus those of a control on the same pairs.
        mask: bool [cells, pairs]: which pairs a cell has; other values are not looked at.
        bases: [pairs], what the pairs' bases are clustered by. Where there are fewer than 30 clusters, each pair is
            one, as in `clustered.cluster_sums`: bounds are then too narrow where pairs of a cluster are alike, and who
            claims something looks at `clusters` first.
        sources: [pairs], the same of their sources.
        level: how often all bounds are to hold together.
        seed: of the multipliers.
        resamples: how many times they are drawn.

    Where few pairs differ from the rest the normal law is wrong: a quarter of the critical value's square is added to
    the pairs at 1 and at -1 each (Bonett & Price 2012, J. Educ. Behav. Stat. 37, at level 0.95), and where no pair
    differs a cluster counts as one trial. Raises ValueError for other shapes, and for values outside -1 ... 1.
    """
    values, mask = _check(values, mask, bases, sources)
    n = mask.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = values.sum(1) / n
        influence = np.where(mask, values - estimate[:, None], 0.0) / n[:, None]  # [cells, pairs]
    influence[n == 0] = 0
    labels = [cluster_labels(names) for names in (bases, sources)]
    variance, sums, units = _two_way_variance(influence, mask, labels)
    maxima = _maxima([part[n > 0] for part in sums], seed, resamples)
    critical = float(np.quantile(maxima, level))
    added = critical**2 / 4
    differs = (influence**2).sum(1) > 1e-20
    trials = np.where(differs, n, units)
    with np.errstate(divide="ignore", invalid="ignore"):
        second_moment = (values**2).sum(1) / n
        center = trials * estimate / (trials + 2 * added)
        spread = (trials * second_moment + 2 * added) / (trials + 2 * added) - center**2
        floor = spread / (trials + 2 * added)
        error = np.sqrt(np.maximum((trials / (trials + 2 * added)) ** 2 * variance, floor))
    margin = student.isf(norm.sf(critical), np.maximum(units - 1, 1)) * error
    low = np.maximum(np.minimum(center - margin, estimate), -1)
    high = np.minimum(np.maximum(center + margin, estimate), 1)
    clusters = _distinct(mask, bases, sources)
    return Simultaneous(estimate, low, high, center, error, n, clusters, units, maxima, critical)


def cluster_labels(names: np.ndarray) -> np.ndarray:
    """Number what pairs are clustered by, [pairs] -> int64 [pairs]; each pair by itself below 30 distinct names."""
    labels, index = np.unique(np.asarray(names), return_inverse=True)
    return np.arange(len(index)) if len(labels) < MIN_CLUSTERS else index


def _distinct(mask: np.ndarray, bases: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """How many names the pairs of each cell have, of the way that has fewer: mask [cells, pairs] -> int64 [cells]."""
    counts = []
    for names in (bases, sources):
        index = np.unique(np.asarray(names), return_inverse=True)[1]
        indicator = np.zeros((len(index), index.max(initial=-1) + 1))
        indicator[np.arange(len(index)), index] = 1
        counts.append((mask @ indicator > 0).sum(1))
    return np.minimum(*counts)


def shares(correct: np.ndarray, mask: np.ndarray, bases: np.ndarray, sources: np.ndarray) -> list[Interval]:
    """The share of `correct` (bool, or numbers in 0 ... 1) in each cell, each with its own 95 % interval.

    correct, mask [cells, pairs]; bases, sources [pairs]. Wilson's interval, of as many trials as would have the
    variance that is clustered both ways, at most one for each pair; a cluster counts as one trial where all pairs
    agree. NaN, from NaN to NaN, for a cell without pairs.
    """
    correct, mask = _check(correct, mask, bases, sources)
    n = mask.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = correct.sum(1) / n
        influence = np.where(mask, correct - estimate[:, None], 0.0) / n[:, None]
    influence[n == 0] = 0
    variance, _, units = _two_way_variance(influence, mask, [cluster_labels(bases), cluster_labels(sources)])
    with np.errstate(divide="ignore", invalid="ignore"):
        by_variance = estimate * (1 - estimate) / variance
    trials = np.where(variance > 1e-20, np.clip(by_variance, 1, np.maximum(n, 1)), units)
    low, high = (np.where(n > 0, bound, np.nan) for bound in wilson(np.nan_to_num(estimate) * trials, trials))
    clusters = _distinct(mask, bases, sources)
    return [Interval(float(a), float(b), float(c), int(k)) for a, b, c, k in zip(estimate, low, high, clusters)]


def share_columns(
    name: str, correct: np.ndarray, mask: np.ndarray, bases: np.ndarray, sources: np.ndarray
) -> dict[str, list[float]]:
    """The shares of all cells as columns of a table: `name`, `name_low`, `name_high`. Arguments as in `shares`."""
    cells = shares(correct, mask, bases, sources)
    return interval_columns(name, [c.estimate for c in cells], [c.low for c in cells], [c.high for c in cells])


def holm(p: np.ndarray) -> np.ndarray:
    """Adjust p-values, of any shape, so that the chance of any false one among those up to q is at most q.

    Step-down, whatever their dependence (Holm 1979, Scand. J. Stat. 6). NaN cells are not tests and stay NaN.
    """
    adjusted_p = np.array(p, np.float64)
    mask = ~np.isnan(adjusted_p)
    tests = adjusted_p[mask]
    order = np.argsort(tests, kind="stable")
    stepped = np.maximum.accumulate(tests[order] * np.arange(len(tests), 0, -1))
    tests[order] = np.minimum(stepped, 1)
    adjusted_p[mask] = tests
    return adjusted_p


def _check(
    values: np.ndarray, mask: np.ndarray, bases: np.ndarray, sources: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The values as float64, 0 where the mask is off, and the mask; ValueError for shapes that do not fit."""
    values, mask = np.asarray(values, np.float64), np.asarray(mask, np.bool_)
    if values.ndim != 2 or mask.shape != values.shape:
        raise ValueError(f"values have shape {values.shape} and their mask {mask.shape}; expected [cells, pairs] both")
    for name, clusters in (("bases", bases), ("sources", sources)):
        if np.shape(clusters) != values.shape[1:]:
            raise ValueError(
                f"{name} have shape {np.shape(clusters)}; expected one for each of {values.shape[1]} pairs"
            )
    values = np.where(mask, values, 0.0)
    if not (abs(values) <= 1).all():
        raise ValueError("values lie outside -1 ... 1; pass successes, shares or differences of them")
    return values, mask


def _two_way_variance(
    influence: np.ndarray, mask: np.ndarray, labels: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """The variance of each cell's mean, clustered both ways.

    influence [cells, pairs], labels: cluster of each pair, by base and by source. Returns the variance [cells], the
    sums of influence by cluster (two arrays [cells, clusters]) and the clusters [cells] of the way with fewer.
    That of one way alone, or of pairs alone, is the least that the variance can be: the difference may fall below it.
    """
    both = np.unique(labels[0].astype(np.int64) * (labels[1].max(initial=0) + 1) + labels[1], return_inverse=True)[1]
    variances, sums, clusters = [], [], []
    for index in (*labels, both):
        indicator = np.zeros((len(index), index.max(initial=-1) + 1))
        indicator[np.arange(len(index)), index] = 1
        sums.append(influence @ indicator)  # [cells, clusters]
        clusters.append((mask @ indicator > 0).sum(1))
        correction = clusters[-1] / np.maximum(clusters[-1] - 1, 1)
        variances.append(correction * (sums[-1] ** 2).sum(1))
    first, second, pair = variances
    variance = np.maximum.reduce([first + second - pair, first, second, pair])
    return variance, sums[:2], np.minimum(clusters[0], clusters[1])


def _maxima(sums: list[np.ndarray], seed: int, resamples: int) -> np.ndarray:
    """The largest of all cells' absolute deviations, in standard errors, in each resample: sorted, [resamples].

    sums: influence by cluster, [cells, clusters], by base and by source. A cell that does not vary counts as one
    independent test: it has bounds too.
    """
    stacked = np.concatenate(sums, 1)
    norms = np.sqrt((stacked**2).sum(1))
    varies = norms > 1e-10
    units = (stacked[varies] / norms[varies, None]).T.astype(np.float32)  # [clusters, cells]
    rng = np.random.default_rng(seed)
    maxima = np.zeros(resamples)
    rows = max(1, _CHUNK // max(1, *units.shape, 1))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        draws = abs(rng.standard_normal((size, len(units)), np.float32) @ units)
        maxima[start : start + size] = draws.max(1, initial=0)
    constant = int((~varies).sum())
    if constant:  # the largest of that many independent ones, drawn at once: norms are even, so by the upper tail
        uniform = rng.random(resamples) ** (1 / constant)
        maxima = np.maximum(maxima, norm.ppf((1 + uniform) / 2))
    return np.sort(maxima)
