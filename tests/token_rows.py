"""Small models, programs and positions for the tests of activations, token by token, and of their cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from cadmus.corpora.build import build
from cadmus.machine import tokens
from cadmus.models import lens
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs import mixture
from probes.data.activations import Batch
from tests.models import far_from_trivial

SMALL = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 48, "n_ctx": 64, "initializer_range": 0.3}
CONFIGS = {"learned": ModelConfig(**SMALL), "rotary": ModelConfig(**SMALL, positional_embedding_type="rotary")}
BRIDGE = not metadata.version("transformer-lens").startswith("3.")
convert = lens.to_transformer_bridge if BRIDGE else lens.to_hooked_transformer
SITES = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "blocks.0.mlp.hook_post"]


@cache
def model(config: str = "learned") -> Model:
    return far_from_trivial(CONFIGS[config])


@cache
def converted(config: str = "learned") -> Any:
    """The same model as the installed TransformerLens has it."""
    return convert(model(config))


@cache
def programs(n: int = 60) -> np.ndarray:
    """Programs of many lengths in random order; one fills the width, so that it has no `.`: uint8 [n + 1, width]."""
    default = build(mixture.load("default"), 2000).programs(np.random.default_rng(0).permutation(2000))
    short = default[tokens.lengths(default) < 40][:n, :40]
    return np.vstack([short, tokens.encode(["3A" * 20])])


@cache
def random_positions(share: float = 0.2) -> np.ndarray:
    """bool [n, 1 + width], the marker and padding among them; of some programs none."""
    rng = np.random.default_rng(1)
    where = rng.random((len(programs()), programs().shape[1] + 1)) < share
    where[rng.random(len(where)) < 0.3] = False
    return where


def gathered(batches: Iterator[Batch]) -> Batch:
    """All batches as one."""
    every = list(batches)
    return Batch(
        np.concatenate([batch.programs for batch in every]),
        np.concatenate([batch.positions for batch in every]),
        {site: np.concatenate([batch.activations[site] for batch in every]) for site in every[0].activations},
    )


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max() <= 1e-5 * max(1.0, np.abs(b).max()))
