"""The plain machine: what programs leave, every state on the way, and the errors that a user can meet."""

from __future__ import annotations

import copy
import doctest
import pickle
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cadmus.machine import vm
from cadmus.machine.vm import NAN, Int, NanCause, Registers, Semantics, Seq, State
from tests import programs
from tests.cases import CASES, PAPER
from tests.fuzzing import examples

PAGE = Path(__file__).parents[3] / "docs" / "machine.md"
EXHAUSTING = "{;1f;1f;1f}1f"
relaxed = settings(deadline=None, max_examples=examples(150))

# --- what programs leave ---------------------------------------------------------------------------------------------


def test_examples_of_the_specification() -> None:
    for text, verdict in PAPER.items():
        assert vm.verdict(text) is verdict, text
        assert vm.run(text).is_true is verdict, text


@pytest.mark.parametrize("rule", dict.fromkeys(case.rule for case in CASES))
def test_hand_derived_outputs(rule: str) -> None:
    for case in CASES:
        if case.rule == rule:
            assert vm.run(case.text).outputs == case.outputs, case
            assert vm.verdict(case.text) == vm.all_true(case.outputs), case


def test_the_cases_name_every_instruction_once() -> None:
    texts = [case.text for case in CASES]
    assert set(vm.VOCAB) == set("".join(texts))
    assert len(set(texts)) == len(texts)


def test_every_cause_of_nan_has_a_case() -> None:
    causes = set()
    for case in CASES:
        machine = vm.Machine(case.text, observer=lambda token, inputs, outputs, cause: causes.add(cause))
        for position in machine.positions:
            machine.advance(position)
    assert causes == {None, *NanCause}


@relaxed
@given(programs.programs)
def test_depth_is_a_function_of_the_tokens(text: str) -> None:
    """max(0, depth - inputs) + outputs, whatever the values, until fuel runs out."""
    executed, _ = vm.parse(text)
    states = vm.run(text).states
    depth = 0
    for position in executed:
        if states[position].fuel == 0:
            break
        row = vm.INSTRUCTIONS[text[position]]
        depth = max(0, depth - row.inputs) + row.outputs
        assert len(states[position].stack) == depth


@relaxed
@given(programs.programs)
def test_nan_inputs_leave_nan(text: str) -> None:
    def observe(token: str, inputs: tuple, outputs: tuple, cause: NanCause | None) -> None:
        row = vm.INSTRUCTIONS[token]
        assert len(outputs) == row.outputs
        if NAN in inputs or len(inputs) < row.inputs:
            assert all(value is NAN for value in outputs)

    machine = vm.Machine(text, observer=observe)
    for position in machine.positions:
        machine.advance(position)


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "true"),
    [
        (Int(1), True),
        (Int(-3), True),
        (Int(0), False),
        (Int(0, 5), False),
        (Seq(), False),
        (Seq((1, 2)), True),
        (Seq((1, 0)), False),
        (Seq((Int(0, 3),)), False),
        (NAN, False),
    ],
)
def test_truth(value: vm.Value, true: bool) -> None:
    assert vm.truth(value) is true


def test_all_true_needs_a_value() -> None:
    assert not vm.all_true(())
    assert vm.all_true((Int(1), Seq((1,))))
    assert not vm.all_true((Int(1), NAN))
    assert vm.all_true(iter([Int(1)]))


@pytest.mark.parametrize("v", [2**31, -(2**31), 2**64])
def test_int_range(v: int) -> None:
    with pytest.raises(ValueError, match=rf"Int value {v} is outside \[-2147483647, 2147483647\]; use NAN"):
        Int(v)
    assert Int(vm.MAX_INT).v == 2147483647
    assert Int(-vm.MAX_INT).v == -2147483647


@pytest.mark.parametrize("tag", [-1, 10])
def test_tag_range(tag: int) -> None:
    with pytest.raises(ValueError, match=rf"Int tag {tag} is outside 0\.\.9"):
        Int(1, tag)


@pytest.mark.parametrize("wrong", [1.0, "1", None, [1]])
def test_int_holds_only_integers(wrong: object) -> None:
    with pytest.raises(TypeError):
        Int(wrong)
    with pytest.raises(TypeError):
        Int(1, wrong)


