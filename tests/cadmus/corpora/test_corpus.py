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
from cadmus.programs import mixture, skeletons, splits
from cadmus.programs.families import Compare, Equality, Family, Register, Stack, Subroutine
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Component, Mixture, OutOfDistribution, Phase
from cadmus.runtime import artifacts
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
def widths_corpus(size: int = 6000, seed: int = 0) -> Corpus:
    return build(WIDTHS, size, seed)


def texts(result: Corpus) -> list[str]:
    """Every program, read from the shards without `Corpus.programs`."""
    return [text for shard in result.shards for text in tokens.decode(shard.programs)]


def only(family: Family) -> Mixture:
    return Mixture("only", (Component(family),))


# --- programs by number ----------------------------------------------------------------------------------------------


def test_programs_come_by_number_from_every_shard() -> None:
    result = widths_corpus()
    known = texts(result)
    assert len(known) == len(result) == 6000
    assert len({shard.programs.shape[1] for shard in result.shards}) == 4
    assert len(result.shards) > 8
    assert tokens.decode(result.programs(np.arange(6000))) == known
    index = np.random.default_rng(0).integers(0, 6000, 500)  # in no order, some twice
    assert tokens.decode(result.programs(index)) == [known[i] for i in index]
    edges = np.cumsum([len(shard.programs) for shard in result.shards])
    around = np.concatenate([edges - 1, edges[:-1], [0]])
    assert tokens.decode(result.programs(around)) == [known[i] for i in around]
    assert tokens.decode(result.programs(np.array([7], np.uint16))) == [known[7]]


def test_programs_are_padded_to_the_longest_of_those_asked_for() -> None:
    result = widths_corpus()
    index = np.array([5, 2, 2, 5999, int(result.lengths.argmin())])
    rows = result.programs(index)
    assert rows.dtype == np.uint8
    assert rows.shape == (5, result.lengths[index].max())
    assert result.programs(index[-1:]).shape == (1, result.lengths.min())
    assert result.programs(np.array([], np.int64)).shape[0] == 0


@pytest.mark.parametrize(
    ("index", "range_"), [([6000], "6000 to 6000"), ([-1, 4], "-1 to 4"), ([3, 7000], "3 to 7000")]
)
def test_programs_that_are_not_there(index: list[int], range_: str) -> None:
    with pytest.raises(IndexError, match=f"^programs {range_} are asked for; the corpus has 6000$"):
        widths_corpus().programs(np.array(index))


def test_lengths_families_phases_and_counts_are_those_of_the_programs() -> None:
    result = widths_corpus()
    assert result.families == ("compare", "stack", "equality", "register")
    assert result.lengths.tolist() == [len(text) for text in texts(result)]
    assert (result.lengths.dtype, result.family.dtype, result.phase.dtype) == (np.int16, np.uint8, np.uint8)
    for text, family, phase in zip(texts(result), result.family, result.phase, strict=True):
        assert WIDTHS.parts[phase][1].family(result.families[family]).accepts(text)
    assert np.bincount(result.phase).tolist() == [1800, 4200]
    assert result.counts == {"compare": 900 + 2520, "stack": 900, "equality": 840, "register": 840}
    assert list(result.counts.values()) == np.bincount(result.family).tolist()


def test_a_family_without_programs_counts_none() -> None:
    rare = build(Mixture("rare", (Component(Compare(), 1.0), Component(Equality(), 1e-9))), 50)
    assert rare.counts == {"compare": 50, "equality": 0}
    assert rare.summary["equality"]["programs"] == 0
    assert len(corpus.sample(rare, 5, 0, "compare")) == 5
    assert len(corpus.sample(rare, 5, 0, "equality")) == 0


def test_a_fingerprint_names_mixture_seed_and_size() -> None:
    result = widths_corpus()
    assert result.fingerprint == build(WIDTHS, 6000).fingerprint == corpus.fingerprint(WIDTHS, 0, 6000)
    others = [widths_corpus(2999), widths_corpus(seed=1), build(only(Compare()), 6000)]
    assert len({result.fingerprint, *(other.fingerprint for other in others)}) == 4


# --- membership ------------------------------------------------------------------------------------------------------


