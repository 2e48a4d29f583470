"""The compiled loops of `fused`, forward and backward, over arrays in memory: float32, or bfloat16 given as uint16.

They stand in one file, since numba's cache watches the file of a function only.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from cadmus.machine.jit import jit

# What the compiler may do with arithmetic: all that makes it fast, but not assume that numbers are finite. Those that
# are not must come out as such, so that training stops.
_FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}


# --- numbers of either type ------------------------------------------------------------------------------------------


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
    """The bfloat16, as uint16, that is nearest to a float32; of two as near, the even one."""

    def code(context, builder, signature, arguments):
        word = ir.IntType(32)
        half = ir.Constant(word, 16)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, half), ir.Constant(word, 1))
        bits = builder.add(builder.add(bits, ir.Constant(word, 0x7FFF)), odd)
        return builder.trunc(builder.lshr(bits, half), ir.IntType(16))

    return types.uint16(types.float32), code


def _read(x):
    """The float32 that an entry of an array, float32 or bfloat16 as uint16, stands for."""


def _written(value, like):
    """A float32 as an entry of an array whose entries are like `like`."""


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


@jit(fastmath=_FAST, error_model="numpy")
def _exponential(x):
    """exp(x) of x up to 0, within 3e-7 of its value: 2^k times Taylor's polynomial of the rest.

    In this form a loop of it compiles to vector instructions, which a loop of `np.exp` does not.
    """
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


# --- attention -------------------------------------------------------------------------------------------------------
#
# Whole rows are copied from and to memory, program by program, so that the processor fetches them ahead; heads then
# work on what is near. Columns of qkv: queries, keys, values, in each head after head. Rotary positions turn queries
# and keys by cosines and sines [pos, pair]; where there are no pairs nothing turns.


@jit(fastmath=_FAST, error_model="numpy")
def _turn(row, heads, d_head, cosines, sines, sign):
    """Turn pairs (dimensions i and i + pairs) of each head of a row by the angles of its position; where sign is -1,
    back."""
    pairs = len(cosines)
    for head in range(heads):
        low, high = head * d_head, head * d_head + pairs
        for i in range(pairs):
            a, b, sine = row[low + i], row[high + i], sign * sines[i]
            row[low + i] = a * cosines[i] - b * sine
            row[high + i] = b * cosines[i] + a * sine


@jit(fastmath=_FAST, error_model="numpy")
def _fetch(begin, length, heads, qkv, bias, cosines, sines, own_qkv):
    """Copy a program's queries, keys and values to own_qkv: with the bias, and turned."""
    width = own_qkv.shape[1] // 3
    for i in range(length):
        for d in range(3 * width):
            own_qkv[i, d] = _read(qkv[begin + i, d]) + bias[d]
        _turn(own_qkv[i], 2 * heads, width // heads, cosines[i], sines[i], np.float32(1))


@jit(fastmath=_FAST, error_model="numpy")
def attend(starts, heads, qkv, bias, cosines, sines, z, pattern):
    """Fill in z [tokens, width] and pattern [query, head, key], given qkv [tokens, 3 * width] and bias [3 * width]."""
    width = z.shape[1]
    d_head = width // heads
    scale = np.float32(1.0 / math.sqrt(d_head))
    longest = pattern.shape[2]
    own_qkv = np.empty((longest, 3 * width), np.float32)  # of one program, as what follows
    own_z = np.empty((longest, width), np.float32)
    for program in range(len(starts) - 1):
        begin, length = starts[program], starts[program + 1] - starts[program]
        _fetch(begin, length, heads, qkv, bias, cosines, sines, own_qkv)
        for i in range(length):
            for d in range(width):
                own_z[i, d] = 0
        for head in range(heads):
            query, key, value = head * d_head, width + head * d_head, 2 * width + head * d_head  # first columns
            for i in range(length):
                row, largest = pattern[begin + i, head], np.float32(-np.inf)
                for j in range(i + 1):
                    score = np.float32(0)
                    for d in range(d_head):
                        score += own_qkv[i, query + d] * own_qkv[j, key + d]
                    row[j] = score * scale
                    largest = max(largest, row[j])
                total = np.float32(0)
                for j in range(i + 1):
                    row[j] = _exponential(row[j] - largest)
                    total += row[j]
                for j in range(i + 1):
                    row[j] /= total
                    share = row[j]
                    for d in range(d_head):
                        own_z[i, query + d] += share * own_qkv[j, value + d]
        for i in range(length):
            for d in range(width):
                z[begin + i, d] = _written(own_z[i, d], z[begin + i, d])


@jit(fastmath=_FAST, error_model="numpy")
def attend_backward(starts, heads, qkv, bias, cosines, sines, pattern, grad, out, out_bias):
    """Fill in `out`, the gradient of qkv, and add that of bias to `out_bias`, given `grad`, that of z."""
    width = grad.shape[1]
    d_head = width // heads
    scale = np.float32(1.0 / math.sqrt(d_head))
    longest = pattern.shape[2]
    own_qkv = np.empty((longest, 3 * width), np.float32)  # of one program, as what follows
    grad_z = np.empty((longest, width), np.float32)
    grad_query = np.empty((longest, width), np.float32)
    grad_key = np.empty((longest, width), np.float32)
    grad_value = np.empty((longest, width), np.float32)
    grad_row = np.empty(longest, np.float32)  # of a row of the pattern
    for program in range(len(starts) - 1):
        begin, length = starts[program], starts[program + 1] - starts[program]
        _fetch(begin, length, heads, qkv, bias, cosines, sines, own_qkv)
        for i in range(length):
            for d in range(width):
                grad_z[i, d] = _read(grad[begin + i, d])
                grad_query[i, d] = grad_key[i, d] = grad_value[i, d] = 0
        for head in range(heads):
            query, key, value = head * d_head, width + head * d_head, 2 * width + head * d_head  # first columns
            for i in range(length):
                row, mean = pattern[begin + i, head], np.float32(0)
                for j in range(i + 1):
                    grad_row[j] = 0
                    for d in range(d_head):
                        grad_row[j] += grad_z[i, query + d] * own_qkv[j, value + d]
                    mean += row[j] * grad_row[j]
                for j in range(i + 1):
                    share = row[j]
                    change = share * (grad_row[j] - mean) * scale  # the gradient of the product of query and key
                    for d in range(d_head):
                        grad_query[i, query + d] += change * own_qkv[j, key + d]
                        grad_key[j, query + d] += change * own_qkv[i, query + d]
                        grad_value[j, query + d] += share * grad_z[i, query + d]
        for i in range(length):
            _turn(grad_query[i], heads, d_head, cosines[i], sines[i], np.float32(-1))
            _turn(grad_key[i], heads, d_head, cosines[i], sines[i], np.float32(-1))
            for d in range(width):
                out[begin + i, d] = _written(grad_query[i, d], out[begin + i, d])
                out[begin + i, width + d] = _written(grad_key[i, d], out[begin + i, d])
                out[begin + i, 2 * width + d] = _written(grad_value[i, d], out[begin + i, d])
                out_bias[d] += grad_query[i, d]
                out_bias[width + d] += grad_key[i, d]
                out_bias[2 * width + d] += grad_value[i, d]


# --- GELU ------------------------------------------------------------------------------------------------------------


@jit(fastmath=_FAST, error_model="numpy")
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


@jit(fastmath=_FAST, error_model="numpy")
def gelu(x, bias, out):
    """Fill in `out`, GELU of x + bias."""
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            value = _read(x[i, k]) + bias[k]
            out[i, k] = _written(value * _normal(value)[0], out[i, k])


@jit(fastmath=_FAST, error_model="numpy")
def gelu_backward(x, bias, grad, out, out_bias):
    """Fill in `out`, the gradient of x, and add that of bias to `out_bias`, given `grad`, that of the result."""
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            value = _read(x[i, k]) + bias[k]
            share, density = _normal(value)
            slope = _read(grad[i, k]) * (share + value * density)
            out[i, k] = _written(slope, out[i, k])
            out_bias[k] += slope


# --- the residual stream ---------------------------------------------------------------------------------------------


@jit(fastmath=_FAST, error_model="numpy")
def add_norm(eps, x, update, bias, w, b, total, normalized, mean, inverse):
    """Fill in the sum, its normalization, and of each token its mean and 1 / its deviation."""
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


@jit(fastmath=_FAST, error_model="numpy")
def add_norm_backward(total, w, mean, inverse, grad_total, grad_normalized, grad, grad_update, sums):
    """Fill in the gradients of x and of the update, and add those of bias, w and b to sums [3, d_model]."""
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
