"""A small mixture, model and run that several test files share."""

from __future__ import annotations

from functools import cache

from torch import Tensor

from cadmus.corpora.build import build
from cadmus.corpora.corpus import Corpus
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs.families import Equality, Register
from cadmus.programs.mixture import Component, Mixture
from cadmus.training.config import TrainConfig
from cadmus.training.loop import train

MIXED = Mixture("mixed", (Component(Equality()), Component(Register(assertions=2))))
CFG = ModelConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, d_mlp=64, n_ctx=MIXED.width + 1)
QUICK = TrainConfig(steps=40, batch_size=64, lr=1e-2, warmup_steps=5, log_every=10, precision="fp32")


@cache
def programs(size: int = 1500) -> Corpus:
    return build(MIXED, size)


def trained(config: TrainConfig, corpus: Corpus | None = None, seed: int = 0) -> tuple[Model, dict]:
    """A model trained on the corpus (default: `programs()`), and the record."""
    model = Model(CFG, seed=seed)
    return model, train(model, corpus or programs(), config)


def parameters(model: Model) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
