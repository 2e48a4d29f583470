"""Progress of long work: the callback that every stage reports to."""

from __future__ import annotations

from collections.abc import Callable

Stage = Callable[[str, float, str], None]  # told of the stage, the share of it done, and a note
