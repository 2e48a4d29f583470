"""Corpora: programs by number and by text, what is held out and unseen, samples, and damage that is noticed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cadmus.corpora import corpus, held_out, shards
from cadmus.corpora.build import build
from cadmus.corpora.corpus import Corpus
from cadmus.machine import tokens, vm
from cadmus.programs import mixture, skeletons
from cadmus.programs.families import Compare, Equality, Family, Register, Stack, Subroutine
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Component, Mixture, OutOfDistribution, Phase
from cadmus.runtime.artifacts import ArtifactError

FEW = Compare(low=0, high=9, length=1)  # a hundred programs, `34<` and the like
HELD_OUT = [
    Compare(),
    Compare(low=0, high=9, length=3, equal_share=0.5),
    Equality(),
    Register(assertions=2),
    Register(registers="a", min_stores=1, max_stores=3, low=-81, high=81),
    Subroutine(),
    Stack(),
]
WIDTHS = Mixture(  # four families of four widths, in two phases
    "widths",
    (Component(Compare(low=0, high=9, length=1, assertions=2), 3.0), Component(Equality()), Component(Register())),
    phases=(Phase(0.3, (Component(Compare(low=0, high=9, length=1, assertions=2)), Component(Stack()))),),
)


@pytest.fixture(autouse=True, scope="module")
def many_shards() -> Iterator[None]:
    """Several per family, of a corpus of a few thousand programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "MAX_DRAWS", 1024)
        yield


@cache
def built(size: int = 6000, seed: int = 0) -> Corpus:
    return build(WIDTHS, size, seed)


def texts(made: Corpus) -> list[str]:
    """Every program, read from the shards without `Corpus.programs`."""
    return [text for shard in made.shards for text in tokens.decode(shard.programs)]


def only(family: Family) -> Mixture:
    return Mixture("only", (Component(family),))


# --- programs by number ----------------------------------------------------------------------------------------------


def test_programs_come_by_number_from_every_shard() -> None:
    made = built()
    known = texts(made)
    assert len(known) == len(made) == 6000
    assert len({shard.programs.shape[1] for shard in made.shards}) == 4
    assert len(made.shards) > 8
    assert tokens.decode(made.programs(np.arange(6000))) == known
    index = np.random.default_rng(0).integers(0, 6000, 500)  # in no order, some twice
    assert tokens.decode(made.programs(index)) == [known[i] for i in index]
    edges = np.cumsum([len(shard.programs) for shard in made.shards])
    around = np.concatenate([edges - 1, edges[:-1], [0]])
    assert tokens.decode(made.programs(around)) == [known[i] for i in around]
    assert tokens.decode(made.programs(np.array([7], np.uint16))) == [known[7]]


def test_programs_are_padded_to_the_longest_of_those_asked_for() -> None:
    made = built()
    index = np.array([5, 2, 2, 5999, int(made.lengths.argmin())])
    rows = made.programs(index)
    assert rows.dtype == np.uint8
    assert rows.shape == (5, made.lengths[index].max())
    assert made.programs(index[-1:]).shape == (1, made.lengths.min())
    assert made.programs(np.array([], np.int64)).shape[0] == 0


@pytest.mark.parametrize(("index", "said"), [([6000], "6000 to 6000"), ([-1, 4], "-1 to 4"), ([3, 7000], "3 to 7000")])
def test_programs_that_are_not_there(index: list[int], said: str) -> None:
    with pytest.raises(IndexError, match=f"^programs {said} are asked for; the corpus has 6000$"):
        built().programs(np.array(index))


def test_lengths_families_phases_and_counts_are_those_of_the_programs() -> None:
    made = built()
    assert made.families == ("compare", "stack", "equality", "register")
    assert made.lengths.tolist() == [len(text) for text in texts(made)]
    assert (made.lengths.dtype, made.family.dtype, made.phase.dtype) == (np.int16, np.uint8, np.uint8)
    for text, family, phase in zip(texts(made), made.family, made.phase, strict=True):
        assert WIDTHS.parts[phase][1].family(made.families[family]).accepts(text)
    assert np.bincount(made.phase).tolist() == [1800, 4200]
    assert made.counts == {"compare": 900 + 2520, "stack": 900, "equality": 840, "register": 840}
    assert list(made.counts.values()) == np.bincount(made.family).tolist()


def test_a_family_without_programs_counts_none() -> None:
    rare = build(Mixture("rare", (Component(Compare(), 1.0), Component(Equality(), 1e-9))), 50)
    assert rare.counts == {"compare": 50, "equality": 0}
    assert rare.summary["equality"]["programs"] == 0
    assert len(corpus.sample(rare, 5, 0, "compare")) == 5
    assert len(corpus.sample(rare, 5, 0, "equality")) == 0


