"""What the responses of the inner state are made of, on planted tables."""

from __future__ import annotations

import pandas as pd
import pytest

from analyses.sweeps.state_responses import read_responses
from tests.analyses.sweeps.tiny import tiny


def readability(validation: tuple[float, float], accuracy: tuple[float, float]) -> pd.DataFrame:
    """Two layers with both strata, of 30 and 10 programs; what stands at another role is read perfectly."""
    rows = [
        {"layer": layer, "role": role, "stratum": stratum, "programs": n, "validation": v, "accuracy": share}
        for layer in (0, 1)
        for role, v, share in (("loaded", validation[layer], accuracy[layer]), ("arose", 1.0, 1.0))
        for stratum, n in (("literal", 30), ("computed", 10))
    ]
    return pd.DataFrame(rows)


def test_the_layer_of_a_read_response_is_not_chosen_on_what_is_reported() -> None:
    sweep = tiny(responses=["accuracy.in_distribution", "read.reg"], hypothesis=None)
    for validation, expected in (((0.6, 0.5), 0.4), ((0.5, 0.6), 0.8)):
        (response,) = read_responses(sweep, {"reg": readability(validation, (0.4, 0.8))})
        assert response.value == pytest.approx(expected)
        assert response.n == 40
        assert response.low < expected < response.high


def test_too_few_programs_are_said() -> None:
    sweep = tiny(responses=["accuracy.in_distribution", "read.reg"], hypothesis=None)
    (response,) = read_responses(sweep, {"reg": readability((0.5, 0.6), (0.4, 0.8)).assign(programs=0)})
    assert response.why == "too few programs for a probe"
