"""What a model keeps of the positions it has read, so that each new token of a completion is read once."""

from __future__ import annotations

from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor


class Context(Protocol):
    """What attention looks at beside the tokens of a pass: what was read before."""

    visible: Tensor
    """bool [row, 1, query, key]: which keys a query sees."""

    def queries(self, q: Tensor) -> Tensor:
        """Queries of the pass [batch, head, pos, d_head] -> those that attend, [row, head, query, d_head]."""

    def append(self, layer: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the pass [batch, head, pos, d_head] -> all to attend to, [row, head, key, d_head]."""

    def outputs(self, z: Tensor) -> Tensor:
        """What attention gives, z [row, query, head, d_head], -> of the pass, [batch, pos, head, d_head]."""


class KeyValueCache:
    """Keys and values of the positions that a model has read, so that it need not read them again.

    Row i holds `lengths[i]` positions (int64, on the model's device), at most `width`; a forward pass puts what it
    reads behind them. Lengths may be set back: what stands behind is not looked at, and written over. A pass is for all
    rows, or for `rows` (indices) while that is set. For use without gradients, since they would not reach what was
    read before.
    """

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self.width = width
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.rows: Tensor | None = None
        self.originals = torch.arange(rows, device=device)  # which of the rows that it began with it still holds
        self.longest = 0  # positions of the longest row of the last pass
        self.positions = torch.zeros(rows, 0, dtype=torch.long, device=device)  # of what that pass reads: [row, n]
        self.visible = torch.zeros(rows, 1, 0, 0, dtype=torch.bool, device=device)  # [row, 1, query, key]
        self._pass_rows = torch.arange(rows, device=device)
        self._layers: dict[str, Tensor] = {}  # by layer [2 (key and value), row, head, position, d_head]

    def advance(self, n: int) -> Tensor:
        """Make ready for `n` more positions in every row; returns which they are: int64 [row, n].

        Raises ValueError where there is no room for them, or gradients are recorded.
        """
        if torch.is_grad_enabled():
            raise ValueError("a key-value cache holds no gradients; run the model within torch.no_grad()")
        device = self.lengths.device
        self._pass_rows = torch.arange(len(self.lengths), device=device) if self.rows is None else self.rows
        before = self.lengths[self._pass_rows]
        self.longest = int(before.max()) + n
        if self.longest > self.width:
            raise ValueError(f"{self.longest} positions, but the cache has room for {self.width}; make it wider")
        self.positions = before[:, None] + torch.arange(n, device=device)
        self.lengths = self.lengths.index_put((self._pass_rows,), before + n)
        keys = torch.arange(self.longest, device=device)
        self.visible = keys <= self.positions[:, None, :, None]
        return self.positions

    def queries(self, q: Tensor) -> Tensor:
        """All of them."""
        return q

    def outputs(self, z: Tensor) -> Tensor:
        """All of them."""
        return z

    def append(self, layer: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v [row, head, n, d_head] of the new positions; returns those of all positions."""
        if layer not in self._layers:
            self._layers[layer] = k.new_zeros(2, len(self.lengths), k.shape[1], self.width, k.shape[-1])
        keys, values = self._layers[layer]  # [row, head, position, d_head] each
        rows = self._pass_rows[:, None]
        keys[rows, :, self.positions] = rearrange(k, "row head n d -> row n head d")
        values[rows, :, self.positions] = rearrange(v, "row head n d -> row n head d")
        keys = keys[:, :, : self.longest]
        values = values[:, :, : self.longest]
        return (keys, values) if self.rows is None else (keys[self.rows], values[self.rows])

    def keep(self, rows: Tensor | slice) -> None:
        """Forget all but these rows (indices, which are copied, or a slice, which is not)."""
        self.lengths = self.lengths[rows]
        self.originals = self.originals[rows]
        self._layers = {name: stored[:, rows] for name, stored in self._layers.items()}
