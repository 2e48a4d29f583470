"""Atoms and compounds against their meaning in plain Python, on programs of every family and on any text."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import pairwise
from random import Random as Dice

import numpy as np
import pytest

from cadmus.machine import tokens, vm
from cadmus.programs import compounds
from cadmus.programs.families import FAMILIES
from cadmus.states.provenance_plain import provenance_of
from tests import programs as random_programs

EDGES = {"operand": "operand_origin", "load": "load_origin", "store": "store", "shuffle": "shuffle"}
TEXTS = [
    *(text for family in FAMILIES.values() for text in tokens.decode(family().generate(12, np.random.default_rng(1)))),
    *(text for text in (random_programs.draw(Dice(seed)) for seed in range(120)) if len(text) <= 60),
    "",
    ".",
    "5",
    "5.77+",
]
ENCODED = tokens.encode(TEXTS)


@cache
def compounds_of(text: str) -> Counter:
    body = text.partition(".")[0]
    names = [f"pair {a}{b}" for a, b in pairwise(body)]
    graph = provenance_of(body, len(body))
    for kind, edge_kind in EDGES.items():
        rows = [edge for edge in graph.edges if edge.kind == edge_kind and edge.depth == 0]
        names += [f"{kind} {body[edge.key]}{body[edge.query]}" for edge in rows]
    return Counter(names)


def events_of(events: compounds.Events, row: int) -> Counter:
    return Counter(events.code[events.program == row].tolist())


def test_compounds_are_adjacent_pairs_and_edges_of_the_data_flow() -> None:
    _, events = compounds.atoms_and_compounds(ENCODED)
    for row, text in enumerate(TEXTS):
        found = {compounds.name_of(code): n for code, n in events_of(events, row).items()}
        assert found == compounds_of(text), text


def test_atoms_are_instructions_and_values_that_no_digit_wrote() -> None:
    atoms, _ = compounds.atoms_and_compounds(tokens.encode(["34+7=.", "99*9*9*A."]))
    one = len(vm.VOCAB) + compounds.MAX_VALUE + 2  # the atom of the value 1
    first = Counter(map(vm.VOCAB.index, "34+7=")) + Counter({one - 1 + 7: 1, one: 1})
    assert events_of(atoms, 0) == first
    large = len(vm.VOCAB) + 2 * compounds.MAX_VALUE + 2  # 729 and 6561 are one atom
    second = Counter(map(vm.VOCAB.index, "99*9*9*A")) + Counter({one - 1 + 81: 1, large: 2})
    assert events_of(atoms, 1) == second
    assert atoms.code.max() < compounds.N_ATOMS


def test_an_example_by_hand() -> None:
    found = {name for name in compounds_of("3A4+a.") if not name.startswith("pair")}
    assert {"store 3A", "load 3a"} <= found
    assert compounds.has_any(tokens.encode(["3A4Bab+7=."]), compounds.codes_of(["operand 4+"])).all()
    assert not compounds.has_any(tokens.encode(["3A4Bab+7=."]), compounds.codes_of(["operand a+"])).any()


def test_what_has_any_and_which_share() -> None:
    _, events = compounds.atoms_and_compounds(ENCODED)
    rng = np.random.default_rng(0)
    present = np.unique(events.code)
    for size in (1, 5, 40):
        for only_pairs in (False, True):
            pool = present[present < len(vm.VOCAB) ** 2] if only_pairs else present
            codes = rng.choice(pool, size, replace=False)
            names = set(map(compounds.name_of, codes))
            expected = []
            for text in TEXTS:
                counts = compounds_of(text)
                among = sum(n for name, n in counts.items() if name in names)
                expected.append(among / max(1, sum(counts.values())))
            assert np.allclose(compounds.shares(ENCODED, codes), expected)
            assert np.array_equal(compounds.has_any(ENCODED, codes), np.array(expected) > 0)


def test_no_programs_and_no_compounds() -> None:
    assert compounds.has_any(ENCODED[:0], compounds.codes_of(["pair 3+"])).shape == (0,)
    assert not compounds.has_any(ENCODED, compounds.codes_of([])).any()
    assert compounds.shares(ENCODED[:0], compounds.codes_of([])).shape == (0,)


def test_names_and_codes_are_inverse() -> None:
    rng = np.random.default_rng(0)
    end = vm.VOCAB.index(vm.END)
    for code in rng.integers(0, compounds.N_COMPOUNDS, 500):
        ends = divmod(int(code) % len(vm.VOCAB) ** 2, len(vm.VOCAB))
        if end not in ends:
            assert compounds.code_of(compounds.name_of(code)) == code


@pytest.mark.parametrize("name", ["", "pair", "pair 3", "pairs 3+", "pair 3+.", "pair 3.", "operand 3é", "3+"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(f"compound {name!r} must be one of pair, operand, load, ")):
        compounds.code_of(name)


def test_chernoff_by_hand() -> None:
    a, b = np.array([1, 1, 2, 0]), np.array([0, 4, 4, 8])
    expected = 0.25**0.1 * 0.25**0.9 + 0.5**0.1 * 0.25**0.9
    assert compounds.chernoff(a, b, 0.1) == pytest.approx(expected)
    assert compounds.chernoff(a, a, 0.1) == pytest.approx(1)
    assert compounds.chernoff(a, np.array([0, 0, 0, 3]), 0.5) == 0
    assert np.isnan(compounds.chernoff(a, np.zeros(4), 0.5))


def test_divergence_of_a_planted_difference() -> None:
    """Halves of one distribution hardly diverge; with every pair of the tested new, compounds do fully, atoms not."""
    programs = FAMILIES["arith"]().generate(4000, np.random.default_rng(0))
    compound, atom = compounds.divergences(programs[::2], programs[1::2])
    assert compound < 0.01
    assert atom < 0.01
    forth, back = tokens.encode(["12.", "34."]), tokens.encode(["21.", "43."])
    compound, atom = compounds.divergences(forth, back)
    assert compound == 1
    assert atom == pytest.approx(0)
    assert np.isnan(compounds.divergences(forth, back[:0])[0])
