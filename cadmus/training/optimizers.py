"""What steps which weights: Muon and AdamW, the schedule of their rate, and the average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch

from cadmus.models.model import Model
from cadmus.training.config import TrainConfig
from cadmus.training.muon import Muon


def make_optimizers(model: Model, config: TrainConfig, muon_dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """The optimizers of all weights that learn: Muon for the matrices of the blocks and AdamW for the rest, or AdamW.

    Only the matrices of the blocks decay. muon_dtype: of the products by which Muon orthogonalizes.
    """
    matrices = []
    others = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("blocks.") and ".W_" in name:
            matrices.append(parameter)
        else:
            others.append(parameter)
    if config.optimizer == "adamw":
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return [_adamw(groups, config, model.device)]
    return [
        Muon(matrices, config.lr, weight_decay=config.weight_decay, dtype=muon_dtype),
        _adamw([{"params": others, "weight_decay": 0.0}], config, model.device),
    ]


def _adamw(groups: list[dict[str, Any]], config: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW, which on a GPU can be recorded in a graph."""
    capturable = device.type == "cuda"
    return torch.optim.AdamW(groups, config.lr, betas=config.betas, foreach=True, capturable=capturable)


def learning_rate_fraction(step: int, config: TrainConfig) -> float:
    """The learning rate of a step (1, 2, ...) as a fraction of its peak: warm-up, level, then a cosine to 0."""
    decay_steps = config.decay_share * config.steps
    level_steps = config.steps - decay_steps
    # 1) linear warm-up from 0, a factor of what follows
    warmup = min(1.0, step / max(1, config.warmup_steps))
    # 2) level, at the peak
    if step - 1 <= level_steps:
        return warmup
    # 3) a cosine to 0
    fraction = (step - 1 - level_steps) / decay_steps
    return warmup * 0.5 * (1 + math.cos(math.pi * fraction))


@torch.no_grad()
def update_average(average: Model, model: Model, step: int, steps: int) -> None:
    """Blend the weights after a step (1, 2, ...) into an exponential average over about the last `steps` steps.

    It is over all steps before there are so many: the first weights would else count most of a run that is not much
    longer. Of PyTorch's AveragedModel this differs in that it does not wait for a GPU.
    """
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 / min(step, steps))
