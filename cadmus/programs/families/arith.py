"""`arith`: basic math, an expression and the digit that is its value: `[34+7=.]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus.machine import vm
from cadmus.programs.parts.expressions import DIGITS
from cadmus.programs.parts.family import knob
from cadmus.programs.parts.pieces import Piece, choice, same
from cadmus.programs.parts.statements import Statements


@dataclass(frozen=True)
class Arith(Statements):
    """X, the digit of its value, `=`. The model decides after X: what is its value?"""

    name: ClassVar[str] = "arith"
    low: int = knob(0, "the least value of X; a digit")
    high: int = knob(9, "the greatest value of X; a digit")
    min_length: int = knob(3, "instructions of the shortest expression; 0: the same as length")

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 9:
            raise ValueError(
                f"{self.name}: X equals a digit, so low = {self.low} and high = {self.high} must lie in 0..9, low first"
            )
        super().__post_init__()

    @property
    def statement_width(self) -> int:
        return self.length + 2

    def statement(self, n: int, rng: np.random.Generator) -> tuple[Piece, ...]:
        values = rng.integers(self.low, self.high + 1, n)
        return self.numbers.draw(values, rng), choice(tuple(DIGITS), values), same("=", n)

    def decision_position(self, statement: str) -> int | None:
        ends_in_digit = statement[-1:] == "=" and statement[-2:-1] in tuple(DIGITS)
        if not ends_in_digit or self._numbers_in(statement[:-2]) != 1:
            return None
        return len(statement) - 2

    def assertion_for(self, stack: tuple[vm.Value, ...]) -> str | None:
        value = stack[-1]
        return f"{value.v}=" if isinstance(value, vm.Int) and 0 <= value.v <= 9 else None
