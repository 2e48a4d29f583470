"""Models and sequences that interventions are tried on."""

from __future__ import annotations

import numpy as np
import torch

from cadmus.machine import tokens
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from tests.models import far_from_trivial

ROWS = 4
WIDTH = 9


def config(positions: str = "standard") -> ModelConfig:
    return ModelConfig(
        n_layers=3, d_model=24, n_heads=3, d_head=8, d_mlp=32, n_ctx=24, positional_embedding_type=positions
    )


def lively(positions: str) -> Model:
    """A model whose next token depends on what it has read."""
    model = far_from_trivial(config(positions))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter *= 10 if ".W_" in name else 0.3
    return model


MODELS = {positions: lively(positions) for positions in ("standard", "rotary")}
MODEL = MODELS["standard"]


def sequences(rows: int = ROWS, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    out = torch.randint(0, 65, (rows, WIDTH), generator=generator)
    out[:, 0] = tokens.PAD
    return out


AT = np.array([8, 5, 7, 8])
PROMPTS = ["3A4Bab+7", "12+3*", "5A6Bab<", "9876xxnn"]
