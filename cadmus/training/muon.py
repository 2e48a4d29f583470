"""Muon: momentum whose step is orthogonalized, for the matrices inside the blocks (K. Jordan, 2024).

`torch.optim.Muon` takes 2-D parameters only; here a `[head, d_model, d_head]` parameter is a stack of matrices, each
orthogonalized by itself. Matrices of one shape are orthogonalized together, whichever parameters they are of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

# The quintic Newton-Schulz iteration that drives all singular values towards 1 (coefficients: Jordan 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_RMS = 0.2  # entries of a step are about as large as AdamW's (Liu et al., 2502.16982)


class Muon(torch.optim.Optimizer):
    """lr as AdamW's; momentum is Nesterov's; weight decay is decoupled. dtype: of the products that orthogonalize; take
    the one that is fast on the device, the result needs no more than bfloat16 holds."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)  # by shape: with its update
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                update = parameter.grad.add(momentum, alpha=group["momentum"])
                alike[parameter.shape[-2:]].append((parameter, update.reshape(-1, *update.shape[-2:])))
            for (rows, columns), members in alike.items():
                updates = orthogonalize(torch.cat([update for _, update in members]), self.dtype)
                scale = _RMS * max(rows, columns) ** 0.5
                for (parameter, _), update in zip(members, updates.split([len(update) for _, update in members])):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view(parameter.shape), alpha=-group["lr"] * scale)


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """`matrices` [.., m, n] made about semi-orthogonal: singular values that are not tiny end near 1 (0.6 ... 1.25).
    The products are computed in `dtype`."""
    a, b, c = _COEFFICIENTS
    x = matrices.reshape(-1, *matrices.shape[-2:])
    tall = x.shape[-2] > x.shape[-1]
    x = (x.mT if tall else x).to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype).reshape(matrices.shape)
