"""`compare`: two computed numbers and the relation between them, `[941-*55*1+>.]` (the paper's `< >`, Figures 1-2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus import vm
from cadmus.families.base import Family, check_share, knob
from cadmus.families.expressions import is_expression, pool
from cadmus.tokens import PAD


@dataclass(frozen=True)
class Compare(Family):
    """X Y and one of `<`, `>`, `=`: X and Y are expressions of `length` instructions.

    Values are drawn first (see `value_weights`), then each expression uniformly among those with its value.
    """

    name: ClassVar[str] = "compare"
    low: int = knob(-20, "the least value of X and of Y")
    high: int = knob(20, "the greatest value of X and of Y")
    length: int = knob(5, "instructions of each expression: 1, 3 or 5")
    equal_share: float = knob(0.1, "the share of programs with X = Y, which end in `=`")

    def __post_init__(self) -> None:
        pool(self.length).require(self.low, self.high, self.name)
        check_share(self, "equal_share")
        if self.low == self.high and self.equal_share < 1:
            raise ValueError(f"{self.name}: X and Y can only be equal (low = high = {self.low}); set equal_share = 1")

    @property
    def width(self) -> int:
        return 2 * self.length + 2

    @property
    def value_weights(self) -> np.ndarray:
        """The probability of each (X, Y): float [size, size] over low..high; uniform on and off the diagonal."""
        size = self.high - self.low + 1
        off = (1 - self.equal_share) / (size * (size - 1)) if size > 1 else 0.0
        return np.where(np.eye(size, dtype=bool), self.equal_share / size, off)

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        x, y = draw_pairs(self.low, self.high, self.equal_share, n, rng)
        relation = np.choose(np.sign(x - y) + 1, [vm.VOCAB.index(token) for token in "<=>"])
        numbers = pool(self.length)
        end = np.full((n, 1), PAD)
        parts = (numbers.sample(x, rng), numbers.sample(y, rng), relation[:, None], end)
        return np.concatenate(parts, axis=1).astype(np.uint8)

    def accepts(self, text: str) -> bool:
        text, _, _ = text.partition(vm.END)
        x, y, relation = text[: self.length], text[self.length : -1], text[-1:]
        return relation in tuple("<>=") and is_expression(x, self.length) and is_expression(y, self.length)

    def decisions(self, text: str) -> tuple[int, ...]:
        return (2 * self.length,)

    def answer(self, text: str, cut: int) -> str | None:
        if cut not in self.decisions(text):
            return None
        return next((token + vm.END for token in "<=>" if vm.verdict(text[:cut] + token)), None)


def draw_pairs(
    low: int, high: int, equal_share: float, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`n` pairs of values in [low, high]: X uniform; Y = X with probability `equal_share`, else uniform on the rest."""
    x = rng.integers(low, high + 1, n)
    shift = rng.integers(1, high - low + 1, n) if high > low else np.zeros(n, np.int64)
    other = low + (x - low + shift) % (high - low + 1)
    return x, np.where(rng.random(n) < equal_share, x, other)
