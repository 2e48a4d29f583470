"""Programs that lie one after another, without padding, as training reads them, and attention within each of them.

All that a transformer does but attention is done token by token, so a batch may as well be one row of all its tokens.
On a CPU, attention is a compiled loop over programs and heads (`fused`); on other devices it is PyTorch's own over a
padded copy of queries, keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from cadmus.machine import tokens
from cadmus.models import fused


@dataclass(frozen=True)
class Packed:
    """Programs one after another. inputs, targets, positions: int64 [tokens], where position 0 holds the marker and a
    program of length n (its `.` counted) has n inputs; starts int64 [programs + 1]: where each begins, and the end."""

    inputs: Tensor
    targets: Tensor
    positions: Tensor
    starts: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Inputs of each program: int64 [programs]."""
        return np.diff(self.starts)

    def attend(self, qkv: Tensor, bias: Tensor, heads: int) -> Tensor:
        """Causal self-attention within each program -> z [tokens, heads * d_head].

        qkv [tokens, 3 * heads * d_head]: queries, keys and values, in each head after head; bias, of as many, is added.
        """
        if fused.compiled(qkv):
            return fused.attention(qkv, bias, heads, self.starts)
        rows, longest = len(self.lengths), int(self.lengths.max())
        padded = qkv.new_zeros(rows * longest, qkv.shape[1]).index_copy(0, self._places, qkv + bias.to(qkv.dtype))
        q, k, v = rearrange(padded, "(row pos) (part head d) -> part row head pos d", row=rows, part=3, head=heads)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # what is padding comes last, so no token sees it
        return rearrange(z, "row head pos d -> (row pos) (head d)")[self._places]

    @cached_property
    def _places(self) -> Tensor:
        """Where each token lies in a padded copy: int64 [tokens]."""
        program = torch.from_numpy(np.repeat(np.arange(len(self.lengths)), self.lengths)).to(self.positions.device)
        return program * int(self.lengths.max()) + self.positions


IGNORED = -100  # a target that counts for nothing, as `torch.nn.functional.cross_entropy` has it


def pack(programs: np.ndarray, device: torch.device | str = "cpu", multiple: int = 1) -> Packed:
    """Programs uint8 [n, width], padded with `.`, as one row of all tokens that count.

    The row is filled up to a multiple of `multiple` with programs of the marker alone, whose targets are IGNORED: what
    allocates memory finds the same few sizes again (with every size another, a training run took three times as much).
    """
    sequences = tokens.sequences(programs)
    lengths = tokens.lengths(programs) + 1
    at = np.arange(sequences.shape[1] - 1)
    counts = at < lengths[:, None]
    fill = -int(lengths.sum()) % multiple
    found = sequences[:, :-1][counts], sequences[:, 1:][counts], np.broadcast_to(at, counts.shape)[counts]
    inputs, targets, positions = (
        torch.from_numpy(np.append(one.astype(np.int64), np.full(fill, filling))).to(device)
        for one, filling in zip(found, (tokens.PAD, IGNORED, 0), strict=True)
    )
    return Packed(inputs, targets, positions, np.append(0, np.cumsum(np.append(lengths, np.ones(fill, np.int64)))))
