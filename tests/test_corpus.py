"""Corpora: train programs only, none twice, the same for the same seed; what is held out is unseen; files are whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cadmus import artifacts, corpus, mixture, tokens, vm
from cadmus.artifacts import ArtifactError
from cadmus.corpus import SHARD_SIZE, Corpus
from cadmus.families import Compare, Equality, Family, Register
from cadmus.mixture import Component, Mixture

FEW = Compare(low=0, high=9, length=1)  # a hundred programs, `34<` and the like
HELD_OUT = [
    Compare(),
    Compare(low=0, high=9, length=3, equal_share=0.5),
    Equality(),
    Register(assertions=2),
    Register(registers="a", min_stores=1, max_stores=3, low=-81, high=81),
]


@cache
def built(size: int = 3000, seed: int = 0) -> Corpus:
    return corpus.build(mixture.load("first"), size, seed)


def texts(made: Corpus) -> list[str]:
    return tokens.decode(made.programs(np.arange(len(made))))


def only(family: Family) -> Mixture:
    return Mixture("only", (Component(family),))


# --- what is built ---------------------------------------------------------------------------------------------------


def test_a_corpus_holds_true_train_programs_of_its_families() -> None:
    made = built()
    assert len(made) == 3000
    for text, family in zip(texts(made), made.family, strict=True):
        assert tokens.split(text) == "train"
        assert made.mixture.families[family].accepts(text)
        assert vm.verdict(text)
        assert text.index(".") == len(text) - 1


def test_no_program_comes_twice_across_shards() -> None:
    made = built(SHARD_SIZE + 5000)  # part of a shard is train, so that there are two shards at least
    assert len(set(texts(made))) == len(made) == SHARD_SIZE + 5000


def test_duplicates_are_there_to_be_taken_out() -> None:
    """The check above could pass because nothing is ever drawn twice: something is."""
    drawn, _ = next(corpus.shards(mixture.load("first"), 0))
    assert len(set(tokens.decode(drawn))) < len(drawn)


def test_a_seed_fixes_the_corpus_and_size_only_cuts_it() -> None:
    made, again = built(), corpus.build(mixture.load("first"), 3000, 0)
    for name in ("flat", "offsets", "family"):
        assert np.array_equal(getattr(made, name), getattr(again, name))
    assert texts(made) == texts(built(SHARD_SIZE + 5000))[:3000]
    other = set(texts(built(seed=1)))
    assert len(other & set(texts(made))) < 300


def test_a_fingerprint_names_mixture_seed_and_size() -> None:
    made = built()
    assert made.fingerprint == corpus.build(mixture.load("first"), 3000, 0).fingerprint
    others = [built(2999), built(seed=1), corpus.build(only(Compare()), 3000)]
    assert len({made.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_families_have_their_shares() -> None:
    """Of what is drawn; what is train and new shifts them a little."""
    made = built()
    assert sum(made.counts.values()) == 3000
    assert list(made.counts) == ["compare", "equality", "register"]
    for share, count in zip(made.mixture.shares, made.counts.values(), strict=True):
        assert abs(count / 3000 - share) < 0.05


def test_a_family_without_programs_counts_none() -> None:
    rare = Mixture("rare", (Component(Compare(), 1.0), Component(Equality(), 1e-9)))
    assert corpus.build(rare, 50).counts == {"compare": 50, "equality": 0}


def test_programs_are_padded_to_the_longest_of_those_asked_for() -> None:
    made = built()
    lengths = np.diff(made.offsets)
    index = np.array([5, 2, 2, 2999, int(lengths.argmin())])
    rows = made.programs(index)
    assert rows.shape == (5, lengths[index].max())
    assert tokens.decode(rows) == [texts(made)[i] for i in index]
    assert made.programs(np.array([], np.int64)).shape[0] == 0


def test_progress_is_told_how_many_are_there() -> None:
    told = []
    corpus.build(mixture.load("first"), SHARD_SIZE + 5000, progress=told.append)
    assert told == sorted(set(told))
    assert len(told) > 1
    assert told[-1] == SHARD_SIZE + 5000


# --- membership and held-out programs --------------------------------------------------------------------------------


def test_contains_is_exact() -> None:
    made = built()
    known = texts(made)
    near = [text[:i] + token + text[i + 1 :] for text in known[:30] for i in range(len(text)) for token in "05+=!."]
    found = made.contains([*known, *near])
    assert found[:3000].all()
    all_of_it = set(known)
    truth = [text.partition(".")[0] + "." in all_of_it for text in near]
    assert found[3000:].tolist() == truth
    assert 0 < sum(truth) < len(truth) / 2, "both answers must be asked for"
    assert made.contains([known[0].removesuffix("."), known[0] + "..", known[0] + "34", known[0][1:]]).tolist() == [
        *(True, True, True),
        False,
    ]
    assert made.contains([]).shape == (0,)


@pytest.mark.parametrize("split", tokens.SPLITS)
@pytest.mark.parametrize("family", HELD_OUT, ids=str)
def test_held_out_programs_are_distinct_unseen_and_of_their_split(family: Family, split: str) -> None:
    programs = corpus.held_out(family, split, 400, seed=3)
    assert programs.shape == (400, family.width)
    drawn = tokens.decode(programs)
    assert len(set(drawn)) == 400
    assert {tokens.split(text) for text in drawn} == {split}
    assert all(vm.verdict(text) and family.accepts(text) for text in drawn)
    seen = corpus.build(only(family), 3000, seed=3)
    assert split == "train" or not seen.contains(drawn).any()
    assert np.array_equal(corpus.held_out(family, split, 400, seed=3), programs)
    assert not np.array_equal(corpus.held_out(family, split, 400, seed=4), programs)


def test_unseen_is_not_by_luck() -> None:
    """Of a family that the corpus nearly exhausts, most train programs are seen, and no others."""
    family = Compare(low=0, high=1, length=3)
    made = corpus.build(only(family), 25_000)
    seen = {
        split: made.contains(tokens.decode(corpus.held_out(family, split, 400, 0))).mean() for split in tokens.SPLITS
    }
    assert seen.pop("train") > 0.7
    assert set(seen.values()) == {0.0}


def test_test_skeletons_are_never_trained_on() -> None:
    trained = {tokens.skeleton(text) for text in texts(built())}
    unseen = {tokens.skeleton(text) for text in tokens.decode(corpus.held_out(Register(), "test_skeleton", 400, 0))}
    known = {tokens.skeleton(text) for text in tokens.decode(corpus.held_out(Compare(), "test", 400, 0))}
    assert not trained & unseen
    assert trained & known, "test programs have skeletons that were trained on"


def test_running_out_of_programs_is_an_error() -> None:
    message = r"mixture 'only' runs out of new programs at \d+ of 1,000; widen its knobs or ask for less"
    with pytest.raises(ValueError, match=message):
        corpus.build(only(FEW), 1000)
    with pytest.raises(ValueError, match=r"mixture 'only' runs out of new programs at [1-9][\d,]* of 90,000; widen"):
        corpus.build(only(Compare(low=0, high=1, length=3)), 90_000)


def test_running_out_of_held_out_programs_is_an_error() -> None:
    every = [f"{x}{y}{'<=>'[(x > y) - (x < y) + 1]}." for x in range(10) for y in range(10)]
    there = sum(tokens.split(text) == "validation" for text in every)
    assert 0 < there < 20
    assert len(corpus.held_out(FEW, "validation", there, 0)) == there  # every one of them is found
    message = (
        f"family compare has only {there} programs in split 'validation', 20 are asked for; ask for fewer or widen"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        corpus.held_out(FEW, "validation", 20, 0)
    one = Compare(low=4, high=4, length=1, equal_share=1.0)  # there is but `44=`
    empty = next(split for split in tokens.SPLITS if split != tokens.split("44="))
    with pytest.raises(ValueError, match=f"family compare has only 0 programs in split '{empty}', 1 are asked for"):
        corpus.held_out(one, empty, 1, 0)


def test_unknown_split() -> None:
    message = "unknown split 'dev'; there are train, validation, test, test_skeleton"
    with pytest.raises(ValueError, match=message):
        corpus.held_out(Compare(), "dev", 1, 0)


@pytest.mark.parametrize("size", [0, -3])
def test_an_empty_corpus_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"a corpus of {size} programs is empty; ask for one or more"):
        corpus.build(mixture.load("first"), size)


# --- on disk ---------------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path: Path) -> None:
    made = built()
    assert corpus.save(made, tmp_path / "c") == tmp_path / "c"
    again = corpus.load(tmp_path / "c")
    assert (again.mixture, again.seed, again.fingerprint) == (made.mixture, made.seed, made.fingerprint)
    for name in ("flat", "offsets", "family"):
        assert np.array_equal(getattr(again, name), getattr(made, name))
        assert getattr(again, name).dtype == getattr(made, name).dtype
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert manifest["programs"] == 3000
    assert manifest["families"] == made.counts
    assert manifest["fingerprint"] == made.fingerprint
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["manifest.json", "programs.safetensors"]


def test_saving_again_replaces(tmp_path: Path) -> None:
    corpus.save(built(), tmp_path)
    corpus.save(built(50), tmp_path)
    assert texts(corpus.load(tmp_path)) == texts(built(50))


def flip(folder: Path) -> None:
    path = folder / "programs.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(folder: Path) -> None:
    path = folder / "programs.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def retouch(**changes: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, r"programs\.safetensors is damaged \(wrong checksum\); make the corpus again"),
        (cut, r"programs\.safetensors is damaged \(wrong size\); make the corpus again"),
        (
            lambda folder: (folder / "programs.safetensors").unlink(),
            r"programs\.safetensors is missing; make the corpus",
        ),
        (
            lambda folder: (folder / "manifest.json").unlink(),
            r"is half-written \(it has no manifest\.json\); make it again",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text("{"),
            r"manifest\.json is not JSON .*; delete it and make it",
        ),
        (retouch(kind="model"), r"holds a model, not a corpus; pass another folder"),
        (retouch(machine="0" * 16), r"was made with another version of the machine; make it again"),
    ],
)
def test_damage_is_noticed(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    corpus.save(built(50), tmp_path)
    corpus.load(tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=message) as caught:
        corpus.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"corpus folder .*/none does not exist; make it again"):
        corpus.load(tmp_path / "none")


def interrupted_save(folder: Path) -> None:
    with artifacts.new_folder(folder, "corpus") as partial:
        artifacts.write_arrays(partial / "programs.safetensors", {"flat": built(60).flat})
        raise KeyboardInterrupt


def test_an_interrupted_save_leaves_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_save(tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []
    with pytest.raises(ArtifactError, match=r"is half-written \(it has no manifest\.json\)"):
        corpus.load(tmp_path / "c")


def test_an_interrupted_save_leaves_the_corpus_before(tmp_path: Path) -> None:
    corpus.save(built(50), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        interrupted_save(tmp_path)
    assert texts(corpus.load(tmp_path)) == texts(built(50))


def test_a_mixture_without_train_programs_is_an_error_and_not_a_loop() -> None:
    family = Register(low=0, high=0, registers="c", min_stores=2, max_stores=2, dependent_share=0.0, pair_share=0.0)
    with pytest.raises(
        ValueError, match=r"mixture .* runs out of new programs at 0 of 5; widen its knobs or ask for less"
    ):
        corpus.build(only(family), 5)


def test_a_small_family_gives_what_it_has() -> None:
    built = corpus.build(only(Compare(low=0, high=9, length=1)), 60)
    assert len(set(tokens.decode(built.programs(np.arange(60))))) == 60


def test_no_held_out_programs_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 held-out programs are asked for; ask for one or more"):
        corpus.held_out(Compare(), "test", 0, 0)
