"""Named state variables per token, out of kernel traces: what a probe is asked to read.

Names: `depth`, `all_true`, `stack.K.value|kind|tag|length` (K counts from the top), `reg.R.value|kind|tag|length`;
`stack.0` and `reg.a` are short for their `.value`. Labels lie at the model's positions: position 0 (the marker) holds
the state before the program, position i + 1 the state after token i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cadmus import kernel, vm

FIELDS = ("value", "kind", "tag", "length")


@dataclass(frozen=True)
class Labels:
    """One variable at every position of every program.

    values int64 [n, positions]; defined bool [n, positions]: where the variable has a value at all (the `value` and
    `tag` of something that is no Int, or an offset that leaves the program, have none; there `values` is 0).
    """

    name: str
    values: np.ndarray
    defined: np.ndarray


def read(traces: kernel.Traces, name: str, *, offset: int = 0) -> Labels:
    """The variable `name` at every position, of the state `offset` tokens ahead (negative: back).

    Raises ValueError for an unknown name, listing what there is, and for a stack entry that was not traced.
    """
    values, defined, initial, initially_defined = _states(traces, name)
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


def _states(traces: kernel.Traces, name: str) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """(values after each token, where defined, the value before the first token, whether that is defined)."""
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
        f"with K = 0 (the top), 1, ..., R one of {', '.join(vm.REGISTERS)} and FIELD one of {', '.join(FIELDS)}"
    )


def _field(values: kernel.Values, field: str, initial_kind: int) -> tuple[np.ndarray, np.ndarray, int, bool]:
    if field == "kind":
        return values.kind, np.ones(values.kind.shape, np.bool_), initial_kind, True
    if field == "length":
        return values.length, values.kind == kernel.SEQ_KIND, 0, False
    return getattr(values, field), values.kind == kernel.INT_KIND, 0, False
