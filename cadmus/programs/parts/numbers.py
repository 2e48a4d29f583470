"""Numbers that expressions compute, of one length or of several: which values they reach, and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cadmus.machine.tokens import PAD
from cadmus.programs.parts.expressions import MAX_ENUMERATED, OPERATORS, Source, Weighting, pool, source
from cadmus.programs.parts.pieces import Piece, rows


@dataclass(frozen=True)
class Numbers:
    """Expressions with the values low..high. A value is given; its length is drawn uniformly among those of `lengths`
    that reach it, then the expression by weight (uniformly where nothing is skewed)."""

    low: int
    """The least value."""

    high: int
    """The greatest value."""

    lengths: tuple[int, ...]
    """The lengths in use, in instructions."""

    operators: str = OPERATORS
    """The operators in use."""

    digit_skew: float = 0.0
    """The skew of digits, as `Weighting` has it."""

    skeletons: int = 0
    """Distinct skeletons in use per length; 0: all."""

    zipf: float = 0.0
    """The exponent of the skeletons' weights."""

    @property
    def width(self) -> int:
        """The most tokens of an expression."""
        return max(self.lengths)

    def source(self, length: int) -> Source:
        """The weighted expressions of one length."""
        weighting = Weighting(self.operators, float(self.digit_skew), self.skeletons, float(self.zipf))
        return source(length, weighting)

    @property
    def _reached_values(self) -> np.ndarray:
        """The values that any length reaches, ascending."""
        return np.unique(np.concatenate([self.source(length).values for length in self.lengths]))

    @property
    def range(self) -> tuple[int, int]:
        """The widest range around 0 whose every value is reached."""
        reached_values = self._reached_values
        first, last = reached_values[0], reached_values[-1]
        gaps = np.setdiff1d(np.arange(first, last + 1), reached_values)
        low = gaps[gaps < 0].max(initial=first - 1) + 1
        high = gaps[gaps > 0].min(initial=last + 1) - 1
        return int(low), int(high)

    @property
    def counts(self) -> np.ndarray:
        """How many expressions have each of the values low..high, over all lengths (before skeletons are limited):
        int64 [high - low + 1]."""
        values = np.arange(self.low, self.high + 1)
        total = np.zeros(len(values), np.int64)
        for length in self.lengths:
            of_length = pool(length, self.operators)
            at = np.searchsorted(of_length.values, values).clip(max=len(of_length.values) - 1)
            total += np.where(of_length.values[at] == values, of_length.counts[at], 0)
        return total

    def all_expressions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every expression in use with its value and weight: tokens uint8 [m, length], int64 [m], float [m].

        Raises ValueError where they are of several lengths or longer than `MAX_ENUMERATED`.
        """
        if len(self.lengths) > 1 or self.lengths[0] > MAX_ENUMERATED:
            raise ValueError(
                f"expressions of {self.lengths} instructions are not listed; one length up to {MAX_ENUMERATED} is"
            )
        of_length = self.source(self.lengths[0])
        assert of_length.tokens is not None, "expressions of this length are listed"
        return of_length.tokens, np.repeat(of_length.values, np.diff(of_length.starts)), np.diff(of_length.ends)

    def require(self, owner: str) -> None:
        """Raise ValueError, naming what can be reached, unless every value in [low, high] is."""
        if self.low > self.high:
            raise ValueError(f"{owner}: low = {self.low} is above high = {self.high}; swap them")
        reached_values = self._reached_values
        unreached_values = np.setdiff1d(np.arange(self.low, self.high + 1), reached_values)
        if not len(unreached_values):
            return
        lengths = " or ".join(map(str, self.lengths))
        if not len(reached_values):
            raise ValueError(
                f"{owner}: no expression of {lengths} instructions exists over the operators {self.operators!r}; "
                "odd lengths need one of + - * / % x n, even ones one of ~ m"
            )
        limits = f" over {self.operators}" if self.operators != OPERATORS else ""
        limits += f" with {self.skeletons} skeletons" if self.skeletons else ""
        value = unreached_values[0]
        nearest = reached_values[np.abs(reached_values - value).argmin()]
        low, high = self.range
        raise ValueError(
            f"{owner}: no expression of {lengths} instructions{limits} has the value {value} (nearest: {nearest}); "
            f"choose low and high within [{low}, {high}], or another length"
        )

    def draw(self, values: np.ndarray, rng: np.random.Generator) -> Piece:
        """Draw an expression for each of `values`, int [n] in [low, high]."""
        if len(self.lengths) == 1:
            return rows(self.source(self.lengths[0]).draw(values, rng), self.lengths[0])
        reach = _reach(self)[:, values - self.low]
        length_index = np.where(reach, rng.random(reach.shape), -1.0).argmax(0)  # a random one of those that reach it
        table = np.full((len(values), self.width), PAD, np.uint8)
        for i, length in enumerate(self.lengths):
            mine = np.flatnonzero(length_index == i)
            if len(mine):
                table[mine, :length] = self.source(length).draw(values[mine], rng)
        return rows(table, np.array(self.lengths)[length_index])


@lru_cache(maxsize=64)
def _reach(numbers: Numbers) -> np.ndarray:
    """Which length reaches which value: bool [lengths, values low..high]."""
    values = np.arange(numbers.low, numbers.high + 1)
    return np.stack([np.isin(values, numbers.source(length).values) for length in numbers.lengths])
