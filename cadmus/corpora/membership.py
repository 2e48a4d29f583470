"""Which programs were there already: a set of hashes while a corpus is drawn, exact look-up in what is sorted."""

from __future__ import annotations

import numpy as np
from numba import njit

from cadmus.machine import tokens

_KEY = "cadmus corpus 1"


def program_hashes(programs: np.ndarray) -> np.ndarray:
    """The hash that corpora sort and deduplicate by: uint64 [n]."""
    return tokens.hashes(programs, _KEY)


class HashSet:
    """A set of 64-bit hashes for a known number of them: 8 to 16 bytes each, about 100 ns an insertion.

    Two programs with one hash count as one: among 80 million that happens with probability 0.0002, and costs a program.
    """

    def __init__(self, capacity: int):
        self._slots = np.zeros(1 << max(10, int(capacity * 1.4).bit_length()), np.uint64)

    def add(self, hashes: np.ndarray, limit: int) -> np.ndarray:
        """Insert hashes in order until `limit` of them were new; which ones were: bool [n]."""
        fresh = np.zeros(len(hashes), np.bool_)
        _insert(self._slots, hashes, limit, fresh)
        return fresh


@njit(cache=True, nogil=True)
def _insert(slots, hashes, limit, fresh):
    mask = np.uint64(len(slots) - 1)
    added = 0
    for i in range(len(hashes)):
        if added == limit:
            return
        h = hashes[i] if hashes[i] != 0 else np.uint64(1)  # 0 marks an empty slot
        at = h & mask
        while slots[at] != 0 and slots[at] != h:
            at = (at + np.uint64(1)) & mask
        if slots[at] == 0:
            slots[at] = h
            fresh[i] = True
            added += 1


def contains(programs: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which of `wanted` uint8 [m, w] stand in `programs` uint8 [n, width], sorted by `program_hashes`: bool [m].

    Exact: equal hashes are told apart by their tokens. Binary search; nothing is kept in memory.
    """
    found = np.zeros(len(wanted), np.bool_)
    _find(programs, tokens.hash_start(_KEY), wanted, tokens.lengths(wanted), program_hashes(wanted), found)
    return found


@njit(cache=True, nogil=True)
def _find(programs, start, wanted, lengths, hashes, found):
    row = np.empty(1, np.uint64)
    for i in range(len(wanted)):
        low, high = 0, len(programs)
        while low < high:
            middle = (low + high) // 2
            tokens.hash_rows(programs[middle : middle + 1], start, False, row)
            if row[0] < hashes[i]:
                low = middle + 1
            else:
                high = middle
        length = lengths[i]
        while low < len(programs) and not found[i]:
            tokens.hash_rows(programs[low : low + 1], start, False, row)
            if row[0] != hashes[i]:
                break
            same = length < programs.shape[1] and programs[low, length] == tokens.PAD
            for k in range(length):
                same = same and k < programs.shape[1] and programs[low, k] == wanted[i, k]
            found[i] = same
            low += 1
