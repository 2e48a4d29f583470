"""The untrained model: the same architecture, with the weights that training began with."""

from __future__ import annotations

from typing import Any

from cadmus.models import backends
from cadmus.models.model import Model


def untrained_twin(model: Any, seed: int) -> Model:
    """The model as it was before training with this seed: same architecture and device, in evaluation mode.

    model: of any backend (`cadmus.models.backends`); its twin is one of ours.
    """
    return Model(backends.config(model), seed=seed).to(backends.device(model)).eval()
