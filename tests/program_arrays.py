"""Program arrays of any content, and what they hash to, rederived: for the tests of tokens and of skeletons."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from cadmus.machine import tokens, vm


def plain_hash(text: str, key: str) -> int:
    """`tokens.hashes` as its docstring has it, over Python's integers."""
    mask = 2**64 - 1
    h = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    for character in text.partition(".")[0]:
        h = (h ^ vm.VOCAB.index(character)) * 0x100000001B3 & mask
    h = (h ^ h >> 33) * 0xFF51AFD7ED558CCD & mask
    h = (h ^ h >> 33) * 0xC4CEB9FE1A85EC53 & mask
    return h ^ h >> 33


def texts_of(array: np.ndarray) -> list[str]:
    """The text of each row up to its first `.`, if it has one, over Python's lists."""
    return ["".join(vm.VOCAB[token] for token in row).partition(".")[0] for row in array.tolist()]


def random_array(n: int, width: int, ends: float) -> np.ndarray:
    """Any tokens, about half of them digits, each a `.` with probability `ends`: uint8 [n, width]."""
    rng = np.random.default_rng([n, width, int(100 * ends)])
    out = np.where(rng.random((n, width)) < 0.5, rng.integers(0, 10, (n, width)), rng.integers(11, 65, (n, width)))
    out[rng.random((n, width)) < ends] = tokens.PAD
    return out.astype(np.uint8)


def with_other_padding(array: np.ndarray) -> np.ndarray:
    """The same programs, with other tokens behind each `.`."""
    out = array.copy()
    behind = np.arange(array.shape[1]) > tokens.lengths(array)[:, None]
    out[behind] = np.random.default_rng(1).integers(0, 65, int(behind.sum()))
    return out


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


#: what memory an array may lie in
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "whole": lambda array: array,
    "read-only": read_only,
    "every third row": lambda array: array[::3],
    "rows backwards": lambda array: array[::-1],
    "some columns": lambda array: array[:, 1:-1],
    "every second column": lambda array: array[:, ::2],
    "columns first": np.asfortranarray,
}
#: arguments of `random_array`: long and short, without any `.`, of nothing else, without rows or columns
SHAPES = [
    (300, 12, 0.1),
    (300, 12, 0.0),
    (300, 3, 0.5),
    (40, 70, 0.02),
    (50, 4, 1.0),
    (0, 9, 0.1),
    (7, 0, 0.1),
    (0, 0, 0.1),
]
