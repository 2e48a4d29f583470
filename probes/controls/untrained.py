"""The untrained model: the same architecture, with the weights that training began with."""

from __future__ import annotations

from cadmus.models.model import Model


def untrained_twin(model: Model, seed: int) -> Model:
    """The model as it was before training with this seed: same architecture and device, in evaluation mode."""
    return Model(model.cfg, seed=seed).to(model.device).eval()