def test_int_converts_what_is_an_integer() -> None:
    for value in (Int(np.int32(7), np.uint8(3)), Int(np.uint64(7), np.int64(3))):
        assert value == Int(7, 3)
        assert type(value.v) is int
        assert type(value.tag) is int
    assert Int(True) == Int(1)
    assert type(Int(True).v) is int


def test_int_equality_sees_the_tag() -> None:
    assert Int(3, 1) != Int(3)
    assert len({Int(3), Int(3, 0), Int(3, 1)}) == 2


def test_seq_is_built_from_integers() -> None:
    assert Seq([1, Int(2, 3)]) == Seq((Int(1), Int(2, 3)))
    assert Seq(range(3)).items == (Int(0), Int(1), Int(2))
    assert Seq(np.arange(2)) == Seq((0, 1))
    assert hash(Seq([1])) == hash(Seq((1,)))
    seq = Seq((5, 6))
    assert (len(seq), list(seq), seq[1]) == (2, [Int(5), Int(6)], Int(6))


def test_seq_length() -> None:
    assert len(Seq(range(32))) == 32
    with pytest.raises(ValueError, match="a Seq holds at most 32 Ints, not 33"):
        Seq(range(33))


@pytest.mark.parametrize("wrong", [("ab",), (1.5,), (NAN,), (Seq(),)])
def test_seq_holds_only_ints(wrong: tuple) -> None:
    with pytest.raises(TypeError):
        Seq(wrong)


def test_values_print_as_in_the_documentation() -> None:
    values = (Int(3), Int(-3, 2), Seq(), Seq((1, Int(2, 7))), NAN)
    assert " ".join(map(str, values)) == "3 -3'2 () (1 2'7) NAN"


def test_as_value() -> None:
    for value in (Int(3, 2), Seq((1,)), NAN):
        assert vm.as_value(value) is value
    assert vm.as_value(5) == Int(5)
    assert vm.as_value(np.int64(5)) == Int(5)
    assert vm.as_value([1, Int(2, 3)]) == Seq((Int(1), Int(2, 3)))
    assert vm.as_value(i for i in range(2)) == Seq((0, 1))
    with pytest.raises(TypeError):
        vm.as_value(0.5)


def test_nan_is_one_instance() -> None:
    assert repr(NAN) == "NAN"
    assert copy.copy(NAN) is NAN
    assert copy.deepcopy(Registers(a=1))["b"] is NAN
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(NAN, protocol)) is NAN
    states = vm.run("3rA10/").states
    again = pickle.loads(pickle.dumps(states))
    assert again == states
    assert again[-1].stack[0] is NAN
    assert again[-1].registers["d"] is NAN


# --- states ----------------------------------------------------------------------------------------------------------


def _stacks(text: str) -> list[tuple]:
    return [state.stack for state in vm.run(text).states]


def test_one_state_per_token_top_last() -> None:
    assert _stacks("12+3\\.") == [
        (Int(1),),
        (Int(1), Int(2)),
        (Int(3),),
        (Int(3), Int(3)),
        (Int(3), Int(3)),
        (Int(3), Int(3)),
    ]
    assert _stacks("25-7") == [(Int(2),), (Int(2), Int(5)), (Int(-3),), (Int(-3), Int(7))]


def test_states_of_definitions_are_the_one_before() -> None:
    text = "9{1A+}f.7{2}"
    before, inside, after = vm.run("9").states[0], vm.run(text).states[1:6], vm.run(text).states[6]
    assert set(inside) == {before}
    assert (after.stack, after.registers["a"], after.fuel) == ((NAN,), Int(1), 4096 - 5)  # 9 f 1 A +
    assert vm.run(text).states[7:] == (after,) * 5  # the `.` and what nobody reads
    assert vm.run("{1}").states == (State(),) * 3
    assert vm.run(".").states == (State(),)
    assert vm.run("").states == ()


def test_all_definitions_of_the_text_are_bound_from_the_start() -> None:
    states = vm.run("3f4f{1+}").states
    assert [state.stack for state in states[:4]] == [(Int(3),), (Int(4),), (Int(4), Int(4)), (Int(4), Int(5))]


def test_registers_and_fuel_in_states() -> None:
    states = vm.run("5A3rB").states
    assert [state.fuel for state in states] == [4095, 4094, 4093, 4092, 4091]
    assert dict(states[1].registers) == {"a": Int(5), "b": NAN, "c": NAN, "d": NAN}
    assert states[4].registers == Registers(a=5, b=(0, 1, 2))
    assert states[2].registers is not states[4].registers
    assert vm.run("{1-:0>\\F}3f").states[-1].fuel == 4096 - 2 - 3 * 7


