"""Samples of programs in groups, statistics of them, and their delete-a-group jackknife intervals.

The programs fall at random into 20 groups, a statistic is computed without each group in turn, from counts and sums per
group, and the 95 % interval is value -+ t(19) * sqrt(19/20 * the sum of squared deviations of the 20 from their mean).
The unit is the program, not the skeleton. Shares are cut at 0 and 1, everything else at 0. What has no meaning in a
sample is NaN, and so is an interval that rests on a single group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cadmus.machine import kernel, tokens

GROUPS = 20
MIN_PROGRAMS = 2 * GROUPS  # programs in a sample

_T = 2.0930240544  # 97.5 % quantile of Student's t with GROUPS - 1 degrees of freedom

Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Sample:
    """Programs in a random order, each in one of the groups."""

    programs: np.ndarray
    """uint8 [n, longest + 1], only padding behind each text."""
    lengths: np.ndarray
    """Tokens of each program, its `.` left out: int64 [n]."""
    groups: np.ndarray
    """Which group each program is in: int64 [n]."""

    def __repr__(self) -> str:
        return f"Sample({len(self.programs):,} programs in {GROUPS} groups)"


@dataclass(frozen=True)
class Estimate:
    """A statistic of a sample."""

    value: float
    """The statistic of all programs."""
    replicates: np.ndarray
    """The statistic without each group in turn: float [GROUPS]."""
    n: int
    """How many programs it rests on."""


def take_sample(programs: np.ndarray, seed: int) -> Sample:
    """Put the programs, uint8 [n, width], in a random order that depends on their texts and the seed alone.

    Raises ValueError for fewer than `MIN_PROGRAMS` programs and where all of them are empty.
    """
    programs = kernel.check(programs)
    if len(programs) < MIN_PROGRAMS:
        raise ValueError(
            f"{len(programs)} programs are too few for intervals over {GROUPS} groups; pass {MIN_PROGRAMS} or more"
        )
    programs = tokens.sequences(programs)[:, 1:]
    lengths = tokens.lengths(programs)
    if not lengths.any():
        raise ValueError("every program begins with `.`, so is empty; pass programs without the leading marker")
    padded = np.full((len(programs), lengths.max() + 1), tokens.PAD, np.uint8)
    padded[:, :-1] = programs[:, : padded.shape[1] - 1]
    by_text = np.argsort(padded.view(np.dtype((np.void, padded.shape[1]))).ravel(), kind="stable")
    content = int(tokens.hashes(padded, "cadmus properties 1").sum())  # so that samples do not share their grouping
    order = by_text[np.random.default_rng([seed, content]).permutation(len(programs))]
    return Sample(padded[order], lengths[order], np.arange(len(programs)) % GROUPS)


def interval_of(unit: str, estimate: Estimate) -> tuple[float, float, float]:
    """The value and the bounds of its 95 % interval: (value, low, high). The bounds are NaN where a replicate is.

    unit: bounds of a `share` are cut at 0 and 1, all others at 0.
    """
    deviations = estimate.replicates - estimate.replicates.mean()
    margin = _T * np.sqrt((GROUPS - 1) / GROUPS * (deviations**2).sum())
    low, high = np.clip([estimate.value - margin, estimate.value + margin], 0, 1 if unit == "share" else None)
    return float(estimate.value), float(low), float(high)


def ratio_of_sums(sample: Sample, numerator: np.ndarray, denominator: np.ndarray | None = None) -> Estimate:
    """The sum of one count per program over the sum of another, both [n]; without a denominator, the mean."""
    denominator = np.ones(len(numerator)) if denominator is None else denominator
    sums = np.stack([np.bincount(sample.groups, column, GROUPS) for column in (numerator, denominator)])
    with np.errstate(invalid="ignore"):
        # [numerator and denominator, in all and without each group]
        numerators, denominators = np.column_stack([sums.sum(1), sums.sum(1, keepdims=True) - sums])
        values = numerators / denominators
    return Estimate(values[0], values[1:], int(np.count_nonzero(denominator)))


def counts_without_each(codes: np.ndarray, groups: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield how often each code below `size` occurs, int64 [size]: in all, then without each group in turn."""
    total = np.bincount(codes, minlength=size)
    yield total
    for group in range(GROUPS):
        yield total - np.bincount(codes[groups == group], minlength=size)


def from_counts(
    codes: np.ndarray, groups: np.ndarray, size: int, n: int, *statistics: Statistic
) -> tuple[Estimate, ...]:
    """Compute statistics of the counts of codes; codes and groups are [events], n is the number of programs."""
    values = np.array(
        [[statistic(counts) for statistic in statistics] for counts in counts_without_each(codes, groups, size)]
    )
    return tuple(Estimate(column[0], column[1:], n) for column in values.T)


def without_bias(estimate: Estimate) -> Estimate:
    """Correct the value for its bias of order 1/n (Quenouille 1956), to no less than 0; the replicates stay."""
    corrected = GROUPS * estimate.value - (GROUPS - 1) * estimate.replicates.mean()
    return Estimate(np.maximum(corrected, 0), estimate.replicates, estimate.n)


def entropy_of(counts: np.ndarray) -> float:
    """Entropy in bits of the distribution with these counts; NaN if all are 0."""
    counts = counts[counts > 0].astype(float)
    total = counts.sum()
    return float(np.log2(total) - (counts * np.log2(counts)).sum() / total) if total else np.nan
