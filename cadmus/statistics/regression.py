"""Linear regression with few clusters: errors and intervals that hold where rows of a cluster are alike.

A design x float [n, k] has a column of ones where an intercept is wanted; y is float [n], clusters [n] are labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import t as student

DRAWS = 4999  # of the wild bootstrap
MEANT_SEEDS = 5  # models of a cluster, fewer than which tell little
_FEW = 6  # clusters whose weights are normal
_TIE = 1e-9  # relative; draws as near to what was observed count as ties
_FAR = 60.0  # standard errors, beyond which the bootstrap's bound is taken to be infinite


@dataclass(frozen=True)
class Coefficients:
    """Estimates of a regression's coefficients with their 95 % intervals; arrays are float64 [k]."""

    estimate: np.ndarray
    """The coefficients."""
    error: np.ndarray
    """Their standard errors."""
    freedom: np.ndarray
    """The degrees of freedom of Student's t."""
    low: np.ndarray
    """The lower bounds."""
    high: np.ndarray
    """The upper bounds."""
    p: np.ndarray
    """Two-sided p-values against 0."""


@dataclass(frozen=True)
class WildBootstrap:
    """What the wild cluster bootstrap says of one coefficient."""

    estimate: float
    """The coefficient."""
    low: float
    """The lower bound of its 95 % interval; -inf where the bootstrap has none."""
    high: float
    """The upper bound; inf where the bootstrap has none."""
    p: float
    """The two-sided p-value against 0."""
    draws: int
    """How many draws it rests on."""


