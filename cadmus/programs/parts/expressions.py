"""Arithmetic expressions, pooled by the value that they leave on the stack.

Up to five instructions every expression is listed. A longer one is a shorter expression, another (or none) and an
operator, so its pool lists pairs of values in place of texts; drawing from it draws the parts in turn.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from cadmus.machine import kernel, vm
from cadmus.machine.tokens import PAD
from cadmus.programs.parts.pieces import Piece, ids, rows
from cadmus.programs.skeletons import skeletons

DIGITS = "0123456789"
OPERATORS = "+-*/%xn"  # the published ones
UNARY = "~m"  # may stand in an expression too
MAX_ENUMERATED = 5  # instructions up to which a pool lists every expression
MAX_LENGTH = 9

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
    """All expressions of one length over `operators` with a numeric value, ordered by value.

    values int64 [distinct], ascending; counts int64 [distinct]: how many expressions each value has. Where listed,
    tokens uint8 [m, length] and starts int64 [distinct + 1]: those of values[i] are tokens[starts[i]:starts[i + 1]].
    """

    length: int
    operators: str
    values: np.ndarray
    counts: np.ndarray
    tokens: np.ndarray | None = None
    starts: np.ndarray | None = None


@cache
def pool(length: int, operators: str = OPERATORS) -> Pool:
    """The pool of `length` instructions, 1 to `MAX_LENGTH`.

    Five published instructions: 91,300 of 98,000 expressions have a value (the others divide by 0), from -81 to 729; 35
    have the value -20, 19,434 the value 0.
    """
    if length > MAX_ENUMERATED:
        parts = _parts(length, operators, 0.0, 0, 0.0)
        values, first = np.unique(parts.result, return_index=True)
        return Pool(length, operators, values, np.add.reduceat(parts.weight, first).astype(np.int64))
    alphabets = {0: ids(DIGITS), 2: ids("".join(o for o in operators if o in _BINARY))}
    alphabets[1] = ids("".join(o for o in operators if o in _UNARY))
    shapes = [shape for shape in itertools.product((0, 1, 2), repeat=length) if _leaves_one(shape)]
    grids = [np.meshgrid(*(alphabets[kind] for kind in shape), indexing="ij") for shape in shapes]
    listed = [np.stack([axis.ravel() for axis in grid], 1) for grid in grids]
    tokens = np.concatenate([*listed, np.empty((0, length), np.uint8)])
    top = kernel.tops(tokens)
    fine = top.kind == kernel.INT_KIND
    tokens, value = tokens[fine], top.value[fine].astype(np.int64)
    order = np.argsort(value, kind="stable")
    values, starts = np.unique(value[order], return_index=True)
    starts = np.append(starts, len(order))
    return Pool(length, operators, values, np.diff(starts), tokens[order], starts)


def _leaves_one(inputs: tuple[int, ...]) -> bool:
    """Whether instructions with so many inputs and one output each never underflow and leave one value."""
    depth = 0
    for taken in inputs:
        if depth < taken:
            return False
        depth += 1 - taken
    return depth == 1


def read_expressions(text: str, operators: str = OPERATORS) -> list[str] | None:
    """`text` as the expressions over digits and `operators` that it concatenates; None where it is not that.

    Postfix text can be cut in one way only.
    """
    begins: list[int] = []  # of the expressions that lie on the stack
    for i, token in enumerate(text):
        if token in DIGITS:
            begins.append(i)
        elif token in operators and len(begins) >= (2 if token in _BINARY else 1):
            if token in _BINARY:
                begins.pop()
        else:
            return None
    return [text[begin:end] for begin, end in zip(begins, [*begins[1:], len(text)])]


def is_expression(text: str, length: int) -> bool:
    """Whether `text` is an expression of `length` instructions over digits and `OPERATORS`."""
    return len(text) == length and read_expressions(text) == [text]


# --- drawing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    """How the expressions of one length arise, sorted by `result`: arrays [m].

    left and right are the values of the parts (right unused where the operator is unary), left_length that of the left;
    weight is how many expressions (or the sum of their weights) arise in this way.
    """

    result: np.ndarray
    left: np.ndarray
    right: np.ndarray
    left_length: np.ndarray
    operator: np.ndarray
    weight: np.ndarray

    def __getitem__(self, index: np.ndarray) -> _Parts:
        arrays = (self.result, self.left, self.right, self.left_length, self.operator, self.weight)
        return _Parts(*(array[index] for array in arrays))


@dataclass(frozen=True)
class _Source:
    """Weighted draws from the expressions of one length.

    values int64 [distinct]; starts int64 [distinct + 1]: values[i] has the rows starts[i]:starts[i + 1] of what is
    drawn from, which is tokens [m, length] or `parts`; ends float [m + 1]: the cumulative weight before each row.
    """

    values: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    tokens: np.ndarray | None
    parts: _Parts | None
    settings: tuple

    def weights(self) -> np.ndarray:
        """The weight of each value: float [distinct]."""
        return np.diff(self.ends[self.starts])

    def draw(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """An expression for each of `values`, all of which it has: uint8 [n, length]."""
        at = np.searchsorted(self.values, values)
        first, last = self.starts[at], self.starts[at + 1]
        low, high = self.ends[first], self.ends[last]
        row = np.searchsorted(self.ends, low + rng.random(len(values)) * (high - low), side="right") - 1
        row = row.clip(first, last - 1)  # rounding must not carry a draw over to another value
        if self.tokens is not None:
            return self.tokens[row]
        length, *rest = self.settings
        parts = self.parts[row]
        out = np.full((len(values), length), PAD, np.uint8)
        out[:, -1] = parts.operator
        for left_length in np.unique(parts.left_length):
            mine = np.flatnonzero(parts.left_length == left_length)
            out[mine, :left_length] = _source(int(left_length), *rest).draw(parts.left[mine], rng)
            right_length = length - 1 - left_length
            if right_length:
                out[mine, left_length:-1] = _source(int(right_length), *rest).draw(parts.right[mine], rng)
        return out


@lru_cache(maxsize=64)
def _source(length: int, operators: str, digit_skew: float, shapes: int, zipf: float) -> _Source:
    """The weighted expressions of one length; `shapes` and `zipf` are those of `_listed_weights`."""
    settings = (length, operators, digit_skew, shapes, zipf)
    if length > MAX_ENUMERATED:
        parts = _parts(*settings)
        result, weight, tokens = parts.result, parts.weight, None
    else:
        listed = pool(length, operators)
        weight = _listed_weights(listed, digit_skew, shapes, zipf)
        keep = weight > 0
        result, weight = np.repeat(listed.values, np.diff(listed.starts))[keep], weight[keep]
        tokens, parts = listed.tokens[keep], None
    values, first = np.unique(result, return_index=True)
    ends = np.append(0.0, np.cumsum(weight))
    return _Source(values, np.append(first, len(weight)), ends, tokens, parts, settings)


def _listed_weights(listed: Pool, digit_skew: float, shapes: int, zipf: float) -> np.ndarray:
    """The weight of each listed expression: (d + 1) ** -digit_skew for each of its digits, times rank ** -zipf for its
    skeleton, of which the first `shapes` (0: all) have any weight. Skeletons that reach many values rank first."""
    digit_weight = np.ones(len(vm.VOCAB))
    digit_weight[:10] = np.arange(1, 11) ** -digit_skew
    weight = digit_weight[listed.tokens].prod(1)
    if (not shapes and not zipf) or not len(weight):
        return weight
    _, shape = np.unique(skeletons(listed.tokens), axis=0, return_inverse=True)
    order = _by_coverage(shape.ravel(), np.repeat(np.arange(len(listed.values)), np.diff(listed.starts)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    rank = rank[shape.ravel()]
    return weight * (rank + 1.0) ** -zipf * (rank < (shapes or len(order)))


def _by_coverage(shape: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The shapes 0..k-1 in the order in which each adds the most values to those before it (ties: the lowest)."""
    reached = np.zeros((shape.max() + 1, value.max() + 1), np.bool_)
    reached[shape, value] = True
    order, open_values, left = [], np.ones(reached.shape[1], np.bool_), np.ones(len(reached), np.bool_)
    for _ in range(len(reached)):
        gain = np.where(left, (reached & open_values).sum(1), -1)
        if gain.max() == 0:  # all is covered: begin another cover
            open_values[:] = True
            gain = np.where(left, reached.sum(1), -1)
        order.append(int(gain.argmax()))
        left[order[-1]] = False
        open_values &= ~reached[order[-1]]
    return np.array(order)


