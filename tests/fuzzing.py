"""How many examples hypothesis tries: EXAMPLES times as many as a test asks for (`make fuzz`)."""

from __future__ import annotations

import os

_FACTOR = int(os.environ.get("EXAMPLES", "1"))


def examples(n: int) -> int:
    """`n`, or `n` times the environment's EXAMPLES."""
    return n * _FACTOR
