"""Checks that configs of several rooms make when they are constructed."""

from __future__ import annotations

import re

from cadmus.machine.tokens import text_list

MAX_SEED = 2**63 - 1  # the largest that every generator takes


def check_at_least(config: object, minimum: float, *names: str) -> None:
    """ValueError, `NAME = VALUE must be MINIMUM or more`, unless each named field of the config is; NaN is not."""
    for name in names:
        value = getattr(config, name)
        if not value >= minimum:
            raise ValueError(f"{name} = {value} must be {minimum} or more")


def check_name(name: str, owner: str, place: str) -> None:
    """ValueError where a name is not fit to be that of a folder; `place` says which: "its runs lie in runs/NAME"."""
    if not re.fullmatch(r"[^\W_][\w.-]*", name):
        raise ValueError(
            f"{owner} {name!r} must begin with a letter or digit and have letters, digits, -, _ and . alone: {place}"
        )


def check_text_lists(config: object, *names: str) -> None:
    """ValueError where a named field of the config is one text in place of several."""
    for name in names:
        text_list(getattr(config, name), name)


def check_seed(config: object) -> None:
    """ValueError unless the config's `seed` lies in 0..`MAX_SEED`."""
    check_seed_value(config.seed)  # type: ignore[attr-defined]


def check_seed_value(seed: int) -> None:
    """ValueError unless a seed lies in 0..`MAX_SEED`."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed = {seed} must lie in 0..{MAX_SEED}")
