"""The families: what they draw is true and of their form, their knobs do what they say, their cuts have answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmus import tokens, vm
from cadmus.families import FAMILIES, Compare, Equality, Family, Register
from cadmus.families.base import knobs
from cadmus.families.expressions import is_expression, literal, pool

SETTINGS = [
    Compare(),
    Compare(low=-3, high=7, length=3, equal_share=0.5),
    Compare(low=2, high=9, length=1, equal_share=0.0),
    Compare(low=4, high=4, length=3, equal_share=1.0),
    Equality(),
    Equality(low=-20, high=20, length=5, negated_share=0.2),
    Equality(low=0, high=9, length=1, negated_share=1.0),
    Equality(low=3, high=3, length=3, negated_share=0.0),
    Register(),
    Register(low=-12, high=30, registers="bd", min_stores=1, max_stores=6, operators="+-*xn", assertions=3),
    Register(low=0, high=0, registers="c", min_stores=3, max_stores=3, operators="x", pair_share=1.0),
    Register(dependent_share=1.0, overwrite_share=1.0, operators="n", assertions=2, pair_share=0.0),
]
each = pytest.mark.parametrize("family", SETTINGS, ids=str)


@cache
def texts(family: Family, n: int = 300, seed: int = 0) -> tuple[str, ...]:
    return tuple(tokens.decode(family.generate(n, np.random.default_rng(seed))))


def close_to(found: np.ndarray | list[bool], share: float, n_min: int = 500) -> bool:
    """Whether a share of enough yes-or-no draws lies within 4.5 standard errors of what it should be."""
    assert len(found) >= n_min
    return abs(np.mean(found) - share) <= 4.5 * np.sqrt(share * (1 - share) / len(found))


def test_every_family_is_here_with_default_and_other_knobs() -> None:
    assert {type(family) for family in SETTINGS} == set(FAMILIES.values())
    for name, family in FAMILIES.items():
        assert family.name == name
        assert family() in SETTINGS
        mine = [setting for setting in SETTINGS if type(setting) is family]
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
def test_width_is_reached(family: Family) -> None:
    """No column of the array is there for nothing (Register counts the worst case of all stores at once)."""
    longest = max(map(len, texts(family, 2000)))
    if isinstance(family, Register):
        assert family.width * 0.6 <= longest <= family.width
    else:
        assert longest == family.width - (family == Equality(low=3, high=3, length=3, negated_share=0.0))


@each
def test_a_seed_fixes_the_programs(family: Family) -> None:
    again, other = (family.generate(300, np.random.default_rng(seed)) for seed in (0, 1))
    assert tokens.decode(again) == list(texts(family))
    assert tokens.decode(other) != list(texts(family)) or len(set(texts(family))) == 1


@each
def test_drawing_nothing_gives_no_rows(family: Family) -> None:
    assert family.generate(0, np.random.default_rng(0)).shape == (0, family.width)


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
        "high": st.integers(0, 81),
        "registers": st.permutations("abcd").flatmap(lambda r: st.integers(1, 4).map(lambda n: "".join(r[:n]))),
        "min_stores": st.integers(1, 4),
        "max_stores": st.integers(4, 16),
        "dependent_share": st.floats(0, 1),
        "overwrite_share": st.floats(0, 1),
        "operators": st.sets(st.sampled_from("+-*xn"), min_size=1).map("".join),
        "assertions": st.integers(1, 8),
        "pair_share": st.floats(0, 1),
    }
)


@settings(deadline=None, max_examples=40)
@given(register_knobs, st.integers(0, 2**32))
def test_register_under_any_knobs(turned: dict, seed: int) -> None:
    family = Register(**turned)
    for text in texts(family, 20, seed):
        assert vm.verdict(text)
        assert family.accepts(text)
        cuts = family.decisions(text)
        assert len(cuts) == family.assertions
        for cut in cuts:
            assert text.startswith(text[:cut] + family.answer(text, cut))


# --- form ------------------------------------------------------------------------------------------------------------

TRIVIAL = ["34.", "1.", "34", ".", "", "11+2=.", "11=!!.", "{1}7f."]


def near_misses(family: Family, text: str) -> Iterator[str]:
    """Texts one step from the family's form, most of them still true."""
    body = text.removesuffix(".")
    yield body[1:] + "."
    yield body[0] + body + "."
    yield body.rstrip("!")[:-1] + "."
    yield body + "!!."
    yield body + "3."
    yield "5" + body + "."  # one more true value
    yield "{}" + body + "."
    if isinstance(family, (Compare, Equality)):
        cut = family.decisions(text)[0]
        yield text[: cut - 1] + "&" + text[cut:]  # the last token of Y, or the =, becomes a wrong operator
        yield "~" + text[1:]
    if isinstance(family, Compare):
        yield from (body[:-1] + wrong + "." for wrong in "+!&")
    if isinstance(family, Equality):
        yield from (body.replace("=", wrong) + "." for wrong in "<>&")
        yield body.rstrip("!") + "!!."
    if isinstance(family, Register):
        _, assertions = parts(text)
        yield body + assertions[-1] + "."  # one assertion too many
        yield "".join(assertions) + "."  # no stores
        yield body.replace("=", "<", 1) + "."
        yield body.removesuffix("=") + "=!."
        for unused in set("abcd") - set(family.registers):
            yield "1" + unused.upper() + text
        for unused in set("+-*xn/%") - set(family.operators):
            register = family.registers[0]
            yield f"1{register.upper()}{register}1{unused}{register.upper()}{text}"


