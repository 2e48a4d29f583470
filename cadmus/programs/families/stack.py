"""`stack`: digits, shuffles of the stack, then operators until one value remains: `[358@\\-+0=.]`.

Which digits meet which operator, and on which side, follows from the shuffles alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus.machine import vm
from cadmus.machine.tokens import PAD
from cadmus.programs.parts.family import (
    body_of,
    check_between,
    check_literals,
    check_range,
    check_tokens,
    knob,
    literal_assertion,
    shared_knob,
    statement_decision_positions,
)
from cadmus.programs.parts.pieces import LITERAL, SLOT, fill_slots, ids, join, literal_width, literals, same
from cadmus.programs.parts.structured import Structured, check_structures, tops_within

_SHUFFLES = r":\@o;"
_OPERATORS = "+-*xn"


@dataclass(frozen=True)
class Stack(Structured):
    """Digits, shuffles, operators, the value that remains, `=`. The model decides after the operators."""

    name: ClassVar[str] = "stack"
    low: int = knob(-9, "the least value asserted; below 0 is written with `~`")
    high: int = knob(9, "the greatest value asserted; above 9 is written as a sum of digits")
    min_values: int = knob(2, "the fewest digits at the start")
    max_values: int = knob(4, "the most digits at the start")
    min_shuffles: int = knob(1, "the fewest shuffles")
    max_shuffles: int = knob(3, "the most shuffles; more: the stack must be tracked for longer")
    shuffles: str = knob(_SHUFFLES, r"the shuffles in use: : duplicate, \ swap, @ rotate, o over, ; drop")
    max_depth: int = knob(5, "the most values on the stack of a statement")
    operators: str = knob("+-xn", "the operators that use the values up: some of + - * x n")
    digit_skew: float = shared_knob("digit_skew")
    skeletons: int = shared_knob("skeletons")
    zipf: float = shared_knob("zipf")
    assertions: int = shared_knob("assertions")

    def __post_init__(self) -> None:
        check_literals(self)
        check_range(self, "values", 1, 9)
        check_range(self, "shuffles", 0, 16)
        check_tokens(self, "shuffles", _SHUFFLES)
        check_between(self, "max_depth", self.max_values, 16)
        check_tokens(self, "operators", _OPERATORS)
        check_between(self, "assertions", 1, 8)
        check_structures(self)
        if self.min_shuffles and not any(self._allowed(token, self.min_values) for token in self.shuffles):
            raise ValueError(
                f"{self.name}: none of the shuffles {self.shuffles!r} works on {self.min_values} values within "
                f"max_depth = {self.max_depth}; raise min_values or max_depth, or set min_shuffles = 0"
            )

    @property
    def width(self) -> int:
        return self.assertions * (self._template_width + literal_width(self.low, self.high) + 1) + 1

    @property
    def _template_width(self) -> int:
        return self.max_values + self.max_shuffles + self.max_depth - 1

    def _allowed(self, token: str, depth: int) -> bool:
        """Whether a shuffle may follow where the statement has `depth` values."""
        row = vm.INSTRUCTIONS[token]
        return depth >= row.inputs and 1 <= depth - row.inputs + row.outputs <= self.max_depth

    def structures(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw a template per statement: uint8 [n, assertions, template width]."""
        return np.stack([self._templates(n, rng) for _ in range(self.assertions)], 1)

    def _templates(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw templates of statements, up to the operators: uint8 [n, template width]."""
        out = np.full((n, self._template_width), PAD, np.uint8)
        rows = np.arange(n)
        depth = rng.integers(self.min_values, self.max_values + 1, n)
        out[np.arange(out.shape[1]) < depth[:, None]] = SLOT
        at = depth.copy()  # where each text ends
        n_shuffles = rng.integers(self.min_shuffles, self.max_shuffles + 1, n)
        changes = np.array([vm.INSTRUCTIONS[token].outputs - vm.INSTRUCTIONS[token].inputs for token in self.shuffles])
        allowed = np.array([[self._allowed(token, d) for token in self.shuffles] for d in range(self.max_depth + 1)])
        shuffles = ids(self.shuffles)
        operators = ids(self.operators)
        for k in range(self.max_shuffles):
            which = np.where(allowed[depth], rng.random((n, len(shuffles))), -1.0).argmax(1)
            present = (k < n_shuffles) & allowed[depth].any(1)
            out[rows[present], at[present]] = shuffles[which[present]]
            depth += np.where(present, changes[which], 0)
            at += present
        for k in range(self.max_depth - 1):
            present = k < depth - 1
            out[rows[present], at[present]] = operators[rng.integers(0, len(operators), present.sum())]
            at += present
        return out

    def fill(self, structures: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        n = len(structures)
        pieces = []
        valid = np.ones(n, np.bool_)
        for k in range(self.assertions):
            statement = fill_slots(structures[:, k], self.digit_skew, rng)
            within, value = tops_within(statement.tokens, self.low, self.high)
            valid &= within
            pieces += [statement, literals(value, self.low, self.high), same("=", n)]
        return join(self.width, *pieces, same(vm.END, n)), valid

    # --- texts -------------------------------------------------------------------------------------------------------

    def decision_positions(self, text: str) -> tuple[int, ...] | None:
        shuffles, operators = (f"[{re.escape(tokens)}]" for tokens in (self.shuffles, self.operators))
        values = f"[0-9]{{{self.min_values},{self.max_values}}}"
        pattern = re.compile(f"({values})({shuffles}{{0,{self.max_shuffles}}})({operators}*)(?P<literal>{LITERAL})=")

        def decision_position(statement: str) -> int | None:
            match = pattern.fullmatch(statement)
            if match is None or not self._leaves_one(len(match[1]), match[2], len(match[3])):
                return None
            return match.start("literal")

        return statement_decision_positions(body_of(text), self.assertions, decision_position)

    def assertion_for(self, stack: tuple[vm.Value, ...]) -> str | None:
        return literal_assertion(stack)

    def _leaves_one(self, depth: int, shuffles: str, n_operators: int) -> bool:
        """Whether these shuffles of `depth` values, then so many operators, are a statement with these knobs."""
        for token in shuffles:
            if not self._allowed(token, depth):
                return False
            depth += vm.INSTRUCTIONS[token].outputs - vm.INSTRUCTIONS[token].inputs
        stuck = not any(self._allowed(token, depth) for token in self.shuffles)
        return (len(shuffles) >= self.min_shuffles or stuck) and n_operators == depth - 1
