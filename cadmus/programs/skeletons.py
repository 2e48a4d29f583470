"""Skeletons: a program's form without its values, as arrays of programs and as hashes."""

from __future__ import annotations

import numpy as np

from cadmus.machine import vm
from cadmus.machine.tokens import PAD, decode, encode, hash_rows, hash_start, lengths


def skeleton(text: str) -> str:
    """`text` up to its first `.`, every digit replaced by 0."""
    return decode(skeletons(encode([text])))[0].rstrip(vm.END)


def skeletons(programs: np.ndarray) -> np.ndarray:
    """The skeletons of a program array, as a program array."""
    out = np.where(programs < 10, np.uint8(0), programs)
    out[np.arange(out.shape[1]) >= lengths(programs)[:, None]] = PAD
    return out


def skeleton_hashes(programs: np.ndarray, key: str) -> np.ndarray:
    """`hashes(skeletons(programs), key)`, without making the skeletons: uint64 [n]."""
    out = np.empty(len(programs), np.uint64)
    hash_rows(programs, hash_start(key), True, out)
    return out
