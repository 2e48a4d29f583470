"""Deduplication: a hash set while drawing, exact look-up in sorted shards."""

from __future__ import annotations

import numpy as np

from cadmus.machine import tokens
from cadmus.machine.jit import jit

_KEY = "cadmus corpus 1"


def program_hashes(programs: np.ndarray) -> np.ndarray:
    """The hashes of programs uint8 [n, width] that corpora sort and deduplicate by: uint64 [n]."""
    return tokens.hashes(programs, _KEY)


class HashSet:
    """A set of up to `capacity` 64-bit hashes: 8 to 16 bytes each, about 100 ns an insertion.

    Two programs with one hash count as one: among 80 million that happens with probability 0.0002, and costs a program.
    """

    def __init__(self, capacity: int):
        self._slots = np.zeros(1 << max(10, int(capacity * 1.4).bit_length()), np.uint64)

    def add(self, hashes: np.ndarray, limit: int) -> np.ndarray:
        """Insert hashes, uint64 [n], in order until `limit` of them were new; returns which were: bool [n]."""
        is_new = np.zeros(len(hashes), np.bool_)
        _insert(self._slots, hashes, limit, is_new)
        return is_new


@jit
def _insert(slots, hashes, limit, is_new):
    """Insert into the open-addressing table `slots`, whose size is a power of 2, and mark what is new."""
    mask = np.uint64(len(slots) - 1)
    n_new = 0
    for i in range(len(hashes)):
        if n_new == limit:
            return
        h = hashes[i] if hashes[i] != 0 else np.uint64(1)  # 0 marks an empty slot
        at = h & mask
        while slots[at] != 0 and slots[at] != h:
            at = (at + np.uint64(1)) & mask
        if slots[at] == 0:
            slots[at] = h
            is_new[i] = True
            n_new += 1


def contains(programs: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Which of `queries` uint8 [m, w] stand in `programs` uint8 [n, width], sorted by `program_hashes`: bool [m].

    Exact: equal hashes are told apart by their tokens. Rows of `programs` are read where the search looks at them.
    """
    hashes = program_hashes(queries)
    place = _first_not_below(programs, hashes)
    is_member = np.zeros(len(queries), np.bool_)
    open_rows = np.flatnonzero(place < len(programs))
    while len(open_rows):  # nearly always once: hashes are rarely equal
        rows = programs[place[open_rows]]
        same_hash = program_hashes(rows) == hashes[open_rows]
        is_member[open_rows] = same_hash & _same_programs(rows, queries[open_rows])
        place[open_rows] += 1
        open_rows = open_rows[same_hash & ~is_member[open_rows] & (place[open_rows] < len(programs))]
    return is_member


def _first_not_below(programs: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """For each hash, the first of the sorted programs whose own is not below it, by binary search: int64 [m]."""
    low = np.zeros(len(hashes), np.int64)
    high = np.full(len(hashes), len(programs))
    open_rows = np.flatnonzero(low < high)
    while len(open_rows):
        middle = (low[open_rows] + high[open_rows]) // 2
        below = program_hashes(programs[middle]) < hashes[open_rows]
        low[open_rows[below]] = middle[below] + 1
        high[open_rows[~below]] = middle[~below]
        open_rows = open_rows[low[open_rows] < high[open_rows]]
    return low


def _same_programs(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Whether query i is the program in row i, which ends in `.`, whatever the widths: bool [m]."""
    width = min(rows.shape[1], queries.shape[1])
    lengths = tokens.lengths(rows)
    same_length = (lengths == tokens.lengths(queries)) & (lengths < rows.shape[1])
    is_padding = np.arange(width) >= lengths[:, None]
    return same_length & ((rows[:, :width] == queries[:, :width]) | is_padding).all(1)
