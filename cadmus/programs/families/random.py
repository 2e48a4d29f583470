"""`random`: true-programs of any instructions, made by drawing tokens and keeping what the machine finds true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cadmus.machine import kernel, vm
from cadmus.machine.tokens import PAD
from cadmus.programs.parts.expressions import DIGITS
from cadmus.programs.parts.family import Family, body_of, check_range, check_share, check_tokens, knob
from cadmus.programs.parts.pieces import ids

_ANY = vm.VOCAB.replace(vm.END, "")
_CANDIDATES = 1 << 18  # drawn at once
_MAX_ROUNDS = 2000


@dataclass(frozen=True)
class Random(Family):
    """Tokens drawn independently, kept where the program is true; lengths are uniform. The model decides halfway."""

    name: ClassVar[str] = "random"
    min_length: int = knob(3, "instructions of the shortest program")
    max_length: int = knob(8, "instructions of the longest program")
    instructions: str = knob(_ANY, "the instructions in use")
    digit_share: float = knob(0.3, "the share of digits among the tokens drawn, before what is false is dropped")

    def __post_init__(self) -> None:
        check_range(self, "length", 2, 32)
        check_tokens(self, "instructions", _ANY)
        check_share(self, "digit_share")
        digits, others = self._alphabets()
        if not others and self.digit_share < 1:
            raise ValueError(f"{self.name}: instructions are digits only, so digit_share must be 1")
        if not digits and self.digit_share > 0:
            raise ValueError(f"{self.name}: instructions hold no digit, so digit_share must be 0")

    def _alphabets(self) -> tuple[str, str]:
        """The digits in use and the other instructions."""
        return (
            "".join(token for token in self.instructions if token in DIGITS),
            "".join(token for token in self.instructions if token not in DIGITS),
        )

    @property
    def width(self) -> int:
        return self.max_length + 1

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        lengths = rng.integers(self.min_length, self.max_length + 1, n)
        out = np.full((n, self.width), PAD, np.uint8)
        open_rows = np.arange(n)
        for _ in range(_MAX_ROUNDS):
            if not len(open_rows):
                return out
            rows = np.repeat(open_rows, max(1, _CANDIDATES // len(open_rows)))
            candidates = self._candidates(lengths[rows], rng)
            true = np.flatnonzero(kernel.verdicts(candidates))
            true_rows, first = np.unique(rows[true], return_index=True)
            out[true_rows] = candidates[true[first]]
            open_rows = np.setdiff1d(open_rows, true_rows, assume_unique=True)
        raise ValueError(
            f"{self.name}: {len(open_rows)} of {n} true-programs were not found; shorten them, or use more instructions"
        )

    def _candidates(self, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw texts of these lengths, int [n], true or not: uint8 [n, width]."""
        digits, others = (ids(alphabet) for alphabet in self._alphabets())
        shape = (len(lengths), self.width)
        tokens = others[rng.integers(0, len(others), shape)] if len(others) else np.zeros(shape, np.uint8)
        if len(digits):
            is_digit = rng.random(shape) < self.digit_share
            tokens = np.where(is_digit, digits[rng.integers(0, len(digits), shape)], tokens)
        return np.where(np.arange(self.width) < lengths[:, None], tokens, PAD).astype(np.uint8)

    # --- texts -------------------------------------------------------------------------------------------------------

    def decision_positions(self, text: str) -> tuple[int, ...] | None:
        body = body_of(text)
        if not self.min_length <= len(body) <= self.max_length or set(body) - set(self.instructions):
            return None
        return (len(body) // 2,)

    def assertion_for(self, stack: tuple[vm.Value, ...]) -> str | None:
        return None  # many completions are as good: `answer` gives the text's own

    def answer(self, text: str, position: int) -> str | None:
        return body_of(text)[position:] + vm.END if position in self.decisions(text) else None
