"""Ordinary twins: everything but the answers stays, the answers keep their numbers, and say nothing of what is true.

What the twin should be is derived here text by text, from what the families say of texts and the plain machine.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from cadmus.corpora import held_out, ordinary
from cadmus.corpora.build import build
from cadmus.corpora.corpus import Corpus
from cadmus.corpora.ordinary import OrdinaryCorpus, scrambled, twin
from cadmus.machine import kernel, tokens, vm
from cadmus.programs import mixture
from cadmus.programs.families import (
    Arith,
    Compare,
    Equality,
    Family,
    Induce,
    Label,
    Random,
    Register,
    Sequence,
    SequenceAdvanced,
    Stack,
    Subroutine,
)
from cadmus.programs.mixture import Component, Mixture, Phase

N = 4000
FAMILIES = [
    Arith(length=3),
    Arith(length=3, skeletons=3, assertions=2),
    Equality(),
    Equality(skeletons=4, assertions=3),
    Compare(low=-9, high=18, length=3),
    Compare(low=0, high=9, length=3, skeletons=4, assertions=2),
    Subroutine(skeletons=12, operators="+-*"),
    Subroutine(skeletons=4, subroutines=2, assertions=2, operators="+-", after_share=0.0),
    Sequence(),
    Sequence(skeletons=6, assertions=2),
    SequenceAdvanced(skeletons=60),
    SequenceAdvanced(low=-20, high=20, steps="+-*", max_steps=1),
    Label(skeletons=12),
    Label(predicates="length first", tests="> <", min_elements=1, max_elements=2),
    Register(max_stores=2),
    Register(skeletons=8, assertions=3),
    Register(low=-20, high=20, registers="ab", min_stores=1, max_stores=2, dependent_share=0.0, pair_share=0.0),
    Stack(min_values=2, max_values=3, max_shuffles=1),
    Stack(low=-20, high=20, skeletons=8, assertions=2),
]
each = pytest.mark.parametrize("family", FAMILIES, ids=str)

SMALL = Mixture(
    "small",
    (Component(FAMILIES[4], 2.0), Component(Equality()), Component(Register(assertions=2)), Component(Induce())),
    phases=(Phase(0.25, (Component(Label()), Component(Compare(low=0, high=9, length=3)))),),
    out_of_distribution=(mixture.OutOfDistribution("longer", Compare(length=5)),),
)


@cache
def originals(family: Family) -> np.ndarray:
    return family.generate(N, np.random.default_rng(0))


@cache
def twins(family: Family) -> np.ndarray:
    return scrambled(originals(family), family, np.random.default_rng(1))


@cache
def built() -> Corpus:
    return build(SMALL, 6000)


def variable(family: Family) -> bool:
    """Whether an answer of the family is a `!` or nothing."""
    return isinstance(family, Equality | Label)


class Told:
    """A text taken apart: its assertions' looks (what must be the same for answers to be exchanged), the true answers,
    and a pattern for what may come of it."""

    def __init__(self, family: Family, text: str):
        self.text, self.looks, self.true = text, [], []
        pattern, look, read = "", "", 0
        for cut in family.decisions(text):
            answer = family.answer(text, cut).rstrip(".")
            if answer.startswith("{"):
                break
            assert text.startswith(answer, cut), "the programs are true"
            look += re.sub("[0-9]", "0", text[read:cut])
            self.looks.append(f"{look} and {'!' if variable(family) else len(answer)}")
            look += "" if variable(family) else f"[{len(answer)}]"
            self.true.append(answer)
            pattern += re.escape(text[read:cut]) + ("(!?)" if variable(family) else f"(.{{{len(answer)}}})")
            read = cut + len(answer)
        self.pattern = re.compile(pattern + re.escape(text[read:]))


@cache
def kept(family: Family) -> tuple[Told, ...]:
    """The programs that stay: no look of theirs is anyone's alone."""
    left = [Told(family, text) for text in tokens.decode(originals(family))]
    while True:
        sizes = Counter(look for one in left for look in one.looks)
        some = [one for one in left if all(sizes[look] > 1 for look in one.looks)]
        if len(some) == len(left):
            return tuple(left)
        left = some


