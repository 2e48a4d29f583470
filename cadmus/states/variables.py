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

Which labels the tokens so far decide: `depends_on_future` tells the variables that look ahead, `hindsight` the tokens
after which the state itself does, because a call stands before its definition.

A variable of one's own is a function of the traces: `def sums(traces): ... return values, defined`, both [n, length],
one column per token; `read(traces, sums)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

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
    """One variable at every position of every program.

    values int64 [n, positions]; defined bool [n, positions]: where the variable has a value at all (the `value` and
    `tag` of something that is no Int, or an offset that leaves the positions, have none; there `values` is 0).
    """

    name: str
    values: np.ndarray
    defined: np.ndarray


def variables(traces: kernel.Traces) -> list[str]:
    """Every name that `read` takes on these traces, views left out."""
    entries = [f"stack.{k}" for k in range(traces.stack.kind.shape[2])] + [f"reg.{r}" for r in vm.REGISTERS]
    prospects = [f"reg.{r}.{prospect}" for r in vm.REGISTERS for prospect in FUTURE_FIELDS]
    needed = [name for name, operands in NEEDED.items() if operands <= traces.stack.kind.shape[2]]
    return ["depth", "all_true", *(f"{entry}.{field}" for entry in entries for field in FIELDS), *prospects, *needed]


def depends_on_future(name: str, offset: int = 0) -> bool:
    """Whether the variable at that offset depends by definition on tokens to come: a state ahead (`offset` > 0), a
    register's `live` and `read_distance`, and views of these. For present states see `hindsight`."""
    while viewed := _VIEW.fullmatch(name):
        name = viewed[1]
    return offset > 0 or name.rpartition(".")[2] in FUTURE_FIELDS


def read(traces: kernel.Traces, variable: str | Variable, *, offset: int = 0) -> Labels:
    """The variable at every position, of the state `offset` tokens ahead (negative: back).

    A function's variable has no value at position 0, before the program; its labels carry the function's name. Raises
    ValueError for an unknown name, listing what there is, for a stack entry that was not traced, for a view of what is
    no number, and for a function whose arrays are not [n, length].
    """
    if callable(variable):
        name, (values, defined), initial, initially_defined = _name(variable), _called(variable, traces), 0, False
    else:
        name, (values, defined, initial, initially_defined) = variable, _states(traces, variable)
    n, length = values.shape
    positions = np.arange(length + 1) + offset
    full, mask = np.empty((n, length + 1), np.int64), np.empty((n, length + 1), np.bool_)
    full[:, 0], full[:, 1:] = initial, np.where(defined, values, 0)
    mask[:, 0], mask[:, 1:] = initially_defined, defined
    inside = (positions >= 0) & (positions <= length)
    index = positions.clip(0, length)
    mask = mask[:, index] & inside
    return Labels(name, np.where(mask, full[:, index], 0), mask)


def _name(variable: Variable) -> str:
    return getattr(variable, "__name__", type(variable).__name__)


def _called(variable: Variable, traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
    shape = traces.depth.shape
    values, defined = map(np.asarray, variable(traces))
    if values.shape != shape or values.dtype.kind not in "iub":
        raise ValueError(f"{_name(variable)} gave {values.dtype} values {values.shape}; expected integers {shape}")
    if defined.shape != shape or defined.dtype != np.bool_:
        raise ValueError(f"{_name(variable)} gave {defined.dtype} defined {defined.shape}; expected bool {shape}")
    return values, defined


_Found = tuple[np.ndarray, np.ndarray, int | np.ndarray, bool | np.ndarray]


def _states(traces: kernel.Traces, name: str) -> _Found:
    """(values after each token, where defined, the value before the first token, whether that is defined)."""
    viewed = _VIEW.fullmatch(name)
    if viewed:
        base = viewed[1]
        if base in ("all_true", "needed.relation") or base.endswith((".kind", ".live")):
            raise ValueError(f"{name!r} is a view of {base!r}, which is a category; views are of numbers")
        values, defined, initial, initially_defined = _states(traces, base)
        return _view(viewed, values.astype(np.int64)), defined, _view(viewed, np.asarray(initial)), initially_defined
    everywhere = np.ones(traces.depth.shape, np.bool_)
    if name == "depth":
        return traces.depth, everywhere, 0, True
    if name == "all_true":
        return traces.all_true, everywhere, 0, True
    if name in NEEDED:
        return _needed(traces, name)
    parts = name.split(".")
    parts = parts if len(parts) == 3 else [*parts, "value"]
    if len(parts) == 3 and parts[0] == "reg" and parts[1] in tuple(vm.REGISTERS) and parts[2] in FUTURE_FIELDS:
        distance = _read_distance(traces.touched, vm.REGISTERS.index(parts[1]))
        live = distance > 0
        values, defined = (live, np.ones_like(live)) if parts[2] == "live" else (distance, live)
        return values[:, 1:], defined[:, 1:], values[:, 0], defined[:, 0]
    if len(parts) == 3 and parts[2] in FIELDS:
        if parts[0] == "reg" and parts[1] in tuple(vm.REGISTERS):
            return _field(traces.registers[:, :, vm.REGISTERS.index(parts[1])], parts[2], kernel.NAN_KIND)
        if parts[0] == "stack" and parts[1].isdecimal():
            _require_entry(traces, name, int(parts[1]))
            return _field(traces.stack[:, :, int(parts[1])], parts[2], kernel.NONE_KIND)
    raise ValueError(
        f"unknown variable {name!r}; there are depth, all_true, stack.K.FIELD and reg.R.FIELD "
        f"with K = 0 (the top), 1, ..., R one of {', '.join(vm.REGISTERS)} and FIELD one of {', '.join(FIELDS)} "
        f"(of a register also {', '.join(FUTURE_FIELDS)}); of a number also NAME.VIEW with VIEW one of "
        f"{', '.join(VIEWS)}; also {' and '.join(NEEDED)}"
    )


def _require_entry(traces: kernel.Traces, name: str, entry: int) -> None:
    traced = traces.stack.kind.shape[2]
    if entry >= traced:
        upper = "stack.0" if traced == 1 else f"one of stack.0 ... stack.{traced - 1}"
        raise ValueError(
            f"{name!r} needs stack entry {entry}, but {traced} were traced; "
            "raise entries= of kernel.traces in code of your own" + (f", or name {upper}" if traced else "")
        )


def _view(viewed: re.Match, values: np.ndarray) -> np.ndarray:
    _, view, modulus, digit = viewed.groups()
    if view == "sign":
        return np.sign(values)
    if view == "magnitude":
        return abs(values)
    if digit:
        return abs(values) // 10 ** int(digit) % 10
    return values % int(modulus or 2)


def _needed(traces: kernel.Traces, name: str) -> _Found:
    operands = NEEDED[name]
    _require_entry(traces, name, operands - 1)
    traced = traces.stack.kind.shape[2]
    kind, value = traces.stack.kind, traces.stack.value
    beneath = (kind[:, :, operands:] == kernel.INT_KIND) & (value[:, :, operands:] != 0)
    beneath |= kind[:, :, operands:] == kernel.NONE_KIND
    true = traces.all_true | (beneath.all(2) & (traces.depth <= traced))
    defined = true & (kind[:, :, :operands] == kernel.INT_KIND).all(2)
    if operands == 1:
        return value[:, :, 0], defined, 0, False
    return np.sign(value[:, :, 1].astype(np.int64) - value[:, :, 0]), defined, 0, False


def _read_distance(touched: np.ndarray, register: int) -> np.ndarray:
    """Tokens from each state, the one before the program first, to the next read of the register: int64 [n, length +
    1]; 0 where it is overwritten before that or never touched again."""
    n, length = touched.shape
    event = touched >> 2 * register & 3
    distance = np.zeros((n, length + 1), np.int64)
    for at in reversed(range(length)):
        later = np.where(distance[:, at + 1] > 0, distance[:, at + 1] + 1, 0)
        distance[:, at] = np.select(
            [event[:, at] == kernel.READ_FIRST, event[:, at] == kernel.WRITTEN_FIRST], [1, 0], later
        )
    return distance


def _field(values: kernel.Values, field: str, initial_kind: int) -> _Found:
    if field == "kind":
        return values.kind, np.ones(values.kind.shape, np.bool_), initial_kind, True
    if field == "length":
        return values.length, values.kind == kernel.SEQ_KIND, 0, False
    return getattr(values, field), values.kind == kernel.INT_KIND, 0, False


# --- states that later tokens decide ---------------------------------------------------------------------------------
