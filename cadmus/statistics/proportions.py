"""Intervals of proportions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

_Z = ndtri(0.975)


def wilson(successes: ArrayLike, trials: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of each proportion successes / trials: (low, high), float64, of the broadcast shape of the two.

    Wilson (1927) as Newcombe (1998, method 3) writes it. It reaches from 0 to 1 where there are no trials. Raises
    ValueError for a number of successes outside 0..trials.
    """
    successes, trials = np.asarray(successes), np.asarray(trials)
    if ((successes < 0) | (successes > trials)).any():
        raise ValueError("successes must lie in 0..trials: pass counts, the smaller first")
    share = successes / np.maximum(trials, 1)
    width = 2 * (trials + _Z**2)
    center = (2 * trials * share + _Z**2) / width
    margin = _Z / width * np.sqrt(4 * trials * share * (1 - share) + _Z**2)
    return np.where(successes == 0, 0.0, center - margin), np.where(successes == trials, 1.0, center + margin)