def test_state_when_fuel_runs_out() -> None:
    text = "12{A5C;1f;1f;1f}1f7B;;3"
    states = vm.run(text).states
    at = text.index("f7")
    assert states[at - 1].stack == (Int(1), Int(2), Int(1))
    assert states[at].stack == (NAN,)
    assert states[at].fuel == 0
    assert (states[at].registers["a"], states[at].registers["c"]) == (Int(1), Int(5))  # as execution stopped
    assert states[at].registers["b"] is NAN
    assert states[at:] == (states[at],) * (len(text) - at)


def test_exactly_all_fuel() -> None:
    states = vm.run("1" + "}" * 4095 + "7").states
    assert (states[4095].stack, states[4095].fuel) == ((Int(1),), 0)
    assert (states[4096].stack, states[4096].fuel) == ((NAN,), 0)
    assert vm.run("1" + "}" * 4095 + ".7{2}").outputs == (Int(1),)
    assert vm.run("1" + "}" * 4095 + "{2}").outputs == (Int(1),)


def test_nothing_is_written_after_fuel_has_run_out() -> None:
    assert vm.run("9A" + "}" * 4094 + "9B").states[-1] == State((NAN,), Registers(a=9), 0)


@pytest.mark.slow
@relaxed
@given(programs.programs)
def test_the_last_state_holds_the_outputs(text: str) -> None:
    result = vm.run(text)
    assert len(result.states) == len(text)
    assert result.outputs == (result.states[-1].stack if text else ())
    assert result.is_true == vm.verdict(text) == vm.all_true(result.outputs)


@pytest.mark.slow
@relaxed
@given(programs.programs)
def test_text_behind_the_end_does_not_matter(text: str) -> None:
    result = vm.run(text)
    more = vm.run(text + ".")
    assert more.states[: len(text)] == result.states
    assert more.outputs == result.outputs
    assert vm.run(text + ".1{2").outputs == result.outputs


# --- going on from a state -------------------------------------------------------------------------------------------


@pytest.mark.slow
@relaxed
@given(programs.programs, st.data())
def test_resume_from_an_unedited_state_changes_nothing(text: str, data: st.DataObject) -> None:
    result = vm.run(text)
    at = data.draw(st.integers(-1, len(text) - 1))
    assert vm.resume(text, at, result.states[at] if at >= 0 else State()) == result


def test_resume_after_every_token_of_every_kind_of_program() -> None:
    for text in ("9f{A1+a*}3f.7", "12{;1f;1f;1f}1f7B", "{1-:0>\\F}{;}8f9g}", "1" + "}" * 12):
        result = vm.run(text)
        for at in range(len(text)):
            assert vm.resume(text, at, result.states[at]) == result


@pytest.mark.slow
@relaxed
@given(programs.programs, st.lists(programs.values, max_size=4), st.data())
def test_resume_from_an_edited_state_is_the_machine_from_there(text: str, stack: list, data: st.DataObject) -> None:
    """The rest of the text, run on the edited state, is a program that stores and pushes it first (`vm` executes the
    same tokens); the states before stay."""
    assume(text)
    at = data.draw(st.integers(0, len(text) - 1))
    registers = data.draw(st.fixed_dictionaries(dict.fromkeys(vm.REGISTERS, programs.values)))
    fuel = data.draw(st.sampled_from((0, 1, 7, 100, vm.FUEL)))
    state = State(tuple(stack), Registers(**registers), fuel)
    result = vm.resume(text, at, state)
    assert result.states[:at] == vm.run(text).states[:at]
    assert result.states[at] == state
    machine = vm.Machine(text)
    machine.restore(state)
    for position in machine.positions:
        if position > at:
            machine.advance(position)
            assert result.states[position] == machine.state
    assert result.outputs == tuple(machine.stack)


