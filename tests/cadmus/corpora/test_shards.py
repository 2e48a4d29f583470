"""Shards and streams are pure functions of their numbers; membership is that of a Python set."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmus.corpora import shards
from cadmus.corpora.membership import HashSet, contains, program_hashes
from cadmus.corpora.shards import Section, draw_shard, sections, stack_programs, stream_programs, train_only
from cadmus.machine import tokens, vm
from cadmus.programs import mixture, splits
from cadmus.programs.families import FAMILIES, Compare, Equality, Family, Register
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Component, Mixture, Phase
from tests.fuzzing import examples

relaxed = settings(deadline=None, max_examples=examples(60))

FIRST = mixture.load("first")
FEW = Compare(low=0, high=9, length=1)  # a hundred programs, `34<` and the like
RULES = HoldOut(pairs=("*0",), max_length=9)


def section(family: Family = FEW, *, keeps: bool = False, hold_out: HoldOut | None = None, count: int = 500) -> Section:
    return Section(0, 0, family, keeps, hold_out or HoldOut(), count)


# --- sections --------------------------------------------------------------------------------------------------------


@relaxed
@given(
    st.lists(st.integers(1, 40), min_size=3, max_size=3),
    st.lists(st.integers(1, 40), min_size=2, max_size=2),
    st.integers(1, 63),
    st.integers(1, 100_000_000),
)
def test_sections_have_their_shares_by_largest_remainder(
    late: list[int], early: list[int], until: int, size: int
) -> None:
    families = (Compare(), Equality(), Register())
    recipe = Mixture(
        "m",
        tuple(map(Component, families, map(float, late))),
        phases=(Phase(until / 64, tuple(map(Component, families[:2], map(float, early)))),),
    )
    share = Fraction(until, 64)
    exact = [share * w / sum(early) * size for w in early] + [(1 - share) * w / sum(late) * size for w in late]
    all_sections = sections(recipe, size)
    assert [(entry.phase, entry.family) for entry in all_sections] == [
        *((0, family) for family in families[:2]),
        *((1, family) for family in families),
    ]
    counts = [entry.count for entry in all_sections]
    assert sum(counts) == size
    up = [float(part % 1) for part, count in zip(exact, counts, strict=True) if count == part // 1 + 1]
    down = [float(part % 1) for part, count in zip(exact, counts, strict=True) if count == part // 1]
    assert len(up) + len(down) == len(counts)
    assert max(down, default=0) <= min(up, default=1) + 1e-6


@pytest.mark.parametrize("count", [1, 100, 1000, 10_000, 10_000_000])
def test_a_shard_is_neither_tiny_nor_huge(count: int) -> None:
    draws = section(count=count).draws
    assert shards.MIN_DRAWS <= draws <= shards.MAX_DRAWS
    assert draws >= min(shards.MAX_DRAWS, 1.4 * count), "one shard does where one can"


# --- shards ----------------------------------------------------------------------------------------------------------


def test_a_shard_is_a_function_of_its_numbers() -> None:
    whole_section = Section(0, 0, Compare(), False, HoldOut(), 2000)
    shard = draw_shard(whole_section, 0, 0)
    again = draw_shard(whole_section, 0, 0)
    assert np.array_equal(shard.programs, again.programs)
    assert shard.eligible == again.eligible
    known = set(tokens.decode(shard.programs))
    for other in (
        draw_shard(whole_section, 1, 0),
        draw_shard(whole_section, 0, 1),
        draw_shard(replace(whole_section, phase=1), 0, 0),
        draw_shard(replace(whole_section, component=1), 0, 0),
    ):
        texts = set(tokens.decode(other.programs))
        assert len(texts & known) < 0.1 * len(texts)


def test_a_shard_is_sorted_by_hash_and_has_none_twice() -> None:
    shard = draw_shard(section(), 0, 0)
    hashes = program_hashes(shard.programs)
    assert (hashes[1:] > hashes[:-1]).all()
    texts = tokens.decode(shard.programs)
    assert len(set(texts)) == len(texts) < 100
    assert 700 < shard.eligible < 1024, "about a tenth to a third is not train; duplicates count"


def test_a_shard_that_keeps_duplicates_has_every_eligible_program() -> None:
    with_duplicates, without_duplicates = draw_shard(section(keeps=True), 0, 0), draw_shard(section(), 0, 0)
    assert len(with_duplicates.programs) == with_duplicates.eligible == without_duplicates.eligible
    assert set(tokens.decode(with_duplicates.programs)) == set(tokens.decode(without_duplicates.programs))


def test_what_a_shard_holds_is_what_it_drew() -> None:
    """Nothing is lost but what is not train, held out or there twice."""
    whole_section = section(Compare(), hold_out=RULES)
    rng = np.random.default_rng([7, 0, 0, 3])
    fit = []
    for text in tokens.decode(whole_section.family.generate(whole_section.draws, rng)):
        multiplied = any(text[i] == "*" and text[i + 1].isdigit() for i in range(len(text) - 1))
        if splits.split(text) == "train" and not multiplied and len(text) - 1 <= 9:
            fit.append(text)
    shard = draw_shard(whole_section, 7, 3)
    assert shard.eligible == len(fit)
    assert set(tokens.decode(shard.programs)) == set(fit)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_train_only(family: type[Family]) -> None:
    programs = family().generate(300, np.random.default_rng(0))
    texts = [text for text in tokens.decode(programs) if splits.split(text) == "train"]
    assert tokens.decode(train_only(programs, HoldOut())) == texts
    assert tokens.decode(train_only(programs, HoldOut(pairs=("00", "0+"), max_length=12))) == [
        text for text in texts if len(text) <= 13 and not re.search(r"[0-9][0-9+]", text)
    ]


def test_stacking_pads() -> None:
    parts = [tokens.encode(["34<.", "1."]), tokens.encode([], 3), tokens.encode(["123456."])]
    assert tokens.decode(stack_programs(parts)) == ["34<.", "1.", "123456."]
    assert stack_programs(parts).shape == (3, 7)
    assert len(stack_programs([])) == 0


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "STREAM_DRAWS", 2048)


def same(left, right) -> bool:
    """Whether two streams have the same batches."""
    pairs = [pair for batches in zip(left, right, strict=True) for pair in zip(*batches, strict=True)]
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.usefixtures("small_batches")
def test_a_stream_goes_on_anywhere() -> None:
    whole = list(stream_programs(FIRST, 5, batches=6))
    assert len(whole) == 6
    assert same(stream_programs(FIRST, 5, batches=6), whole)
    assert same(stream_programs(FIRST, 5, start=4, batches=6), whole[4:])
    assert same(islice(stream_programs(FIRST, 5), 6), whole)
    assert same(islice(stream_programs(FIRST, 5, start=2), 3), whole[2:5])
    assert list(stream_programs(FIRST, 5, start=6, batches=6)) == []
    first = {text for programs, _ in whole[:1] for text in tokens.decode(programs)}
    for other in (*whole[1:], next(stream_programs(FIRST, 6))):
        texts = set(tokens.decode(other[0]))
        assert len(texts & first) < 0.3 * len(texts)


@pytest.mark.usefixtures("small_batches")
def test_a_stream_holds_true_train_programs_of_its_families() -> None:
    recipe = replace(FIRST, hold_out=HoldOut(pairs=("*0",)))
    for programs, which in stream_programs(recipe, 1, batches=2):
        assert (programs.dtype, which.dtype) == (np.uint8, np.uint8)
        assert len(programs) == len(which) > 1000
        for text, k in zip(tokens.decode(programs), which, strict=True):
            assert splits.split(text) == "train"
            assert not [i for i in range(len(text)) if text[i] == "*" and text[i + 1].isdigit()]
            assert vm.verdict(text)
            assert recipe.families[k].accepts(text)


def test_a_stream_has_families_in_their_shares_and_mixed() -> None:
    """Shares of what is drawn; what is train shifts them a little."""
    programs, which = next(stream_programs(FIRST))
    assert len(programs) > 0.6 * shards.STREAM_DRAWS
    for share, count in zip(FIRST.shares, np.bincount(which, minlength=3), strict=True):
        assert abs(count / len(which) - share) < 0.05
    quarters = np.array([np.bincount(part, minlength=3) / len(part) for part in np.array_split(which, 4)])
    assert np.ptp(quarters, axis=0).max() < 0.05


@pytest.mark.usefixtures("small_batches")
def test_the_phases_of_a_stream_follow_its_progress() -> None:
    early = (Component(Compare(low=0, high=9, length=1)),)
    recipe = Mixture(
        "phases",
        (Component(Compare(low=-9, high=18, length=3)), Component(Equality(), 3.0)),
        phases=(Phase(0.5, early),),
    )
    batches = list(stream_programs(recipe, batches=4))
    for programs, which in batches[:2]:
        assert set(which) == {0}
        assert all(early[0].family.accepts(text) for text in tokens.decode(programs))
    for programs, which in batches[2:]:
        assert 0.15 < (which == 0).mean() < 0.35
        assert all(recipe.families[k].accepts(text) for text, k in zip(tokens.decode(programs), which, strict=True))
    assert same(stream_programs(recipe, start=2, batches=4), batches[2:])
    with pytest.raises(
        ValueError, match=r"^mixture 'phases' has phases, so a stream needs to know its length: pass batches=$"
    ):
        next(stream_programs(recipe))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_family_may_have_no_program_in_a_batch(family: type[Family], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "STREAM_DRAWS", 64)
    common = Equality() if family is Compare else Compare()
    programs, which = next(stream_programs(Mixture("rare", (Component(common, 1.0), Component(family(), 1e-9)))))
    assert len(programs) > 20
    assert set(which) == {0}


def test_workers_of_a_stream_draw_the_same() -> None:
    assert same(stream_programs(FIRST, 2, start=1, batches=5, workers=1), stream_programs(FIRST, 2, start=1, batches=5))


def test_a_stream_with_workers_can_be_left() -> None:
    batches = stream_programs(FIRST, 2, workers=1)
    first = next(batches)
    batches.close()
    assert same([first], stream_programs(FIRST, 2, batches=1))


# --- a set of hashes -------------------------------------------------------------------------------------------------


class PlainSet:
    """`HashSet` over a Python set; 0 and 1 are one hash."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def add(self, hashes: np.ndarray, limit: int) -> list[bool]:
        fresh = []
        for h in hashes.tolist():
            new = max(h, 1) not in self.seen and sum(fresh) < limit
            fresh.append(new)
            if new:
                self.seen.add(max(h, 1))
        return fresh


