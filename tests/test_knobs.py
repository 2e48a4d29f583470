"""Every knob of every family, and of a mixture, turned alone: its own measured property moves, the others hold.

A property moves where the two intervals are apart and the values differ by more than a tolerance; where either fails,
it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cadmus import tokens, vm
from cadmus.build import build
from cadmus.corpus import Corpus
from cadmus.families import FAMILIES, Equality, Family, Register, Sequence
from cadmus.families.base import knobs
from cadmus.holdout import HoldOut
from cadmus.mixture import Component, Mixture, Phase
from cadmus.properties import PROPERTIES, measure

PROGRAMS = 2000  # a side

# Turns are large: a knob doubled or halved. What changes by less than a twentieth (or a share by less than 0.03) on the
# side confounds nothing; it lies beyond the noise of nearly every property, and where it does not (a slope over few
# skeletons, say) the intervals decide. `pair_coverage` is `instruction_pairs` / 3,025, so that it cannot hide behind
# the tolerance of shares.
TOLERANCE, SHARE_TOLERANCE = 0.05, 0.03

# What cannot move alone. A program that is longer because it says more executes more; where there are more forms of
# programs, more texts and skeletons are distinct and fewer of them behave alike; where tokens have more alternatives,
# all entropies rise.
LENGTH = ("length", "longest", "executed")
VARIETY = (
    *("distinct_programs", "duplication", "skeletons", "skeleton_entropy", "zipf_slope"),
    "behavioural_duplicates",
)
ENTROPY = ("token_entropy", "bigram_entropy", "trigram_entropy", "lempel_ziv")
VALUES = ("value_coverage", "value_entropy")
DEPTH, PAIRS, SEQUENCES = ("depth",), ("instruction_pairs",), ("sequence_length",)

Own = Callable[[np.ndarray], np.ndarray]  # a number per program, float [n], where no property shows the knob

_ID = {token: i for i, token in enumerate(vm.VOCAB)}


def ends_in(token: str) -> Own:
    """Whether a program's last token is this."""

    def measured(programs: np.ndarray) -> np.ndarray:
        return programs[np.arange(len(programs)), tokens.lengths(programs) - 1] == _ID[token]

    return measured


def contains(token: str) -> Own:
    """Whether a program has this token."""
    return lambda programs: (programs == _ID[token]).any(1)


def share_of(some: str) -> Own:
    """The share of a program's tokens that are among these."""
    return lambda programs: np.isin(programs, [_ID[token] for token in some]).sum(1) / tokens.lengths(programs)


def followed(first: str, second: str) -> Own:
    """The share of a program's `first` that `second` follows."""

    def measured(programs: np.ndarray) -> np.ndarray:
        here = programs[:, :-1] == _ID[first]
        return (here & (programs[:, 1:] == _ID[second])).sum(1) / here.sum(1)

    return measured


@dataclass(frozen=True)
class Turn:
    """`knob` of `family` turned to `to`, from the defaults or from `base`; `moves` goes up or down, `also` may move."""

    family: str
    knob: str
    to: Any
    moves: str | Own
    direction: str
    also: tuple[str, ...] = ()
    base: dict[str, Any] = field(default_factory=dict)

    @property
    def before(self) -> Family:
        return FAMILIES[self.family](**self.base)

    @property
    def after(self) -> Family:
        return replace(self.before, **{self.knob: self.to})


NO_REGISTERS = "".join(token for token in vm.VOCAB.replace(vm.END, "") if token not in "ABCDabcd")

