"""What a training step computes between its matrix products: fused, and on a CPU compiled, forward and backward.

For small models PyTorch's operators spend more time on calls, casts and copies than on arithmetic. Here each number is
read once and written once, float32 and bfloat16 alike, biases are added on the way, and everything is computed in
float32. A call runs on one thread: a step gives each core parts of the batch (`cadmus.training.gradient`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cadmus.models import fused_loops
from cadmus.models.rotary import Rotary


def compiled(tensor: Tensor) -> bool:
    """Whether the operations of this module run compiled: on a CPU. Elsewhere PyTorch's own operators do the same."""
    return tensor.device.type == "cpu"


def attention(qkv: Tensor, bias: Tensor, heads: int, starts: np.ndarray, rotary: Rotary | None = None) -> Tensor:
    """Causal self-attention within programs that lie one after another, on a CPU -> z [tokens, heads * d_head].

    qkv [tokens, 3 * heads * d_head]: queries, keys and values, in each head after head; bias [3 * heads * d_head] is
    added, then `rotary`, if any, turns queries and keys. starts int64 [programs + 1]: where each program begins, and
    the end. Raises TypeError unless qkv is float32 or bfloat16 and bias float32, ValueError for programs of more tokens
    than `rotary` has positions.
    """
    return _Attention.apply(qkv, bias, heads, starts, *_turns(rotary, int(np.diff(starts).max())))


def _turns(rotary: Rotary | None, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [pos, pair] of programs of so many tokens; without a pair where nothing turns."""
    if rotary is None:
        return torch.empty(length, 0), torch.empty(length, 0)
    if length > len(rotary.cos):
        raise ValueError(f"a program has {length} tokens; the model has {len(rotary.cos)} positions (n_ctx)")
    return rotary.cos, rotary.sin


def gelu(x: Tensor, bias: Tensor) -> Tensor:
    """GELU of x + bias, [tokens, d_mlp], exact (by the error function, not by tanh); TypeError as `attention`."""
    return _Gelu.apply(x, bias) if compiled(x) else F.gelu(x + bias.to(x.dtype))


def add_norm(x: Tensor, update: Tensor, bias: Tensor, w: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(x + update + bias, the LayerNorm of that with weight w and bias b), [tokens, d_model] each.

    x is float32, and so is the sum; the normalized activations have the dtype of autocast, where that is on. Raises
    TypeError unless update is float32 or bfloat16 and the others are float32.
    """
    if not compiled(x):
        x = x + update + bias
        return x, F.layer_norm(x, w.shape, w, b, eps)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    return _AddNorm.apply(x, update, bias, w, b, eps, dtype)


class _Attention(torch.autograd.Function):
    """`attention`, with its gradient."""

    @staticmethod
    def forward(
        ctx, qkv: Tensor, bias: Tensor, heads: int, starts: np.ndarray, cosines: Tensor, sines: Tensor
    ) -> Tensor:
        _check_types(qkv, bias, cosines, sines)
        qkv = qkv.contiguous()
        z = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        pattern = torch.empty(len(qkv), heads, int(np.diff(starts).max()))  # query, head, key
        fused_loops.attend(starts, heads, *map(_array, (qkv, bias, cosines, sines, z, pattern)))
        ctx.save_for_backward(qkv, bias, cosines, sines, pattern)
        ctx.heads = heads
        ctx.starts = starts
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, bias, cosines, sines, pattern = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        grad_bias = torch.zeros_like(bias)
        arrays = map(_array, (qkv, bias, cosines, sines, pattern, grad.contiguous(), grad_qkv, grad_bias))
        fused_loops.attend_backward(ctx.starts, ctx.heads, *arrays)
        return grad_qkv, grad_bias, None, None, None, None


class _Gelu(torch.autograd.Function):
    """`gelu`, with its gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor) -> Tensor:
        _check_types(x, bias)
        x = x.contiguous()
        out = torch.empty_like(x)
        fused_loops.gelu(_array(x), _array(bias), _array(out))
        ctx.save_for_backward(x, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, bias = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        grad_bias = torch.zeros_like(bias)
        fused_loops.gelu_backward(*map(_array, (x, bias, grad.contiguous(), grad_x, grad_bias)))
        return grad_x, grad_bias


class _AddNorm(torch.autograd.Function):
    """`add_norm`, with its gradient."""

    @staticmethod
    def forward(
        ctx, x: Tensor, update: Tensor, bias: Tensor, w: Tensor, b: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        _check_types(update, x, bias, w, b)
        total = torch.empty_like(x)
        normalized = torch.empty_like(x, dtype=dtype)
        mean, inverse = x.new_empty(2, len(x))  # of each token: its mean, 1 / its deviation
        arrays = map(_array, (x.contiguous(), update.contiguous(), bias, w, b, total, normalized, mean, inverse))
        fused_loops.add_norm(np.float32(eps), *arrays)
        ctx.save_for_backward(total, w, mean, inverse)
        ctx.update_dtype = update.dtype
        return total, normalized

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor, grad_normalized: Tensor) -> tuple[Tensor | None, ...]:
        total, w, mean, inverse = ctx.saved_tensors
        grad = torch.empty_like(total)
        grad_update = torch.empty_like(total, dtype=ctx.update_dtype)
        sums = torch.zeros(3, len(w))  # the gradients of bias, w and b
        inputs = (total, w, mean, inverse, grad_total.contiguous(), grad_normalized.contiguous())
        fused_loops.add_norm_backward(*map(_array, (*inputs, grad, grad_update, sums)))
        grad_bias, grad_w, grad_b = sums
        return grad, grad_update, grad_bias, grad_w, grad_b, None, None


def _check_types(activations: Tensor, *exact: Tensor) -> None:
    """TypeError for dtypes that the compiled loops would misread: `exact` are to be float32."""
    allowed = (torch.float32, torch.bfloat16)
    if activations.dtype not in allowed or any(tensor.dtype != torch.float32 for tensor in exact):
        dtypes = ", ".join(str(tensor.dtype) for tensor in exact)
        raise TypeError(
            f"activations are {activations.dtype}, parameters and stream {dtypes}; "
            "expected float32 or bfloat16, and float32: train a float32 model, under autocast where it is to be fast"
        )


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory; bfloat16 as uint16, which the loops understand."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
