"""`induce`: labelled examples, then an algorithm that explains them: `[(1,2,3,f1=(2,3,f1=(7,f0={#1>}.]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus.machine import vm
from cadmus.programs.parts.family import body_of, check_range, knob
from cadmus.programs.parts.pieces import Piece, choice, fill_slots, join, same
from cadmus.programs.parts.predicates import Examples, sequence_pattern


@dataclass(frozen=True)
class Induce(Examples):
    """Examples, each a sequence and what `f` says of it, then the definition of f. The model decides there: it must
    find an algorithm that gives these labels (`answer` is the hidden one). Both labels occur in every program."""

    name: ClassVar[str] = "induce"
    both_labels: ClassVar[bool] = True
    min_examples: int = knob(3, "the fewest examples of a program")
    max_examples: int = knob(5, "the most examples of a program; more leave fewer algorithms open")

    def __post_init__(self) -> None:
        check_range(self, "examples", 2, 16)
        super().__post_init__()
        if not 0 < self.false_share < 1:
            raise ValueError(
                f"{self.name}: both labels occur in every program, so false_share = {self.false_share} must lie "
                "between 0 and 1"
            )

    @property
    def width(self) -> int:
        return self.predicate_width + 2 + self.max_examples * (self.sequence_width + 3) + 1

    def assemble(self, n: int, predicate: Piece, examples: list[tuple[Piece, np.ndarray, np.ndarray]]) -> np.ndarray:
        pieces = []
        for sequence, label, present in examples:
            pieces += [sequence, choice(("", "f0=", "f1="), np.where(present, 1 + label, 0))]
        return join(self.width, *pieces, same("{", n), predicate, same("}", n), same(vm.END, n))

    def algorithm(self, text: str) -> str:
        """The definition in a text of this form, the hidden one or a model's: `{#1>}`."""
        (position,) = self.decisions(text)
        return body_of(text)[position:]

    def fresh_inputs(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `n` sequences as examples have them, uint8 [n, width], to try an algorithm on."""
        elements = rng.integers(self.min_elements, self.max_elements + 1, n)
        lists = choice(["(" + "_," * k for k in range(self.max_elements + 1)], elements)
        return fill_slots(join(self.sequence_width, lists), self.digit_skew, rng).tokens

    def decision_positions(self, text: str) -> tuple[int, ...] | None:
        sequence = sequence_pattern(self.min_elements, self.max_elements)
        examples = rf"((?:{sequence}f[01]=){{{self.min_examples},{self.max_examples}}})"
        match = re.fullmatch(examples + r"\{[^{}]+\}", body_of(text))
        return None if match is None else (match.end(1),)

    def assertion_for(self, stack: tuple[vm.Value, ...]) -> str | None:
        return None  # unreachable: what is decided is a definition
