"""The families: what they draw is true, and their knobs do what they say. Their form is in `test_family_forms`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from cadmus.machine import tokens, vm
from cadmus.programs.families import (
    FAMILIES,
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
from cadmus.programs.parts.family import knobs
from cadmus.programs.parts.statements import Statements
from cadmus.programs.parts.structured import _skeleton_pool
from tests.fuzzing import examples

SETTINGS = [
    Arith(),
    Arith(low=2, high=7, length=7, operators="+-*~", digit_skew=1.0, assertions=3),
    Arith(length=5, min_length=5, skeletons=20, zipf=1.0),
    Compare(),
    Compare(low=-3, high=7, length=3, equal_share=0.5),
    Compare(low=2, high=9, length=1, operators="", equal_share=0.0),
    Compare(low=4, high=4, length=3, equal_share=1.0),
    Compare(low=-50, high=99, length=9, min_length=5, operators="+-*m", digit_skew=0.5, assertions=2),
    Compare(low=-5, high=5, skeletons=12, zipf=1.5),
    Equality(),
    Equality(low=-20, high=20, length=5, negated_share=0.2, assertions=3),
    Equality(low=0, high=9, length=1, negated_share=1.0, digit_skew=-1.0),
    Equality(low=3, high=3, negated_share=0.0, min_length=1, operators="+x", skeletons=2, zipf=1.0),
    Equality(low=-40, high=40, length=6, operators="+-*/%xn~m", test="-"),
    Subroutine(),
    Subroutine(low=-9, high=27, length=5, min_length=3, subroutines=3, min_calls=2, max_calls=4, after_share=1.0),
    Subroutine(operators="+-*x~", equal_share=0.5, digit_skew=1.0, assertions=2, after_share=0.0),
    Subroutine(skeletons=10, zipf=1.0, subroutines=2),
    Sequence(),
    Sequence(low=2, high=60, min_elements=3, max_elements=9, count_share=0.5, steps="RQ", min_steps=1, max_steps=4),
    Sequence(readings="SX", digit_skew=1.0, assertions=3, max_steps=0),
    Sequence(skeletons=15, zipf=1.0, steps="T", readings="#IE", high=9),
    SequenceAdvanced(),
    SequenceAdvanced(low=-30, high=81, min_elements=1, max_elements=6, steps="WMOP+-*xnRTQ", min_steps=2, max_steps=4),
    SequenceAdvanced(body_operators="-%<", steps="MW", after_share=1.0, readings="SE", assertions=2, digit_skew=0.5),
    SequenceAdvanced(skeletons=20, zipf=2.0, after_share=0.0, count_share=0.5),
    Label(),
    Label(predicates="first sum contains", tests="> odd", min_elements=2, max_elements=6, min_examples=2),
    Label(max_examples=6, false_share=0.2, digit_skew=0.5),
    Label(skeletons=5, zipf=1.0),
    Induce(),
    Induce(predicates="last contains", tests="<", min_elements=2, max_elements=6, min_examples=2, max_examples=8),
    Induce(false_share=0.3, digit_skew=-0.5),
    Induce(skeletons=5, zipf=1.0),
    Random(),
    Random(min_length=2, max_length=5, instructions="0123456789+-=~", digit_share=0.6),
    Random(min_length=6, max_length=6, digit_share=0.0, instructions="(#!:+Qm"),
    Register(),
    Register(low=-12, high=30, registers="bd", min_stores=1, max_stores=6, operators="+-*xn", assertions=3),
    Register(low=0, high=0, registers="c", min_stores=3, max_stores=3, operators="x", pair_share=1.0),
    Register(dependent_share=1.0, overwrite_share=1.0, operators="n", assertions=2, pair_share=0.0),
    Register(min_stores=4, max_stores=8, min_distance=2, max_distance=4, dead_share=1.0, digit_skew=1.0),
    Register(min_stores=4, max_stores=8, max_distance=1, pair_share=1.0, aged_pair_share=0.5),
    Register(skeletons=10, zipf=1.0),
    Stack(),
    Stack(low=-30, high=30, min_values=3, max_values=6, min_shuffles=0, max_shuffles=6, max_depth=7, operators="*+"),
    Stack(shuffles="\\;", assertions=3, digit_skew=1.0),
    Stack(skeletons=10, zipf=1.0),
]


@cache
def texts(family: Family, n: int = 300, seed: int = 0) -> tuple[str, ...]:
    return tuple(tokens.decode(family.generate(n, np.random.default_rng(seed))))


def close_to(draws: np.ndarray | list[bool], share: float, n_min: int = 500) -> bool:
    """Whether a share of enough yes-or-no draws lies within 4.5 standard errors of what it should be."""
    assert len(draws) >= n_min
    return abs(np.mean(draws) - share) <= 4.5 * np.sqrt(share * (1 - share) / len(draws))


def uniform(draws: list, of: set | range, n_min: int = 500) -> bool:
    """Whether what was found is each of `of` equally often, and nothing else."""
    array = np.array(draws)
    return set(draws) == set(of) and all(close_to(array == value, 1 / len(of), n_min) for value in of)


def test_every_family_is_here_with_default_and_other_knobs() -> None:
    assert {type(family) for family in SETTINGS} == set(FAMILIES.values())
    for name, family in FAMILIES.items():
        assert family.name == name
        assert family() in SETTINGS
        mine = [setting for setting in SETTINGS if type(setting) is family]
        assert len(mine) >= 3
        for knob in knobs(family).values():
            assert len({getattr(setting, knob.name) for setting in mine}) > 1, f"no test turns {name}.{knob.name}"


# --- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", SETTINGS, ids=str)
def test_programs_of_a_setting(family: Family) -> None:
    """Five properties that programs have whatever the knobs."""
    check_true_and_formed(family)
    check_width(family)
    check_seed(family)
    check_nothing_drawn(family)
    check_decisions(family)


def check_true_and_formed(family: Family) -> None:
    """Programs are true by the plain machine, and of their family's form."""
    programs = family.generate(300, np.random.default_rng(0))
    assert programs.dtype == np.uint8
    assert programs.shape == (300, family.width)
    assert (tokens.lengths(programs) < family.width).all(), "a program lacks its ."
    assert np.array_equal(tokens.sequences(programs)[:, 1:], programs), "there is something behind the ."
    for text in texts(family):
        assert vm.verdict(text), f"{text} is false"
        assert family.accepts(text), f"{text} has not the form"
        assert family.accepts(text.rstrip(".")), f"{text} has not the form without its ."