TURNS = (
    # X is uniform on low..high, and a value of its own is on top after each operator
    Turn("arith", "low", 5, "value_entropy", "down", VARIETY + ENTROPY + PAIRS),  # few quotients and remainders reach 5
    Turn("arith", "high", 4, "value_entropy", "down", VARIETY + ENTROPY),
    Turn("arith", "length", 7, "length", "up", LENGTH + VARIETY + ENTROPY + DEPTH + VALUES),
    Turn("arith", "min_length", 5, "length", "up", LENGTH + VARIETY + ENTROPY + DEPTH),
    Turn("arith", "operators", "+-x", "instruction_pairs", "down", VARIETY + ENTROPY + VALUES),
    Turn("arith", "digit_skew", 2.0, "token_entropy", "down", VARIETY + ENTROPY + VALUES + PAIRS),
    Turn("arith", "skeletons", 5, "skeletons", "down", VARIETY + ENTROPY + PAIRS + VALUES + DEPTH),
    Turn("arith", "zipf", 1.5, "skeleton_entropy", "down", VARIETY + ENTROPY + VALUES),
    Turn("arith", "assertions", 2, "length", "up", LENGTH + VARIETY + ENTROPY + DEPTH),  # each leaves its 1: depth
    Turn("equality", "low", 0, "value_entropy", "down", VALUES + VARIETY),
    Turn("equality", "high", 9, "value_entropy", "down", VALUES + VARIETY),
    Turn("equality", "length", 5, "length", "up", LENGTH + VARIETY + ENTROPY + DEPTH + VALUES + PAIRS),
    Turn("equality", "min_length", 1, "length", "down", LENGTH + VARIETY + DEPTH),
    Turn("equality", "operators", "+-*", "instruction_pairs", "down", VARIETY + ENTROPY),
    Turn("equality", "digit_skew", 2.0, "trigram_entropy", "down", ENTROPY + VARIETY),
    Turn("equality", "skeletons", 5, "skeletons", "down", VARIETY + PAIRS),
    Turn("equality", "zipf", 1.5, "skeleton_entropy", "down", VARIETY + ENTROPY),
    Turn("equality", "assertions", 2, "length", "up", LENGTH + VARIETY + ENTROPY + DEPTH + PAIRS),
    Turn("equality", "negated_share", 0.8, ends_in("!"), "up", VARIETY + ENTROPY),
    # few expressions have values far below 0, so few skeletons
    Turn("compare", "low", 0, "value_entropy", "down", VALUES + VARIETY),
    Turn("compare", "high", 40, "value_entropy", "up", VALUES),
    Turn("compare", "length", 7, "length", "up", LENGTH + VARIETY + ENTROPY + DEPTH + VALUES),
    Turn("compare", "min_length", 3, "length", "down", ("length", "executed", *VARIETY, *ENTROPY, *DEPTH)),
    Turn("compare", "operators", "+-*", "instruction_pairs", "down", VARIETY + ENTROPY + VALUES),
    Turn("compare", "digit_skew", 2.0, "token_entropy", "down", ENTROPY + VARIETY + PAIRS + VALUES),
    Turn("compare", "skeletons", 10, "skeletons", "down", VARIETY + ENTROPY + PAIRS + DEPTH),
    Turn("compare", "zipf", 1.5, "zipf_slope", "up", VARIETY + ENTROPY + DEPTH),
    Turn("compare", "assertions", 2, "length", "up", LENGTH + VARIETY + ENTROPY + DEPTH),
    Turn("compare", "equal_share", 0.4, ends_in("="), "up"),
    Turn("subroutine", "low", -9, "value_entropy", "up", VALUES),
    Turn("subroutine", "high", 9, "value_entropy", "down", LENGTH + DEPTH + VALUES),  # 0..9 has expressions of one digit
    Turn("subroutine", "length", 5, "length", "up", LENGTH + VARIETY + ENTROPY + DEPTH + VALUES),
    Turn("subroutine", "min_length", 3, "length", "up", LENGTH + DEPTH + VARIETY),
    Turn("subroutine", "operators", "+-*", "instruction_pairs", "down", VARIETY + ENTROPY),
    Turn("subroutine", "digit_skew", 2.0, "trigram_entropy", "down", ENTROPY + VALUES),
    Turn("subroutine", "skeletons", 200, "skeletons", "down", VARIETY),
    Turn("subroutine", "zipf", 3.0, "skeletons", "down", (), {"min_length": 3}),
    Turn("subroutine", "assertions", 2, "length", "up", LENGTH + VARIETY + DEPTH),
    Turn("subroutine", "equal_share", 0.4, ends_in("="), "up", (), {"after_share": 0.0}),
    Turn("subroutine", "subroutines", 2, "definitions", "up", LENGTH + VARIETY + ENTROPY + PAIRS + VALUES),
    Turn("subroutine", "min_calls", 2, "executed", "up", VARIETY + ENTROPY),
    Turn("subroutine", "max_calls", 4, "executed", "up", LENGTH + VARIETY + ENTROPY),
    Turn("subroutine", "after_share", 0.2, "definition_after_use", "down"),
    # low and high turn away sequences, so a little of everything else
    Turn("sequence", "low", 5, "value_entropy", "down", VARIETY + ENTROPY + SEQUENCES + VALUES),
    Turn("sequence", "high", 9, "value_entropy", "down", VARIETY + PAIRS + VALUES),
    Turn("sequence", "min_elements", 4, "sequence_length", "up", LENGTH + VARIETY),
    Turn("sequence", "max_elements", 9, "sequence_length", "up", LENGTH + VARIETY),
    Turn("sequence", "count_share", 0.5, contains("r"), "up", LENGTH + VARIETY + ENTROPY + SEQUENCES),
    Turn("sequence", "steps", "RT", "instruction_pairs", "down", LENGTH + VARIETY + ENTROPY + DEPTH),
    Turn("sequence", "min_steps", 2, "length", "up", LENGTH + VARIETY + PAIRS + DEPTH + SEQUENCES),
    Turn("sequence", "max_steps", 5, "length", "up", LENGTH + VARIETY + DEPTH + SEQUENCES),
    Turn("sequence", "readings", "#S", "instruction_pairs", "down", VARIETY + ENTROPY),
    Turn("sequence", "digit_skew", 2.0, "token_entropy", "down", ENTROPY + VARIETY + VALUES),
    Turn("sequence", "skeletons", 200, "skeletons", "down"),
    Turn("sequence", "zipf", 0.5, "zipf_slope", "up", (), {"skeletons": 400}),
    Turn("sequence", "assertions", 2, "length", "up", LENGTH + VARIETY + ENTROPY + DEPTH),
    Turn("sequence_advanced", "low", 5, "value_entropy", "down", SEQUENCES + DEPTH),
    Turn("sequence_advanced", "high", 9, "value_entropy", "down", LENGTH + VARIETY + DEPTH + VALUES),
    Turn("sequence_advanced", "min_elements", 4, "sequence_length", "up", LENGTH + VARIETY),
    Turn("sequence_advanced", "max_elements", 9, "sequence_length", "up", LENGTH + VARIETY),
    Turn("sequence_advanced", "count_share", 0.5, contains("r"), "up", LENGTH + VARIETY + ENTROPY + SEQUENCES),
    Turn("sequence_advanced", "steps", "WM+*", "instruction_pairs", "down", LENGTH + VARIETY + ENTROPY),
    Turn("sequence_advanced", "min_steps", 2, "length", "up", LENGTH + VARIETY),
    Turn("sequence_advanced", "max_steps", 5, "length", "up", LENGTH + VARIETY),
    Turn("sequence_advanced", "readings", "#S", "instruction_pairs", "down", VARIETY + ENTROPY),
    Turn("sequence_advanced", "digit_skew", 2.0, "token_entropy", "down", ENTROPY + VARIETY + VALUES),
    Turn("sequence_advanced", "skeletons", 200, "skeletons", "down"),
    Turn("sequence_advanced", "zipf", 0.5, "zipf_slope", "up", (), {"skeletons": 400}),
    Turn("sequence_advanced", "assertions", 2, "length", "up", LENGTH + VARIETY + ENTROPY + DEPTH + ("definitions",)),
    Turn("sequence_advanced", "body_operators", "+-*", "instruction_pairs", "down"),
    Turn("sequence_advanced", "after_share", 0.1, "definition_after_use", "down"),
    Turn("label", "predicates", "sum largest", "instruction_pairs", "down", VARIETY + ENTROPY + ("executed",)),
    Turn("label", "tests", "> <", "instruction_pairs", "down", VARIETY),
    Turn("label", "min_elements", 3, "sequence_length", "up", LENGTH + VARIETY + ENTROPY),
    Turn("label", "max_elements", 8, "sequence_length", "up", LENGTH + VARIETY + ENTROPY),
    Turn("label", "min_examples", 3, "length", "up", LENGTH + VARIETY + DEPTH),
    Turn("label", "max_examples", 6, "length", "up", LENGTH + VARIETY + DEPTH + ENTROPY),
    Turn("label", "false_share", 0.1, followed("f", "!"), "down", ("value_entropy", *VARIETY)),
    Turn("label", "digit_skew", 2.0, "token_entropy", "down", ENTROPY + VARIETY),
    Turn("label", "skeletons", 200, "skeletons", "down"),
    Turn("label", "zipf", 1.0, "zipf_slope", "up", (), {"skeletons": 400}),
    Turn("induce", "predicates", "sum largest", "instruction_pairs", "down", VARIETY + ("executed",)),
    Turn("induce", "tests", "> <", "instruction_pairs", "down", VARIETY),
    Turn("induce", "min_elements", 3, "sequence_length", "up", LENGTH + VARIETY + ENTROPY),
    Turn("induce", "max_elements", 8, "sequence_length", "up", LENGTH + VARIETY + ENTROPY),
    Turn("induce", "min_examples", 5, "length", "up", LENGTH + VARIETY + DEPTH),
    Turn("induce", "max_examples", 8, "length", "up", LENGTH + VARIETY + DEPTH),
    Turn("induce", "false_share", 0.1, followed("f", "0"), "down"),
    Turn("induce", "digit_skew", 2.0, "token_entropy", "down", ENTROPY + VARIETY),
    Turn("induce", "skeletons", 200, "skeletons", "down"),
    Turn("induce", "zipf", 0.5, "zipf_slope", "up", (), {"skeletons": 400}),
    Turn("random", "min_length", 6, "length", "up", LENGTH),
    Turn("random", "max_length", 12, "length", "up", LENGTH),
    Turn("random", "instructions", NO_REGISTERS, "instruction_pairs", "down"),
    Turn("random", "digit_share", 0.45, share_of("0123456789"), "up"),
    Turn("register", "low", -9, "value_coverage", "up", LENGTH + VARIETY + ENTROPY + VALUES + PAIRS + ("read_distance",)),
    Turn("register", "high", 18, "value_coverage", "up", LENGTH + VARIETY + ENTROPY + VALUES + DEPTH + ("read_distance",)),
    Turn("register", "registers", "ab", "instruction_pairs", "down", VARIETY + ENTROPY + ("read_distance",)),
    Turn("register", "min_stores", 4, "stores", "up", LENGTH + VARIETY + ENTROPY + ("loads", "read_distance", "live_share")),
    Turn("register", "max_stores", 8, "stores", "up", LENGTH + VARIETY + ENTROPY + ("loads", "read_distance", "live_share")),
    Turn("register", "dependent_share", 0.75, "chain", "up", LENGTH + VARIETY + ENTROPY + ("loads", "live_share")),
    Turn("register", "overwrite_share", 0.75, "read_distance", "down", VARIETY + ENTROPY),
    Turn(
        *("register", "dead_share", 1.0, "live_share", "down", ("read_distance",)),
        {"dead_share": 0.0, "overwrite_share": 0.6, "dependent_share": 0.6, "min_stores": 4, "max_stores": 8},
    ),
    Turn("register", "min_distance", 2, "read_distance", "up", VARIETY + ("live_share",)),
    Turn("register", "max_distance", 0, "read_distance", "down", VARIETY + ENTROPY + ("live_share",)),
    Turn("register", "operators", "+-*", "instruction_pairs", "up"),
    Turn("register", "assertions", 2, "length", "up", LENGTH + VARIETY + DEPTH + PAIRS + ("loads", "read_distance", "live_share")),
    Turn("register", "pair_share", 0.75, "loads", "up", LENGTH + VARIETY + ENTROPY + ("read_distance", "live_share")),
    Turn("register", "digit_skew", 2.0, "value_entropy", "down", ENTROPY + VARIETY),
    Turn("register", "skeletons", 200, "skeletons", "down"),
    Turn("register", "zipf", 0.5, "zipf_slope", "up", (), {"skeletons": 400}),
    Turn("stack", "low", 0, "value_entropy", "down", ("longest",)),
    Turn("stack", "high", 18, "value_entropy", "up", ("longest",)),
    Turn("stack", "min_values", 4, "length", "up", LENGTH + VARIETY + DEPTH),
    Turn("stack", "max_values", 3, "length", "down", LENGTH + VARIETY + DEPTH),
    Turn("stack", "min_shuffles", 3, "length", "up", LENGTH + VARIETY + DEPTH),
    Turn("stack", "max_shuffles", 6, "length", "up", LENGTH + VARIETY + DEPTH),
    Turn("stack", "shuffles", ":\\", "instruction_pairs", "down", LENGTH + VARIETY + ENTROPY + DEPTH),
    Turn("stack", "max_depth", 4, "depth", "down", VARIETY + ("longest",)),
    Turn("stack", "operators", "+-", "instruction_pairs", "down", VARIETY + ENTROPY + VALUES),
    Turn("stack", "digit_skew", 2.0, "value_entropy", "down", ENTROPY + VARIETY + VALUES),
    Turn("stack", "skeletons", 200, "skeletons", "down"),
    Turn("stack", "zipf", 0.5, "zipf_slope", "up", (), {"skeletons": 400}),
    Turn("stack", "assertions", 2, "length", "up", LENGTH + VARIETY + ENTROPY + DEPTH),
)


