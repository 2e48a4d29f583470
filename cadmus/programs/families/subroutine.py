"""`subroutine`: a number computed by calls, compared with another: `[{41-*}9f55*1+>.]` `[9f55*1+>{41-*}.]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from cadmus.machine import vm
from cadmus.programs.families.compare import check_equal_share, relation, relation_assertion
from cadmus.programs.parts.definitions import read_definitions
from cadmus.programs.parts.expressions import UNARY
from cadmus.programs.parts.family import (
    body_of,
    check_between,
    check_share,
    knob,
    shared_knob,
    statement_decision_positions,
)
from cadmus.programs.parts.pieces import choice, fill_slots, join, same
from cadmus.programs.parts.statements import Computed, draw_partners
from cadmus.programs.parts.structured import Structured, check_structures, tops_within

_STATEMENT = re.compile(r"([^fgh<>=!]+)([fgh]+)([^fgh<>=!]+)[<>=]")


@dataclass(frozen=True)
class Subroutine(Structured, Computed):
    """X, calls, Y and the relation of what the calls return to Y. A body applies one or two operators to its input.

    Where the definitions come first, the model decides the relations; where they come last, it decides there: it must
    find definitions that make the relations true.
    """

    name: ClassVar[str] = "subroutine"
    length: int = knob(3, "instructions of the longest expression: 1 to 9")
    min_length: int = knob(1, "instructions of the shortest expression; 0: the same as length")
    low: int = knob(0, "the least value of an expression and of what a call returns")
    high: int = knob(18, "the greatest value of an expression and of what a call returns")
    equal_share: float = knob(0.1, "the share of statements where both sides are equal, which end in `=`")
    subroutines: int = knob(1, "definitions per program: 1 (f), 2 (f, g) or 3 (f, g, h)")
    min_calls: int = knob(1, "the fewest calls of a statement; two in a row compose")
    max_calls: int = knob(2, "the most calls of a statement")
    skeletons: int = knob(0, "distinct structures (bodies and calls), and skeletons per expression; 0: all")
    zipf: float = knob(0.0, "multiplies the weight of the k-th structure, or skeleton, by k ** -zipf; needs skeletons")
    after_share: float = shared_knob("after_share")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_structures(self)
        check_equal_share(self, self.equal_share)
        check_between(self, "subroutines", 1, 3)
        check_between(self, "min_calls", 1, 8)
        check_between(self, "max_calls", self.min_calls, 8)
        check_share(self, "after_share")
        if not _shapes(self.operators):
            raise ValueError(
                f"{self.name}: operators = {self.operators!r} has none of + - * / % x n, which bodies need"
            )

    @property
    def width(self) -> int:
        return self.subroutines * 6 + self.assertions * (2 * self.length + self.max_calls + 1) + 1

    def structures(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw structures, int [n, 1 + subroutines + assertions * (1 + max_calls)]: whether definitions come last, the
        shape of each body, and of each statement the number of calls and whom they call."""
        last = rng.random((n, 1)) < self.after_share
        bodies = rng.integers(0, len(_shapes(self.operators)), (n, self.subroutines))
        counts = rng.integers(self.min_calls, self.max_calls + 1, (n, self.assertions, 1))
        slots = rng.integers(0, self.subroutines, (n, self.assertions, self.max_calls))
        calls = np.concatenate([counts, slots * (np.arange(self.max_calls) < counts)], 2)
        return np.concatenate([last, bodies, calls.reshape(n, self.assertions * (1 + self.max_calls))], 1)

    def fill(self, structures: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        n = len(structures)
        shapes = _shapes(self.operators)
        last = structures[:, 0] == 1
        bodies = structures[:, 1 : 1 + self.subroutines]
        # [n, assertions * (1 + max_calls)] -> [n, assertions, 1 + max_calls]
        statements = structures[:, 1 + self.subroutines :].reshape(n, self.assertions, 1 + self.max_calls)
        definitions = []
        for shape in bodies.T:
            body = fill_slots(join(6, choice(shapes, shape)), self.digit_skew, rng)
            definitions += [same("{", n), body, same("}", n)]
        pieces = []
        valid = np.ones(n, np.bool_)
        for statement in statements.transpose(1, 0, 2):  # [n, 1 + max_calls]
            x = self.numbers.draw(rng.integers(self.low, self.high + 1, n), rng)
            calls = [
                choice(("f", "g", "h", ""), np.where(k < statement[:, 0], statement[:, 1 + k], 3))
                for k in range(self.max_calls)
            ]
            returns = join(self.width, *definitions, x, *calls, same(vm.END, n))
            within, value = tops_within(returns, self.low, self.high)
            valid &= within
            y = draw_partners(value, self.low, self.high, self.equal_share, rng)
            pieces += [x, *calls, self.numbers.draw(y, rng), relation(value, y)]
        before_use = join(self.width, *definitions, *pieces, same(vm.END, n))
        after_use = join(self.width, *pieces, *definitions, same(vm.END, n))
        return np.where(last[:, None], after_use, before_use), valid

    def decision_position(self, statement: str) -> int | None:
        match = _STATEMENT.fullmatch(statement)
        if match is None or self._numbers_in(match[1]) != 1 or self._numbers_in(match[3]) != 1:
            return None
        calls = match[2]
        if not self.min_calls <= len(calls) <= self.max_calls or set(calls) - set("fgh"[: self.subroutines]):
            return None
        return len(statement) - 1

    def assertion_for(self, stack: tuple[vm.Value, ...]) -> str | None:
        return relation_assertion(stack)

    def decision_positions(self, text: str) -> tuple[int, ...] | None:
        parts = read_definitions(body_of(text))
        if parts is None or parts.n_definitions != self.subroutines:
            return None
        positions = statement_decision_positions(parts.rest, self.assertions, self.decision_position)
        return None if positions is None else parts.decision_positions(positions)


@lru_cache(maxsize=16)
def _shapes(operators: str) -> tuple[str, ...]:
    """The bodies over these operators, with slots: `_*`, `__-*`, `_+_*`."""
    binary = [o for o in operators if o not in UNARY]
    pairs = [(a, b) for a in binary for b in binary]
    single = [f"_{a}" for a in binary]
    nested = [f"__{a}{b}" for a, b in pairs]
    chained = [f"_{a}_{b}" for a, b in pairs]
    return tuple(single + nested + chained)
