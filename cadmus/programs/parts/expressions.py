"""Arithmetic expressions, pooled by the value that they leave on the stack.

Up to five instructions every expression is listed. A longer one is a shorter expression, another (or none) and an
operator, so its pool lists pairs of values in place of texts; drawing from it draws the parts in turn.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields
from functools import cache, lru_cache

import numpy as np

from cadmus.machine import kernel, vm
from cadmus.machine.tokens import PAD
from cadmus.programs.parts.pieces import ids
from cadmus.programs.skeletons import skeletons

DIGITS = "0123456789"
OPERATORS = "+-*/%xn"  # the published ones
UNARY = "~m"  # may stand in an expression too
MAX_ENUMERATED = 5  # instructions up to which a pool lists every expression
MAX_LENGTH = 9  # instructions of the longest expression

_BINARY = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.floor_divide,
    "%": np.remainder,
    "x": np.maximum,
    "n": np.minimum,
}
_UNARY = {"~": np.negative, "m": np.abs}


@dataclass(frozen=True)
class Pool:
    """All expressions of one length over `operators` with a numeric value, ordered by value."""

    length: int
    """Instructions of each expression."""

    operators: str
    """The operators in use."""

    values: np.ndarray
    """The values that occur, ascending: int64 [distinct]."""

    counts: np.ndarray
    """How many expressions have each value: int64 [distinct]."""

    tokens: np.ndarray | None = None
    """Every expression, by value: uint8 [m, length]; None above `MAX_ENUMERATED`."""

    starts: np.ndarray | None = None
    """The expressions of `values[i]` are `tokens[starts[i]:starts[i + 1]]`: int64 [distinct + 1]; None as `tokens`."""


@cache
def pool(length: int, operators: str = OPERATORS) -> Pool:
    """The pool of `length` instructions, 1 to `MAX_LENGTH`.

    Five published instructions: 91,300 of 98,000 expressions have a value (the others divide by 0), from -81 to 729; 35
    have the value -20, 19,434 the value 0.
    """
    if length > MAX_ENUMERATED:
        parts = _parts(length, Weighting(operators))
        values, first = np.unique(parts.result, return_index=True)
        return Pool(length, operators, values, np.add.reduceat(parts.weight, first).astype(np.int64))
    alphabets = {  # by the number of inputs
        0: ids(DIGITS),
        1: ids("".join(o for o in operators if o in _UNARY)),
        2: ids("".join(o for o in operators if o in _BINARY)),
    }
    shapes = [shape for shape in itertools.product((0, 1, 2), repeat=length) if _leaves_one(shape)]
    grids = [np.meshgrid(*(alphabets[inputs] for inputs in shape), indexing="ij") for shape in shapes]
    tables = [np.stack([axis.ravel() for axis in grid], 1) for grid in grids]
    tokens = np.concatenate([*tables, np.empty((0, length), np.uint8)])
    top = kernel.tops(tokens)
    is_number = top.kind == kernel.INT_KIND
    tokens, value = tokens[is_number], top.value[is_number].astype(np.int64)
    order = np.argsort(value, kind="stable")
    values, starts = np.unique(value[order], return_index=True)
    starts = np.append(starts, len(order))
    return Pool(length, operators, values, np.diff(starts), tokens[order], starts)


def _leaves_one(inputs: tuple[int, ...]) -> bool:
    """Whether instructions with these input counts (and one output each) never underflow and leave one value."""
    depth = 0
    for count in inputs:
        if depth < count:
            return False
        depth += 1 - count
    return depth == 1


# --- reading ---------------------------------------------------------------------------------------------------------


def read_expressions(text: str, operators: str = OPERATORS) -> list[str] | None:
    """`text` as the expressions over digits and `operators` that it concatenates; None where it is not that.

    Postfix text can be cut in one way only.
    """
    starts: list[int] = []  # of the expressions that lie on the stack
    for i, token in enumerate(text):
        if token in DIGITS:
            starts.append(i)
        elif token in operators and len(starts) >= (2 if token in _BINARY else 1):
            if token in _BINARY:
                starts.pop()
        else:
            return None
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)])]


def is_expression(text: str, length: int) -> bool:
    """Whether `text` is an expression of `length` instructions over digits and `OPERATORS`."""
    return len(text) == length and read_expressions(text) == [text]


# --- drawing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weighting:
    """Which expressions are drawn, and how often."""

    operators: str = OPERATORS
    """The operators in use."""

    digit_skew: float = 0.0
    """Each digit d multiplies an expression's weight by (d + 1) ** -digit_skew."""

    skeletons: int = 0
    """How many skeletons of a length are in use; 0: all."""

    zipf: float = 0.0
    """A skeleton of rank k = 1, 2, ... multiplies an expression's weight by k ** -zipf."""