def test_resume_with_edited_registers_and_stack() -> None:
    text = "3A4Bab+7="
    states = vm.run(text).states
    assert vm.resume(text, 3, states[3].with_register("a", 5)).outputs == (Int(0),)
    assert vm.resume(text, 3, states[3].with_register("a", 5).with_register("b", 2)).is_true
    assert vm.resume(text, 6, states[6].with_stack([8])).outputs == (Int(0),)
    assert vm.resume(text, 6, states[6].with_stack([[7, 8]])).outputs == (Seq((1, 0)),)
    assert vm.resume(text, 6, states[6].with_stack([])).outputs == (NAN,)
    edited = vm.resume(text, 3, states[3].with_register("a", 5))
    assert edited.states[:3] == states[:3]
    assert edited.states[3].registers["a"] == Int(5)
    assert edited.states[4].stack == (Int(5),)
    assert states[3].registers["a"] == Int(3)  # the unedited run is as it was


def test_resume_binds_all_definitions_and_keeps_to_the_fuel() -> None:
    assert vm.resume("{1+}9f{2+}3g", 4, State((5,))).outputs == (Int(6), Int(5))
    state = State((5,), fuel=3)
    assert vm.resume("9f{1+}", 0, state).outputs == (Int(6),)
    assert vm.resume("9f{1+}", 0, State((5,), fuel=2)).outputs == (NAN,)
    assert vm.resume("9f{1+}", 0, state).states[-1].fuel == 0
    assert vm.resume("9f{1+}", 5, State((5,), fuel=0)).outputs == (Int(5),)  # nothing is due


def test_resume_before_the_first_token() -> None:
    assert vm.resume("+", -1, State((3, 4))).outputs == (Int(7),)
    assert vm.resume("", -1, State((3, 4))).outputs == (Int(3), Int(4))
    assert vm.resume("a", -1, State(registers=Registers(a=5))).states == (State((5,), Registers(a=5), 4095),)


@pytest.mark.parametrize("at", [-2, 3, 99])
def test_resume_outside_the_text(at: int) -> None:
    with pytest.raises(ValueError, match=rf"cannot resume after token {at} of a text of 3 \(-1: before the first\)"):
        vm.resume("12+", at, State())


def test_resume_under_alternative_semantics() -> None:
    swapped = Semantics({"+": "-", "-": "+"})
    result = vm.run("52+", swapped)
    assert result.outputs == (Int(3),)
    assert vm.resume("52+", 1, result.states[1], swapped) == result
    assert vm.resume("52+", 1, State((9, 2)), swapped).outputs == (Int(7),)


# --- states as values ------------------------------------------------------------------------------------------------


def test_state_converts_and_keeps() -> None:
    state = State([1, [2, Int(3, 4)], NAN], {"b": 5})
    assert state.stack == (Int(1), Seq((Int(2), Int(3, 4))), NAN)
    assert state.registers == Registers(NAN, 5, NAN, NAN)
    assert state.fuel == 4096
    assert State() == State((), Registers(), vm.FUEL)
    assert len({State((1,)), State([Int(1)])}) == 1


def test_with_register_and_with_stack_leave_the_original() -> None:
    state = State((1,), Registers(c=2), 17)
    edited = state.with_register("a", [1, 2]).with_stack([3, NAN])
    assert edited == State((3, NAN), Registers(a=[1, 2], c=2), 17)
    assert state == State((1,), Registers(c=2), 17)
    assert edited.with_register("a", NAN).registers["a"] is NAN


@pytest.mark.parametrize("name", ["e", "A", "ab", ""])
def test_unknown_register(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown register {name!r}; the registers are a, b, c, d"):
        State().with_register(name, 1)
    with pytest.raises(KeyError, match="unknown register"):
        Registers()[name]


@pytest.mark.parametrize("fuel", [-1, 4097])
def test_fuel_range(fuel: int) -> None:
    with pytest.raises(ValueError, match=rf"fuel {fuel} is outside 0\.\.4096"):
        State(fuel=fuel)


def test_edits_that_no_machine_could_hold() -> None:
    with pytest.raises(ValueError, match="outside"):
        State().with_register("a", 2**31)
    with pytest.raises(ValueError, match="at most 32"):
        State().with_stack([range(33)])
    with pytest.raises(TypeError):
        State().with_stack([0.5])


def test_registers_are_a_mapping() -> None:
    registers = Registers(b=3)
    assert (list(registers), len(registers)) == (["a", "b", "c", "d"], 4)
    assert registers == {"a": NAN, "b": Int(3), "c": NAN, "d": NAN}
    assert hash(registers) == hash(Registers(b=Int(3)))
    assert repr(registers) == "Registers(a=NAN, b=3, c=NAN, d=NAN)"
    with pytest.raises(TypeError):
        registers["a"] = Int(1)


# --- what is not a program -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "character", "position"),
    [("1 2", " ", 1), ("[34+7=.]", "[", 0), ("34+y", "y", 3), ("1.é", "é", 2), ("12\n", "\n", 2), ("3→4", "→", 1)],
)
def test_characters_outside_the_vocabulary(text: str, character: str, position: int) -> None:
    message = f"{character!r} at position {position} is not an instruction; a program holds only {vm.VOCAB}"
    message += "; leave it out" if character in " []\n" else ""
    calls = (vm.run, vm.verdict, vm.explain, vm.check, vm.Machine, lambda text: vm.resume(text, -1, State()))
    for call in calls:
        with pytest.raises(ValueError, match=re.escape(message) + r"\Z"):
            call(text)


