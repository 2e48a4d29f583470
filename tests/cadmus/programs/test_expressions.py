"""Expressions: the pools against plain Python, the draws, the reading, literals, and the families made of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest

from cadmus.machine import tokens, vm
from cadmus.programs.families import Arith, Compare, Equality, Subroutine
from cadmus.programs.parts.expressions import OPERATORS, is_expression, pool, read_expressions
from cadmus.programs.parts.numbers import Numbers
from cadmus.programs.parts.pieces import SLOT, digits, fill_slots, literal, literal_width, ranks
from cadmus.programs.parts.statements import Computed, Statements
from tests.cadmus.programs.test_families import close_to, texts, uniform, value_of

BINARY: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "x": max,
    "n": min,
}
UNARY: dict[str, Callable[[int], int]] = {"~": lambda a: -a, "m": abs}


def expressions(length: int, operators: str = OPERATORS) -> Iterator[tuple[str, int]]:
    """Every expression of `length` instructions that has a value, with it, by recursion over its last instruction."""
    if length == 1:
        yield from ((str(d), d) for d in range(10))
    for text, a in expressions(length - 1, operators) if length > 1 else ():
        yield from ((text + o, UNARY[o](a)) for o in operators if o in UNARY)
    for left in range(1, length - 1):
        for first, a in every(left, operators):
            for second, b in every(length - 1 - left, operators):
                yield from (
                    (first + second + o, BINARY[o](a, b)) for o in operators if o in BINARY and (b or o not in "/%")
                )


@cache
def every(length: int, operators: str) -> tuple[tuple[str, int], ...]:
    return tuple(expressions(length, operators))


@cache
def count_values(length: int, operators: str) -> Counter:
    """How many expressions of `length` instructions have each value, by convolution of the counts of their parts."""
    out = Counter(dict.fromkeys(range(10), 1)) if length == 1 else Counter()
    for a, times in count_values(length - 1, operators).items() if length > 1 else ():
        for o in set(operators) & set(UNARY):
            out[UNARY[o](a)] += times
    for left in range(1, length - 1):
        for a, first in count_values(left, operators).items():
            for b, second in count_values(length - 1 - left, operators).items():
                for o in set(operators) & set(BINARY):
                    if b or o not in "/%":
                        out[BINARY[o](a, b)] += first * second
    return out


def counts_of(length: int, operators: str = OPERATORS) -> dict[int, int]:
    numbers = pool(length, operators)
    return dict(zip(numbers.values.tolist(), numbers.counts.tolist(), strict=True))


def draw_texts(numbers: Numbers, values: np.ndarray | list[int], seed: int = 0) -> list[str]:
    """The texts that `numbers` draws for `values`."""
    piece = numbers.draw(np.asarray(values), np.random.default_rng(seed))
    return [tokens.decode(piece.tokens[row : row + 1, : piece.lengths[row]])[0] for row in piece.index]


def frequencies_fit(counts: Counter, weights: dict[str, float]) -> bool:
    """Whether every text comes as often as its weight says, within 4.5 standard errors, and no other comes."""
    n, total = sum(counts.values()), sum(weights.values())
    shares = {text: weight / total for text, weight in weights.items()}
    far = [text for text, p in shares.items() if abs(counts[text] / n - p) > 4.5 * np.sqrt(p * (1 - p) / n) + 1e-12]
    return not far and set(counts) <= set(shares)


# --- pools -----------------------------------------------------------------------------------------------------------

LISTED = [
    *((length, OPERATORS) for length in (1, 3, 5)),
    *((length, "~m") for length in (1, 2, 3, 4, 5)),
    *((length, "-~") for length in (2, 4, 5)),
    *((length, "+/m%~") for length in (3, 4)),
    (2, "+-"),
    (4, OPERATORS),
    (1, ""),
    (3, ""),
]


@pytest.mark.parametrize(("length", "operators"), LISTED)
def test_pool_holds_every_expression_with_its_value(length: int, operators: str) -> None:
    numbers = pool(length, operators)
    values = np.repeat(numbers.values, np.diff(numbers.starts)).tolist()
    value_of_text = dict(zip(tokens.decode(numbers.tokens), values, strict=True))
    assert len(value_of_text) == len(numbers.tokens) == numbers.counts.sum(), "an expression is pooled twice"
    assert value_of_text == dict(expressions(length, operators))
    assert (np.diff(numbers.values) > 0).all()


def test_counts_of_the_pool_of_five() -> None:
    counts = counts_of(5)
    assert (min(counts), max(counts)) == (-81, 729)
    assert (counts[-20], counts[0]) == (35, 19434)
    assert sum(counts.values()) == 91300


@pytest.mark.parametrize(
    ("length", "operators"), [(7, OPERATORS), (7, "-"), (6, "*~"), (7, "%m"), (8, "~m"), (9, "/-"), (6, "+-"), (9, "n")]
)
def test_longer_pools_count_as_plain_python_does(length: int, operators: str) -> None:
    assert counts_of(length, operators) == count_values(length, operators)


def test_the_convolution_is_the_enumeration() -> None:
    for length, operators in [(5, "/-"), (4, "%~"), (3, OPERATORS)]:
        assert count_values(length, operators) == Counter(value for _, value in expressions(length, operators))


# --- draws -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "operators", "value"),
    [(3, OPERATORS, 7), (4, "~m", 3), (5, "n", 9), (7, "-", -26), (7, "*", 2401), (6, "-~", 26), (9, "+", 44)],
)
def test_expressions_of_a_value_are_drawn_uniformly(length: int, operators: str, value: int) -> None:
    expected = {text: 1.0 for text, v in every(length, operators) if v == value}
    assert 2 <= len(expected) <= 2000, "a check of next to nothing"
    counts = Counter(draw_texts(Numbers(value, value, (length,), operators), [value] * 20_000))
    assert frequencies_fit(counts, expected)
    assert len(counts) > 0.9 * len(expected)


def test_long_draws_are_uniform_over_the_skeletons() -> None:
    """Of all 7-instruction expressions over - and n with one value: a chi-square over their shapes and operators."""
    value, n = 5, 20_000
    expected = Counter(re.sub(r"\d", "0", text) for text, v in every(7, "-n") if v == value)
    counts = Counter(re.sub(r"\d", "0", text) for text in draw_texts(Numbers(value, value, (7,), "-n"), [value] * n))
    total = sum(expected.values())
    chi = sum((counts[s] - n * count / total) ** 2 / (n * count / total) for s, count in expected.items())
    assert len(expected) == 5 * 2**3
    assert chi < len(expected) + 4.5 * np.sqrt(2 * len(expected))
    assert set(counts) == set(expected)


@pytest.mark.parametrize("length", [1, 3, 5, 7, 9])
@pytest.mark.parametrize(("skew", "operators"), [(0.0, OPERATORS), (1.5, OPERATORS), (0.0, "+-*~")])
def test_draws_have_the_values_asked_for_in_order(length: int, skew: float, operators: str) -> None:
    low, high = (0, 9) if length == 1 else (-9, 18) if length == 3 else (-20, 20)
    values = np.random.default_rng(0).integers(low, high + 1, 300)
    texts = draw_texts(Numbers(low, high, (length,), operators, digit_skew=skew), values)
    assert [vm.run(text).outputs for text in texts] == [(vm.Int(value),) for value in values]
    assert all(len(text) == length and read_expressions(text, operators) == [text] for text in texts)


@pytest.mark.parametrize("skew", [-1.0, 0.5, 2.0])
@pytest.mark.parametrize(("length", "operators", "value"), [(3, OPERATORS, 4), (4, "-~", 3), (7, "-", -26)])
def test_digit_skew_weighs_every_digit(skew: float, length: int, operators: str, value: int) -> None:
    weights = {
        text: float(np.prod([(int(token) + 1) ** -skew for token in text if token.isdecimal()]))
        for text, v in every(length, operators)
        if v == value
    }
    counts = Counter(draw_texts(Numbers(value, value, (length,), operators, digit_skew=skew), [value] * 20_000))
    assert frequencies_fit(counts, weights)


def weights_by_shape(numbers: Numbers) -> dict[str, float]:
    """The weight that one expression has, per skeleton, as `listed` states it; all of a skeleton have the same."""
    texts, _, weights = numbers.all_expressions()
    weights_of_shape: dict[str, set[float]] = {}
    for text, weight in zip(tokens.decode(texts), weights.tolist(), strict=True):
        weights_of_shape.setdefault(re.sub(r"\d", "0", text), set()).add(round(weight, 6))
    assert all(len(some) == 1 for some in weights_of_shape.values())
    return {shape: some.pop() for shape, some in weights_of_shape.items()}


@pytest.mark.parametrize(("shapes", "zipf"), [(1, 0.0), (7, 0.0), (0, 1.0), (7, 1.0), (12, -0.5)])
def test_skeletons_in_use_and_their_zipf_weights(shapes: int, zipf: float) -> None:
    numbers = Numbers(0, 5, (5,), skeletons=shapes, zipf=zipf)
    weights = weights_by_shape(numbers)
    count = shapes or 98  # two shapes of 7 * 7 pairs of operators
    assert len(weights) == count
    expected = sorted(k**-zipf for k in range(1, count + 1))
    assert np.allclose(sorted(weights.values()), expected, atol=2e-6)


def test_fewer_skeletons_are_the_first_of_more() -> None:
    few, more = (set(weights_by_shape(Numbers(0, 5, (5,), skeletons=shapes))) for shapes in (3, 9))
    assert few < more


@pytest.mark.parametrize(("shapes", "zipf", "skew"), [(5, 0.0, 0.0), (0, 1.5, 0.0), (6, 1.0, 1.0)])
def test_draws_follow_the_weights_of_skeletons_and_digits(shapes: int, zipf: float, skew: float) -> None:
    numbers = Numbers(3, 3, (3,), skeletons=shapes, zipf=zipf, digit_skew=skew)
    texts, values, weights = numbers.all_expressions()
    expected = {text: w for text, v, w in zip(tokens.decode(texts), values, weights, strict=True) if v == 3}
    assert frequencies_fit(Counter(draw_texts(numbers, [3] * 20_000)), expected)


def test_few_skeletons_reach_many_values() -> None:
    """A skeleton that reaches many values ranks first: three of 98 are enough for -20..20."""
    numbers = Numbers(-20, 20, (5,), skeletons=3)
    numbers.require("here")
    assert set(range(-20, 21)) <= set(numbers.source(5).values.tolist())
    texts = draw_texts(numbers, np.tile(np.arange(-20, 21), 20))
    assert len({re.sub(r"\d", "0", text) for text in texts}) == 3


@pytest.mark.parametrize("skewed", [{"skeletons": 30}, {"zipf": 1.0}], ids=str)
@pytest.mark.parametrize("length", [7, 9])
def test_long_expressions_take_skeletons_and_zipf(skewed: dict, length: int) -> None:
    texts = draw_texts(Numbers(-20, 20, (length,), **skewed), [-20, 0, 20] * 100)
    assert [vm.run(text).outputs[0].v for text in texts] == [-20, 0, 20] * 100


def test_every_length_that_reaches_a_value_is_drawn_equally_often() -> None:
    numbers = Numbers(-20, 20, (1, 3, 5))
    for value, lengths in {4: (1, 3, 5), -3: (3, 5), -20: (5,), 15: (3, 5)}.items():
        counts = Counter(map(len, draw_texts(numbers, [value] * 6000)))
        assert frequencies_fit(counts, dict.fromkeys(lengths, 1.0)), value


def test_lengths_are_mixed_value_by_value() -> None:
    values = np.random.default_rng(0).integers(-5, 30, 1000)
    texts = draw_texts(Numbers(-5, 29, (1, 2, 3, 6, 7), "+-~"), values)
    assert [vm.run(text).outputs for text in texts] == [(vm.Int(value),) for value in values]
    assert set(map(len, texts)) == {1, 2, 3, 6, 7}


def test_drawing_no_values() -> None:
    assert draw_texts(Numbers(0, 5, (3, 5)), np.zeros(0, np.int64)) == []


def test_all_expressions_are_of_one_short_length() -> None:
    texts, values, weights = Numbers(0, 5, (3,)).all_expressions()
    assert dict(zip(tokens.decode(texts), values.tolist(), strict=True)) == dict(expressions(3))
    assert (weights == 1).all()
    for lengths in [(3, 5), (7,)]:
        with pytest.raises(ValueError, match=r"expressions of .* instructions are not listed; one length up to 5 is"):
            Numbers(0, 5, lengths).all_expressions()


# --- what cannot be reached ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (Numbers(5, 4, (3,)), "here: low = 5 is above high = 4; swap them"),
        (
            Numbers(-20, 20, (3,)),
            "here: no expression of 3 instructions has the value -20 (nearest: -9); "
            "choose low and high within [-9, 18], or another length",
        ),
        (
            Numbers(0, 12, (3,), "*"),
            "here: no expression of 3 instructions over * has the value 11 (nearest: 10); "
            "choose low and high within [0, 10], or another length",
        ),
        (
            Numbers(0, 19, (1, 3), "+"),
            "here: no expression of 1 or 3 instructions over + has the value 19 (nearest: 18); "
            "choose low and high within [0, 18], or another length",
        ),
        (
            Numbers(0, 100, (5,), skeletons=1),
            "here: no expression of 5 instructions with 1 skeletons has the value ",
        ),
        (
            Numbers(-81, 2402, (7,), "*~"),
            "here: no expression of 7 instructions over *~ has the value -81",
        ),
        *(
            (
                Numbers(0, 5, (length,), operators),
                f"here: no expression of {length} instructions exists over the operators {operators!r}; "
                "odd lengths need one of + - * / % x n, even ones one of ~ m",
            )
            for length, operators in [(2, OPERATORS), (3, ""), (6, "+-"), (7, "")]
        ),
    ],
    ids=str,
)
def test_what_cannot_be_reached_is_refused(numbers: Numbers, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)) as caught:
        numbers.require("here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lengths", "operators"), [((1,), OPERATORS), ((3,), OPERATORS), ((5,), OPERATORS), ((5,), "*"), ((2, 7), "-~")]
)
def test_the_range_that_an_error_proposes_is_the_widest_that_works(lengths: tuple[int, ...], operators: str) -> None:
    reachable = set().union(*(count_values(length, operators) for length in lengths))
    with pytest.raises(ValueError, match="choose low and high within") as caught:
        Numbers(-100_000, 100_000, lengths, operators).require("here")
    low, high = map(int, re.search(r"within \[(-?\d+), (-?\d+)\]", str(caught.value)).groups())
    assert set(range(low, high + 1)) <= reachable
    assert not {low - 1, high + 1} & reachable
    Numbers(low, high, lengths, operators).require("here")


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operators", ["+~", "+-", "~"])
def test_reading_against_every_way_to_cut(operators: str) -> None:
    """Every text of up to five tokens is cut as it can be, which is in one way at most."""

    def shape(text: str) -> str:
        return re.sub("[37]", "0", text)

    @cache
    def postfix_texts(length: int) -> set[str]:
        """The expressions of `length` instructions with 0 for every digit, those without a value too."""
        if length == 1:
            return {"0"}
        out = {text + o for text in postfix_texts(length - 1) for o in operators if o in UNARY}
        for left in range(1, length - 1):
            pairs = [(a, b) for a in postfix_texts(left) for b in postfix_texts(length - 1 - left)]
            out |= {a + b + o for a, b in pairs for o in operators if o in BINARY}
        return out

    def ways(text: str) -> list[list[str]]:
        if not text:
            return [[]]
        ends = [k for k in range(1, len(text) + 1) if shape(text[:k]) in postfix_texts(k)]
        return [[text[:k], *rest] for k in ends for rest in ways(text[k:])]

    for length in range(1, 6):
        for index in np.ndindex(*[6] * length):
            text = "".join("37+-~="[i] for i in index)
            parse = read_expressions(text, operators)
            possible = ways(text)
            assert len(possible) <= 1
            assert ([parse] if parse is not None else []) == possible, text


@pytest.mark.parametrize("length", [1, 3])
def test_is_expression_against_every_text(length: int) -> None:
    shapes = {"".join("d" if c.isdecimal() else "o" for c in text) for text, _ in expressions(length)}
    alphabet = "07+/n~!=a(."
    for index in np.ndindex(*[len(alphabet)] * length):
        text = "".join(alphabet[i] for i in index)
        expected = re.sub("[+/n]", "o", re.sub("[07]", "d", text)) in shapes
        assert is_expression(text, length) is expected, text
        assert not is_expression(text, length + 2)


def test_reading_takes_other_lengths_and_values_that_are_none() -> None:
    assert read_expressions("34+5") == ["34+", "5"]
    assert read_expressions("10/00%") == ["10/", "00%"]
    assert read_expressions("") == []
    for text in ("+", "3+", "34+~", "3=", "(", "٣"):
        assert read_expressions(text) is None, text


# --- digits and literals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", [-2.0, 0.0, 0.7, 3.0])
def test_digits_have_the_weights_of_the_skew(skew: float) -> None:
    counts = Counter(map(str, digits((200, 200), skew, np.random.default_rng(0)).ravel().tolist()))
    assert frequencies_fit(counts, {str(d): (d + 1) ** -skew for d in range(10)})


@pytest.mark.parametrize(("count", "exponent"), [(1, 2.0), (5, 1.0), (40, -1.0), (3, 0.0)])
def test_ranks_have_zipf_weights(count: int, exponent: float) -> None:
    counts = Counter(map(str, ranks(count, exponent, 20_000, np.random.default_rng(0)).tolist()))
    assert frequencies_fit(counts, {str(k): (k + 1) ** -exponent for k in range(count)})


def test_slots_are_filled_and_nothing_else_is() -> None:
    templates = tokens.encode(["(0,5,S=", "00+00=="] * 500)
    slots = templates == 0
    templates[slots] = SLOT
    piece = fill_slots(templates, 0.0, np.random.default_rng(0))
    assert np.array_equal(piece.tokens[~slots], templates[~slots])
    assert set(piece.tokens[slots].tolist()) == set(range(10))
    assert (templates[slots] == SLOT).all(), "the templates are written over"


def test_literals_evaluate_to_their_value() -> None:
    literal_texts = {value: literal(value) for value in range(-81, 82)}
    assert literal_texts[20] == "99+2+"
    assert literal_texts[0] == "0"
    assert literal_texts[-9] == "9~"
    assert len(set(literal_texts.values())) == len(literal_texts)
    for value, text in literal_texts.items():
        assert vm.run(text).outputs == (vm.Int(value),)
        assert re.fullmatch(r"\d(\d\+)*~?", text)
        assert len(text) <= 2 * -(-max(abs(value), 1) // 9) - 1 + (value < 0), "longer than it must be"
    for low, high in [(0, 9), (-9, 0), (-81, 81), (-20, 27)]:
        assert literal_width(low, high) == max(len(literal_texts[value]) for value in range(low, high + 1))


# --- statements about computed numbers -------------------------------------------------------------------------------


def operands(family: Statements, text: str) -> list[str]:
    """The expressions of every statement of a program, X before Y, cut from the end by what each instruction takes."""
    all_operands = []
    for statement in re.findall("[^<>=]+[<>=]!?", text):
        rest = re.sub("[<>=]!?$", "", statement)
        mine: list[str] = []
        while rest:
            n_open, at = 1, len(rest)
            while n_open:
                at -= 1
                n_open += vm.INSTRUCTIONS[rest[at]].inputs - 1
            mine, rest = [rest[at:], *mine], rest[:at]
        all_operands += mine[:1] if family.name == "arith" else mine
    return all_operands


def numbers(family: Statements, n: int = 3000) -> np.ndarray:
    """The values of X (and Y) of every statement: int [n * assertions, 1 or 2]."""
    values = [value_of(part) for text in texts(family, n) for part in operands(family, text)]
    return np.array(values).reshape(n * family.assertions, -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        *(kind(**knobs) for kind in (Compare, Equality) for knobs in (
            {"low": -3, "high": 7, "length": 3},
            {"low": 2, "high": 9, "length": 1},
            {"low": -5, "high": 4, "length": 5},
            {"low": -9, "high": 20, "length": 7, "min_length": 3, "assertions": 2},
            {"low": -5, "high": 5, "length": 5, "digit_skew": 2.0, "skeletons": 9, "zipf": 1.0},
        )),
        Arith(),
        Arith(low=3, high=8, length=6, operators="-m", assertions=2),
    ],
    ids=str,
)  # fmt: skip
def test_values_cover_their_range_uniformly(family: Statements) -> None:
    for column in numbers(family).T:
        assert uniform(column.tolist(), range(family.low, family.high + 1))


@pytest.mark.parametrize(
    ("family", "lengths"),
    [
        (Compare(), {5}),
        (Compare(length=9, low=0, high=9), {9}),
        (Compare(length=7, min_length=3, low=-9, high=18), {3, 5, 7}),
        (Compare(length=4, min_length=1, operators="+~", low=0, high=9), {1, 2, 3, 4}),
        (Equality(length=4, operators="-~", low=-9, high=9), {4}),
        (Arith(), {3, 5}),
        (Arith(length=5, min_length=1), {1, 3, 5}),
        (Subroutine(length=5, min_length=3), {3, 5}),
    ],
    ids=str,
)
def test_lengths_of_expressions(family: Computed, lengths: set[int]) -> None:
    if isinstance(family, Subroutine):
        statements = [re.sub(r"\{.*\}|[<=>]\.?", "", text).rstrip(".") for text in texts(family, 1000)]
        assert {len(part) for text in statements for part in re.split("f+", text)} == lengths
        return
    part_lengths = [len(part) for text in texts(family, 1000) for part in operands(family, text)]
    if family == Compare(length=4, min_length=1, operators="+~", low=0, high=9):
        assert set(part_lengths) == lengths  # two or four instructions have no value above 0 but by ~~
    else:
        assert uniform(part_lengths, lengths)


@pytest.mark.parametrize("operators", ["+", "-*", "%~", "+-*/%xn~m"])
def test_operators_of_expressions(operators: str) -> None:
    for family in (Compare(low=0, high=9, length=5, operators=operators), Arith(operators=operators, high=8)):
        used = Counter("".join(part for text in texts(family, 1000) for part in operands(family, text)))
        assert {token for token in used if not token.isdecimal()} == set(operators)
    if set(operators) & set("+-*/%xn"):
        bodies = "".join(re.search(r"\{(.*)\}", text)[1] for text in texts(Subroutine(operators=operators, high=9)))
        assert {token for token in bodies if not token.isdecimal()} == set(operators) - set("~m")


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_equal_and_negated_share(share: float) -> None:
    for family in (
        Compare(low=-3, high=7, length=3, equal_share=share, assertions=2),
        Equality(length=3, negated_share=1 - share, assertions=2),
    ):
        values = numbers(family, 2000)
        equal = values[:, 0] == values[:, 1]
        assert close_to(equal, share)
        endings = [end for text in texts(family, 2000) for end in re.findall("[<>=]!?", text)]
        expected = "=" if isinstance(family, Compare) else "=!"
        assert [end == expected for end in endings] == list(equal == isinstance(family, Compare))
    by_difference = Equality(length=3, negated_share=1 - share, test="-")
    pairs = [vm.run(text[: text.rindex("-")]).outputs for text in texts(by_difference, 2000)]
    assert [text.endswith("-!.") for text in texts(by_difference, 2000)] == [x == y for x, y in pairs]
    assert close_to(np.array([x == y for x, y in pairs]), share)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_value_weights_are_the_frequencies(share: float) -> None:
    family = Compare(low=-2, high=3, length=3, equal_share=share)
    weights = family.value_weights
    assert weights.sum() == pytest.approx(1)
    values = numbers(family, 6000) - family.low
    for x, y in np.ndindex(6, 6):
        assert close_to((values == [x, y]).all(1), weights[x, y]), (x, y)
    assert Compare(low=4, high=4, length=3, equal_share=1.0).value_weights.tolist() == [[1.0]]


def test_skeletons_of_expressions() -> None:
    family = Compare(low=-5, high=5, skeletons=3)
    shapes = {re.sub(r"\d", "0", part) for text in texts(family, 1000) for part in operands(family, text)}
    assert len(shapes) == 3
    family = Subroutine(length=3, min_length=3, skeletons=3)
    statements = [re.sub(r"\{.*\}", "", text)[:-2] for text in texts(family, 1000)]
    assert len({re.sub(r"\d", "0", part) for text in statements for part in re.split("f+", text)}) <= 3


def test_zipf_prefers_some_expressions_without_a_bank() -> None:
    def most_common(zipf: float) -> int:
        family = Compare(low=-5, high=5, zipf=zipf)
        shapes = Counter(re.sub(r"\d", "0", part) for text in texts(family, 1000) for part in operands(family, text))
        return shapes.most_common(1)[0][1]

    assert most_common(0.0) * 2 < most_common(1.5)


def test_counts_are_of_all_lengths_and_the_range_has_no_gap() -> None:
    numbers = Numbers(-20, 20, (1, 3, 5))
    brute = Counter(value for length in (1, 3, 5) for _, value in expressions(length))
    assert numbers.counts.tolist() == [brute[value] for value in range(-20, 21)]
    low, high = numbers.range
    assert all(brute[value] for value in range(low, high + 1))
    assert not brute[low - 1]
    assert not brute[high + 1]
