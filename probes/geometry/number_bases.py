"""How an integer is held in activations: bases of value functions, equal in number, compared on values held out.

The question is turned around: not whether a probe reads the value, but which functions of the value predict the mean
activation of values never fitted. Helices are those of Kantamneni & Tegmark (arXiv 2502.00873); the circles per digit
of Levy & Geva (arXiv 2410.11781) are made up of the polynomials of a digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.polynomial.legendre import legvander

from cadmus.statistics import clustered
from probes.geometry.value_statistics import Means, ValueStatistics, leave_out

PENALTIES = tuple(10.0**p for p in (-6, -3, -1, 0, 1, 2, 4))  # beside sums over values of weights that average 1
MAX_RANGE = 1000  # range of values
MAX_PERIOD = 20  # periods that are no integers are harmonics of those up to it: 10/3, 20/9, ...
_SAME = 0.01  # a longer circle must explain more by this share: every circle is a harmonic of its multiples
_RESOLVED = 0.05  # of what differs between values' means: below it, a share of what is no noise means little


@dataclass(frozen=True)
class Basis:
    """Functions at n values: `fixed` [n, functions], then of the `candidates` [groups, functions, n] as many groups, in
    the order that explains most, as fill k functions. `labels` name the groups: a period, a function of a digit;
    `excludes` bool [groups, groups]: which others each rules out."""

    name: str
    k: int
    fixed: np.ndarray
    candidates: np.ndarray
    labels: tuple[str, ...] = ()
    excludes: np.ndarray | None = None
    tolerance: float = 0.0  # the first group whose gain is this near to the best is taken

    def at(self, order: np.ndarray) -> Basis:
        """The same functions, those of value order[i] at value i."""
        return replace(self, fixed=self.fixed[order], candidates=self.candidates[:, :, order])


def bases(values: np.ndarray, k: int) -> dict[str, Basis]:
    """Each of the bases with k functions, at the values [n].

    linear: polynomials of v, degree by degree. sign and magnitude: the sign, then polynomials of |v| and those times
    the sign. digits: the sign and polynomials of each decimal digit of |v|, chosen. circular: cosine and sine of one
    whole period above k, chosen, and of its harmonics; of circles that explain alike the shortest, so that one of
    period T <= k is found as a multiple of T. Fourier: cosine and sine of several periods from 2 to the range, chosen
    one after the other, their frequencies half a cycle over the range apart (closer ones can be combined to a straight
    line); a last single function is a cosine with its phase chosen. helix: v, then as Fourier. Raises ValueError where
    the values have fewer than k independent functions of a kind.
    """
    values = np.asarray(values, np.int64)
    if np.ptp(values) >= MAX_RANGE:
        raise ValueError(
            f"values from {values.min()} to {values.max()}; expected a range below {MAX_RANGE}, every period in which "
            "is tried; leave far values out, or take their logarithms"
        )
    sign, magnitude, longest = np.sign(values).astype(float), abs(values), int(np.ptp(values)) + 1
    line = legvander(2 * (values - values.min()) / max(longest - 1, 1) - 1, k)[:, 1:]
    powers = legvander(2 * magnitude / max(magnitude.max(), 1) - 1, k)[:, 1:]
    signed = np.stack([powers, sign[:, None] * powers], 2).reshape(len(values), 2 * k)
    digits = {"sign": sign}
    for place in range(len(str(magnitude.max()))):
        digit = magnitude // 10**place % 10
        for degree, column in enumerate(legvander(digit / 4.5 - 1, len(np.unique(digit)) - 1).T[1:], 1):
            digits[f"digit{place}^{degree}"] = column
    whole = range(2, longest + 1)
    periods = {p / j for p in range(2, min(MAX_PERIOD, longest) + 1) for j in range(1, p // 2 + 1)} | {*whole}
    periods, circles = np.array(sorted(periods)), np.array([period for period in whole if period > k])
    apart = abs(1 / periods[:, None] - 1 / periods) * longest
    waves = (_waves(values, periods, 2), tuple(f"{period:.4g}" for period in periods), apart < 0.5)
    empty, none = np.empty((len(values), 0)), np.empty((0, 1, len(values)))
    found = (
        Basis("linear", k, _independent("linear", k, line), none),
        Basis("sign and magnitude", k, _independent("sign and magnitude", k, np.c_[sign, signed]), none),
        Basis("digits", k, empty, np.array(list(digits.values()))[:, None], tuple(digits)),
        Basis("circular", k, empty, _waves(values, circles, k), tuple(map(str, circles)), tolerance=_SAME),
        Basis("Fourier", k, empty, *waves),
        Basis("helix", k, line[:, :1], *waves),
    )
    return {basis.name: basis for basis in found}


def _waves(values: np.ndarray, periods: np.ndarray, functions: int) -> np.ndarray:
    """cos, sin of each period, then of its half, its third ...: [periods, functions, n]."""
    angle = 2 * np.pi * np.arange(1, functions // 2 + 2)[:, None] * values / periods[:, None, None]
    waves = np.stack([np.cos(angle), np.sin(angle)], 2)
    return waves.reshape(len(periods), -1, len(values))[:, :functions]


def _independent(name: str, k: int, columns: np.ndarray) -> np.ndarray:
    """The first k columns that neither a constant nor those before them make up: where no value is negative, |v| and
    sign times |v| are one."""
    kept, directions = [], [np.full(len(columns), len(columns) ** -0.5)]
    for column in columns.T:
        rest = column / np.linalg.norm(column)
        for _ in range(2):  # once leaves rounding errors of the size of the tolerance
            rest = rest - np.array(directions).T @ (np.array(directions) @ rest)
        if len(kept) < k and np.linalg.norm(rest) > 1e-6:
            kept.append(column)
            directions.append(rest / np.linalg.norm(rest))
    if len(kept) < k:
        raise _too_few(name, k, len(kept))
    return np.stack(kept, 1)


def _too_few(name: str, k: int, found: int) -> ValueError:
    return ValueError(f"{name!r} has {found} functions on these values; expected k = {k}; lower k or gather others")


def compare(
    statistics: ValueStatistics,
    k: int | Sequence[int] = 9,
    folds: int = 5,
    seed: int = 0,
    permutations: int = 5,
) -> pd.DataFrame:
    """A row per (basis, k): how much of the differences between values' mean activations it predicts, values held out.

    Each fold leaves out values over the whole range; functions are chosen, and a ridge penalty (by leave-one-out),
    among the rest. `score` is the R² of the held-out values' means against the mean of the rest, weighted by how well a
    value's mean is known, with the sampling variance of the means (scatter within values / count) subtracted, so that a
    basis that holds all there is has 1; `ceiling` is what 1 is before the subtraction, so score * ceiling is the plain
    R². Where values are hardly told apart (the interval of `ceiling` reaches below 0.05) nothing is subtracted. `low`
    and `high` resample held-out values. `control`: the same at permuted values, mean of `permutations`.

    `chosen`, the periods or functions of digits in the order chosen on all values; `explained`, the share of the
    variance each adds there; `agreement`, the share of that whose labels the folds chose too.

    Bases contain each other in part: v is in linear, in helix and, from k = 3, in sign and magnitude; sign and |v|,
    by its place values, in digits; a circle of period T in Fourier and, from k = 3, in helix; harmonics of one period
    in circular. Compare them at several k: of equal scores the one at the smaller k says more. Raises ValueError for
    fewer than 8 distinct values, values that come only once each, and k beyond what the training values hold.
    """
    means = Means.of(statistics)
    n = len(means.values)
    rng = np.random.default_rng(seed)
    fold = leave_out(n, folds, rng)
    fewest = n - -(-n // folds)
    sizes = [k] if isinstance(k, int | np.integer) else list(k)
    for size in sizes:
        if not 1 <= size <= fewest - 2:
            raise ValueError(
                f"k = {size} functions of {n} values, of which a fold trains on {fewest}; expected k of 1 to "
                f"{fewest - 2}; lower k or gather more values"
            )
    orders = [rng.permutation(n) for _ in range(permutations)]
    weights, total = means.weights[:, None], np.zeros(n)
    for test in (fold == left_out for left_out in range(folds)):
        centre = np.average(means.y[~test], axis=0, weights=means.weights[~test])
        total[test] = ((means.y[test] - centre) ** 2).sum(1)
    ceiling = clustered.bootstrap(
        weights * np.stack([total, means.noise], 1), lambda t: 1 - t[..., 1] / t[..., 0], seed
    )
    explainable = total - means.noise * (ceiling.low > _RESOLVED)
    rows = []
    for size in sizes:
        for basis in bases(means.values, size).values():
            error, by_fold = _held_out(basis, means, fold)
            score = clustered.bootstrap(weights * np.stack([total - error, explainable], 1), _ratio, seed)
            permuted = (_held_out(basis.at(order), means, fold)[0] for order in orders)
            control = [_ratio(means.weights @ np.stack([total - error, explainable], 1)) for error in permuted]
            _, chosen, gains = _choose(basis, means.y, means.weights, np.ones(n, bool))
            row = {"basis": basis.name, "k": size, "score": score.estimate, "low": score.low, "high": score.high}
            row |= {"ceiling": ceiling.estimate, "control": np.mean(control) if control else np.nan}
            row |= {"chosen": ", ".join(chosen), "explained": ", ".join(f"{gain:.3g}" for gain in gains)}
            agreed = [gains @ np.isin(chosen, labels) / gains.sum() for labels in by_fold if chosen]
            row["agreement"] = np.mean(agreed) if chosen else np.nan
            rows.append({**row, "values": n, "rows": means.rows, "folds": folds, "seed": seed})
    return pd.DataFrame(rows)


def _ratio(totals: np.ndarray) -> np.ndarray:
    return totals[..., 0] / totals[..., 1]


def _held_out(basis: Basis, means: Means, fold: np.ndarray) -> tuple[np.ndarray, list[list[str]]]:
    """Squared error at every value [n], predicted by the fold that leaves it out, and what each fold chose."""
    error, by_fold = np.zeros(len(fold)), []
    for left_out in range(fold.max() + 1):
        test = fold == left_out
        functions, chosen, _ = _choose(basis, means.y, means.weights, ~test)
        predicted = _regress(functions, means.y, means.weights, ~test)
        error[test] = ((means.y[test] - predicted[test]) ** 2).sum(1)
        by_fold.append(chosen)
    return error, by_fold


def _choose(
    basis: Basis, y: np.ndarray, weights: np.ndarray, train: np.ndarray
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """k functions at all values [n, k], chosen on `train`; the labels chosen; the share of variance that each adds.

    Orthogonal matching pursuit by groups: the next one is that whose part orthogonal to all before explains most per
    function. A group that does not fit any more gives the combinations of its functions that explain most.
    """
    share, root = weights[train] / weights[train].sum(), np.sqrt(weights[train])
    groups, width, n = basis.candidates.shape
    new, rest, parts = (a[:, train] for a in (basis.fixed.T, y.T, basis.candidates.reshape(groups * width, n)))
    new, rest, parts = ((a - (a @ share)[:, None]) * root for a in (new, rest, parts))
    variance, size = (rest**2).sum(), (parts**2).sum(1).max(initial=0)
    found, chosen, gains, allowed = [basis.fixed], [], [], np.ones(groups, bool)
    while room := basis.k - sum(columns.shape[1] for columns in found):
        if len(new):
            q = np.linalg.qr(new.T)[0]
            rest, parts = rest - rest @ q @ q.T, parts - parts @ q @ q.T
        grouped = parts.reshape(groups, width, -1)
        lengths, axes = np.linalg.eigh(grouped @ grouped.transpose(0, 2, 1))
        kept = lengths > 1e-6 * size
        whiten = axes * np.where(kept, np.where(kept, lengths, 1) ** -0.5, 0)[:, None]
        seen = whiten.transpose(0, 2, 1) @ (parts @ rest.T).reshape(groups, width, -1)
        explained, turn = np.linalg.eigh(seen @ seen.transpose(0, 2, 1))
        taken = np.minimum(kept.sum(1), room) * allowed
        if not taken.any():
            raise _too_few(basis.name, basis.k, basis.k - room)
        gain = (explained * (np.arange(width) >= width - taken[:, None])).sum(1)
        each = np.where(taken > 0, gain / np.maximum(taken, 1), -1)
        best = int(np.argmax(each >= (1 - basis.tolerance) * each.max()))
        combined = (whiten[best] @ turn[best])[:, width - taken[best] :].T
        new = combined @ grouped[best]
        found.append((combined @ basis.candidates[best]).T)
        chosen.append(basis.labels[best])
        gains.append(gain[best] / max(variance, 1e-300))
        allowed &= True if basis.excludes is None else ~basis.excludes[best]
    return np.concatenate(found, 1), chosen, np.array(gains)


def _regress(functions: np.ndarray, y: np.ndarray, weights: np.ndarray, train: np.ndarray) -> np.ndarray:
    """y [n, coordinates] predicted at all values by weighted ridge regression on the functions, fitted on `train` with
    the penalty whose leave-one-out error is least there."""
    share = weights[train] / weights[train].sum()
    root = np.sqrt(weights[train])[:, None]
    centred = functions - share @ functions[train]
    scale = np.sqrt(share @ centred[train] ** 2)
    centred, centre = centred / np.where(scale > 0, scale, 1), share @ y[train]
    target = root * (y[train] - centre)
    u, s, vt = np.linalg.svd(root * centred[train], full_matrices=False)
    seen = u.T @ target
    errors = []
    for penalty in PENALTIES:
        shrink = s**2 / (s**2 + penalty)
        leverage = (u**2 @ shrink + share).clip(max=1 - 1e-9)
        errors.append((((target - u @ (shrink[:, None] * seen)) ** 2).sum(1) / (1 - leverage) ** 2).sum())
    shrink = s / (s**2 + PENALTIES[int(np.argmin(errors))])
    return centre + centred @ (vt.T @ (shrink[:, None] * seen))
