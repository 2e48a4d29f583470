"""Muon: momentum whose step is orthogonalized, for the matrices inside the blocks (K. Jordan, 2024).

`torch.optim.Muon` takes 2-D parameters only; here a `[head, d_model, d_head]` parameter is a stack of matrices, each
orthogonalized by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# The quintic Newton-Schulz iteration that drives all singular values towards 1 (coefficients: Jordan 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_RMS = 0.2  # entries of a step are about as large as AdamW's (Liu et al., 2502.16982)


class Muon(torch.optim.Optimizer):
    """lr as AdamW's; momentum is Nesterov's; weight decay is decoupled."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                update = orthogonalize(parameter.grad + group["momentum"] * momentum)
                scale = _RMS * max(parameter.shape[-2:]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


def orthogonalize(matrices: Tensor) -> Tensor:
    """`matrices` [.., m, n] made about semi-orthogonal: singular values that are not tiny end near 1 (0.6 ... 1.25)."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)