@each
def test_near_misses_have_not_the_form(family: Family) -> None:
    true = 0
    for text in texts(family)[:60]:
        for wrong in [*near_misses(family, text), *TRIVIAL]:
            assert not family.accepts(wrong), f"{wrong} from {text}"
            true += vm.verdict(wrong)
    assert true > 60, "near misses that are false show little"


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (Compare(), "941-*55*1+<."),
        (Compare(low=0, high=9, length=1), "34=."),
        (Equality(), "34+80+=."),
        (Equality(), "34+34+=!."),
        (Register(), "3A4Bab+8=."),
        (Register(), "3Ab0=."),
    ],
)
def test_form_does_not_ask_for_truth(family: Family, text: str) -> None:
    assert not vm.verdict(text)
    assert family.accepts(text)


@pytest.mark.parametrize("length", [1, 3])
def test_is_expression_against_every_text(length: int) -> None:
    shapes = {"".join("d" if c.isdecimal() else "o" for c in text) for text, _ in expressions(length)}
    alphabet = "07+/n~!=a(."
    for index in np.ndindex(*[len(alphabet)] * length):
        text = "".join(alphabet[i] for i in index)
        expected = re.sub("[+/n]", "o", re.sub("[07]", "d", text)) in shapes
        assert is_expression(text, length) is expected, text
        assert not is_expression(text, length + 2)


# --- decisions -------------------------------------------------------------------------------------------------------


@each
def test_decisions_lie_inside_and_the_text_goes_on_with_the_answer(family: Family) -> None:
    for text in texts(family):
        cuts = family.decisions(text)
        assert list(cuts) == sorted(set(cuts))
        assert len(cuts) == getattr(family, "assertions", 1)
        for cut in cuts:
            assert 0 < cut < len(text)
            answer = family.answer(text, cut)
            assert text.startswith(text[:cut] + answer)
            assert answer.endswith("." if cut == cuts[-1] else "=")
        assert text[: cuts[-1]] + family.answer(text, cuts[-1]) == text
        assert all(family.answer(text, cut) is None for cut in range(len(text) + 2) if cut not in cuts)


@pytest.mark.parametrize(
    ("family", "text", "answers"),
    [
        (Compare(), "941-*55*1+>.", {10: ">."}),
        (Compare(), "941-*55*1+<.", {10: ">."}),
        (Compare(low=0, high=9, length=1), "33=.", {2: "=."}),
        (Compare(low=0, high=9, length=1), "03>.", {2: "<."}),
        (Equality(), "34+34+=.", {7: "."}),
        (Equality(), "34+34+=!.", {7: "."}),
        (Equality(), "34+35+=.", {7: "!."}),
        (Register(), "3A4Bab+7=.", {7: "7=."}),
        (Register(), "3A4Bab+8=.", {7: "7=."}),
        (Register(high=18, assertions=3), "9Aa9+Bb99+=a9=bb-0=.", {7: "99+=", 12: "9=", 17: "0=."}),
        (Register(low=-9), "2Aa5-Bb3~=.", {7: "3~=."}),
    ],
    ids=str,
)
def test_answers_by_hand(family: Family, text: str, answers: dict[int, str]) -> None:
    assert family.decisions(text) == tuple(answers)
    assert {cut: family.answer(text, cut) for cut in answers} == answers


