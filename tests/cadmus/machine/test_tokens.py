"""Program arrays: encoding, the model's sequences, hashes and token classes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmus.machine import kernel, tokens, vm
from tests import programs
from tests.fuzzing import examples
from tests.program_arrays import LAYOUTS, SHAPES, plain_hash, random_array, texts_of, with_other_padding

relaxed = settings(deadline=None, max_examples=examples(150))

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


def test_texts_may_come_one_by_one_but_one_text_is_no_list_of_its_characters() -> None:
    assert tokens.encode(text for text in ("34", "7")).tolist() == [[3, 4], [7, 10]]
    with pytest.raises(ValueError, match=r"one text is given, '34\+', where a list of them is expected"):
        tokens.encode("34+")


def test_a_mask_over_programs_is_refused() -> None:
    masked = np.ma.masked_array(tokens.encode(["34+"]), mask=True)
    with pytest.raises(ValueError, match="programs are a MaskedArray"):
        tokens.check(masked)
    with pytest.raises(ValueError, match="programs are a masked array"):
        kernel.verdicts(masked)


@relaxed
@given(st.lists(programs.texts, max_size=6), st.integers(0, 5))
def test_encoding_and_decoding(texts: list[str], margin: int) -> None:
    width = max(map(len, texts), default=0) + margin
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
    sequences = tokens.sequences(array)
    assert sequences.shape == (len(texts), array.shape[1] + 1)
    for row, text in zip(sequences, texts, strict=True):
        main_text = text.partition(".")[0]
        assert "".join(vm.VOCAB[token] for token in row) == "." + main_text + "." * (len(row) - 1 - len(main_text))


def test_the_empty_program_has_a_length_and_a_sequence() -> None:
    """In an array without columns too: `[]` is a program."""
    empty = tokens.encode(["", ""])
    assert tokens.lengths(empty).tolist() == [0, 0]
    assert tokens.sequences(empty).tolist() == [[10], [10]]


# --- hashes and lengths, on any array --------------------------------------------------------------------------------


@relaxed
@given(st.lists(programs.texts, min_size=1, max_size=6), st.text(max_size=9))
def test_hashes_rederived(texts: list[str], key: str) -> None:
    array = tokens.encode(texts, max(map(len, texts)) + 1)
    hashes = tokens.hashes(array, key)
    assert (hashes.shape, hashes.dtype) == ((len(texts),), np.uint64)
    assert hashes.tolist() == [plain_hash(text, key) for text in texts]


def test_the_keys_of_hashes_matter() -> None:
    array = tokens.encode(["34+7="])
    assert tokens.hashes(array, "a") != tokens.hashes(array, "b")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled_functions_rederived(layout: str) -> None:
    for shape in SHAPES:
        array = LAYOUTS[layout](random_array(*shape))
        texts = texts_of(array)
        before = array.copy()
        lengths, hashes = tokens.lengths(array), tokens.hashes(array, "a key")
        assert (lengths.dtype, hashes.dtype) == (np.int64, np.uint64)
        assert lengths.tolist() == [len(text) for text in texts], shape
        assert hashes.tolist() == [plain_hash(text, "a key") for text in texts], shape
        assert np.array_equal(array, before), "the programs are only read"


def test_compiled_functions_read_files(tmp_path) -> None:
    array = random_array(200, 9, 0.1)
    np.save(tmp_path / "x.npy", array)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.array_equal(tokens.lengths(mapped), tokens.lengths(array))
    assert np.array_equal(tokens.hashes(mapped, "k"), tokens.hashes(array, "k"))


def test_what_stands_behind_the_end_is_no_matter() -> None:
    array = random_array(300, 12, 0.2)
    other = with_other_padding(array)
    assert not np.array_equal(other, array)
    assert np.array_equal(tokens.lengths(other), tokens.lengths(array))
    assert np.array_equal(tokens.hashes(other, "k"), tokens.hashes(array, "k"))


# --- classes ---------------------------------------------------------------------------------------------------------


def test_every_token_has_one_class() -> None:
    members = "".join(tokens.TOKEN_CLASSES.values())
    assert sorted(members) == sorted(vm.VOCAB)
    names = list(tokens.TOKEN_CLASSES)
    classes = tokens.classes(tokens.encode(["3+=Aa:{f(.", "7|<Dd;}M'."]))
    assert classes.dtype == np.uint8
    assert [[names[code] for code in row] for row in classes] == [names, names]
