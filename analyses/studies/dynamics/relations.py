"""How readability and behaviour relate over training: correlation within snapshots, and which comes first.

Both take a table with a row per (run, step, kind, name) and its score, as `study.trajectories` gives it.
"""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pandas as pd
from scipy import stats

from cadmus.statistics.clustered import benjamini_hochberg, interval_columns

MAX_PERMUTATIONS = 5040  # of runs: all permutations of up to seven runs
MIN_RISE = 0.1  # of a curve, for which it is said when it rose
_KINDS = ("probe", "alternative")


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Correlate probe scores with completion accuracies over runs, within steps.

    Returns a row per (kind, variable, family): the correlation r, its p-value by permuting runs
    (`correlation_within_steps`), and the number of runs. Steps at which either does not vary between runs add nothing.
    NaN where no step varies, or a score is missing.
    """
    rows = []
    for kind in _KINDS:
        for variable, score in _matrices(table, kind).items():
            for family, accuracy in _matrices(table, "completion").items():
                r, p = correlation_within_steps(score, accuracy)
                rows.append({"kind": kind, "variable": variable, "family": family, "r": r, "p": p, "runs": len(score)})
    return pd.DataFrame(rows)


def correlation_within_steps(
    a: np.ndarray, b: np.ndarray, max_permutations: int = MAX_PERMUTATIONS
) -> tuple[float, float]:
    """The correlation of a and b, float [runs, steps], about their means at each step, and its two-sided p-value.

    The p-value is that under permutation of the runs of one against those of the other: all permutations, or
    `max_permutations` of them, drawn, where there are more. NaN where either does not vary.
    """
    a, b = a - a.mean(0), b - b.mean(0)
    size = np.sqrt((a**2).sum() * (b**2).sum())
    if not size > 1e-12:
        return float("nan"), float("nan")
    r = float((a * b).sum() / size)
    if math.factorial(len(a)) <= max_permutations:
        orders = np.array(list(permutations(range(len(a)))))
    else:
        rng = np.random.default_rng(0)
        orders = np.array([np.arange(len(a)), *(rng.permutation(len(a)) for _ in range(max_permutations - 1))])
    permuted = np.einsum("prs,rs->p", a[orders], b) / size  # [permutations]
    return r, float((abs(permuted) >= abs(r) - 1e-12).mean())


def lead(table: pd.DataFrame, min_rise: float = MIN_RISE) -> pd.DataFrame:
    """By how many doublings of training each variable's curve is half-way before each family's.

    Returns a row per (kind, variable, family): `lead`, the mean over runs, with a 95 % t interval, low and high; p
    against 0, and q (Benjamini-Hochberg over the rows of its kind); NaN where a curve of any run rises by less than
    `min_rise`.

    A lead may only say that early layers fill early. Beside those of the machine stands by how many doublings its own
    states are readable before those of the alternative machine in the same runs: earlier, earlier_low, earlier_high.
    """
    steps = np.sort(table.step.unique()).astype(float)
    half_ways = {
        kind: {name: _half_way(curves, steps, min_rise) for name, curves in _matrices(table, kind).items()}
        for kind in ("completion", *_KINDS)
    }
    rows = []
    for kind in _KINDS:
        for variable, readable in half_ways[kind].items():
            other = half_ways["alternative"].get(variable) if kind == "probe" else None
            earlier = _mean(np.full(len(readable), np.nan) if other is None else other - readable)
            for family, right in half_ways["completion"].items():
                mean, low, high, p = _mean(right - readable)
                rows.append(
                    {
                        "kind": kind,
                        "variable": variable,
                        "family": family,
                        "lead": mean,
                        "low": low,
                        "high": high,
                        "p": p,
                        "runs": len(right),
                        **interval_columns("earlier", *earlier[:3]),
                    }
                )
    leads = pd.DataFrame(rows)
    for _, part in leads.groupby("kind"):
        leads.loc[part.index, "q"] = benjamini_hochberg(part.p.to_numpy())
    return leads


def _mean(values: np.ndarray) -> tuple[float, float, float, float]:
    """The mean over runs of values float [runs], its 95 % t interval, and its two-sided p-value against 0."""
    mean, error = float(values.mean()), float(stats.sem(values))
    freedom = len(values) - 1
    half = float(stats.t.ppf(0.975, freedom)) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * float(stats.t.sf(abs(np.float64(mean) / error), freedom))
    return mean, mean - half, mean + half, p


def _matrices(table: pd.DataFrame, kind: str) -> dict[str, np.ndarray]:
    """The scores of a kind by name: float [runs, steps] each."""
    part = table[table.kind == kind]
    return {
        name: rows.pivot(index="run", columns="step", values="score").to_numpy(float)
        for name, rows in part.groupby("name", sort=False)
    }


def _half_way(curves: np.ndarray, steps: np.ndarray, min_rise: float) -> np.ndarray:
    """log2 of the step at which each curve [runs, steps] first is half-way from its first to its greatest value,
    interpolated: float [runs], NaN for one that rises by less than `min_rise`."""
    doublings = np.full(len(curves), np.nan)
    for k, curve in enumerate(curves):
        rise = curve.max() - curve[0]
        if not rise >= min_rise:
            continue
        goal = curve[0] + rise / 2
        at = int((curve >= goal).argmax())
        fraction = (goal - curve[at - 1]) / (curve[at] - curve[at - 1])
        doublings[k] = np.log2(steps[at - 1]) + fraction * (np.log2(steps[at]) - np.log2(steps[at - 1]))
    return doublings