def check_width(family: Family) -> None:
    """The array is as wide as the longest program, or as the worst case of all parts at once."""
    longest = max(map(len, texts(family, 2000)))
    if isinstance(family, Statements) and family.min_length in (0, family.length):
        expected = family.width - (family.name == "equality" and family.negated_share == 0)
        assert longest == expected, "the width is not that of the longest program"
    else:
        assert family.width * 0.5 <= longest <= family.width, "the width is for nothing"


def check_seed(family: Family) -> None:
    """A seed fixes the programs."""
    again, other = (family.generate(300, np.random.default_rng(seed)) for seed in (0, 1))
    assert tokens.decode(again) == list(texts(family)), "the same seed gives other programs"
    only_one = len(set(texts(family))) == 1
    assert tokens.decode(other) != list(texts(family)) or only_one, "another seed gives the same programs"


def check_nothing_drawn(family: Family) -> None:
    """Drawing nothing gives no rows."""
    nothing = family.generate(0, np.random.default_rng(0))
    assert nothing.shape == (0, family.width), "the shape of no programs"
    assert nothing.dtype == np.uint8, "the dtype of no programs"


def check_decisions(family: Family) -> None:
    """Decisions lie inside, and the text goes on with the answer."""
    for text in texts(family):
        positions = family.decisions(text)
        assert list(positions) == sorted(set(positions)), text
        defined_last = text.endswith("}.") and "{" in text
        expected = {"label": text.count("f"), "random": 1}.get(family.name, getattr(family, "assertions", 1))
        assert len(positions) == (1 if defined_last and family.name != "random" else expected), text
        for position in positions:
            assert 0 < position < len(text), text
            answer = family.answer(text, position)
            assert text.startswith(text[:position] + answer), text
            assert answer.endswith(".") is (position == positions[-1]), text
        assert text[: positions[-1]] + family.answer(text, positions[-1]) == text
        for position in set(range(len(text) + 2)) - set(positions):
            assert family.answer(text, position) is None, text


def test_false_programs_are_never_let_out() -> None:
    class Lying(Compare):
        def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
            programs = super().draw(n, rng)
            programs[-1, :-1] = tokens.encode(["11+11+<"])
            return programs

    with pytest.raises(AssertionError, match=r"family compare drew false programs: .* this is a bug"):
        Lying(length=3, low=0, high=9).generate(8, np.random.default_rng(0))


register_knobs = st.fixed_dictionaries(
    {
        "low": st.integers(-81, 0),
        "high": st.integers(9, 81),
        "registers": st.permutations("abcd").flatmap(lambda r: st.integers(1, 4).map(lambda n: "".join(r[:n]))),
        "min_stores": st.integers(1, 4),
        "max_stores": st.integers(4, 6),
        "dependent_share": st.floats(0, 0.7),
        "overwrite_share": st.floats(0, 1),
        "dead_share": st.floats(0, 1),
        "min_distance": st.integers(0, 3),
        "max_distance": st.integers(3, 16),
        "operators": st.sets(st.sampled_from("+-*xn"), min_size=1).map("".join),
        "assertions": st.integers(1, 3),
        "pair_share": st.floats(0, 1),
        "aged_pair_share": st.floats(0, 1),
        "digit_skew": st.floats(-0.5, 2),
    }
)


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(40))
@given(register_knobs, st.integers(0, 2**32))
def test_register_under_any_knobs(knob_values: dict, seed: int) -> None:
    """Where results leave the range nearly always (products of 9s), the draw may be given up, in one line."""
    family = Register(**knob_values)
    try:
        programs = texts(family, 20, seed)
    except ValueError as error:
        if not re.match(r"register: \d+ of 20 programs were not found in \d+ tries; ", str(error)):
            raise
        reject()
    for text in programs:
        assert vm.verdict(text)
        assert family.accepts(text)
        cuts = family.decisions(text)
        assert len(cuts) == family.assertions
        for cut in cuts:
            assert text.startswith(text[:cut] + family.answer(text, cut))


