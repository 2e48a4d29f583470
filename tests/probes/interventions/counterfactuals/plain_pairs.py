"""Pairs to test with, and what the plain machine says of their edits."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import pandas as pd

from cadmus.machine import vm
from cadmus.programs import mixture
from cadmus.programs.families import Register
from cadmus.programs.parts.family import Family
from probes.interventions import counterfactuals
from probes.interventions.counterfactuals import Pairs, PairVariable, draw

MINI = mixture.load("mini")
REGISTER = Register(low=-20, high=20)


@cache
def some(variable: str, n: int = 16, seed: int = 0) -> Pairs:
    return draw(variable, MINI, n, seed)


def rows_of(pairs: Pairs) -> Iterable[tuple[dict, pd.DataFrame, Family]]:
    for row in pairs.pairs.to_dict("records"):
        yield row, pairs.roles[pairs.roles["pair"] == row["pair"]], pairs.family(row["family"])


def put(state: vm.State, place: str, v: int) -> vm.State:
    """The state with v at a place."""
    if place.startswith("reg."):
        return state.with_register(place[-1], v)
    stack = list(state.stack)
    stack[-1 - int(place.removeprefix("stack."))] = vm.Int(v)
    return state.with_stack(stack)


def edited(text: str, edits: Iterable[tuple[int, str]], v: int) -> vm.Result:
    """The run of a text in which v is put into several places, one after the other: (edit_at, place) each."""
    result = vm.run(text)
    for at, place in sorted(edits):
        result = vm.resume(text, at, put(result.states[at], place, v))
    return result


def answer(family: Family, text: str, edits: Iterable[tuple[int, str]] = (), v: int = 0) -> str:
    """What is asked for then, where it makes the program true; else empty."""
    edits = list(edits)
    assertion = family.assertion_for(edited(text, edits, v).outputs)
    return assertion if assertion and edited(text + assertion, edits, v).is_true else ""


def arose(roles: pd.DataFrame) -> list[tuple[int, str]]:
    (row,) = roles[roles["role"] == "arose"].to_dict("records")
    return [(row["edit_at"], row["place"])]


def own(variable: str | PairVariable, bases: list[str], sources: list[str], family: Family) -> tuple:
    """The tables of pairs of these programs."""
    pairs = counterfactuals.from_programs(variable, bases, sources, family)
    return pairs.pairs, pairs.roles
