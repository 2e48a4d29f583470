"""The Cadmus machine over arrays of programs uint8 [n, length] (see `cadmus.machine.tokens`): `verdicts`, `tops`,
`traces`.

The same machine as `cadmus.machine.vm`, compiled (`cadmus.machine.compiled`). Rows are independent, so chunks of them
run on threads: the compiled code does not hold Python's lock.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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
    """Machine values as arrays of one shape; fields without meaning for a value's kind are 0.

    kind uint8 (index into `KINDS`), value int32 and tag uint8 (of Ints), length uint8 (of Seqs). Where contents were
    asked for, `offsets` (int64, same shape) says where a Seq's elements begin in `elements` int32 and `element_tags`
    uint8, which are shared by all.
    """

    kind: np.ndarray
    value: np.ndarray
    tag: np.ndarray
    length: np.ndarray
    offsets: np.ndarray | None = None
    elements: np.ndarray | None = None
    element_tags: np.ndarray | None = None

    def __getitem__(self, index) -> Values:
        """The values at a numpy index, on every array."""
        arrays = (self.kind, self.value, self.tag, self.length, self.offsets)
        return Values(*(a if a is None else a[index] for a in arrays), self.elements, self.element_tags)

    def at(self, *index: int) -> vm.Value | None:
        """One value as `cadmus.machine.vm` has it; None where there is no entry. A Seq needs contents (else
        ValueError)."""
        kind = self.kind[index]
        if kind == NONE_KIND:
            return None
        if kind == NAN_KIND:
            return vm.NAN
        if kind == INT_KIND:
            return vm.Int(int(self.value[index]), int(self.tag[index]))
        if self.offsets is None:
            raise ValueError("the contents of sequences were not recorded; trace with contents=True")
        where = slice(self.offsets[index], self.offsets[index] + self.length[index])
        pairs = zip(self.elements[where], self.element_tags[where], strict=True)
        return vm.Seq(tuple(vm.Int(int(v), int(tag)) for v, tag in pairs))


@dataclass(frozen=True)
class Traces:
    """The state after every token of every program.

    depth int32 [n, length]; fuel int16 [n, length]; all_true bool [n, length] (one or more entries, all true);
    touched uint8 [n, length]: what the token, calls included, did first to each register, two bits a register with `a`
    lowest (`READ_FIRST`, `WRITTEN_FIRST`, or 0 where it left it alone);
    stack `Values` [n, length, entries], entry 0 the top; registers `Values` [n, length, 4], a to d.
    """

    depth: np.ndarray
    fuel: np.ndarray
    all_true: np.ndarray
    touched: np.ndarray
    stack: Values
    registers: Values


def verdicts(tokens: np.ndarray, semantics: vm.Semantics | None = None, *, threads: int | None = None) -> np.ndarray:
    """Which programs are true: bool [n]. Tokens uint8 [n, length], without the leading marker, padded with `.`."""
    tokens, meaning = check(tokens), _meaning(semantics)
    out = np.empty(len(tokens), np.bool_)
    _on_threads(len(tokens), threads, lambda rows: run_verdicts(tokens[rows], meaning, out[rows]))
    return out


def tops(tokens: np.ndarray, semantics: vm.Semantics | None = None, *, threads: int | None = None) -> Values:
    """The top of the stack at the end of every program: `Values` [n], without the contents of sequences. Tokens as for
    `verdicts`."""
    tokens, meaning = check(tokens), _meaning(semantics)
    n = len(tokens)
    kind, v, tag, length = (np.empty(n, dtype) for dtype in (np.uint8, np.int32, np.uint8, np.uint8))
    _on_threads(n, threads, lambda r: run_tops(tokens[r], meaning, kind[r], v[r], tag[r], length[r]))
    return Values(kind, v, tag, length)


def traces(
    tokens: np.ndarray,
    semantics: vm.Semantics | None = None,
    *,
    entries: int = 4,
    contents: bool = False,
    threads: int | None = None,
) -> Traces:
    """The state after every token: the top `entries` of the stack and the registers; `contents` adds the elements of
    sequences. Tokens as for `verdicts`; after the closing `.` the last state goes on."""
    if entries < 0:
        raise ValueError(f"entries is {entries}; it counts stack entries from the top, so it must be 0 or more")
    tokens, meaning = check(tokens), _meaning(semantics)
    n, width = tokens.shape
    shape = (n, width, entries + 4)
    dtypes = np.int32, np.int16, np.bool_, np.uint8
    depth, fuel, true, touched = (np.empty((n, width), dtype) for dtype in dtypes)
    kind, v, tag, length = (np.empty(shape, dtype) for dtype in (np.uint8, np.int32, np.uint8, np.uint8))
    offsets = np.zeros((0, 0, 0), np.int64)
    elements, element_tags = np.empty(0, np.int32), np.empty(0, np.uint8)

    def record(contents: bool) -> None:
        _on_threads(
            n,
            threads,
            lambda r: run_traces(
                *(tokens[r], meaning, entries, depth[r], fuel[r], true[r], touched[r]),
                *(kind[r], v[r], tag[r], length[r], contents, offsets[r], elements, element_tags),
            ),
        )

    record(contents=False)
    if contents:
        ends = np.cumsum(length, dtype=np.int64)
        offsets = (ends - length.ravel()).reshape(shape)
        elements = np.empty(ends[-1] if len(ends) else 0, np.int32)
        element_tags = np.empty(len(elements), np.uint8)
        record(contents=True)
        values = Values(kind, v, tag, length, offsets, elements, element_tags)
    else:
        values = Values(kind, v, tag, length)
    return Traces(depth, fuel, true, touched, values[:, :, :entries], values[:, :, entries:])


def check(tokens: np.ndarray) -> np.ndarray:
    """`tokens` as a C-contiguous uint8 [n, length] array of ids; ValueError says what is wrong with it."""
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


def _meaning(semantics: vm.Semantics | None) -> np.ndarray:
    rows = vm.INSTRUCTIONS if semantics is None else semantics
    return np.array([rows[token].id for token in vm.VOCAB], np.uint8)


def _on_threads(n: int, threads: int | None, work) -> None:
    """Call `work` on slices that cover range(n), on all cores unless `threads` says otherwise."""
    threads = threads or numba_config.NUMBA_NUM_THREADS  # the cores this process may use
    pieces = min(8 * threads, -(-n // 256))
    slices = [slice(n * i // pieces, n * (i + 1) // pieces) for i in range(pieces)]
    if threads == 1 or len(slices) == 1:
        for rows in slices:
            work(rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, slices))
