"""What the families of computed numbers share: their knobs, and programs as one statement or several in a row."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from cadmus.machine import vm
from cadmus.programs.parts.expressions import MAX_ENUMERATED, MAX_LENGTH, OPERATORS, UNARY, read_expressions
from cadmus.programs.parts.family import (
    Family,
    body_of,
    check_between,
    check_tokens,
    check_zipf,
    knob,
    shared_knob,
    statement_decision_positions,
)
from cadmus.programs.parts.numbers import Numbers
from cadmus.programs.parts.pieces import Piece, join, same


@dataclass(frozen=True)
class Computed(Family):
    """Statements about numbers that expressions compute; each leaves one true value.

    Values are drawn first (uniformly, so that they are balanced), then each expression among those with its value.
    """

    low: int = knob(-20, "the least value of an expression")
    high: int = knob(20, "the greatest value of an expression")
    length: int = knob(5, "instructions of the longest expression: 1 to 9")
    min_length: int = knob(0, "instructions of the shortest expression; 0: the same as length")
    operators: str = knob(OPERATORS, "the operators of expressions: some of + - * / % x n ~ m; sets instruction pairs")
    digit_skew: float = shared_knob("digit_skew")
    skeletons: int = knob(0, "distinct skeletons of an expression, per length (up to 5); 0: all. Fewer: less diversity")
    zipf: float = knob(0.0, "multiplies the weight of an expression's k-th skeleton by k ** -zipf; 0: all alike")
    assertions: int = shared_knob("assertions")

    def __post_init__(self) -> None:
        check_between(self, "length", 1, MAX_LENGTH)
        if self.min_length and not 1 <= self.min_length <= self.length:
            raise ValueError(f"{self.name}: min_length = {self.min_length} must be 0 or lie in 1..{self.length}")
        if self.operators or self.length > 1:  # a digit needs none
            check_tokens(self, "operators", OPERATORS + UNARY)
        check_between(self, "assertions", 1, 8)
        check_zipf(self)
        if (self.skeletons or self.zipf) and self.length > MAX_ENUMERATED:
            raise ValueError(
                f"{self.name}: skeletons and zipf choose among listed expressions, so length = {self.length} must be "
                f"{MAX_ENUMERATED} or less"
            )
        self.numbers.require(self.name)

    @property
    def numbers(self) -> Numbers:
        """The expressions in use; those of an even length need a unary operator."""
        shortest = self.min_length or self.length
        has_unary = bool(set(self.operators) & set(UNARY))
        lengths = tuple(k for k in range(shortest, self.length + 1) if k % 2 or has_unary) or (shortest,)
        return Numbers(
            low=self.low,
            high=self.high,
            lengths=lengths,
            operators=self.operators,
            digit_skew=self.digit_skew,
            skeletons=self.skeletons,
            zipf=self.zipf,
        )

    @abstractmethod
    def decision_position(self, statement: str) -> int | None:
        """Where in a statement of this form a model must decide; None where it is of another form."""

    def decision_positions(self, text: str) -> tuple[int, ...] | None:
        return statement_decision_positions(body_of(text), self.assertions, self.decision_position)

    def _numbers_in(self, text: str) -> int | None:
        """How many of this family's expressions `text` concatenates; None where it holds anything else."""
        parts = read_expressions(text, self.operators)
        lengths = self.numbers.lengths
        return len(parts) if parts and all(len(part) in lengths for part in parts) else None


class Statements(Computed):
    """Programs that are nothing but such statements, drawn independently."""

    @property
    @abstractmethod
    def statement_width(self) -> int:
        """The most tokens of a statement."""

    @abstractmethod
    def statement(self, n: int, rng: np.random.Generator) -> tuple[Piece, ...]:
        """Draw one statement for each of `n` programs."""

    @property
    def width(self) -> int:
        return self.assertions * self.statement_width + 1

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        pieces = [piece for _ in range(self.assertions) for piece in self.statement(n, rng)]
        return join(self.width, *pieces, same(vm.END, n))


def draw_pairs(
    low: int, high: int, equal_share: float, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `n` pairs of values in [low, high]: X uniform; Y = X with probability `equal_share`, else uniform on the
    rest."""
    x = rng.integers(low, high + 1, n)
    return x, draw_partners(x, low, high, equal_share, rng)


def draw_partners(x: np.ndarray, low: int, high: int, equal_share: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a value in [low, high] for each of `x`: the same with probability `equal_share`, else uniform on the
    rest."""
    shift = rng.integers(1, high - low + 1, len(x)) if high > low else np.zeros(len(x), np.int64)
    other = low + (x - low + shift) % (high - low + 1)
    return np.where(rng.random(len(x)) < equal_share, x, other)
