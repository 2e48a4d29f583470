"""Planted codes of integers: activations that are known functions of a value, for the tests of how it is held."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from probes.geometry.value_statistics import ValueStatistics

VALUES = np.arange(-60, 61)

Code = Callable[[np.ndarray], list[np.ndarray]]
"""Values [n] -> functions of them, [n] each."""


def circle(v: np.ndarray, period: float) -> list[np.ndarray]:
    """Cosine and sine of a period."""
    return [np.cos(2 * np.pi * v / period), np.sin(2 * np.pi * v / period)]


CODES: dict[str, Code] = {
    "linear": lambda v: [v / 30],
    "sign and magnitude": lambda v: [np.sign(v), abs(v) / 20],
    "circular": lambda v: circle(v, 10),
    "Fourier": lambda v: [0.9 * np.cos(np.pi * v), *circle(v, 5), *circle(v, 10)],
    "helix": lambda v: [v / 35, *circle(v, 10)],
    "digits": lambda v: list(3 * np.eye(10)[abs(v) % 10].T),
    "nothing": lambda v: [0 * v],
}


def planted(
    code: str | Code,
    noise: float = 0.2,
    values: np.ndarray = VALUES,
    rows_per_value: int = 15,
    features: int = 24,
    seed: int = 0,
) -> ValueStatistics:
    """The functions of a code, by name or given, along random orthogonal directions, off centre, with noise in every
    feature."""
    rng = np.random.default_rng(seed)
    v = rng.permuted(values.repeat(rng.integers(2, 2 * rows_per_value, len(values))))
    functions = np.stack((CODES[code] if isinstance(code, str) else code)(v), 1).astype(float)
    directions = np.linalg.qr(rng.normal(size=(features, features)))[0][: functions.shape[1]]
    x = functions @ directions + rng.normal(size=features) + noise * rng.normal(size=(len(v), features))
    return ValueStatistics.from_rows(x.astype(np.float32), v)


def rows(n: int = 300, features: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Activations linear in a value from -12 to 12, with noise, and the values."""
    rng = np.random.default_rng(seed)
    v = rng.integers(-12, 13, n)
    return rng.normal(size=(n, features)) + np.outer(v, rng.normal(size=features)) + 3, v
