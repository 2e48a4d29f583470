"""Every knob of every family, and of a mixture, turned alone: its own measured property moves, the others hold.

A property moves where the two intervals are apart and the values differ by more than a tolerance; else it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cadmus.corpora.build import build
from cadmus.corpora.corpus import Corpus
from cadmus.machine import tokens, vm
from cadmus.programs.families import FAMILIES, Compare, Equality, Family, Register, Sequence, Stack
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Component, Mixture, Phase
from cadmus.programs.parts.family import knobs
from cadmus.properties.structure import PROPERTIES, measure

pytestmark = pytest.mark.slow

PROGRAMS = 2000  # a side

# Turns are large, a knob doubled or halved. What changes on the side by less than a twentieth (a share: by less than
# 0.03) confounds nothing. Of 3,000 pairs of intervals some are apart by chance, but then they are narrow: they differ
# by less than the tolerance. Two properties have more noise than their intervals say: `longest` is one program and has
# none, `behavioural_duplicates` hangs on the refills too, which differ between samples (0.08 to 0.19 of one family).
TOLERANCE, SHARE_TOLERANCE, LONGEST_TOLERANCE, BEHAVIOUR_TOLERANCE = 0.05, 0.03, 0.15, 0.15

# Properties that move together. A longer program executes more; more forms are more skeletons, of which fewer behave
# alike; more alternatives at each token raise all entropies.
GROUPS = {
    "LENGTH": ("length", "longest", "executed"),
    "TEXTS": ("distinct_programs", "duplication"),
    "FORMS": ("skeletons", "skeleton_entropy", "zipf_slope", "behavioural_duplicates"),
    "ENTROPY": ("token_entropy", "bigram_entropy", "trigram_entropy", "lempel_ziv"),
    "VALUES": ("value_coverage", "value_entropy"),
    "READS": ("loads", "read_distance", "live_share"),
}

DIGITS = vm.VOCAB[:10]
NO_REGISTERS = "".join(token for token in vm.VOCAB if token not in ".ABCDabcd")

_ID = {token: i for i, token in enumerate(vm.VOCAB)}

# --- measures of the programs themselves, for knobs that no property shows -------------------------------------------

Own = Callable[[np.ndarray], np.ndarray]  # a number per program, [n]


def ends_in(token: str) -> Own:
    """Whether a program's last token is this."""
    return lambda programs: programs[np.arange(len(programs)), tokens.lengths(programs) - 1] == _ID[token]


def contains(token: str) -> Own:
    """Whether a program has this token."""
    return lambda programs: (programs == _ID[token]).any(1)


def share_of(some: str) -> Own:
    """The share of a program's tokens that are among these."""
    return lambda programs: np.isin(programs, [_ID[token] for token in some]).sum(1) / tokens.lengths(programs)


def followed(first: str, second: str) -> Own:
    """The share of a program's `first` that `second` follows."""

    def values(programs: np.ndarray) -> np.ndarray:
        here = programs[:, :-1] == _ID[first]
        return (here & (programs[:, 1:] == _ID[second])).sum(1) / here.sum(1)

    return values


def mean(numbers: np.ndarray) -> pd.Series:
    """The mean of a number per program, as a row of `measure` has it."""
    value, margin = numbers.mean(), 1.96 * numbers.std() / np.sqrt(len(numbers))
    return pd.Series({"value": value, "low": value - margin, "high": value + margin, "unit": "share"}, name="own")


