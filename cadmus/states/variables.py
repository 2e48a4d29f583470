"""Named state variables per token, out of kernel traces: what a probe is asked to read.

Names: `depth`, `all_true`, `stack.K.value|kind|tag|length` (K counts from the top), `reg.R.value|kind|tag|length`;
`stack.0` and `reg.a` are short for their `.value`. `reg.R.live` says whether the register will be read before it is
overwritten, calls included, and `reg.R.read_distance`, where it is live, in how many tokens: neither is decided by the
prefix. A number has views, which are variables too: `stack.0.sign`, `reg.a.parity`, `depth.mod3`, `stack.1.magnitude`,
`reg.b.digit0` (the last decimal digit). Labels lie at the model's positions: position 0 (the marker) holds the state
before the program, position i + 1 the state after token i.

What would make the program true next: `needed.value`, the Int that `=` would have to meet, which is the top's value;
`needed.relation`, the comparison that would leave only true values: -1 for `<`, 0 for `=`, 1 for `>`. They are defined
where the top entry (the two top entries) are Ints and everything beneath is true. That is known of traced Ints; of a
Seq, or of what lies deeper than was traced, only where `all_true` holds, and elsewhere the variable is not defined.

Which labels the tokens so far decide: `depends_on_future` tells which variables look ahead, `hindsight.undetermined`
after which tokens the state itself is not decided, because a call stands before its definition.

A variable of one's own is a function of the traces: `def sums(traces): ... return values, defined`, both [n, length],
one column per token; `read(traces, sums)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cadmus.machine import kernel, vm

FIELDS = ("value", "kind", "tag", "length")
FUTURE_FIELDS = ("live", "read_distance")  # of registers; they depend on tokens to come
NEEDED = {"needed.value": 1, "needed.relation": 2}  # how many Ints on top of the stack each is about
MAX_ABS_VALUE = 99  # numbers are probed on |v| <= 99: heavy tails make squared errors meaningless
VIEWS = ("sign", "parity", "modN", "magnitude", "digitK")
_VIEW = re.compile(r"(.+)\.(sign|parity|magnitude|mod([1-9]\d*)|digit(\d))")

Variable = Callable[[kernel.Traces], tuple[np.ndarray, np.ndarray]]  # (values, where defined), both [n, length]


@dataclass(frozen=True)
class Labels:
    """One variable at every position of every program."""

    name: str
    """The variable."""
    values: np.ndarray
    """int64 [n, 1 + length]; 0 where the variable is not defined."""
    defined: np.ndarray
    """bool [n, 1 + length]: where the variable has a value at all. The `value` and `tag` of what is not an Int have
    none, nor has an offset that leaves the positions."""

    def __repr__(self) -> str:
        n, positions = self.values.shape
        return f"Labels({self.name!r}, {n:,} programs of {positions} positions, {self.defined.mean():.0%} defined)"


def names(traces: kernel.Traces) -> list[str]:
    """The name of every variable that `read` takes on these traces, views left out."""
    n_entries = traces.stack.kind.shape[2]
    places = [f"stack.{k}" for k in range(n_entries)] + [f"reg.{register}" for register in vm.REGISTERS]
    present = [f"{place}.{field}" for place in places for field in FIELDS]
    future = [f"reg.{register}.{field}" for register in vm.REGISTERS for field in FUTURE_FIELDS]
    needed = [name for name, operands in NEEDED.items() if operands <= n_entries]
    return ["depth", "all_true", *present, *future, *needed]


def depends_on_future(name: str, offset: int = 0) -> bool:
    """Whether the variable at that offset depends by definition on tokens to come: a state ahead (`offset` > 0), a
    register's `live` and `read_distance`, and views of these. For present states see `hindsight.undetermined`."""
    while view := _VIEW.fullmatch(name):
        name = view[1]
    return offset > 0 or name.rpartition(".")[2] in FUTURE_FIELDS


def read(traces: kernel.Traces, variable: str | Variable, *, offset: int = 0) -> Labels:
    """The variable at every position, of the state `offset` tokens ahead (negative: back).

    A function's variable has no value at position 0, before the program; its labels carry the function's name. Raises
    ValueError for an unknown name, listing what there is, for a stack entry that was not traced, for a view of what is
    not a number, and for a function whose arrays are not [n, length].
    """
    if callable(variable):
        name = _name(variable)
        states = _states_of_function(traces, variable)
    else:
        name = variable
        states = _states(traces, variable)
    n, length = states.values.shape
    values = np.empty((n, length + 1), np.int64)
    values[:, 0] = states.initial
    values[:, 1:] = np.where(states.defined, states.values, 0)
    defined = np.empty((n, length + 1), np.bool_)
    defined[:, 0] = states.initially_defined
    defined[:, 1:] = states.defined
    positions = np.arange(length + 1) + offset
    inside = (positions >= 0) & (positions <= length)
    index = positions.clip(0, length)
    defined = defined[:, index] & inside
    return Labels(name, np.where(defined, values[:, index], 0), defined)


class _States(NamedTuple):
    """A variable after each token, and before the program."""

    values: np.ndarray
    """Integers [n, length]."""
    defined: np.ndarray
    """bool [n, length]."""
    initial: int | np.ndarray
    """The value before the first token, one for all programs or [n]."""
    initially_defined: bool | np.ndarray


def _name(variable: Variable) -> str:
    return getattr(variable, "__name__", type(variable).__name__)


