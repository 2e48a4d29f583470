"""Models that the tests of the studies read: cadmus-micro, which ships with snapshots, and models that nothing
trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs.mixture import Mixture, load
from cadmus.training import checkpoint

MICRO = "cadmus-micro"
FIRST = load("first")  # the mixture of cadmus-micro
CFG = ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=64, n_ctx=FIRST.width + 1)
SITES = ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post")  # of CFG's residual stream


def save_untrained(
    folder: Path, mixture: Mixture = FIRST, cfg: ModelConfig = CFG, seed: int = 0, steps: Sequence[int] = ()
) -> str:
    """Save random weights as `cadmus-probe train` would leave a model, and return the path, as studies take it.

    The record is that of cadmus-micro; a snapshot stands after each of `steps`, of weights as random.
    """
    record = checkpoint.load(MICRO).record
    config = {**record["config"], "seed": seed}
    for step in steps:
        checkpoint.save_snapshot(folder, step, Model(cfg, seed=1000 * seed + step))
    checkpoint.save(folder, Model(cfg, seed=seed), mixture, {**record, "config": config, "snapshots": list(steps)})
    return str(folder)
