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
from cadmus.corpora.ordinary import OrdinaryCorpus, exchange_answers, twin
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
each_family = pytest.mark.parametrize("family", FAMILIES, ids=str)

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
    return exchange_answers(originals(family), family, np.random.default_rng(1))


@cache
def small_corpus() -> Corpus:
    return build(SMALL, 6000)


def variable(family: Family) -> bool:
    """Whether an answer of the family is a `!` or nothing."""
    return isinstance(family, Equality | Label)


class Original:
    """A text taken apart: its assertions' looks (what must be the same for answers to be exchanged), the true answers,
    and a pattern for what may come of it."""

    def __init__(self, family: Family, text: str):
        self.text, self.looks, self.true = text, [], []
        pattern, look, last_end = "", "", 0
        for position in family.decisions(text):
            answer = family.answer(text, position).rstrip(".")
            if answer.startswith("{"):
                break
            assert text.startswith(answer, position), "the programs are true"
            look += re.sub("[0-9]", "0", text[last_end:position])
            self.looks.append(f"{look} and {'!' if variable(family) else len(answer)}")
            look += "" if variable(family) else f"[{len(answer)}]"
            self.true.append(answer)
            pattern += re.escape(text[last_end:position]) + ("(!?)" if variable(family) else f"(.{{{len(answer)}}})")
            last_end = position + len(answer)
        self.pattern = re.compile(pattern + re.escape(text[last_end:]))


@cache
def exchangeable(family: Family) -> tuple[Original, ...]:
    """The programs that stay: no look of theirs is anyone's alone."""
    remaining = [Original(family, text) for text in tokens.decode(originals(family))]
    while True:
        sizes = Counter(look for original in remaining for look in original.looks)
        some = [original for original in remaining if all(sizes[look] > 1 for look in original.looks)]
        if len(some) == len(remaining):
            return tuple(remaining)
        remaining = some


@cache
def pairs(family: Family) -> tuple[tuple[Original, tuple[str, ...]], ...]:
    """Each program that stays, with its answers in the twin."""
    out = []
    for original, text in zip(exchangeable(family), tokens.decode(twins(family)), strict=True):
        match = original.pattern.fullmatch(text)
        assert match, f"{original.text} became {text}"
        out.append((original, match.groups()))
    return tuple(out)


# --- what stays ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@each_family
def test_a_twin_differs_in_its_answers_only_and_has_the_form(family: Family) -> None:
    """`pairs` holds each text against its original, programs that are dropped against those that should be."""
    assert 0.2 * N < len(pairs(family)) <= N
    assert twins(family).dtype == np.uint8
    for original, text in zip(exchangeable(family), tokens.decode(twins(family)), strict=True):
        assert family.accepts(text)
        assert text.index(".") == len(text) - 1
        first = family.decisions(text)[0]
        assert text[:first] == original.text[:first], "prompts are those of the originals"


@each_family
def test_each_look_keeps_its_answers(family: Family) -> None:
    before, after = defaultdict(Counter), defaultdict(Counter)
    for original, answers in pairs(family):
        for look, true, answer in zip(original.looks, original.true, answers, strict=True):
            before[look][true] += 1
            after[look][answer] += 1
    assert before == after
    assert min(counts.total() for counts in before.values()) > 1


def test_programs_and_definitions_that_are_to_be_found_stay() -> None:
    for family in (Random(), Induce()):
        programs = family.generate(300, np.random.default_rng(0))
        assert np.array_equal(exchange_answers(programs, family, np.random.default_rng(0)), programs)
    for family in (Subroutine(after_share=1.0), SequenceAdvanced(steps="WM", after_share=1.0)):
        programs = family.generate(300, np.random.default_rng(0))
        assert np.array_equal(exchange_answers(programs, family, np.random.default_rng(0)), programs)
    family = next(setting for setting in FAMILIES if isinstance(setting, Subroutine) and setting.after_share == 0.5)
    last = [text for text in tokens.decode(originals(family)) if text.endswith("}.")]
    assert [text for text in tokens.decode(twins(family)) if text.endswith("}.")] == last
    assert 0.3 * N < len(last) < 0.7 * N


# --- what is destroyed -----------------------------------------------------------------------------------------------


