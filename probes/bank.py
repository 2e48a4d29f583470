"""Ridge probes from streamed sufficient statistics: sums of products, so memory does not grow with the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ALPHAS = tuple(10.0**k for k in range(-2, 5))


@dataclass(frozen=True)
class RidgeProbe:
    """A fitted linear map: prediction = x @ coef_ + intercept_. coef_ [features, targets]; alpha_ [targets]."""

    coef_: np.ndarray
    intercept_: np.ndarray
    alpha_: np.ndarray

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[n, features] -> [n, targets]."""
        return x @ self.coef_ + self.intercept_


class RidgeFitter:
    """Gathers what ridge regression needs: one fitter per (site, group of rows), several targets at once.

    `update` batch after batch, `+` across processes, then `fit(validation=another fitter)`. The penalty is
    scikit-learn's: alpha * |coef|^2 beside the sum of squared errors, the intercept free.
    """

    def __init__(self, features: int, targets: int):
        self.n = np.zeros(targets)
        self.x = np.zeros((targets, features))
        self.y = np.zeros(targets)
        self.xx = np.zeros((targets, features, features))
        self.xy = np.zeros((targets, features))
        self.yy = np.zeros(targets)

    def update(self, x: np.ndarray, y: np.ndarray, defined: np.ndarray | None = None) -> RidgeFitter:
        """x [n, features]; y [n, targets]; defined bool [n, targets] says which targets a row has."""
        defined = np.ones(y.shape, np.bool_) if defined is None else defined
        for target in range(y.shape[1]):
            rows = defined[:, target]
            xt, yt = x[rows].astype(np.float64), y[rows, target].astype(np.float64)
            self.n[target] += len(yt)
            self.x[target] += xt.sum(0)
            self.y[target] += yt.sum()
            self.xx[target] += xt.T @ xt
            self.xy[target] += xt.T @ yt
            self.yy[target] += yt @ yt
        return self

    def __add__(self, other: RidgeFitter) -> RidgeFitter:
        total = RidgeFitter(self.x.shape[1], self.x.shape[0])
        for name in ("n", "x", "y", "xx", "xy", "yy"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def fit(self, alphas: tuple[float, ...] = ALPHAS, validation: RidgeFitter | None = None) -> RidgeProbe:
        """The probe per target, with the penalty that leaves the least squared error on `validation`.

        Raises ValueError for a target with fewer than 2 rows, for one that is constant, and for several penalties
        without validation data to choose by.
        """
        if len(alphas) > 1 and validation is None:
            raise ValueError(
                f"{len(alphas)} penalties need validation data to choose from; pass validation= or one alpha"
            )
        if validation is not None and not validation.n.all():
            raise ValueError(f"target {int(np.argmin(validation.n))} has no validation rows to choose a penalty by")
        coefs, intercepts, chosen = [], [], []
        for target in range(len(self.n)):
            candidates = [self._solve(target, alpha) for alpha in alphas]
            best = 0
            if validation is not None and len(alphas) > 1:
                best = int(np.argmin([validation._squared_error(target, *candidate) for candidate in candidates]))
            coefs.append(candidates[best][0])
            intercepts.append(candidates[best][1])
            chosen.append(alphas[best])
        return RidgeProbe(np.stack(coefs, 1), np.array(intercepts), np.array(chosen))

    def _solve(self, target: int, alpha: float) -> tuple[np.ndarray, float]:
        n = self.n[target]
        if n < 2:
            raise ValueError(f"target {target} has {int(n)} rows; a probe needs 2 or more")
        x, y = self.x[target] / n, self.y[target] / n
        if self.yy[target] / n - y * y <= 1e-9 * self.yy[target] / n:
            raise ValueError(f"target {target} is constant ({y:g}); there is nothing to probe")
        centered = self.xx[target] - n * np.outer(x, x)
        coef = np.linalg.solve(centered + alpha * np.eye(len(x)), self.xy[target] - n * x * y)
        return coef, y - x @ coef

    def _squared_error(self, target: int, coef: np.ndarray, intercept: float) -> float:
        linear = coef @ self.xx[target] @ coef + 2 * intercept * (self.x[target] @ coef) + self.n[target] * intercept**2
        return float(linear - 2 * (coef @ self.xy[target] + intercept * self.y[target]) + self.yy[target])
