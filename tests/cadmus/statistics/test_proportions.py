"""Wilson's intervals against scipy's, one proportion at a time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from cadmus.statistics.proportions import wilson


def test_intervals_are_scipys() -> None:
    rng = np.random.default_rng(0)
    trials = rng.integers(1, 3000, 200)
    successes = rng.integers(0, trials + 1)
    successes[:20], successes[20:40] = 0, trials[20:40]
    low, high = wilson(successes, trials)
    for k in range(200):
        expected = binomtest(int(successes[k]), int(trials[k])).proportion_ci(method="wilson")
        assert (low[k], high[k]) == (expected.low, expected.high)


def test_arrays_are_broadcast_and_no_trials_tell_nothing() -> None:
    low, high = wilson(np.zeros((2, 1), int), [0, 1, 9])
    assert low.shape == high.shape == (2, 3)
    assert [float(bound) for bound in wilson(3, 10)] == [bounds[0] for bounds in wilson([3], [10])]
    assert [float(bound) for bound in wilson(0, 0)] == [0, 1]
    assert high[0] == pytest.approx([1, 1.96**2 / (1 + 1.96**2), 1.96**2 / (9 + 1.96**2)], abs=1e-4)


@pytest.mark.parametrize(("successes", "trials"), [([3, 5], [4, 4]), (-1, 4), (1, 0)])
def test_successes_lie_within_the_trials(successes, trials) -> None:
    with pytest.raises(ValueError, match=r"^successes must lie in 0\.\.trials: pass counts, the smaller first$"):
        wilson(successes, trials)
