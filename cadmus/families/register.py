"""`register`: straight-line programs over the registers, then assertions about what they hold.

`[3A4Bab+7=.]`: stores of digits and of values computed from registers, some overwritten; each assertion loads one or
two registers and states the result. The model decides after the loads: it must have tracked the registers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import njit

from cadmus import vm
from cadmus.families.base import Family, check_share, knob
from cadmus.families.expressions import literal
from cadmus.tokens import PAD

_STORE, _LOAD, _EQUAL = map(vm.VOCAB.index, "Aa=")
_PLUS, _MINUS, _TIMES, _MAXIMUM, _MINIMUM = map(vm.VOCAB.index, "+-*xn")
_TRIES = 16  # dependent stores drawn before a store of a literal takes their place, where all leave the range

_LITERAL = r"[0-9](?:[0-9]\+)*~?"


@dataclass(frozen=True)
class Register(Family):
    """Stores, then assertions. Every value a register holds, and every value asserted, lies in [low, high]."""

    name: ClassVar[str] = "register"
    low: int = knob(0, "the least value that a register holds; below 0 is written with `~`")
    high: int = knob(9, "the greatest value that a register holds; above 9 is written as a sum of digits")
    registers: str = knob("abcd", "the registers in use")
    min_stores: int = knob(2, "the fewest stores of a program")
    max_stores: int = knob(4, "the most stores of a program")
    dependent_share: float = knob(0.25, "the share of stores (after the first) computed from a register: chains")
    overwrite_share: float = knob(0.25, "the share of stores (after the first) into a register already stored: age")
    operators: str = knob("+-", "the operators of dependent stores and of assertions about two registers")
    assertions: int = knob(1, "assertions per program, each with its own decision position")
    pair_share: float = knob(0.25, "the share of assertions about two registers")

    def __post_init__(self) -> None:
        if not -81 <= self.low <= 0 <= self.high <= 81:
            raise ValueError(f"{self.name}: [low, high] = [{self.low}, {self.high}] must hold 0 and lie in [-81, 81]")
        if (
            not self.registers
            or set(self.registers) - set(vm.REGISTERS)
            or len(set(self.registers)) < len(self.registers)
        ):
            raise ValueError(f"{self.name}: registers = {self.registers!r} must be some of abcd, each once")
        if not 1 <= self.min_stores <= self.max_stores <= 16:
            raise ValueError(
                f"{self.name}: min_stores = {self.min_stores} and max_stores = {self.max_stores} "
                "must have 1 <= min_stores <= max_stores <= 16"
            )
        if not self.operators or set(self.operators) - set("+-*xn"):
            raise ValueError(f"{self.name}: operators = {self.operators!r} must be one or more of + - * x n")
        if not 1 <= self.assertions <= 8:
            raise ValueError(f"{self.name}: assertions = {self.assertions} must lie in 1..8")
        check_share(self, "dependent_share", "overwrite_share", "pair_share")

    @property
    def width(self) -> int:
        longest = max(len(literal(value)) for value in (self.low, self.high))
        return self.max_stores * max(4, longest + 1) + self.assertions * (3 + longest + 1) + 1

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        texts = [literal(value) for value in range(self.low, self.high + 1)]
        literals = np.zeros((len(texts), max(map(len, texts)) + 1), np.uint8)  # length, then the token ids
        for row, text in zip(literals, texts, strict=True):
            row[0] = len(text)
            row[1 : len(text) + 1] = [vm.VOCAB.index(token) for token in text]
        out = np.full((n, self.width), PAD, np.uint8)
        _draw(
            rng,
            np.array([vm.REGISTERS.index(register) for register in self.registers]),
            np.array([vm.VOCAB.index(operator) for operator in self.operators]),
            literals,
            *(self.low, self.high, self.min_stores, self.max_stores, self.assertions),
            *(self.dependent_share, self.overwrite_share, self.pair_share),
            out,
        )
        return out

    def _parse(self, text: str) -> re.Match | None:
        """The stores and the assertions of a text of this family's form."""
        operators = "[" + re.escape(self.operators) + "]"
        load, store = f"[{self.registers}]", f"[{self.registers.upper()}]"
        store = f"(?:{_LITERAL}|{load}(?:[0-9]|{load}){operators}){store}"
        assertion = f"{load}(?:{load}{operators})?{_LITERAL}="
        body, _, _ = text.partition(vm.END)
        return re.fullmatch(f"((?:{store})+)((?:{assertion})+)", body)

    def accepts(self, text: str) -> bool:
        match = self._parse(text)
        return match is not None and match[2].count("=") == self.assertions

    def decisions(self, text: str) -> tuple[int, ...]:
        match = self._parse(text)
        if match is None:
            raise ValueError(f"{text!r} is not a program of the family {self.name} with these knobs")
        cuts, position = [], match.start(2)
        for assertion in match[2].split("=")[:-1]:
            cuts.append(position + re.search(_LITERAL + "$", assertion).start())
            position += len(assertion) + 1
        return tuple(cuts)

    def answer(self, text: str, cut: int) -> str | None:
        cuts = self.decisions(text)
        if cut not in cuts:
            return None
        value = vm.run(text[:cut]).outputs[-1]
        return literal(value.v) + ("=." if cut == cuts[-1] else "=")


