"""`register`: straight-line programs over the registers, then assertions about what they hold.

`[3A4Bab+7=.]`: stores of digits and of values computed from registers, some overwritten; each assertion loads one or
two registers and states the result. The model decides after the loads: it must have tracked the registers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus.machine import vm
from cadmus.machine.jit import jit
from cadmus.machine.tokens import PAD
from cadmus.programs.parts.family import (
    body_of,
    check_between,
    check_range,
    check_share,
    check_tokens,
    knob,
    later_knob,
    literal_assertion,
    shared_knob,
    statement_decision_positions,
)
from cadmus.programs.parts.pieces import LITERAL, digits, ids, literal, literal_width, ranks
from cadmus.programs.parts.structured import Structured, check_structures

_STORE, _LOAD, _EQUAL = map(vm.VOCAB.index, "Aa=")
_PLUS, _MINUS, _TIMES, _MAXIMUM, _MINIMUM = map(vm.VOCAB.index, "+-*xn")
_MAX_TRIES = 200  # sets of stores drawn for a register of the requested age
_LITERAL, _WITH_DIGIT, _WITH_REGISTER = range(3)  # what is stored: a literal, or a register with one of the two


@dataclass(frozen=True)
class Register(Structured):
    """Stores, then assertions. Every value a register holds, and every value asserted, lies in [low, high]."""

    name: ClassVar[str] = "register"
    low: int = knob(0, "the least value that a register holds; below 0 is written with `~`")
    high: int = knob(9, "the greatest value that a register holds; above 9 is written as a sum of digits")
    registers: str = knob("abcd", "the registers in use")
    min_stores: int = knob(2, "the fewest stores of a program")
    max_stores: int = knob(4, "the most stores of a program")
    dependent_share: float = knob(0.25, "the share of stores (after the first) computed from a register: chains")
    overwrite_share: float = knob(0.25, "the share of stores (after the first) into a register already stored: age")
    dead_share: float = knob(
        0.5, "the share of overwrites that hit a value nobody read, where there are both: dead stores"
    )
    min_distance: int = knob(0, "the fewest stores between that of an asserted value and the first assertion: age")
    max_distance: int = knob(16, "the most stores between; programs without such a register are drawn again")
    operators: str = knob("+-", "the operators of dependent stores and of assertions about two registers")
    assertions: int = shared_knob("assertions")
    pair_share: float = knob(0.25, "the share of assertions about two registers")
    aged_pair_share: float = later_knob(
        0.0,
        "the share of these whose second register is of the requested age, as the first is; of the others it is any",
    )
    digit_skew: float = shared_knob("digit_skew")
    skeletons: int = shared_knob("skeletons")
    zipf: float = shared_knob("zipf")

    def __post_init__(self) -> None:
        if not -81 <= self.low <= 0 <= self.high <= 81:
            raise ValueError(f"{self.name}: [low, high] = [{self.low}, {self.high}] must hold 0 and lie in [-81, 81]")
        check_tokens(self, "registers", vm.REGISTERS)
        check_tokens(self, "operators", "+-*xn")
        check_range(self, "stores", 1, 16)
        check_range(self, "distance", 0, 16)
        if self.min_distance >= self.max_stores:
            raise ValueError(
                f"{self.name}: min_distance = {self.min_distance} stores cannot follow a store where there are at most "
                f"max_stores = {self.max_stores}; lower the one or raise the other"
            )
        check_between(self, "assertions", 1, 8)
        check_share(self, "dependent_share", "overwrite_share", "dead_share", "pair_share", "aged_pair_share")
        check_structures(self)

    @property
    def width(self) -> int:
        longest = literal_width(self.low, self.high)
        return self.max_stores * max(4, longest + 1) + self.assertions * (3 + longest + 1) + 1

    def structures(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw structures, int64 [n, 1 + 5 * max_stores + 4 * assertions]; see `_draw_structures`."""
        out = np.zeros((n, 1 + 5 * self.max_stores + 4 * self.assertions), np.int64)
        registers = np.array([vm.REGISTERS.index(register) for register in self.registers])
        _draw_structures(
            rng,
            registers,
            ids(self.operators).astype(np.int64),
            self.min_stores,
            self.max_stores,
            self.min_distance,
            self.max_distance,
            self.dependent_share,
            self.overwrite_share,
            self.dead_share,
            self.pair_share,
            self.aged_pair_share,
            out,
        )
        return out

    def fill(self, structures: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        n = len(structures)
        shape = (n, self.max_stores)
        out = np.full((n, self.width), PAD, np.uint8)
        valid = np.ones(n, np.bool_)
        texts = [literal(value) for value in range(self.low, self.high + 1)]
        literals = np.zeros((len(texts), max(map(len, texts)) + 1), np.uint8)  # length, then the token ids
        for row, text in zip(literals, texts, strict=True):
            row[0] = len(text)
            row[1 : len(text) + 1] = ids(text)
        stored_values = self.low + ranks(len(texts), self.digit_skew, shape, rng)
        operands = digits(shape, self.digit_skew, rng)
        _fill(structures, stored_values, operands, literals, self.low, self.high, self.max_stores, out, valid)
        return out, valid

    # --- texts -------------------------------------------------------------------------------------------------------

    def decision_positions(self, text: str) -> tuple[int, ...] | None:
        operators = f"[{re.escape(self.operators)}]"
        load = f"[{self.registers}]"
        store = f"(?:{LITERAL}|{load}(?:[0-9]|{load}){operators})[{self.registers.upper()}]"
        body = body_of(text)
        match = re.match(f"(?:{store})+", body)
        if match is None:
            return None
        stores = match.end()
        assertion = re.compile(f"{load}(?:{load}{operators})?({LITERAL})=")

        def decision_position(statement: str) -> int | None:
            match = assertion.fullmatch(statement)
            return match and match.start(1)

        positions = statement_decision_positions(body[stores:], self.assertions, decision_position)
        return None if positions is None else tuple(stores + position for position in positions)

    def assertion_for(self, stack: tuple[vm.Value, ...]) -> str | None:
        return literal_assertion(stack)


# --- compiled --------------------------------------------------------------------------------------------------------


@jit
def _draw_structures(
    rng,
    registers,
    operators,
    min_stores,
    max_stores,
    min_distance,
    max_distance,
    dependent_share,
    overwrite_share,
    dead_share,
    pair_share,
    aged_pair_share,
    out,
):
    """Draw one structure per row: the number of stores; per store what is stored, its two registers, the operator and
    the target; per assertion whether it is of two registers, which, and the operator."""
    order = registers.copy()  # order[:used] are the registers stored so far
    unread = np.zeros(4, np.bool_)
    stored_at = np.zeros(4, np.int64)
    for row in out:
        for _ in range(_MAX_TRIES):
            row[0] = stores = rng.integers(min_stores, max_stores + 1)
            used = _draw_stores(
                rng, order, unread, stored_at, operators, dependent_share, overwrite_share, dead_share, row[1:], stores
            )
            fitting = 0  # registers whose value is of the requested age
            for i in range(used):
                fitting += min_distance <= stores - 1 - stored_at[order[i]] <= max_distance
            if fitting > 0:
                break
        oldest, youngest = stores - 1 - max_distance, stores - 1 - min_distance
        for k in range(1 + 5 * max_stores, len(row), 4):
            row[k : k + 4] = 0
            row[k + 1] = _of_age(rng, order, stored_at, used, fitting, oldest, youngest)
            if rng.random() < pair_share:
                row[k] = 1
                if aged_pair_share > 0 and rng.random() < aged_pair_share:
                    row[k + 2] = _of_age(rng, order, stored_at, used, fitting, oldest, youngest)
                else:
                    row[k + 2] = order[rng.integers(0, used)]
                row[k + 3] = operators[rng.integers(0, len(operators))]


@jit
def _of_age(rng, order, stored_at, used, fitting, oldest, youngest):
    """One of the `fitting` registers stored last at stores `oldest` to `youngest`; any in use where there is none."""
    nth = rng.integers(0, fitting if fitting > 0 else used)
    register = order[nth]
    for i in range(used):
        if fitting > 0 and oldest <= stored_at[order[i]] <= youngest:
            if nth == 0:
                register = order[i]
            nth -= 1
    return register


@jit
def _draw_stores(rng, order, unread, stored_at, operators, dependent_share, overwrite_share, dead_share, row, stores):
    """Fill in what is stored and where; returns how many registers are in use, the first of `order`."""
    used = 0
    row[:] = 0
    for k in range(stores):
        store = row[5 * k : 5 * k + 5]
        if used > 0 and rng.random() < dependent_share:
            store[0] = _WITH_REGISTER if rng.random() < 0.5 else _WITH_DIGIT
            store[1] = order[rng.integers(0, used)]
            unread[store[1]] = False
            if store[0] == _WITH_REGISTER:
                store[2] = order[rng.integers(0, used)]
                unread[store[2]] = False
            store[3] = operators[rng.integers(0, len(operators))]
        if used > 0 and (used == len(order) or rng.random() < overwrite_share):
            dead = rng.random() < dead_share
            matching = 0  # used registers that are unread, or read, as the overwrite asks
            for i in range(used):
                matching += unread[order[i]] == dead
            nth = rng.integers(0, matching if matching > 0 else used)
            target = order[0]
            for i in range(used):
                if matching == 0 or unread[order[i]] == dead:
                    if nth == 0:
                        target = order[i]
                        break
                    nth -= 1
        else:
            new = rng.integers(used, len(order))
            order[used], order[new] = order[new], order[used]
            target = order[used]
            used += 1
        store[4] = target
        unread[target] = True
        stored_at[target] = k
    return used


@jit
def _apply(operator, a, b):
    """The result of an operator, a token id, on two values."""
    if operator == _PLUS:
        return a + b
    if operator == _MINUS:
        return a - b
    if operator == _TIMES:
        return a * b
    return max(a, b) if operator == _MAXIMUM else min(a, b)


@jit
def _write_literal(row, at, literals, index):
    """Write literal number `index` into `row` at `at`; returns where it ends."""
    length = literals[index, 0]
    row[at : at + length] = literals[index, 1 : length + 1]
    return at + length


@jit
def _fill(structures, stored_values, operands, literals, low, high, max_stores, out, valid):
    """Write the program of each structure; `valid` says whose values all lie in [low, high]."""
    contents = np.zeros(4, np.int64)  # of the registers
    for i in range(len(structures)):
        structure, row, at = structures[i], out[i], 0
        for k in range(structure[0]):
            store = structure[1 + 5 * k : 6 + 5 * k]
            if store[0] == _LITERAL:
                value = stored_values[i, k]
                at = _write_literal(row, at, literals, value - low)
            else:
                first = contents[store[1]]
                if store[0] == _WITH_REGISTER:
                    value = _apply(store[3], first, contents[store[2]])
                    row[at + 1] = _LOAD + store[2]
                else:
                    digit = np.int64(operands[i, k])
                    for _ in range(10):  # the drawn digit, else the next that keeps within the range
                        value = _apply(store[3], first, digit)
                        if low <= value <= high:
                            break
                        digit = (digit + 1) % 10
                    row[at + 1] = digit
                row[at] = _LOAD + store[1]
                row[at + 2] = store[3]
                at += 3
            valid[i] &= low <= value <= high
            contents[store[4]] = value
            row[at] = _STORE + store[4]
            at += 1
        for k in range(1 + 5 * max_stores, len(structure), 4):
            first = structure[k + 1]
            value = contents[first]
            row[at] = _LOAD + first
            at += 1
            if structure[k]:
                value = _apply(structure[k + 3], value, contents[structure[k + 2]])
                row[at], row[at + 1] = _LOAD + structure[k + 2], structure[k + 3]
                at += 2
            valid[i] &= low <= value <= high
            if not valid[i]:
                break
            at = _write_literal(row, at, literals, value - low)
            row[at] = _EQUAL
            at += 1
