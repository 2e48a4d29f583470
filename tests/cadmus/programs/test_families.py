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
    Register(skeletons=10, zipf=1.0),
    Stack(),
    Stack(low=-30, high=30, min_values=3, max_values=6, min_shuffles=0, max_shuffles=6, max_depth=7, operators="*+"),
    Stack(shuffles="\\;", assertions=3, digit_skew=1.0),
    Stack(skeletons=10, zipf=1.0),
]
each = pytest.mark.parametrize("family", SETTINGS, ids=str)


@cache
def texts(family: Family, n: int = 300, seed: int = 0) -> tuple[str, ...]:
    return tuple(tokens.decode(family.generate(n, np.random.default_rng(seed))))


def close_to(found: np.ndarray | list[bool], share: float, n_min: int = 500) -> bool:
    """Whether a share of enough yes-or-no draws lies within 4.5 standard errors of what it should be."""
    assert len(found) >= n_min
    return abs(np.mean(found) - share) <= 4.5 * np.sqrt(share * (1 - share) / len(found))


def uniform(found: list, of: set | range, n_min: int = 500) -> bool:
    """Whether what was found is each of `of` equally often, and nothing else."""
    array = np.array(found)
    return set(found) == set(of) and all(close_to(array == one, 1 / len(of), n_min) for one in of)


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


@each
def test_programs_are_true_by_the_plain_machine_and_of_their_form(family: Family) -> None:
    programs = family.generate(300, np.random.default_rng(0))
    assert programs.dtype == np.uint8
    assert programs.shape == (300, family.width)
    assert (tokens.lengths(programs) < family.width).all(), "a program lacks its ."
    assert np.array_equal(tokens.sequences(programs)[:, 1:], programs), "there is something behind the ."
    for text in texts(family):
        assert vm.verdict(text), text
        assert family.accepts(text), text
        assert family.accepts(text.rstrip("."))


@each
def test_width_is_not_for_nothing(family: Family) -> None:
    """The array is as wide as the longest program, or as the worst case of all parts at once."""
    longest = max(map(len, texts(family, 2000)))
    if isinstance(family, Statements) and family.min_length in (0, family.length):
        assert longest == family.width - (family.name == "equality" and family.negated_share == 0)
    else:
        assert family.width * 0.5 <= longest <= family.width


@each
def test_a_seed_fixes_the_programs(family: Family) -> None:
    again, other = (family.generate(300, np.random.default_rng(seed)) for seed in (0, 1))
    assert tokens.decode(again) == list(texts(family))
    assert tokens.decode(other) != list(texts(family)) or len(set(texts(family))) == 1


@each
def test_drawing_nothing_gives_no_rows(family: Family) -> None:
    nothing = family.generate(0, np.random.default_rng(0))
    assert nothing.shape == (0, family.width)
    assert nothing.dtype == np.uint8


@each
def test_decisions_lie_inside_and_the_text_goes_on_with_the_answer(family: Family) -> None:
    for text in texts(family):
        cuts = family.decisions(text)
        assert list(cuts) == sorted(set(cuts))
        defined_last = text.endswith("}.") and "{" in text
        expected = {"label": text.count("f"), "random": 1}.get(family.name, getattr(family, "assertions", 1))
        assert len(cuts) == (1 if defined_last and family.name != "random" else expected)
        for cut in cuts:
            assert 0 < cut < len(text)
            answer = family.answer(text, cut)
            assert text.startswith(text[:cut] + answer)
            assert answer.endswith(".") is (cut == cuts[-1])
        assert text[: cuts[-1]] + family.answer(text, cuts[-1]) == text
        assert all(family.answer(text, cut) is None for cut in range(len(text) + 2) if cut not in cuts)


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
        "digit_skew": st.floats(-0.5, 2),
    }
)


