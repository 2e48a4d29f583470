"""Program arrays: encoding, the model's sequences, skeletons, splits and token classes."""

from __future__ import annotations

import hashlib
import re
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmus.machine import tokens, vm
from cadmus.programs import skeletons
from tests import programs

relaxed = settings(deadline=None, max_examples=150)

#: one program of each split; the split of a text must never change
PINNED = {
    "34+7=.": "train",
    "34+8=.": "validation",
    "11+3=.": "test",
    "34+8=!.": "test_skeleton",
}

# --- encoding --------------------------------------------------------------------------------------------------------


def test_the_id_is_the_index_in_the_vocabulary() -> None:
    assert tokens.encode([vm.VOCAB]).tolist() == [list(range(65))]
    assert tokens.PAD == vm.VOCAB.index(".") == 10
    assert vm.VOCAB.index("+") == 11


def test_encode_pads_with_the_end() -> None:
    array = tokens.encode(["34+", "7", ""])
    assert array.dtype == np.uint8
    assert array.tolist() == [[3, 4, 11], [7, 10, 10], [10, 10, 10]]
    assert tokens.encode(["7."], 4).tolist() == [[7, 10, 10, 10]]
    assert tokens.encode([], 4).shape == (0, 4)
    assert tokens.encode([]).shape == (0, 0)
    assert tokens.encode([""]).shape == (1, 0)


@relaxed
@given(st.lists(programs.texts, max_size=6), st.integers(0, 5))
def test_encoding_and_decoding(texts: list[str], more: int) -> None:
    width = max(map(len, texts), default=0) + more
    array = tokens.encode(texts, width)
    assert array.shape == (len(texts), width)
    for text, decoded in zip(texts, tokens.decode(array), strict=True):
        if "." in text:
            assert decoded == text[: text.index(".") + 1]
        else:
            assert decoded == text + "." * (len(text) < width)
    assert tokens.decode(tokens.encode(tokens.decode(array), width)) == tokens.decode(array)


def test_decode_stops_behind_the_first_end() -> None:
    assert tokens.decode(np.array([[3, 10, 4, 10], [3, 4, 5, 6], [10, 1, 2, 3]], np.uint8)) == ["3.", "3456", "."]


@pytest.mark.parametrize(
    ("texts", "character", "position"),
    [(["12", "3 4"], " ", 1), (["[1]"], "[", 0), (["1", "12é"], "é", 2), (["→"], "→", 0), (["12\x00"], "\x00", 2)],
)
def test_characters_outside_the_vocabulary(texts: list[str], character: str, position: int) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{character!r} at position {position} is not an instruction")):
        tokens.encode(texts)


def test_texts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="a program of 5 tokens does not fit in 4 columns; pass a larger width"):
        tokens.encode(["1", "12345"], 4)


# --- what a model reads ----------------------------------------------------------------------------------------------


def test_sequences_have_the_marker_in_front() -> None:
    array = np.array([[3, 4, 10, 9], [1, 2, 3, 4], [10, 5, 5, 5]], np.uint8)
    assert tokens.sequences(array).tolist() == [[10, 3, 4, 10, 10], [10, 1, 2, 3, 4], [10, 10, 10, 10, 10]]
    assert tokens.sequences(array).dtype == np.uint8
    assert array.tolist()[0] == [3, 4, 10, 9]


def test_lengths_count_up_to_the_first_end() -> None:
    array = np.array([[3, 4, 10, 9], [1, 2, 3, 4], [10, 5, 5, 5]], np.uint8)
    assert tokens.lengths(array).tolist() == [2, 4, 0]


@relaxed
@given(st.lists(programs.texts, min_size=1, max_size=5))
def test_position_i_plus_1_holds_token_i(texts: list[str]) -> None:
    array = tokens.encode(texts, max(map(len, texts)) + 1)
    found = tokens.sequences(array)
    assert found.shape == (len(texts), array.shape[1] + 1)
    for row, text in zip(found, texts, strict=True):
        read = text.partition(".")[0]
        assert "".join(vm.VOCAB[token] for token in row) == "." + read + "." * (len(row) - 1 - len(read))


def test_the_empty_program_has_a_length_a_sequence_a_skeleton_and_a_split() -> None:
    """In an array without columns too: `[]` is a program."""
    empty = tokens.encode(["", ""])
    assert tokens.lengths(empty).tolist() == [0, 0]
    assert tokens.sequences(empty).tolist() == [[10], [10]]
    assert skeletons.skeleton("") == skeletons.skeleton(".") == ""
    assert skeletons.split("") == skeletons.split(".")
    assert skeletons.splits(tokens.encode([])).shape == (0,)


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


