"""How many dimensions, and how many neurons, a variable needs: low-rank and sparse probes from second moments alone.

The outputs are those of `probes.solvers.moments.Moments`: one-hot classes, or functions of them (`Moments.mapped`: the
number itself, its sines and cosines, ...). Every score is the share of the outputs' variance on the validation rows
that a probe fitted to the training rows explains, all outputs together: R² for one number; for classes that of the
one-hot outputs, which is not an accuracy (a middle class may be masked by its neighbours). Outputs of different scales
count by their variance. Beside each score stands that of probes which may read as many directions, or neurons, drawn at
random.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.linalg import cholesky, eigh, solve_triangular

from probes.solvers.checks import check_finite_sums, check_rows
from probes.solvers.linear import Linear, solve_ridge
from probes.solvers.moments import Moments

RULES = ("gain", "residual")


def by_rank(
    train: Moments,
    validation: Moments,
    ranks: Sequence[int] | None = None,
    *,
    alpha: float = 1.0,
    draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """The score of the best probe of rank k (`reduced_rank`), for each k of `ranks` (1, 2, 4, ..., the maximum).

    One output has rank 1 whatever it is: for a number, give the classes of its values, or use `by_components`. A row
    per k: probe, metric, k, score, control (mean over the draws of the probe on k random directions) with control_low
    and control_high (least and greatest draw), full (the probe without a limit). Raises ValueError for moments that do
    not fit each other, constant outputs, and a k that is not possible.
    """
    _check(train, validation, alpha, draws)
    features, outputs = train.xy.shape
    ranks = _sizes(ranks, min(features, outputs), f"ranks ({features} features, {outputs} outputs)")
    full = solve_ridge(train, alpha).coef
    directions = _fitted_directions(train, full)
    scores = [_score(train, validation, full @ directions[:, :k] @ directions[:, :k].T) for k in ranks]
    control = _random_directions(train, validation, ranks, alpha, draws, seed)
    return _table("reduced rank", ranks, scores, control, _score(train, validation, full))


def by_components(
    train: Moments,
    validation: Moments,
    components: Sequence[int] | None = None,
    *,
    alpha: float = 1.0,
    draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """The score of the probe on the top k principal components of the training activations (principal component
    regression), for each k of `components` (1, 2, 4, ..., features).

    It says how much of the activations' own variance must be kept for the variable to be read. Columns and errors are
    those of `by_rank`.
    """
    _check(train, validation, alpha, draws)
    components = _sizes(components, len(train.mean), "principal components")
    axes = train.spectrum[1][:, ::-1][:, : max(components)]
    scores = _nested_scores(train, validation, axes, components, alpha)
    control = _random_directions(train, validation, components, alpha, draws, seed)
    return _table("principal components", components, scores, control, _full(train, validation, alpha))


def by_neurons(
    train: Moments,
    validation: Moments,
    sizes: Sequence[int] | None = None,
    *,
    alpha: float = 1.0,
    rule: str = "gain",
    draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """The score of the probe on k neurons, the coordinates of the site, chosen greedily on the training rows
    (`select_neurons`), for each k of `sizes` (1, 2, 4, ..., features).

    Sparse probing after Gurnee et al. (arXiv 2305.01610). Columns and errors are those of `by_rank`, with the control
    on k random neurons, and `neurons`, the selected ones in the order of their choice.
    """
    _check(train, validation, alpha, draws)
    sizes = _sizes(sizes, len(train.mean), "neurons")
    neurons = select_neurons(train, max(sizes), alpha=alpha, rule=rule)
    scores = _nested_scores(train, validation, neurons, sizes, alpha)
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(len(train.mean))[: max(sizes)] for _ in range(draws))
    control = [_nested_scores(train, validation, order, sizes, alpha) for order in orders]
    table = _table("neurons", sizes, scores, control, _full(train, validation, alpha))
    return table.assign(neurons=[tuple(neurons[:k].tolist()) for k in sizes])


def smallest_sufficient(table: pd.DataFrame, share: float = 0.95) -> int | None:
    """The smallest k of a table of `by_rank`, `by_components` or `by_neurons` whose score is at least `share` of the
    full probe's; None where no k of the table suffices, or the full probe reads nothing (its score is 0 or less).

    Raises ValueError for a table of several probes or sites.
    """
    if table.full.nunique() != 1 or table.k.duplicated().any():
        raise ValueError(
            "the table holds no or several measurements; give the rows of one, as by_rank, by_components and "
            "by_neurons return them (group the table first)"
        )
    if not 0 < share <= 1:
        raise ValueError(f"share = {share} must be above 0 and at most 1")
    full = table.full.iloc[0]
    sufficient = table.k[table.score >= share * full]
    return int(sufficient.min()) if full > 0 and len(sufficient) else None


def reduced_rank(train: Moments, rank: int, alpha: float = 1.0) -> Linear:
    """Reduced-rank ridge regression (Izenman 1975; with the penalty, Mukherjee and Zhu 2011): of all maps of this rank,
    the one that minimizes, summed over the outputs,

        ||Y - X coef - intercept||^2 + alpha ||coef||^2

    It is the full probe, its outputs projected on the directions along which its fitted outputs vary most. The column
    space of `coef` is the subspace of the site that the probe reads.
    """
    _check_training(train, alpha)
    _sizes([rank], min(train.xy.shape), f"ranks ({train.xy.shape[0]} features, {train.xy.shape[1]} outputs)")
    full = solve_ridge(train, alpha)
    directions = _fitted_directions(train, full.coef)[:, :rank]
    coef = full.coef @ directions @ directions.T
    return Linear(coef, train.y_mean - train.mean @ coef, full.penalty)


def select_neurons(train: Moments, k: int, *, alpha: float = 1.0, rule: str = "gain") -> np.ndarray:
    """Select k neurons greedily: int [k], in the order of their choice.

    Under rule "gain" the next is the one that, added to those chosen before, lowers the penalized squared error most
    (forward selection); under "residual" the one that correlates most with what they leave unexplained (orthogonal
    matching pursuit). Exact at each step: a pivoted Cholesky factorization carries the variance left of every neuron
    and of its products with the outputs, in O(features * (k + outputs)) a step. Neurons that are sums of those chosen
    come last, in their own order. Raises ValueError where fewer than k are linearly independent and nothing is
    penalized.
    """
    _check_training(train, alpha)
    _sizes([k], len(train.mean), "neurons")
    if rule not in RULES:
        raise ValueError(f"rule = {rule!r}; expected one of {', '.join(RULES)}")
    scatter = _scatter(train)
    variance = scatter.diagonal() + alpha
    # given the neurons chosen so far, of every neuron: its variance, and its products with the outputs
    residual, cross = variance.copy(), train.xy.copy()
    features = len(variance)
    factor = np.zeros((k, features))
    neurons = np.zeros(k, np.int64)
    free = np.ones(features, np.bool_)
    for step in range(k):
        free &= residual > 1e-10 * variance  # else a sum of those chosen, up to rounding
        if not free.any():
            if alpha == 0:
                raise ValueError(
                    f"only {step} neurons are linearly independent, not {k}; ask for fewer or pass alpha > 0"
                )
            neurons[step:] = np.setdiff1d(np.arange(features), neurons[:step])[: k - step]
            break
        scale = residual if rule == "gain" else variance
        gain = np.full(features, -np.inf)
        gain[free] = np.square(cross[free]).sum(1) / scale[free]
        best = neurons[step] = gain.argmax()
        free[best] = False
        pivot = np.sqrt(residual[best])
        column = (scatter[best] - factor[:step, best] @ factor[:step]) / pivot
        column[best] = pivot
        factor[step] = column
        cross -= np.outer(column, cross[best] / pivot)
        residual -= column**2
    return neurons


def _fitted_directions(train: Moments, coef: np.ndarray) -> np.ndarray:
    """Orthonormal directions among the outputs, those first along which the full probe's fit varies most: [outputs,
    outputs], a column each."""
    fitted = train.xy.T @ coef  # coef' (X'X + alpha) coef
    return eigh((fitted + fitted.T) / 2)[1][:, ::-1]


def _full(train: Moments, validation: Moments, alpha: float) -> float:
    """The score of the probe without a limit."""
    return _score(train, validation, solve_ridge(train, alpha).coef)


def _score(train: Moments, validation: Moments, coef: np.ndarray) -> float:
    """The share of the validation outputs' variance that outputs = y_mean + (x - mean) @ coef explain."""
    scatter, xy, yy = validation.about(train.mean, train.y_mean)
    return _explained(scatter, xy, yy, coef, validation)


