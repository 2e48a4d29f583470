"""Labels against the plain machine: what the program needs next, and which labels the tokens so far decide."""

from __future__ import annotations

import re
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmus.machine import kernel, tokens, vm
from cadmus.states import hindsight, variables
from tests import agreement, programs

# --- what would make the program true next ---------------------------------------------------------------------------


def _known_true(stack: tuple[vm.Value, ...], operands: int, traced: int) -> bool:
    """Whether all beneath the top `operands` is true, as far as `traced` entries and the truth of the whole tell."""
    beneath = stack[: len(stack) - operands]
    if vm.all_true(stack):
        return True
    return len(stack) <= traced and all(isinstance(value, vm.Int) and value.v != 0 for value in beneath)


def _needed(stack: tuple[vm.Value, ...], name: str, traced: int) -> int | None:
    operands = {"needed.value": 1, "needed.relation": 2}[name]
    ints = len(stack) >= operands and all(isinstance(value, vm.Int) for value in stack[-operands:])
    if not ints or not _known_true(stack, operands, traced):
        return None
    if operands == 1:
        return stack[-1].v
    return (stack[-2].v > stack[-1].v) - (stack[-2].v < stack[-1].v)


@settings(deadline=None, max_examples=25)
@given(st.lists(programs.programs, min_size=1, max_size=3), st.integers(2, 5), st.integers(-1, 1))
def test_what_is_needed_is_what_the_states_say(texts: list[str], entries: int, offset: int) -> None:
    array = tokens.encode(texts)
    width = array.shape[1]
    traces = kernel.traces(array, entries=entries)
    for name in variables.NEEDED:
        read = variables.read(traces, name, offset=offset)
        for row, text in enumerate(texts):
            states = [vm.State(), *agreement.all_states(text, width)]
            for position in range(width + 1):
                inside = 0 <= position + offset <= width
                expected = _needed(states[position + offset].stack, name, entries) if inside else None
                assert read.defined[row, position] == (expected is not None)
                assert read.values[row, position] == (expected or 0)


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
    found = {"value": 0, "<": 0, "=": 0, ">": 0}
    for row, text in enumerate(texts):
        for at, state in enumerate(vm.run(text).states):
            state = vm.State(state.stack, state.registers)  # with all its fuel
            if value.defined[row, at + 1]:
                v = int(value.values[row, at + 1])
                found["value"] += 1
                for pushed in (v - 1, v, v + 1):
                    if abs(pushed) <= vm.MAX_INT:
                        assert _true_after(state.with_stack((*state.stack, pushed)), "=") == (pushed == v)
            if relation.defined[row, at + 1]:
                needed = "<=>"[relation.values[row, at + 1] + 1]
                found[needed] += 1
                assert [token for token in "<=>" if _true_after(state, token)] == [needed]
    assert min(found.values()) >= 20


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
    listed = [set(variables.NEEDED) & set(variables.variables(kernel.traces(array, entries=k))) for k in (0, 1, 2)]
    assert listed == [set(), {"needed.value"}, {"needed.value", "needed.relation"}]
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


# --- what the tokens so far decide -----------------------------------------------------------------------------------


def _callees(text: str) -> set[str]:
    return {"f" if token in "MW" else token.lower() for token in text if token in "fghFGHMW"}


def _waits(prefix: str) -> bool:
    """Whether the main text of a prefix calls what the prefix has not defined: read afresh for every prefix."""
    if vm.END in prefix:
        return False
    main = re.sub(r"\{[^}]*(\}|$)", "", prefix)
    bodies = dict(zip("fgh", re.findall(r"\{([^}]*)\}", prefix), strict=False))
    reached: set[str] = set()
    waiting = _callees(main)
    while waiting:
        slot = waiting.pop()
        reached.add(slot)
        waiting |= _callees(bodies.get(slot, "")) - reached
    return not reached <= set(bodies)


def _calling(r: Random, length: int) -> str:
    """Text that mostly calls and defines."""
    return "".join(r.choice("fghFGHMW{{{}}}1235+-:;Aa(,r.=" if r.random() < 0.9 else vm.VOCAB) for _ in range(length))


def _texts(seed: int, n: int) -> list[str]:
    r = Random(seed)
    return [_calling(r, r.randrange(1, 22)) for _ in range(n)]


def test_hindsight_is_what_each_prefix_says() -> None:
    texts = [*_texts(1, 600), *(text for text in programs.stream(9, 300) if len(text) < 80)]
    array = tokens.encode(texts, 80)
    found = hindsight.undetermined(array)
    assert found.shape == (len(texts), 81)
    assert found.dtype == np.bool_
    expected = [[_waits(text[:length]) for length in range(len(text) + 1)] for text in texts]
    for row, waits in enumerate(expected):
        assert found[row, : len(waits)].tolist() == waits, texts[row]
        assert not found[row, len(waits) + 1 :].any()  # behind the closing `.`
    share = np.concatenate(expected).mean()
    assert 0.1 < share < 0.9


def test_without_hindsight_no_later_token_matters() -> None:
    r = Random(2)
    texts = [text for text in _texts(3, 400) if len(text) > 1]
    found = hindsight.undetermined(tokens.encode(texts))
    compared = changed = 0
    for row, text in enumerate(texts):
        at = r.randrange(len(text))
        before = vm.run(text).states[at]
        for _ in range(3):
            other = vm.run(text[: at + 1] + _calling(r, r.randrange(16))).states[at]
            if found[row, at + 1]:
                changed += other != before
            else:
                compared += 1
                assert other == before, (text, at)
    assert compared > 200
    assert changed > 20


@pytest.mark.parametrize(
    ("prefix", "first", "second"),
    [
        ("3f", "{1+}", "{2+}"),
        ("3f", "", "{2+}"),  # never defined, so far
        ("3f{1+", "4}", "}"),  # not closed
        ("{g}3f", "{1+}", "{}"),  # through a body
        ("{h}{}3f", "{1+}", "{}"),
        ("{g}13F", "{:}", "{5+}"),
        ("3rM", "{1+}", "{2+}"),
        ("{g}3rW", "{1+}", "{0}"),
    ],
)
def test_with_hindsight_a_later_definition_matters(prefix: str, first: str, second: str) -> None:
    at = len(prefix) - 1
    assert hindsight.undetermined(tokens.encode([prefix]))[0, -1]
    assert vm.run(prefix + first).states[at] != vm.run(prefix + second).states[at]


def test_hindsight_by_hand() -> None:
    """Position 0 is the marker; a call inside a definition that nothing calls waits for nothing."""

    def found(text: str) -> str:
        return "".join(str(int(waits)) for waits in hindsight.undetermined(tokens.encode([text]))[0])

    assert found("3f{1+}=.") == "001111000"
    assert found("{1+}3f=.") == "000000000"
    assert found("{g}3f{2}1.") == "00000111000"
    assert found("{g}31+.") == "00000000"
    assert found("3f..") == "00100"
    assert found("1{}{}{}{}3g") == "0" * 12
    assert found("") == "0"
    assert hindsight.undetermined(np.zeros((0, 3), np.uint8)).shape == (0, 4)
    with pytest.raises(ValueError, match="programs must be a uint8 array"):
        hindsight.undetermined(np.zeros((2, 3)))


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
def test_prospects(name: str, offset: int, expected: bool) -> None:
    assert variables.depends_on_future(name, offset) is expected
    variables.read(kernel.traces(tokens.encode(["12"])), name, offset=offset)  # it is a variable
