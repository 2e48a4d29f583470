"""What the tests of activations and of their cache share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.token_rows import converted, model


@pytest.fixture(params=["cadmus", "converted"])
def either(request: pytest.FixtureRequest) -> Any:
    """The model of `tests.token_rows`, and the same as TransformerLens has it."""
    return model() if request.param == "cadmus" else converted()
