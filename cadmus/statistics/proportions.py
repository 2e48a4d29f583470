"""Intervals of proportions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest


def wilson(right: Sequence[int], n: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval (Wilson) of each proportion right / n: (low, high), float [k] each; n is 1 or more."""
    found = [binomtest(int(k), int(m)).proportion_ci(method="wilson") for k, m in zip(right, n, strict=True)]
    return np.array([one.low for one in found]), np.array([one.high for one in found])
