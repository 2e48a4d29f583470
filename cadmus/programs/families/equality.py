"""`equality`: whether two computed numbers are equal, `[34+52+=.]`, and where not, the same negated: `[34+8=!.]`.

The same can be said by the difference, which is true where it is not 0: without `=`, `[34+52+-!.]` and `[34+8-.]`, or
so that what follows the numbers tells whether they are equal, `[34+52+=.]` and `[34+8-.]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus.machine import vm
from cadmus.programs.parts.family import body_of, check_share, knob, later_knob
from cadmus.programs.parts.pieces import Piece, choice
from cadmus.programs.parts.statements import Statements, draw_pairs

ENDS = {"=": ("=", "=!"), "-": ("-!", "-"), "=-": ("=", "-")}
"""How a statement ends by each test: where X = Y, and where not."""


@dataclass(frozen=True)
class Equality(Statements):
    """X Y `=` where X = Y, X Y `=!` where not; by the difference X Y `-!` and X Y `-`. The model decides after `=` or
    `-`: is a `!` needed? By either, X Y `=` and X Y `-`, it decides after Y."""

    name: ClassVar[str] = "equality"
    low: int = knob(-9, "the least value of X and of Y")
    high: int = knob(18, "the greatest value of X and of Y")
    length: int = knob(3, "instructions of the longest expression: 1 to 9")
    negated_share: float = knob(0.5, "the share of statements with X != Y, which end in `=!`")
    test: str = later_knob(
        "=",
        "what X and Y are tested by: =, - (their difference, which compares nothing), =- (= where X = Y, else -)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "negated_share")
        if self.low == self.high and self.negated_share > 0:
            raise ValueError(f"{self.name}: X and Y can only be equal (low = high = {self.low}); set negated_share = 0")
        if self.test not in ENDS:
            raise ValueError(f"{self.name}: test = {self.test!r} must be one of {' '.join(ENDS)}")
        if self.test != "=" and self.assertions > 1:  # a difference is an expression: nothing would end the statement
            raise ValueError(
                f"{self.name}: assertions = {self.assertions} must be 1 with test = {self.test!r}, or set test = '='"
            )

    @property
    def negates(self) -> bool:
        """Whether the model decides between `!` and nothing; if not, between `=` and `-`."""
        return self.test != "=-"

    @property
    def statement_width(self) -> int:
        return 2 * self.length + 2

    def statement(self, n: int, rng: np.random.Generator) -> tuple[Piece, ...]:
        x, y = draw_pairs(self.low, self.high, 1 - self.negated_share, n, rng)
        return self.numbers.draw(x, rng), self.numbers.draw(y, rng), choice(ENDS[self.test], x != y)

    def decision_positions(self, text: str) -> tuple[int, ...] | None:
        if self.test == "=":
            return super().decision_positions(text)
        position = self.decision_position(body_of(text))
        return None if position is None else (position,)

    def decision_position(self, statement: str) -> int | None:
        for end in ENDS[self.test]:
            if statement.endswith(end) and self._numbers_in(statement.removesuffix(end)) == 2:
                return len(statement) - len(end) + self.negates
        return None

    def assertion_for(self, stack: tuple[vm.Value, ...]) -> str | None:
        if self.negates:
            return None if stack[-1] is vm.NAN else "" if vm.truth(stack[-1]) else "!"
        x, y = stack[-2:]
        return None if vm.NAN in (x, y) else "=" if x == y else "-"