@settings(deadline=None, max_examples=40)
@given(register_knobs, st.integers(0, 2**32))
def test_register_under_any_knobs(turned: dict, seed: int) -> None:
    """Where results leave the range nearly always (products of 9s), the draw may be given up, in one line."""
    family = Register(**turned)
    try:
        drawn = texts(family, 20, seed)
    except ValueError as error:
        if not re.match(r"register: \d+ of 20 programs were not found in \d+ tries; ", str(error)):
            raise
        reject()
    for text in drawn:
        assert vm.verdict(text)
        assert family.accepts(text)
        cuts = family.decisions(text)
        assert len(cuts) == family.assertions
        for cut in cuts:
            assert text.startswith(text[:cut] + family.answer(text, cut))


@pytest.mark.parametrize("name", FAMILIES)
def test_knobs_are_documented(name: str) -> None:
    found = knobs(FAMILIES[name])
    assert list(found) == [field.name for field in fields(FAMILIES[name])]
    for knob in found.values():
        assert knob.default == getattr(FAMILIES[name](), knob.name)
        assert len(knob.doc) > 10
        assert "\n" not in knob.doc


# --- knobs that many families have -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if "digit_skew" in knobs(family)])
def test_digit_skew_moves_the_digits(name: str) -> None:
    def mean(skew: float) -> float:
        written = "".join(texts(FAMILIES[name](digit_skew=skew), 1000))
        return float(np.mean([int(token) for token in written if token.isdecimal()]))

    few, some, many = mean(1.0), mean(0.0), mean(-1.0)
    assert few < some - 0.3
    assert some < many - 0.3


LITERAL = r"\d(?:\d\+)*~?"


def template(family: Family, text: str) -> str:
    """A program with 0 for every digit and without what its `skeletons` knob leaves apart: literals and labels."""
    text = text.replace("f!", "f") if family.name == "label" else text
    if family.name == "register":
        stores, assertions = parts(text)
        stored = [(source if loads(source) else "L") + target for source, target in stores]
        text = "".join([*stored, *(re.sub(rf"{LITERAL}=", "L=", assertion) for assertion in assertions)])
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
    found = {template(family, text) for text in texts(family, 2000)}
    assert len(found) == count
    assert {template(family, text) for text in texts(family, 500, seed=1)} <= found, "the bank follows the seed"