def test_contains_is_exact() -> None:
    result = widths_corpus()
    known = texts(result)
    all_of_it = set(known)
    some = [known[i] for i in np.random.default_rng(1).integers(0, 6000, 60)]
    changed = [text[:i] + token + text[i + 1 :] for text in some for i in range(len(text)) for token in "05+=!.{"]
    prefixes = [text[:i] for text in some for i in range(len(text) + 1)]
    suffixes = [text[i:] for text in some for i in range(len(text) + 1)]
    longer = [text.replace(".", "34<.") for text in some] + ["1" * 500, "1" * 500 + "."]
    queries = [*known, *changed, *prefixes, *suffixes, *longer, "", ".", "..34<."]
    truth = [text.partition(".")[0] + "." in all_of_it for text in queries]
    assert result.contains(queries).tolist() == truth
    assert all(truth[:6000])
    assert 0 < sum(truth[6000:]) < 0.5 * len(truth[6000:]), "both answers must be asked for"


def test_contains_reads_up_to_the_end() -> None:
    result = widths_corpus()
    for text in (texts(result)[0], texts(result)[-1]):
        body = text.removesuffix(".")
        assert result.contains([body, text, text + ".", text + "34", body[1:]]).tolist() == [*(True,) * 4, False]


def test_contains_of_one_kind_of_text_at_a_time() -> None:
    """The width of what is asked for is no matter."""
    result = widths_corpus()
    assert result.contains([]).shape == (0,)
    assert result.contains([""]).tolist() == result.contains([".", ""]).tolist()[:1] == [False]
    assert result.contains(["1"]).tolist() == [False]
    assert result.contains([min(texts(result), key=len)]).tolist() == [True]
    assert result.contains_programs(np.zeros((0, 7), np.uint8)).shape == (0,)
    assert result.contains_programs(result.programs(np.arange(6000))[::7]).all()
    with pytest.raises(ValueError, match="' ' at position 1 is not an instruction"):
        result.contains(["3 4"])


def test_a_corpus_with_duplicates_contains_them() -> None:
    result = build(Mixture("keeps", (Component(FEW, 1.0, "keep"),)), 2000)
    known = set(texts(result))
    queries = [f"{x}{y}{relation}." for x in range(10) for y in range(10) for relation in "<=>"]
    assert result.contains(queries).tolist() == [text in known for text in queries]


# --- samples ---------------------------------------------------------------------------------------------------------


def test_a_sample_has_none_twice() -> None:
    result = widths_corpus()
    sample_texts = tokens.decode(corpus.sample(result, 700, 3))
    assert len(set(sample_texts)) == len(sample_texts) == 700
    assert set(sample_texts) <= set(texts(result))
    assert tokens.decode(corpus.sample(result, 700, 3)) == sample_texts
    assert tokens.decode(corpus.sample(result, 700, 4)) != sample_texts
    assert set(tokens.decode(corpus.sample(result, 9999, 0))) == set(texts(result))


