"""How activations represent an integer: bases of value functions, equal in number, compared on held-out values.

The question is turned around: not whether a probe reads the value, but which functions of the value predict the mean
activation of values that were never fitted. Helices are those of Kantamneni & Tegmark (arXiv 2502.00873); the circles
per digit of Levy & Geva (arXiv 2410.11781) are combinations of the polynomials of a digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from einops import rearrange
from numpy.polynomial.legendre import legvander

from cadmus.statistics import clustered
from probes.geometry.value_statistics import Means, ValueStatistics, leave_out

PENALTIES = tuple(10.0**p for p in (-6, -3, -1, 0, 1, 2, 4))  # beside sums over values of weights that average 1
MAX_RANGE = 1000  # of the values
MAX_PERIOD = 20  # periods that are not integers are harmonics of those up to it: 10/3, 20/9, ...
_TOLERANCE = 0.01  # a longer circle must explain more by this share: every circle is a harmonic of its multiples
_MIN_CEILING = 0.05  # the share of the differences between means that is not noise: below it, scores are not corrected


@dataclass(frozen=True)
class Basis:
    """Functions at n values, of which k are used: the fixed ones, then groups of candidates, those first that explain
    most, as many as fill k functions."""

    name: str
    """The kind of function."""

    k: int
    """How many functions are used."""

    fixed: np.ndarray
    """float64 [n, functions]: the functions that are always used."""

    candidates: np.ndarray
    """float64 [groups, functions, n]: the functions that are chosen from, group by group."""

    labels: tuple[str, ...] = ()
    """The name of each group: a period, a function of a digit."""

    excludes: np.ndarray | None = None
    """bool [groups, groups]: which groups the choice of a group rules out; None for none."""

    tolerance: float = 0.0
    """The first group is chosen whose gain is at most this share below the best."""

    def at(self, order: np.ndarray) -> Basis:
        """The same functions with values permuted: value i gets those of value order[i]."""
        return replace(self, fixed=self.fixed[order], candidates=self.candidates[:, :, order])


def bases(values: np.ndarray, k: int) -> dict[str, Basis]:
    """The bases with k functions each, at integer values [n], by name.

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
    sign, magnitude = np.sign(values).astype(float), abs(values)
    longest = int(np.ptp(values)) + 1
    line = legvander(2 * (values - values.min()) / max(longest - 1, 1) - 1, k)[:, 1:]
    powers = legvander(2 * magnitude / max(magnitude.max(), 1) - 1, k)[:, 1:]
    signed = rearrange([powers, sign[:, None] * powers], "pair values degree -> values (degree pair)")
    digits = {"sign": sign, **_digit_polynomials(magnitude)}
    periods = _periods(longest)
    circles = np.arange(max(k + 1, 2), longest + 1)
    too_near = abs(1 / periods[:, None] - 1 / periods) * longest < 0.5
    waves = _waves(values, periods, 2), tuple(f"{period:.4g}" for period in periods), too_near
    nothing_fixed = np.empty((len(values), 0))
    no_candidates = np.empty((0, 1, len(values)))
    every = (
        Basis("linear", k, _independent("linear", k, line), no_candidates),
        Basis("sign and magnitude", k, _independent("sign and magnitude", k, np.c_[sign, signed]), no_candidates),
        Basis("digits", k, nothing_fixed, np.array(list(digits.values()))[:, None], tuple(digits)),
        Basis("circular", k, nothing_fixed, _waves(values, circles, k), tuple(map(str, circles)), tolerance=_TOLERANCE),
        Basis("Fourier", k, nothing_fixed, *waves),
        Basis("helix", k, line[:, :1], *waves),
    )
    return {basis.name: basis for basis in every}


def _digit_polynomials(magnitude: np.ndarray) -> dict[str, np.ndarray]:
    """Legendre polynomials of each decimal digit of |v|, as many as the digit has values, by name: [n] each."""
    polynomials = {}
    for place in range(len(str(magnitude.max()))):
        digit = magnitude // 10**place % 10
        for degree, column in enumerate(legvander(digit / 4.5 - 1, len(np.unique(digit)) - 1).T[1:], 1):
            polynomials[f"digit{place}^{degree}"] = column
    return polynomials