def _explained(scatter: np.ndarray, xy: np.ndarray, yy: np.ndarray, coef: np.ndarray, validation: Moments) -> float:
    """The same, from the validation sums about the training means."""
    # ||Y - X W||^2 = sum of yy - 2 W' X'Y + W' X'X W
    error = yy.sum() + ((scatter @ coef - 2 * xy) * coef).sum()
    return float(1 - error / validation.yy.sum())


def _nested_scores(
    train: Moments, validation: Moments, axes: np.ndarray, sizes: Iterable[int], alpha: float
) -> list[float]:
    """Scores of the ridge probes on the first k of `axes` for every k: neurons int [m], or directions [features, m].

    The leading blocks of one Cholesky factor are the factors of the leading blocks.
    """
    scatter, xy = _along(axes, _scatter(train), train.xy)
    try:
        factor = cholesky(scatter + alpha * np.eye(len(scatter)), lower=True)
    except np.linalg.LinAlgError:
        raise ValueError("the activations are linearly dependent and nothing is penalized; pass alpha > 0") from None
    forward = solve_triangular(factor, xy, lower=True)
    scatter, xy, yy = validation.about(train.mean, train.y_mean)
    scatter, xy = _along(axes, scatter, xy)
    scores = []
    for k in sizes:
        coef = solve_triangular(factor[:k, :k], forward[:k], lower=True, trans="T")
        scores.append(_explained(scatter[:k, :k], xy[:k], yy, coef, validation))
    return scores