def test_a_sample_is_fair() -> None:
    """Every part of the corpus has its share, within 5 standard deviations."""
    result = widths_corpus()
    number = {text: i for i, text in enumerate(texts(result))}
    sample_texts = [number[text] for seed in range(5) for text in tokens.decode(corpus.sample(result, 600, seed))]
    parts = np.bincount(np.array(sample_texts) // 1000, minlength=6)
    assert np.abs(parts - 500).max() < 5 * 500**0.5


@pytest.mark.parametrize("family", ["compare", "stack", "register"])
def test_a_sample_of_a_family(family: str) -> None:
    result = widths_corpus()
    mine = {text for text, k in zip(texts(result), result.family, strict=True) if result.families[k] == family}
    sample_texts = tokens.decode(corpus.sample(result, 300, 3, family))
    assert len(set(sample_texts)) == len(sample_texts) == 300
    assert set(sample_texts) <= mine
    assert set(tokens.decode(corpus.sample(result, 99_999, 0, family))) == mine


def test_a_sample_of_an_unknown_family() -> None:
    with pytest.raises(ValueError, match=r"^the corpus has no family 'x'; it has compare, stack, equality, register$"):
        corpus.sample(widths_corpus(), 1, 0, "x")


# --- programs that are in no corpus ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("split", splits.SPLITS)
@pytest.mark.parametrize("family", HELD_OUT, ids=str)
def test_held_out_programs_are_distinct_unseen_and_of_their_split(family: Family, split: str) -> None:
    programs = held_out.held_out(family, split, 400, seed=3)
    assert programs.shape == (400, family.width)
    sample_texts = tokens.decode(programs)
    assert len(set(sample_texts)) == 400
    assert {splits.split(text) for text in sample_texts} == {split}
    assert all(vm.verdict(text) and family.accepts(text) for text in sample_texts)
    existing = build(only(family), 3000, seed=3)
    assert split == "train" or not existing.contains(sample_texts).any()
    assert np.array_equal(held_out.held_out(family, split, 400, seed=3), programs)
    assert not np.array_equal(held_out.held_out(family, split, 400, seed=4), programs)


def test_unseen_is_not_by_luck() -> None:
    """Of a family that the corpus nearly exhausts, most train programs are seen, and no others."""
    family = Compare(low=0, high=1, length=3)
    result = build(only(family), 25_000)
    member_shares = {
        split: result.contains(tokens.decode(held_out.held_out(family, split, 400, 0))).mean()
        for split in splits.SPLITS
    }
    assert member_shares.pop("train") > 0.7
    assert set(member_shares.values()) == {0.0}


def test_test_skeletons_are_never_trained_on() -> None:
    result = build(mixture.load("first"), 3000)
    trained = {skeletons.skeleton(text) for text in texts(result)}
    unseen = {
        skeletons.skeleton(text) for text in tokens.decode(held_out.held_out(Register(), "test_skeleton", 400, 0))
    }
    known = {skeletons.skeleton(text) for text in tokens.decode(held_out.held_out(Compare(), "test", 400, 0))}
    assert not trained & unseen
    assert trained & known, "test programs have skeletons that were trained on"


def test_held_out_programs_keep_to_the_hold_out() -> None:
    rules = HoldOut(pairs=("*0",), max_length=10)
    free = tokens.decode(held_out.held_out(Compare(), "test", 400, 0))
    allowed_texts = tokens.decode(held_out.held_out(replace(Compare(), min_length=3), "test", 400, 0, rules))
    assert [text for text in free if re.search(r"\*[0-9]", text) or len(text) > 11]
    assert not [text for text in allowed_texts if re.search(r"\*[0-9]", text) or len(text) > 11]
    assert {splits.split(text) for text in allowed_texts} == {"test"}
    assert len(set(allowed_texts)) == 400


def test_running_out_of_held_out_programs_is_an_error() -> None:
    every = [f"{x}{y}{'<=>'[(x > y) - (x < y) + 1]}." for x in range(10) for y in range(10)]
    there = sum(splits.split(text) == "validation" for text in every)
    assert 0 < there < 20
    assert len(held_out.held_out(FEW, "validation", there, 0)) == there  # every one of them is found
    message = (
        f"family compare has only {there} programs in split 'validation', 20 are asked for; ask for fewer or widen"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        held_out.held_out(FEW, "validation", 20, 0)
    family = Compare(low=4, high=4, length=1, equal_share=1.0)  # there is but `44=`
    empty = next(split for split in splits.SPLITS if split != splits.split("44="))
    with pytest.raises(ValueError, match=f"family compare has only 0 programs in split '{empty}', 1 are asked for"):
        held_out.held_out(family, empty, 1, 0)


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


@pytest.mark.parametrize("ood", RULES.out_of_distribution, ids=lambda ood: ood.name)
def test_out_of_distribution_programs_are_those_that_the_rule_holds_out(ood: OutOfDistribution) -> None:
    programs = held_out.out_of_distribution(RULES, ood, 300, seed=2)
    sample_texts = tokens.decode(programs)
    assert len(set(sample_texts)) == len(sample_texts) == 300
    assert all(vm.verdict(text) and ood.family.accepts(text) for text in sample_texts)
    if ood.held_out == "values":
        assert all(any(isinstance(v, vm.Int) and v.v == 13 for v in tops(text)) for text in sample_texts)
    if ood.held_out == "pairs":
        assert all(re.search(r"\*[0-9]", text) for text in sample_texts)
    assert np.array_equal(held_out.out_of_distribution(RULES, ood, 300, seed=2), programs)
    assert not np.array_equal(held_out.out_of_distribution(RULES, ood, 300, seed=3), programs)
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
    counts: dict[str, int] = {}
    for skeleton in tokens.decode(skeletons.skeletons(family.generate(100_000, np.random.default_rng(1)))):
        counts[skeleton] = counts.get(skeleton, 0) + 1
    rare = next(skeleton for skeleton, n in sorted(counts.items()) if n == 3)
    rule = replace(
        only(family),
        hold_out=HoldOut(skeletons=(rare.removesuffix("."),)),
        out_of_distribution=(OutOfDistribution("rare", family, "skeletons"),),
    )
    sample_texts = tokens.decode(held_out.out_of_distribution(rule, rule.out_of_distribution[0], 3, seed=0))
    assert {skeletons.skeleton(text) + "." for text in sample_texts} == {rare}


# --- on disk ---------------------------------------------------------------------------------------------------------


def test_what_is_loaded_equals_what_was_in_memory(tmp_path: Path) -> None:
    result = widths_corpus()
    build(WIDTHS, 6000, folder=tmp_path / "c")
    again = corpus.load(tmp_path / "c")
    assert (again.seed, again.fingerprint, again.families) == (result.seed, result.fingerprint, result.families)
    assert texts(again) == texts(result)
    for name in ("lengths", "family", "phase"):
        assert np.array_equal(getattr(again, name), getattr(result, name))
        assert getattr(again, name).dtype == getattr(result, name).dtype
    assert (again.eligible, again.counts, again.repetition) == (result.eligible, result.counts, result.repetition)
    index = np.random.default_rng(0).integers(0, 6000, 300)
    assert np.array_equal(again.programs(index), result.programs(index))
    assert np.array_equal(corpus.sample(again, 50, 1, "stack"), corpus.sample(result, 50, 1, "stack"))
    assert again.contains([*texts(result)[:50], "34<5."]).tolist() == [*(True,) * 50, False]
    assert all(isinstance(shard.programs, np.memmap) for shard in again.shards)


def test_the_files_of_a_corpus(tmp_path: Path) -> None:
    build(replace(RULES, name="rules"), 2000, folder=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"manifest.json", *manifest["files"]}
    assert {name for name in files if not name.startswith("shards/0-compare-0000")} == {
        "manifest.json",
        "out_of_distribution/longer.npy",
        "out_of_distribution/pairs.npy",
        "out_of_distribution/values.npy",
    }
    assert set(corpus.load(tmp_path).out_of_distribution) == {"longer", "pairs", "values"}
    for row in manifest["shards"]:
        assert row["file"].startswith(f"shards/{row['phase']}-{row['family']}-")
    assert {row["file"] for row in manifest["shards"]} | set(manifest["out_of_distribution"].values()) == set(
        manifest["files"]
    )


def test_the_manifest_says_what_files_hold_and_that_of_an_earlier_version_does_not(tmp_path: Path) -> None:
    """Then the names of the files say it."""
    build(replace(WIDTHS, out_of_distribution=RULES.out_of_distribution[-1:]), 3000, folder=tmp_path)
    expected = corpus.load(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for name in ("shards", "out_of_distribution"):
        del manifest[name]
    artifacts.write_manifest(tmp_path, manifest)
    earlier = corpus.load(tmp_path)
    assert len(earlier.shards) == len(expected.shards) > 4
    for shard, other in zip(earlier.shards, expected.shards, strict=True):
        assert (shard.family, shard.phase) == (other.family, other.phase)
        assert np.array_equal(shard.programs, other.programs)
    assert earlier.out_of_distribution.keys() == expected.out_of_distribution.keys() != set()
    for name, programs in expected.out_of_distribution.items():
        assert np.array_equal(earlier.out_of_distribution[name], programs)


def test_a_corpus_is_shown_in_one_line() -> None:
    assert repr(widths_corpus()) == (
        f"Corpus({WIDTHS.name!r}, 6,000 programs of compare, stack, equality, register, seed=0)"
    )


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
        (flip, rf"/{SHARD} is damaged \(wrong checksum\); delete the folder and make the corpus again"),
        (cut, rf"/{SHARD} is damaged \(wrong size\); delete the folder and make the corpus again"),
        (
            lambda folder: (folder / SHARD).unlink(),
            rf"/{SHARD} is missing; delete the folder and make the corpus again",
        ),
        (
            lambda folder: (folder / "manifest.json").unlink(),
            r" is half-written \(it has no manifest\.json\); run the command that began it again, or delete the folder",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text("{"),
            r"/manifest\.json is not JSON \(.*\); delete it and make it again",
        ),
        (retouch(kind="model"), r" holds a model, not a corpus; pass another folder"),
        (
            retouch(machine="0" * 16),
            r" was made with another version of the machine; delete the folder and make it again",
        ),
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