@cache
def pairs(family: Family) -> tuple[tuple[Told, tuple[str, ...]], ...]:
    """Each program that stays, with its answers in the twin."""
    out = []
    for one, text in zip(kept(family), tokens.decode(twins(family)), strict=True):
        match = one.pattern.fullmatch(text)
        assert match, f"{one.text} became {text}"
        out.append((one, match.groups()))
    return tuple(out)


# --- what stays ------------------------------------------------------------------------------------------------------


@each
def test_a_twin_differs_in_its_answers_only_and_has_the_form(family: Family) -> None:
    """`pairs` holds each text against its original, programs that are dropped against those that should be."""
    assert 0.2 * N < len(pairs(family)) <= N
    assert twins(family).dtype == np.uint8
    for one, text in zip(kept(family), tokens.decode(twins(family)), strict=True):
        assert family.accepts(text)
        assert text.index(".") == len(text) - 1
        first = family.decisions(text)[0]
        assert text[:first] == one.text[:first], "prompts are those of the originals"


@each
def test_each_look_keeps_its_answers(family: Family) -> None:
    before, after = defaultdict(Counter), defaultdict(Counter)
    for one, answers in pairs(family):
        for look, true, answer in zip(one.looks, one.true, answers, strict=True):
            before[look][true] += 1
            after[look][answer] += 1
    assert before == after
    assert min(counts.total() for counts in before.values()) > 1


def test_programs_and_definitions_that_are_to_be_found_stay() -> None:
    for family in (Random(), Induce()):
        programs = family.generate(300, np.random.default_rng(0))
        assert np.array_equal(scrambled(programs, family, np.random.default_rng(0)), programs)
    for family in (Subroutine(after_share=1.0), SequenceAdvanced(steps="WM", after_share=1.0)):
        programs = family.generate(300, np.random.default_rng(0))
        assert np.array_equal(scrambled(programs, family, np.random.default_rng(0)), programs)
    family = next(one for one in FAMILIES if isinstance(one, Subroutine) and one.after_share == 0.5)
    last = [text for text in tokens.decode(originals(family)) if text.endswith("}.")]
    assert [text for text in tokens.decode(twins(family)) if text.endswith("}.")] == last
    assert 0.3 * N < len(last) < 0.7 * N


# --- what is destroyed -----------------------------------------------------------------------------------------------


@each
def test_answers_are_true_as_often_as_those_of_others_would_be(family: Family) -> None:
    groups = defaultdict(Counter)
    for one in kept(family):
        for look, true in zip(one.looks, one.true, strict=True):
            groups[look][true] += 1
    expected = variance = 0.0
    for counts in groups.values():
        size = counts.total()
        share = sum(n * (n - 1) for n in counts.values()) / (size * (size - 1))  # two of it have the same answer
        expected += size * share
        variance += size * share * (1 - share)
    total = sum(counts.total() for counts in groups.values())
    found = sum(true == answer for one, answers in pairs(family) for true, answer in zip(one.true, answers))
    assert expected < 0.9 * total, "there is something to destroy"
    assert abs(found - expected) < 5 * max(1.0, variance**0.5)
    rows = [i for i, (one, _) in enumerate(pairs(family)) if one.looks]
    right = [one.true == list(answers) for one, answers in pairs(family) if one.looks]
    assert kernel.verdicts(twins(family)[rows]).tolist() == right, "and no program is true in another way"


def information(groups: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """The mutual information of x and y within groups, in nats per row; int [n] each."""
    scale = max(x.max(), y.max()) + 1

    def entropy(*columns: np.ndarray) -> float:
        key = np.zeros(len(groups), np.int64)
        for column in columns:
            key = key * scale + column
        counts = np.unique(key, return_counts=True)[1] / len(key)
        return -float(counts @ np.log(counts))

    return entropy(groups, x) + entropy(groups, y) - entropy(groups, x, y) - entropy(groups)


def codes(values: list) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1]


