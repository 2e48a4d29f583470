"""Correct counts and squared errors per cluster: what every score, its interval and its difference from a control are
computed from.

A `Tally` adds up, for one reader (the probes of a site, or a baseline) and every target, the tokens predicted correctly
and the squared error, per cluster (skeleton), and the former per group of tokens too: all, and every group of each
breakdown.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from cadmus.machine import tokens
from cadmus.machine.jit import jit
from cadmus.statistics import clustered
from probes.data.targets import Target, Targets

ALL = "all"


# --- groups of tokens ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """A group of tokens that scores are computed on."""

    breakdown: str
    """What the tokens are grouped by: "token class", "family", ..."""

    name: str
    """The group among those of its breakdown."""

    register: str = ""
    """The register whose variables alone are broken down so, such as "a"; empty: all variables are."""


ALL_TOKENS = Group(ALL, ALL)


@dataclass(frozen=True)
class Grouping:
    """One way of grouping tokens."""

    name: str
    """Of the breakdown: "token class", "family", ..."""

    codes: np.ndarray
    """The group of each token, an index into `groups`; below 0: none. int [n, positions]."""

    groups: tuple[str, ...]
    """The names of the groups."""

    register: str = ""
    """As `Group.register`."""


@dataclass(frozen=True, repr=False)
class Breakdown:
    """All groups that scores are broken down by; group 0 is every token."""

    groups: tuple[Group, ...]
    """The groups, numbered through."""

    codes: np.ndarray
    """The groups that each token belongs to, indices into `groups`, -1 for none: int16 [n, positions, groupings]."""

    def __repr__(self) -> str:
        names = dict.fromkeys(group.breakdown for group in self.groups)
        return f"Breakdown({len(self.groups)} groups by {', '.join(names)})"

    @classmethod
    def of(cls, *groupings: Grouping) -> Breakdown:
        """Number the groups of several groupings of the same tokens. Raises ValueError where none is given."""
        if not groupings:
            raise ValueError("no grouping is given; Breakdown.none says that there is none")
        groups, codes = [ALL_TOKENS], []
        for grouping in groupings:
            codes.append(np.where(grouping.codes < 0, -1, grouping.codes + len(groups)).astype(np.int16))
            groups += [Group(grouping.name, name, grouping.register) for name in grouping.groups]
        return cls(tuple(groups), np.stack(codes, -1))

    @classmethod
    def none(cls, shape: tuple[int, int]) -> Breakdown:
        """All tokens only, of `shape` (n, positions)."""
        return cls((ALL_TOKENS,), np.zeros((*shape, 0), np.int16))


def token_classes(sequences: np.ndarray) -> Grouping:
    """Group tokens by class; sequences uint8 [n, positions]."""
    return Grouping("token class", tokens.classes(sequences).astype(np.int64), tuple(tokens.TOKEN_CLASSES))


def clusters_of(skeletons: np.ndarray, programs: int) -> np.ndarray:
    """The cluster of each program, 0, 1, ...: its skeleton, or itself where there are fewer than 30 skeletons."""
    labels, index = np.unique(skeletons, return_inverse=True)
    return index.ravel() if len(labels) >= clustered.MIN_CLUSTERS else np.arange(programs)


# --- counts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """What holds at some tokens, and where they are counted."""

    values: np.ndarray
    """int32 [rows, targets]."""

    mask: np.ndarray
    """Where the target is defined: bool [rows, targets]."""

    clusters: np.ndarray
    """int64 [rows]."""

    groups: np.ndarray
    """The groups of each token, as `Breakdown.codes`: int16 [rows, groupings]."""

    def select(self, targets: np.ndarray) -> Truth:
        """The same of some targets only, int [selected]."""
        return Truth(self.values[:, targets], self.mask[:, targets], self.clusters, self.groups)

    def pooled(self) -> Truth:
        """The same with all tokens in one cluster."""
        return Truth(self.values, self.mask, np.zeros_like(self.clusters), self.groups)


class Tally:
    """What one reader gets right of its targets, by cluster.

    correct float32 [targets, clusters]: tokens predicted correctly; correct_by_group float32 [broken down, clusters,
    groups]: those of the targets that are broken down; squared_error float64 [targets, clusters]: NaN where a token was
    not predicted at all; n_predicted int64 [targets]: tokens that were.
    """

    def __init__(self, targets: Targets, clusters: int, groups: int = 1, broken_down: Collection[Target] = ()):
        self.targets = targets
        self._row = np.full(len(targets), -1)  # of each target in correct_by_group; -1: not broken down
        rows = [k for k, target in enumerate(targets) if target in broken_down]
        self._row[rows] = np.arange(len(rows))
        self.correct = np.zeros((len(targets), clusters), np.float32)
        self.correct_by_group = np.zeros((len(rows), clusters, groups), np.float32)
        self.squared_error = np.zeros((len(targets), clusters))
        self.n_predicted = np.zeros(len(targets), np.int64)

    def __repr__(self) -> str:
        return f"Tally({len(self.targets)} targets, {self.correct.shape[1]} clusters)"

    def add(self, predicted: np.ndarray, truth: Truth) -> Tally:
        """Count predictions, float [rows, targets] (NaN: nothing predicted, wrong); returns the tally itself."""
        _add(
            np.ascontiguousarray(predicted, np.float32),
            np.ascontiguousarray(truth.values, np.int32),
            np.ascontiguousarray(truth.mask),
            np.ascontiguousarray(truth.clusters, np.int64),
            np.ascontiguousarray(truth.groups),
            self._row,
            self.correct,
            self.correct_by_group,
            self.squared_error,
            self.n_predicted,
        )
        return self

    def breaks_down(self, target: Target) -> bool:
        """Whether the target is counted by group."""
        return bool(self._row[self.targets.index(target)] >= 0)

    def of(self, target: Target, group: int = 0) -> np.ndarray:
        """The tokens of a group predicted correctly: float32 [clusters]; groups but the first of broken-down targets
        only."""
        k = self.targets.index(target)
        return self.correct[k] if group == 0 else self.correct_by_group[self._row[k], :, group]


@jit
def _add(predicted, values, mask, clusters, groups, row, correct, correct_by_group, squared_error, n_predicted):
    for i in range(len(predicted)):
        c = clusters[i]
        for t in range(predicted.shape[1]):
            if not mask[i, t]:
                continue
            if np.isfinite(predicted[i, t]):
                n_predicted[t] += 1
                squared_error[t, c] += (np.float64(predicted[i, t]) - values[i, t]) ** 2
            else:
                squared_error[t, c] = np.nan
            if np.rint(predicted[i, t]) == values[i, t]:
                correct[t, c] += 1
                d = row[t]
                if d >= 0:
                    correct_by_group[d, c, 0] += 1
                    for b in range(groups.shape[1]):
                        if groups[i, b] >= 0:
                            correct_by_group[d, c, groups[i, b]] += 1
