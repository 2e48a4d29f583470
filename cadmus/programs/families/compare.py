"""`compare`: two computed numbers and the relation between them, `[941-*55*1+>.]` (the paper's `< >`, Figures 1-2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus.machine import vm
from cadmus.programs.parts.family import check_share, knob
from cadmus.programs.parts.pieces import Piece, choice
from cadmus.programs.parts.statements import Computed, Statements, draw_pairs

RELATIONS = ("<", "=", ">")  # by the sign of X - Y, plus 1


@dataclass(frozen=True)
class Compare(Statements):
    """X Y and one of `<`, `>`, `=`. The model decides after Y."""

    name: ClassVar[str] = "compare"
    equal_share: float = knob(0.1, "the share of statements with X = Y, which end in `=`")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_equal_share(self, self.equal_share)

    @property
    def statement_width(self) -> int:
        return 2 * self.length + 1

    @property
    def value_weights(self) -> np.ndarray:
        """The probability of each (X, Y): float [size, size] over low..high; uniform on and off the diagonal."""
        size = self.high - self.low + 1
        off_diagonal = (1 - self.equal_share) / (size * (size - 1)) if size > 1 else 0.0
        return np.where(np.eye(size, dtype=bool), self.equal_share / size, off_diagonal)

    def statement(self, n: int, rng: np.random.Generator) -> tuple[Piece, ...]:
        x, y = draw_pairs(self.low, self.high, self.equal_share, n, rng)
        return self.numbers.draw(x, rng), self.numbers.draw(y, rng), relation(x, y)

    def decision_position(self, statement: str) -> int | None:
        if statement[-1:] not in RELATIONS or self._numbers_in(statement[:-1]) != 2:
            return None
        return len(statement) - 1

    def assertion_for(self, stack: tuple[vm.Value, ...]) -> str | None:
        return relation_assertion(stack)


def relation(x: np.ndarray, y: np.ndarray) -> Piece:
    """The piece that is the relation of x to y, int [n] each: `<`, `=` or `>`."""
    return choice(RELATIONS, np.sign(x - y) + 1)


def relation_assertion(stack: tuple[vm.Value, ...]) -> str | None:
    """The relation between the two values on top of the stack; None unless both are Ints."""
    x, y = stack[-2:]
    if not isinstance(x, vm.Int) or not isinstance(y, vm.Int):
        return None
    return RELATIONS[(x.v > y.v) - (x.v < y.v) + 1]


def check_equal_share(family: Computed, equal_share: float) -> None:
    """Raise ValueError where equal_share is not a share, or X and Y cannot differ though they should."""
    check_share(family, "equal_share")
    if family.low == family.high and equal_share < 1:
        raise ValueError(f"{family.name}: X and Y can only be equal (low = high = {family.low}); set equal_share = 1")