def check_design(y: np.ndarray, x: np.ndarray, clusters: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """y and x as float64. Raises ValueError for shapes that do not fit, numbers that are not finite, more columns than
    rows, and columns that are a sum of others."""
    y, x = np.asarray(y, np.float64), np.asarray(x, np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or (clusters is not None and len(clusters) != len(y)):
        raise ValueError(f"a regression needs y [n], x [n, k] and clusters [n], not {list(y.shape)}, {list(x.shape)}")
    if not (np.isfinite(y).all() and np.isfinite(x).all()):
        raise ValueError("a regression needs finite numbers; leave rows that have none out")
    rank = np.linalg.matrix_rank(x / np.maximum(abs(x).max(0, initial=0), 1e-300))
    if rank < x.shape[1]:
        raise ValueError(
            f"{x.shape[1]} columns of {len(x)} rows are worth {rank}: some are sums of others; leave these out"
        )
    return y, x


def cluster_robust(y: np.ndarray, x: np.ndarray, clusters: np.ndarray) -> Coefficients:
    """Least squares with cluster-robust errors, bias-reduced (CR2) and with Satterthwaite's degrees of freedom, which
    hold with few clusters (Bell & McCaffrey 2002; Pustejovsky & Tipton 2018, the working model of equal variances).

    Raises ValueError as `check_design`, and for fewer than two clusters.
    """
    y, x = check_design(y, x, clusters)
    groups = _groups(clusters)
    if len(groups) < 2:
        raise ValueError("one cluster has no spread between clusters: two or more are needed")
    bread = np.linalg.inv(x.T @ x)
    estimate = bread @ (x.T @ y)
    residuals = y - x @ estimate
    hat = x @ bread @ x.T
    annihilator = np.eye(len(y)) - hat
    scores = np.empty((len(groups), x.shape[1]))
    loadings = np.empty((len(groups), len(y), x.shape[1]))  # of the rows' errors in each cluster's score
    for g, rows in enumerate(groups):
        adjusted = _inverse_root(annihilator[np.ix_(rows, rows)]) @ x[rows] @ bread  # [rows, k]
        scores[g] = adjusted.T @ residuals[rows]
        loadings[g] = annihilator[:, rows] @ adjusted
    error = np.sqrt((scores**2).sum(0))
    gram = np.einsum("gnk,hnk->kgh", loadings, loadings)
    freedom = np.trace(gram, axis1=1, axis2=2) ** 2 / np.maximum((gram**2).sum((1, 2)), 1e-300)
    return coefficients(estimate, error, freedom)


def coefficients(estimate: np.ndarray, error: np.ndarray, freedom: np.ndarray) -> Coefficients:
    """Intervals and p-values of Student's t for estimates with standard errors, float [k] each."""
    reach = student.isf(0.025, freedom) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * student.sf(abs(estimate) / error, freedom)
    return Coefficients(estimate, error, freedom, estimate - reach, estimate + reach, p)


def _inverse_root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric inverse square root, of the directions only in which the matrix is above 0."""
    values, vectors = np.linalg.eigh(matrix)
    roots = np.where(values > 1e-10, 1 / np.sqrt(np.maximum(values, 1e-10)), 0.0)
    return (vectors * roots) @ vectors.T


def _groups(clusters: np.ndarray) -> list[np.ndarray]:
    """The rows of each cluster."""
    index = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return [np.flatnonzero(index == g) for g in range(index.max(initial=-1) + 1)]


# --- the wild cluster bootstrap --------------------------------------------------------------------------------------


def wild_cluster(
    y: np.ndarray, x: np.ndarray, column: int, clusters: np.ndarray, *, seed: int = 0, draws: int = DRAWS
) -> WildBootstrap:
    """The wild cluster bootstrap of one coefficient (Cameron, Gelbach & Miller 2008), restricted: residuals are those
    under the tested value, weighted cluster by cluster, and the studentized estimate is compared with that of every
    draw. The interval holds the values that are not rejected at 5 %.

    Weights are Webb's six points, or standard normal with six clusters or fewer, where the six points' intervals held
    98 to 99 % of planted effects in two factors; with more clusters the normal ones hold too few
    (`docs/generalization.md`). Raises ValueError as `cluster_robust`.
    """
    y, x = check_design(y, x, clusters)
    groups = _groups(clusters)
    if len(groups) < 2:
        raise ValueError("one cluster has no spread between clusters: two or more are needed")
    weights = _weights(len(groups), seed, draws)
    pieces = _Pieces.of(y, x, column, groups)
    p = pieces.p_value(0.0, weights)
    step = pieces.error if pieces.error > 0 else max(abs(pieces.estimate), 1.0) * 1e-9
    low = _bound(pieces, weights, -step)
    high = _bound(pieces, weights, step)
    return WildBootstrap(pieces.estimate, low, high, p, draws)


@dataclass(frozen=True)
class _Pieces:
    """What the bootstrap needs of the data: cluster g adds `direct[g]` to a draw's deviation, and `cross[h, g]` to the
    score of cluster h; both are those of y minus the tested value times those of the column."""

    estimate: float
    error: float  # cluster-robust, CR0
    scores: np.ndarray  # of the unrestricted fit
    direct: tuple[np.ndarray, np.ndarray]
    cross: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, y: np.ndarray, x: np.ndarray, column: int, groups: list[np.ndarray]) -> _Pieces:
        bread = np.linalg.inv(x.T @ x)
        row_weights = x @ bread[:, column]  # the coefficient is their product with y
        rest = np.delete(x, column, 1)
        without = _residuals(y, rest), _residuals(x[:, column], rest)
        residuals = _residuals(y, x)
        scores = np.array([row_weights[rows] @ residuals[rows] for rows in groups])
        direct, cross = [], []
        for values in without:
            own = np.array([row_weights[rows] @ values[rows] for rows in groups])
            by_cluster = np.stack([x[rows].T @ values[rows] for rows in groups])  # [g, k]
            against = np.stack([row_weights[rows] @ x[rows] for rows in groups])  # [h, k]
            direct.append(own)
            cross.append(np.diag(own) - against @ bread @ by_cluster.T)
        error = float(np.sqrt((scores**2).sum()))
        return cls(float(row_weights @ y), error, scores, (direct[0], direct[1]), (cross[0], cross[1]))

    def p_value(self, value: float, weights: np.ndarray) -> float:
        """The share of draws, weights [draws, clusters], at least as far from the value as what was observed, which is
        counted among them."""
        direct = self.direct[0] - value * self.direct[1]
        cross = self.cross[0] - value * self.cross[1]
        deviation = weights @ direct
        spread = np.sqrt(((weights @ cross.T) ** 2).sum(1))
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = abs(deviation) / spread
            observed = abs(self.estimate - value) / self.error
        drawn[np.isnan(drawn)] = 0.0
        if np.isnan(observed):
            return 1.0
        return float(1 + (drawn >= observed * (1 - _TIE)).sum()) / (1 + len(drawn))


def _bound(pieces: _Pieces, weights: np.ndarray, step: float) -> float:
    """The value farthest from the estimate, in the direction of `step`, that is not rejected at 5 %."""

    def surplus(multiple: float) -> float:
        return pieces.p_value(pieces.estimate + multiple * step, weights) - 0.05

    far = 2.0
    while surplus(far) > 0:
        far *= 1.5
        if far > _FAR:
            return float(np.copysign(np.inf, step))
    return pieces.estimate + step * float(brentq(surplus, 0.0, far, xtol=1e-3))


def _residuals(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return y - x @ np.linalg.lstsq(x, y, rcond=None)[0] if x.shape[1] else y


def _weights(clusters: int, seed: int, draws: int) -> np.ndarray:
    """Standard normal where clusters are few, else Webb's (2023): float64 [draws, clusters]."""
    rng = np.random.default_rng([seed, 76])
    if clusters <= _FEW:
        return rng.standard_normal((draws, clusters))
    points = np.sqrt([0.5, 1.0, 1.5])
    return np.concatenate([-points, points])[rng.integers(0, 6, (draws, clusters))]


# --- how much predictors explain, and how alike they are -------------------------------------------------------------


def partial_r_squared(y: np.ndarray, x: np.ndarray, column: int) -> float:
    """The share of what the other columns leave of y that this column explains; NaN where they leave nothing."""
    y, x = check_design(y, x)
    without = float((_residuals(y, np.delete(x, column, 1)) ** 2).sum())
    with_column = float((_residuals(y, x) ** 2).sum())
    return 1 - with_column / without if without > 1e-12 * max(float((y**2).sum()), 1e-300) else float("nan")


def variance_inflation(predictors: np.ndarray) -> np.ndarray:
    """The variance inflation factor of each predictor, [n, k] without a column of ones: 1 / (1 - R^2) of it on the
    others; inf where it is a sum of them."""
    centered = predictors - predictors.mean(0)
    out = np.ones(predictors.shape[1])
    for k in range(predictors.shape[1]):
        left = (_residuals(centered[:, k], np.delete(centered, k, 1)) ** 2).sum()
        total = (centered[:, k] ** 2).sum()
        out[k] = total / left if left > 1e-12 * total else np.inf
    return out


def condition_number(predictors: np.ndarray) -> float:
    """The condition number of the predictors [n, k], each centered and of length 1: 1 where none is like another, 30 or
    more where a sum of some is almost another (Belsley 1980); inf where it is."""
    centered = predictors - predictors.mean(0)
    lengths = np.sqrt((centered**2).sum(0))
    if not (lengths > 0).all():
        return float("inf")
    values = np.linalg.svd(centered / lengths, compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 1e-12 else float("inf")


def left_out_predictions(y: np.ndarray, x: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a regression on the other clusters says of each row, and their mean: float64 [n] each; NaN where the other
    clusters do not fix the coefficients."""
    y, x = np.asarray(y, np.float64), np.asarray(x, np.float64)
    predicted, mean = np.full(len(y), np.nan), np.full(len(y), np.nan)
    for rows in _groups(clusters):
        others = np.setdiff1d(np.arange(len(y)), rows)
        if len(others):
            mean[rows] = y[others].mean()
        if np.linalg.matrix_rank(x[others]) == x.shape[1]:
            predicted[rows] = x[rows] @ np.linalg.lstsq(x[others], y[others], rcond=None)[0]
    return predicted, mean


def left_out_r_squared(y: np.ndarray, x: np.ndarray, clusters: np.ndarray) -> float:
    """1 - squared error over that of the mean, both of clusters that were left out of the fit: below 0 where the mean
    says more. NaN where any cluster cannot be left out."""
    predicted, mean = left_out_predictions(y, x, clusters)
    left = float(((y - mean) ** 2).sum())
    if np.isnan(predicted).any() or not left > 0:
        return float("nan")
    return 1 - float(((y - predicted) ** 2).sum()) / left


# --- random intercepts -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomIntercepts:
    """A linear mixed model with a random intercept for each cluster, fitted by restricted maximum likelihood."""

    coefficients: Coefficients
    """The fixed effects."""
    between: float
    """The variance of the intercepts; 0 at the boundary, where clusters differ no more than their rows do."""
    within: float
    """The variance of rows within clusters."""


def random_intercepts(y: np.ndarray, x: np.ndarray, clusters: np.ndarray, between_columns: int) -> RandomIntercepts:
    """Fit y = x b + an intercept of the cluster + error (Laird & Ware 1982).

    between_columns: how many columns of x, the intercept left out, vary between clusters rather than within: the
    intervals' degrees of freedom are clusters - 1 - between_columns, and those of least squares at the boundary.

    Raises ValueError as `check_design`, and for too few clusters.
    """
    y, x = check_design(y, x, clusters)
    groups = _groups(clusters)
    freedom = len(groups) - 1 - between_columns
    if freedom < 1:
        raise ValueError(
            f"{len(groups)} clusters are too few for {between_columns} predictors between them: "
            f"{between_columns + 2} or more are needed"
        )

    sums = _ClusterSums.of(y, x, groups)
    grid = np.linspace(-9, 9, 37)
    values = [sums.deviance(float(np.exp(point))) for point in grid]
    best = int(np.argmin(values))
    ratio = 0.0
    if values[best] < sums.deviance(0.0):
        bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        lowest = minimize_scalar(lambda point: sums.deviance(float(np.exp(point))), bounds=bounds, method="bounded")
        ratio = float(np.exp(lowest.x))
    estimate, information, squares = sums.fit(ratio)
    within = squares / (len(y) - x.shape[1])
    if ratio == 0:
        freedom = len(y) - x.shape[1]
    error = np.sqrt(within * np.diag(np.linalg.inv(information)))
    fixed = coefficients(estimate, error, np.full(len(estimate), float(freedom)))
    return RandomIntercepts(fixed, ratio * within, within)


@dataclass(frozen=True)
class _ClusterSums:
    """What of the data a model with random intercepts needs: products within clusters, and the clusters' means; the
    last column is y."""

    products: np.ndarray  # [k + 1, k + 1], of deviations from the means of clusters
    means: np.ndarray  # [clusters, k + 1]
    sizes: np.ndarray  # [clusters]
    rows: int

    @classmethod
    def of(cls, y: np.ndarray, x: np.ndarray, groups: list[np.ndarray]) -> _ClusterSums:
        both = np.column_stack([x, y])
        means = np.stack([both[rows].mean(0) for rows in groups])
        deviations = np.concatenate([both[rows] - mean for rows, mean in zip(groups, means, strict=True)])
        return cls(deviations.T @ deviations, means, np.array([len(rows) for rows in groups]), len(y))

    def fit(self, ratio: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Generalized least squares where intercepts have `ratio` times the variance of rows: the estimate, x' V^-1 x,
        and the weighted sum of squared residuals."""
        weights = self.sizes / (1 + ratio * self.sizes)
        products = self.products + (self.means * weights[:, None]).T @ self.means
        information, moments = products[:-1, :-1], products[:-1, -1]
        estimate = np.linalg.solve(information, moments)
        return estimate, information, max(float(products[-1, -1] - estimate @ moments), 0.0)

    def deviance(self, ratio: float) -> float:
        """-2 times the restricted log likelihood, but for a constant, at the best variance of rows."""
        _, information, squares = self.fit(ratio)
        freedom = self.rows - len(information)
        log_variance = np.log1p(ratio * self.sizes).sum() + np.linalg.slogdet(information)[1]
        return float(log_variance + freedom * np.log(max(squares, 1e-300)))
