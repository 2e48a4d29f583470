"""`label`: a predicate, then sequences for which it is true, or not: `[{#1>}(1,2,3,f(7,f!.]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus.machine import vm
from cadmus.programs.parts.family import body_of
from cadmus.programs.parts.pieces import Piece, choice, join, same
from cadmus.programs.parts.predicates import Examples, sequence_pattern

_STATEMENT = re.compile(r"[^f]+f!?")


@dataclass(frozen=True)
class Label(Examples):
    """A definition, then examples: a sequence, `f`, and where that is false `!`. The model decides after each `f`."""

    name: ClassVar[str] = "label"

    @property
    def width(self) -> int:
        return self.predicate_width + 2 + self.max_examples * (self.sequence_width + 2) + 1

    def assemble(self, n: int, predicate: Piece, examples: list[tuple[Piece, np.ndarray, np.ndarray]]) -> np.ndarray:
        pieces = [same("{", n), predicate, same("}", n)]
        for sequence, label, present in examples:
            pieces += [sequence, choice(("", "f", "f!"), np.where(present, 2 - label, 0))]
        return join(self.width, *pieces, same(vm.END, n))

    def decision_positions(self, text: str) -> tuple[int, ...] | None:
        sequence = sequence_pattern(self.min_elements, self.max_elements)
        match = re.fullmatch(
            rf"(\{{[^{{}}]+\}})((?:{sequence}f!?){{{self.min_examples},{self.max_examples}}})", body_of(text)
        )
        if match is None:
            return None
        positions, start = [], match.start(2)
        for example in _STATEMENT.findall(match[2]):
            positions.append(start + len(example.removesuffix("!")))
            start += len(example)
        return tuple(positions)

    def assertion_for(self, stack: tuple[vm.Value, ...]) -> str | None:
        if stack[-1] is vm.NAN:
            return None
        return "" if vm.truth(stack[-1]) else "!"
