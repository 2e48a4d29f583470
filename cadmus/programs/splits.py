"""The split of every program (train, validation, test, test_skeleton), a pure function of its text."""

from __future__ import annotations

import numpy as np

from cadmus.machine.tokens import encode, hashes
from cadmus.programs.skeletons import skeleton_hashes

SPLITS = ("train", "validation", "test", "test_skeleton")
TEST_SKELETON_SHARE = 0.10  # of skeletons
VALIDATION_SHARE = TEST_SHARE = 0.05  # of the programs of the other skeletons


def split(text: str) -> str:
    """The split that `text` belongs to, one of `SPLITS`: a pure function of the text.

    The skeleton's hash sets `test_skeleton` apart; of the other programs, the program's own hash chooses.
    """
    return SPLITS[splits(encode([text]))[0]]


def splits(programs: np.ndarray) -> np.ndarray:
    """`split` of every program, as an index into `SPLITS`: uint8 [n]."""
    by_program = hashes(programs, "cadmus program 1")
    out = np.zeros(len(programs), np.uint8)
    out[by_program < _share(VALIDATION_SHARE + TEST_SHARE)] = SPLITS.index("test")
    out[by_program < _share(VALIDATION_SHARE)] = SPLITS.index("validation")
    out[has_test_skeleton(programs)] = SPLITS.index("test_skeleton")
    return out


def has_test_skeleton(programs: np.ndarray) -> np.ndarray:
    """Which programs are of the split `test_skeleton`: bool [n]."""
    return skeleton_hashes(programs, "cadmus skeleton 1") < _share(TEST_SKELETON_SHARE)


def _share(share: float) -> np.uint64:
    return np.uint64(int(share * 2**64))