def _scatter(train: Moments) -> np.ndarray:
    """The training scatter without eigenvalues below 0, which are rounding: activations that depend on one another, the
    embedding's, come as sums in single precision."""
    eigenvalues, vectors = train.spectrum
    return train.scatter if eigenvalues[0] >= 0 else (vectors * eigenvalues.clip(0)) @ vectors.T


def _along(axes: np.ndarray, scatter: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums in the coordinates of some neurons int [m], or along directions [features, m]: [m, m], [m, outputs]."""
    if axes.ndim == 1:
        return scatter[np.ix_(axes, axes)], xy[axes]
    return axes.T @ scatter @ axes, axes.T @ xy


def _random_directions(
    train: Moments, validation: Moments, sizes: Sequence[int], alpha: float, draws: int, seed: int
) -> list[list[float]]:
    """Scores on the first k of random orthonormal directions, k by k: a list per draw."""
    rng = np.random.default_rng(seed)
    shape = (len(train.mean), max(sizes))
    axes = (np.linalg.qr(rng.standard_normal(shape))[0] for _ in range(draws))
    return [_nested_scores(train, validation, directions, sizes, alpha) for directions in axes]


def _table(
    probe: str, sizes: Sequence[int], scores: Sequence[float], control: Sequence[Sequence[float]], full: float
) -> pd.DataFrame:
    draws = np.array(control)  # [draws, sizes]
    return pd.DataFrame(
        {
            "probe": probe,
            "metric": "R2",
            "k": sizes,
            "score": scores,
            "control": draws.mean(0),
            "control_low": draws.min(0),
            "control_high": draws.max(0),
            "full": full,
        }
    )


def _sizes(requested: Sequence[int] | None, maximum: int, units: str) -> list[int]:
    """The requested numbers of units, checked; by default the powers of two, and the maximum."""
    if requested is None:
        return [*(2**k for k in range(maximum.bit_length()) if 2**k < maximum), maximum]
    outside = [k for k in requested if not 1 <= k <= maximum]
    if outside or not len(requested):
        received = f"k = {outside[0]}" if outside else "no k"
        raise ValueError(f"{received}: there are {maximum} {units}; ask for one or more of 1 to {maximum}")
    return [int(k) for k in requested]


def _check(train: Moments, validation: Moments, alpha: float, draws: int) -> None:
    _check_training(train, alpha)
    if validation.xy.shape != train.xy.shape:
        features, outputs = validation.xy.shape
        raise ValueError(
            f"validation has {features} features and {outputs} outputs, training {train.xy.shape[0]} and "
            f"{train.xy.shape[1]}; take both at one site, of the same outputs"
        )
    if not validation.yy.sum() > 1e-9 * (validation.n * validation.y_mean**2).sum():
        raise ValueError("the validation outputs are constant; a score needs validation rows that differ")
    if draws < 1:
        raise ValueError(f"draws = {draws}: the control needs 1 or more")


def _check_training(train: Moments, alpha: float) -> None:
    if alpha < 0:
        raise ValueError(f"alpha = {alpha} must be 0 or more")
    check_rows(train.n)
    check_finite_sums(train.scatter, train.xy)
    if not train.yy.sum() > 1e-9 * (train.n * train.y_mean**2).sum():
        raise ValueError("the outputs are constant; there is nothing to probe")