# --- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """`knob` of `family` turned to `to`, from the defaults or from `base`. `moves` goes `direction`, up or down; the
    properties and `GROUPS` named in `also` may move with it."""

    family: str
    knob: str
    to: Any
    moves: str | Own
    direction: str
    also: str = ""
    base: dict[str, Any] = field(default_factory=dict)

    @property
    def before(self) -> Family:
        return FAMILIES[self.family](**self.base)

    @property
    def after(self) -> Family:
        return replace(self.before, **{self.knob: self.to})


TURNS = (
    # few expressions reach the greater values: fewer forms, fewer texts
    Turn("arith", "low", 5, "value_entropy", "down", "TEXTS FORMS ENTROPY instruction_pairs"),
    Turn("arith", "high", 4, "value_entropy", "down", "TEXTS ENTROPY"),
    Turn("arith", "length", 7, "length", "up", "LENGTH TEXTS FORMS ENTROPY depth value_coverage"),
    # the shortest expressions are few, so texts repeat where there are more of them
    Turn("arith", "min_length", 5, "length", "up", "TEXTS FORMS ENTROPY depth executed"),
    Turn("arith", "operators", "+-x", "instruction_pairs", "down", "TEXTS FORMS ENTROPY value_coverage"),
    Turn("arith", "digit_skew", 2.0, "token_entropy", "down", "TEXTS FORMS ENTROPY VALUES"),
    # the five that reach the most values: few operators are left
    Turn("arith", "skeletons", 5, "skeletons", "down", "TEXTS FORMS ENTROPY VALUES instruction_pairs depth"),
    Turn("arith", "zipf", 1.5, "skeleton_entropy", "down", "TEXTS zipf_slope trigram_entropy depth"),
    # every statement leaves its truth on the stack, one entry more for the next
    Turn("arith", "assertions", 2, "length", "up", "LENGTH TEXTS FORMS ENTROPY depth"),
    Turn("equality", "low", 0, "value_entropy", "down", "TEXTS FORMS value_coverage"),
    Turn("equality", "high", 9, "value_entropy", "down", "FORMS value_coverage"),
    Turn("equality", "length", 5, "length", "up", "LENGTH TEXTS FORMS ENTROPY instruction_pairs depth value_coverage"),
    Turn("equality", "min_length", 1, "length", "down", "TEXTS FORMS depth executed"),
    Turn("equality", "operators", "+-*", "instruction_pairs", "down", "FORMS ENTROPY"),
    # low and high fix what the digits come to: token_entropy hardly moves
    Turn("equality", "digit_skew", 2.0, "trigram_entropy", "down", "TEXTS FORMS ENTROPY"),
    # few operators are left
    Turn("equality", "skeletons", 5, "skeletons", "down", "skeleton_entropy instruction_pairs"),
    Turn("equality", "zipf", 1.5, "skeleton_entropy", "down", "TEXTS FORMS"),
    Turn("equality", "assertions", 2, "length", "up", "LENGTH TEXTS FORMS ENTROPY instruction_pairs depth"),
    Turn("equality", "negated_share", 0.8, ends_in("!"), "up", "TEXTS zipf_slope bigram_entropy"),
    # the difference is a value, the truth of = is not one more
    Turn("equality", "test", "-", contains("="), "down", "ENTROPY value_coverage"),
    # five instructions seldom come to -20: few forms
    Turn("compare", "low", 0, "value_entropy", "down", "FORMS value_coverage"),
    Turn("compare", "high", 40, "value_entropy", "up", "value_coverage"),
    Turn("compare", "length", 7, "length", "up", "LENGTH FORMS ENTROPY depth value_coverage"),
    Turn("compare", "min_length", 3, "length", "down", "FORMS trigram_entropy depth executed"),
    Turn("compare", "operators", "+-*", "instruction_pairs", "down", "FORMS ENTROPY value_coverage"),
    Turn("compare", "digit_skew", 2.0, "token_entropy", "down", "ENTROPY skeletons instruction_pairs value_coverage"),
    # few operators are left
    Turn("compare", "skeletons", 10, "skeletons", "down", "FORMS ENTROPY instruction_pairs depth value_coverage"),
    Turn("compare", "zipf", 1.5, "zipf_slope", "up", "FORMS ENTROPY depth"),
    Turn("compare", "assertions", 2, "length", "up", "LENGTH FORMS ENTROPY depth value_coverage"),
    Turn("compare", "equal_share", 0.4, ends_in("="), "up", "zipf_slope"),
    Turn("subroutine", "low", -9, "value_entropy", "up", "value_coverage"),
    # 0..9 are single digits too: shorter expressions
    Turn("subroutine", "high", 9, "value_entropy", "down", "LENGTH depth value_coverage"),
    Turn("subroutine", "length", 5, "length", "up", "LENGTH FORMS ENTROPY depth value_coverage"),
    Turn("subroutine", "min_length", 3, "length", "up", "depth executed"),
    Turn("subroutine", "operators", "+-*", "instruction_pairs", "down", "FORMS ENTROPY"),
    Turn("subroutine", "digit_skew", 2.0, "trigram_entropy", "down", "ENTROPY value_entropy"),
    Turn("subroutine", "skeletons", 200, "skeletons", "down", "zipf_slope"),
    # among few heavy structures, more or fewer have their definitions last
    Turn("subroutine", "zipf", 1.0, "skeletons", "down", "FORMS definition_after_use", base={"skeletons": 400}),
    Turn("subroutine", "assertions", 2, "length", "up", "LENGTH FORMS depth"),
    Turn("subroutine", "equal_share", 0.4, ends_in("="), "up", "FORMS", base={"after_share": 0.0}),
    Turn(
        "subroutine",
        "subroutines",
        2,
        "definitions",
        "up",
        "LENGTH FORMS trigram_entropy instruction_pairs value_coverage",
    ),
    Turn("subroutine", "min_calls", 2, "executed", "up", "FORMS trigram_entropy"),
    Turn("subroutine", "max_calls", 4, "executed", "up", "length skeletons"),
    Turn("subroutine", "after_share", 0.2, "definition_after_use", "down"),
    # low and high turn sequences away, short or long ones
    Turn("sequence", "low", 5, "value_entropy", "down", "TEXTS FORMS bigram_entropy sequence_length"),
    Turn("sequence", "high", 9, "value_entropy", "down", "LENGTH skeletons instruction_pairs value_coverage"),
    Turn("sequence", "min_elements", 4, "sequence_length", "up", "LENGTH TEXTS FORMS"),
    Turn("sequence", "max_elements", 9, "sequence_length", "up", "LENGTH FORMS"),
    Turn("sequence", "count_share", 0.5, contains("r"), "up", "LENGTH TEXTS FORMS bigram_entropy sequence_length"),
    Turn("sequence", "steps", "RT", "instruction_pairs", "down", "LENGTH FORMS trigram_entropy depth"),
    Turn("sequence", "min_steps", 2, "length", "up", "TEXTS FORMS instruction_pairs depth executed sequence_length"),
    Turn("sequence", "max_steps", 5, "length", "up", "LENGTH TEXTS FORMS depth sequence_length"),
    Turn("sequence", "readings", "#S", "instruction_pairs", "down", "TEXTS FORMS ENTROPY"),
    Turn("sequence", "digit_skew", 2.0, "token_entropy", "down", "TEXTS ENTROPY VALUES sequence_length"),
    # different structures, each as likely: the long ones are many
    Turn("sequence", "skeletons", 200, "skeletons", "down", "FORMS"),
    # some forty structures carry half of the weight: what they are on average is partly chance
    Turn("sequence", "zipf", 0.5, "zipf_slope", "up", "FORMS length executed", base={"skeletons": 400}),
    Turn("sequence", "assertions", 2, "length", "up", "LENGTH TEXTS FORMS ENTROPY depth"),
    Turn("sequence_advanced", "low", 5, "value_entropy", "down", "skeletons depth sequence_length definitions"),
    Turn("sequence_advanced", "high", 9, "value_entropy", "down", "LENGTH skeletons depth value_coverage"),
    Turn("sequence_advanced", "min_elements", 4, "sequence_length", "up", "LENGTH FORMS"),
    Turn("sequence_advanced", "max_elements", 9, "sequence_length", "up", "LENGTH FORMS"),
    Turn(
        "sequence_advanced",
        "count_share",
        0.5,
        contains("r"),
        "up",
        "LENGTH TEXTS ENTROPY zipf_slope sequence_length",
    ),
    Turn(
        "sequence_advanced",
        "steps",
        "WM+*",
        "instruction_pairs",
        "down",
        "LENGTH definitions behavioural_duplicates",
    ),
    # more steps, more W and M, which call
    Turn("sequence_advanced", "min_steps", 2, "length", "up", "FORMS executed definitions"),
    Turn("sequence_advanced", "max_steps", 5, "length", "up", "LENGTH FORMS ENTROPY sequence_length definitions"),
    Turn("sequence_advanced", "readings", "#S", "instruction_pairs", "down", "FORMS ENTROPY"),
    # small digits make small numbers, written with fewer tokens
    Turn(
        "sequence_advanced",
        "digit_skew",
        2.0,
        "token_entropy",
        "down",
        "LENGTH TEXTS ENTROPY VALUES skeletons depth sequence_length",
    ),
    # structures with definitions are many; of a few, more or fewer have them last
    Turn("sequence_advanced", "skeletons", 200, "skeletons", "down", "FORMS definition_after_use"),
    Turn("sequence_advanced", "zipf", 0.5, "zipf_slope", "up", base={"skeletons": 400}),
    Turn("sequence_advanced", "assertions", 2, "length", "up", "LENGTH FORMS depth definitions"),
    Turn("sequence_advanced", "body_operators", "+-*", "instruction_pairs", "down", "skeletons"),
    Turn("sequence_advanced", "after_share", 0.1, "definition_after_use", "down"),
    # the sum and the largest take one instruction, smallest and last take two or three
    Turn("label", "predicates", "sum largest", "instruction_pairs", "down", "LENGTH FORMS bigram_entropy"),
    Turn("label", "tests", "> <", "instruction_pairs", "down", "FORMS"),
    Turn("label", "min_elements", 3, "sequence_length", "up", "LENGTH FORMS trigram_entropy"),
    Turn("label", "max_elements", 8, "sequence_length", "up", "LENGTH FORMS trigram_entropy"),
    Turn("label", "min_examples", 3, "length", "up", "FORMS depth executed"),
    Turn("label", "max_examples", 6, "length", "up", "LENGTH FORMS depth"),
    # 0 and 1 are all that label computes
    Turn("label", "false_share", 0.1, followed("f", "!"), "down", "FORMS value_entropy"),
    Turn("label", "digit_skew", 2.0, "token_entropy", "down", "TEXTS ENTROPY behavioural_duplicates"),
    Turn("label", "skeletons", 200, "skeletons", "down", "FORMS"),
    Turn("label", "zipf", 0.5, "zipf_slope", "up", "FORMS executed", base={"skeletons": 400}),
    Turn("induce", "predicates", "sum largest", "instruction_pairs", "down", "FORMS executed"),
    Turn("induce", "tests", "> <", "instruction_pairs", "down", "FORMS"),
    Turn("induce", "min_elements", 3, "sequence_length", "up", "LENGTH FORMS trigram_entropy"),
    Turn("induce", "max_elements", 8, "sequence_length", "up", "LENGTH FORMS ENTROPY"),
    Turn("induce", "min_examples", 5, "length", "up", "skeletons depth executed"),
    Turn("induce", "max_examples", 8, "length", "up", "LENGTH FORMS depth"),
    Turn("induce", "false_share", 0.1, followed("f", "0"), "down", "behavioural_duplicates"),
    Turn("induce", "digit_skew", 2.0, "token_entropy", "down", "ENTROPY behavioural_duplicates"),
    Turn("induce", "skeletons", 200, "skeletons", "down", "FORMS"),
    Turn("induce", "zipf", 0.5, "zipf_slope", "up", base={"skeletons": 400}),
    # longer programs hold more of everything
    Turn(
        "random",
        "min_length",
        6,
        "length",
        "up",
        "FORMS bigram_entropy instruction_pairs depth executed stores loads definitions",
    ),
    Turn(
        "random",
        "max_length",
        12,
        "length",
        "up",
        "LENGTH FORMS ENTROPY instruction_pairs depth stores loads definitions",
    ),
    # whatever is left out, others take its place
    Turn(
        "random",
        "instructions",
        NO_REGISTERS,
        "instruction_pairs",
        "down",
        "FORMS READS stores chain depth executed definitions",
    ),
    # digits take the place of everything else
    Turn(
        "random",
        "digit_share",
        0.45,
        share_of(DIGITS),
        "up",
        "FORMS ENTROPY instruction_pairs depth stores loads definitions",
    ),
    # `9~` is longer than `9`, and `~` a new neighbour
    Turn("register", "low", -9, "value_coverage", "up", "LENGTH FORMS instruction_pairs value_entropy read_distance"),
    # `99+` is longer than `9`, and needs a second entry
    Turn("register", "high", 18, "value_coverage", "up", "LENGTH FORMS ENTROPY depth value_entropy read_distance"),
    Turn("register", "registers", "ab", "instruction_pairs", "down", "TEXTS FORMS ENTROPY read_distance"),
    # later stores are more often computed, and lie farther from the assertion
    Turn("register", "min_stores", 4, "stores", "up", "LENGTH FORMS READS"),
    Turn("register", "max_stores", 8, "stores", "up", "LENGTH FORMS READS chain trigram_entropy"),
    # what is computed loads registers
    Turn("register", "dependent_share", 0.75, "chain", "up", "LENGTH FORMS ENTROPY READS value_entropy"),
    Turn("register", "overwrite_share", 0.75, "read_distance", "down", "FORMS ENTROPY"),
    # at the defaults (two to four stores, few of them read) it moves nothing measurable
    Turn(
        "register",
        "dead_share",
        1.0,
        "live_share",
        "down",
        "read_distance behavioural_duplicates",
        base={"dead_share": 0.0, "overwrite_share": 0.6, "dependent_share": 0.6, "min_stores": 4, "max_stores": 8},
    ),
    # from the defaults it also moves stores, 3.0 -> 3.6: programs of two stores have no register of that age
    Turn(
        "register",
        "min_distance",
        2,
        "read_distance",
        "up",
        "FORMS READS",
        base={"min_stores": 4},
    ),
    Turn("register", "max_distance", 0, "read_distance", "down", "FORMS ENTROPY live_share"),
    Turn("register", "operators", "+-*", "instruction_pairs", "up"),
    # assertions load
    Turn("register", "assertions", 2, "length", "up", "LENGTH FORMS READS instruction_pairs depth"),
    Turn("register", "pair_share", 0.75, "loads", "up", "LENGTH READS skeletons trigram_entropy"),
    Turn(
        "register",
        "aged_pair_share",
        1.0,
        "read_distance",
        "down",
        "FORMS ENTROPY READS live_share instruction_pairs value_entropy",
        base={"max_distance": 0, "pair_share": 1.0, "min_stores": 4, "dependent_share": 0.0},
    ),
    Turn("register", "digit_skew", 2.0, "value_entropy", "down", "TEXTS ENTROPY"),
    Turn("register", "skeletons", 200, "skeletons", "down", "FORMS"),
    Turn("register", "zipf", 0.5, "zipf_slope", "up", "skeleton_entropy loads", base={"skeletons": 400}),
    Turn("stack", "low", 0, "value_entropy", "down"),
    Turn("stack", "high", 18, "value_entropy", "up"),
    Turn("stack", "min_values", 4, "length", "up", "FORMS depth executed value_coverage"),
    Turn("stack", "max_values", 3, "length", "down", "FORMS depth executed"),
    Turn("stack", "min_shuffles", 3, "length", "up", "skeletons depth executed"),
    Turn("stack", "max_shuffles", 6, "length", "up", "LENGTH FORMS depth"),
    Turn("stack", "shuffles", ":\\", "instruction_pairs", "down", "LENGTH FORMS ENTROPY depth"),
    Turn("stack", "max_depth", 4, "depth", "down", "skeletons"),
    Turn("stack", "operators", "+-", "instruction_pairs", "down", "FORMS ENTROPY value_entropy"),
    Turn("stack", "digit_skew", 2.0, "value_entropy", "down", "TEXTS ENTROPY value_coverage"),
    Turn("stack", "skeletons", 200, "skeletons", "down", "FORMS"),
    Turn("stack", "zipf", 0.5, "zipf_slope", "up", "FORMS", base={"skeletons": 400}),
    Turn("stack", "assertions", 2, "length", "up", "LENGTH FORMS ENTROPY depth"),
)


@dataclass(frozen=True)
class MixtureTurn:
    """As `Turn`, of a knob of a mixture of one family."""

    knob: str
    before: Component
    after: Component | HoldOut
    moves: str
    direction: str
    also: str = ""


MIXTURE_TURNS = (
    # without duplicates no text is more frequent than another
    MixtureTurn(
        "duplicates",
        Component(Equality()),
        Component(Equality(), duplicates="keep"),
        "duplication",
        "up",
        "TEXTS FORMS",
    ),
    MixtureTurn(
        "pairs",
        Component(Compare()),
        HoldOut(pairs=("*n", "x-", "n+", "-x", "/%", "%/")),
        "instruction_pairs",
        "down",
    ),
    MixtureTurn("max_length", Component(Register()), HoldOut(max_length=15), "longest", "down"),
    MixtureTurn("values", Component(Equality()), HoldOut(values=(-9, -8, -7)), "value_coverage", "down"),
    MixtureTurn(
        "skeletons",
        Component(Equality()),
        HoldOut(skeletons=tuple(f"00n00{operator}{end}" for operator in "+-*/%xn" for end in ("=", "=!"))),
        "skeletons",
        "down",
        "FORMS",
    ),
    MixtureTurn("questions", Component(Equality()), HoldOut(questions=True), "skeletons", "down", "FORMS"),
    MixtureTurn(
        "compounds",
        Component(Compare()),
        HoldOut(compounds=("operand 3+", "operand +-", "operand +*", "operand n-")),
        "skeletons",
        "down",
    ),
    MixtureTurn(
        "max_depth",
        Component(Stack()),
        HoldOut(max_depth=3),
        "depth",
        "down",
        "LENGTH FORMS trigram_entropy instruction_pairs value_coverage",
    ),
    MixtureTurn(
        "max_read_distance", Component(Register()), HoldOut(max_read_distance=6), "read_distance", "down", "FORMS READS"
    ),
    MixtureTurn(
        "max_live",
        Component(Register()),
        HoldOut(max_live=1),
        "live_share",
        "down",
        "LENGTH FORMS READS instruction_pairs",
    ),
)


# --- measuring -------------------------------------------------------------------------------------------------------


@cache
def draw(family: Family, seed: int) -> np.ndarray:
    return family.generate(PROGRAMS, np.random.default_rng(seed))


@cache
def measure_family(family: Family, seed: int) -> pd.DataFrame:
    return properties_of(draw(family, seed))


def properties_of(programs: np.ndarray) -> pd.DataFrame:
    return measure(programs).set_index("property")


def shift(before: pd.Series, after: pd.Series) -> str:
    """`up` or `down` where a property moves, each side a row of `measure`; empty where it holds. What has a meaning on
    one side only is `lost` or `found`."""
    without = bool(np.isnan(before.value)), bool(np.isnan(after.value))
    if any(without):
        return {(True, False): "found", (False, True): "lost"}.get(without, "")
    relative = LONGEST_TOLERANCE if before.name == "longest" else TOLERANCE
    tolerance = relative * max(abs(before.value), abs(after.value))
    if before.unit == "share":
        absolute = BEHAVIOUR_TOLERANCE if before.name == "behavioural_duplicates" else SHARE_TOLERANCE
        tolerance = max(tolerance, absolute)
    overlap = before.low <= after.high and after.low <= before.high  # False where there is no interval
    difference = after.value - before.value
    return "" if overlap or abs(difference) <= tolerance else "up" if difference > 0 else "down"


def shifts(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, str]:
    """The properties that move, and where to; `pair_coverage` is `instruction_pairs` / 3,025."""
    directions = {name: shift(before.loc[name], after.loc[name]) for name in PROPERTIES if name != "pair_coverage"}
    return {name: direction for name, direction in directions.items() if direction}


def unnamed(also: str, moves: str | Own, before: pd.DataFrame, after: pd.DataFrame) -> dict[str, str]:
    """What moves, with its values, though neither `also` nor `moves` names it."""
    named_properties = {name for word in also.split() for name in GROUPS.get(word, (word,))} | {moves}
    return {
        name: f"{direction}: {before.value[name]:.4g} -> {after.value[name]:.4g}"
        for name, direction in shifts(before, after).items()
        if name not in named_properties
    }


# --- families --------------------------------------------------------------------------------------------------------


def test_the_table_has_every_knob_of_every_family_once() -> None:
    there = [(turn.family, turn.knob) for turn in TURNS]
    assert sorted(there) == sorted((name, knob) for name, family in FAMILIES.items() for knob in knobs(family))


def test_the_table_names_properties_that_there_are() -> None:
    words = {word for turn in (*TURNS, *MIXTURE_TURNS) for word in turn.also.split()}
    words |= {turn.moves for turn in (*TURNS, *MIXTURE_TURNS) if isinstance(turn.moves, str)}
    assert words <= {*PROPERTIES, *GROUPS}
    assert {name for group in GROUPS.values() for name in group} <= set(PROPERTIES)


@pytest.mark.parametrize("turn", TURNS, ids=lambda turn: f"{turn.family}.{turn.knob}")
def test_a_knob_moves_its_own_property_and_holds_the_others(turn: Turn) -> None:
    before, after = measure_family(turn.before, 0), measure_family(turn.after, 1)
    if callable(turn.moves):
        sides = mean(turn.moves(draw(turn.before, 0))), mean(turn.moves(draw(turn.after, 1)))
    else:
        sides = before.loc[turn.moves], after.loc[turn.moves]
    assert shift(*sides) == turn.direction, f"{sides[0].value:.4g} -> {sides[1].value:.4g}"
    assert unnamed(turn.also, turn.moves, before, after) == {}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_nothing_moves_where_no_knob_is_turned(family: type[Family]) -> None:
    assert shifts(measure_family(family(), 0), measure_family(family(), 1)) == {}


def test_a_second_knob_turned_in_secret_is_noticed() -> None:
    (turn,) = (turn for turn in TURNS if (turn.family, turn.knob) == ("compare", "assertions"))
    leaking = measure_family(replace(turn.after, operators="+-*"), 1)
    assert "instruction_pairs" in unnamed(turn.also, turn.moves, measure_family(turn.before, 0), leaking)


def test_a_property_without_meaning_on_one_side_does_not_hold() -> None:
    row = pd.Series({"value": 2.0, "low": 1.9, "high": 2.1, "unit": "tokens"}, name="read_distance")
    nothing = pd.Series({"value": np.nan, "low": np.nan, "high": np.nan, "unit": "tokens"}, name="read_distance")
    assert (shift(row, nothing), shift(nothing, row), shift(nothing, nothing)) == ("lost", "found", "")


# --- mixtures --------------------------------------------------------------------------------------------------------

NOTHING = HoldOut()


def corpus_of(*components: Component, hold_out: HoldOut = NOTHING, phases: tuple[Phase, ...] = ()) -> Mixture:
    return Mixture("turned", components, hold_out, phases)


def programs_of(corpus: Corpus, inside: np.ndarray, n: int) -> np.ndarray:
    """`n` of the programs where `inside`, bool [len(corpus)], says so."""
    return corpus.programs(np.random.default_rng(0).choice(np.flatnonzero(inside), n, replace=False))


def test_the_tables_have_every_knob_of_a_mixture() -> None:
    of_components = {field.name for field in fields(Component)} - {"family"}
    assert of_components == {"weight", "duplicates"}  # weight and phases have tests of their own below
    assert {turn.knob for turn in MIXTURE_TURNS} == {"duplicates"} | {rule.name for rule in fields(HoldOut)}


@pytest.mark.parametrize("turn", MIXTURE_TURNS, ids=lambda turn: turn.knob)
def test_a_knob_of_a_mixture_moves_its_own_property_and_holds_the_others(turn: MixtureTurn) -> None:
    if isinstance(turn.after, HoldOut):
        mixtures = corpus_of(turn.before), corpus_of(turn.before, hold_out=turn.after)
    else:
        mixtures = corpus_of(turn.before), corpus_of(turn.after)
    corpora = [build(mixture, PROGRAMS, seed) for seed, mixture in enumerate(mixtures)]
    before, after = (properties_of(corpus.programs(np.arange(PROGRAMS))) for corpus in corpora)
    assert shifts(before, after).get(turn.moves) == turn.direction
    assert unnamed(turn.also, turn.moves, before, after) == {}


def test_weights_move_the_families_shares_and_hold_what_each_is() -> None:
    even, uneven = (
        build(corpus_of(Component(Sequence(), weight), Component(Equality())), PROGRAMS, seed)
        for seed, weight in enumerate((1.0, 3.0))
    )
    assert even.counts == {"sequence": 1000, "equality": 1000}
    assert uneven.counts == {"sequence": 1500, "equality": 500}
    for family in range(2):
        before, after = (properties_of(programs_of(corpus, corpus.family == family, 500)) for corpus in (even, uneven))
        assert shifts(before, after) == {}


def test_phases_move_the_families_shares_of_their_part_and_hold_what_each_is() -> None:
    sequence, equality = Component(Sequence()), Component(Equality())
    phase = Phase(0.5, (replace(sequence, weight=3.0), equality))
    corpus = build(corpus_of(sequence, equality, phases=(phase,)), 2 * PROGRAMS)
    counts = [np.bincount(corpus.family[corpus.phase == part]).tolist() for part in range(2)]
    assert counts == [[1500, 500], [1000, 1000]]
    for family in range(2):
        first, rest = (
            properties_of(programs_of(corpus, (corpus.family == family) & (corpus.phase == part), 500))
            for part in range(2)
        )
        assert shifts(first, rest) == {}
