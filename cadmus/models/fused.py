"""What a training step computes between its matrix products; on a CPU compiled, forward and backward.

For small models PyTorch's operators spend more time on calls, casts and copies than on arithmetic. Here each number is
read once and written once, float32 and bfloat16 alike, biases are added on the way, and everything is computed in
float32. A call runs on one thread: a step gives each core a part of the batch of its own (`train`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor
from torch.autograd.function import once_differentiable

# What the compiler may do with arithmetic: all that makes it fast, but not suppose that numbers are finite. What is not
# must come out as such, so that training stops.
_FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}


def compiled(tensor: Tensor) -> bool:
    """Whether what follows runs compiled, on a CPU; elsewhere PyTorch's own operators do the same."""
    return tensor.device.type == "cpu"


def attention(qkv: Tensor, bias: Tensor, heads: int, starts: np.ndarray) -> Tensor:
    """Causal self-attention within programs that lie one after another, on a CPU -> z [tokens, heads * d_head].

    qkv [tokens, 3 * heads * d_head]: queries, keys and values, in each head after head; bias, of as many, is added.
    starts int64 [programs + 1]: where each program begins, and the end."""
    return _Attention.apply(qkv, bias, heads, starts)


def gelu(x: Tensor, bias: Tensor) -> Tensor:
    """GELU of x + bias, [tokens, d_mlp], exact (by the error function, not by tanh)."""
    return _Gelu.apply(x, bias) if compiled(x) else F.gelu(x + bias.to(x.dtype))


