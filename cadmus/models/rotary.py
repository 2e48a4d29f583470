"""Rotary positions: queries and keys are turned by angles that grow with where they stand (arXiv 2104.09864)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cadmus.models.config import ModelConfig


class Rotary(nn.Module):
    """Turns pairs of dimensions (i and i + rotary_dim / 2) of a query or key by angles that grow with its position.

    The tables of cosines and sines are float32 whatever the weights are, or float64 where these are: a cast makes them
    anew, so that a model that was bfloat16 for a while turns by the same angles as before.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        for name, table in self._tables(torch.empty(0)).items():
            self.register_buffer(name, table, persistent=False)

    def _tables(self, like: Tensor) -> dict[str, Tensor]:
        """Cosines and sines [pos, pair] for weights of this dtype, on this device."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        half = (self.cfg.rotary_dim or self.cfg.d_head) // 2
        pairs = torch.arange(half, device="cpu", dtype=dtype)
        angles = torch.arange(self.cfg.n_ctx, device="cpu")[:, None] / self.cfg.rotary_base ** (pairs / half)
        return {"cos": angles.cos().to(like.device), "sin": angles.sin().to(like.device)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        """What every move and cast of the model goes through."""
        super()._apply(fn, recurse)
        for name, table in self._tables(self.cos).items():
            setattr(self, name, table)
        return self

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [.., pos, head, d_head], positions int [.., pos] (of all rows, or of each) -> x, turned."""
        cos = self.cos[positions].unsqueeze(-2)  # [.., pos, 1, pair]
        sin = self.sin[positions].unsqueeze(-2)
        half = cos.shape[-1]
        a = x[..., :half]  # [.., pos, head, pair]
        b = x[..., half : 2 * half]
        rest = x[..., 2 * half :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1).to(x.dtype)