@pytest.mark.parametrize("name", FAMILIES)
def test_knobs_are_documented(name: str) -> None:
    all_knobs = knobs(FAMILIES[name])
    assert list(all_knobs) == [field.name for field in fields(FAMILIES[name])]
    for knob in all_knobs.values():
        assert knob.default == getattr(FAMILIES[name](), knob.name)
        assert len(knob.doc) > 10
        assert "\n" not in knob.doc


# --- knobs that many families have -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if "digit_skew" in knobs(family)])
def test_digit_skew_moves_the_digits(name: str) -> None:
    def mean(skew: float) -> float:
        digits = "".join(texts(FAMILIES[name](digit_skew=skew), 1000))
        return float(np.mean([int(token) for token in digits if token.isdecimal()]))

    few, some, many = mean(1.0), mean(0.0), mean(-1.0)
    assert few < some - 0.3
    assert some < many - 0.3


LITERAL = r"\d(?:\d\+)*~?"


def template(family: Family, text: str) -> str:
    """A program with 0 for every digit and without what its `skeletons` knob leaves apart: literals and labels."""
    text = text.replace("f!", "f") if family.name == "label" else text
    if family.name == "register":
        stores, assertions = parts(text)
        store_forms = [(source if loads(source) else "L") + target for source, target in stores]
        text = "".join([*store_forms, *(re.sub(rf"{LITERAL}=", "L=", assertion) for assertion in assertions)])
    if family.name in ("sequence", "sequence_advanced", "stack"):
        text = re.sub(rf"{LITERAL}=", "L=", text)
    return re.sub(r"\d", "0", text)


STRUCTURED = [
    Sequence(high=9),
    Sequence(),
    SequenceAdvanced(low=-30, high=30),
    Label(),
    Induce(),
    Register(),
    Register(low=-20, high=30),
    Stack(),
    Stack(low=-20, high=20),
]


@pytest.mark.parametrize("count", [1, 6, 40])
@pytest.mark.parametrize("family", STRUCTURED, ids=str)
def test_skeletons_are_as_many_as_asked_for(family: Family, count: int) -> None:
    family = replace(family, skeletons=count)
    templates = {template(family, text) for text in texts(family, 2000)}
    assert len(templates) == count
    assert {template(family, text) for text in texts(family, 500, seed=1)} <= templates, "the bank follows the seed"


@pytest.mark.parametrize("zipf", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("family", STRUCTURED, ids=str)
def test_zipf_multiplies_the_weights_of_the_chosen_skeletons(family: Family, zipf: float) -> None:
    natural, weights = (_skeleton_pool(replace(family, skeletons=4, zipf=exponent))[1] for exponent in (0.0, zipf))
    assert np.allclose(weights / weights[0], natural / natural[0] * np.arange(1, 5) ** -zipf)
    counts_of_templates = Counter(
        template(family, text) for text in texts(replace(family, skeletons=4, zipf=zipf), 2000)
    )
    counts = sorted(counts_of_templates.values(), reverse=True)
    heaviest = sorted(weights, reverse=True)
    assert all(close_to(np.arange(2000) < n, w) for n, w in zip(counts, heaviest, strict=True))


@pytest.mark.parametrize("count", [50, 200])
@pytest.mark.parametrize("family", [Sequence(), SequenceAdvanced(), Stack(), Register(), Induce()], ids=str)
def test_a_limit_on_skeletons_leaves_programs_as_they_are_on_average(family: Family, count: int) -> None:
    """The chosen ones stand for all: over the structures, lengths are what they are without the limit."""
    bank, weights = _skeleton_pool(replace(family, skeletons=count))
    rng = np.random.default_rng(0)
    lengths = [tokens.lengths(family.fill(some, rng)[0]) for some in (bank, family.structures(4000, rng))]
    mean_of_pool, all_of_them = weights @ lengths[0], lengths[1].mean()
    spread = lengths[1].std() * np.sqrt((weights**2).sum())  # of the mean of as many structures, so weighed
    assert abs(mean_of_pool - all_of_them) < 4 * spread + 0.03 * all_of_them


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        Sequence(low=10),
        Stack(low=-9, high=-1),
        SequenceAdvanced(low=-12, high=-1, steps="M-"),
        SequenceAdvanced(assertions=8),
        Register(min_stores=16, max_stores=16, dependent_share=0.9),
        Register(high=0, min_stores=4, max_stores=6, dependent_share=1.0, operators="+"),
    ],
    ids=str,
)
def test_knobs_that_are_accepted_can_be_drawn(family: Family) -> None:
    """Where programs abound, but many structures have none, others take their place until there are enough."""
    assert all(vm.verdict(text) for text in texts(family, 2000))


