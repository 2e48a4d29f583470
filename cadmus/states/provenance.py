"""Provenance: which token made each value of a program, where it goes, and what reads it: the exact data-flow graph.

A *value* is what one executed instruction made: a number, a sequence, a NAN, an element of a sequence. It stays the
same value where the specification says that a tag is kept (loads, stores, `: \\ @ o`, the branch that `?` takes, the
argument of a call, what a body merely returns, elements that are moved); every other result is a new value. What is
made in a body arose at the main text's token of the call. `docs/provenance.md` has a worked example.

    provenance(programs, cuts) -> Provenance
        .values       one row a value: where it arose, whether a digit wrote it, what it is
        .occurrences  one row a (value, role, token, place): which edit of the state gives that occurrence another value
        .edges        one row an edge of the main text, from a later token (query) to an earlier one (key)
        .body_edges   the same for the instructions in bodies, with the call depth and the bodies' own tokens
        .versions     one row a store: how long the register held it, and how often it was loaded

All are arrays; `.frame()` gives a pandas table, in words. Token i of a program stands at the model's position i + 1.
With a cut only the tokens before it exist, definitions included: `provenance(programs, cuts)` is the provenance of the
prefixes. `cadmus.states.provenance_plain.provenance_of` is the same for one text in plain Python.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

import numpy as np
import pandas as pd

from cadmus.machine import kernel, tokens, vm
from cadmus.machine.compiled import run_provenance
from cadmus.states.provenance_rows import EDGE_KINDS, ROLES

__all__ = [
    "EDGE_KINDS",
    "ROLES",
    "Edges",
    "Occurrences",
    "Provenance",
    "Values",
    "Versions",
    "place_name",
    "provenance",
]

N_REGISTERS = len(vm.REGISTERS)
T = TypeVar("T", bound="Table")


def place_name(code: int) -> str:
    """A place's name: codes 0 to 3 are `reg.a` to `reg.d`, code 4 + K is `stack.K`, K counted from the top."""
    return f"reg.{vm.REGISTERS[code]}" if code < N_REGISTERS else f"stack.{code - N_REGISTERS}"


@dataclass(frozen=True)
class Table:
    """Rows as one array for each column."""

    CODES: ClassVar[dict[str, tuple[str, ...]]] = {}
    """The words that the codes of a column stand for."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} rows)"

    def frame(self) -> pd.DataFrame:
        """The rows as a table of pandas: one column for each field, codes and places in words."""
        columns = {}
        for column in fields(self):
            array = getattr(self, column.name)
            if column.name == "place":
                names = np.array([place_name(code) for code in range(int(array.max(initial=0)) + 1)])
                columns["place"] = names[array]
            elif column.name in self.CODES:
                columns[column.name] = np.array(self.CODES[column.name])[array]
            else:
                columns[column.name] = array
        return pd.DataFrame(columns)


@dataclass(frozen=True, repr=False)
class Values(Table):
    """One row for each value that a program made, in the order in which they were made."""

    CODES: ClassVar[dict[str, tuple[str, ...]]] = {"kind": kernel.KINDS}

    program: np.ndarray
    """int32: the row of the program."""
    value: np.ndarray
    """int32: the value's number within its program, from 0."""
    arose: np.ndarray
    """int32: the main text's token at which it arose; for what a body made, the token of the call."""
    at: np.ndarray
    """int32: the token of the instruction that made it: in a body the body's own; else `arose`."""
    literal: np.ndarray
    """bool: whether a digit made it."""
    kind: np.ndarray
    """uint8: an index into `kernel.KINDS`."""
    v: np.ndarray
    """int32: the value of an Int, else 0."""
    tag: np.ndarray
    """uint8: the tag of an Int, else 0."""


@dataclass(frozen=True, repr=False)
class Occurrences(Table):
    """One row for each (value, role, token, place): `vm.resume` after `edit_at`, with another value at `place`, is the
    program in which exactly this occurrence has another value. By token within a program.

    arose        A value on the stack after the token that made it.
    stored       A register's version after the token of its store.
    between      A version after each later token before its last load, but for tokens that load it.
    loaded       The copy on the stack that a token loaded; for a call: that its body loaded and returned. An element
                 that `I` read off a sequence (version -1).
    consumed     A stack entry before the instruction that takes it: any but a store and `: \\ @ o ;`.
    overwritten  A version before the store that ends it, where no load comes any more.
    decision     A stack entry, or a register's version, at the cut; `token` is the last one before the cut.

    `edit_at` is `token` where it says "after", and the last executed token of the main text before it where it says
    "before" or "at": never one of a definition; -1 before the first. What a value or version of a body has no place
    for in the state after the call has no row.
    """

    CODES: ClassVar[dict[str, tuple[str, ...]]] = {"role": ROLES}

    program: np.ndarray
    """int32: the row of the program."""
    value: np.ndarray
    """int32: the value, as `Values.value`."""
    role: np.ndarray
    """uint8: an index into `ROLES`."""
    token: np.ndarray
    """int32: where the model is patched (at position token + 1)."""
    edit_at: np.ndarray
    """int32: the state after this token is what an edit changes."""
    place: np.ndarray
    """int32: what it changes there, see `place_name`."""
    version: np.ndarray
    """int32: the number of the register's version that the row is about, which is how many stores of that register came
    before; -1 where it is about none."""
    distance: np.ndarray
    """int32: tokens from that version's store to `token` (of a load: the read distance); -1 where there is none."""


