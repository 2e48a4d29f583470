"""How a model is trained (TrainConfig, a recipe's table [train]), and whether it fits what it is trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cadmus.machine import vm
from cadmus.models.config import ModelConfig
from cadmus.programs.mixture import Mixture
from cadmus.runtime.checks import check_at_least, check_seed
from cadmus.runtime.devices import AUTO, PRECISIONS

OPTIMIZERS = ("muon", "adamw")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. Raises ValueError for values out of bounds."""

    steps: int = 850
    """Optimizer steps."""

    batch_size: int = 512
    """Programs per step, over all processes."""

    optimizer: str = "muon"
    """muon (for the matrices of the blocks; AdamW for the rest) or adamw (for all)."""

    lr: float = 1e-2
    """Peak learning rate, of both optimizers."""

    warmup_steps: int = 50
    """Steps in which the rate rises from 0, linearly."""

    decay_share: float = 1.0
    """Share of the steps, the last ones, in which the rate falls to 0 as a cosine; before them it stays at its peak."""

    weight_decay: float = 0.05
    """Decoupled weight decay of the blocks' matrices; nothing else decays."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moments."""

    clip: float = 1.0
    """Greatest norm of the gradient."""

    precision: str = AUTO
    """Of matrix products: bf16, fp32, or auto: what the device is fast at; a run that goes on keeps what it had."""

    seed: int = 0
    """Fixes the initial weights and the order of the programs."""

    log_every: int = 20
    """Steps between two rows of the record."""

    checkpoint_every: int = 500
    """Steps between two states that a killed run can go on from; a minute is the most in any case."""

    average_steps: int = 0
    """The weights that are evaluated and kept, at the end and as snapshots: an exponential average over about so many
    steps; 0: the last ones."""

    snapshots: int = 0
    """Models kept on the way, at log-spaced steps, for studies of training; 0: none, 1: the first step's."""

    evaluate_every: int = 0
    """Steps between two evaluations by completion, decided by the machine, on the split validation; 0: none."""

    evaluate_programs: int = 100
    """Programs of each family that an evaluation completes."""

    dollars_per_hour: float = 0.0
    """What an hour of one device costs (a GPU, or the CPUs of one process): for the record."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "batch_size", "log_every", "checkpoint_every", "evaluate_programs")
        for name, values in (("precision", (AUTO, *PRECISIONS)), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in values:
                raise ValueError(f"{name} = {getattr(self, name)!r} must be one of {', '.join(values)}")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)} must be above 0 and finite")
        if len(self.betas) != 2 or not all(isinstance(beta, float) and 0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {self.betas} must be two numbers from 0 to below 1")
        if not 0 < self.decay_share <= 1:
            raise ValueError(f"decay_share = {self.decay_share} must be above 0 and at most 1")
        check_at_least(self, 0, "warmup_steps", "average_steps", "snapshots", "evaluate_every")
        check_at_least(self, 0, "dollars_per_hour", "weight_decay")
        check_seed(self)

    @property
    def snapshot_steps(self) -> frozenset[int]:
        """The steps after which a snapshot is kept: log-spaced, from the first to the last."""
        return frozenset(np.geomspace(1, self.steps, self.snapshots).round().astype(int).tolist())


def check_fits(mixture: Mixture, cfg: ModelConfig) -> None:
    """Raise ValueError where the model has too few positions for the mixture's programs, or another vocabulary."""
    if cfg.d_vocab != len(vm.VOCAB):
        raise ValueError(f"d_vocab = {cfg.d_vocab} must be {len(vm.VOCAB)}, the machine's tokens")
    if mixture.width + 1 > cfg.n_ctx:
        raise ValueError(
            f"programs of mixture {mixture.name!r} need {mixture.width + 1} positions, "
            f"the model has n_ctx = {cfg.n_ctx}; take shorter programs, or a model with more positions"
        )
