"""Named state variables per token, out of kernel traces: what a probe is asked to read.

Names: `depth`, `all_true`, `stack.K.value|kind|tag|length` (K counts from the top), `reg.R.value|kind|tag|length`;
`stack.0` and `reg.a` are short for their `.value`. A number has views, which are variables too: `stack.0.sign`,
`reg.a.parity`, `depth.mod3`, `stack.1.magnitude`, `reg.b.digit0` (the last decimal digit). Labels lie at the model's
positions: position 0 (the marker) holds the state before the program, position i + 1 the state after token i.

A variable of one's own is a function of the traces: `def sums(traces): ... return values, defined`, both [n, length],
one column per token; `read(traces, sums)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cadmus import kernel, vm

FIELDS = ("value", "kind", "tag", "length")
VIEWS = ("sign", "parity", "modN", "magnitude", "digitK")
_VIEW = re.compile(r"(.+)\.(sign|parity|magnitude|mod([1-9]\d*)|digit(\d))")

Variable = Callable[[kernel.Traces], tuple[np.ndarray, np.ndarray]]  # (values, where defined), both [n, length]


@dataclass(frozen=True)
class Labels:
    """One variable at every position of every program.

    values int64 [n, positions]; defined bool [n, positions]: where the variable has a value at all (the `value` and
    `tag` of something that is no Int, or an offset that leaves the program, have none; there `values` is 0).
    """

    name: str
    values: np.ndarray
    defined: np.ndarray


def variables(traces: kernel.Traces) -> list[str]:
    """Every name that `read` takes on these traces, views left out."""
    entries = [f"stack.{k}" for k in range(traces.stack.kind.shape[2])] + [f"reg.{r}" for r in vm.REGISTERS]
    return ["depth", "all_true", *(f"{entry}.{field}" for entry in entries for field in FIELDS)]


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
    full = np.full((n, length + 1), initial, np.int64)
    full[:, 1:] = np.where(defined, values, 0)
    mask = np.full((n, length + 1), initially_defined)
    mask[:, 1:] = defined
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


def _states(traces: kernel.Traces, name: str) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """(values after each token, where defined, the value before the first token, whether that is defined)."""
    viewed = _VIEW.fullmatch(name)
    if viewed:
        base = viewed[1]
        if base == "all_true" or base.endswith(".kind"):
            raise ValueError(f"{name!r} is a view of {base!r}, which is a category; views are of numbers")
        values, defined, initial, initially_defined = _states(traces, base)
        return _view(viewed, values.astype(np.int64)), defined, int(_view(viewed, np.int64(initial))), initially_defined
    everywhere = np.ones(traces.depth.shape, np.bool_)
    if name == "depth":
        return traces.depth, everywhere, 0, True
    if name == "all_true":
        return traces.all_true, everywhere, 0, True
    parts = name.split(".")
    parts = parts if len(parts) == 3 else [*parts, "value"]
    if len(parts) == 3 and parts[2] in FIELDS:
        if parts[0] == "reg" and parts[1] in tuple(vm.REGISTERS):
            return _field(traces.registers[:, :, vm.REGISTERS.index(parts[1])], parts[2], kernel.NAN_KIND)
        if parts[0] == "stack" and parts[1].isdecimal():
            traced = traces.stack.kind.shape[2]
            if int(parts[1]) >= traced:
                raise ValueError(f"{name!r} needs stack entry {parts[1]}, but {traced} were traced; raise entries=")
            return _field(traces.stack[:, :, int(parts[1])], parts[2], kernel.NONE_KIND)
    raise ValueError(
        f"unknown variable {name!r}; there are depth, all_true, stack.K.FIELD and reg.R.FIELD "
        f"with K = 0 (the top), 1, ..., R one of {', '.join(vm.REGISTERS)} and FIELD one of {', '.join(FIELDS)}; "
        f"of a number also NAME.VIEW with VIEW one of {', '.join(VIEWS)}"
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


def _field(values: kernel.Values, field: str, initial_kind: int) -> tuple[np.ndarray, np.ndarray, int, bool]:
    if field == "kind":
        return values.kind, np.ones(values.kind.shape, np.bool_), initial_kind, True
    if field == "length":
        return values.length, values.kind == kernel.SEQ_KIND, 0, False
    return getattr(values, field), values.kind == kernel.INT_KIND, 0, False