@dataclass(frozen=True)
class Source:
    """Weighted draws from the expressions of one length."""

    length: int
    """Instructions of each expression."""

    weighting: Weighting
    """How they are weighted."""

    values: np.ndarray
    """The values that they have, ascending: int64 [distinct]."""

    starts: np.ndarray
    """`values[i]` has the rows `starts[i]:starts[i + 1]` of `tokens` or `parts`: int64 [distinct + 1]."""

    ends: np.ndarray
    """The cumulative weight before each row: float [m + 1]."""

    tokens: np.ndarray | None
    """The expressions: uint8 [m, length]; None above `MAX_ENUMERATED`."""

    parts: _Parts | None
    """How the expressions arise, where `tokens` is None."""

    def weights(self) -> np.ndarray:
        """The weight of each value: float [distinct]."""
        return np.diff(self.ends[self.starts])

    def draw(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw an expression for each of `values`, all of which it has: uint8 [n, length]."""
        at = np.searchsorted(self.values, values)
        first, last = self.starts[at], self.starts[at + 1]
        low, high = self.ends[first], self.ends[last]
        row = np.searchsorted(self.ends, low + rng.random(len(values)) * (high - low), side="right") - 1
        row = row.clip(first, last - 1)  # rounding must not carry a draw over to another value
        if self.tokens is not None:
            return self.tokens[row]
        assert self.parts is not None, "where there are no tokens there are parts"
        parts = self.parts[row]
        out = np.full((len(values), self.length), PAD, np.uint8)
        out[:, -1] = parts.operator
        for left_length in np.unique(parts.left_length).tolist():
            mine = np.flatnonzero(parts.left_length == left_length)
            out[mine, :left_length] = source(left_length, self.weighting).draw(parts.left[mine], rng)
            right_length = self.length - 1 - left_length
            if right_length:
                out[mine, left_length:-1] = source(right_length, self.weighting).draw(parts.right[mine], rng)
        return out


@lru_cache(maxsize=64)
def source(length: int, weighting: Weighting) -> Source:
    """The weighted expressions of one length, 1 to `MAX_LENGTH`."""
    if length > MAX_ENUMERATED:
        tokens = None
        parts = _parts(length, weighting)
        result = parts.result
        weight = parts.weight
    else:
        expressions = pool(length, weighting.operators)
        assert expressions.tokens is not None, "a pool of this length lists its expressions"
        weight = _weights(expressions, expressions.tokens, weighting)
        keep = weight > 0
        tokens = expressions.tokens[keep]
        parts = None
        result = np.repeat(expressions.values, expressions.counts)[keep]
        weight = weight[keep]
    values, first = np.unique(result, return_index=True)
    starts = np.append(first, len(weight))
    ends = np.append(0.0, np.cumsum(weight))
    return Source(length, weighting, values, starts, ends, tokens, parts)


def _weights(expressions: Pool, tokens: np.ndarray, weighting: Weighting) -> np.ndarray:
    """The weight of each expression of a pool, float [m]; 0 for skeletons that are not in use. Skeletons that reach
    many values rank first. `tokens` [m, length] are the pool's."""
    digit_weight = np.ones(len(vm.VOCAB))
    digit_weight[:10] = np.arange(1, 11) ** -weighting.digit_skew
    weight = digit_weight[tokens].prod(1)
    if (not weighting.skeletons and not weighting.zipf) or not len(weight):
        return weight
    _, shape = np.unique(skeletons(tokens), axis=0, return_inverse=True)
    value_index = np.repeat(np.arange(len(expressions.values)), expressions.counts)
    order = _by_coverage(shape.ravel(), value_index)
    rank_of_shape = np.empty(len(order), np.int64)
    rank_of_shape[order] = np.arange(len(order))
    rank = rank_of_shape[shape.ravel()]
    return weight * (rank + 1.0) ** -weighting.zipf * (rank < (weighting.skeletons or len(order)))


def _by_coverage(shape: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The shapes 0..k-1 in the order in which each adds the most values to those before it (ties: the lowest)."""
    reaches = np.zeros((shape.max() + 1, value.max() + 1), np.bool_)  # [shapes, values]
    reaches[shape, value] = True
    order = []
    open_values = np.ones(reaches.shape[1], np.bool_)
    open_shapes = np.ones(len(reaches), np.bool_)
    for _ in range(len(reaches)):
        gain = np.where(open_shapes, (reaches & open_values).sum(1), -1)
        if gain.max() == 0:  # all is covered: begin another cover
            open_values[:] = True
            gain = np.where(open_shapes, reaches.sum(1), -1)
        best = int(gain.argmax())
        order.append(best)
        open_shapes[best] = False
        open_values &= ~reaches[best]
    return np.array(order)


@dataclass(frozen=True)
class _Parts:
    """How expressions of one length arise from shorter ones; arrays [m]."""

    result: np.ndarray
    """Their values: int64, ascending where they are those of a `Source`."""

    left: np.ndarray
    """The value of the left part: int64."""

    right: np.ndarray
    """The value of the right part, unused where the operator is unary: int64."""

    left_length: np.ndarray
    """Instructions of the left part: int64."""

    operator: np.ndarray
    """The token id of the operator: uint8."""

    weight: np.ndarray
    """How many expressions, or the sum of their weights, arise in this way: float."""

    def __getitem__(self, index: np.ndarray) -> _Parts:
        return _Parts(*(getattr(self, field.name)[index] for field in fields(self)))

    @staticmethod
    def concatenate(parts: list[_Parts]) -> _Parts:
        return _Parts(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(_Parts)))


@lru_cache(maxsize=32)
def _parts(length: int, weighting: Weighting) -> _Parts:
    """Every (left value, right value, operator) of the expressions of `length` > `MAX_ENUMERATED` instructions, sorted
    by result; results that the machine cannot hold are left out."""
    unary = [o for o in weighting.operators if o in _UNARY]
    binary = [o for o in weighting.operators if o in _BINARY]
    none = np.empty(0, np.int64)
    all_parts = [_Parts(none, none, none, none, np.empty(0, np.uint8), np.empty(0))]
    for left_length in range(1, length):
        right_length = length - 1 - left_length
        left = source(left_length, weighting)
        if not len(left.values):
            continue
        if right_length == 0:
            all_parts += [_combine(o, left_length, left.values, 0 * left.values, left.weights()) for o in unary]
            continue
        right = source(right_length, weighting)
        a, b = (grid.ravel() for grid in np.meshgrid(left.values, right.values, indexing="ij"))
        weight = np.outer(left.weights(), right.weights()).ravel()
        for o in binary:
            valid = b != 0 if o in "/%" else slice(None)
            all_parts.append(_combine(o, left_length, a[valid], b[valid], weight[valid]))
    parts = _Parts.concatenate(all_parts)
    fits = np.abs(parts.result) <= vm.MAX_INT
    return parts[np.flatnonzero(fits)[np.argsort(parts.result[fits], kind="stable")]]


def _combine(operator: str, left_length: int, left: np.ndarray, right: np.ndarray, weight: np.ndarray) -> _Parts:
    """One operator applied to pairs of values, or, where it is unary, to the left ones."""
    result = _UNARY[operator](left) if operator in _UNARY else _BINARY[operator](left, right)
    token = np.uint8(vm.VOCAB.index(operator))
    return _Parts(result, left, right, np.full(len(left), left_length), np.full(len(left), token), weight)