def test_decisions_of_a_text_of_another_form() -> None:
    message = "'34+7=.' is not a program of the family register with these knobs"
    with pytest.raises(ValueError, match=re.escape(message)):
        Register().decisions("34+7=.")
    with pytest.raises(ValueError, match=re.escape(message)):
        Register().answer("34+7=.", 3)


# --- knobs -----------------------------------------------------------------------------------------------------------


def numbers(family: Compare | Equality, n: int = 3000) -> np.ndarray:
    """X and Y of each program as the plain machine has them: int [n, 2]."""
    at = 2 * family.length - 1
    return np.array([[value.v for value in vm.run(text).states[at].stack] for text in texts(family, n)])


@pytest.mark.parametrize("kind", [Compare, Equality])
@pytest.mark.parametrize(("low", "high", "length"), [(-3, 7, 3), (2, 9, 1), (-5, 4, 5)])
def test_values_cover_their_range_uniformly(kind: type, low: int, high: int, length: int) -> None:
    family = kind(low=low, high=high, length=length)
    values = numbers(family)
    for column in values.T:
        assert set(column) == set(range(low, high + 1))
        assert all(close_to(column == value, 1 / (high - low + 1)) for value in range(low, high + 1))
    assert all(len(text.rstrip(".!<>=")) == 2 * length for text in texts(family, 3000))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_equal_and_negated_share(share: float) -> None:
    for family in (Compare(low=-3, high=7, length=3, equal_share=share), Equality(length=3, negated_share=1 - share)):
        values = numbers(family)
        equal = values[:, 0] == values[:, 1]
        assert close_to(equal, share)
        ending = "=." if isinstance(family, Compare) else "=!."
        assert [text.endswith(ending) for text in texts(family, 3000)] == list(equal == isinstance(family, Compare))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_value_weights_are_the_frequencies(share: float) -> None:
    family = Compare(low=-2, high=3, length=3, equal_share=share)
    weights = family.value_weights
    assert weights.sum() == pytest.approx(1)
    values = numbers(family, 6000) - family.low
    for x, y in np.ndindex(6, 6):
        assert close_to((values == [x, y]).all(1), weights[x, y]), (x, y)
    assert Compare(low=4, high=4, length=3, equal_share=1.0).value_weights.tolist() == [[1.0]]


STORE, ASSERTION = re.compile("([^A-D=]+)([A-D])"), re.compile("[^A-D=]+=")