def _periods(longest: int) -> np.ndarray:
    """The periods of waves over `longest` values: the whole ones, and harmonics of the short ones; ascending."""
    harmonics = {p / j for p in range(2, min(MAX_PERIOD, longest) + 1) for j in range(1, p // 2 + 1)}
    return np.array(sorted(harmonics | {*range(2, longest + 1)}))


def _waves(values: np.ndarray, periods: np.ndarray, functions: int) -> np.ndarray:
    """cos, sin of each period, then of its half, its third ...: [periods, functions, n]."""
    harmonics = np.arange(1, functions // 2 + 2)
    angle = 2 * np.pi * harmonics[:, None] * values / periods[:, None, None]  # [periods, harmonics, n]
    waves = rearrange([np.cos(angle), np.sin(angle)], "wave period harmonic n -> period (harmonic wave) n")
    return waves[:, :functions]


def _independent(name: str, k: int, columns: np.ndarray) -> np.ndarray:
    """The first k columns that are no combination of a constant and those before them: where no value is negative, |v|
    and sign times |v| are the same."""
    independent: list[np.ndarray] = []
    directions = [np.full(len(columns), len(columns) ** -0.5)]
    for column in columns.T:
        rest = column / np.linalg.norm(column)
        for _ in range(2):  # once leaves rounding errors of the size of the tolerance
            rest = rest - np.array(directions).T @ (np.array(directions) @ rest)
        if len(independent) < k and np.linalg.norm(rest) > 1e-6:
            independent.append(column)
            directions.append(rest / np.linalg.norm(rest))
    if len(independent) < k:
        raise _too_few(name, k, len(independent))
    return np.stack(independent, 1)


def _too_few(name: str, k: int, functions: int) -> ValueError:
    return ValueError(f"{name!r} has {functions} functions on these values; expected k = {k}; lower k or gather others")


def compare(
    statistics: ValueStatistics,
    k: int | Sequence[int] = 9,
    folds: int = 5,
    seed: int = 0,
    permutations: int = 5,
) -> pd.DataFrame:
    """How well each basis, with k functions, predicts the mean activations of held-out values: a row per (basis, k).

    Each fold leaves out values over the whole range; functions are chosen, and a ridge penalty (by leave-one-out),
    among the rest. Bases contain each other in part: v is in linear, in helix and, from k = 3, in sign and magnitude;
    sign and |v|, by its place values, in digits; a circle of period T in Fourier and, from k = 3, in helix; harmonics
    of one period in circular. Compare them at several k: of equal scores the one at the smaller k says more.

    Args:
        statistics: sums of activations by value.
        k: how many functions a basis has; one number or several.
        folds: into how many parts the values are divided.
        seed: of the folds, the permutations and the intervals.
        permutations: of the values, for the control.

    Returns:
        A table with the columns

        - `basis`, `k`;
        - `score`: the R² of the held-out values' means against the mean of the rest, weighted by how well a value's
          mean is known, with the sampling variance of the means (scatter within values / count) subtracted, so that a
          complete basis has 1; `low`, `high`: its interval, over resampled held-out values;
        - `ceiling`: what 1 is before the subtraction, so score * ceiling is the plain R². Where values hardly differ
          (the interval of `ceiling` reaches below 0.05) nothing is subtracted;
        - `control`: the score at permuted values, mean of `permutations`;
        - `chosen`: the periods or functions of digits in the order chosen on all values; `explained`: the share of the
          variance each adds there; `agreement`: the share of that whose labels the folds chose too;
        - `values`, `rows`, `folds`, `seed`.

    Raises:
        ValueError: fewer than 8 distinct values, values that come only once each, or a k beyond what the training
            values hold.
    """
    means = Means.of(statistics)
    n = len(means.values)
    rng = np.random.default_rng(seed)
    fold = leave_out(n, folds, rng)
    sizes = [k] if isinstance(k, int | np.integer) else list(k)
    _check_sizes(sizes, n, folds)
    orders = [rng.permutation(n) for _ in range(permutations)]
    weights = means.weights[:, None]
    total = _errors_of_mean(means, fold)
    ceiling = clustered.bootstrap(
        weights * np.stack([total, means.noise], 1), lambda totals: 1 - totals[..., 1] / totals[..., 0], seed
    )
    explainable = total - means.noise * (ceiling.low > _MIN_CEILING)
    rows = []
    for size in sizes:
        for basis in bases(means.values, size).values():
            error, labels_by_fold = _held_out(basis, means, fold)
            score = clustered.bootstrap(weights * np.stack([total - error, explainable], 1), _ratio, seed)
            permuted = (_held_out(basis.at(order), means, fold)[0] for order in orders)
            control = [_ratio(means.weights @ np.stack([total - error, explainable], 1)) for error in permuted]
            row = {
                "basis": basis.name,
                "k": size,
                "score": score.estimate,
                "low": score.low,
                "high": score.high,
                "ceiling": ceiling.estimate,
                "control": np.mean(control) if control else np.nan,
            }
            row |= _choice(basis, means, labels_by_fold)
            rows.append({**row, "values": n, "rows": means.rows, "folds": folds, "seed": seed})
    return pd.DataFrame(rows)


def _choice(basis: Basis, means: Means, labels_by_fold: list[list[str]]) -> dict[str, str | float]:
    """The columns that say which functions are chosen on all values, and whether the folds chose the same."""
    _, labels, gains = _choose(basis, means.y, means.weights, np.ones(len(means.values), bool))
    agreement = [gains @ np.isin(labels, others) / gains.sum() for others in labels_by_fold if labels]
    return {
        "chosen": ", ".join(labels),
        "explained": ", ".join(f"{gain:.3g}" for gain in gains),
        "agreement": np.mean(agreement) if labels else np.nan,
    }


def _check_sizes(sizes: Sequence[int], n: int, folds: int) -> None:
    n_train = n - -(-n // folds)  # where the largest fold is left out
    for size in sizes:
        if not 1 <= size <= n_train - 2:
            raise ValueError(
                f"k = {size} functions of {n} values, of which a fold trains on {n_train}; expected k of 1 to "
                f"{n_train - 2}; lower k or gather more values"
            )


def _errors_of_mean(means: Means, fold: np.ndarray) -> np.ndarray:
    """Squared error at every value of the other folds' weighted mean: [n]."""
    errors = np.zeros(len(fold))
    for left_out in range(fold.max() + 1):
        test = fold == left_out
        centre = np.average(means.y[~test], axis=0, weights=means.weights[~test])
        errors[test] = ((means.y[test] - centre) ** 2).sum(1)
    return errors


def _ratio(totals: np.ndarray) -> np.ndarray:
    return totals[..., 0] / totals[..., 1]


def _held_out(basis: Basis, means: Means, fold: np.ndarray) -> tuple[np.ndarray, list[list[str]]]:
    """Squared error at every value [n], predicted by the fold that leaves it out; the labels that each fold chose."""
    error = np.zeros(len(fold))
    labels_by_fold = []
    for left_out in range(fold.max() + 1):
        test = fold == left_out
        functions, labels, _ = _choose(basis, means.y, means.weights, ~test)
        predicted = _regress(functions, means.y, means.weights, ~test)
        error[test] = ((means.y[test] - predicted[test]) ** 2).sum(1)
        labels_by_fold.append(labels)
    return error, labels_by_fold


def _choose(
    basis: Basis, y: np.ndarray, weights: np.ndarray, train: np.ndarray
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Choose k functions on the values `train`: the functions at all values [n, k], the labels of the groups, and the
    share of the variance that each adds.

    Orthogonal matching pursuit by groups: the next one is that whose part orthogonal to all before explains most per
    function. A group that does not fit any more gives the combinations of its functions that explain most.

    In the shapes: g groups, w functions of a group, v training values, c coordinates of y.
    """
    share, root = weights[train] / weights[train].sum(), np.sqrt(weights[train])

    def weighted(functions: np.ndarray) -> np.ndarray:
        """[functions, n] -> [functions, v], centred, so that squares add up to weighted ones."""
        functions = functions[:, train]
        return (functions - (functions @ share)[:, None]) * root

    groups, width, _ = basis.candidates.shape
    latest = weighted(basis.fixed.T)
    rest = weighted(y.T)  # [c, v]
    parts = weighted(rearrange(basis.candidates, "g w n -> (g w) n"))
    variance, size = (rest**2).sum(), (parts**2).sum(1).max(initial=0)
    functions, labels, gains = [basis.fixed], [], []
    allowed = np.ones(groups, bool)
    while room := basis.k - sum(columns.shape[1] for columns in functions):
        if len(latest):  # leave what is orthogonal to the functions chosen last
            q = np.linalg.qr(latest.T)[0]
            rest, parts = rest - rest @ q @ q.T, parts - parts @ q @ q.T
        by_group = rearrange(parts, "(g w) v -> g w v", g=groups)
        lengths, axes = np.linalg.eigh(by_group @ by_group.mT)  # [g, w], [g, w, w]
        independent = lengths > 1e-6 * size
        # combinations of a group's functions that are orthonormal: [g, w, combinations]
        whiten = axes * np.where(independent, np.where(independent, lengths, 1) ** -0.5, 0)[:, None]
        products = whiten.mT @ rearrange(parts @ rest.T, "(g w) c -> g w c", g=groups)  # [g, combinations, c]
        explained, turn = np.linalg.eigh(products @ products.mT)  # ascending: the last combinations explain most
        n_taken = np.minimum(independent.sum(1), room) * allowed  # [g]
        if not n_taken.any():
            raise _too_few(basis.name, basis.k, basis.k - room)
        gain = (explained * (np.arange(width) >= width - n_taken[:, None])).sum(1)  # [g]
        per_function = np.where(n_taken > 0, gain / np.maximum(n_taken, 1), -1)
        best = int(np.argmax(per_function >= (1 - basis.tolerance) * per_function.max()))
        combined = (whiten[best] @ turn[best])[:, width - n_taken[best] :].T  # [taken, w]
        latest = combined @ by_group[best]  # [taken, v]
        functions.append((combined @ basis.candidates[best]).T)  # [n, taken]
        labels.append(basis.labels[best])
        gains.append(gain[best] / max(variance, 1e-300))
        if basis.excludes is not None:
            allowed &= ~basis.excludes[best]
    return np.concatenate(functions, 1), labels, np.array(gains)


def _regress(functions: np.ndarray, y: np.ndarray, weights: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Predict y [n, coordinates] at all values by weighted ridge regression on the functions [n, k], fitted to `train`
    with the penalty whose leave-one-out error is least there."""
    share = weights[train] / weights[train].sum()
    root = np.sqrt(weights[train])[:, None]
    centred = functions - share @ functions[train]
    scale = np.sqrt(share @ centred[train] ** 2)
    centred, centre = centred / np.where(scale > 0, scale, 1), share @ y[train]
    target = root * (y[train] - centre)
    u, s, vt = np.linalg.svd(root * centred[train], full_matrices=False)
    rotated = u.T @ target
    errors = []
    for penalty in PENALTIES:
        shrink = s**2 / (s**2 + penalty)
        # a value's error, where it is left out, is its residual divided by 1 - its leverage
        leverage = (u**2 @ shrink + share).clip(max=1 - 1e-9)
        errors.append((((target - u @ (shrink[:, None] * rotated)) ** 2).sum(1) / (1 - leverage) ** 2).sum())
    # coef = V s / (s^2 + penalty) U' target
    shrink = s / (s**2 + PENALTIES[int(np.argmin(errors))])
    return centre + centred @ (vt.T @ (shrink[:, None] * rotated))