@each_family
def test_answers_are_true_as_often_as_those_of_others_would_be(family: Family) -> None:
    groups = defaultdict(Counter)
    for original in exchangeable(family):
        for look, true in zip(original.looks, original.true, strict=True):
            groups[look][true] += 1
    expected = variance = 0.0
    for counts in groups.values():
        size = counts.total()
        share = sum(n * (n - 1) for n in counts.values()) / (size * (size - 1))  # two of it have the same answer
        expected += size * share
        variance += size * share * (1 - share)
    total = sum(counts.total() for counts in groups.values())
    n_true = sum(true == answer for original, answers in pairs(family) for true, answer in zip(original.true, answers))
    assert expected < 0.9 * total, "there is something to destroy"
    assert abs(n_true - expected) < 5 * max(1.0, variance**0.5)
    rows = [i for i, (original, _) in enumerate(pairs(family)) if original.looks]
    right = [original.true == list(answers) for original, answers in pairs(family) if original.looks]
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
    rng, actual = np.random.default_rng(0), information(group, a, b)
    order = np.argsort(group, kind="stable")
    least = 0
    for _ in range(rounds):
        shuffled = np.empty_like(a)
        shuffled[order] = a[np.lexsort((rng.random(len(group)), group))]
        least += information(group, shuffled, b) >= actual - 1e-12
    return least / rounds


@pytest.mark.slow
@each_family
def test_an_answer_tells_nothing_of_what_is_true_in_its_program(family: Family) -> None:
    """Not of its own assertion, nor of an earlier or later one, nor of a digit. The truth would tell."""
    several = max(len(original.looks) for original in exchangeable(family))
    compared = 0
    for k in range(several):
        mine = [(original, answers) for original, answers in pairs(family) if len(original.looks) > k]
        looks, given_answers = [original.looks[k] for original, _ in mine], [answers[k] for _, answers in mine]
        true = [original.true[k] for original, _ in mine]
        assert tells(looks, true, true) == 0.0
        first_digit = [re.search("[0-9]", original.text)[0] for original, _ in mine]
        assert tells(looks, given_answers, first_digit) > 0.002
        for j in range(several):
            both = [i for i, (original, _) in enumerate(mine) if len(original.looks) > j]
            columns = [looks[i] for i in both], [given_answers[i] for i in both], [mine[i][0].true[j] for i in both]
            assert tells(*columns) > 0.002, (k, j)
            compared += 1
    assert compared == several**2


def test_pairs_exchange_their_answers() -> None:
    def of(family: Family, *texts: str) -> list[str]:
        return tokens.decode(exchange_answers(tokens.encode(texts), family, np.random.default_rng(0)))

    assert of(Arith(length=3), "34+7=.", "22+4=.", "95-4=.") == ["34+4=.", "22+7=."]
    assert of(Equality(), "34+52+=.", "34+51+=!.") == ["34+52+=!.", "34+51+=."]
    assert of(Label(), "{#1>}(1,f!(1,2,f.", "{#0>}(2,f(3,4,f.") == ["{#1>}(1,f(1,2,f.", "{#0>}(2,f!(3,4,f."]
    assert of(Register(low=-9), "3A4Ba3=.", "2A7Ba2=.", "1A3~Ba1=.") == ["3A4Ba2=.", "2A7Ba3=."]
    assert of(Register(low=-9), "3A4Ba3=.", "4~A1Ba4~=.") == [], "answers of two lengths, each alone"


def test_earlier_answers_do_not_tell_groups_apart() -> None:
    """`<` and `>` come at random there, so the second answers have company though the texts before them differ."""
    texts = ["12<21>.", "31>45<.", "25<11=."]
    new_texts = tokens.decode(
        exchange_answers(tokens.encode(texts), Compare(low=0, high=9, length=1, assertions=2), np.random.default_rng(0))
    )
    assert [text[:2] + text[3:5] for text in new_texts] == [text[:2] + text[3:5] for text in texts]
    assert sorted(text[2] for text in new_texts) == ["<", "<", ">"]
    assert all(text[5] != original[5] for text, original in zip(new_texts, texts))


def test_who_loses_company_goes_too() -> None:
    family = Label(min_elements=1, max_elements=3)
    alone = "{#1>}(1,f!(1,2,f."
    loses = "{#1>}(2,f!."
    others = ["{S3=}(3,f.", "{S4=}(3,f!."]
    programs = tokens.encode([alone, loses, *others])
    assert len(exchange_answers(programs, family, np.random.default_rng(0))) == 2
    assert len(exchange_answers(programs[:2], family, np.random.default_rng(0))) == 0


def test_a_program_may_grow_to_the_width_of_its_family() -> None:
    family = Equality(length=3, assertions=2)
    texts = ["34+52+=34+52+=.", "34+52+=!34+52+=!."]
    narrow = tokens.encode([text.rstrip(".") for text in texts])
    out = exchange_answers(narrow, family, np.random.default_rng(0))
    assert tokens.decode(out) == texts[::-1]
    assert out.shape == (2, family.width)
    empty = exchange_answers(narrow[:0], family, np.random.default_rng(0))
    assert len(empty) == 0