@pytest.mark.parametrize("assertions", [1, 2, 8])
@pytest.mark.parametrize("kind", [Arith, Equality, Compare, Subroutine, Sequence, SequenceAdvanced, Stack, Register])
def test_assertions_leave_one_true_value_each(kind: type[Family], assertions: int) -> None:
    family = kind(assertions=assertions)
    for text in texts(family, 100):
        assert len(vm.run(text).outputs) == assertions


def value_of(expression: str) -> int:
    (value,) = vm.run(expression).outputs
    return value.v


# --- subroutines -----------------------------------------------------------------------------------------------------


def definitions(text: str) -> list[str]:
    return re.findall(r"\{([^}]*)\}", text)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_after_share(share: float) -> None:
    for family in (Subroutine(after_share=share), SequenceAdvanced(after_share=share)):
        last = [text.endswith("}.") for text in texts(family, 2000) if "{" in text]
        assert close_to(last, share)
        assert all(text.startswith("{") for text in texts(family, 2000) if "{" in text and not text.endswith("}."))


@pytest.mark.parametrize(("subroutines", "minimum", "maximum"), [(1, 1, 2), (2, 1, 1), (3, 2, 4), (3, 8, 8)])
def test_subroutines_and_calls(subroutines: int, minimum: int, maximum: int) -> None:
    family = Subroutine(
        high=27, length=5, subroutines=subroutines, min_calls=minimum, max_calls=maximum, operators="+xn"
    )
    counts, callees = [], Counter()
    for text in texts(family, 1000):
        assert len(definitions(text)) == subroutines
        (calls,) = re.findall("[fgh]+", text)
        counts.append(len(calls))
        callees.update(calls)
    assert set(counts) == set(range(minimum, maximum + 1))
    assert set(callees) == set("fgh"[:subroutines])
    assert max(counts.count(c) for c in set(counts)) < 1.25 * min(counts.count(c) for c in set(counts))


def test_bodies_apply_one_or_two_operators() -> None:
    shapes = {
        re.sub(r"\d", "0", body) for text in texts(Subroutine(operators="+-"), 2000) for body in definitions(text)
    }
    assert shapes == {
        "0+",
        "0-",
        *(f"00{a}{b}" for a in "+-" for b in "+-"),
        *(f"0{a}0{b}" for a in "+-" for b in "+-"),
    }


def test_what_subroutines_return_and_compare() -> None:
    family = Subroutine(low=-4, high=12, length=5, equal_share=0.4, assertions=2, subroutines=2)
    equal = []
    for text in texts(family, 1000):
        states = vm.run(text).states
        for relation in re.finditer("[<>=]", text):
            if not inside_definition(text, relation.start()):
                x, y = (value.v for value in states[relation.start() - 1].stack[-2:])
                assert -4 <= min(x, y) <= max(x, y) <= 12
                equal.append(x == y)
    assert close_to(equal, 0.4)


def inside_definition(text: str, at: int) -> bool:
    return text[:at].count("{") > text[:at].count("}")


# --- sequences -------------------------------------------------------------------------------------------------------

STATEMENT = re.compile(
    r"(?P<source>\((?:\d,)+(?!Q)|\dr)(?P<steps>(?:\((?:\d,)+Q|[RTWMOP]|\d[-+*xn])*)(?P<reading>[#SX]|\d[IE])"
    rf"(?P<literal>{LITERAL})="
)
STEP = re.compile(r"\((?:\d,)+Q|[RTWMOP]|\d[-+*xn]")


def statements(family: Sequence, n: int = 2000) -> list[dict]:
    """The parts of every statement: source, steps (a list of tokens, digits left out), reading, literal."""
    all_statements = []
    for text in texts(family, n):
        rest = re.sub(r"\{[^}]*\}", "", text).removesuffix(".")
        matches = list(STATEMENT.finditer(rest))
        assert "".join(match[0] for match in matches) == rest
        assert len(matches) == family.assertions
        for match in matches:
            steps = [step[-1] for step in STEP.findall(match["steps"])]
            all_statements.append(
                {**match.groupdict(), "steps": steps, "reading": match["reading"].lstrip("0123456789")}
            )
    return all_statements


