"""A small model of the mixture `first`, trained a few steps, which the tests of the studies read."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from cadmus.corpora.build import build
from cadmus.models.model import Model, ModelConfig
from cadmus.programs.mixture import Mixture, load
from cadmus.training import checkpoint
from cadmus.training.loop import TrainConfig, train

FIRST = load("first")
CFG = ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=64, n_ctx=FIRST.width + 1)
FEW_STEPS = TrainConfig(
    steps=40,
    **{"batch_size": 64, "lr": 1e-2, "warmup_steps": 5, "precision": "fp32", "log_every": 10},
    **{"evaluate_every": 20, "evaluate_programs": 10},
)


@cache
def _trained(mixture: Mixture) -> tuple[Model, dict[str, Any]]:
    model = Model(CFG)
    return model, train(model, build(mixture, 2000), FEW_STEPS)


def save_run(folder: Path, mixture: Mixture = FIRST) -> str:
    """The model as `cadmus-probe train` would leave it in `folder`; returns the path, as studies take it."""
    model, record = _trained(mixture)
    checkpoint.save(folder, model, mixture, record)
    return str(folder)
