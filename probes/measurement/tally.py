"""Rights and errors by cluster: what every score, its interval and its difference from a control are computed from.

A `Tally` adds up, for one reader (a probe or a baseline) and every target, the tokens read rightly and the squared
error, per cluster (skeleton), and the former per group of tokens too (all, and every value of each breakdown).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from cadmus.machine import tokens
from cadmus.statistics import clustered

ALL = "all"


@dataclass(frozen=True)
class Breakdown:
    """The groups that scores are broken down by: names (breakdown, group); codes int16 [n, positions, breakdowns] index
    them, -1 where a token belongs to none. Group 0 is every token."""

    names: tuple[tuple[str, str], ...]
    codes: np.ndarray

    @classmethod
    def of(cls, **breakdowns: tuple[np.ndarray, tuple[str, ...]]) -> Breakdown:
        """Each breakdown: codes int [n, positions] (-1: none) and the names of its groups."""
        names, codes = [(ALL, ALL)], []
        for breakdown, (code, labels) in breakdowns.items():
            codes.append(np.where(code < 0, -1, code + len(names)).astype(np.int16))
            names += [(breakdown.replace("_", " "), label) for label in labels]
        if not codes:
            raise ValueError("no breakdown is given; Groups.none says that there is none")
        return cls(tuple(names), np.stack(codes, -1))

    @classmethod
    def none(cls, shape: tuple[int, int]) -> Breakdown:
        """All tokens only, of `shape` (n, positions)."""
        return cls(((ALL, ALL),), np.zeros((*shape, 0), np.int16))


class Tally:
    """right_all float32 [targets, clusters]: tokens read rightly; right float32 [detailed, clusters, groups]: those of
    the detailed targets; error_all float64 [targets, clusters]: squared error, NaN where a token was not read at all;
    read int64 [targets]: tokens that were."""

    def __init__(self, clusters: int, detailed: np.ndarray, groups: int):
        """detailed int [targets]: the row of a target among the detailed ones, -1 for others."""
        self.detailed = np.asarray(detailed, np.int64)
        size = int(self.detailed.max(initial=-1)) + 1
        self.right_all = np.zeros((len(self.detailed), clusters), np.float32)
        self.right = np.zeros((size, clusters, groups), np.float32)
        self.error_all = np.zeros((len(self.detailed), clusters))
        self.read = np.zeros(len(self.detailed), np.int64)

    def add(
        self, read: np.ndarray, values: np.ndarray, shown: np.ndarray, clusters: np.ndarray, groups: np.ndarray
    ) -> Tally:
        """read float [rows, targets] (NaN: nothing read, wrong); values int [rows, targets]; shown bool [rows,
        targets]; clusters int [rows]; groups int16 [rows, breakdowns]."""
        arrays = (np.asarray(read, np.float32), values.astype(np.int32), shown, clusters.astype(np.int64), groups)
        sums = (self.right_all, self.right, self.error_all, self.read)
        _add(*(np.ascontiguousarray(array) for array in arrays), self.detailed, *sums)
        return self

    def of(self, target: int, group: int = 0) -> np.ndarray:
        """The tokens of a group read rightly: [clusters]; groups but the first of detailed targets only."""
        return self.right_all[target] if group == 0 else self.right[self.detailed[target], :, group]


@njit(cache=True, nogil=True)
def _add(read, values, shown, clusters, groups, detailed, right_all, right, error_all, count):
    for i in range(len(read)):
        c = clusters[i]
        for t in range(read.shape[1]):
            if not shown[i, t]:
                continue
            if np.isfinite(read[i, t]):
                count[t] += 1
                error_all[t, c] += (np.float64(read[i, t]) - values[i, t]) ** 2
            else:
                error_all[t, c] = np.nan
            d = detailed[t]
            if np.rint(read[i, t]) == values[i, t]:
                right_all[t, c] += 1
                if d >= 0:
                    right[d, c, 0] += 1
                    for b in range(groups.shape[1]):
                        if groups[i, b] >= 0:
                            right[d, c, groups[i, b]] += 1


def clusters_of(skeletons: np.ndarray, programs: int) -> np.ndarray:
    """The cluster of each program, 0, 1, ...: its skeleton, or itself where there are fewer than 30 skeletons."""
    labels, index = np.unique(skeletons, return_inverse=True)
    return index.ravel() if len(labels) >= clustered.MIN_CLUSTERS else np.arange(programs)


def token_classes(sequences: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The breakdown by class of the current token."""
    return tokens.classes(sequences).astype(np.int64), tuple(tokens.TOKEN_CLASSES)