@lru_cache(maxsize=32)
def _parts(length: int, operators: str, digit_skew: float, shapes: int, zipf: float) -> _Parts:
    """Every (left value, right value, operator) of the expressions of `length` > `MAX_ENUMERATED` instructions."""
    found = []
    for left_length in range(1, length):
        right_length = length - 1 - left_length
        left = _source(left_length, operators, digit_skew, shapes, zipf)
        if not len(left.values):
            continue
        if right_length == 0:
            for o in operators:
                if o in _UNARY:
                    found.append((o, left_length, left.values, left.values * 0, left.weights()))
            continue
        right = _source(right_length, operators, digit_skew, shapes, zipf)
        a, b = (grid.ravel() for grid in np.meshgrid(left.values, right.values, indexing="ij"))
        weight = np.outer(left.weights(), right.weights()).ravel()
        for o in operators:
            if o in _BINARY:
                fine = b != 0 if o in "/%" else slice(None)
                found.append((o, left_length, a[fine], b[fine], weight[fine]))
    none = (np.empty(0, np.int64),) * 4
    columns = [[column] for column in (*none, np.empty(0, np.uint8), np.empty(0))]
    for o, left_length, a, b, weight in found:
        result = _UNARY[o](a) if o in _UNARY else _BINARY[o](a, b)
        full = (np.full(len(a), left_length), np.full(len(a), vm.VOCAB.index(o), np.uint8), weight)
        for column, part in zip(columns, (result, a, b, *full)):
            column.append(part)
    parts = _Parts(*(np.concatenate(column) for column in columns))
    fits = np.abs(parts.result) <= vm.MAX_INT
    return parts[np.flatnonzero(fits)[np.argsort(parts.result[fits], kind="stable")]]


