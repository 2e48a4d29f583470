"""The folds of programs that probes are fitted and judged on share no skeleton, and a leak is named."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from cadmus.corpora import held_out
from cadmus.machine import tokens
from cadmus.programs import skeletons
from cadmus.programs.families import Compare, Register
from probes.data.folds import FOLDS, check_no_leak, skeleton_folds, skeleton_ids


@pytest.mark.parametrize("split", ["train", "test_skeleton"])
def test_folds_are_of_whole_skeletons(split: str) -> None:
    """Also of held-out skeletons: the hash that set them apart must not decide their fold."""
    programs = held_out.held_out(Register(assertions=3, low=-20, high=40, max_stores=8), split, 6000, seed=0)
    folds = skeleton_folds(programs)
    assert folds.shape == (6000,)
    by_skeleton = defaultdict(set)
    for text, fold in zip(tokens.decode(programs), folds.tolist(), strict=True):
        by_skeleton[skeletons.skeleton(text)].add(fold)
    assert all(len(fold) == 1 for fold in by_skeleton.values())
    assert len(by_skeleton) > 3000
    assert len(by_skeleton) < 5990, "no skeleton comes twice, so that nothing could leak"
    shares = Counter(fold.pop() for fold in by_skeleton.values())
    for fold, share in zip(FOLDS, (0.6, 0.15, 0.25), strict=True):
        assert abs(shares[FOLDS.index(fold)] / len(by_skeleton) - share) < 4 * np.sqrt(share / len(by_skeleton))
    assert np.array_equal(skeleton_folds(programs[::-1]), folds[::-1]), "whatever the order of the programs"


def test_skeleton_ids_are_one_per_skeleton() -> None:
    programs = held_out.held_out(Compare(), "train", 3000, seed=0)
    forms = [skeletons.skeleton(text) for text in tokens.decode(programs)]
    ids = skeleton_ids(programs).tolist()
    assert len(set(ids)) == len(set(forms)) == len(set(zip(ids, forms, strict=True)))
    assert len(set(ids)) < 3000


@pytest.mark.parametrize("n_skeletons", [3, 4, 7, 20])
def test_few_skeletons_fill_every_fold(n_skeletons: int) -> None:
    texts = [f"{digit}" + "!" * k for k in range(n_skeletons) for digit in range(5)]
    folds = skeleton_folds(tokens.encode(texts))
    assert set(folds.tolist()) == {0, 1, 2}
    assert all(len(set(folds[5 * k : 5 * k + 5].tolist())) == 1 for k in range(n_skeletons))


def test_two_skeletons_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="2 skeletons cannot be split into train, validation, test"):
        skeleton_folds(tokens.encode(["3", "4!"]))


def test_a_leaked_skeleton_is_named() -> None:
    train = np.uint64(2**63) + np.array([1, 2, 3, 3], np.uint64)
    assert check_no_leak(train, train + np.uint64(3)) is None
    with pytest.raises(ValueError, match=r"^1 of 2 test skeletons are in the training data too \(92233720368547758"):
        check_no_leak(train, train[[3, 3]] + np.array([0, 3], np.uint64))
    with pytest.raises(
        ValueError, match=r"\(\[0=\.\] for one\); split by skeleton, as probes\.data\.folds\.skeleton_fold"
    ):
        check_no_leak(np.array(["[0=.]"]), np.array(["[00+.]", "[0=.]"]))