LOW_BITS = [0, 1, 2, 1022, 1023, 1024, 2047, 2**20 - 1]  # neighbours in the table, its end too
some_hashes = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 5),
    st.builds(lambda high, low: high * 2**32 + low, st.integers(0, 9), st.sampled_from(LOW_BITS)),
    st.sampled_from([2**64 - 1, 2**63, 2**63 - 1]),
)


@relaxed
@given(st.lists(st.tuples(st.lists(some_hashes, max_size=60), st.integers(0, 40)), max_size=12))
def test_seen_hashes_against_a_set(calls: list[tuple[list[int], int]]) -> None:
    known, plain = HashSet(500), PlainSet()
    for hashes, limit in calls:
        array = np.array(hashes, np.uint64)
        is_new = known.add(array, limit)
        assert (is_new.dtype, is_new.shape) == (np.bool_, array.shape)
        assert is_new.tolist() == plain.add(array, limit)


@pytest.mark.parametrize("capacity", [1, 700, 731, 732, 5000])
def test_a_set_takes_as_many_as_it_was_made_for(capacity: int) -> None:
    """All at one place of the table, and anywhere."""
    crowded = np.arange(1, capacity + 1, dtype=np.uint64) << np.uint64(40)
    for hashes in (crowded, np.random.default_rng(0).integers(1, 2**64, capacity, np.uint64)):
        known = HashSet(capacity)
        assert known.add(hashes, capacity).all()
        assert not known.add(hashes, capacity).any()
        assert not known.add(hashes[::-1], capacity).any()


