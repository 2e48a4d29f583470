"""Models that torch.compile made of others."""

from __future__ import annotations

from typing import Any


def original_model(model: Any) -> Any:
    """The model that a compiled one was made of, and whose weights it has; any other as it is."""
    return getattr(model, "_orig_mod", model)