@pytest.mark.parametrize(("minimum", "maximum"), [(1, 5), (3, 3), (2, 16)])
def test_elements_of_sequences(minimum: int, maximum: int) -> None:
    family = Sequence(min_elements=minimum, max_elements=maximum, steps="R", readings="#", count_share=0.0)
    assert uniform([statement["source"].count(",") for statement in statements(family)], range(minimum, maximum + 1))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_count_share(share: float) -> None:
    family = Sequence(count_share=share, steps="R", readings="#", assertions=2)
    assert close_to([statement["source"].endswith("r") for statement in statements(family, 1000)], share)


@pytest.mark.parametrize(("kind", "minimum", "maximum"), [(Sequence, 0, 2), (Sequence, 0, 0), (SequenceAdvanced, 1, 5)])
def test_steps_count(kind: type[Sequence], minimum: int, maximum: int) -> None:
    family = kind(min_steps=minimum, max_steps=maximum, steps="R", readings="#", assertions=2)
    assert uniform([len(statement["steps"]) for statement in statements(family)], range(minimum, maximum + 1))


@pytest.mark.parametrize(
    ("kind", "steps"),
    [(Sequence, s) for s in ("R", "QR", "RTQ")]
    + [(SequenceAdvanced, s) for s in ("W", "MO", "P+", "WMOP+-*xn", "-*xnRTQ")],
)
def test_steps_in_use(kind: type[Sequence], steps: str) -> None:
    family = kind(steps=steps, low=0, high=81)
    used = Counter(step for statement in statements(family) for step in statement["steps"])
    assert set(used) == set(steps)
    assert max(used.values()) < 2 * min(used.values())


def test_steps_and_readings_are_equally_likely_where_all_can_be() -> None:
    family = Sequence(steps="RQ", readings="#SXI", high=81, low=0, min_elements=2, count_share=0.0)
    assert uniform([step for statement in statements(family) for step in statement["steps"]], set("RQ"))
    assert uniform([statement["reading"] for statement in statements(family)], set("#SXI"))


@pytest.mark.parametrize("readings", ["#", "SX", "IE", "#SXIE"])
@pytest.mark.parametrize("kind", [Sequence, SequenceAdvanced])
def test_readings_in_use(kind: type[Sequence], readings: str) -> None:
    assert {statement["reading"] for statement in statements(kind(readings=readings), 1000)} == set(readings)


@pytest.mark.parametrize("family", [Sequence(low=3, high=12), SequenceAdvanced(low=-12, high=0, steps="M-")], ids=str)
def test_what_is_read_lies_in_the_range(family: Sequence) -> None:
    values = {value_of(statement["literal"]) for statement in statements(family)}
    assert values == set(range(family.low, family.high + 1))


@pytest.mark.parametrize("operators", ["+", "-%<", "+-*xn%<>="])
def test_body_operators(operators: str) -> None:
    family = SequenceAdvanced(body_operators=operators, steps="WM", low=-81, high=81)
    bodies = [body for text in texts(family, 2000) for body in definitions(text)]
    assert all(re.fullmatch(r"\d.", body) for body in bodies)
    assert {body[1] for body in bodies} == set(operators)


def test_only_programs_that_call_have_a_definition() -> None:
    for text in texts(SequenceAdvanced(), 1000):
        assert len(definitions(text)) == bool(set("MW") & set(text))


# --- predicates ------------------------------------------------------------------------------------------------------

QUANTITIES = {"length": "#", "sum": "S", "largest": "X", "smallest": "~X~", "first": "0I", "last": "R0I"}
TESTS = {">": "0>", "<": "0<", "=": "0=", "odd": "0%", "even": "0%!"}


def bodies_of(predicates: str, tests: str) -> set[str]:
    bodies = {QUANTITIES[p] + TESTS[t] for p in predicates.split() for t in tests.split() if p != "contains"}
    return bodies | ({"0E", "0E!"} if "contains" in predicates else set())