def parts(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The stores as (what, into which register) and the assertions of a register program."""
    stores = STORE.findall(text)
    return stores, ASSERTION.findall(text, sum(len(source) + 1 for source, _ in stores))


def loads(source: str) -> int:
    return sum(token in "abcd" for token in source)


def later_stores(family: Register, n: int) -> list[tuple[bool, bool]]:
    """Of every store after the first: (is it computed from a register, does it overwrite one)?"""
    found = []
    for text in texts(family, n):
        stores, _ = parts(text)
        found += [
            (loads(source) > 0, target in {earlier for _, earlier in stores[:i]})
            for i, (source, target) in enumerate(stores)
            if i
        ]
    return found


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_dependent_and_overwrite_share(share: float) -> None:
    dependent = later_stores(Register(dependent_share=share), 2000)
    assert close_to([computed for computed, _ in dependent], share)
    assert close_to([old for _, old in dependent], 0.25), "one knob moves the other"
    overwriting = later_stores(Register(overwrite_share=share), 2000)
    assert close_to([old for _, old in overwriting], share)
    assert close_to([computed for computed, _ in overwriting], 0.25), "one knob moves the other"


def test_stores_overwrite_where_no_register_is_left() -> None:
    later = later_stores(Register(registers="cb", min_stores=5, max_stores=5, overwrite_share=0.0), 200)
    assert [old for _, old in later] == [False, True, True, True] * 200


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_pair_share(share: float) -> None:
    family = Register(pair_share=share, assertions=2, operators="xn")  # whose results never leave the range
    asserted = [assertion for text in texts(family, 1000) for assertion in parts(text)[1]]
    assert close_to([loads(assertion) == 2 for assertion in asserted], share)


@pytest.mark.parametrize(("fewest", "most", "assertions"), [(2, 4, 1), (1, 3, 4), (5, 5, 2), (16, 16, 8)])
def test_stores_and_assertions(fewest: int, most: int, assertions: int) -> None:
    family = Register(min_stores=fewest, max_stores=most, assertions=assertions)
    split = [parts(text) for text in texts(family, 600)]
    for count in range(fewest, most + 1):
        assert close_to([len(stores) == count for stores, _ in split], 1 / (most - fewest + 1))
    assert all(fewest <= len(stores) <= most and len(asserted) == assertions for stores, asserted in split)


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
    asked = Counter()
    for text in texts(Register(min_stores=4, max_stores=4, overwrite_share=0.0, pair_share=0.0), 2000):
        stores, assertions = parts(text)
        asked[[target.lower() for _, target in stores].index(assertions[0][0])] += 1
    assert all(close_to(np.arange(2000) < asked[place], 1 / 4) for place in range(4))


@pytest.mark.parametrize("name", FAMILIES)
def test_knobs_are_documented(name: str) -> None:
    found = knobs(FAMILIES[name])
    assert list(found) == [field.name for field in fields(FAMILIES[name])]
    for knob in found.values():
        assert knob.default == getattr(FAMILIES[name](), knob.name)
        assert len(knob.doc) > 10
        assert "\n" not in knob.doc


# --- what cannot be had ----------------------------------------------------------------------------------------------

REFUSED = [
    (
        lambda: Compare(low=-20, high=20, length=3),
        "compare: no expression of 3 instructions has the value -20 (nearest: -9); "
        "choose low and high within [-9, 18], or another length",
    ),
    (
        lambda: Equality(low=0, high=19),
        "equality: no expression of 3 instructions has the value 19 (nearest: 18); "
        "choose low and high within [-9, 18], or another length",
    ),
    (
        lambda: Compare(low=0, high=12, length=1),
        "compare: no expression of 1 instructions has the value 10 (nearest: 9); "
        "choose low and high within [0, 9], or another length",
    ),
    (lambda: Compare(low=3, high=2), "compare: low = 3 is above high = 2; swap them"),
    (lambda: Compare(length=4), "expressions have 1 or 3 or 5 instructions, not 4"),
    (lambda: Compare(equal_share=1.5), "compare: knob equal_share = 1.5 is a share, so it must lie in [0, 1]"),
    (lambda: Compare(equal_share=float("nan")), "compare: knob equal_share = nan is a share"),
    (
        lambda: Compare(low=3, high=3),
        "compare: X and Y can only be equal (low = high = 3); set equal_share = 1",
    ),
    (lambda: Equality(negated_share=-0.1), "equality: knob negated_share = -0.1 is a share, so it must lie in [0, 1]"),
    (
        lambda: Equality(low=3, high=3),
        "equality: X and Y can only be equal (low = high = 3); set negated_share = 0",
    ),
    (lambda: Register(low=1), "register: [low, high] = [1, 9] must hold 0 and lie in [-81, 81]"),
    (lambda: Register(high=82), "register: [low, high] = [0, 82] must hold 0 and lie in [-81, 81]"),
    (lambda: Register(registers=""), "register: registers = '' must be some of abcd, each once"),
    (lambda: Register(registers="ae"), "register: registers = 'ae' must be some of abcd, each once"),
    (lambda: Register(registers="aba"), "register: registers = 'aba' must be some of abcd, each once"),
    *(
        (
            lambda fewest=fewest, most=most: Register(min_stores=fewest, max_stores=most),
            f"register: min_stores = {fewest} and max_stores = {most} must have 1 <= min_stores <= max_stores <= 16",
        )
        for fewest, most in [(5, 4), (0, 4), (2, 17)]
    ),
    (lambda: Register(operators="+/"), "register: operators = '+/' must be one or more of + - * x n"),
    (lambda: Register(operators=""), "register: operators = '' must be one or more of + - * x n"),
    (lambda: Register(assertions=0), "register: assertions = 0 must lie in 1..8"),
    (lambda: Register(assertions=9), "register: assertions = 9 must lie in 1..8"),
    (lambda: Register(dependent_share=2), "register: knob dependent_share = 2 is a share"),
    (lambda: Register(overwrite_share=-1), "register: knob overwrite_share = -1 is a share"),
    (lambda: Register(pair_share=1.01), "register: knob pair_share = 1.01 is a share"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_bad_knobs_are_refused(make: Callable[[], Family], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("length", [1, 3, 5])
def test_the_range_that_an_error_proposes_is_the_widest_that_works(length: int) -> None:
    with pytest.raises(ValueError, match="choose low and high within") as caught:
        Compare(low=-100, high=1000, length=length)
    low, high = map(int, re.search(r"within \[(-?\d+), (-?\d+)\]", str(caught.value)).groups())
    family = Compare(low=low, high=high, length=length)
    for wider in ({"low": low - 1}, {"high": high + 1}):
        with pytest.raises(ValueError, match="no expression of"):
            replace(family, **wider)


# --- expressions and literals ----------------------------------------------------------------------------------------

PYTHON = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "x": max,
    "n": min,
}


def expressions(length: int, text: str = "", stack: tuple[int, ...] = ()) -> Iterator[tuple[str, int]]:
    """Every expression of the published operators that has a value, with it: plain Python, no machine."""
    if len(text) == length:
        yield text, stack[0]
        return
    if len(stack) < length - len(text):  # or too many values are left at the end
        for digit in range(10):
            yield from expressions(length, f"{text}{digit}", (*stack, digit))
    if len(stack) >= 2:
        *below, a, b = stack
        for token, function in PYTHON.items():
            if b != 0 or token not in "/%":
                yield from expressions(length, text + token, (*below, function(a, b)))


@pytest.mark.parametrize("length", [1, 3, 5])
def test_pool_holds_every_expression_with_its_value(length: int) -> None:
    numbers = pool(length)
    pooled = dict(zip(tokens.decode(numbers.tokens), np.repeat(numbers.values, numbers.counts).tolist(), strict=True))
    assert len(pooled) == len(numbers.tokens), "an expression is pooled twice"
    assert pooled == dict(expressions(length))
    assert (np.diff(numbers.values) > 0).all()


def test_counts_of_the_pool_of_five() -> None:
    numbers = pool(5)
    counts = dict(zip(numbers.values.tolist(), numbers.counts.tolist(), strict=True))
    assert (min(counts), max(counts)) == (-81, 729)
    assert (counts[-20], counts[0]) == (35, 19434)


def test_expressions_of_a_value_are_drawn_uniformly() -> None:
    numbers, rng = pool(3), np.random.default_rng(0)
    expected = [text for text, value in expressions(3) if value == 7]
    drawn = tokens.decode(numbers.sample(np.full(20_000, 7), rng))
    assert set(drawn) == set(expected)
    assert all(close_to([text == one for text in drawn], 1 / len(expected)) for one in expected)


def test_samples_have_the_values_asked_for_in_order() -> None:
    values = np.random.default_rng(0).integers(-20, 21, 500)
    drawn = tokens.decode(pool(5).sample(values, np.random.default_rng(1)))
    assert [vm.run(text).outputs for text in drawn] == [(vm.Int(value),) for value in values]


def test_literals_evaluate_to_their_value() -> None:
    written = {value: literal(value) for value in range(-81, 82)}
    assert written[20] == "99+2+"
    assert written[0] == "0"
    assert written[-9] == "9~"
    assert len(set(written.values())) == len(written)
    for value, text in written.items():
        assert vm.run(text).outputs == (vm.Int(value),)
        assert re.fullmatch(r"\d(\d\+)*~?", text)
        assert len(text) <= 2 * -(-max(abs(value), 1) // 9) - 1 + (value < 0), "longer than it must be"


def test_only_ascii_digits_are_digits() -> None:
    assert not Compare(length=1, low=0, high=9).accepts("٣3=.")
    assert not Register().accepts("٣Aa٣=.")


def test_an_expression_without_a_value_has_no_answer() -> None:
    assert Compare(length=3, low=-9, high=18).answer("10/34+<.", 6) is None
