"""Arithmetic expressions of the published operators, pooled by the value that they leave on the stack."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np

from cadmus import kernel, vm

DIGITS = "0123456789"
OPERATORS = "+-*/%xn"
LENGTHS = (1, 3, 5)  # instructions of the expressions that are pooled: k + 1 digits and k operators


@dataclass(frozen=True)
class Pool:
    """All expressions of one length with a numeric value, ordered by value.

    tokens uint8 [m, length]; values int64 [distinct], ascending; starts int64 [distinct + 1]: the expressions of
    values[i] are tokens[starts[i]:starts[i + 1]].
    """

    tokens: np.ndarray
    values: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """How many expressions each value has."""
        return np.diff(self.starts)

    def sample(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One expression, uniformly drawn, for each of `values` (all of them pooled): uint8 [n, length]."""
        index = np.searchsorted(self.values, values)
        return self.tokens[rng.integers(self.starts[index], self.starts[index + 1])]

    def require(self, low: int, high: int, owner: str) -> None:
        """ValueError, naming what can be reached, unless every value in [low, high] is pooled."""
        if low > high:
            raise ValueError(f"{owner}: low = {low} is above high = {high}; swap them")
        missing = np.setdiff1d(np.arange(low, high + 1), self.values)
        if len(missing):
            length = self.tokens.shape[1]
            nearest = self.values[np.abs(self.values - missing[0]).argmin()]
            gap = np.setdiff1d(np.arange(self.values[0], self.values[-1] + 1), self.values)
            below = gap[gap < 0].max(initial=self.values[0] - 1) + 1
            above = gap[gap > 0].min(initial=self.values[-1] + 1) - 1
            raise ValueError(
                f"{owner}: no expression of {length} instructions has the value {missing[0]} (nearest: {nearest}); "
                f"choose low and high within [{below}, {above}], or another length"
            )


@cache
def pool(length: int) -> Pool:
    """All expressions of `length` instructions over digits and `OPERATORS` whose value is an Int.

    Five instructions: 91,300 of 98,000 expressions have one (the others divide by 0), from -81 to 729; 35 have the
    value -20, 19,434 the value 0.
    """
    if length not in LENGTHS:
        raise ValueError(f"expressions have {' or '.join(map(str, LENGTHS))} instructions, not {length}")
    alphabets = {"d": range(10), "o": [vm.VOCAB.index(token) for token in OPERATORS]}
    shapes = [shape for shape in itertools.product("do", repeat=length) if _leaves_one(shape)]
    grids = [np.meshgrid(*(np.array(alphabets[s], np.uint8) for s in shape), indexing="ij") for shape in shapes]
    tokens = np.concatenate([np.stack([axis.ravel() for axis in grid], 1) for grid in grids])
    top = kernel.traces(tokens, entries=1).stack[:, -1, 0]
    fine = top.kind == kernel.INT_KIND
    tokens, value = tokens[fine], top.value[fine].astype(np.int64)
    order = np.argsort(value, kind="stable")
    values, starts = np.unique(value[order], return_index=True)
    return Pool(tokens[order], values, np.append(starts, len(order)))


def _leaves_one(shape: tuple[str, ...]) -> bool:
    """Whether digits and two-input operators in this order never underflow and leave one value."""
    depths = list(itertools.accumulate(1 if kind == "d" else -1 for kind in shape))
    return depths[-1] == 1 and min(depths) >= 1


def is_expression(text: str, length: int) -> bool:
    """Whether `text` is an expression of `length` instructions over digits and `OPERATORS`."""
    return (
        len(text) == length
        and all(token in DIGITS or token in OPERATORS for token in text)
        and _leaves_one(tuple("d" if token in DIGITS else "o" for token in text))
    )


def literal(value: int) -> str:
    """The canonical way to write a small integer: digits summed, largest first, negated at the end: 20 is `99+2+`."""
    nines, rest = divmod(abs(value), 9)
    digits = "9" * nines + (str(rest) if rest or not nines else "")
    return digits[0] + "".join(f"{digit}+" for digit in digits[1:]) + ("~" if value < 0 else "")