def _states_of_function(traces: kernel.Traces, variable: Variable) -> _States:
    shape = traces.depth.shape
    values, defined = map(np.asarray, variable(traces))
    if values.shape != shape or values.dtype.kind not in "iub":
        raise ValueError(f"{_name(variable)} gave {values.dtype} values {values.shape}; expected integers {shape}")
    if defined.shape != shape or defined.dtype != np.bool_:
        raise ValueError(f"{_name(variable)} gave {defined.dtype} defined {defined.shape}; expected bool {shape}")
    return _States(values, defined, 0, False)


def _states(traces: kernel.Traces, name: str) -> _States:
    """The states of a variable by its name; ValueError for an unknown one."""
    view = _VIEW.fullmatch(name)
    if view:
        base = view[1]
        if base in ("all_true", "needed.relation") or base.endswith((".kind", ".live")):
            raise ValueError(f"{name!r} is a view of {base!r}, which is a category; views are of numbers")
        number = _states(traces, base)
        return number._replace(
            values=_apply_view(view, number.values.astype(np.int64)),
            initial=_apply_view(view, np.asarray(number.initial)),
        )
    everywhere = np.ones(traces.depth.shape, np.bool_)
    if name == "depth":
        return _States(traces.depth, everywhere, 0, True)
    if name == "all_true":
        return _States(traces.all_true, everywhere, 0, True)
    if name in NEEDED:
        return _needed(traces, name)
    parts = name.split(".")
    parts = parts if len(parts) == 3 else [*parts, "value"]
    match parts:
        case ["reg", register, field] if register in tuple(vm.REGISTERS) and field in FUTURE_FIELDS:
            return _future(traces.first_access, vm.REGISTERS.index(register), field)
        case ["reg", register, field] if register in tuple(vm.REGISTERS) and field in FIELDS:
            return _field(traces.registers[:, :, vm.REGISTERS.index(register)], field, kernel.NAN_KIND)
        case ["stack", entry, field] if entry.isdecimal() and field in FIELDS:
            _require_entry(traces, name, int(entry))
            return _field(traces.stack[:, :, int(entry)], field, kernel.NONE_KIND)
    raise ValueError(
        f"unknown variable {name!r}; there are depth, all_true, stack.K.FIELD and reg.R.FIELD "
        f"with K = 0 (the top), 1, ..., R one of {', '.join(vm.REGISTERS)} and FIELD one of {', '.join(FIELDS)} "
        f"(of a register also {', '.join(FUTURE_FIELDS)}); of a number also NAME.VIEW with VIEW one of "
        f"{', '.join(VIEWS)}; also {' and '.join(NEEDED)}"
    )


def _require_entry(traces: kernel.Traces, name: str, entry: int) -> None:
    n_entries = traces.stack.kind.shape[2]
    if entry >= n_entries:
        upper = "stack.0" if n_entries == 1 else f"one of stack.0 ... stack.{n_entries - 1}"
        raise ValueError(
            f"{name!r} needs stack entry {entry}, but {n_entries} were traced; "
            "raise entries= of kernel.traces in code of your own" + (f", or name {upper}" if n_entries else "")
        )


def _apply_view(view: re.Match[str], values: np.ndarray) -> np.ndarray:
    _, kind, modulus, digit = view.groups()
    if kind == "sign":
        return np.sign(values)
    if kind == "magnitude":
        return abs(values)
    if digit:
        return abs(values) // 10 ** int(digit) % 10
    return values % int(modulus or 2)


def _needed(traces: kernel.Traces, name: str) -> _States:
    operands = NEEDED[name]
    _require_entry(traces, name, operands - 1)
    kind, value = traces.stack.kind, traces.stack.value  # [n, length, entries]
    n_entries = kind.shape[2]
    beneath = (kind[:, :, operands:] == kernel.INT_KIND) & (value[:, :, operands:] != 0)
    beneath |= kind[:, :, operands:] == kernel.NONE_KIND
    true = traces.all_true | (beneath.all(2) & (traces.depth <= n_entries))
    defined = true & (kind[:, :, :operands] == kernel.INT_KIND).all(2)
    if operands == 1:
        return _States(value[:, :, 0], defined, 0, False)
    return _States(np.sign(value[:, :, 1].astype(np.int64) - value[:, :, 0]), defined, 0, False)


def _future(first_access: np.ndarray, register: int, field: str) -> _States:
    """A register's `live` or `read_distance`."""
    distance = _read_distance(first_access, register)
    live = distance > 0
    if field == "live":
        everywhere = np.ones_like(live)
        return _States(live[:, 1:], everywhere[:, 1:], live[:, 0], everywhere[:, 0])
    return _States(distance[:, 1:], live[:, 1:], distance[:, 0], live[:, 0])


def _read_distance(first_access: np.ndarray, register: int) -> np.ndarray:
    """Tokens from each state, the one before the program first, to the next read of the register.

    int64 [n, 1 + length]; 0 where it is overwritten before that or never read again.
    """
    n, length = first_access.shape
    event = first_access >> 2 * register & 3
    distance = np.zeros((n, length + 1), np.int64)
    for at in reversed(range(length)):
        later = np.where(distance[:, at + 1] > 0, distance[:, at + 1] + 1, 0)
        distance[:, at] = np.select(
            [event[:, at] == kernel.READ_FIRST, event[:, at] == kernel.WRITTEN_FIRST], [1, 0], later
        )
    return distance


def _field(values: kernel.Values, field: str, initial_kind: int) -> _States:
    """A field of values [n, length] whose kind before the program is `initial_kind`."""
    if field == "kind":
        return _States(values.kind, np.ones(values.kind.shape, np.bool_), initial_kind, True)
    if field == "length":
        return _States(values.length, values.kind == kernel.SEQ_KIND, 0, False)
    return _States(getattr(values, field), values.kind == kernel.INT_KIND, 0, False)
