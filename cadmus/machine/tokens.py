"""Programs as arrays of token ids: encoding and padding, the model's sequence, hashes, token classes.

A program array is uint8 [n, length]: one program per row, without the leading marker, padded with `.` (id 10). The
sequence that a model reads has the marker in front: position 0 holds `.`, position i + 1 holds token i.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from cadmus.machine import vm
from cadmus.machine.jit import jit

PAD = vm.VOCAB.index(vm.END)  # terminator, begin-of-program marker and padding at once
_BYTE_TO_ID = np.full(256, 255, np.uint8)
_BYTE_TO_ID[[ord(character) for character in vm.VOCAB]] = np.arange(len(vm.VOCAB))
_ID_TO_BYTE = np.array([ord(character) for character in vm.VOCAB], np.uint8)


def text_list(texts: Iterable[str], argument: str = "") -> list[str]:
    """The texts, programs or names, as a list; `argument` is what they are called where they were given.

    Raises ValueError for a single text, whose characters would pass for texts. Every public function that takes a
    sequence of texts begins with this (`tests/test_text_lists.py` has a row for each).
    """
    if isinstance(texts, str):
        of_argument = f"{argument}: " if argument else ""
        raise ValueError(
            f"{of_argument}one text is given, {texts!r}, where a list of them is expected; pass [{texts!r}]"
        )
    return list(texts)


def encode(texts: Iterable[str], width: int | None = None) -> np.ndarray:
    """Program texts as uint8 [n, width], padded with `.`; width defaults to the longest text.

    Raises ValueError for a character outside the vocabulary (naming it), for a text longer than `width`, and for a
    single text in place of a list.
    """
    texts = text_list(texts)
    longest = max(map(len, texts), default=0)
    width = longest if width is None else width
    if longest > width:
        raise ValueError(f"a program of {longest} tokens does not fit in {width} columns; pass a larger width")
    padded = "".join(text.ljust(width, vm.END) for text in texts)
    if not padded.isascii() or (_BYTE_TO_ID[np.frombuffer(padded.encode(), np.uint8)] == 255).any():
        for text in texts:
            vm.check(text)
    return _BYTE_TO_ID[np.frombuffer(padded.encode(), np.uint8)].reshape(len(texts), width)


def check(programs: np.ndarray) -> None:
    """Raise ValueError for what is not an array of programs."""
    is_array = isinstance(programs, np.ndarray) and not isinstance(programs, np.ma.MaskedArray)
    if not is_array or programs.dtype != np.uint8 or programs.ndim != 2:
        description = f"{programs.dtype} {programs.shape}" if is_array else f"a {type(programs).__name__}"
        raise ValueError(
            f"programs are {description}; expected uint8 [n, width]: encode texts with cadmus.machine.tokens.encode"
        )


def decode(programs: np.ndarray) -> list[str]:
    """The texts of a program array, each up to and including its first `.`, if it has one."""
    texts = _ID_TO_BYTE[programs]
    return [through_end(row.tobytes().decode("ascii")) for row in texts]


def through_end(text: str) -> str:
    """A text through its first `.`; all of it where it has none."""
    return text[: text.index(vm.END) + 1] if vm.END in text else text


def lengths(programs: np.ndarray) -> np.ndarray:
    """Tokens before each program's first `.`: int64 [n]."""
    out = np.empty(len(programs), np.int64)
    _lengths(programs, out)
    return out


@jit
def _lengths(programs, out):
    for i in range(len(programs)):
        length = 0
        while length < programs.shape[1] and programs[i, length] != PAD:
            length += 1
        out[i] = length


def sequences(programs: np.ndarray) -> np.ndarray:
    """What a model reads: uint8 [n, 1 + length], the marker before each program, only padding behind its `.`."""
    out = np.full((len(programs), programs.shape[1] + 1), PAD, np.uint8)
    out[:, 1:] = np.where(np.arange(programs.shape[1]) < lengths(programs)[:, None], programs, PAD)
    return out


# --- hashes ----------------------------------------------------------------------------------------------------------


def hashes(programs: np.ndarray, key: str) -> np.ndarray:
    """A keyed 64-bit hash of each text (up to its first `.`, so padding does not matter): uint64 [n].

    FNV-1a over the token ids from a key-dependent start, then the finalizer of MurmurHash3.
    """
    out = np.empty(len(programs), np.uint64)
    hash_rows(programs, hash_start(key), False, out)
    return out


def hash_start(key: str) -> np.uint64:
    """The state that the hash with this key begins in: the first 64 bits of the key's SHA-256."""
    return np.uint64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))


@jit
def hash_rows(programs, start, of_skeleton, out):
    """Write the hash of every row (or of its skeleton) to `out` uint64 [n].

    Compiled code may call it. Numba caches a caller in another file with a copy of this function, and watches the
    caller's file alone: when this changes, change that too.
    """
    for i in range(len(programs)):
        h = start
        for token in programs[i]:
            if token == PAD:
                break
            if of_skeleton and token < 10:
                token = np.uint8(0)
            h = (h ^ np.uint64(token)) * np.uint64(0x100000001B3)
        h ^= h >> np.uint64(33)
        h *= np.uint64(0xFF51AFD7ED558CCD)
        h ^= h >> np.uint64(33)
        h *= np.uint64(0xC4CEB9FE1A85EC53)
        out[i] = h ^ (h >> np.uint64(33))


# --- token classes ---------------------------------------------------------------------------------------------------

TOKEN_CLASSES = {
    "digit": "0123456789",
    "operator": "+-*/%xn!~m&|",
    "comparison": "<>=",
    "store": "ABCD",
    "load": "abcd",
    "shuffle": "?:\\@o;",
    "definition": "{}",
    "call": "fghFGHMW",
    "sequence": "(,rQ#ISXERTOP'\"",
    "end": ".",
}
_CLASS_OF = np.zeros(len(vm.VOCAB), np.uint8)
for _code, _members in enumerate(TOKEN_CLASSES.values()):
    _CLASS_OF[[vm.VOCAB.index(token) for token in _members]] = _code


def classes(tokens: np.ndarray) -> np.ndarray:
    """The class of each token, as an index into `list(TOKEN_CLASSES)`: uint8, shaped as `tokens`."""
    return _CLASS_OF[tokens]
