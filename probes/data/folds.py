"""Folds of programs for probes, by skeleton: train, validation and test share none."""

from __future__ import annotations

import numpy as np

from cadmus.machine import tokens
from cadmus.programs import skeletons

FOLDS = ("train", "validation", "test")
_FOLD_SHARES = (0.6, 0.15, 0.25)  # of skeletons


def skeleton_folds(programs: np.ndarray) -> np.ndarray:
    """Assign programs to folds: indices into `FOLDS`, uint8 [n].

    All programs of a skeleton share a fold, so that a probe is judged on skeletons it has not seen; 60, 15 and 25 % of
    the skeletons, in the order of their ids, and at least one each. Raises ValueError for fewer than three skeletons.
    """
    ids, index = np.unique(skeleton_ids(programs), return_inverse=True)
    n = len(ids)
    if n < len(FOLDS):
        raise ValueError(f"{n} skeletons cannot be split into {', '.join(FOLDS)}; probe a family with more of them")
    train = min(round(_FOLD_SHARES[0] * n), n - 2)
    validation = max(1, min(round(_FOLD_SHARES[1] * n), n - train - 1))
    return np.searchsorted([train, train + validation], index, side="right").astype(np.uint8)


def skeleton_ids(programs: np.ndarray) -> np.ndarray:
    """Number the skeletons of programs: uint64 [n], equal for programs of one skeleton."""
    return tokens.hashes(skeletons.skeletons(programs), "probes skeleton 1")


def check_no_leak(train_skeletons: np.ndarray, test_skeletons: np.ndarray) -> None:
    """Raise ValueError where a skeleton, as a text or as its number, is both in the training and in the test data."""
    test = np.unique(test_skeletons)
    both = np.intersect1d(np.unique(train_skeletons), test, assume_unique=True)
    if len(both):
        raise ValueError(
            f"{len(both)} of {len(test)} test skeletons are in the training data too ({both[0]!s} for one); "
            "split by skeleton, as probes.data.folds.skeleton_folds does"
        )
