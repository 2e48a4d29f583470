"""Programs put together from pieces: `join` lays a piece of every program behind the one before.

A piece is a table of short texts and, for each program, which of them it has. So a family reads as its programs do:
`join(width, x, y, relation, END)`. In a text, `_` is a slot: a place for a digit that is drawn later (`fill_slots`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cadmus.machine import tokens, vm
from cadmus.machine.jit import jit
from cadmus.machine.tokens import PAD

SLOT = 255  # in the place of a token id


@dataclass(frozen=True)
class Piece:
    """A part of n programs: program i has the row `index[i]` of a table of m texts."""

    tokens: np.ndarray
    """The texts: uint8 [m, width]."""

    lengths: np.ndarray
    """The tokens of each text: int64 [m]."""

    index: np.ndarray
    """The text of each program: int64 [n]."""

    def __getitem__(self, rows: np.ndarray) -> Piece:
        """The piece of some of the programs."""
        return Piece(self.tokens, self.lengths, self.index[rows])


def choice(texts: Sequence[str], index: np.ndarray) -> Piece:
    """The piece that is `texts[index[i]]` in program i; index is int [n]."""
    table, lengths = _table(tuple(texts))
    return Piece(table, lengths, index.astype(np.int64))


def same(text: str, n: int) -> Piece:
    """The piece that is one text in all `n` programs."""
    return choice((text,), np.zeros(n, np.int64))


def rows(table: np.ndarray, lengths: np.ndarray | int) -> Piece:
    """The piece that is a row of its own in each program: table uint8 [n, width]; lengths int [n], or one for all."""
    lengths = np.broadcast_to(np.asarray(lengths, np.int64), len(table))
    return Piece(np.ascontiguousarray(table), np.ascontiguousarray(lengths), np.arange(len(table)))


def as_piece(programs: np.ndarray) -> Piece:
    """The piece that is a program of its own, without its `.`, in each longer one: programs uint8 [n, width]."""
    return rows(programs, tokens.lengths(programs))


@lru_cache(maxsize=256)
def _table(texts: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of the texts, slots included, uint8 [m, width], and their lengths, int64 [m]."""
    width = max(1, *map(len, texts))
    table = tokens.encode([text.replace("_", "0") for text in texts], width)
    for row, text in zip(table, texts):
        row[: len(text)][np.array([token == "_" for token in text], np.bool_)] = SLOT
    return table, np.array([len(text) for text in texts], np.int64)


def join(width: int, *pieces: Piece) -> np.ndarray:
    """Lay the pieces of each program one behind the other: uint8 [n, width], padded with `.`.

    Raises ValueError where a program is longer than `width`.
    """
    out = np.full((len(pieces[0].index), width), PAD, np.uint8)
    ends = np.zeros(len(out), np.int64)
    for piece in pieces:
        if not _append(out, ends, piece.tokens, piece.lengths, piece.index):
            raise ValueError(f"a program of more than {width} tokens; this is a bug of its family's width")
    return out


@jit
def _append(out, ends, table, lengths, index):
    """Write a piece into `out` behind `ends`, which it moves; False where it does not fit."""
    for i in range(len(out)):
        row, at = index[i], ends[i]
        length = lengths[row]
        if at + length > out.shape[1]:
            return False
        for k in range(length):
            out[i, at + k] = table[row, k]
        ends[i] = at + length
    return True


# --- numbers written out ---------------------------------------------------------------------------------------------


def literal(value: int) -> str:
    """The canonical way to write a small integer: digits summed, largest first, negated at the end: 20 is `99+2+`."""
    nines, rest = divmod(abs(value), 9)
    digits = "9" * nines + (str(rest) if rest or not nines else "")
    return digits[0] + "".join(f"{digit}+" for digit in digits[1:]) + ("~" if value < 0 else "")


MAX_LITERAL = 81  # the largest magnitude that a family writes out
LITERAL = r"[0-9](?:[0-9]\+)*~?"  # what `literal` writes, and a little more


def literals(values: np.ndarray, low: int, high: int) -> Piece:
    """The piece that is the literal of `values[i]` in program i; values int [n], all in [low, high]."""
    return choice(tuple(literal(value) for value in range(low, high + 1)), values - low)


def literal_width(low: int, high: int) -> int:
    """The most tokens of a literal in [low, high]."""
    return max(len(literal(low)), len(literal(high)))


# --- random numbers --------------------------------------------------------------------------------------------------


def digits(shape: int | tuple[int, ...], skew: float, rng: np.random.Generator) -> np.ndarray:
    """Draw random digits uint8 [shape]; digit d has weight (d + 1) ** -skew, so 0 is uniform."""
    return ranks(10, skew, shape, rng).astype(np.uint8)


def ranks(count: int, exponent: float, shape: int | tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw random ranks 0..count-1, int64 [shape], with Zipf's weights (rank + 1) ** -exponent; 0 is uniform."""
    if exponent == 0:
        return rng.integers(0, count, shape)
    total = np.cumsum(np.arange(1, count + 1) ** -float(exponent))
    return np.searchsorted(total, rng.random(shape) * total[-1], side="right").clip(max=count - 1)


def fill_slots(templates: np.ndarray, skew: float, rng: np.random.Generator) -> Piece:
    """The piece that is a template of its own in each program, with a random digit in every slot: templates uint8
    [n, width], padded with `.`."""
    table = templates.copy()
    slots = table == SLOT
    table[slots] = digits(int(slots.sum()), skew, rng)
    return as_piece(table)


def ids(text: str) -> np.ndarray:
    """The token ids of a text: uint8 [len(text)]."""
    return np.array([vm.VOCAB.index(token) for token in text], np.uint8)
