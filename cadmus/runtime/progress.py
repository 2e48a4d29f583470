"""How long work reports its progress: one callback for all stages."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float, str], None]
"""`progress(stage, fraction, note)`: the stage's name, the fraction of it that is done (0 to 1), and what else to
show."""


def no_progress(stage: str, fraction: float, note: str = "") -> None:
    """Report to nobody: the default wherever progress can be followed."""
