"""Atoms and compounds of programs: what they are put together from, and how (Keysers et al. 2020, arXiv 1912.09713).

Atoms are the instructions of the main text, every digit one of its own, and the values that instructions other than
digits make. Compounds are pairs of instructions: adjacent in the text, or joined by an edge of the data flow
(`cadmus.states.provenance`), which has a type. Written as a kind and two tokens:

    pair 3+       3 stands right before +
    operand 3+    + takes a value that 3 made (`operand_origin`)
    load *a       a loads a value that * made (`load_origin`)
    store 3A      A stores what 3 put on the stack
    shuffle 3@    @ moves what 3 put on the stack
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cadmus.machine import kernel, tokens, vm
from cadmus.states.provenance import EDGE_KINDS, Edges, Values, provenance

KINDS = ("pair", "operand", "load", "store", "shuffle")
MAX_VALUE = 100  # greater values are one atom, as are those below its negative
N_ATOMS = len(vm.VOCAB) + 2 * MAX_VALUE + 3 + len(kernel.KINDS)
N_COMPOUNDS = len(KINDS) * len(vm.VOCAB) ** 2
ATOM_ALPHA, COMPOUND_ALPHA = 0.5, 0.1  # as in the paper
_EDGES = {"operand": "operand_origin", "load": "load_origin", "store": "store", "shuffle": "shuffle"}
_ROWS = 1 << 14  # programs whose data flow is in memory at once


@dataclass(frozen=True)
class Events:
    """What occurs in programs: one entry for each occurrence."""

    program: np.ndarray
    """The row of the program, int64 [events]."""
    code: np.ndarray
    """What occurs there, int64 [events]."""


def code_of(name: str) -> int:
    """The code of a compound, below `N_COMPOUNDS`. Raises ValueError for another name than `KIND XY`."""
    kind, _, ends = name.partition(" ")
    if kind not in KINDS or len(ends) != 2 or set(ends) - set(vm.VOCAB.replace(vm.END, "")):
        raise ValueError(
            f"compound {name!r} must be one of {', '.join(KINDS)}, a space and two instructions, such as 'operand 3+'"
        )
    first, second = map(vm.VOCAB.index, ends)
    return (KINDS.index(kind) * len(vm.VOCAB) + first) * len(vm.VOCAB) + second


def name_of(code: int) -> str:
    """The name of the compound with this code: the inverse of `code_of`."""
    kind, ends = divmod(int(code), len(vm.VOCAB) ** 2)
    return f"{KINDS[kind]} {vm.VOCAB[ends // len(vm.VOCAB)]}{vm.VOCAB[ends % len(vm.VOCAB)]}"


def atoms_and_compounds(programs: np.ndarray) -> tuple[Events, Events]:
    """All atoms (codes below `N_ATOMS`) and compounds of programs uint8 [n, width], each occurrence once."""
    programs = kernel.check(programs)
    atom_parts, compound_parts = [_instructions(programs)], [_pairs(programs)]
    for start in range(0, len(programs), _ROWS):
        part = programs[start : start + _ROWS]
        graph = provenance(part)
        atom_parts.append(_shifted(_made_values(graph.values), start))
        compound_parts.append(_shifted(_joined(part, graph.edges), start))
    return _concatenated(atom_parts), _concatenated(compound_parts)


def has_any(programs: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Which programs, uint8 [n, width], have any of these compounds: bool [n]. Of those that a pair decides the data
    flow is not looked at."""
    programs = kernel.check(programs)
    is_held_out = _is_among(codes)
    out = np.zeros(len(programs), np.bool_)
    pairs = _pairs(programs)
    out[pairs.program[is_held_out[pairs.code]]] = True
    if (np.asarray(codes) >= len(vm.VOCAB) ** 2).any():
        undecided = np.flatnonzero(~out)
        for start in range(0, len(undecided), _ROWS):
            rows = undecided[start : start + _ROWS]
            joined = _joined(programs[rows], provenance(programs[rows]).edges)
            out[rows[joined.program[is_held_out[joined.code]]]] = True
    return out