@njit(cache=True)
def _apply(operator, a, b):
    if operator == _PLUS:
        return a + b
    if operator == _MINUS:
        return a - b
    if operator == _TIMES:
        return a * b
    return max(a, b) if operator == _MAXIMUM else min(a, b)


@njit(cache=True)
def _write_literal(row, at, literals, index):
    length = literals[index, 0]
    row[at : at + length] = literals[index, 1 : length + 1]
    return at + length


@njit(cache=True)
def _draw(
    rng,
    registers,
    operators,
    literals,
    low,
    high,
    min_stores,
    max_stores,
    assertions,
    dependent_share,
    overwrite_share,
    pair_share,
    out,
):
    """One program per row of `out`. `order[:used]` are the registers stored so far."""
    held = np.zeros(4, np.int64)
    order = registers.copy()
    for row in out:
        at = used = 0
        for _ in range(rng.integers(min_stores, max_stores + 1)):
            # what is stored: a value computed from a register, or a literal
            value, dependent = 0, False
            if used > 0 and rng.random() < dependent_share:
                for _ in range(_TRIES):
                    source = order[rng.integers(0, used)]
                    operator = operators[rng.integers(0, len(operators))]
                    second = order[rng.integers(0, used)] if rng.random() < 0.5 else -1
                    digit = rng.integers(0, 10)
                    value = _apply(operator, held[source], held[second] if second >= 0 else digit)
                    if low <= value <= high:
                        dependent = True
                        row[at] = _LOAD + source
                        row[at + 1] = _LOAD + second if second >= 0 else digit
                        row[at + 2] = operator
                        at += 3
                        break
            if not dependent:
                value = rng.integers(low, high + 1)
                at = _write_literal(row, at, literals, value - low)
            # where: a register already stored, or a new one, which joins the used
            if used > 0 and (used == len(order) or rng.random() < overwrite_share):
                target = order[rng.integers(0, used)]
            else:
                new = rng.integers(used, len(order))
                order[used], order[new] = order[new], order[used]
                target = order[used]
                used += 1
            held[target] = value
            row[at] = _STORE + target
            at += 1
        for _ in range(assertions):
            first = order[rng.integers(0, used)]
            value, pair = held[first], False
            if rng.random() < pair_share:
                for _ in range(_TRIES):
                    second = order[rng.integers(0, used)]
                    operator = operators[rng.integers(0, len(operators))]
                    result = _apply(operator, held[first], held[second])
                    if low <= result <= high:
                        value, pair = result, True
                        row[at], row[at + 1], row[at + 2] = _LOAD + first, _LOAD + second, operator
                        at += 3
                        break
            if not pair:
                row[at] = _LOAD + first
                at += 1
            at = _write_literal(row, at, literals, value - low)
            row[at] = _EQUAL
            at += 1
