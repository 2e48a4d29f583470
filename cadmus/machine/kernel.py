"""The Cadmus machine over arrays of programs uint8 [n, length] (see `cadmus.machine.tokens`): `verdicts`, `tops`,
`traces`.

The same machine as `cadmus.machine.vm`, compiled. Rows are independent, so chunks of them run on threads: the compiled
code does not hold Python's lock. `kernel` is the compiled machine's one public name: it re-exports the codes of
`Values.kind` and `Traces.first_access` from `cadmus.machine.compiled`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numba import config as numba_config

from cadmus.machine import vm
from cadmus.machine.compiled import (
    INT_KIND,
    NAN_KIND,
    NONE_KIND,
    READ_FIRST,
    SEQ_KIND,
    WRITTEN_FIRST,
    run_tops,
    run_traces,
    run_verdicts,
)

KINDS = ("none", "nan", "int", "seq")  # a kind's code in `Values.kind` is its index

__all__ = [
    "INT_KIND",
    "KINDS",
    "NAN_KIND",
    "NONE_KIND",
    "READ_FIRST",
    "SEQ_KIND",
    "WRITTEN_FIRST",
    "Traces",
    "Values",
    "check",
    "tops",
    "traces",
    "verdicts",
]


@dataclass(frozen=True)
class Values:
    """Machine values as arrays of one shape; fields without meaning for a value's kind are 0."""

    kind: np.ndarray
    """uint8: an index into `KINDS`."""
    value: np.ndarray
    """int32: the value of an Int."""
    tag: np.ndarray
    """uint8: the tag of an Int."""
    length: np.ndarray
    """uint8: the length of a Seq."""
    offsets: np.ndarray | None = None
    """int64: where a Seq's elements begin in `elements`; None unless the values were traced with contents."""
    elements: np.ndarray | None = None
    """int32, one-dimensional: the elements of all Seqs."""
    element_tags: np.ndarray | None = None
    """uint8, one-dimensional: the tags of `elements`."""

    def __repr__(self) -> str:
        return f"Values{list(self.kind.shape)}"

    def __getitem__(self, index) -> Values:
        """The values at a numpy index, on every array."""
        return Values(
            self.kind[index],
            self.value[index],
            self.tag[index],
            self.length[index],
            None if self.offsets is None else self.offsets[index],
            self.elements,
            self.element_tags,
        )

    def at(self, *index: int) -> vm.Value | None:
        """One value as `cadmus.machine.vm` has it; None where there is no entry. Raises ValueError for a Seq that was
        traced without contents."""
        kind = self.kind[index]
        if kind == NONE_KIND:
            return None
        if kind == NAN_KIND:
            return vm.NAN
        if kind == INT_KIND:
            return vm.Int(int(self.value[index]), int(self.tag[index]))
        if self.offsets is None or self.elements is None or self.element_tags is None:
            raise ValueError("the contents of sequences were not recorded; trace with contents=True")
        items = slice(self.offsets[index], self.offsets[index] + self.length[index])
        pairs = zip(self.elements[items], self.element_tags[items], strict=True)
        return vm.Seq(tuple(vm.Int(int(v), int(tag)) for v, tag in pairs))


@dataclass(frozen=True)
class Traces:
    """The state after every token of every program."""

    depth: np.ndarray
    """int32 [n, length]: entries on the stack."""
    fuel: np.ndarray
    """int16 [n, length]: instructions that may still be executed."""
    all_true: np.ndarray
    """bool [n, length]: whether there are one or more entries, all of them true."""
    first_access: np.ndarray
    """uint8 [n, length]: what the token, calls included, did first to each register, two bits a register with `a`
    lowest (`READ_FIRST`, `WRITTEN_FIRST`, or 0 where it left the register alone)."""
    stack: Values
    """[n, length, entries], entry 0 the top."""
    registers: Values
    """[n, length, 4], a to d."""

    def __repr__(self) -> str:
        n, length, entries = self.stack.kind.shape
        contents = "without" if self.stack.offsets is None else "with"
        return (
            f"Traces({n:,} programs of {length} tokens, {entries} stack entries, {contents} the contents of sequences)"
        )


def verdicts(tokens: np.ndarray, semantics: vm.Semantics | None = None, *, threads: int | None = None) -> np.ndarray:
    """Which programs are true: bool [n].

    tokens uint8 [n, length], without the leading marker, padded with `.`; `threads`: all cores unless it is stated.
    Raises ValueError for another array and for an unknown id.
    """
    tokens = check(tokens)
    meanings = meanings_of(semantics)
    is_true = np.empty(len(tokens), np.bool_)
    on_threads(len(tokens), threads, lambda rows: run_verdicts(tokens[rows], meanings, is_true[rows]))
    return is_true


def tops(tokens: np.ndarray, semantics: vm.Semantics | None = None, *, threads: int | None = None) -> Values:
    """The top of the stack at the end of every program: `Values` [n], without the contents of sequences.

    Arguments and errors as for `verdicts`.
    """
    tokens = check(tokens)
    meanings = meanings_of(semantics)
    top = _empty_values(len(tokens))

    def run(rows: slice) -> None:
        run_tops(tokens[rows], meanings, top.kind[rows], top.value[rows], top.tag[rows], top.length[rows])

    on_threads(len(tokens), threads, run)
    return top