def shares(programs: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Which share of each program's compounds is among these: float64 [n], 0 for a program without compounds."""
    _, compounds = atoms_and_compounds(programs)
    n_all = np.bincount(compounds.program, minlength=len(programs))
    n_among = np.bincount(compounds.program[_is_among(codes)[compounds.code]], minlength=len(programs))
    return n_among / np.maximum(n_all, 1)


def divergences(train: np.ndarray, test: np.ndarray) -> tuple[float, float]:
    """The compound and the atom divergence of programs trained on and tested, uint8 [n, width] each; NaN where one is
    empty: 1 - the Chernoff coefficient (the paper's section 2.2), all compounds of equal weight."""
    (train_atoms, train_compounds), (test_atoms, test_compounds) = _counts(train), _counts(test)
    return (
        1 - chernoff(train_compounds, test_compounds, COMPOUND_ALPHA),
        1 - chernoff(train_atoms, test_atoms, ATOM_ALPHA),
    )


def chernoff(a: np.ndarray, b: np.ndarray, alpha: float) -> float:
    """The Chernoff coefficient of two distributions given as counts [size], sum of a^alpha b^(1 - alpha); NaN where one
    is empty."""
    if not (a.any() and b.any()):
        return float("nan")
    both = (a > 0) & (b > 0)
    return float(((a[both] / a.sum()) ** alpha * (b[both] / b.sum()) ** (1 - alpha)).sum())


def _counts(programs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each atom and each compound occurs: int64 [N_ATOMS], int64 [N_COMPOUNDS]."""
    atoms, joined = atoms_and_compounds(programs)
    return np.bincount(atoms.code, minlength=N_ATOMS), np.bincount(joined.code, minlength=N_COMPOUNDS)


def codes_of(names: Sequence[str]) -> np.ndarray:
    """The codes of compounds, int64 [names]. Raises ValueError as `code_of`."""
    return np.array([code_of(name) for name in tokens.text_list(names, "names")], np.int64)


def _is_among(codes: np.ndarray) -> np.ndarray:
    mask = np.zeros(N_COMPOUNDS, np.bool_)
    mask[codes] = True
    return mask


def _instructions(programs: np.ndarray) -> Events:
    rows, columns = np.nonzero(np.arange(programs.shape[1]) < tokens.lengths(programs)[:, None])
    return Events(rows, programs[rows, columns].astype(np.int64))


def _pairs(programs: np.ndarray) -> Events:
    inside = np.arange(2, programs.shape[1] + 1) <= tokens.lengths(programs)[:, None]
    rows, columns = np.nonzero(inside)
    return Events(rows, _code(programs, rows, columns, columns + 1))


def _joined(programs: np.ndarray, edges: Edges) -> Events:
    """The compounds that edges of the main text's data flow make."""
    parts = []
    for kind, edge_kind in _EDGES.items():
        mask = edges.kind == EDGE_KINDS.index(edge_kind)
        rows = edges.program[mask].astype(np.int64)
        offset = KINDS.index(kind) * len(vm.VOCAB) ** 2
        parts.append(Events(rows, offset + _code(programs, rows, edges.key[mask], edges.query[mask])))
    return _concatenated(parts)


def _code(programs: np.ndarray, rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return programs[rows, first].astype(np.int64) * len(vm.VOCAB) + programs[rows, second]


def _made_values(values: Values) -> Events:
    """The values that no digit wrote, by value where they are Ints, else by kind."""
    mask = ~values.literal
    numbers = len(vm.VOCAB) + MAX_VALUE + 1 + np.clip(values.v[mask].astype(np.int64), -MAX_VALUE - 1, MAX_VALUE + 1)
    others = N_ATOMS - len(kernel.KINDS) + values.kind[mask].astype(np.int64)
    is_number = values.kind[mask] == kernel.INT_KIND
    return Events(values.program[mask].astype(np.int64), np.where(is_number, numbers, others))


def _shifted(events: Events, start: int) -> Events:
    return Events(events.program + start, events.code)


def _concatenated(parts: list[Events]) -> Events:
    return Events(np.concatenate([part.program for part in parts]), np.concatenate([part.code for part in parts]))