@dataclass(frozen=True, repr=False)
class Edges(Table):
    """One row for each edge of the data flow, in the order of execution. Key and query may be one token.

    load_store       From a load to the store of the version that it loads.
    load_origin      From a load, or `I`, to where the value (the element) arose.
    operand          From an instruction that takes values (`?` and calls too) to what put each of them there last.
    operand_origin   From there to where it arose.
    store            From a store to what put the stored value there last.
    shuffle          From `: \\ @ o` to what put each entry that moves there last.
    decision         From the last token before the cut to what put each stack entry there last.
    decision_origin  From there to where it arose.

    For a sequence the kinds that end in `origin` have an edge for itself and one for each of its elements.
    """

    CODES: ClassVar[dict[str, tuple[str, ...]]] = {"kind": EDGE_KINDS}

    program: np.ndarray
    """int32: the row of the program."""
    value: np.ndarray
    """int32: the value that flows along the edge: of edges to elements, the element."""
    element: np.ndarray
    """int32: which element of the sequence that flows; -1: the value itself."""
    query: np.ndarray
    """int32: the main text's token that takes the value."""
    key: np.ndarray
    """int32: the main text's token that it comes from."""
    kind: np.ndarray
    """uint8: an index into `EDGE_KINDS`."""
    depth: np.ndarray
    """int32: how many calls are active where the value is taken: 0 in `Provenance.edges`, more in `body_edges`."""
    query_at: np.ndarray
    """int32: the instruction that takes the value: in a body the body's own token; else `query`."""
    key_at: np.ndarray
    """int32: the instruction that the value comes from: in a body the body's own token; else `key`."""


@dataclass(frozen=True, repr=False)
class Versions(Table):
    """One row for each store, in the order of execution."""

    CODES: ClassVar[dict[str, tuple[str, ...]]] = {"register": tuple(vm.REGISTERS)}

    program: np.ndarray
    """int32: the row of the program."""
    register: np.ndarray
    """uint8: an index into `vm.REGISTERS`."""
    version: np.ndarray
    """int32: how many stores of this register came before."""
    value: np.ndarray
    """int32: the value that was stored."""
    token: np.ndarray
    """int32: the main text's token of the store; for one in a body, the call's."""
    at: np.ndarray
    """int32: the store itself: in a body the body's own token; else `token`."""
    overwritten: np.ndarray
    """int32: the main text's token of the next store of this register, -1 where none came."""
    loads: np.ndarray
    """int32: how often it was loaded, bodies included."""
    last_load: np.ndarray
    """int32: the main text's token of the last load, -1 where none came."""


@dataclass(frozen=True)
class Provenance:
    """The data-flow graph of many programs."""

    values: Values
    """What was made, where."""
    occurrences: Occurrences
    """Where the values can be edited, and in which role they stand there."""
    edges: Edges
    """Between tokens of the main text."""
    body_edges: Edges
    """Of instructions in bodies. Rows with `key` < `query` fetch what stood before the call."""
    versions: Versions
    """What the registers held."""

    def __repr__(self) -> str:
        return "Provenance(" + ", ".join(f"{getattr(self, table.name)!r}" for table in fields(self)) + ")"


def provenance(programs: np.ndarray, cuts: np.ndarray | None = None, *, threads: int | None = None) -> Provenance:
    """The provenance of programs uint8 [n, length], each as far as its cut (int [n]; its closing `.` unless stated).

    `threads`: all cores unless it is stated. Raises ValueError for another array, an unknown id, and a cut outside 0 to
    the program's length.
    """
    programs = kernel.check(programs)
    lengths = tokens.lengths(programs)
    ends = lengths if cuts is None else _check_cuts(cuts, lengths)
    meanings = kernel.meanings_of(None)
    parts: dict[int, tuple[np.ndarray, ...]] = {}  # by the first row of each

    def run(rows: slice) -> None:
        parts[rows.start] = run_provenance(programs[rows], ends[rows], meanings, rows.start)

    kernel.on_threads(len(programs), threads, run)
    if not parts:
        run(slice(0, 0))
    values, occurrences, edges, versions = (
        np.concatenate(rows) for rows in zip(*(parts[first] for first in sorted(parts)), strict=True)
    )
    depth = edges[:, [column.name for column in fields(Edges)].index("depth")]
    return Provenance(
        _table(Values, values),
        _table(Occurrences, occurrences),
        _table(Edges, edges[depth == 0]),
        _table(Edges, edges[depth > 0]),
        _table(Versions, versions),
    )


def _table(kind: type[T], rows: np.ndarray) -> T:
    """Rows int32 [rows, columns] as a table of that kind."""
    dtypes = {"literal": np.bool_, "kind": np.uint8, "role": np.uint8, "register": np.uint8, "tag": np.uint8}
    names = [column.name for column in fields(kind)]
    return kind(*(rows[:, k].astype(dtypes.get(name, np.int32)) for k, name in enumerate(names)))


def _check_cuts(cuts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The cuts as int64 [n]. Raises ValueError where one lies outside its program."""
    cuts = np.asarray(cuts)
    if cuts.shape != lengths.shape or not np.issubdtype(cuts.dtype, np.integer):
        raise ValueError(
            f"cuts are {cuts.dtype} {list(cuts.shape)}; expected one integer for each of the {len(lengths)} programs"
        )
    outside = np.flatnonzero((cuts < 0) | (cuts > lengths))
    if len(outside):
        row = outside[0]
        raise ValueError(
            f"cut {cuts[row]} of program {row} lies outside 0..{lengths[row]}: a cut counts the tokens that are given, "
            "the closing `.` not among them"
        )
    return cuts.astype(np.int64)