# --- measuring -------------------------------------------------------------------------------------------------------


@cache
def drawn(family: Family, seed: int) -> np.ndarray:
    return family.generate(PROGRAMS, np.random.default_rng(seed))


@cache
def measured(family: Family, seed: int) -> pd.DataFrame:
    return measure(drawn(family, seed)).set_index("property")


def shift(before: pd.Series, after: pd.Series) -> str:
    """`up` or `down` where a property moves, each side a row of `measure`; empty where it holds. What has a meaning on
    one side only is `lost` or `found`; what has no interval (`longest`) is judged by the tolerance alone."""
    if np.isnan(before.value) or np.isnan(after.value):
        return {(True, False): "found", (False, True): "lost"}.get((np.isnan(before.value), np.isnan(after.value)), "")
    difference = after.value - before.value
    tolerance = TOLERANCE * max(abs(before.value), abs(after.value))
    if before.unit == "share":
        tolerance = max(tolerance, SHARE_TOLERANCE)
    overlap = before.low <= after.high and after.low <= before.high  # False where there is no interval
    return "" if overlap or abs(difference) <= tolerance else "up" if difference > 0 else "down"


def shifts(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, str]:
    """The properties that do not hold, and where they go."""
    found = {name: shift(before.loc[name], after.loc[name]) for name in PROPERTIES if name != "pair_coverage"}
    return {name: direction for name, direction in found.items() if direction}


def mean(numbers: np.ndarray) -> pd.Series:
    """The mean of a number per program, as a row of `measure` has it."""
    margin = 1.96 * numbers.std() / np.sqrt(len(numbers))
    return pd.Series({"value": numbers.mean(), "low": numbers.mean() - margin, "high": numbers.mean() + margin, "unit": "share"})
