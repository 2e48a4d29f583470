"""What a label is, by the states of the plain machine: the truth that `cadmus.states.variables` equals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cadmus.machine import kernel, vm
from cadmus.states import variables
from tests import programs

NAMES = [
    "depth",
    "all_true",
    *(f"stack.{k}.{field}" for k in range(3) for field in variables.FIELDS),
    *(f"reg.{r}.{field}" for r in vm.REGISTERS for field in variables.FIELDS),
]
OPERANDS = {"needed.value": 1, "needed.relation": 2}


def values_in(state: vm.State) -> list[int | None]:
    """The variables of `NAMES` in a state of the plain machine; None where one has no value."""
    upper = [*reversed(state.stack[-3:]), None, None, None][:3]
    places = (*upper, *state.registers.values())
    return [len(state.stack), int(vm.all_true(state.stack)), *(label for value in places for label in _fields(value))]


def _fields(value: vm.Value | None) -> tuple[int | None, int, int | None, int | None]:
    """What `variables.FIELDS` are of a value: value, kind, tag, length."""
    kind = kernel.KINDS.index("none" if value is None else programs.kind_of(value))
    if isinstance(value, vm.Int):
        return value.v, kind, value.tag, None
    return None, kind, None, len(value) if isinstance(value, vm.Seq) else None


def needed_in(state: vm.State, name: str, n_entries: int) -> int | None:
    """`needed.value` or `needed.relation`, as far as `n_entries` of the stack and the truth of the whole tell."""
    stack, operands = state.stack, OPERANDS[name]
    ints = len(stack) >= operands and all(isinstance(value, vm.Int) for value in stack[-operands:])
    if not ints or not _known_true(stack, operands, n_entries):
        return None
    if operands == 1:
        return stack[-1].v
    return (stack[-2].v > stack[-1].v) - (stack[-2].v < stack[-1].v)


def _known_true(stack: tuple[vm.Value, ...], operands: int, n_entries: int) -> bool:
    beneath = stack[: len(stack) - operands]
    if vm.all_true(stack):
        return True
    return len(stack) <= n_entries and all(isinstance(value, vm.Int) and value.v != 0 for value in beneath)


def next_reads(text: str, width: int, semantics: vm.Semantics | None = None) -> list[dict[str, int]]:
    """Before each token and after the last, in how many tokens the plain machine next reads each register that it does
    not overwrite first."""
    tokens_at: list[list[str]] = [[] for _ in range(width)]
    meaning = {} if semantics is None else semantics.meanings
    machine = vm.Machine(text, semantics, lambda token, *rest: tokens_at[at].append(meaning.get(token, token)))
    for at in machine.positions:
        machine.advance(at)
    upcoming: dict[str, int] = {}  # the token at which each register is read, of those that are not overwritten first
    states = [upcoming]
    for position in reversed(range(width)):
        first: dict[str, str] = {}
        for token in tokens_at[position]:
            first.setdefault(token.lower(), token)
        touched = {r: first[r] for r in vm.REGISTERS if r in first}
        upcoming = {r: at for r, at in upcoming.items() if r not in touched}
        upcoming |= {r: position for r, token in touched.items() if token == r}
        states.append(upcoming)
    states.reverse()
    return [{r: at - state + 1 for r, at in reads.items()} for state, reads in enumerate(states)]


def state_labels_differ(expected: list[vm.State], traces: kernel.Traces, states: bool) -> bool:
    """Whether a label of `traces` differs from what `expected` says: the states of every program, one after the other,
    after each token or (without `states`) after the last alone."""
    n_entries = traces.stack.kind.shape[2]
    distinct = {id(state): state for state in expected}  # padding repeats the last state of a program
    row_of = {key: row for row, key in enumerate(distinct)}
    rows = [row_of[id(state)] for state in expected]
    deepest = [f"stack.{k}." for k in range(n_entries, 3)]
    columns = zip(NAMES, zip(*map(values_in, distinct.values()), strict=True), strict=True)
    truths = {name: column for name, column in columns if name[:8] not in deepest}
    for name, operands in OPERANDS.items():
        if operands <= n_entries:
            truths[name] = tuple(needed_in(state, name, n_entries) for state in distinct.values())
    return any(_differs(traces, name, truth, rows, 1 if states else -1) for name, truth in truths.items())


def reads_differ(texts: Sequence[str], traces: kernel.Traces, semantics: vm.Semantics | None = None) -> bool:
    """Whether `live` or `read_distance` of a register differs from what the plain machine reads of these programs."""
    reads = [state for text in texts for state in next_reads(text, traces.depth.shape[1], semantics)]
    rows = list(range(len(reads)))
    for register in vm.REGISTERS:
        distances = [state.get(register) for state in reads]
        live = [int(distance is not None) for distance in distances]
        for field, truth in (("read_distance", distances), ("live", live)):
            if _differs(traces, f"reg.{register}.{field}", truth, rows, 0):
                return True
    return False


def _differs(
    traces: kernel.Traces, name: str, truth: Sequence[int | None], rows: list[int], from_position: int
) -> bool:
    """Whether a variable of `traces` differs from `truth[row]` of the rows, one for each state."""
    labels = variables.read(traces, name)
    values = np.array([0 if value is None else value for value in truth], np.int64)[rows]
    defined = np.array([value is not None for value in truth], np.bool_)[rows]
    return not (
        np.array_equal(labels.values[:, from_position:].ravel(), values)
        and np.array_equal(labels.defined[:, from_position:].ravel(), defined)
    )
