"""Predicates over sequences and examples of them: what `label` and `induce` share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from cadmus.machine import kernel
from cadmus.machine.tokens import PAD, encode
from cadmus.programs.parts.family import check_range, check_share, knob, shared_knob
from cadmus.programs.parts.pieces import Piece, choice, digits, fill_slots, ids, join, rows, same
from cadmus.programs.parts.structured import Structured, check_structures

QUANTITIES = {"length": "#", "sum": "S", "largest": "X", "smallest": "~X~", "first": "0I", "last": "R0I"}
TESTS = {">": "_>", "<": "_<", "=": "_=", "odd": "2%", "even": "2%!"}
CONTAINS = ("_E", "_E!")
_MAX_TRIES = 12  # sequences drawn for a requested label before any label will do


@dataclass(frozen=True)
class Examples(Structured):
    """A predicate (a quantity of a sequence and a test of it) and sequences with its labels."""

    both_labels: ClassVar[bool] = False
    predicates: str = knob(
        "length sum largest smallest first last contains", "the quantities tested: fewer make f easier to find"
    )
    tests: str = knob("> < = odd even", "the tests of a quantity; contains has its own")
    min_elements: int = knob(1, "the fewest elements of a sequence")
    max_elements: int = knob(4, "the most elements of a sequence")
    min_examples: int = knob(1, "the fewest examples of a program")
    max_examples: int = knob(3, "the most examples of a program, each with its own decision position")
    false_share: float = knob(
        0.5, "the share of examples wanted false; a predicate that seldom allows it gives what it can"
    )
    digit_skew: float = shared_knob("digit_skew")
    skeletons: int = shared_knob("skeletons")
    zipf: float = shared_knob("zipf")

    def __post_init__(self) -> None:
        self._check_words("predicates", (*QUANTITIES, "contains"))
        self._check_words("tests", tuple(TESTS))
        check_range(self, "elements", 1, 16)
        check_range(self, "examples", 1, 16)
        check_share(self, "false_share")
        check_structures(self)

    def _check_words(self, name: str, allowed: tuple[str, ...]) -> None:
        """Raise ValueError unless the named knob holds some of the `allowed` words, each once."""
        words = getattr(self, name).split()
        if not words or set(words) - set(allowed) or len(set(words)) < len(words):
            raise ValueError(
                f"{self.name}: {name} = {getattr(self, name)!r} must be some of {' '.join(allowed)}, "
                "each once, with spaces between"
            )

    @property
    def sequence_width(self) -> int:
        """The most tokens of an example's sequence."""
        return 2 * self.max_elements + 1

    @property
    def predicate_width(self) -> int:
        """The most tokens of a predicate."""
        return max(map(len, _predicates(self.predicates, self.tests)))

    @abstractmethod
    def assemble(self, n: int, predicate: Piece, examples: list[tuple[Piece, np.ndarray, np.ndarray]]) -> np.ndarray:
        """Put programs together from predicates and examples, uint8 [n, width]. Of each example: its sequence (empty
        where it is absent), its label 0 or 1, int [n], and whether it is present, bool [n]."""

    def structures(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw the predicate and the number of elements of each example (0: it is absent): int
        [n, 1 + max_examples]."""
        predicate = rng.integers(0, len(_predicates(self.predicates, self.tests)), (n, 1))
        elements = rng.integers(self.min_elements, self.max_elements + 1, (n, self.max_examples))
        count = rng.integers(self.min_examples, self.max_examples + 1, (n, 1))
        return np.concatenate([predicate, elements * (np.arange(self.max_examples) < count)], 1)

    def fill(self, structures: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        n, k = len(structures), self.max_examples
        templates = choice(_predicates(self.predicates, self.tests), structures[:, 0])
        predicate = fill_slots(join(self.predicate_width, templates), self.digit_skew, rng)
        elements = structures[:, 1:]
        present = elements > 0
        sequences, labels = self._examples(predicate, elements.T.ravel(), rng)
        labels = labels.reshape(k, n).T  # [examples * n] -> [n, examples]
        valid = np.ones(n, np.bool_)
        if self.both_labels:
            valid = ((labels == 1) & present).any(1) & ((labels == 0) & present).any(1)
        examples = []
        for i in range(k):
            lengths = (2 * elements[:, i] + 1) * present[:, i]
            examples.append((rows(sequences[i * n : (i + 1) * n], lengths), labels[:, i], present[:, i]))
        return self.assemble(n, predicate, examples), valid

    def _examples(
        self, predicate: Piece, elements: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw a sequence of so many elements for every example, the examples of one place in their programs side by
        side: uint8 [examples * n, width], with the requested label if one is found, and the label that it has, int
        [examples * n]."""
        n, total = len(predicate.index), len(elements)
        requested = rng.random(total) >= self.false_share
        sequences = np.full((total, self.sequence_width), PAD, np.uint8)
        sequences[:, 0], sequences[:, 2::2] = encode(["(,"])[0]
        labels = np.zeros(total, np.int64)
        tests_length = _tests_length(predicate)
        width = self.predicate_width + 2 + self.sequence_width + 2
        open_rows = np.flatnonzero(elements)
        for _ in range(_MAX_TRIES):
            m = len(open_rows)
            sequences[open_rows, 1::2] = digits((m, self.max_elements), self.digit_skew, rng)
            body = predicate[open_rows % n]
            sequence = rows(sequences[open_rows], 2 * elements[open_rows] + 1)
            calls = join(width, same("{", m), body, same("}", m), sequence, same("f.", m))
            labels[open_rows] = kernel.verdicts(calls)
            again = (labels[open_rows] != requested[open_rows]) & ~tests_length[open_rows % n]
            open_rows = open_rows[again]
            if not len(open_rows):
                break
        return sequences, labels


def _tests_length(predicate: Piece) -> np.ndarray:
    """Which predicates test the length, so that digits do not change what they say: bool [n]."""
    return predicate.tokens[predicate.index, 0] == ids("#")[0]


@lru_cache(maxsize=16)
def _predicates(predicates: str, tests: str) -> tuple[str, ...]:
    """The bodies in use, as templates: `#_>`, `S2%`, `_E!`."""
    quantities = [QUANTITIES[word] for word in predicates.split() if word in QUANTITIES]
    bodies = [quantity + TESTS[test] for quantity in quantities for test in tests.split()]
    if "contains" in predicates.split():
        bodies += CONTAINS
    return tuple(bodies)


def sequence_pattern(minimum: int, maximum: int) -> str:
    """The regular expression of a listed sequence of `minimum` to `maximum` digits."""
    return rf"\((?:[0-9],){{{minimum},{maximum}}}"
