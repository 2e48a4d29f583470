"""Labels against the plain machine: the state after every token, when a register is read again, what would make the
program true next."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmus.machine import kernel, tokens, vm
from cadmus.states import variables
from tests import agreement, programs, state_labels
from tests.fuzzing import examples

# --- the state after every token -------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(40))
@given(st.lists(programs.programs, min_size=1, max_size=3), st.integers(-3, 3))
def test_labels_are_what_the_states_say(texts: list[str], offset: int) -> None:
    array = tokens.encode(texts)
    width = array.shape[1]
    traces = kernel.traces(array, entries=3)
    for column, name in enumerate(state_labels.NAMES):
        labels = variables.read(traces, name, offset=offset)
        assert labels.name == name
        assert labels.values.shape == labels.defined.shape == (len(texts), width + 1)
        assert (labels.values.dtype, labels.defined.dtype) == (np.int64, np.bool_)
        assert not labels.values[~labels.defined].any()
        for row, text in enumerate(texts):
            states = [vm.State(), *agreement.all_states(text, width)]
            for position in range(width + 1):
                inside = 0 <= position + offset <= width
                expected = state_labels.values_in(states[position + offset])[column] if inside else None
                assert labels.defined[row, position] == (expected is not None)
                assert labels.values[row, position] == (expected or 0)


def test_labels_lie_at_the_positions_of_the_model() -> None:
    """By hand: position 0 is the marker, position i + 1 is token i."""
    array = tokens.encode(["5A{7}3:", "(1,"])
    traces = kernel.traces(array)
    assert tokens.sequences(array).shape == variables.read(traces, "depth").values.shape
    assert variables.read(traces, "depth").values.tolist() == [[0, 1, 0, 0, 0, 0, 1, 2], [0, 1, 2, 1, 1, 1, 1, 1]]
    assert variables.read(traces, "depth", offset=2).values.tolist()[0] == [0, 0, 0, 0, 1, 2, 0, 0]
    assert variables.read(traces, "depth", offset=2).defined.tolist()[0] == [True] * 6 + [False] * 2
    assert variables.read(traces, "depth", offset=-1).values.tolist()[0] == [0, 0, 1, 0, 0, 0, 0, 1]
    assert variables.read(traces, "depth", offset=-1).defined.tolist()[0] == [False] + [True] * 7
    register = variables.read(traces, "reg.a")
    assert register.values.tolist()[0] == [0, 0, 5, 5, 5, 5, 5, 5]
    assert register.defined.tolist()[0] == [False, False, True, True, True, True, True, True]
    kinds = [[kernel.KINDS[code] for code in row] for row in variables.read(traces, "stack.0.kind").values]
    assert kinds == [
        ["none", "int", "none", "none", "none", "none", "int", "int"],
        ["none", "seq", "int", "seq", "seq", "seq", "seq", "seq"],
    ]
    assert [kernel.KINDS[code] for code in variables.read(traces, "reg.a.kind").values[0]] == ["nan"] * 2 + ["int"] * 6
    lengths = variables.read(traces, "stack.0.length")
    assert lengths.values.tolist()[1] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert lengths.defined.tolist()[1] == [False, True, False, True, True, True, True, True]
    assert variables.read(traces, "all_true").values.tolist() == [[0, 1, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]]


def test_labels_have_short_names() -> None:
    traces = kernel.traces(tokens.encode(["5A3", "3r2'B9'7"]))
    for name in ("stack.0", "stack.3", "reg.a", "reg.b"):
        brief, full = variables.read(traces, name), variables.read(traces, name + ".value")
        assert brief.name == name
        assert np.array_equal(brief.values, full.values)
        assert np.array_equal(brief.defined, full.defined)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "top",
        "stack",
        "stack.a",
        "stack.-1",
        "stack.0.live",
        "reg",
        "reg.e",
        "reg.ab",
        "reg.a.b.c",
        "depth.value",
        "reg.a.mod0",
    ],
)
def test_unknown_labels(name: str) -> None:
    traces = kernel.traces(tokens.encode(["12"]))
    message = (
        f"unknown variable {name!r}; there are depth, all_true, stack.K.FIELD and reg.R.FIELD "
        "with K = 0 (the top), 1, ..., R one of a, b, c, d and FIELD one of value, kind, tag, length "
        "(of a register also live, read_distance); "
        "of a number also NAME.VIEW with VIEW one of sign, parity, modN, magnitude, digitK"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        variables.read(traces, name)


# --- when a register is read again ------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(100))
@given(st.lists(programs.programs, min_size=1, max_size=3), st.integers(-1, 1))
def test_liveness_is_what_the_plain_machine_does(texts: list[str], offset: int) -> None:
    array = tokens.encode(texts)
    width = array.shape[1]
    traces = kernel.traces(array)
    for register in vm.REGISTERS:
        live = variables.read(traces, f"reg.{register}.live", offset=offset)
        distance = variables.read(traces, f"reg.{register}.read_distance", offset=offset)
        for row, text in enumerate(texts):
            expected = state_labels.next_reads(text, width)
            for position in range(width + 1):
                inside = 0 <= position + offset <= width
                tokens_until = expected[position + offset].get(register, 0) if inside else 0
                assert live.defined[row, position] == inside
                assert live.values[row, position] == (tokens_until > 0)
                assert distance.values[row, position] == tokens_until
                assert distance.defined[row, position] == (tokens_until > 0)


def test_liveness_by_hand() -> None:
    """A call reads and overwrites too; a definition that is passed over does neither."""
    traces = kernel.traces(tokens.encode(["5A3B7Aa", "{a+}5A2f", "a"]))
    assert variables.read(traces, "reg.a.live").values.tolist() == [
        [0, 0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 1, 0],
        [1, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert variables.read(traces, "reg.a.read_distance").values.tolist()[1] == [0, 0, 0, 0, 0, 0, 2, 1, 0]
    assert not variables.read(traces, "reg.b.live").values.any()
    assert variables.read(traces, "reg.a.read_distance.parity").defined.sum() == 4


# --- views ------------------------------------------------------------------------------------------------------------

VIEWS = {
    "sign": lambda v: (v > 0) - (v < 0),
    "parity": lambda v: v % 2,
    "mod7": lambda v: v % 7,
    "magnitude": abs,
    "digit0": lambda v: int(str(abs(v))[-1]),
    "digit1": lambda v: int(f"{abs(v):02d}"[-2]),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("base", ["stack.0", "reg.a.value", "depth", "stack.0.length"])
def test_views_of_numbers(base: str, view: str) -> None:
    traces = kernel.traces(tokens.encode(["99*1+~A3B-3", "5A07-", "(1,2,3", ""]))
    for offset in (-1, 0, 2):
        plain, view_labels = (variables.read(traces, name, offset=offset) for name in (base, f"{base}.{view}"))
        assert view_labels.name == f"{base}.{view}"
        assert np.array_equal(view_labels.defined, plain.defined)
        expected = [VIEWS[view](int(v)) for v in plain.values[plain.defined]]
        assert view_labels.values[view_labels.defined].tolist() == expected
        assert not view_labels.values[~view_labels.defined].any()


@pytest.mark.parametrize("base", ["all_true", "reg.a.kind", "reg.a.live"])
def test_categories_have_no_views(base: str) -> None:
    with pytest.raises(ValueError, match=f"'{base}.sign' is a view of '{base}', which is a category"):
        variables.read(kernel.traces(tokens.encode(["12"])), f"{base}.sign")


def test_every_name_that_is_listed_can_be_read() -> None:
    traces = kernel.traces(tokens.encode(["12"]), entries=3)
    future = [f"reg.{register}.{field}" for register in vm.REGISTERS for field in ("live", "read_distance")]
    assert sorted(variables.names(traces)) == sorted([*state_labels.NAMES, *future, *variables.NEEDED])
    for name in variables.names(traces):
        assert variables.read(traces, name).name == name


# --- functions as variables -------------------------------------------------------------------------------------------


def test_a_function_is_a_variable() -> None:
    def gap(traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
        first, second = traces.stack[:, :, 0], traces.stack[:, :, 1]
        return first.value - second.value, (first.kind == kernel.INT_KIND) & (second.kind == kernel.INT_KIND)

    traces = kernel.traces(tokens.encode(["27+4"]))
    labels = variables.read(traces, gap)
    assert labels.name == "gap"
    assert labels.defined.tolist() == [[False, False, True, False, True]]
    assert labels.values.tolist() == [[0, 0, 5, 0, -5]]
    assert variables.read(traces, gap, offset=2).values.tolist() == [[5, 0, -5, 0, 0]]


@pytest.mark.parametrize(
    ("values", "defined", "message"),
    [
        (np.zeros((1, 3), int), np.ones((1, 2), bool), r"own gave int64 values (1, 3); expected integers (1, 2)"),
        (np.zeros((1, 2)), np.ones((1, 2), bool), r"own gave float64 values (1, 2); expected integers (1, 2)"),
        (np.zeros((1, 2), int), np.ones((1, 2), int), r"own gave int64 defined (1, 2); expected bool (1, 2)"),
    ],
)
def test_a_function_of_another_shape(values: np.ndarray, defined: np.ndarray, message: str) -> None:
    def own(traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
        return values, defined

    with pytest.raises(ValueError, match=re.escape(message)):
        variables.read(kernel.traces(tokens.encode(["12"])), own)


def test_labels_that_were_not_traced() -> None:
    traces = kernel.traces(tokens.encode(["12"]), entries=2)
    assert variables.read(traces, "stack.1").values.tolist() == [[0, 0, 1]]
    with pytest.raises(ValueError, match=r"'stack\.2\.kind' needs stack entry 2, but 2 were traced; raise entries="):
        variables.read(traces, "stack.2.kind")


def test_labels_of_programs_without_tokens() -> None:
    labels = variables.read(kernel.traces(tokens.encode(["", ""])), "depth")
    assert labels.values.tolist() == [[0], [0]]
    assert labels.defined.tolist() == [[True], [True]]
    assert variables.read(kernel.traces(tokens.encode([])), "reg.a.kind").values.shape == (0, 1)


# --- what would make the program true next ---------------------------------------------------------------------------


@settings(deadline=None, max_examples=examples(25))
@given(st.lists(programs.programs, min_size=1, max_size=3), st.integers(2, 5), st.integers(-1, 1))
def test_what_is_needed_is_what_the_states_say(texts: list[str], entries: int, offset: int) -> None:
    array = tokens.encode(texts)
    width = array.shape[1]
    traces = kernel.traces(array, entries=entries)
    for name in variables.NEEDED:
        labels = variables.read(traces, name, offset=offset)
        for row, text in enumerate(texts):
            states = [vm.State(), *agreement.all_states(text, width)]
            for position in range(width + 1):
                inside = 0 <= position + offset <= width
                expected = state_labels.needed_in(states[position + offset], name, entries) if inside else None
                assert labels.defined[row, position] == (expected is not None)
                assert labels.values[row, position] == (expected or 0)


def _true_after(state: vm.State, text: str) -> bool:
    machine = vm.Machine(text)
    machine.restore(state)
    for position in machine.positions:
        machine.advance(position)
    return vm.all_true(machine.stack)


def test_what_is_needed_makes_the_program_true_and_nothing_else_does() -> None:
    texts = [text for text in programs.stream(5, 150) if len(text) < 60]
    array = tokens.encode(texts)
    traces = kernel.traces(array)
    value, relation = (variables.read(traces, name) for name in ("needed.value", "needed.relation"))
    counts = {"value": 0, "<": 0, "=": 0, ">": 0}
    for row, text in enumerate(texts):
        for at, state in enumerate(vm.run(text).states):
            state = vm.State(state.stack, state.registers)  # with all its fuel
            if value.defined[row, at + 1]:
                v = int(value.values[row, at + 1])
                counts["value"] += 1
                for pushed in (v - 1, v, v + 1):
                    if abs(pushed) <= vm.MAX_INT:
                        assert _true_after(state.with_stack((*state.stack, pushed)), "=") == (pushed == v)
            if relation.defined[row, at + 1]:
                needed = "<=>"[relation.values[row, at + 1] + 1]
                counts[needed] += 1
                assert [token for token in "<=>" if _true_after(state, token)] == [needed]
    assert min(counts.values()) >= 20


def test_what_is_needed_by_hand() -> None:
    """Beneath a false Int nothing helps; a sequence beneath is known to be true only where everything is."""
    traces = kernel.traces(tokens.encode(["527", "075", "3r1+40", "0(75"]))
    value, relation = (variables.read(traces, name) for name in ("needed.value", "needed.relation"))
    assert value.defined.astype(int).tolist() == [
        [0, 1, 1, 1, 1, 1, 1],  # 5, 5 2, 5 2 7
        [0, 1, 0, 0, 0, 0, 0],  # 0 7: the 0 stays
        [0, 1, 0, 0, 0, 1, 0],  # 3, [0 1 2], ..., [1 2 3] 4, [1 2 3] 4 0: not all true, so unknown
        [0, 1, 0, 0, 0, 0, 0],
    ]
    assert value.values[0].tolist() == [0, 5, 2, 7, 7, 7, 7]
    assert value.values[2].tolist() == [0, 3, 0, 0, 0, 4, 0]
    assert relation.defined.astype(int).tolist() == [[0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0, 0], [0] * 7, [0] * 7]
    assert relation.values[:2, :4].tolist() == [[0, 0, 1, -1], [0, 0, -1, 0]]
    deep = kernel.traces(tokens.encode(["1230", "0123"]), entries=2)
    assert variables.read(deep, "needed.value").defined.tolist() == [
        [False, *[True] * 3, False],
        [False, True, *[False] * 3],
    ]


def test_views_of_what_is_needed() -> None:
    traces = kernel.traces(tokens.encode(["27-~5"]))
    plain = variables.read(traces, "needed.value")
    assert plain.values.tolist() == [[0, 2, 7, -5, 5, 5]]
    assert variables.read(traces, "needed.value.sign").values.tolist() == [[0, 1, 1, -1, 1, 1]]
    assert variables.read(traces, "needed.value.mod3").values.tolist() == [[0, 2, 1, 1, 2, 2]]
    assert np.array_equal(variables.read(traces, "needed.value.mod3").defined, plain.defined)
    with pytest.raises(ValueError, match=r"is a view of 'needed\.relation', which is a category"):
        variables.read(traces, "needed.relation.sign")


def test_what_is_needed_must_have_been_traced() -> None:
    array = tokens.encode(["12"])
    names = [set(variables.NEEDED) & set(variables.names(kernel.traces(array, entries=k))) for k in (0, 1, 2)]
    assert names == [set(), {"needed.value"}, {"needed.value", "needed.relation"}]
    with pytest.raises(ValueError, match=re.escape("'needed.value' needs stack entry 0, but 0 were traced; raise")):
        variables.read(kernel.traces(array, entries=0), "needed.value")
    with pytest.raises(ValueError, match=re.escape("'needed.relation' needs stack entry 1, but 1 were traced; raise")):
        variables.read(kernel.traces(array, entries=1), "needed.relation")


def test_an_entry_that_was_not_traced_says_which_were() -> None:
    """So that it helps who cannot trace more, from the command."""
    array = tokens.encode(["34+7=."])
    for entries, upper in ((0, ""), (1, ", or name stack.0"), (4, ", or name one of stack.0 ... stack.3")):
        with pytest.raises(ValueError, match="were traced") as caught:
            variables.read(kernel.traces(array, entries=entries), "stack.500.value")
        assert str(caught.value) == (
            f"'stack.500.value' needs stack entry 500, but {entries} were traced; "
            f"raise entries= of kernel.traces in code of your own{upper}"
        )


@pytest.mark.parametrize("name", ["needed", "needed.kind", "needed.value.value"])
def test_unknown_names_are_told_what_is_needed(name: str) -> None:
    with pytest.raises(ValueError, match=f"^unknown variable '{name}'.*; also needed.value and needed.relation$"):
        variables.read(kernel.traces(tokens.encode(["12"])), name)


# --- variables that look ahead ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "offset", "expected"),
    [
        ("stack.0.value", 0, False),
        ("stack.0", -2, False),
        ("stack.0", 1, True),
        ("depth.parity", 0, False),
        ("needed.value.sign", 0, False),
        ("reg.a.value", 0, False),
        ("reg.a.live", 0, True),
        ("reg.b.live", -1, True),
        ("reg.c.read_distance", 0, True),
        ("reg.d.read_distance.mod3", 0, True),
        ("reg.d.read_distance.magnitude.parity", 0, True),
    ],
)
def test_variables_that_depend_on_the_future(name: str, offset: int, expected: bool) -> None:
    assert variables.depends_on_future(name, offset) is expected
    variables.read(kernel.traces(tokens.encode(["12"])), name, offset=offset)  # it is a variable


# --- the comparison that a million programs go through ---------------------------------------------------------------


@pytest.mark.parametrize("states", [True, False])
def test_labels_that_are_not_of_the_states_are_noticed(states: bool) -> None:
    text, other = "5A34+a", "5A34-7"
    expected = agreement.all_states(text, len(text))
    for labelled, differs in ((text, False), (other, True)):
        traces = kernel.traces(tokens.encode([labelled]), entries=4)
        assert state_labels.state_labels_differ(expected if states else expected[-1:], traces, states) == differs
        assert state_labels.reads_differ([text], traces) == differs