# --- splits ----------------------------------------------------------------------------------------------------------


def plain_hash(text: str, key: str) -> int:
    """The hash as its docstring has it, over Python's integers."""
    mask = 2**64 - 1
    h = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    for character in text.partition(".")[0]:
        h = (h ^ vm.VOCAB.index(character)) * 0x100000001B3 & mask
    h = (h ^ h >> 33) * 0xFF51AFD7ED558CCD & mask
    h = (h ^ h >> 33) * 0xC4CEB9FE1A85EC53 & mask
    return h ^ h >> 33


def plain_split(text: str) -> str:
    skeleton = re.sub("[0-9]", "0", text.partition(".")[0])
    if plain_hash(skeleton, "cadmus skeleton 1") < 0.10 * 2**64:
        return "test_skeleton"
    share = plain_hash(text, "cadmus program 1") / 2**64
    return "validation" if share < 0.05 else "test" if share < 0.10 else "train"


@relaxed
@given(st.lists(programs.texts, min_size=1, max_size=6), st.text(max_size=9))
def test_hashes_rederived(texts: list[str], key: str) -> None:
    array = tokens.encode(texts, max(map(len, texts)) + 1)
    found = tokens.hashes(array, key)
    assert (found.shape, found.dtype) == ((len(texts),), np.uint64)
    assert found.tolist() == [plain_hash(text, key) for text in texts]


@relaxed
@given(st.lists(programs.texts, min_size=1, max_size=6))
def test_splits_rederived(texts: list[str]) -> None:
    array = tokens.encode(texts, max(map(len, texts)) + 1)
    assert [skeletons.SPLITS[code] for code in skeletons.splits(array)] == [plain_split(text) for text in texts]


# --- compiled functions, on any array --------------------------------------------------------------------------------


def texts_of(array: np.ndarray) -> list[str]:
    """The text of each row up to its first `.`, if it has one, over Python's lists."""
    return ["".join(vm.VOCAB[token] for token in row).partition(".")[0] for row in array.tolist()]


def random_array(n: int, width: int, ends: float) -> np.ndarray:
    """Any tokens, about half of them digits, each a `.` with probability `ends`."""
    rng = np.random.default_rng([n, width, int(100 * ends)])
    out = np.where(rng.random((n, width)) < 0.5, rng.integers(0, 10, (n, width)), rng.integers(11, 65, (n, width)))
    out[rng.random((n, width)) < ends] = tokens.PAD
    return out.astype(np.uint8)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


