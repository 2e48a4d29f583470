"""`sequence`: a sequence, perhaps reshaped, and what is asked of it: `[(1,2,3,1I2=.]` `[(4,1,(7,QRS48+=.]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus.machine import vm
from cadmus.machine.tokens import PAD
from cadmus.programs.parts.definitions import read_definitions
from cadmus.programs.parts.family import (
    body_of,
    check_between,
    check_literals,
    check_range,
    check_share,
    check_tokens,
    knob,
    literal_assertion,
    shared_knob,
    statement_decision_positions,
)
from cadmus.programs.parts.pieces import LITERAL, Piece, choice, fill_slots, join, literal_width, literals, same
from cadmus.programs.parts.structured import Structured, check_structures, tops_within

STEPS = {"R": ("R",), "T": ("T",), "Q": ("(_,Q", "(_,_,Q", "(_,_,_,Q")}
READINGS = {"#": "#", "S": "S", "X": "X", "I": "_I", "E": "_E"}


@dataclass(frozen=True)
class Sequence(Structured):
    """A sequence of digits (or a count up), steps that reshape it, a reading of it, the number read, `=`.

    The model decides after the reading: what does it give?
    """

    name: ClassVar[str] = "sequence"
    all_steps: ClassVar[dict[str, tuple[str, ...]]] = STEPS
    low: int = knob(0, "the least number read")
    high: int = knob(27, "the greatest number read; above 9 is written as a sum of digits")
    min_elements: int = knob(1, "the fewest elements of a sequence")
    max_elements: int = knob(5, "the most elements of a sequence")
    count_share: float = knob(0.1, "the share of sequences that count up, `5r`, in place of listing digits")
    steps: str = knob("RTQ", "the steps in use: R reverse, T tail, Q append another sequence")
    min_steps: int = knob(0, "the fewest steps")
    max_steps: int = knob(2, "the most steps")
    readings: str = knob("#SXIE", "the readings in use: # length, S sum, X largest, I element, E contains")
    digit_skew: float = shared_knob("digit_skew")
    skeletons: int = shared_knob("skeletons")
    zipf: float = shared_knob("zipf")
    assertions: int = shared_knob("assertions")

    def __post_init__(self) -> None:
        check_literals(self)
        check_range(self, "elements", 1, 16)
        check_range(self, "steps", 0, 8)
        check_share(self, "count_share")
        check_tokens(self, "steps", "".join(self.all_steps))
        check_tokens(self, "readings", "".join(READINGS))
        check_between(self, "assertions", 1, 8)
        check_structures(self)

    @property
    def width(self) -> int:
        statement_width = self._template_width + literal_width(self.low, self.high) + 1
        return self._definition_width + self.assertions * statement_width + 1

    @property
    def _definition_width(self) -> int:
        return 0

    @property
    def _template_width(self) -> int:
        step = max(len(text) for token in self.steps for text in self.all_steps[token])
        return 2 * self.max_elements + 1 + self.max_steps * step + 2 + 1

    def structures(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw a record per program: the template of its definition (`.` only where there is none), whether it comes
        last, and a template per statement."""
        record = [
            ("definition", np.uint8, 8),
            ("last", np.bool_),
            ("statements", np.uint8, (self.assertions, self._template_width)),
        ]
        out = np.zeros(n, record)
        out["definition"] = PAD
        for k in range(self.assertions):
            out["statements"][:, k] = self._templates(n, rng)
        return out

    def _templates(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw templates of statements, up to the reading: uint8 [n, template width]."""
        elements = rng.integers(self.min_elements, self.max_elements + 1, n)
        lists = ["_r", *("(" + "_," * k for k in range(1, self.max_elements + 1))]
        source = choice(lists, np.where(rng.random(n) < self.count_share, 0, elements))
        count = rng.integers(self.min_steps, self.max_steps + 1, n)
        steps = [self._step(k < count, rng) for k in range(self.max_steps)]
        reading = choice([READINGS[token] for token in self.readings], rng.integers(0, len(self.readings), n))
        return join(self._template_width, source, *steps, reading)

    def _step(self, present: np.ndarray, rng: np.random.Generator) -> Piece:
        """Draw one of the steps, each as likely, where it is `present`, bool [n]."""
        texts = ["", *(text for token in self.steps for text in self.all_steps[token])]
        forms = np.array([len(self.all_steps[token]) for token in self.steps])
        which = rng.integers(0, len(forms), len(present))
        form = (np.cumsum(forms) - forms)[which] + rng.integers(0, forms[which])
        return choice(texts, np.where(present, 1 + form, 0))

    def fill(self, structures: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        n = len(structures)
        definition = fill_slots(structures["definition"], self.digit_skew, rng)
        pieces = []
        valid = np.ones(n, np.bool_)
        for k in range(self.assertions):
            statement = fill_slots(structures["statements"][:, k], self.digit_skew, rng)
            within, value = tops_within(join(self.width, definition, statement), self.low, self.high)
            valid &= within
            pieces += [statement, literals(value, self.low, self.high), same("=", n)]
        end = same(vm.END, n)
        programs = join(self.width, definition, *pieces, end)
        last = structures["last"]
        if last.any():
            programs[last] = join(self.width, *(piece[last] for piece in (*pieces, definition, end)))
        return programs, valid

    # --- texts -------------------------------------------------------------------------------------------------------

    def decision_positions(self, text: str) -> tuple[int, ...] | None:
        parts = read_definitions(body_of(text))
        if parts is None or not self._defines_what_it_uses(parts.rest, parts.n_definitions):
            return None
        pattern = self._statement_pattern()

        def decision_position(statement: str) -> int | None:
            match = pattern.fullmatch(statement)
            return match and match.start("literal")

        positions = statement_decision_positions(parts.rest, self.assertions, decision_position)
        return None if positions is None else parts.decision_positions(positions)

    def assertion_for(self, stack: tuple[vm.Value, ...]) -> str | None:
        return literal_assertion(stack)

    def _defines_what_it_uses(self, rest: str, n_definitions: int) -> bool:
        """Whether a program with these statements has as many definitions as it should."""
        return n_definitions == 0

    def _statement_pattern(self) -> re.Pattern:
        lists = rf"\((?:[0-9],){{{self.min_elements},{self.max_elements}}}"
        source = f"(?:{lists}|[0-9]r)" if self.count_share else lists
        steps = "|".join(_as_pattern(text) for token in self.steps for text in self.all_steps[token])
        readings = "|".join(_as_pattern(READINGS[token]) for token in self.readings)
        steps = f"(?:{steps}){{{self.min_steps},{self.max_steps}}}"
        return re.compile(f"{source}{steps}(?:{readings})(?P<literal>{LITERAL})=")


def _as_pattern(text: str) -> str:
    """The regular expression of a template."""
    return "".join("[0-9]" if token == "_" else re.escape(token) for token in text)