def test_the_vocabulary() -> None:
    assert vm.VOCAB == "0123456789.+-*/%xn<>=!~m&|?:\\@o;ABCDabcd{}fghFGH(,rQ#ISXERTOPMW'\""
    assert len(vm.VOCAB) == len(set(vm.VOCAB)) == 65
    assert "".join(vm.INSTRUCTIONS) == vm.VOCAB
    assert [row.id for row in vm.INSTRUCTIONS.values()] == list(range(65))
    assert [vm.INSTRUCTIONS[token].token for token in vm.VOCAB] == list(vm.VOCAB)
    assert len({row.name for row in vm.INSTRUCTIONS.values()}) == 65
    assert vm.check(vm.VOCAB) == vm.VOCAB


# --- alternative semantics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meanings", "message"),
    [
        ({"+": "-"}, "semantics must be a permutation: no token takes the meaning of +"),
        ({"+": "-", "*": "-"}, "semantics must be a permutation: no token takes the meaning of * +"),
        ({"+": "-", "-": "*"}, "semantics must be a permutation: no token takes the meaning of +"),
        (
            {"+": "<", "<": "+"},
            "'+' (num num -> num) cannot mean '<' (num num -> bit); it can mean one of + - * / % x n",
        ),
        ({":": "~", "~": ":"}, "':' (any -> any any) cannot mean '~' (num -> num); it can mean one of :"),
        ({"y": "+"}, "semantics name 'y', which is not one of the 65 instructions"),
        ({"+": "add"}, "semantics name 'add', which is not one of the 65 instructions"),
        ({"f": "F", "F": "f"}, "'f' (any [body] -> any) cannot mean 'F' (any any [body] -> any)"),
        (
            {"A": "a", "a": "A"},
            "'A' (any -> [register]) cannot mean 'a' ([register] -> any); it can mean one of A B C D",
        ),
        ({"{": "}", "}": "{"}, "'{' ([open] ->) cannot mean '}' ([close] ->); it can mean one of {"),
    ],
)
def test_semantics_that_are_refused(meanings: dict, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        Semantics(meanings)


def test_semantics_exchange_meanings() -> None:
    cycle = Semantics({"+": "-", "-": "*", "*": "+"})
    assert [vm.run(text, cycle).outputs for text in ("52+", "52-", "52*", "52/")] == [
        (Int(3),),
        (Int(10),),
        (Int(7),),
        (Int(2),),
    ]
    assert cycle["+"].name == "subtract"
    assert cycle["/"].name == "divide"
    digits = Semantics({"3": "7", "7": "3"})
    assert vm.run("37", digits).outputs == (Int(7), Int(3))
    assert vm.run("{1+}3f", Semantics({"f": "g", "g": "f"})).outputs == (NAN,)  # slot g is not bound
    assert vm.run("5Aa", Semantics({"a": "b", "b": "a"})).outputs == (NAN,)
    assert vm.verdict("34+7=", Semantics({"=": "<", "<": "="})) is False


def test_semantics_compare_by_what_they_change() -> None:
    assert Semantics({"+": "+", "f": "f"}) == Semantics() == Semantics({})
    assert Semantics({"+": "-", "-": "+"}) == Semantics({"-": "+", "+": "-", "*": "*"})
    assert hash(Semantics({"+": "-", "-": "+"})) == hash(Semantics({"-": "+", "+": "-"}))
    assert Semantics({"+": "-", "-": "+"}) != Semantics()
    assert pickle.loads(pickle.dumps(Semantics({"+": "-", "-": "+"}))) == Semantics({"-": "+", "+": "-"})


@pytest.mark.slow
@relaxed
@given(programs.programs, programs.machines)
def test_semantics_equal_a_relabelled_text(text: str, semantics: Semantics) -> None:
    relabelled = "".join(semantics[token].token for token in text)
    assert vm.run(text, semantics) == vm.run(relabelled)
    assert vm.verdict(text, semantics) == vm.verdict(relabelled)


@relaxed
@given(programs.programs, programs.machines)
def test_semantics_keep_the_depth_until_fuel_runs_out(text: str, semantics: Semantics) -> None:
    for mine, theirs in zip(vm.run(text).states, vm.run(text, semantics).states, strict=True):
        if 0 in (mine.fuel, theirs.fuel):
            break
        assert len(mine.stack) == len(theirs.stack)


# --- explanations ----------------------------------------------------------------------------------------------------


def _rows(text: str, semantics: Semantics | None = None) -> list[str]:
    return vm.explain(text, semantics).split("\n")


def _column(text: str, name: str) -> list[str]:
    """The cells of one column, in the order of the tokens."""
    header, *rows = _rows(text)[: len(text) + 1]
    starts = [header.index(column) for column in ("token", "instruction", "fuel", "stack", "registers", "why NAN")]
    start = header.index(name)
    end = next((s for s in starts if s > start), None)
    return [row[start:end].strip() for row in rows]


@pytest.mark.slow
@relaxed
@given(programs.programs)
def test_explain_is_aligned_and_agrees_with_the_states(text: str) -> None:
    result = vm.run(text)
    assert [token[:1] for token in _column(text, "token")] == list(text)
    assert _column(text, "fuel") == [str(state.fuel) for state in result.states]
    assert _column(text, "stack") == [" ".join(map(str, state.stack)) or "-" for state in result.states]
    expected = [" ".join(f"{n}={v}" for n, v in s.registers.items() if v is not NAN) for s in result.states]
    assert _column(text, "registers") == expected
    *_, blank, outputs, verdict = _rows(text)
    assert blank == ""
    assert outputs == "outputs: " + (" ".join(map(str, result.outputs)) or "none")
    assert verdict == "verdict: " + ("true-program" if result.is_true else "false-program")
    assert len(_rows(text)) == len(text) + 4


def test_explain_names_what_each_token_is() -> None:
    assert _column("3{1+}f}.7", "instruction") == ["digit 3", *["|"] * 4, "call f", "close", "end", "(not read)"]
    assert _column("5{1", "instruction") == ["digit 5", "|", "|"]
    assert _column("{1.}", "instruction") == ["|", "|", "end", "(not read)"]
    assert "subtract" in _rows("52+", Semantics({"+": "-", "-": "+"}))[3]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1+", ["", "an input is missing"]),
        ("10/1+", ["", "", "division by 0", "", "an input is NAN"]),
        ("5#", ["", "an input has the wrong type"]),
        ("a", ["the register holds NAN"]),
        ("5f", ["", "no subroutine is bound"]),
        ("1r2r+", ["", "", "", "", "the sequences differ in length"]),
        ("52~'", ["", "", "", "the tag is outside 0..9"]),
        ("1~r", ["", "", "the count is outside 0..32"]),
        ("(T", ["", "the sequence is empty"]),
        ("(0I", ["", "", "there is no such element"]),
        ("3f{;}", ["", "the call left nothing", "", "", ""]),
        ("3f{10/}", ["", "in '/' of a body: division by 0", "", "", "", "", ""]),
        ("2rM{(}", ["", "", "f gave an element no usable result", "", "", ""]),
        (
            "2rM{3\\/}",
            ["", "", "f gave an element no usable result; in '/' of a body: division by 0", *[""] * 5],
        ),
        ("3f{10/1+;5}", [""] * 11),  # what a body recovers from is not told
        ("10/;", ["", "", "division by 0", ""]),
        ("1" + "}" * 4096, [""] * 4096 + ["no fuel is left after 4096 instructions"]),
    ],
)
def test_explain_tells_why(text: str, why: list[str]) -> None:
    assert _column(text, "why NAN") == why


