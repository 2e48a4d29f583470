"""Rights and errors by cluster: what every score, its interval and its difference from a control are computed from.

A `Tally` adds up, for one reader (a probe or a baseline) and every target, the tokens read rightly and the squared
error, per cluster (skeleton) and per group of tokens (all, and every value of each breakdown).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from cadmus import tokens
from probes import stats

ALL = "all"


@dataclass(frozen=True)
class Groups:
    """The groups that scores are broken down by: names (breakdown, group); codes int16 [n, positions, breakdowns] index
    them, -1 where a token belongs to none. Group 0 is every token."""

    names: tuple[tuple[str, str], ...]
    codes: np.ndarray

    @classmethod
    def of(cls, **breakdowns: tuple[np.ndarray, tuple[str, ...]]) -> Groups:
        """Each breakdown: codes int [n, positions] (-1: none) and the names of its groups."""
        names, codes = [(ALL, ALL)], []
        for breakdown, (code, labels) in breakdowns.items():
            codes.append(np.where(code < 0, -1, code + len(names)).astype(np.int16))
            names += [(breakdown.replace("_", " "), label) for label in labels]
        return cls(tuple(names), np.stack(codes, -1) if codes else np.zeros((0, 0, 0), np.int16))


class Tally:
    """right and error (squared) float32 [targets, clusters, groups]; of targets that are not `detailed` only the group
    of all tokens, in `right_all` and `error_all` [targets, clusters]."""

    def __init__(self, clusters: int, detailed: np.ndarray, groups: int):
        """detailed int [targets]: the row of a target among the detailed ones, -1 for others."""
        self.detailed = np.asarray(detailed, np.int64)
        size = int(self.detailed.max()) + 1
        self.right = np.zeros((size, clusters, groups), np.float32)
        self.error = np.zeros((size, clusters, groups), np.float32)
        self.right_all = np.zeros((len(self.detailed), clusters), np.float32)
        self.error_all = np.zeros((len(self.detailed), clusters), np.float32)

    def add(
        self, read: np.ndarray, values: np.ndarray, shown: np.ndarray, clusters: np.ndarray, groups: np.ndarray
    ) -> Tally:
        """read float [rows, targets] (NaN: nothing read, wrong); values int [rows, targets]; shown bool [rows,
        targets]; clusters int [rows]; groups int16 [rows, breakdowns]."""
        arrays = (np.asarray(read, np.float32), values.astype(np.int32), shown, clusters.astype(np.int64), groups)
        sums = (self.right, self.error, self.right_all, self.error_all)
        _add(*(np.ascontiguousarray(array) for array in arrays), self.detailed, *sums)
        return self


@njit(cache=True, nogil=True)
def _add(read, values, shown, clusters, groups, detailed, right, error, right_all, error_all):
    for i in range(len(read)):
        c = clusters[i]
        for t in range(read.shape[1]):
            if not shown[i, t]:
                continue
            miss = read[i, t] - values[i, t]
            hit = np.float32(1.0) if np.rint(read[i, t]) == values[i, t] else np.float32(0.0)
            miss = np.float32(miss * miss) if np.isfinite(miss) else np.float32(0.0)
            right_all[t, c] += hit
            error_all[t, c] += miss
            d = detailed[t]
            if d >= 0:
                right[d, c, 0] += hit
                error[d, c, 0] += miss
                for b in range(groups.shape[1]):
                    g = groups[i, b]
                    if g >= 0:
                        right[d, c, g] += hit
                        error[d, c, g] += miss


def clusters_of(skeletons: np.ndarray, programs: int) -> np.ndarray:
    """The cluster of each program, 0, 1, ...: its skeleton, or itself where there are fewer than 30 skeletons."""
    labels, index = np.unique(skeletons, return_inverse=True)
    return index.ravel() if len(labels) >= stats.FEWEST_CLUSTERS else np.arange(programs)


def token_classes(sequences: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The breakdown by class of the current token."""
    return tokens.classes(sequences).astype(np.int64), tuple(tokens.TOKEN_CLASSES)
