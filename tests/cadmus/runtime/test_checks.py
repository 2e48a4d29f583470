"""Checks of configs: what they refuse, and the text that they refuse it with."""

from dataclasses import dataclass

import pytest

from cadmus.runtime.checks import check_at_least


@dataclass(frozen=True)
class Config:
    steps: int = 1
    decay: float = 0.5

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps")
        check_at_least(self, 0, "steps", "decay")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"^steps = 0 must be 1 or more$"),
        ({"decay": -0.5}, r"^decay = -0\.5 must be 0 or more$"),
        ({"decay": float("nan")}, r"^decay = nan must be 0 or more$"),
    ],
)
def test_the_first_field_below_the_minimum_is_named_with_its_value(changes: dict, message: str) -> None:
    assert Config(steps=1, decay=0.0)
    with pytest.raises(ValueError, match=message):
        Config(**changes)