def test_a_fingerprint_names_mixture_seed_and_size() -> None:
    made = built()
    assert made.fingerprint == build(WIDTHS, 6000).fingerprint == corpus.fingerprint(WIDTHS, 0, 6000)
    others = [built(2999), built(seed=1), build(only(Compare()), 6000)]
    assert len({made.fingerprint, *(other.fingerprint for other in others)}) == 4


# --- membership ------------------------------------------------------------------------------------------------------


def test_contains_is_exact() -> None:
    made = built()
    known = texts(made)
    all_of_it = set(known)
    some = [known[i] for i in np.random.default_rng(1).integers(0, 6000, 60)]
    changed = [text[:i] + token + text[i + 1 :] for text in some for i in range(len(text)) for token in "05+=!.{"]
    prefixes = [text[:i] for text in some for i in range(len(text) + 1)]
    suffixes = [text[i:] for text in some for i in range(len(text) + 1)]
    longer = [text.replace(".", "34<.") for text in some] + ["1" * 500, "1" * 500 + "."]
    asked = [*known, *changed, *prefixes, *suffixes, *longer, "", ".", "..34<."]
    truth = [text.partition(".")[0] + "." in all_of_it for text in asked]
    assert made.contains(asked).tolist() == truth
    assert all(truth[:6000])
    assert 0 < sum(truth[6000:]) < 0.5 * len(truth[6000:]), "both answers must be asked for"


def test_contains_reads_up_to_the_end() -> None:
    made = built()
    for text in (texts(made)[0], texts(made)[-1]):
        body = text.removesuffix(".")
        assert made.contains([body, text, text + ".", text + "34", body[1:]]).tolist() == [*(True,) * 4, False]


def test_contains_of_one_kind_of_text_at_a_time() -> None:
    """The width of what is asked for is no matter."""
    made = built()
    assert made.contains([]).shape == (0,)
    assert made.contains([""]).tolist() == made.contains([".", ""]).tolist()[:1] == [False]
    assert made.contains(["1"]).tolist() == [False]
    assert made.contains([min(texts(made), key=len)]).tolist() == [True]
    assert made.contains_programs(np.zeros((0, 7), np.uint8)).shape == (0,)
    assert made.contains_programs(made.programs(np.arange(6000))[::7]).all()
    with pytest.raises(ValueError, match="' ' at position 1 is not an instruction"):
        made.contains(["3 4"])


def test_a_corpus_with_duplicates_contains_them() -> None:
    made = build(Mixture("keeps", (Component(FEW, 1.0, "keep"),)), 2000)
    known = set(texts(made))
    asked = [f"{x}{y}{relation}." for x in range(10) for y in range(10) for relation in "<=>"]
    assert made.contains(asked).tolist() == [text in known for text in asked]


# --- samples ---------------------------------------------------------------------------------------------------------


def test_a_sample_has_none_twice() -> None:
    made = built()
    drawn = tokens.decode(corpus.sample(made, 700, 3))
    assert len(set(drawn)) == len(drawn) == 700
    assert set(drawn) <= set(texts(made))
    assert tokens.decode(corpus.sample(made, 700, 3)) == drawn
    assert tokens.decode(corpus.sample(made, 700, 4)) != drawn
    assert set(tokens.decode(corpus.sample(made, 9999, 0))) == set(texts(made))


