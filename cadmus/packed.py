"""Programs that lie one after another, without padding, as training reads them: attention within each of them.

All that a transformer does but attention is done token by token, so a batch may as well be one row of all its tokens.
On a CPU, attention over programs of 5 to 60 tokens is a loop over programs and heads, compiled here, forward and
backward; on other devices it is PyTorch's fused attention over a padded copy of queries, keys and values.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from cadmus import tokens


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

    def attend(self, qkv: Tensor) -> Tensor:
        """Causal self-attention within each program: qkv [tokens, 3, head, d_head] -> z [tokens, head, d_head]."""
        return _Attention.apply(qkv, self.starts) if qkv.device.type == "cpu" else self._attend_padded(qkv)

    def _attend_padded(self, qkv: Tensor) -> Tensor:
        rows, longest = len(self.starts) - 1, int(self.lengths.max())
        padded = qkv.new_zeros(rows * longest, *qkv.shape[1:]).index_copy(0, self._places, qkv)
        q, k, v = padded.unflatten(0, (rows, longest)).permute(2, 0, 3, 1, 4)  # [program, head, pos, d_head] each
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # what is padding comes last, so no token sees it
        return z.transpose(1, 2).flatten(0, 1)[self._places]

    @cached_property
    def _places(self) -> Tensor:
        """Where each token lies in a padded copy: int64 [tokens]."""
        program = torch.from_numpy(np.repeat(np.arange(len(self.lengths)), self.lengths)).to(self.positions.device)
        return program * int(self.lengths.max()) + self.positions


def pack(programs: np.ndarray, device: torch.device | str = "cpu") -> Packed:
    """Programs uint8 [n, width], padded with `.`, as one row of all tokens that count."""
    sequences = tokens.sequences(programs)
    lengths = tokens.lengths(programs) + 1
    at = np.arange(sequences.shape[1] - 1)
    counts = at < lengths[:, None]
    found = sequences[:, :-1][counts], sequences[:, 1:][counts], np.broadcast_to(at, counts.shape)[counts]
    inputs, targets, positions = (torch.from_numpy(one.astype(np.int64)).to(device) for one in found)
    return Packed(inputs, targets, positions, np.append(0, np.cumsum(lengths)))


# --- attention on a CPU ----------------------------------------------------------------------------------------------


class _Attention(torch.autograd.Function):
    """qkv [tokens, 3, head, d_head] -> z [tokens, head, d_head], computed in float32; the pattern is kept for the
    backward pass."""

    @staticmethod
    def forward(ctx, qkv: Tensor, starts: np.ndarray) -> Tensor:
        exact = qkv.detach().float().contiguous()
        z = torch.empty_like(exact[:, 0])
        pattern = torch.empty(*z.shape[:2], int(np.diff(starts).max()))
        _in_slices(_attend, starts, exact.numpy(), z.numpy(), pattern.numpy())
        ctx.save_for_backward(exact, z, pattern)
        ctx.starts, ctx.dtype = starts, qkv.dtype
        return z.to(qkv.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        qkv, z, pattern = ctx.saved_tensors
        grad, out = grad.float().contiguous(), torch.empty_like(qkv)
        _in_slices(_attend_backward, ctx.starts, *(one.numpy() for one in (qkv, z, pattern, grad, out)))
        return out.to(ctx.dtype), None


def _in_slices(work, starts: np.ndarray, *arrays: np.ndarray) -> None:
    """Let each of torch's threads work on its share of the programs, shares of about equal length squared."""
    threads = torch.get_num_threads()
    if threads == 1:
        work(starts, 0, len(starts) - 1, *arrays)
        return
    done = np.cumsum(np.diff(starts) ** 2)
    ends = np.searchsorted(done, done[-1] * np.arange(1, threads) / threads)
    bounds = [0, *ends.tolist(), len(starts) - 1]
    pool = _pool(threads - 1)
    (first, *rest) = pairwise(bounds)
    others: list[Future] = [pool.submit(work, starts, *one, *arrays) for one in rest]
    work(starts, *first, *arrays)
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "attention")


@njit(cache=True, fastmath=True, nogil=True)
def _attend(starts, first, last, qkv, z, pattern):
    """Of the programs from `first` to before `last`."""
    _, _, heads, d_head = qkv.shape
    scale = np.float32(1.0 / math.sqrt(d_head))
    bits = np.empty(pattern.shape[2], np.int32)
    for program in range(first, last):
        begin, end = starts[program], starts[program + 1]
        for head in range(heads):
            for i in range(begin, end):
                row, n = pattern[i, head], i + 1 - begin
                most = np.float32(-np.inf)
                for j in range(n):
                    score = np.float32(0)
                    for d in range(d_head):
                        score += qkv[i, 0, head, d] * qkv[begin + j, 1, head, d]
                    row[j] = score * scale
                    most = max(most, row[j])
                for j in range(n):
                    row[j] -= most
                _exponential(row, n, bits)
                total = np.float32(0)
                for j in range(n):
                    total += row[j]
                for d in range(d_head):
                    z[i, head, d] = 0
                for j in range(n):
                    row[j] /= total
                for j in range(n):
                    share = row[j]
                    for d in range(d_head):
                        z[i, head, d] += share * qkv[begin + j, 2, head, d]


@njit(cache=True, fastmath=True, nogil=True)
def _attend_backward(starts, first, last, qkv, z, pattern, grad, out):
    """out: the gradient of qkv, given `grad`, that of z."""
    _, _, heads, d_head = qkv.shape
    scale = np.float32(1.0 / math.sqrt(d_head))
    for program in range(first, last):
        begin, end = starts[program], starts[program + 1]
        out[begin:end] = 0
        for head in range(heads):
            for i in range(begin, end):
                mean = np.float32(0)  # of the gradient of the shares, weighted by them
                for d in range(d_head):
                    mean += grad[i, head, d] * z[i, head, d]
                for j in range(begin, i + 1):
                    share, slope = pattern[i, head, j - begin], np.float32(0)
                    for d in range(d_head):
                        slope += grad[i, head, d] * qkv[j, 2, head, d]
                    slope = share * (slope - mean) * scale  # of the score, before it is scaled
                    for d in range(d_head):
                        out[j, 2, head, d] += share * grad[i, head, d]
                        out[i, 0, head, d] += slope * qkv[j, 1, head, d]
                        out[j, 1, head, d] += slope * qkv[i, 0, head, d]


_LOG2_E = np.float32(1 / math.log(2))
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)  # the high part times k is exact


@njit(cache=True, fastmath=True, nogil=True)
def _exponential(row, n, bits):
    """row[:n] = exp(row[:n]) of numbers up to 0, within 2e-7 of the value: 2^k times Taylor's polynomial of the rest,
    in a form that compiles to vector instructions. bits: int32, at least n, to work in."""
    power = bits.view(np.float32)
    for j in range(n):
        x = max(row[j], np.float32(-87))
        k = np.floor(x * _LOG2_E + np.float32(0.5))
        bits[j] = (np.int32(k) + np.int32(127)) << np.int32(23)  # the float 2^k
        r = x - k * _LN2_HIGH - k * _LN2_LOW  # within ln(2) / 2 of 0
        y = np.float32(1 / 5040)
        y = y * r + np.float32(1 / 720)
        y = y * r + np.float32(1 / 120)
        y = y * r + np.float32(1 / 24)
        y = y * r + np.float32(1 / 6)
        y = y * r + np.float32(1 / 2)
        row[j] = (y * r + np.float32(1)) * r + np.float32(1)
    for j in range(n):
        row[j] *= power[j]
