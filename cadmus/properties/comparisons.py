"""What a corpus compares: the least and the greatest number that any `<`, `>` or `=` of its programs is executed on.

Exact, over all programs and all that they execute: in the main text and in bodies, once for each call, and each element
of a sequence. A comparison that no call reaches does not count; one beside a NAN does, by its other operand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cadmus.machine import kernel, vm
from cadmus.states.provenance import EDGE_KINDS, provenance

_RELATIONS = [vm.VOCAB.index(token) for token in "<>="]
_AT_ONCE = 20_000  # programs


@dataclass(frozen=True)
class Compared:
    """The numbers that comparisons were executed on."""

    least: float
    """The least of them; NaN where nothing was compared."""

    greatest: float
    """The greatest."""

    n: int
    """How many operands, each as often as it was compared."""


def compared(programs: np.ndarray | Iterable[np.ndarray]) -> Compared:
    """The operands of all comparisons of programs uint8 [n, width], or of several such arrays, such as a corpus's
    shards. Raises ValueError for another array and for an unknown id."""
    arrays = [programs] if isinstance(programs, np.ndarray) else programs
    least, greatest, n = np.inf, -np.inf, 0
    for array in arrays:
        for start in range(0, len(array), _AT_ONCE):
            operands = _operands(np.asarray(array[start : start + _AT_ONCE]))
            least, greatest = min(least, operands.min(initial=np.inf)), max(greatest, operands.max(initial=-np.inf))
            n += len(operands)
    return Compared(float(least), float(greatest), n) if n else Compared(np.nan, np.nan, 0)


def _operands(programs: np.ndarray) -> np.ndarray:
    """The numbers that the comparisons of programs uint8 [n, width] were executed on: float64 [operands]."""
    flow = provenance(programs)
    n_values = np.bincount(flow.values.program, minlength=len(programs))
    first = np.cumsum(n_values) - n_values  # the row of each program's value 0
    parts = []
    for edges in (flow.edges, flow.body_edges):
        mine = (edges.kind == EDGE_KINDS.index("operand_origin")) & np.isin(
            programs[edges.program, edges.query_at], _RELATIONS
        )
        rows = first[edges.program[mine]] + edges.value[mine]
        parts.append(flow.values.v[rows[flow.values.kind[rows] == kernel.INT_KIND]])
    return np.concatenate(parts).astype(np.float64)