def test_a_sample_is_fair() -> None:
    """Every part of the corpus has its share, within 5 standard deviations."""
    made = built()
    number = {text: i for i, text in enumerate(texts(made))}
    drawn = [number[text] for seed in range(5) for text in tokens.decode(corpus.sample(made, 600, seed))]
    parts = np.bincount(np.array(drawn) // 1000, minlength=6)
    assert np.abs(parts - 500).max() < 5 * 500**0.5


@pytest.mark.parametrize("family", ["compare", "stack", "register"])
def test_a_sample_of_a_family(family: str) -> None:
    made = built()
    mine = {text for text, k in zip(texts(made), made.family, strict=True) if made.families[k] == family}
    drawn = tokens.decode(corpus.sample(made, 300, 3, family))
    assert len(set(drawn)) == len(drawn) == 300
    assert set(drawn) <= mine
    assert set(tokens.decode(corpus.sample(made, 99_999, 0, family))) == mine


def test_a_sample_of_an_unknown_family() -> None:
    with pytest.raises(ValueError, match=r"^the corpus has no family 'x'; it has compare, stack, equality, register$"):
        corpus.sample(built(), 1, 0, "x")


# --- programs that are in no corpus ----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", skeletons.SPLITS)
@pytest.mark.parametrize("family", HELD_OUT, ids=str)
def test_held_out_programs_are_distinct_unseen_and_of_their_split(family: Family, split: str) -> None:
    programs = held_out.held_out(family, split, 400, seed=3)
    assert programs.shape == (400, family.width)
    drawn = tokens.decode(programs)
    assert len(set(drawn)) == 400
    assert {skeletons.split(text) for text in drawn} == {split}
    assert all(vm.verdict(text) and family.accepts(text) for text in drawn)
    seen = build(only(family), 3000, seed=3)
    assert split == "train" or not seen.contains(drawn).any()
    assert np.array_equal(held_out.held_out(family, split, 400, seed=3), programs)
    assert not np.array_equal(held_out.held_out(family, split, 400, seed=4), programs)


def test_unseen_is_not_by_luck() -> None:
    """Of a family that the corpus nearly exhausts, most train programs are seen, and no others."""
    family = Compare(low=0, high=1, length=3)
    made = build(only(family), 25_000)
    seen = {
        split: made.contains(tokens.decode(held_out.held_out(family, split, 400, 0))).mean()
        for split in skeletons.SPLITS
    }
    assert seen.pop("train") > 0.7
    assert set(seen.values()) == {0.0}


def test_test_skeletons_are_never_trained_on() -> None:
    made = build(mixture.load("first"), 3000)
    trained = {skeletons.skeleton(text) for text in texts(made)}
    unseen = {
        skeletons.skeleton(text) for text in tokens.decode(held_out.held_out(Register(), "test_skeleton", 400, 0))
    }
    known = {skeletons.skeleton(text) for text in tokens.decode(held_out.held_out(Compare(), "test", 400, 0))}
    assert not trained & unseen
    assert trained & known, "test programs have skeletons that were trained on"


def test_held_out_programs_keep_to_the_hold_out() -> None:
    rules = HoldOut(pairs=("*0",), max_length=10)
    free = tokens.decode(held_out.held_out(Compare(), "test", 400, 0))
    kept = tokens.decode(held_out.held_out(replace(Compare(), min_length=3), "test", 400, 0, rules))
    assert [text for text in free if re.search(r"\*[0-9]", text) or len(text) > 11]
    assert not [text for text in kept if re.search(r"\*[0-9]", text) or len(text) > 11]
    assert {skeletons.split(text) for text in kept} == {"test"}
    assert len(set(kept)) == 400


def test_running_out_of_held_out_programs_is_an_error() -> None:
    every = [f"{x}{y}{'<=>'[(x > y) - (x < y) + 1]}." for x in range(10) for y in range(10)]
    there = sum(skeletons.split(text) == "validation" for text in every)
    assert 0 < there < 20
    assert len(held_out.held_out(FEW, "validation", there, 0)) == there  # every one of them is found
    message = (
        f"family compare has only {there} programs in split 'validation', 20 are asked for; ask for fewer or widen"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        held_out.held_out(FEW, "validation", 20, 0)
    one = Compare(low=4, high=4, length=1, equal_share=1.0)  # there is but `44=`
    empty = next(split for split in skeletons.SPLITS if split != skeletons.split("44="))
    with pytest.raises(ValueError, match=f"family compare has only 0 programs in split '{empty}', 1 are asked for"):
        held_out.held_out(one, empty, 1, 0)


def test_unknown_split() -> None:
    message = "unknown split 'dev'; there are train, validation, test, test_skeleton"
    with pytest.raises(ValueError, match=message):
        held_out.held_out(Compare(), "dev", 1, 0)


@pytest.mark.parametrize("n", [0, -1])
def test_no_held_out_programs_is_an_error(n: int) -> None:
    with pytest.raises(ValueError, match=f"^{n} programs are asked for in split 'test'; ask for one or more$"):
        held_out.held_out(Compare(), "test", n, 0)


RULES = replace(
    only(Compare()),
    hold_out=HoldOut(values=(13,), pairs=("*0",)),
    out_of_distribution=(
        OutOfDistribution("values", Compare(), "values"),
        OutOfDistribution("pairs", Compare(), "pairs"),
        OutOfDistribution("longer", Compare(length=7)),
    ),
)


@pytest.mark.parametrize("one", RULES.out_of_distribution, ids=lambda one: one.name)
def test_out_of_distribution_programs_are_those_that_the_rule_holds_out(one: OutOfDistribution) -> None:
    programs = held_out.out_of_distribution(RULES, one, 300, seed=2)
    drawn = tokens.decode(programs)
    assert len(set(drawn)) == len(drawn) == 300
    assert all(vm.verdict(text) and one.family.accepts(text) for text in drawn)
    if one.held_out == "values":
        assert all(any(isinstance(v, vm.Int) and v.v == 13 for v in tops(text)) for text in drawn)
    if one.held_out == "pairs":
        assert all(re.search(r"\*[0-9]", text) for text in drawn)
    assert np.array_equal(held_out.out_of_distribution(RULES, one, 300, seed=2), programs)
    assert not np.array_equal(held_out.out_of_distribution(RULES, one, 300, seed=3), programs)
    assert not build(RULES, 2000).contains_programs(programs).any()


def tops(text: str) -> Iterator[object]:
    """What lies on top of the stack after each instruction of a text without definitions."""
    for end in range(1, len(text)):
        stack = vm.run(text[:end]).outputs
        if stack:
            yield stack[-1]


def test_a_rare_held_out_program_is_found() -> None:
    """About one draw in ten thousand has it, and there are hundreds."""
    family = Compare(length=5)
    counted: dict[str, int] = {}
    for skeleton in tokens.decode(skeletons.skeletons(family.generate(100_000, np.random.default_rng(1)))):
        counted[skeleton] = counted.get(skeleton, 0) + 1
    rare = next(skeleton for skeleton, n in sorted(counted.items()) if n == 3)
    rule = replace(
        only(family),
        hold_out=HoldOut(skeletons=(rare.removesuffix("."),)),
        out_of_distribution=(OutOfDistribution("rare", family, "skeletons"),),
    )
    drawn = tokens.decode(held_out.out_of_distribution(rule, rule.out_of_distribution[0], 3, seed=0))
    assert {skeletons.skeleton(text) + "." for text in drawn} == {rare}


# --- on disk ---------------------------------------------------------------------------------------------------------


def test_what_is_loaded_equals_what_was_in_memory(tmp_path: Path) -> None:
    made = built()
    build(WIDTHS, 6000, folder=tmp_path / "c")
    again = corpus.load(tmp_path / "c")
    assert (again.seed, again.fingerprint, again.families) == (made.seed, made.fingerprint, made.families)
    assert texts(again) == texts(made)
    for name in ("lengths", "family", "phase"):
        assert np.array_equal(getattr(again, name), getattr(made, name))
        assert getattr(again, name).dtype == getattr(made, name).dtype
    assert (again.eligible, again.counts, again.repetition) == (made.eligible, made.counts, made.repetition)
    index = np.random.default_rng(0).integers(0, 6000, 300)
    assert np.array_equal(again.programs(index), made.programs(index))
    assert np.array_equal(corpus.sample(again, 50, 1, "stack"), corpus.sample(made, 50, 1, "stack"))
    assert again.contains([*texts(made)[:50], "34<5."]).tolist() == [*(True,) * 50, False]
    assert all(isinstance(shard.programs, np.memmap) for shard in again.shards)


def test_the_files_of_a_corpus(tmp_path: Path) -> None:
    build(replace(RULES, name="rules"), 2000, folder=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"manifest.json", *manifest["files"]}
    assert {name for name in files if not name.startswith("shards/0-compare-0000")} == {
        *("manifest.json", "out_of_distribution/longer.npy"),
        *("out_of_distribution/pairs.npy", "out_of_distribution/values.npy"),
    }
    assert set(corpus.load(tmp_path).out_of_distribution) == {"longer", "pairs", "values"}


SHARD = "shards/0-compare-00000.npy"


def flip(folder: Path) -> None:
    data = bytearray((folder / SHARD).read_bytes())
    data[-1] ^= 1
    (folder / SHARD).write_bytes(data)


def cut(folder: Path) -> None:
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1])


def retouch(**changes: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, rf"/{SHARD} is damaged \(wrong checksum\); make the corpus again"),
        (cut, rf"/{SHARD} is damaged \(wrong size\); make the corpus again"),
        (lambda folder: (folder / SHARD).unlink(), rf"/{SHARD} is missing; make the corpus again"),
        (
            lambda folder: (folder / "manifest.json").unlink(),
            r" is half-written \(it has no manifest\.json\); make it again",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text("{"),
            r"/manifest\.json is not JSON \(.*\); delete it and make it again",
        ),
        (retouch(kind="model"), r" holds a model, not a corpus; pass another folder"),
        (retouch(machine="0" * 16), r" was made with another version of the machine; make it again"),
    ],
)
def test_damage_is_noticed(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    build(WIDTHS, 50, folder=tmp_path)
    corpus.load(tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=f"^.*{re.escape(str(tmp_path))}{message}$"):
        corpus.load(tmp_path)


def test_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^corpus folder .*/none does not exist; make it again$"):
        corpus.load(tmp_path / "none")
