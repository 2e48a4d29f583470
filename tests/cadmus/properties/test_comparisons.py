"""What a corpus compares, against the plain machine as it executes, and where it was planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings

from cadmus.machine import tokens, vm
from cadmus.programs.families import FAMILIES, Compare, Equality, Induce
from cadmus.properties.comparisons import compared
from tests.fuzzing import examples
from tests.programs import programs


def plain(text: str) -> list[int]:
    """The numbers that comparisons are executed on, by the plain machine."""
    found: list[int] = []

    def observe(token, inputs, outputs, cause):
        if token in "<>=":
            for value in inputs:
                if isinstance(value, vm.Int):
                    found.append(value.v)
                elif isinstance(value, vm.Seq):
                    found.extend(item.v for item in value.items)

    machine = vm.Machine(text, observer=observe)
    for position in machine.positions:
        machine.advance(position)
        if machine.out_of_fuel:
            break
    return found


@pytest.mark.parametrize(
    ("text", "least", "greatest", "n"),
    [
        ("99*88*-99+1-=!.", 17, 17, 2),  # 81 and 64 are made, and never compared
        ("99*1>.", 1, 81, 2),
        ("{99*>}1.", math.nan, math.nan, 0),  # a body that nobody calls
        ("{99*<}1f.", 1, 81, 2),
        ("{99*<}(1,2,3,W#.", 1, 81, 6),  # once for each element
        ("(1,2,3,(1,2,99*,<.", 1, 81, 6),  # element by element
        ("5~A3a>.", -5, 3, 2),
        ("10/7=.", 7, 7, 1),  # beside a NAN
        ("7=.", 7, 7, 1),
        ("12+.", math.nan, math.nan, 0),
    ],
)
def test_what_was_planted_is_found(text: str, least: float, greatest: float, n: int) -> None:
    found = compared(tokens.encode([text]))
    np.testing.assert_equal((found.least, found.greatest, found.n), (least, greatest, n))
    assert found.n == len(plain(text))


@settings(max_examples=examples(150), deadline=None)
@given(programs)
def test_it_is_what_the_plain_machine_compares(text: str) -> None:
    expected, found = plain(text), compared(tokens.encode([text]))
    assert found.n == len(expected)
    if expected:
        assert (found.least, found.greatest) == (min(expected), max(expected))


@pytest.mark.parametrize("name", FAMILIES)
def test_many_programs_at_once_are_each_of_them(name: str) -> None:
    array = FAMILIES[name]().generate(60, np.random.default_rng(0))
    expected = [v for text in tokens.decode(array) for v in plain(text)]
    found = compared(array)
    assert found.n == len(expected)
    if expected:
        assert (found.least, found.greatest) == (min(expected), max(expected))


def test_several_arrays_are_one_corpus() -> None:
    rng = np.random.default_rng(0)
    arrays = [Compare(low=-5, high=5).generate(300, rng), Induce().generate(50, rng)]
    parts = [compared(array) for array in arrays]
    whole = compared(iter(arrays))
    assert whole.n == sum(part.n for part in parts)
    assert whole.least == min(part.least for part in parts)
    assert whole.greatest == max(part.greatest for part in parts)
    assert compared(np.empty((0, 5), np.uint8)).n == 0


def test_equality_by_the_difference_compares_nothing() -> None:
    wide = {"low": -40, "high": 40, "length": 6, "operators": "+-*/%xn~m"}
    rng = np.random.default_rng(0)
    assert compared(Equality(**wide, test="-").generate(500, rng)).n == 0
    found = compared(Equality(**wide).generate(500, rng))
    assert (found.least, found.greatest) == (-40, 40)