def traces(
    tokens: np.ndarray,
    semantics: vm.Semantics | None = None,
    *,
    entries: int = 4,
    contents: bool = False,
    threads: int | None = None,
) -> Traces:
    """The state after every token: the top `entries` of the stack, and the registers.

    `contents` adds the elements of sequences. After the closing `.` the last state goes on. Other arguments as for
    `verdicts`. Raises ValueError for negative `entries` and as `verdicts` does.
    """
    tokens = check(tokens)
    never, faults = np.full(len(tokens), -1, np.int64), np.zeros((len(tokens), 2), np.int64)
    return record(tokens, semantics, never, no_edits(len(tokens)), faults, entries, contents, threads)


EditArrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # `cadmus.machine.compiled`, "edited states"


def no_edits(n: int) -> EditArrays:
    """The arrays of no edits for n programs."""
    return np.zeros(n + 1, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)


def edits_of(edits: EditArrays, rows: slice) -> EditArrays:
    """The edits of some rows; `places`, `values` and `items` stay whole."""
    return (edits[0][rows.start : rows.stop + 1], *edits[1:])


def record(
    tokens: np.ndarray,
    semantics: vm.Semantics | None,
    at: np.ndarray,
    edits: EditArrays,
    faults: np.ndarray,
    entries: int,
    contents: bool,
    threads: int | None,
) -> Traces:
    """What `traces` returns, with the state after token at[i] (int64 [n]) of program i edited.

    `tokens` is checked; `edits` and `faults` (int64 [n, 2]) are as `cadmus.machine.compiled` has them: here a fault is
    only recorded. Raises ValueError for negative `entries`.
    """
    if entries < 0:
        raise ValueError(f"entries is {entries}; it counts stack entries from the top, so it must be 0 or more")
    meanings = meanings_of(semantics)
    n, width = tokens.shape
    depth = np.empty((n, width), np.int32)
    fuel = np.empty((n, width), np.int16)
    all_true = np.empty((n, width), np.bool_)
    first_access = np.empty((n, width), np.uint8)
    values = _empty_values((n, width, entries + len(vm.REGISTERS)))

    def write(contents: bool, offsets: np.ndarray, elements: np.ndarray, element_tags: np.ndarray) -> None:
        def run(rows: slice) -> None:
            run_traces(
                tokens[rows],
                meanings,
                at[rows],
                edits_of(edits, rows),
                faults[rows],
                entries,
                depth[rows],
                fuel[rows],
                all_true[rows],
                first_access[rows],
                values.kind[rows],
                values.value[rows],
                values.tag[rows],
                values.length[rows],
                contents,
                offsets[rows],
                elements,
                element_tags,
            )

        on_threads(n, threads, run)

    write(False, np.zeros((0, 0, 0), np.int64), np.empty(0, np.int32), np.empty(0, np.uint8))
    if contents:  # a second run, since only now it is known how many elements there are
        ends = np.cumsum(values.length, dtype=np.int64)
        n_elements = ends[-1] if len(ends) else 0
        offsets = (ends - values.length.ravel()).reshape(values.length.shape)
        elements = np.empty(n_elements, np.int32)
        element_tags = np.empty(n_elements, np.uint8)
        write(True, offsets, elements, element_tags)
        values = replace(values, offsets=offsets, elements=elements, element_tags=element_tags)
    return Traces(depth, fuel, all_true, first_access, values[:, :, :entries], values[:, :, entries:])


def _empty_values(shape: int | tuple[int, ...]) -> Values:
    """Values of that shape, to be written into."""
    return Values(
        kind=np.empty(shape, np.uint8),
        value=np.empty(shape, np.int32),
        tag=np.empty(shape, np.uint8),
        length=np.empty(shape, np.uint8),
    )


def check(tokens: np.ndarray) -> np.ndarray:
    """`tokens` as a C-contiguous uint8 [n, length] array. Raises ValueError for another array or an unknown id."""
    if isinstance(tokens, np.ma.MaskedArray):
        raise ValueError("programs are a masked array, whose mask no machine sees; leave the masked programs out")
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.dtype != np.uint8:
        raise ValueError(
            f"programs must be a uint8 array [n, length], not {tokens.dtype} {list(tokens.shape)}; see tokens.encode"
        )
    if tokens.size and tokens.max() >= len(vm.VOCAB):
        row, position = np.argwhere(tokens >= len(vm.VOCAB))[0]
        raise ValueError(
            f"token id {tokens[row, position]} in program {row} at position {position} "
            f"is outside 0..{len(vm.VOCAB) - 1}"
        )
    return np.ascontiguousarray(tokens)


def meanings_of(semantics: vm.Semantics | None) -> np.ndarray:
    """The id of the token whose meaning each token has: uint8 [tokens of the vocabulary]."""
    rows = vm.INSTRUCTIONS if semantics is None else semantics
    return np.array([rows[token].id for token in vm.VOCAB], np.uint8)


def n_threads(threads: int | None) -> int:
    """`threads`, or as many as this process has cores."""
    # numba sets its options at run time; this one is the cores that this process may use
    return threads or numba_config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


def on_threads(n: int, threads: int | None, run: Callable[[slice], None]) -> None:
    """Call `run` on slices that cover range(n), on all cores unless `threads` says otherwise."""
    threads = n_threads(threads)
    pieces = min(8 * threads, -(-n // 256))
    slices = [slice(n * i // pieces, n * (i + 1) // pieces) for i in range(pieces)]
    if threads == 1 or len(slices) == 1:
        for rows in slices:
            run(rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, slices))