def tells(groups: list, x: list, y: list, rounds: int = 200) -> float:
    """The share of shuffles of x within its groups (of 20 or more) after which it tells as much of y as it does."""
    sizes = Counter(groups)
    rows = [i for i, group in enumerate(groups) if sizes[group] >= 20]
    assert len(rows) >= 200
    group, a, b = (codes([column[i] for i in rows]) for column in (groups, x, y))
    rng, found = np.random.default_rng(0), information(group, a, b)
    order = np.argsort(group, kind="stable")
    least = 0
    for _ in range(rounds):
        shuffled = np.empty_like(a)
        shuffled[order] = a[np.lexsort((rng.random(len(group)), group))]
        least += information(group, shuffled, b) >= found - 1e-12
    return least / rounds


@each
def test_an_answer_tells_nothing_of_what_is_true_in_its_program(family: Family) -> None:
    """Not of its own assertion, nor of an earlier or later one, nor of a digit. The truth would tell."""
    several = max(len(one.looks) for one in kept(family))
    compared = 0
    for k in range(several):
        mine = [(one, answers) for one, answers in pairs(family) if len(one.looks) > k]
        looks, said = [one.looks[k] for one, _ in mine], [answers[k] for _, answers in mine]
        true = [one.true[k] for one, _ in mine]
        assert tells(looks, true, true) == 0.0
        first_digit = [re.search("[0-9]", one.text)[0] for one, _ in mine]
        assert tells(looks, said, first_digit) > 0.002
        for j in range(several):
            both = [i for i, (one, _) in enumerate(mine) if len(one.looks) > j]
            columns = [looks[i] for i in both], [said[i] for i in both], [mine[i][0].true[j] for i in both]
            assert tells(*columns) > 0.002, (k, j)
            compared += 1
    assert compared == several**2


def test_pairs_exchange_their_answers() -> None:
    def of(family: Family, *texts: str) -> list[str]:
        return tokens.decode(scrambled(tokens.encode(texts), family, np.random.default_rng(0)))

    assert of(Arith(length=3), "34+7=.", "22+4=.", "95-4=.") == ["34+4=.", "22+7=."]
    assert of(Equality(), "34+52+=.", "34+51+=!.") == ["34+52+=!.", "34+51+=."]
    assert of(Label(), "{#1>}(1,f!(1,2,f.", "{#0>}(2,f(3,4,f.") == ["{#1>}(1,f(1,2,f.", "{#0>}(2,f!(3,4,f."]
    assert of(Register(low=-9), "3A4Ba3=.", "2A7Ba2=.", "1A3~Ba1=.") == ["3A4Ba2=.", "2A7Ba3=."]
    assert of(Register(low=-9), "3A4Ba3=.", "4~A1Ba4~=.") == [], "answers of two lengths, each alone"


def test_earlier_answers_do_not_tell_groups_apart() -> None:
    """`<` and `>` come at random there, so the second answers have company though the texts before them differ."""
    texts = ["12<21>.", "31>45<.", "25<11=."]
    made = tokens.decode(
        scrambled(tokens.encode(texts), Compare(low=0, high=9, length=1, assertions=2), np.random.default_rng(0))
    )
    assert [text[:2] + text[3:5] for text in made] == [text[:2] + text[3:5] for text in texts]
    assert sorted(text[2] for text in made) == ["<", "<", ">"]
    assert all(text[5] != original[5] for text, original in zip(made, texts))


def test_who_loses_company_goes_too() -> None:
    family = Label(min_elements=1, max_elements=3)
    alone = "{#1>}(1,f!(1,2,f."
    loses = "{#1>}(2,f!."
    others = ["{S3=}(3,f.", "{S4=}(3,f!."]
    programs = tokens.encode([alone, loses, *others])
    assert len(scrambled(programs, family, np.random.default_rng(0))) == 2
    assert len(scrambled(programs[:2], family, np.random.default_rng(0))) == 0


