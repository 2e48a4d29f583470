"""Models to test on, not trained but far from trivial."""

from __future__ import annotations

import torch

from cadmus.models.config import ModelConfig
from cadmus.models.model import Model


def far_from_trivial(cfg: ModelConfig) -> Model:
    """A model with biases and LayerNorm parameters that are random too, in evaluation mode."""
    model = Model(cfg, seed=0)
    generator = torch.Generator().manual_seed(100)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".W_" not in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()
