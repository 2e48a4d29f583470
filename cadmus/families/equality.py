"""`equality`: whether two computed numbers are equal, `[34+7=.]`, and where not, the same negated: `[34+8=!.]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus import vm
from cadmus.families.base import Family, check_share, knob
from cadmus.families.compare import draw_pairs
from cadmus.families.expressions import is_expression, pool
from cadmus.tokens import PAD


@dataclass(frozen=True)
class Equality(Family):
    """X Y `=` where X = Y, X Y `=!` where not. The model decides after `=`: is a `!` needed?"""

    name: ClassVar[str] = "equality"
    low: int = knob(-9, "the least value of X and of Y")
    high: int = knob(18, "the greatest value of X and of Y")
    length: int = knob(3, "instructions of each expression: 1, 3 or 5")
    negated_share: float = knob(0.5, "the share of programs with X != Y, which end in `=!`")

    def __post_init__(self) -> None:
        pool(self.length).require(self.low, self.high, self.name)
        check_share(self, "negated_share")
        if self.low == self.high and self.negated_share > 0:
            raise ValueError(f"{self.name}: X and Y can only be equal (low = high = {self.low}); set negated_share = 0")

    @property
    def width(self) -> int:
        return 2 * self.length + 3

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        x, y = draw_pairs(self.low, self.high, 1 - self.negated_share, n, rng)
        equal = np.full(n, vm.VOCAB.index("="))
        negation = np.where(x == y, PAD, vm.VOCAB.index("!"))
        numbers = pool(self.length)
        end = np.full((n, 1), PAD)
        parts = (numbers.sample(x, rng), numbers.sample(y, rng), equal[:, None], negation[:, None], end)
        return np.concatenate(parts, axis=1).astype(np.uint8)

    def accepts(self, text: str) -> bool:
        text, _, _ = text.partition(vm.END)
        x, y = text[: self.length], text[self.length : 2 * self.length]
        ending = text[2 * self.length :]
        return ending in ("=", "=!") and is_expression(x, self.length) and is_expression(y, self.length)

    def decisions(self, text: str) -> tuple[int, ...]:
        return (2 * self.length + 1,)

    def answer(self, text: str, cut: int) -> str | None:
        if cut not in self.decisions(text):
            return None
        return ("" if vm.verdict(text[:cut]) else "!") + vm.END
