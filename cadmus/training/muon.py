"""Muon: momentum whose step is orthogonalized, for the matrices inside the blocks.

Background: https://kellerjordan.github.io/posts/muon/. Muon (MomentUm Orthogonalized by Newton-Schulz) is SGD with
Nesterov's momentum, whose update of a 2-D parameter is replaced by the nearest semi-orthogonal matrix (all singular
values near 1): directions that the gradient hardly shows are stepped along as far as those that dominate it. The
quintic Newton-Schulz iteration gets there by matrix products alone, which are stable in bfloat16.

Papers: K. Jordan et al. (2024), the page above, for the method, its coefficients and the count of iterations. J. Liu et
al. (2025), "Muon is Scalable for LLM Training", arXiv 2502.16982, for decoupled weight decay and for the factor
0.2 sqrt(max(rows, columns)), by which entries of a step are about as large as AdamW's, so that one learning rate
serves both optimizers.

What differs here:
- A parameter [head, d_model, d_head] is a stack of matrices, each orthogonalized by itself (`torch.optim.Muon` takes
  2-D parameters only). A head is a map of its own: flattened into one matrix, the updates of all heads would be made
  orthogonal to one another; by itself each gets a whole step.
- Matrices of one shape are orthogonalized together in one batched product, whichever parameters they belong to: at our
  sizes a call costs more than its arithmetic.
- Embeddings, unembedding, biases and LayerNorm are AdamW's (`optimizers`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration, chosen for a steep slope at 0 (Jordan)
_ITERATIONS = 5
_RMS = 0.2  # the root mean square of a step's entries, over the rate (Liu et al.)


class Muon(torch.optim.Optimizer):
    """Muon for parameters [.., rows, columns], each matrix of the last two dimensions by itself.

    Args:
        params: the parameters.
        lr: the learning rate, on the scale of AdamW's.
        momentum: of Nesterov's momentum.
        weight_decay: decoupled.
        dtype: of the products that orthogonalize; take the one that is fast on the device, as the result needs no more
            than bfloat16 holds.
    """

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
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # without the closures that torch allows
        """Step every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)  # parameters and updates
            for parameter, update in zip(parameters, self._momentum_updates(parameters, group["momentum"])):
                by_shape[parameter.shape[-2:]].append((parameter, update.reshape(-1, *update.shape[-2:])))
            for (rows, columns), members in by_shape.items():
                updates = orthogonalize(torch.cat([update for _, update in members]), self.dtype)
                parts = updates.split([len(update) for _, update in members])
                steps = [part.view(parameter.shape) for (parameter, _), part in zip(members, parts)]
                scale = _RMS * max(rows, columns) ** 0.5
                stepped = [parameter for parameter, _ in members]
                if isinstance(group["lr"], Tensor):  # a number on the device, as a recorded step has it
                    torch._foreach_sub_(stepped, torch._foreach_mul(steps, group["lr"] * scale))
                else:
                    torch._foreach_add_(stepped, steps, alpha=-group["lr"] * scale)

    def _momentum_updates(self, parameters: list[Tensor], momentum: float) -> list[Tensor]:
        """Nesterov's updates from the gradients, in the parameters' shapes."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]  # all have one
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        return list(torch._foreach_add(gradients, buffers, alpha=momentum))


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """`matrices` [.., m, n] made about semi-orthogonal: singular values that are not tiny end near 1 (0.6 ... 1.25).

    The products are computed in `dtype`; shape and dtype of the result are those of `matrices`.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.reshape(-1, *matrices.shape[-2:])  # [matrix, m, n]
    tall = x.shape[-2] > x.shape[-1]
    x = (x.mT if tall else x).to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):  # x = a x + b (x x^T) x + c (x x^T)^2 x
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype).reshape(matrices.shape)