@pytest.mark.parametrize(
    "knob_values",
    [
        {},
        {"predicates": "length", "tests": "odd"},
        {"predicates": "contains"},
        {"predicates": "smallest last contains", "tests": "< = even"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Label, Induce])
def test_predicates_and_tests(kind: type[Label | Induce], knob_values: dict) -> None:
    family = kind(**knob_values)
    counts = Counter(re.sub(r"\d", "0", body) for text in texts(family, 2000) for body in definitions(text))
    assert set(counts) == bodies_of(family.predicates, family.tests)
    parities = {body for text in texts(family, 2000) for body in definitions(text) if "%" in body}
    assert all("2%" in body for body in parities)


EXAMPLE = re.compile(r"\((?:\d,)+f(?:[01]=|!)?")
EASY = {"predicates": "first last", "tests": "odd even"}  # which every sequence can be drawn for and against


def examples(text: str) -> list[tuple[int, bool]]:
    """The elements of each example and whether the plain machine finds the predicate true of it."""
    (body,) = definitions(text)
    sequences = [match[0].partition("f")[0] for match in EXAMPLE.finditer(text)]
    return [(sequence.count(","), vm.verdict(f"{{{body}}}{sequence}f.")) for sequence in sequences]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_false_share_of_labels(share: float) -> None:
    family = Label(false_share=share, **EASY)
    labels = [label for text in texts(family, 1000) for _, label in examples(text)]
    assert close_to(labels, 1 - share) or abs(np.mean(labels) - 1 + share) < 2**-10  # a dozen tries are made


def test_false_share_where_predicates_resist() -> None:
    """Of all predicates, such as a sum above 9, some hold for few sequences or for nearly all."""
    labels = [label for text in texts(Label(false_share=0.5), 2000) for _, label in examples(text)]
    assert abs(np.mean(labels) - 0.5) < 0.08


def test_false_share_of_induced_labels() -> None:
    def positive(share: float) -> float:
        family = Induce(false_share=share, **EASY)
        return float(np.mean([label for text in texts(family, 500) for _, label in examples(text)]))

    assert positive(0.2) > positive(0.5) + 0.1 > positive(0.8) + 0.2


@pytest.mark.parametrize(("minimum", "maximum"), [(2, 5), (3, 3), (2, 16)])
def test_induce_shows_both_labels(minimum: int, maximum: int) -> None:
    family = Induce(min_examples=minimum, max_examples=maximum)
    for text in texts(family, 300):
        labels = [label for _, label in examples(text)]
        assert minimum <= len(labels) <= maximum
        assert set(labels) == {False, True}
        assert [f"{int(label)}" for label in labels] == re.findall("f([01])=", text)


@pytest.mark.slow
@pytest.mark.parametrize(("minimum", "maximum"), [(1, 3), (4, 4), (1, 16)])
def test_examples_and_elements(minimum: int, maximum: int) -> None:
    family = Label(min_examples=minimum, max_examples=maximum, min_elements=2, max_elements=4)
    all_examples = [examples(text) for text in texts(family, 1000)]
    assert uniform([len(some) for some in all_examples], range(minimum, maximum + 1))
    assert uniform([elements for some in all_examples for elements, _ in some], range(2, 5))
    induced = [examples(text) for text in texts(Induce(min_elements=2, max_elements=4, **EASY), 1000)]
    assert {elements for some in induced for elements, _ in some} == {2, 3, 4}


# --- random ----------------------------------------------------------------------------------------------------------


def test_random_lengths_are_uniform_and_all_instructions_come() -> None:
    programs = texts(Random(max_length=12), 3000)
    assert uniform([len(text) - 1 for text in programs], range(3, 13))
    assert set("".join(programs)) == set(vm.VOCAB)
    assert len(set(programs)) > 2500


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_digit_share(share: float) -> None:
    """With digits above 0 and `~` a program is true where it begins with a digit; the rest is as it was drawn."""
    family = Random(min_length=6, max_length=6, instructions="123456789~", digit_share=share)
    rest = [token != "~" for text in texts(family, 1000) for token in text[1:-1]]
    assert close_to(rest, share)


def test_instructions_in_use() -> None:
    family = Random(instructions="12+(,#", max_length=9)
    assert set("".join(texts(family, 1000))) == set("12+(,#.")


# --- registers -------------------------------------------------------------------------------------------------------

STORE, ASSERTION = re.compile("([^A-D=]+)([A-D])"), re.compile("[^A-D=]+=")


def parts(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The stores as (what, into which register) and the assertions of a register program."""
    stores = STORE.findall(text)
    return stores, ASSERTION.findall(text, sum(len(source) + 1 for source, _ in stores))


def loads(source: str) -> int:
    return sum(token in "abcd" for token in source)


def later_stores(family: Register, n: int) -> Iterator[tuple[bool, bool | None, bool | None]]:
    """Of every store after the first: is it computed from a register; does it overwrite one (None where it must); does
    it overwrite a value that nobody read (None where it overwrites none, or there are not both kinds)?"""
    for text in texts(family, n):
        used, unread = set(), set()
        for source, target in parts(text)[0]:
            unread -= set(source)
            old, target = target.lower() in used, target.lower()
            if used:
                must, both = used == set(family.registers), unread and used - unread
                yield loads(source) > 0, None if must else old, target in unread if old and both else None
            used.add(target)
            unread.add(target)


def without_none(draws: Iterator[bool | None]) -> list[bool]:
    return [draw for draw in draws if draw is not None]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_dependent_and_overwrite_share(share: float) -> None:
    """With operators whose results never leave the range, no structure is given up, so the shares are exact."""
    dependent = list(later_stores(Register(dependent_share=share, operators="xn"), 2000))
    assert close_to([computed for computed, _, _ in dependent], share)
    assert close_to(without_none(old for _, old, _ in dependent), 0.25), "one knob moves the other"
    overwriting = list(later_stores(Register(overwrite_share=share, operators="xn"), 2000))
    assert close_to(without_none(old for _, old, _ in overwriting), share)
    assert close_to([computed for computed, _, _ in overwriting], 0.25), "one knob moves the other"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_dead_share(share: float) -> None:
    family = Register(dead_share=share, min_stores=6, max_stores=6, overwrite_share=0.7, dependent_share=0.6)
    later = later_stores(replace(family, operators="xn"), 1500)
    assert close_to(without_none(dead for _, _, dead in later), share)


@pytest.mark.parametrize(
    "family",
    [
        Register(),
        Register(operators="+-*"),
        Register(operators="+-*", dependent_share=0.7, overwrite_share=0.5, pair_share=0.5, max_stores=6),
        Register(operators="+-*", min_stores=8, max_stores=8, dependent_share=0.7, pair_share=0.5, assertions=3),
        Register(operators="*", low=-20, high=20, dependent_share=0.5, overwrite_share=0.5, pair_share=1.0),
    ],
    ids=str,
)
def test_shares_hold_where_results_often_leave_the_range(family: Register) -> None:
    """A structure that cannot be filled is given up after 40 tries, so the shares may be off a little."""
    later = list(later_stores(family, 3000))
    asserted = [assertion for text in texts(family, 3000) for assertion in parts(text)[1]]
    for draws, share in [
        ([computed for computed, _, _ in later], family.dependent_share),
        (without_none(old for _, old, _ in later), family.overwrite_share),
        (without_none(dead for _, _, dead in later), family.dead_share),
        ([loads(assertion) == 2 for assertion in asserted], family.pair_share),
    ]:
        sampling = 4.5 * np.sqrt(share * (1 - share) / max(len(draws), 1))
        assert abs(np.mean(draws) - share) <= 0.035 + sampling
    stores = [len(parts(text)[0]) for text in texts(family, 3000)]
    expected = 1 / (family.max_stores - family.min_stores + 1)
    assert all(abs(stores.count(k) / 3000 - expected) < 0.05 for k in range(family.min_stores, family.max_stores + 1))


def test_stores_overwrite_where_no_register_is_left() -> None:
    family = Register(registers="cb", min_stores=5, max_stores=5, overwrite_share=0.0)
    for text in texts(family, 200):
        targets = [target for _, target in parts(text)[0]]
        assert len(set(targets[:2])) == 2


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_pair_share(share: float) -> None:
    family = Register(pair_share=share, assertions=2, operators="xn")  # whose results never leave the range
    asserted = [assertion for text in texts(family, 1000) for assertion in parts(text)[1]]
    assert close_to([loads(assertion) == 2 for assertion in asserted], share)


def distances(family: Register, n: int = 1000) -> Iterator[tuple[int, list[int]]]:
    """Of every assertion: the stores after that of its first register, and the same of every register stored."""
    for text in texts(family, n):
        stores, assertions = parts(text)
        last = {target.lower(): len(stores) - 1 - i for i, (_, target) in enumerate(stores)}
        for assertion in assertions:
            yield last[assertion[0]], list(last.values())


@pytest.mark.parametrize(("minimum", "maximum"), [(0, 0), (0, 16), (2, 2), (1, 3), (3, 7)])
def test_distance_between_store_and_assertion(minimum: int, maximum: int) -> None:
    family = Register(min_stores=4, max_stores=8, min_distance=minimum, max_distance=maximum, assertions=2)
    inside = 0
    for distance, there in distances(family):
        fitting = [d for d in there if minimum <= d <= maximum]
        if fitting:
            assert distance in fitting
            inside += 1
        else:
            off = {d: max(minimum - d, d - maximum) for d in there}
            assert off[distance] == min(off.values()), "not the nearest"
    assert inside > 500


@pytest.mark.parametrize(("minimum", "maximum"), [(0, 0), (2, 2), (1, 3)])
def test_both_registers_of_an_aged_pair_are_of_the_age(minimum: int, maximum: int) -> None:
    ages = {"min_distance": minimum, "max_distance": maximum, "min_stores": 4, "max_stores": 8, "overwrite_share": 0.1}
    outside = []
    for share in (0.0, 1.0):
        family = Register(**ages, pair_share=1.0, aged_pair_share=share, dependent_share=0.0)
        second = []
        for text in texts(family, 600):
            stores, assertions = parts(text)
            last = {target.lower(): len(stores) - 1 - i for i, (_, target) in enumerate(stores)}
            if any(minimum <= distance <= maximum for distance in last.values()):
                second += [last[assertion[1]] for assertion in assertions]
        assert len(second) > 300
        outside.append(sum(not minimum <= distance <= maximum for distance in second) / len(second))
    assert outside[0] > 0.2
    assert outside[1] == 0


@pytest.mark.parametrize(("minimum", "maximum", "assertions"), [(2, 4, 1), (1, 3, 4), (5, 5, 2), (16, 16, 8)])
def test_stores_and_assertions(minimum: int, maximum: int, assertions: int) -> None:
    family = Register(min_stores=minimum, max_stores=maximum, assertions=assertions, operators="xn")
    split = [parts(text) for text in texts(family, 600)]
    assert uniform([len(stores) for stores, _ in split], range(minimum, maximum + 1))
    assert all(len(asserted) == assertions for _, asserted in split)


@pytest.mark.parametrize("registers", ["abcd", "d", "ca"])
@pytest.mark.parametrize("operators", ["+-", "*", "xn", "+-*xn"])
def test_registers_and_operators(registers: str, operators: str) -> None:
    counts = Counter("".join(texts(Register(registers=registers, operators=operators, pair_share=0.5))))
    assert {token for token in counts if token in "abcd"} == set(registers)
    assert {token for token in counts if token in "ABCD"} == set(registers.upper())
    assert {token for token in counts if token in "+-*/%xn"} == set(operators)


@pytest.mark.parametrize(("low", "high"), [(0, 9), (-9, 0), (-12, 30), (-81, 81), (0, 0)])
def test_register_values_lie_in_their_range(low: int, high: int) -> None:
    family = Register(low=low, high=high, operators="+-*xn", pair_share=0.5, assertions=2)
    register_values, asserted = set(), set()
    for text in texts(family, 600):
        states = vm.run(text).states
        register_values |= {value.v for state in states for value in state.registers.values() if value is not vm.NAN}
        asserted |= {states[i - 1].stack[-1].v for i, token in enumerate(text) if token == "="}
    for values in (register_values, asserted):
        assert min(values) >= low
        assert max(values) <= high
    if high - low < 50:  # 600 programs reach them all
        assert register_values == set(range(low, high + 1))


def test_assertions_ask_all_registers_and_all_ages() -> None:
    """Neither the newest nor the first store answers most assertions: where each stores elsewhere, all are asked."""
    family = Register(min_stores=4, max_stores=4, overwrite_share=0.0, pair_share=0.0, operators="xn")
    assert uniform([distance for distance, _ in distances(family, 2000)], range(4))


# --- the stack -------------------------------------------------------------------------------------------------------

SHUFFLED = re.compile(rf"(\d+)([:\\@o;]*)([-+*xn]*)({LITERAL})=")


def stack_parts(family: Stack, n: int = 1000) -> list[tuple[str, str, str, str]]:
    """The digits, shuffles, operators and literal of every statement."""
    matches = [match for text in texts(family, n) for match in SHUFFLED.findall(text)]
    assert len(matches) == n * family.assertions
    return matches


@pytest.mark.parametrize(("minimum", "maximum"), [(2, 4), (3, 3), (1, 9)])
def test_values_on_the_stack(minimum: int, maximum: int) -> None:
    family = Stack(min_values=minimum, max_values=maximum, max_depth=10, operators="xn", assertions=2)
    assert uniform([len(values) for values, *_ in stack_parts(family)], range(minimum, maximum + 1))


@pytest.mark.parametrize(("minimum", "maximum"), [(0, 3), (2, 2), (1, 16)])
def test_shuffles_on_the_stack(minimum: int, maximum: int) -> None:
    family = Stack(min_shuffles=minimum, max_shuffles=maximum, operators="xn", min_values=2)
    assert uniform([len(shuffles) for _, shuffles, *_ in stack_parts(family, 2000)], range(minimum, maximum + 1))


@pytest.mark.parametrize("shuffles", [":", "\\", "@o", ";", ":\\@o;"])
@pytest.mark.parametrize("operators", ["-", "xn", "+-*xn"])
def test_shuffles_and_operators_in_use(shuffles: str, operators: str) -> None:
    family = Stack(shuffles=shuffles, operators=operators, min_values=3, low=-81, high=81)
    all_parts = stack_parts(family)
    assert set("".join(part[1] for part in all_parts)) == set(shuffles)
    assert set("".join(part[2] for part in all_parts)) == set(operators)


@pytest.mark.parametrize("depth", [4, 5, 9])
def test_max_depth(depth: int) -> None:
    family = Stack(max_depth=depth, max_shuffles=8, shuffles=":o@")
    deepest = [max(len(state.stack) for state in vm.run(text.partition("=")[0]).states) for text in texts(family, 500)]
    assert max(deepest) == depth + 1 or max(deepest) == depth  # the literal is one more where all is used up
    shuffled = [vm.run(values + shuffles).outputs for values, shuffles, *_ in stack_parts(family, 500)]
    assert max(map(len, shuffled)) == depth


@pytest.mark.parametrize(("low", "high"), [(-9, 9), (3, 20), (-30, 0)])
def test_what_the_stack_leaves_lies_in_the_range(low: int, high: int) -> None:
    family = Stack(low=low, high=high, operators="+-*")
    values = {value_of(literal) for *_, literal in stack_parts(family)}
    assert values == set(range(low, high + 1))
    for values, shuffles, operators, literal in stack_parts(family):
        assert value_of(values + shuffles + operators) == value_of(literal)