def test_explain_shortens_what_is_long() -> None:
    assert _column("3f{10/1+1+1+}", "why NAN")[1].endswith("; and 2 more")
    assert _column("3f{10/1+}", "why NAN")[1].count("in ") == 2


def test_explain_out_of_fuel() -> None:
    why = _column(EXHAUSTING + "7", "why NAN")
    assert why[-2:] == ["no fuel is left after 4096 instructions"] * 2
    assert not any(why[:-2])
    assert _column(EXHAUSTING + "7", "stack")[-2:] == ["NAN", "NAN"]


# --- the observer ----------------------------------------------------------------------------------------------------


def test_the_observer_is_called_after_every_executed_instruction() -> None:
    events: list[tuple] = []
    machine = vm.Machine("5f+{2*}", observer=lambda *event: events.append(event))
    for position in machine.positions:
        machine.advance(position)
    assert events == [
        ("5", (), (Int(5),), None),
        ("2", (), (Int(2),), None),
        ("*", (Int(5), Int(2)), (Int(10),), None),
        ("f", (Int(5),), (Int(10),), None),
        ("+", (Int(10),), (NAN,), NanCause.UNDERFLOW),
    ]


@relaxed
@given(programs.programs)
def test_the_observer_sees_as_many_instructions_as_fuel_was_spent(text: str) -> None:
    count = 0

    def observe(*_: object) -> None:
        nonlocal count
        count += 1

    machine = vm.Machine(text, observer=observe)
    for position in machine.positions:
        machine.advance(position)
    if not machine.out_of_fuel:  # else the instructions that were cut off are not told of
        assert count == vm.FUEL - machine.fuel


