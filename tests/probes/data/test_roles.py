"""The tokens of each role, of programs written out, and as the machine's own states have them."""

from __future__ import annotations

import numpy as np
import pytest

from cadmus.machine import kernel, tokens
from cadmus.programs import mixture
from cadmus.states import provenance, variables
from probes.data import roles
from probes.data.examples import Examples, draw, labelled
from probes.data.targets import Target
from tests.fuzzing import examples


def texts_at(program: str, variable: str, role: str) -> str:
    """The program with everything but the tokens of a role blanked."""
    where = roles.RoleTokens(tokens.encode([program])).of(Target(variable, where=role))
    assert not where[0, 0], "the marker has no role"
    return "".join(token if there else " " for token, there in zip(program, where[0, 1:], strict=True))


@pytest.mark.parametrize(
    ("variable", "role", "expected"),
    [
        #                         3A4Bab+7=.
        ("reg.a.value", "stored", " A        "),
        ("reg.a.parity", "between", "  4B      "),
        ("reg.a", "loaded", "    a     "),
        ("reg.b.value", "loaded", "     b    "),
        ("reg.a.value", "consumed", "      +   "),
        ("reg.c.value", "stored", "          "),
        ("stack.0.value", "arose", "3 4   +7= "),
        ("stack.0.value", "loaded", "    ab    "),
        ("stack.1.value", "consumed", "      + = "),
        ("depth", "loaded", "    ab    "),
    ],
)
def test_the_tokens_of_a_program(variable: str, role: str, expected: str) -> None:
    assert texts_at("3A4Bab+7=.", variable, role) == expected


def test_a_register_is_read_where_it_holds_the_value_that_is_used() -> None:
    #                 3A4:AB  a b + 7 =    both registers hold one value: letters tell the loads apart
    assert texts_at("3A4:ABab+8=.", "reg.a.value", "loaded") == "      a     "
    assert texts_at("3A4:ABab+8=.", "reg.b.value", "loaded") == "       b    "
    #                 the copy of 3 is taken when a holds 4
    assert texts_at("3Aa4A+7=.", "reg.a.value", "consumed") == " " * 9
    assert texts_at("3Aa4A+7=.", "reg.a.value", "overwritten") == "    A    "


def test_labels_are_those_of_what_is_in_the_role() -> None:
    part = Examples.of(tokens.encode(["3Aa4+5A7=.", "95-4=.", "12<.", "44=."]))
    targets = [
        Target("stack.0.value", where="consumed"),
        Target("stack.1.value", where="consumed"),
        Target("reg.a.value", where="overwritten"),
        Target("reg.a.value", where="loaded"),
    ]
    read = labelled(part, targets)
    values, mask = zip(*(read.of(k) for k in range(len(targets))), strict=True)

    def of(k: int, program: int) -> dict[int, int]:
        return {int(at): int(values[k][program, at]) for at in np.flatnonzero(mask[k][program])}

    assert of(0, 0) == {5: 4, 9: 7}
    assert of(0, 1) == {3: 5, 5: 4}
    assert of(1, 1) == {3: 9, 5: 4}
    assert of(2, 0) == {7: 3}
    assert of(3, 0) == {3: 3}


def test_registers_roles_hold_in_random_programs() -> None:
    """At a load the top of the stack is the register's value; consumed operands are what lay on the stack before."""
    programs = draw(mixture.load("default"), examples(300), seed=1).programs
    traces, of_roles = kernel.traces(programs), roles.RoleTokens(programs)
    top = variables.read(traces, "stack.0.value")
    for register in "abcd":
        held = variables.read(traces, f"reg.{register}.value")
        loaded = of_roles.of(Target(f"reg.{register}.value", where="loaded"))
        letters = tokens.sequences(programs) == tokens.encode([register])[0, 0]
        simple = loaded & letters & held.defined
        assert simple.any()
        assert (top.values[simple] == held.values[simple]).all()
        stored = of_roles.of(Target(f"reg.{register}.value", where="stored"))
        assert not (stored & loaded).any()
        assert (variables.read(traces, f"reg.{register}.kind").values[stored] > 0).all()


def test_what_is_no_role_and_what_no_program_has_is_refused() -> None:
    programs = tokens.encode(["3Aa4A+7=.", "95-4=."])
    with pytest.raises(ValueError, match=r"role 'load' is unknown; there are arose, stored, between, loaded, consumed"):
        roles.RoleTokens(programs).of(Target("reg.a.value", where="load"))
    roles.require(programs, [Target("reg.a.value", where="loaded"), Target("depth")])
    message = r"no program has reg\.b\.value in the role 'loaded'; its roles in these programs: none"
    with pytest.raises(ValueError, match=message):
        roles.require(programs, [Target("reg.b.value", where="loaded")])
    message = r"no program has reg\.a\.value in the role 'arose'; .*: stored, loaded, overwritten, decision"
    with pytest.raises(ValueError, match=message):
        roles.require(programs, [Target("reg.a.value", where="arose")])


def test_usual_roles_are_roles() -> None:
    assert set(roles.usual("reg.a.value")) < set(provenance.ROLES)
    assert set(roles.usual("stack.1.kind")) < set(provenance.ROLES)
    assert roles.usual("depth") == roles.usual(len) == ()