def test_zero_and_one_are_one_hash() -> None:
    assert HashSet(9).add(np.array([0, 0, 1, 2, 0], np.uint64), 9).tolist() == [True, False, False, True, False]
    assert HashSet(9).add(np.array([1, 0, 2], np.uint64), 9).tolist() == [True, False, True]


def test_the_limit_counts_what_is_new() -> None:
    known = HashSet(9)
    hashes = np.array([5, 5, 6, 5, 7, 8], np.uint64)
    assert known.add(hashes, 2).tolist() == [True, False, True, False, False, False]
    assert known.add(hashes, 0).tolist() == [False] * 6
    assert known.add(hashes, 9).tolist() == [False, False, False, False, True, True]  # 7 and 8 had not entered


# --- look-up ---------------------------------------------------------------------------------------------------------


def text_of(row: np.ndarray) -> tuple[int, ...]:
    row = row.tolist()
    return tuple(row[: row.index(tokens.PAD)]) if tokens.PAD in row else tuple(row)


def rows(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    """Random token arrays of few tokens, so that many are alike; each has its `.`, with anything behind."""
    out = rng.choice(np.array([0, 1, 2, 11, 10], np.uint8), (n, width))
    out[:, -1] = tokens.PAD
    return out


@pytest.mark.parametrize("seed", range(6))
def test_find_against_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    programs = rows(rng, int(rng.integers(1, 300)), int(rng.integers(2, 7)))
    programs = programs[np.argsort(program_hashes(programs), kind="stable")]  # equal hashes stand side by side
    there = {text_of(row) for row in programs}
    answers: Counter[bool] = Counter()
    for width in (1, 2, 3, 5, 9):
        queries = rng.choice(np.array([0, 1, 2, 11, 10], np.uint8), (400, 2 * width))
        for array in (queries, queries[:, :width], queries[::3, ::2], np.asfortranarray(queries)):
            truth = [text_of(row) in there for row in array]
            assert contains(programs, array).tolist() == truth
            answers.update(truth)
    assert contains(programs, programs).all()
    assert min(answers.values()) > 50, "both answers must be asked for"


def test_find_in_nothing_and_of_nothing() -> None:
    programs = rows(np.random.default_rng(0), 5, 4)
    assert contains(np.zeros((0, 4), np.uint8), programs).tolist() == [False] * 5
    assert contains(programs, np.zeros((0, 4), np.uint8)).shape == (0,)
    assert contains(tokens.encode(["."]), np.zeros((2, 0), np.uint8)).tolist() == [True, True]
    assert contains(tokens.encode(["1."]), np.zeros((2, 0), np.uint8)).tolist() == [False, False]


def test_contains_reads_what_cannot_be_written_to() -> None:
    programs = rows(np.random.default_rng(0), 50, 4)
    programs = programs[np.argsort(program_hashes(programs))]
    programs.flags.writeable = False
    assert contains(programs, programs).all()
    assert contains(programs[:, :3], programs[:, :3]).sum() == sum(
        text_of(row) in {text_of(other) for other in programs if tokens.PAD in other[:3]} for row in programs[:, :3]
    )
