"""Checks that configs of several rooms make when they are constructed."""

from __future__ import annotations


def check_at_least(config: object, minimum: float, *names: str) -> None:
    """ValueError, `NAME = VALUE must be MINIMUM or more`, unless each named field of the config is; NaN is not."""
    for name in names:
        value = getattr(config, name)
        if not value >= minimum:
            raise ValueError(f"{name} = {value} must be {minimum} or more")