def add_norm(x: Tensor, update: Tensor, bias: Tensor, w: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(x + update + bias, the LayerNorm of that with weight w and bias b), [tokens, d_model] each. x is float32, and so
    is the sum; the normalized activations come in the dtype of autocast, where that is on."""
    if not compiled(x):
        x = x + update + bias
        return x, F.layer_norm(x, w.shape, w, b, eps)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    return _AddNorm.apply(x, update, bias, w, b, eps, dtype)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv: Tensor, bias: Tensor, heads: int, starts: np.ndarray) -> Tensor:
        _check_types(qkv, bias)
        qkv = qkv.contiguous()
        z = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        pattern = torch.empty(len(qkv), heads, int(np.diff(starts).max()))
        _attend(starts, heads, *map(_array, (qkv, bias, z, pattern)))
        ctx.save_for_backward(qkv, bias, pattern)
        ctx.heads, ctx.starts = heads, starts
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        qkv, bias, pattern = ctx.saved_tensors
        out, out_bias = torch.empty_like(qkv), torch.zeros_like(bias)
        _attend_backward(ctx.starts, ctx.heads, *map(_array, (qkv, bias, pattern, grad.contiguous(), out, out_bias)))
        return out, out_bias, None, None


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor) -> Tensor:
        _check_types(x, bias)
        x = x.contiguous()
        out = torch.empty_like(x)
        _gelu(*map(_array, (x, bias, out)))
        ctx.save_for_backward(x, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, bias = ctx.saved_tensors
        out, out_bias = torch.empty_like(x), torch.zeros_like(bias)
        _gelu_backward(*map(_array, (x, bias, grad.contiguous(), out, out_bias)))
        return out, out_bias


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, update: Tensor, bias: Tensor, w: Tensor, b: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        _check_types(update, x, bias, w, b)
        total, normalized = torch.empty_like(x), torch.empty_like(x, dtype=dtype)
        mean, inverse = x.new_empty(2, len(x))  # of each token: its mean, 1 / its deviation
        inputs = (x.contiguous(), update.contiguous(), bias, w, b)
        _add_norm(np.float32(eps), *map(_array, (*inputs, total, normalized, mean, inverse)))
        ctx.save_for_backward(total, w, mean, inverse)
        ctx.dtype = update.dtype
        return total, normalized

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor, grad_normalized: Tensor) -> tuple[Tensor | None, ...]:
        total, w, mean, inverse = ctx.saved_tensors
        grad, grad_update = torch.empty_like(total), torch.empty_like(total, dtype=ctx.dtype)
        sums = torch.zeros(3, len(w))  # the gradients of bias, w and b
        inputs = (total, w, mean, inverse, grad_total.contiguous(), grad_normalized.contiguous())
        _add_norm_backward(*map(_array, (*inputs, grad, grad_update, sums)))
        return grad, grad_update, *sums, None, None


def _check_types(activations: Tensor, *exact: Tensor) -> None:
    """TypeError for numbers that the compiled loops would misread."""
    allowed = (torch.float32, torch.bfloat16)
    if activations.dtype not in allowed or any(one.dtype != torch.float32 for one in exact):
        raise TypeError(
            f"activations are {activations.dtype}, parameters and stream {', '.join(str(one.dtype) for one in exact)}; "
            "expected float32 or bfloat16, and float32: train a float32 model, under autocast where it is to be fast"
        )


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory; bfloat16 as uint16, which `_read` and `_written` understand."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


# --- compiled: numbers of either type --------------------------------------------------------------------------------


@intrinsic
def _widened(typing_context, half):
    """The float32 of a bfloat16, given as uint16: its upper half."""

    def code(context, builder, signature, arguments):
        word = ir.IntType(32)
        bits = builder.shl(builder.zext(arguments[0], word), ir.Constant(word, 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.uint16), code


@intrinsic
def _halved(typing_context, value):
    """The bfloat16, as uint16, that is nearest to a float32; of two, the even one."""

    def code(context, builder, signature, arguments):
        word = ir.IntType(32)
        half = ir.Constant(word, 16)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, half), ir.Constant(word, 1))
        bits = builder.add(builder.add(bits, ir.Constant(word, 0x7FFF)), odd)
        return builder.trunc(builder.lshr(bits, half), ir.IntType(16))

    return types.uint16(types.float32), code


def _read(x):
    """The float32 that an entry of an array stands for."""


def _written(value, like):
    """What to write of a float32 into an array with entries like this one."""


@overload(_read, inline="always")
def _read_either(x):
    return (lambda x: x) if x == types.float32 else (lambda x: _widened(x))


@overload(_written, inline="always")
def _written_either(value, like):
    return (lambda value, like: value) if like == types.float32 else (lambda value, like: _halved(value))


@intrinsic
def _power_of_two(typing_context, exponent):
    """The float32 2^k of an int32 from -126 to 127."""

    def code(context, builder, signature, arguments):
        word = ir.IntType(32)
        bits = builder.shl(builder.add(arguments[0], ir.Constant(word, 127)), ir.Constant(word, 23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int32), code


_LOG2_E = np.float32(1 / math.log(2))
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)  # the high part times k is exact


@njit(cache=True, fastmath=_FAST, nogil=True, error_model="numpy")
def _exponential(x):
    """exp(x) of x up to 0, within 3e-7 of its value: 2^k times Taylor's polynomial of the rest. In this form a loop of
    it compiles to vector instructions, which one of `np.exp` does not."""
    x = max(x, np.float32(-87))
    exponent = np.int32(x * _LOG2_E - np.float32(0.5))  # rounded: of numbers below 0, int cuts off upwards
    k = np.float32(exponent)
    r = x - k * _LN2_HIGH - k * _LN2_LOW  # within ln(2) / 2 of 0
    y = np.float32(1 / 5040)
    y = y * r + np.float32(1 / 720)
    y = y * r + np.float32(1 / 120)
    y = y * r + np.float32(1 / 24)
    y = y * r + np.float32(1 / 6)
    y = y * r + np.float32(1 / 2)
    return ((y * r + np.float32(1)) * r + np.float32(1)) * _power_of_two(exponent)


# --- compiled: attention ---------------------------------------------------------------------------------------------
#
# Whole rows are copied from and to memory, program by program, so that the processor fetches them ahead; heads then
# work on what is near. Columns of qkv: queries, keys, values, in each head after head.


@njit(cache=True, fastmath=_FAST, nogil=True, error_model="numpy")
def _attend(starts, heads, qkv, bias, z, pattern):
    width = z.shape[1]
    d_head = width // heads
    scale = np.float32(1.0 / math.sqrt(d_head))
    longest = pattern.shape[2]
    own, mixed = np.empty((longest, 3 * width), np.float32), np.empty((longest, width), np.float32)
    for program in range(len(starts) - 1):
        begin, length = starts[program], starts[program + 1] - starts[program]
        for i in range(length):
            for d in range(3 * width):
                own[i, d] = _read(qkv[begin + i, d]) + bias[d]
            for d in range(width):
                mixed[i, d] = 0
        for head in range(heads):
            query, key, value = head * d_head, width + head * d_head, 2 * width + head * d_head  # first columns
            for i in range(length):
                row, most = pattern[begin + i, head], np.float32(-np.inf)
                for j in range(i + 1):
                    score = np.float32(0)
                    for d in range(d_head):
                        score += own[i, query + d] * own[j, key + d]
                    row[j] = score * scale
                    most = max(most, row[j])
                total = np.float32(0)
                for j in range(i + 1):
                    row[j] = _exponential(row[j] - most)
                    total += row[j]
                for j in range(i + 1):
                    row[j] /= total
                    share = row[j]
                    for d in range(d_head):
                        mixed[i, query + d] += share * own[j, value + d]
        for i in range(length):
            for d in range(width):
                z[begin + i, d] = _written(mixed[i, d], z[begin + i, d])


@njit(cache=True, fastmath=_FAST, nogil=True, error_model="numpy")
def _attend_backward(starts, heads, qkv, bias, pattern, grad, out, out_bias):
    """out, out_bias: the gradients of qkv and bias, given `grad`, that of z."""
    width = grad.shape[1]
    d_head = width // heads
    scale = np.float32(1.0 / math.sqrt(d_head))
    longest = pattern.shape[2]
    own, slope = np.empty((longest, 3 * width), np.float32), np.empty((longest, width), np.float32)
    to_query, to_key = np.empty((longest, width), np.float32), np.empty((longest, width), np.float32)
    to_value, steep = np.empty((longest, width), np.float32), np.empty(longest, np.float32)
    for program in range(len(starts) - 1):
        begin, length = starts[program], starts[program + 1] - starts[program]
        for i in range(length):
            for d in range(3 * width):
                own[i, d] = _read(qkv[begin + i, d]) + bias[d]
            for d in range(width):
                slope[i, d] = _read(grad[begin + i, d])
                to_query[i, d] = to_key[i, d] = to_value[i, d] = 0
        for head in range(heads):
            query, key, value = head * d_head, width + head * d_head, 2 * width + head * d_head  # first columns
            for i in range(length):
                row, mean = pattern[begin + i, head], np.float32(0)
                for j in range(i + 1):
                    steep[j] = 0  # the slope of the share of token j
                    for d in range(d_head):
                        steep[j] += slope[i, query + d] * own[j, value + d]
                    mean += row[j] * steep[j]
                for j in range(i + 1):
                    share = row[j]
                    change = share * (steep[j] - mean) * scale  # the slope of the product of query and key
                    for d in range(d_head):
                        to_query[i, query + d] += change * own[j, key + d]
                        to_key[j, query + d] += change * own[i, query + d]
                        to_value[j, query + d] += share * slope[i, query + d]
        for i in range(length):
            for d in range(width):
                out[begin + i, d] = _written(to_query[i, d], out[begin + i, d])
                out[begin + i, width + d] = _written(to_key[i, d], out[begin + i, d])
                out[begin + i, 2 * width + d] = _written(to_value[i, d], out[begin + i, d])
                out_bias[d] += to_query[i, d]
                out_bias[width + d] += to_key[i, d]
                out_bias[2 * width + d] += to_value[i, d]


# --- compiled: GELU --------------------------------------------------------------------------------------------------


@njit(cache=True, fastmath=_FAST, nogil=True, error_model="numpy")
def _normal(x):
    """(the cumulative normal distribution at x, its density there), within 3e-7: Abramowitz and Stegun 7.1.26."""
    bell = _exponential(np.float32(-0.5) * x * x)
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911 / math.sqrt(2)) * abs(x))
    y = np.float32(1.061405429)
    y = y * t + np.float32(-1.453152027)
    y = y * t + np.float32(1.421413741)
    y = y * t + np.float32(-0.284496736)
    y = y * t + np.float32(0.254829592)
    tail = np.float32(0.5) * y * t * bell
    return (np.float32(1) - tail if x > 0 else tail), bell * np.float32(1 / math.sqrt(2 * math.pi))


@njit(cache=True, fastmath=_FAST, nogil=True, error_model="numpy")
def _gelu(x, bias, out):
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            value = _read(x[i, k]) + bias[k]
            out[i, k] = _written(value * _normal(value)[0], out[i, k])


@njit(cache=True, fastmath=_FAST, nogil=True, error_model="numpy")
def _gelu_backward(x, bias, grad, out, out_bias):
    """out, out_bias: the gradients of x and bias, given `grad`, that of the result."""
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            value = _read(x[i, k]) + bias[k]
            share, density = _normal(value)
            slope = _read(grad[i, k]) * (share + value * density)
            out[i, k] = _written(slope, out[i, k])
            out_bias[k] += slope


# --- compiled: the residual stream -----------------------------------------------------------------------------------


@njit(cache=True, fastmath=_FAST, nogil=True, error_model="numpy")
def _add_norm(eps, x, update, bias, w, b, total, normalized, mean, inverse):
    width = np.float32(x.shape[1])
    for i in range(x.shape[0]):
        added = np.float32(0)
        for k in range(x.shape[1]):
            total[i, k] = x[i, k] + _read(update[i, k]) + bias[k]
            added += total[i, k]
        middle, squares = added / width, np.float32(0)
        for k in range(x.shape[1]):
            squares += (total[i, k] - middle) ** 2
        scale = np.float32(1) / np.sqrt(squares / width + eps)
        mean[i], inverse[i] = middle, scale
        for k in range(x.shape[1]):
            value = (total[i, k] - middle) * scale * w[k] + b[k]
            normalized[i, k] = _written(value, normalized[i, k])


@njit(cache=True, fastmath=_FAST, nogil=True, error_model="numpy")
def _add_norm_backward(total, w, mean, inverse, grad_total, grad_normalized, grad, grad_update, sums):
    """Fills in the gradients of x and of the update; adds up those of bias, w and b in sums [3, d_model]."""
    width = np.float32(total.shape[1])
    for i in range(total.shape[0]):
        middle, scale = mean[i], inverse[i]
        plain, tilted = np.float32(0), np.float32(0)
        for k in range(total.shape[1]):
            slope, z = _read(grad_normalized[i, k]), (total[i, k] - middle) * scale
            sums[1, k] += slope * z
            sums[2, k] += slope
            plain += slope * w[k]
            tilted += slope * w[k] * z
        plain, tilted = plain / width, tilted / width
        for k in range(total.shape[1]):
            slope, z = _read(grad_normalized[i, k]), (total[i, k] - middle) * scale
            change = grad_total[i, k] + scale * (slope * w[k] - plain - z * tilted)
            grad[i, k] = change
            grad_update[i, k] = _written(change, grad_update[i, k])
            sums[0, k] += change
