"""How readability and behaviour relate over training: correlation within snapshots, and which comes first.

Both take a table with a row per (run, step, kind, name) and its score, as `study.trajectories` makes it.
"""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pandas as pd
from scipy import stats

from cadmus.statistics.clustered import benjamini_hochberg

MAX_PERMUTATIONS = 5040  # of runs: all, of up to seven
MIN_RISE = 0.1  # of a curve, to say when it rose


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """A row per (kind, variable, family): the correlation of probe score and completion accuracy over runs within
    steps, r, its p-value by permuting runs (`correlation_within_steps`), and the number of runs.

    Steps at which either does not vary between runs add nothing. NaN where none does, or a score is missing.
    """
    rows = []
    for kind in ("probe", "alternative"):
        for variable, score in _matrices(table, kind).items():
            for family, accuracy in _matrices(table, "completion").items():
                r, p = correlation_within_steps(score, accuracy)
                rows.append({"kind": kind, "variable": variable, "family": family, "r": r, "p": p, "runs": len(score)})
    return pd.DataFrame(rows)


def correlation_within_steps(a: np.ndarray, b: np.ndarray, most: int = MAX_PERMUTATIONS) -> tuple[float, float]:
    """Correlation of a and b [runs, steps] about their means at each step, and its two-sided p-value under permutation
    of the runs of one against those of the other: all permutations, of more than `most` as many drawn."""
    a, b = a - a.mean(0), b - b.mean(0)
    size = np.sqrt((a**2).sum() * (b**2).sum())
    if not size > 1e-12:
        return float("nan"), float("nan")
    r = float((a * b).sum() / size)
    if math.factorial(len(a)) <= most:
        orders = np.array(list(permutations(range(len(a)))))
    else:
        rng = np.random.default_rng(0)
        orders = np.array([np.arange(len(a)), *(rng.permutation(len(a)) for _ in range(most - 1))])
    permuted = np.einsum("prs,rs->p", a[orders], b) / size
    return r, float((abs(permuted) >= abs(r) - 1e-12).mean())


def lead(table: pd.DataFrame, least: float = MIN_RISE) -> pd.DataFrame:
    """A row per (kind, variable, family): by how many doublings of training the variable's curve is half-way before the
    family's, `lead`, mean over runs with a 95 % t interval, p against 0, and q (Benjamini-Hochberg over the rows of its
    kind); NaN where a curve of any run rises by less than `least`.

    A lead may only say that early layers fill early. Beside those of the machine stands by how many doublings its own
    states are readable before those of the alternative machine in the same runs: earlier, earlier_low, earlier_high.
    """
    steps = np.sort(table.step.unique()).astype(float)
    at = {
        kind: {name: _half_way(curves, steps, least) for name, curves in _matrices(table, kind).items()}
        for kind in ("completion", "probe", "alternative")
    }
    rows = []
    for kind in ("probe", "alternative"):
        for variable, readable in at[kind].items():
            other = at["alternative"].get(variable) if kind == "probe" else None
            earlier = _mean(np.full(len(readable), np.nan) if other is None else other - readable)
            for family, right in at["completion"].items():
                mean, low, high, p = _mean(right - readable)
                rows.append(
                    {
                        **{"kind": kind, "variable": variable, "family": family, "lead": mean},
                        **{"low": low, "high": high, "p": p, "runs": len(right)},
                        **dict(zip(("earlier", "earlier_low", "earlier_high"), earlier[:3], strict=True)),
                    }
                )
    found = pd.DataFrame(rows)
    for _, part in found.groupby("kind"):
        found.loc[part.index, "q"] = benjamini_hochberg(part.p.to_numpy())
    return found


def _mean(values: np.ndarray) -> tuple[float, float, float, float]:
    """The mean over runs, its 95 % t interval, and the two-sided p-value against 0."""
    mean, error, freedom = float(values.mean()), float(stats.sem(values)), len(values) - 1
    half = float(stats.t.ppf(0.975, freedom)) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * float(stats.t.sf(abs(np.float64(mean) / error), freedom))
    return mean, mean - half, mean + half, p


def _matrices(table: pd.DataFrame, kind: str) -> dict[str, np.ndarray]:
    """By name, scores [runs, steps]."""
    part = table[table.kind == kind]
    return {
        name: rows.pivot(index="run", columns="step", values="score").to_numpy(float)
        for name, rows in part.groupby("name", sort=False)
    }


def _half_way(curves: np.ndarray, steps: np.ndarray, least: float) -> np.ndarray:
    """log2 of the step at which each curve [runs, steps] first is half-way from its first to its greatest value,
    interpolated; NaN for one that rises by less than `least`."""
    found = np.full(len(curves), np.nan)
    for k, curve in enumerate(curves):
        rise = curve.max() - curve[0]
        if not rise >= least:
            continue
        goal = curve[0] + rise / 2
        at = int((curve >= goal).argmax())
        share = (goal - curve[at - 1]) / (curve[at] - curve[at - 1])
        found[k] = np.log2(steps[at - 1]) + share * (np.log2(steps[at]) - np.log2(steps[at - 1]))
    return found