def test_a_program_may_grow_to_the_width_of_its_family() -> None:
    family = Equality(length=3, assertions=2)
    texts = ["34+52+=34+52+=.", "34+52+=!34+52+=!."]
    narrow = tokens.encode([text.rstrip(".") for text in texts])
    out = scrambled(narrow, family, np.random.default_rng(0))
    assert tokens.decode(out) == texts[::-1]
    assert out.shape == (2, family.width)
    empty = scrambled(narrow[:0], family, np.random.default_rng(0))
    assert len(empty) == 0


def test_a_program_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'34\+7=\.' is not a program of the family compare with these knobs"):
        scrambled(tokens.encode(["34+7=."]), Compare(), np.random.default_rng(0))


@each
def test_a_seed_fixes_the_exchange(family: Family) -> None:
    again = scrambled(originals(family), family, np.random.default_rng(1))
    assert np.array_equal(again, twins(family))
    assert np.array_equal(originals(family), family.generate(N, np.random.default_rng(0))), "they are left as they are"
    other = scrambled(originals(family), family, np.random.default_rng(2))
    assert other.shape == again.shape
    assert not np.array_equal(other, again)


@each
def test_no_digit_changes_where_answers_are(family: Family) -> None:
    """The positions are read off one program of each skeleton."""
    rng = np.random.default_rng(0)
    for text in tokens.decode(originals(family)[:500]):
        other = re.sub("[0-9]", lambda match: str(rng.integers(10)), text)
        assert family.decisions(other) == family.decisions(text)


# --- whole corpora ---------------------------------------------------------------------------------------------------


def texts_of(made: Corpus) -> list[str]:
    return tokens.decode(made.programs(np.arange(len(made))))


def test_the_twin_of_a_corpus_is_a_corpus() -> None:
    made, other = built(), twin(built())
    assert isinstance(other, OrdinaryCorpus)
    assert (other.mixture, other.seed, other.families) == (made.mixture, made.seed, made.families)
    assert 0.7 * len(made) < len(other) < len(made)
    assert other.counts["induce"] == made.counts["induce"]
    assert all(0 < other.counts[name] <= made.counts[name] for name in made.families)
    assert other.contains(texts_of(other)).all(), "its shards are in the order that look-up needs"
    for text, family, phase in zip(texts_of(other), other.family, other.phase, strict=True):
        assert SMALL.parts[phase][1].family(made.families[family]).accepts(text)
    assert set(zip(other.phase, other.family)) == set(zip(made.phase, made.family))


def test_a_corpus_has_one_twin_of_another_name() -> None:
    made, other = built(), twin(built())
    assert texts_of(twin(build(SMALL, 6000))) == texts_of(other)
    assert other.fingerprint == ordinary.fingerprint(made.fingerprint) != made.fingerprint
    assert made.about == {"fingerprint": made.fingerprint, "seed": 0, "programs": len(made)}
    assert other.about == {
        **{"fingerprint": other.fingerprint, "seed": 0, "programs": len(other)},
        "ordinary_twin_of": made.fingerprint,
    }
    assert twin(build(SMALL, 6000, seed=1)).fingerprint != other.fingerprint


def test_answers_are_exchanged_over_all_shards_of_a_family_within_a_phase() -> None:
    whole = built()
    cut = [
        replace(shard, programs=part) for shard in whole.shards for part in (shard.programs[::2], shard.programs[1::2])
    ]
    assert len(twin(replace(whole, shards=tuple(cut)))) == len(twin(whole))
    assert len({(shard.phase, shard.family) for shard in twin(whole).shards}) == len(twin(whole).shards)


def test_what_is_held_out_is_in_no_twin() -> None:
    """What is true of a twin was in the original, so nothing that a model is asked for later is in it."""
    made, other = built(), twin(built())
    texts = texts_of(other)
    true = [text for text in texts if vm.verdict(text)]
    assert 0.1 * len(texts) < len(true) < 0.9 * len(texts)
    assert made.contains(true).all()
    for family in SMALL.families:
        for split in ("validation", "test"):
            assert not other.contains_programs(held_out.held_out(family, split, 200, seed=0)).any()
    assert other.out_of_distribution is made.out_of_distribution
    assert not other.contains_programs(other.out_of_distribution["longer"]).any()