# --- numbers of several lengths --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """Expressions with the values low..high. A value is given; its length is drawn uniformly among those of `lengths`
    that reach it, then the expression by weight (uniformly where nothing is skewed).

    lengths: instructions; skeletons: distinct skeletons in use per length (0: all); zipf: the exponent of their
    weights; digit_skew: see `pieces.digits`.
    """

    low: int
    high: int
    lengths: tuple[int, ...]
    operators: str = OPERATORS
    digit_skew: float = 0.0
    skeletons: int = 0
    zipf: float = 0.0

    @property
    def width(self) -> int:
        return max(self.lengths)

    def source(self, length: int) -> _Source:
        return _source(length, self.operators, float(self.digit_skew), self.skeletons, float(self.zipf))

    @property
    def _reached(self) -> np.ndarray:
        """The values that any length reaches, ascending."""
        return np.unique(np.concatenate([self.source(length).values for length in self.lengths]))

    @property
    def range(self) -> tuple[int, int]:
        """The widest range around 0 whose every value is reached."""
        reached = self._reached
        gap = np.setdiff1d(np.arange(reached[0], reached[-1] + 1), reached)
        below = gap[gap < 0].max(initial=reached[0] - 1) + 1
        return int(below), int(gap[gap > 0].min(initial=reached[-1] + 1) - 1)

    @property
    def counts(self) -> np.ndarray:
        """How many expressions have each of the values low..high, over all lengths (before skeletons are limited):
        int64 [high - low + 1]."""
        wanted = np.arange(self.low, self.high + 1)
        total = np.zeros(len(wanted), np.int64)
        for length in self.lengths:
            of_length = pool(length, self.operators)
            at = np.searchsorted(of_length.values, wanted).clip(max=len(of_length.values) - 1)
            total += np.where(of_length.values[at] == wanted, of_length.counts[at], 0)
        return total

    def listed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every expression in use with its value and weight: tokens uint8 [m, length], int64 [m], float [m]. ValueError
        where they are of several lengths or longer than `MAX_ENUMERATED`."""
        if len(self.lengths) > 1 or self.lengths[0] > MAX_ENUMERATED:
            raise ValueError(
                f"expressions of {self.lengths} instructions are not listed; one length up to {MAX_ENUMERATED} is"
            )
        source = self.source(self.lengths[0])
        return source.tokens, np.repeat(source.values, np.diff(source.starts)), np.diff(source.ends)

    def require(self, owner: str) -> None:
        """ValueError, naming what can be reached, unless every value in [low, high] is."""
        if self.low > self.high:
            raise ValueError(f"{owner}: low = {self.low} is above high = {self.high}; swap them")
        reached = self._reached
        missing = np.setdiff1d(np.arange(self.low, self.high + 1), reached)
        if not len(missing):
            return
        lengths = " or ".join(map(str, self.lengths))
        if not len(reached):
            raise ValueError(
                f"{owner}: no expression of {lengths} instructions exists over the operators {self.operators!r}; "
                "odd lengths need one of + - * / % x n, even ones one of ~ m"
            )
        of = f" over {self.operators}" if self.operators != OPERATORS else ""
        of += f" with {self.skeletons} skeletons" if self.skeletons else ""
        nearest = reached[np.abs(reached - missing[0]).argmin()]
        below, above = self.range
        raise ValueError(
            f"{owner}: no expression of {lengths} instructions{of} has the value {missing[0]} (nearest: {nearest}); "
            f"choose low and high within [{below}, {above}], or another length"
        )

    def draw(self, values: np.ndarray, rng: np.random.Generator) -> Piece:
        """An expression for each of `values` int [n] in [low, high]."""
        reach = _reach(self)[:, values - self.low]
        order = np.where(reach, rng.random(reach.shape), -1.0) if len(self.lengths) > 1 else reach
        chosen = order.argmax(0)
        if len(self.lengths) == 1:
            return rows(self.source(self.lengths[0]).draw(values, rng), self.lengths[0])
        table = np.full((len(values), self.width), PAD, np.uint8)
        for i, length in enumerate(self.lengths):
            mine = np.flatnonzero(chosen == i)
            if len(mine):
                table[mine, :length] = self.source(length).draw(values[mine], rng)
        return rows(table, np.array(self.lengths)[chosen])


@lru_cache(maxsize=64)
def _reach(numbers: Numbers) -> np.ndarray:
    """Which length reaches which value: bool [lengths, values low..high]."""
    wanted = np.arange(numbers.low, numbers.high + 1)
    return np.stack([np.isin(wanted, numbers.source(length).values) for length in numbers.lengths])