@pytest.mark.parametrize("zipf", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("family", STRUCTURED, ids=str)
def test_zipf_multiplies_the_weights_of_the_chosen_skeletons(family: Family, zipf: float) -> None:
    natural, weights = (_skeleton_pool(replace(family, skeletons=4, zipf=exponent))[1] for exponent in (0.0, zipf))
    assert np.allclose(weights / weights[0], natural / natural[0] * np.arange(1, 5) ** -zipf)
    found = Counter(template(family, text) for text in texts(replace(family, skeletons=4, zipf=zipf), 2000))
    counts = sorted(found.values(), reverse=True)
    heaviest = sorted(weights, reverse=True)
    assert all(close_to(np.arange(2000) < n, w) for n, w in zip(counts, heaviest, strict=True))


@pytest.mark.parametrize("count", [50, 200])
@pytest.mark.parametrize("family", [Sequence(), SequenceAdvanced(), Stack(), Register(), Induce()], ids=str)
def test_a_limit_on_skeletons_leaves_programs_as_they_are_on_average(family: Family, count: int) -> None:
    """The chosen ones stand for all: over the structures, lengths are what they are without the limit."""
    bank, weights = _skeleton_pool(replace(family, skeletons=count))
    rng = np.random.default_rng(0)
    lengths = [tokens.lengths(family.fill(some, rng)[0]) for some in (bank, family.structures(4000, rng))]
    chosen, all_of_them = weights @ lengths[0], lengths[1].mean()
    spread = lengths[1].std() * np.sqrt((weights**2).sum())  # of the mean of as many structures, so weighed
    assert abs(chosen - all_of_them) < 4 * spread + 0.03 * all_of_them


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


@pytest.mark.parametrize(("subroutines", "fewest", "most"), [(1, 1, 2), (2, 1, 1), (3, 2, 4), (3, 8, 8)])
def test_subroutines_and_calls(subroutines: int, fewest: int, most: int) -> None:
    family = Subroutine(high=27, length=5, subroutines=subroutines, min_calls=fewest, max_calls=most, operators="+xn")
    counts, called = [], Counter()
    for text in texts(family, 1000):
        assert len(definitions(text)) == subroutines
        (calls,) = re.findall("[fgh]+", text)
        counts.append(len(calls))
        called.update(calls)
    assert set(counts) == set(range(fewest, most + 1))
    assert set(called) == set("fgh"[:subroutines])
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
    found = []
    for text in texts(family, n):
        rest = re.sub(r"\{[^}]*\}", "", text).removesuffix(".")
        matches = list(STATEMENT.finditer(rest))
        assert "".join(match[0] for match in matches) == rest
        assert len(matches) == family.assertions
        for match in matches:
            steps = [step[-1] for step in STEP.findall(match["steps"])]
            found.append({**match.groupdict(), "steps": steps, "reading": match["reading"].lstrip("0123456789")})
    return found


@pytest.mark.parametrize(("fewest", "most"), [(1, 5), (3, 3), (2, 16)])
def test_elements_of_sequences(fewest: int, most: int) -> None:
    family = Sequence(min_elements=fewest, max_elements=most, steps="R", readings="#", count_share=0.0)
    assert uniform([one["source"].count(",") for one in statements(family)], range(fewest, most + 1))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_count_share(share: float) -> None:
    family = Sequence(count_share=share, steps="R", readings="#", assertions=2)
    assert close_to([one["source"].endswith("r") for one in statements(family, 1000)], share)


@pytest.mark.parametrize(("kind", "fewest", "most"), [(Sequence, 0, 2), (Sequence, 0, 0), (SequenceAdvanced, 1, 5)])
def test_steps_count(kind: type[Sequence], fewest: int, most: int) -> None:
    family = kind(min_steps=fewest, max_steps=most, steps="R", readings="#", assertions=2)
    assert uniform([len(one["steps"]) for one in statements(family)], range(fewest, most + 1))


@pytest.mark.parametrize(
    ("kind", "steps"),
    [(Sequence, s) for s in ("R", "QR", "RTQ")]
    + [(SequenceAdvanced, s) for s in ("W", "MO", "P+", "WMOP+-*xn", "-*xnRTQ")],
)
def test_steps_in_use(kind: type[Sequence], steps: str) -> None:
    family = kind(steps=steps, low=0, high=81)
    used = Counter(step for one in statements(family) for step in one["steps"])
    assert set(used) == set(steps)
    assert max(used.values()) < 2 * min(used.values())


def test_steps_and_readings_are_equally_likely_where_all_can_be() -> None:
    family = Sequence(steps="RQ", readings="#SXI", high=81, low=0, min_elements=2, count_share=0.0)
    assert uniform([step for one in statements(family) for step in one["steps"]], set("RQ"))
    assert uniform([one["reading"] for one in statements(family)], set("#SXI"))


@pytest.mark.parametrize("readings", ["#", "SX", "IE", "#SXIE"])
@pytest.mark.parametrize("kind", [Sequence, SequenceAdvanced])
def test_readings_in_use(kind: type[Sequence], readings: str) -> None:
    assert {one["reading"] for one in statements(kind(readings=readings), 1000)} == set(readings)


@pytest.mark.parametrize("family", [Sequence(low=3, high=12), SequenceAdvanced(low=-12, high=0, steps="M-")], ids=str)
def test_what_is_read_lies_in_the_range(family: Sequence) -> None:
    found = {value_of(one["literal"]) for one in statements(family)}
    assert found == set(range(family.low, family.high + 1))


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
    found = {QUANTITIES[p] + TESTS[t] for p in predicates.split() for t in tests.split() if p != "contains"}
    return found | ({"0E", "0E!"} if "contains" in predicates else set())


@pytest.mark.parametrize(
    "turned",
    [
        {},
        {"predicates": "length", "tests": "odd"},
        {"predicates": "contains"},
        {"predicates": "smallest last contains", "tests": "< = even"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Label, Induce])
def test_predicates_and_tests(kind: type[Label | Induce], turned: dict) -> None:
    family = kind(**turned)
    found = Counter(re.sub(r"\d", "0", body) for text in texts(family, 2000) for body in definitions(text))
    assert set(found) == bodies_of(family.predicates, family.tests)
    parities = {body for text in texts(family, 2000) for body in definitions(text) if "%" in body}
    assert all("2%" in body for body in parities)


EXAMPLE = re.compile(r"\((?:\d,)+f(?:[01]=|!)?")
EASY = {"predicates": "first last", "tests": "odd even"}  # which every sequence can be drawn for and against


def examples(text: str) -> list[tuple[int, bool]]:
    """The elements of each example and whether the plain machine finds the predicate true of it."""
    (body,) = definitions(text)
    sequences = [match[0].partition("f")[0] for match in EXAMPLE.finditer(text)]
    return [(one.count(","), vm.verdict(f"{{{body}}}{one}f.")) for one in sequences]


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


@pytest.mark.parametrize(("fewest", "most"), [(2, 5), (3, 3), (2, 16)])
def test_induce_shows_both_labels(fewest: int, most: int) -> None:
    family = Induce(min_examples=fewest, max_examples=most)
    for text in texts(family, 300):
        labels = [label for _, label in examples(text)]
        assert fewest <= len(labels) <= most
        assert set(labels) == {False, True}
        assert [f"{int(label)}" for label in labels] == re.findall("f([01])=", text)


@pytest.mark.parametrize(("fewest", "most"), [(1, 3), (4, 4), (1, 16)])
def test_examples_and_elements(fewest: int, most: int) -> None:
    family = Label(min_examples=fewest, max_examples=most, min_elements=2, max_elements=4)
    found = [examples(text) for text in texts(family, 1000)]
    assert uniform([len(some) for some in found], range(fewest, most + 1))
    assert uniform([elements for some in found for elements, _ in some], range(2, 5))
    induced = [examples(text) for text in texts(Induce(min_elements=2, max_elements=4, **EASY), 1000)]
    assert {elements for some in induced for elements, _ in some} == {2, 3, 4}


# --- random ----------------------------------------------------------------------------------------------------------


def test_random_lengths_are_uniform_and_all_instructions_come() -> None:
    found = texts(Random(max_length=12), 3000)
    assert uniform([len(text) - 1 for text in found], range(3, 13))
    assert set("".join(found)) == set(vm.VOCAB)
    assert len(set(found)) > 2500


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


def without_none(found: Iterator[bool | None]) -> list[bool]:
    return [one for one in found if one is not None]


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
    for found, share in [
        ([computed for computed, _, _ in later], family.dependent_share),
        (without_none(old for _, old, _ in later), family.overwrite_share),
        (without_none(dead for _, _, dead in later), family.dead_share),
        ([loads(assertion) == 2 for assertion in asserted], family.pair_share),
    ]:
        sampling = 4.5 * np.sqrt(share * (1 - share) / max(len(found), 1))
        assert abs(np.mean(found) - share) <= 0.035 + sampling
    stores = [len(parts(text)[0]) for text in texts(family, 3000)]
    wanted = 1 / (family.max_stores - family.min_stores + 1)
    assert all(abs(stores.count(k) / 3000 - wanted) < 0.05 for k in range(family.min_stores, family.max_stores + 1))


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


@pytest.mark.parametrize(("fewest", "most"), [(0, 0), (0, 16), (2, 2), (1, 3), (3, 7)])
def test_distance_between_store_and_assertion(fewest: int, most: int) -> None:
    family = Register(min_stores=4, max_stores=8, min_distance=fewest, max_distance=most, assertions=2)
    inside = 0
    for distance, there in distances(family):
        fitting = [d for d in there if fewest <= d <= most]
        if fitting:
            assert distance in fitting
            inside += 1
        else:
            off = {d: max(fewest - d, d - most) for d in there}
            assert off[distance] == min(off.values()), "not the nearest"
    assert inside > 500


@pytest.mark.parametrize(("fewest", "most", "assertions"), [(2, 4, 1), (1, 3, 4), (5, 5, 2), (16, 16, 8)])
def test_stores_and_assertions(fewest: int, most: int, assertions: int) -> None:
    family = Register(min_stores=fewest, max_stores=most, assertions=assertions, operators="xn")
    split = [parts(text) for text in texts(family, 600)]
    assert uniform([len(stores) for stores, _ in split], range(fewest, most + 1))
    assert all(len(asserted) == assertions for _, asserted in split)


@pytest.mark.parametrize("registers", ["abcd", "d", "ca"])
@pytest.mark.parametrize("operators", ["+-", "*", "xn", "+-*xn"])
def test_registers_and_operators(registers: str, operators: str) -> None:
    seen = Counter("".join(texts(Register(registers=registers, operators=operators, pair_share=0.5))))
    assert {token for token in seen if token in "abcd"} == set(registers)
    assert {token for token in seen if token in "ABCD"} == set(registers.upper())
    assert {token for token in seen if token in "+-*/%xn"} == set(operators)


@pytest.mark.parametrize(("low", "high"), [(0, 9), (-9, 0), (-12, 30), (-81, 81), (0, 0)])
def test_register_values_lie_in_their_range(low: int, high: int) -> None:
    family = Register(low=low, high=high, operators="+-*xn", pair_share=0.5, assertions=2)
    held, asserted = set(), set()
    for text in texts(family, 600):
        states = vm.run(text).states
        held |= {value.v for state in states for value in state.registers.values() if value is not vm.NAN}
        asserted |= {states[i - 1].stack[-1].v for i, token in enumerate(text) if token == "="}
    for values in (held, asserted):
        assert min(values) >= low
        assert max(values) <= high
    if high - low < 50:  # 600 programs reach them all
        assert held == set(range(low, high + 1))


def test_assertions_ask_all_registers_and_all_ages() -> None:
    """Neither the newest nor the first store answers most assertions: where each stores elsewhere, all are asked."""
    family = Register(min_stores=4, max_stores=4, overwrite_share=0.0, pair_share=0.0, operators="xn")
    assert uniform([distance for distance, _ in distances(family, 2000)], range(4))


# --- the stack -------------------------------------------------------------------------------------------------------

SHUFFLED = re.compile(rf"(\d+)([:\\@o;]*)([-+*xn]*)({LITERAL})=")


def stack_parts(family: Stack, n: int = 1000) -> list[tuple[str, str, str, str]]:
    """The digits, shuffles, operators and literal of every statement."""
    found = [match for text in texts(family, n) for match in SHUFFLED.findall(text)]
    assert len(found) == n * family.assertions
    return found


@pytest.mark.parametrize(("fewest", "most"), [(2, 4), (3, 3), (1, 9)])
def test_values_on_the_stack(fewest: int, most: int) -> None:
    family = Stack(min_values=fewest, max_values=most, max_depth=10, operators="xn", assertions=2)
    assert uniform([len(values) for values, *_ in stack_parts(family)], range(fewest, most + 1))


@pytest.mark.parametrize(("fewest", "most"), [(0, 3), (2, 2), (1, 16)])
def test_shuffles_on_the_stack(fewest: int, most: int) -> None:
    family = Stack(min_shuffles=fewest, max_shuffles=most, operators="xn", min_values=2)
    assert uniform([len(shuffles) for _, shuffles, *_ in stack_parts(family, 2000)], range(fewest, most + 1))


@pytest.mark.parametrize("shuffles", [":", "\\", "@o", ";", ":\\@o;"])
@pytest.mark.parametrize("operators", ["-", "xn", "+-*xn"])
def test_shuffles_and_operators_in_use(shuffles: str, operators: str) -> None:
    family = Stack(shuffles=shuffles, operators=operators, min_values=3, low=-81, high=81)
    found = stack_parts(family)
    assert set("".join(part[1] for part in found)) == set(shuffles)
    assert set("".join(part[2] for part in found)) == set(operators)


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
    found = {value_of(literal) for *_, literal in stack_parts(family)}
    assert found == set(range(low, high + 1))
    for values, shuffles, operators, literal in stack_parts(family):
        assert value_of(values + shuffles + operators) == value_of(literal)
