"""Skeletons and splits: pure functions of the text, rederived in plain Python."""

from __future__ import annotations

import re
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmus.machine import tokens
from cadmus.programs import skeletons, splits
from tests import programs
from tests.fuzzing import examples
from tests.program_arrays import LAYOUTS, SHAPES, plain_hash, random_array, texts_of, with_other_padding

relaxed = settings(deadline=None, max_examples=examples(150))

#: one program of each split; the split of a text must never change
PINNED = {
    "34+7=.": "train",
    "34+8=.": "validation",
    "11+3=.": "test",
    "34+8=!.": "test_skeleton",
}


def plain_split(text: str) -> str:
    skeleton = re.sub("[0-9]", "0", text.partition(".")[0])
    if plain_hash(skeleton, "cadmus skeleton 1") < 0.10 * 2**64:
        return "test_skeleton"
    share = plain_hash(text, "cadmus program 1") / 2**64
    return "validation" if share < 0.05 else "test" if share < 0.10 else "train"


# --- skeletons -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "skeleton"),
    [("34+7=.", "00+0="), ("3A4Bab+7=", "0A0Bab+0="), ("12.34", "00"), ("+-", "+-"), (".", ""), ("{9:}5f..", "{0:}0f")],
)
def test_skeleton(text: str, skeleton: str) -> None:
    assert skeletons.skeleton(text) == skeleton


@relaxed
@given(programs.texts.filter(bool))
def test_skeletons_put_0_for_every_digit(text: str) -> None:
    expected = re.sub("[0-9]", "0", text.partition(".")[0])
    assert skeletons.skeleton(text) == expected
    array = tokens.encode([text], len(text) + 3)
    assert skeletons.skeletons(array).shape == array.shape
    assert tokens.decode(skeletons.skeletons(array)) == [expected + "."]


def test_the_empty_program_has_a_skeleton_and_a_split() -> None:
    assert skeletons.skeleton("") == skeletons.skeleton(".") == ""
    assert splits.split("") == splits.split(".")
    assert splits.splits(tokens.encode([])).shape == (0,)


# --- splits ----------------------------------------------------------------------------------------------------------


@relaxed
@given(st.lists(programs.texts, min_size=1, max_size=6))
def test_splits_rederived(texts: list[str]) -> None:
    array = tokens.encode(texts, max(map(len, texts)) + 1)
    assert [splits.SPLITS[code] for code in splits.splits(array)] == [plain_split(text) for text in texts]


# --- on any array ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled_functions_rederived(layout: str) -> None:
    for shape in SHAPES:
        array = LAYOUTS[layout](random_array(*shape))
        texts = texts_of(array)
        before = array.copy()
        forms = [re.sub("[0-9]", "0", text) for text in texts]
        hashes, codes = skeletons.skeleton_hashes(array, "a key"), splits.splits(array)
        assert (hashes.dtype, codes.dtype) == (np.uint64, np.uint8)
        assert hashes.tolist() == [plain_hash(text, "a key") for text in forms], shape
        assert hashes.tolist() == tokens.hashes(skeletons.skeletons(array), "a key").tolist(), shape
        assert [splits.SPLITS[code] for code in codes] == [plain_split(text) for text in texts], shape
        assert np.array_equal(array, before), "the programs are only read"


def test_splits_of_a_file(tmp_path) -> None:
    array = random_array(200, 9, 0.1)
    np.save(tmp_path / "x.npy", array)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.array_equal(splits.splits(mapped), splits.splits(array))


def test_what_stands_behind_the_end_is_no_matter() -> None:
    array = random_array(300, 12, 0.2)
    other = with_other_padding(array)
    assert not np.array_equal(other, array)
    assert np.array_equal(splits.splits(other), splits.splits(array))
    assert np.array_equal(skeletons.skeletons(other), skeletons.skeletons(array))
    assert np.array_equal(skeletons.skeleton_hashes(other, "k"), skeletons.skeleton_hashes(array, "k"))


# --- splits that never change ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "split"), PINNED.items())
def test_pinned_splits(text: str, split: str) -> None:
    assert splits.split(text) == split == plain_split(text)


def test_one_program_of_each_split_is_pinned() -> None:
    assert sorted(PINNED.values()) == sorted(splits.SPLITS)
    assert splits.SPLITS == ("train", "validation", "test", "test_skeleton")


@relaxed
@given(programs.texts.filter(bool), st.integers(1, 20))
def test_the_split_is_a_function_of_the_text_alone(text: str, padding: int) -> None:
    expected = splits.split(text)
    assert splits.split(text + ".") == expected
    assert splits.split(text + "." * padding) == expected
    assert splits.split(text + ".7+") == expected
    among = tokens.encode(["1+2", text, "." * 9], max(len(text), 9) + padding)
    assert splits.SPLITS[splits.splits(among)[1]] == expected


def test_programs_of_one_skeleton_are_all_or_none_in_test_skeleton() -> None:
    r = Random(8)
    outcomes = set()
    for _ in range(200):
        text = programs.structured(r)
        texts = [re.sub("[0-9]", lambda _: str(r.randrange(10)), text) for _ in range(12)] + [text]
        assert len({skeletons.skeleton(variant) for variant in texts}) == 1
        codes = splits.splits(tokens.encode(texts, max(map(len, texts)) + 1))
        mask = codes == splits.SPLITS.index("test_skeleton")
        assert mask.all() or not mask.any()
        outcomes.add(bool(mask.any()))
    assert outcomes == {True, False}


def test_shares() -> None:
    """Within 5 standard deviations of 10 % of the skeletons, then 5 % and 5 % of the programs of the others."""
    rng = np.random.default_rng(5)
    array = rng.integers(11, 65, (40_000, 12)).astype(np.uint8)  # no digits: every program is its own skeleton
    counts = np.bincount(splits.splits(array), minlength=4)
    shares = dict(zip(splits.SPLITS, counts / len(array), strict=True))
    expected = {"train": 0.9 * 0.9, "validation": 0.9 * 0.05, "test": 0.9 * 0.05, "test_skeleton": 0.1}
    for name, share in expected.items():
        assert abs(shares[name] - share) < 5 * (share * (1 - share) / len(array)) ** 0.5, name
    digits = rng.integers(0, 10, (40_000, 6)).astype(np.uint8)  # one skeleton
    observed = np.bincount(splits.splits(digits), minlength=4) / len(digits)
    assert skeletons.skeleton("123456") == "000000"
    assert observed[splits.SPLITS.index("test_skeleton")] in (0, 1)
