"""Programs that lie one after another, without padding, as training reads them, and attention within each of them.

All that a transformer does except attention is done token by token, so a batch may be one row of all its tokens.
On a CPU, attention is a compiled loop over programs and heads (`fused`); on a GPU in half precision it is PyTorch's
flash attention over sequences of all lengths, elsewhere PyTorch's own over a padded copy of queries, keys and values.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from cadmus.machine import tokens
from cadmus.machine.jit import jit
from cadmus.machine.tokens import PAD
from cadmus.models import fused
from cadmus.models.rotary import Rotary

varlen_attn: Any = None
"""PyTorch's attention over sequences of all lengths, as `import_flash` finds it."""
_CAUSAL: dict[str, Any] = {}
"""What makes it causal."""

IGNORED = -100  # a target that counts for nothing, as `torch.nn.functional.cross_entropy` has it


@dataclass(frozen=True)
class Packed:
    """Programs one after another; a program of length n (its `.` counted) has n inputs, the marker first."""

    inputs: Tensor
    """What is read: int64 [tokens]."""

    targets: Tensor
    """What comes next: int64 [tokens]."""

    positions: Tensor
    """Where each input stands in its program, the marker at 0: int64 [tokens]."""

    starts: np.ndarray
    """Where each program begins, and the end of the last: int64 [programs + 1]."""

    offsets: Tensor
    """The same on the device: int32 [programs + 1]."""

    longest: int
    """No program has more inputs: the width that they were padded to, or more."""

    @property
    def lengths(self) -> np.ndarray:
        """Inputs of each program: int64 [programs]."""
        return np.diff(self.starts)

    def attend(self, qkv: Tensor, bias: Tensor, heads: int, rotary: Rotary | None = None) -> Tensor:
        """Causal self-attention within each program -> z [tokens, heads * d_head].

        qkv [tokens, 3 * heads * d_head]: queries, keys and values, in each head after head; bias [3 * heads * d_head]
        is added, then `rotary`, if any, turns queries and keys.
        """
        if fused.compiled(qkv):
            return fused.attention(qkv, bias, heads, self.starts, rotary)
        if rotary is None:
            qkv = qkv + bias.to(qkv.dtype)
        else:  # rounded once, when all is done: the bias is of a higher precision
            q, k, v = rearrange(qkv + bias, "tokens (part head d) -> part tokens head d", part=3, head=heads)
            turned = torch.stack((rotary(q, self.positions), rotary(k, self.positions), v), 1)
            qkv = turned.flatten(1).to(qkv.dtype)
        if qkv.device.type == "cuda" and has_flash(qkv.dtype):
            q, k, v = rearrange(qkv, "tokens (part head d) -> part tokens head d", part=3, head=heads)
            return _flash_attention(q, k, v, self.offsets, self.longest).flatten(1)
        rows = len(self.lengths)
        width = int(self.lengths.max())
        padded = qkv.new_zeros(rows * width, qkv.shape[1]).index_copy(0, self._padded_places, qkv)
        q, k, v = rearrange(padded, "(row pos) (part head d) -> part row head pos d", row=rows, part=3, head=heads)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # padding comes last, so no token sees it
        return rearrange(z, "row head pos d -> (row pos) (head d)")[self._padded_places]

    @cached_property
    def _padded_places(self) -> Tensor:
        """Where each token lies in a padded copy [row * pos]: int64 [tokens]."""
        program = torch.from_numpy(np.repeat(np.arange(len(self.lengths)), self.lengths)).to(self.positions.device)
        return program * int(self.lengths.max()) + self.positions


def import_flash() -> None:
    """Find `varlen_attn`, which comes with PyTorch 2.10. The import takes a second: for programs on a GPU alone, and
    before a block is compiled."""
    global varlen_attn
    if varlen_attn is None and importlib.util.find_spec("torch.nn.attention.varlen") is not None:
        attend = importlib.import_module("torch.nn.attention.varlen").varlen_attn
        has_window = "window_size" in inspect.signature(attend).parameters  # not in PyTorch 2.10
        _CAUSAL.update({"window_size": (-1, 0)} if has_window else {"is_causal": True})
        varlen_attn = attend


def has_flash(dtype: torch.dtype) -> bool:
    """Whether a GPU attends by PyTorch's flash attention in this dtype, whose shapes do not depend on the lengths."""
    return varlen_attn is not None and dtype in (torch.bfloat16, torch.float16)


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """Causal self-attention of [tokens, head, d_head] each -> [tokens, head, d_head]; offsets int32 [programs + 1]."""
    z = varlen_attn(q, k, v, offsets, offsets, longest, longest, **_CAUSAL)
    assert isinstance(z, Tensor), "it returns more only where it is asked to"
    return z


def pack(programs: np.ndarray, device: torch.device | str = "cpu", multiple: int = 1) -> Packed:
    """Lay programs uint8 [n, width], padded with `.`, one after another: one row of all tokens that count.

    The row is filled up to a multiple of `multiple` with programs of the marker alone, whose targets are IGNORED: what
    allocates memory finds the same few sizes again (with every size another, a training run took three times as much).
    """
    if torch.device(device).type == "cuda":
        import_flash()
    lengths = tokens.lengths(programs) + 1
    check_ends(programs, lengths)
    n_tokens = int(lengths.sum())
    n_fill = -n_tokens % multiple
    starts = np.append(0, np.cumsum(np.append(lengths, np.ones(n_fill, np.int64))))
    inputs = np.full(n_tokens + n_fill, PAD, np.int64)
    targets = np.full(n_tokens + n_fill, IGNORED, np.int64)
    positions = np.zeros(n_tokens + n_fill, np.int64)
    lay_out(programs, lengths, inputs, targets, positions)
    return Packed(
        inputs=torch.from_numpy(inputs).to(device),
        targets=torch.from_numpy(targets).to(device),
        positions=torch.from_numpy(positions).to(device),
        starts=starts,
        offsets=torch.from_numpy(starts.astype(np.int32)).to(device),
        longest=programs.shape[1],
    )


def check_ends(programs: np.ndarray, lengths: np.ndarray) -> None:
    """ValueError where a program has no `.`: `lay_out` would read beyond the array. lengths: its own `.` counted."""
    if lengths.max(initial=0) > programs.shape[1]:
        row = int(lengths.argmax())
        raise ValueError(f"program {row} has no `.` in its {programs.shape[1]} columns; end it with one")


@jit
def lay_out(programs, lengths, inputs, targets, positions):
    """Write the inputs, targets and positions of programs uint8 [n, width], each as long as `lengths` says, its `.`
    counted, into integer arrays that have room for all, one program after another."""
    at = 0
    for i in range(len(programs)):
        for k in range(lengths[i]):
            inputs[at] = programs[i, k - 1] if k else PAD
            targets[at] = programs[i, k]
            positions[at] = k
            at += 1
