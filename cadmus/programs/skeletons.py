"""Skeletons, a program's form without its values, and the split of every program as a pure function of its text."""

from __future__ import annotations

import numpy as np

from cadmus.machine import vm
from cadmus.machine.tokens import PAD, decode, encode, hash_rows, hash_start, hashes, lengths

SPLITS = ("train", "validation", "test", "test_skeleton")
TEST_SKELETON_SHARE = 0.10  # of skeletons
VALIDATION_SHARE = TEST_SHARE = 0.05  # of the programs of the other skeletons


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


def split(text: str) -> str:
    """The split that `text` belongs to, one of `SPLITS`: a pure function of the text.

    The skeleton's hash sets `test_skeleton` apart; of the other programs, the program's own hash chooses.
    """
    return SPLITS[splits(encode([text]))[0]]


def splits(programs: np.ndarray) -> np.ndarray:
    """`split` of every program, as an index into `SPLITS`: uint8 [n]."""
    by_skeleton = skeleton_hashes(programs, "cadmus skeleton 1")
    by_program = hashes(programs, "cadmus program 1")
    out = np.zeros(len(programs), np.uint8)
    out[by_program < _share(VALIDATION_SHARE + TEST_SHARE)] = SPLITS.index("test")
    out[by_program < _share(VALIDATION_SHARE)] = SPLITS.index("validation")
    out[by_skeleton < _share(TEST_SKELETON_SHARE)] = SPLITS.index("test_skeleton")
    return out


def _share(share: float) -> np.uint64:
    return np.uint64(int(share * 2**64))