# --- the page --------------------------------------------------------------------------------------------------------


def _table(heading: str) -> list[list[str]]:
    """The rows of the first table under `heading`, split at the bars that are not escaped, code marks taken off."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]
    return [[cell.strip().replace("\\|", "|").removeprefix("`").removesuffix("`") for cell in row] for row in cells]


def documented_rows() -> str:
    """The page's instruction table as it must be: paste it where the test below fails."""
    rows = vm.INSTRUCTIONS.values()
    cells = [[str(row.id), f"`{row.token}`", row.name, f"`{row.signature}`", row.doc] for row in rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def test_the_page_has_the_instruction_table() -> None:
    rows = vm.INSTRUCTIONS.values()
    expected = [[str(row.id), row.token, row.name, row.signature, row.doc] for row in rows]
    assert _table("Instructions") == expected, f"the table in {PAGE} should be\n{documented_rows()}"
    assert documented_rows() in PAGE.read_text()


def test_the_page_has_the_limits() -> None:
    assert {name: int(value.replace(",", "")) for name, value in _table("Limits")} == {
        "greatest Int": vm.MAX_INT,
        "least Int": -vm.MAX_INT,
        "greatest tag": vm.MAX_TAG,
        "elements of a Seq": vm.MAX_LENGTH,
        "calls active at once": vm.MAX_CALLS,
        "fuel of a run": vm.FUEL,
    }


def _examples() -> list[tuple[str, str]]:
    """(program, what the page prints) of every console block."""
    blocks = re.findall(r"```console\n\$ cadmus-probe vm (.*?)\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
    return [(shlex.split(argument)[0], printed) for argument, printed in blocks]


@pytest.mark.parametrize(("text", "printed"), _examples())
def test_the_examples_of_the_page(text: str, printed: str) -> None:
    assert printed == vm.explain(text)


def test_the_python_of_the_page() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert (failed, tried) == (0, 19)


def test_the_page_has_examples_of_both_verdicts() -> None:
    verdicts = [vm.verdict(text) for text, _ in _examples()]
    assert PAGE.read_text().count("```console") == len(verdicts)
    assert verdicts.count(True) >= 3
    assert verdicts.count(False) >= 2


def test_the_programs_in_the_text_of_the_page() -> None:
    """`[program]` true or false: the page marks them as such in a table."""
    rows = _table("Small programs")
    assert len(rows) >= 10
    for text, verdict, _ in rows:
        assert vm.verdict(text.removeprefix("[").removesuffix("]")) is {"true": True, "false": False}[verdict], text


def test_a_result_shows_its_trace_in_a_notebook() -> None:
    result = vm.run("3A<b.")
    html = result._repr_html_()
    assert html.count("<tr>") == 6
    assert "<caption>[3A&lt;b.]: a false-program</caption>" in html
    assert ">a=3</td>" in html
    assert "<b" not in html.replace("<b.", "")
    assert vm.resume("3A<b.", 0, result.states[0]) == result
