"""`equality`: whether two computed numbers are equal, `[34+52+=.]`, and where not, the same negated: `[34+8=!.]`.

The same can be said without `=`, by the difference, which is true where it is not 0: `[34+52+-!.]` and `[34+8-.]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus.machine import vm
from cadmus.programs.parts.family import body_of, check_share, knob, later_knob
from cadmus.programs.parts.pieces import Piece, choice, same
from cadmus.programs.parts.statements import Statements, draw_pairs

TESTS = ("=", "-")


@dataclass(frozen=True)
class Equality(Statements):
    """X Y `=` where X = Y, X Y `=!` where not; by the difference X Y `-!` and X Y `-`. The model decides after `=` or
    `-`: is a `!` needed?"""

    name: ClassVar[str] = "equality"
    low: int = knob(-9, "the least value of X and of Y")
    high: int = knob(18, "the greatest value of X and of Y")
    length: int = knob(3, "instructions of the longest expression: 1 to 9")
    negated_share: float = knob(0.5, "the share of statements with X != Y, which end in `=!`")
    test: str = later_knob("=", "what X and Y are tested by: = or - (their difference, which compares nothing)")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "negated_share")
        if self.low == self.high and self.negated_share > 0:
            raise ValueError(f"{self.name}: X and Y can only be equal (low = high = {self.low}); set negated_share = 0")
        if self.test not in TESTS:
            raise ValueError(f"{self.name}: test = {self.test!r} must be one of {' '.join(TESTS)}")
        if self.test == "-" and self.assertions > 1:  # a difference is an expression: nothing would end the statement
            raise ValueError(
                f"{self.name}: assertions = {self.assertions} must be 1 with test = '-', or set test = '='"
            )

    @property
    def statement_width(self) -> int:
        return 2 * self.length + 2

    def statement(self, n: int, rng: np.random.Generator) -> tuple[Piece, ...]:
        x, y = draw_pairs(self.low, self.high, 1 - self.negated_share, n, rng)
        false = x != y if self.test == "=" else x == y  # without a `!`
        return self.numbers.draw(x, rng), self.numbers.draw(y, rng), same(self.test, n), choice(("", "!"), false)

    def decision_positions(self, text: str) -> tuple[int, ...] | None:
        if self.test == "=":
            return super().decision_positions(text)
        position = self.decision_position(body_of(text))
        return None if position is None else (position,)

    def decision_position(self, statement: str) -> int | None:
        pair = statement.removesuffix("!").removesuffix(self.test)
        if statement[len(pair) :] not in (self.test, f"{self.test}!") or self._numbers_in(pair) != 2:
            return None
        return len(pair) + 1

    def assertion_for(self, stack: tuple[vm.Value, ...]) -> str | None:
        if stack[-1] is vm.NAN:
            return None
        return "" if vm.truth(stack[-1]) else "!"