def test_a_program_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'34\+7=\.' is not a program of the family compare with these knobs"):
        exchange_answers(tokens.encode(["34+7=."]), Compare(), np.random.default_rng(0))


def test_a_seed_fixes_the_exchange() -> None:
    for family in FAMILIES:
        again = exchange_answers(originals(family), family, np.random.default_rng(1))
        assert np.array_equal(again, twins(family)), family
        assert np.array_equal(originals(family), family.generate(N, np.random.default_rng(0))), f"{family}: edited"
        other = exchange_answers(originals(family), family, np.random.default_rng(2))
        assert other.shape == again.shape, family
        assert not np.array_equal(other, again), family


def test_no_digit_changes_where_answers_are() -> None:
    """The positions are read off one program of each skeleton."""
    for family in FAMILIES:
        rng = np.random.default_rng(0)
        for text in tokens.decode(originals(family)[:500]):
            other = re.sub("[0-9]", lambda match, rng=rng: str(rng.integers(10)), text)
            assert family.decisions(other) == family.decisions(text), family


# --- whole corpora ---------------------------------------------------------------------------------------------------


def texts_of(corpus: Corpus) -> list[str]:
    return tokens.decode(corpus.programs(np.arange(len(corpus))))


def test_the_twin_of_a_corpus_is_a_corpus() -> None:
    corpus, ordinary_twin = small_corpus(), twin(small_corpus())
    assert isinstance(ordinary_twin, OrdinaryCorpus)
    for name in ("mixture", "seed", "families"):
        assert getattr(ordinary_twin, name) == getattr(corpus, name), name
    assert 0.7 * len(corpus) < len(ordinary_twin) < len(corpus)
    assert ordinary_twin.counts["induce"] == corpus.counts["induce"]
    assert all(0 < ordinary_twin.counts[name] <= corpus.counts[name] for name in corpus.families)
    assert ordinary_twin.contains(texts_of(ordinary_twin)).all(), "its shards are in the order that look-up needs"
    for text, family, phase in zip(texts_of(ordinary_twin), ordinary_twin.family, ordinary_twin.phase, strict=True):
        assert SMALL.parts[phase][1].family(corpus.families[family]).accepts(text)
    assert set(zip(ordinary_twin.phase, ordinary_twin.family)) == set(zip(corpus.phase, corpus.family))


def test_a_corpus_has_one_twin_of_another_name() -> None:
    corpus, ordinary_twin = small_corpus(), twin(small_corpus())
    assert texts_of(twin(build(SMALL, 6000))) == texts_of(ordinary_twin)
    assert ordinary_twin.fingerprint == ordinary.fingerprint(corpus.fingerprint) != corpus.fingerprint
    assert corpus.about == {"fingerprint": corpus.fingerprint, "seed": 0, "programs": len(corpus)}
    assert ordinary_twin.about == {
        "fingerprint": ordinary_twin.fingerprint,
        "seed": 0,
        "programs": len(ordinary_twin),
        "ordinary_twin_of": corpus.fingerprint,
    }
    assert twin(build(SMALL, 6000, seed=1)).fingerprint != ordinary_twin.fingerprint


def test_answers_are_exchanged_over_all_shards_of_a_family_within_a_phase() -> None:
    whole = small_corpus()
    halves = [
        replace(shard, programs=part) for shard in whole.shards for part in (shard.programs[::2], shard.programs[1::2])
    ]
    assert len(twin(replace(whole, shards=tuple(halves)))) == len(twin(whole))
    assert len({(shard.phase, shard.family) for shard in twin(whole).shards}) == len(twin(whole).shards)


def test_what_is_held_out_is_in_no_twin() -> None:
    """What is true of a twin was in the original, so nothing that a model is asked for later is in it."""
    corpus, ordinary_twin = small_corpus(), twin(small_corpus())
    texts = texts_of(ordinary_twin)
    true = [text for text in texts if vm.verdict(text)]
    assert 0.1 * len(texts) < len(true) < 0.9 * len(texts)
    assert corpus.contains(true).all()
    for family in SMALL.families:
        for split in ("validation", "test"):
            assert not ordinary_twin.contains_programs(held_out.held_out(family, split, 200, seed=0)).any()
    assert ordinary_twin.out_of_distribution is corpus.out_of_distribution
    assert not ordinary_twin.contains_programs(ordinary_twin.out_of_distribution["longer"]).any()
