"""Moments: the second moments of activations and outputs, from which least-squares probes are solved."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, repr=False)
class Moments:
    """Centred sums of rows, of activations and of t outputs. `+` merges those of different rows (Chan, Golub, LeVeque
    1983)."""

    n: float
    """The number of rows; of rows with weights the sum of these."""

    mean: np.ndarray
    """The mean activation: [features]."""

    scatter: np.ndarray
    """Sums of products of activations about their mean, X^T X: [features, features]."""

    y_mean: np.ndarray
    """The mean outputs: [t]."""

    xy: np.ndarray
    """Sums of products of activations and outputs about their means, X^T Y: [features, t]."""

    yy: np.ndarray
    """Sums of squared outputs about their means: [t]."""

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Moments:
        """The moments of rows x [n, features], y [n, t]; weight [n], above 0, counts a row that often."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        if weight is None:
            mean, y_mean = x.mean(0), y.mean(0)
            x, y = x - mean, y - y_mean
            return cls(len(x), mean, x.T @ x, y_mean, x.T @ y, np.square(y).sum(0))
        n = weight.sum(dtype=float)
        shares = weight / n
        mean, y_mean = shares @ x, shares @ y
        x, y = x - mean, y - y_mean
        weighted = x.T * weight  # [features, n]
        return cls(n, mean, weighted @ x, y_mean, weighted @ y, weight @ np.square(y))

    def scaled(self, factor: float) -> Moments:
        """Those of the same rows, each with `factor` times its weight."""
        return Moments(
            self.n * factor, self.mean, self.scatter * factor, self.y_mean, self.xy * factor, self.yy * factor
        )

    def __repr__(self) -> str:
        return f"Moments({self.n:g} rows, {len(self.mean)} features, {len(self.y_mean)} outputs)"

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        step, y_step = other.mean - self.mean, other.y_mean - self.y_mean
        weight = self.n * other.n / n
        return Moments(
            n,
            self.mean + step * (other.n / n),
            self.scatter + other.scatter + weight * np.outer(step, step),
            self.y_mean + y_step * (other.n / n),
            self.xy + other.xy + weight * np.outer(step, y_step),
            self.yy + other.yy + weight * y_step**2,
        )

    def about(self, mean: np.ndarray, y_mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre the same rows at other means, those of training data, say: (scatter, xy, yy)."""
        step, y_step = self.mean - mean, self.y_mean - y_mean
        return (
            self.scatter + self.n * np.outer(step, step),
            self.xy + self.n * np.outer(step, y_step),
            self.yy + self.n * y_step**2,
        )

    def mapped(self, outputs: np.ndarray) -> Moments:
        """The moments of functions of the class, where outputs are one-hot: outputs [classes, t] holds their values."""
        counts = self.n * self.y_mean
        y_mean = self.y_mean @ outputs
        yy = (counts @ outputs**2) - self.n * y_mean**2
        return Moments(self.n, self.mean, self.scatter, y_mean, self.xy @ outputs, yy)

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and eigenvectors of the scatter: one decomposition for every target and penalty."""
        return np.linalg.eigh(self.scatter)