VIEWS = {
    "whole": lambda array: array,
    "read-only": read_only,
    "every third row": lambda array: array[::3],
    "rows backwards": lambda array: array[::-1],
    "some columns": lambda array: array[:, 1:-1],
    "every second column": lambda array: array[:, ::2],
    "columns first": np.asfortranarray,
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize(
    ("n", "width", "ends"),
    [
        (300, 12, 0.1),
        (300, 12, 0.0),
        (300, 3, 0.5),
        (40, 70, 0.02),
        (50, 4, 1.0),
        (0, 9, 0.1),
        (7, 0, 0.1),
        (0, 0, 0.1),
    ],
)
def test_compiled_functions_rederived(n: int, width: int, ends: float, view) -> None:
    array = view(random_array(n, width, ends))
    texts = texts_of(array)
    before = array.copy()
    forms = [re.sub("[0-9]", "0", text) for text in texts]
    lengths, hashes = tokens.lengths(array), tokens.hashes(array, "a key")
    of_skeletons, splits = skeletons.skeleton_hashes(array, "a key"), skeletons.splits(array)
    assert (lengths.dtype, hashes.dtype, of_skeletons.dtype, splits.dtype) == (np.int64, np.uint64, np.uint64, np.uint8)
    assert lengths.tolist() == [len(text) for text in texts]
    assert hashes.tolist() == [plain_hash(text, "a key") for text in texts]
    assert of_skeletons.tolist() == [plain_hash(text, "a key") for text in forms]
    assert of_skeletons.tolist() == tokens.hashes(skeletons.skeletons(array), "a key").tolist()
    assert [skeletons.SPLITS[code] for code in splits] == [plain_split(text) for text in texts]
    assert np.array_equal(array, before), "the programs are only read"


def test_compiled_functions_read_files(tmp_path) -> None:
    array = random_array(200, 9, 0.1)
    np.save(tmp_path / "x.npy", array)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.array_equal(tokens.lengths(mapped), tokens.lengths(array))
    assert np.array_equal(tokens.hashes(mapped, "k"), tokens.hashes(array, "k"))
    assert np.array_equal(skeletons.splits(mapped), skeletons.splits(array))


def test_what_stands_behind_the_end_is_no_matter() -> None:
    array = random_array(300, 12, 0.2)
    other = array.copy()
    behind = np.arange(12) > tokens.lengths(array)[:, None]
    other[behind] = np.random.default_rng(1).integers(0, 65, int(behind.sum()))
    assert not np.array_equal(other, array)
    for function in (
        tokens.lengths,
        skeletons.splits,
        lambda a: tokens.hashes(a, "k"),
        lambda a: skeletons.skeletons(a),
    ):
        assert np.array_equal(function(other), function(array))
    assert np.array_equal(skeletons.skeleton_hashes(other, "k"), skeletons.skeleton_hashes(array, "k"))


# --- splits that never change ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "split"), PINNED.items())
def test_pinned_splits(text: str, split: str) -> None:
    assert skeletons.split(text) == split == plain_split(text)


def test_one_program_of_each_split_is_pinned() -> None:
    assert sorted(PINNED.values()) == sorted(skeletons.SPLITS)
    assert skeletons.SPLITS == ("train", "validation", "test", "test_skeleton")


@relaxed
@given(programs.texts.filter(bool), st.integers(1, 20))
def test_the_split_is_a_function_of_the_text_alone(text: str, padding: int) -> None:
    expected = skeletons.split(text)
    assert skeletons.split(text + ".") == expected
    assert skeletons.split(text + "." * padding) == expected
    assert skeletons.split(text + ".7+") == expected
    among = tokens.encode(["1+2", text, "." * 9], max(len(text), 9) + padding)
    assert skeletons.SPLITS[skeletons.splits(among)[1]] == expected


def test_programs_of_one_skeleton_are_all_or_none_in_test_skeleton() -> None:
    r = Random(8)
    apart = set()
    for _ in range(200):
        text = programs.structured(r)
        texts = [re.sub("[0-9]", lambda _: str(r.randrange(10)), text) for _ in range(12)] + [text]
        assert len({skeletons.skeleton(one) for one in texts}) == 1
        codes = skeletons.splits(tokens.encode(texts, max(map(len, texts)) + 1)) == skeletons.SPLITS.index(
            "test_skeleton"
        )
        assert codes.all() or not codes.any()
        apart.add(bool(codes.any()))
    assert apart == {True, False}


def test_shares() -> None:
    """Within 5 standard deviations of 10 % of the skeletons, then 5 % and 5 % of the programs of the others."""
    ids = np.random.default_rng(5)
    array = ids.integers(11, 65, (40_000, 12)).astype(np.uint8)  # no digits: every program is its own skeleton
    counts = np.bincount(skeletons.splits(array), minlength=4)
    shares = dict(zip(skeletons.SPLITS, counts / len(array), strict=True))
    expected = {"train": 0.9 * 0.9, "validation": 0.9 * 0.05, "test": 0.9 * 0.05, "test_skeleton": 0.1}
    for name, share in expected.items():
        assert abs(shares[name] - share) < 5 * (share * (1 - share) / len(array)) ** 0.5, name
    digits = ids.integers(0, 10, (40_000, 6)).astype(np.uint8)  # one skeleton
    found = np.bincount(skeletons.splits(digits), minlength=4) / len(digits)
    assert skeletons.skeleton("123456") == "000000"
    assert found[skeletons.SPLITS.index("test_skeleton")] in (0, 1)


def test_the_keys_of_hashes_matter() -> None:
    array = tokens.encode(["34+7="])
    assert tokens.hashes(array, "a") != tokens.hashes(array, "b")


# --- classes ---------------------------------------------------------------------------------------------------------


def test_every_token_has_one_class() -> None:
    members = "".join(tokens.TOKEN_CLASSES.values())
    assert sorted(members) == sorted(vm.VOCAB)
    names = list(tokens.TOKEN_CLASSES)
    found = tokens.classes(tokens.encode(["3+=Aa:{f(.", "7|<Dd;}M'."]))
    assert found.dtype == np.uint8
    assert [[names[code] for code in row] for row in found] == [names, names]
