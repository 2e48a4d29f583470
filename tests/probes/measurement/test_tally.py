"""Tallies against a plain loop over tokens."""

from __future__ import annotations

import numpy as np
import pytest

from cadmus.machine import tokens
from probes.data.targets import Target, Targets
from probes.measurement.tally import (
    ALL_TOKENS,
    Breakdown,
    Group,
    Grouping,
    Tally,
    Truth,
    clusters_of,
    token_classes,
)

TARGETS = Targets([Target("depth"), Target("stack.0.value"), Target("reg.a.value")])
BROKEN_DOWN = (TARGETS[2], TARGETS[1])


def rows(n: int = 500) -> tuple[np.ndarray, Truth]:
    """Predictions (some NaN) of three targets in 40 clusters, and two groupings (groups 1-2 and 3-5)."""
    rng = np.random.default_rng(0)
    values = rng.integers(-5, 6, (n, 3))
    predicted = values + rng.normal(size=(n, 3)) * 0.5
    predicted[rng.random((n, 3)) < 0.05] = np.nan
    groups = np.stack([rng.integers(0, 3, n), rng.integers(2, 6, n)], 1)
    groups[groups == [0, 2]] = -1
    mask, clusters = rng.random((n, 3)) < 0.7, rng.integers(0, 40, n)
    return predicted.astype(np.float32), Truth(values, mask, clusters, groups.astype(np.int16))


def part_of(truth: Truth, part: slice) -> Truth:
    return Truth(truth.values[part], truth.mask[part], truth.clusters[part], truth.groups[part])


def test_a_tally_is_a_loop_over_tokens() -> None:
    predicted, truth = rows()
    correct, by_group, error = np.zeros((3, 40)), np.zeros((3, 40, 6)), np.zeros((3, 40))
    n_predicted = np.zeros(3)
    for i, cluster in enumerate(truth.clusters):
        for k in np.flatnonzero(truth.mask[i]):
            hit = abs(predicted[i, k] - truth.values[i, k]) < 0.5
            correct[k, cluster] += hit
            error[k, cluster] += (float(predicted[i, k]) - truth.values[i, k]) ** 2
            n_predicted[k] += not np.isnan(predicted[i, k])
            for group in (0, *truth.groups[i][truth.groups[i] >= 0]):
                by_group[k, cluster, group] += hit
    tally = Tally(TARGETS, 40, 6, BROKEN_DOWN)
    for part in (slice(0, 123), slice(123, 124), slice(124, 500)):
        tally.add(predicted[part], part_of(truth, part))
    assert np.array_equal(tally.correct, correct)
    assert np.array_equal(tally.correct_by_group, by_group[1:])
    assert np.allclose(tally.squared_error, error, equal_nan=True)
    assert np.isnan(error).any()
    assert not np.isnan(error).all()
    assert np.array_equal(tally.n_predicted, n_predicted)
    for k, target in enumerate(TARGETS):
        assert np.array_equal(tally.of(target), correct[k]), "group 0 is every token"
        assert tally.breaks_down(target) == (k > 0)
    assert np.array_equal(tally.of(TARGETS[1], 4), by_group[1, :, 4])
    assert np.array_equal(tally.of(TARGETS[2], 5), by_group[2, :, 5])


def test_without_targets_that_are_broken_down_or_groups() -> None:
    predicted, truth = rows()
    tally = Tally(TARGETS, 40).add(predicted, Truth(truth.values, truth.mask, truth.clusters, truth.groups[:, :0]))
    assert tally.correct.sum() > 0
    empty = Tally(TARGETS[:0], 40).add(predicted[:, :0], truth.select(np.zeros(0, int)))
    assert empty.n_predicted.shape == (0,)


def test_groups_are_numbered_through() -> None:
    first, second = np.array([[0, 1, -1]]), np.array([[2, -1, 0]])
    breakdown = Breakdown.of(
        Grouping("token class", first, ("digit", "stack")), Grouping("live", second, ("a", "b", "c"), register="d")
    )
    assert breakdown.groups == (
        ALL_TOKENS,
        Group("token class", "digit"),
        Group("token class", "stack"),
        Group("live", "a", "d"),
        Group("live", "b", "d"),
        Group("live", "c", "d"),
    )
    assert breakdown.codes.tolist() == [[[1, 5], [2, -1], [-1, 3]]]
    assert breakdown.codes.dtype == np.int16
    none = Breakdown.none((4, 7))
    assert none.groups == (ALL_TOKENS,)
    assert none.codes.shape == (4, 7, 0)
    with pytest.raises(ValueError, match=r"no grouping is given; Breakdown\.none says that there is none"):
        Breakdown.of()


def test_few_skeletons_are_clustered_by_program() -> None:
    skeletons = np.uint64(2**63) + np.arange(60, dtype=np.uint64) % 30
    assert np.array_equal(clusters_of(skeletons, 60), np.arange(60) % 30)
    assert np.array_equal(clusters_of(skeletons % 29, 60), np.arange(60))


def test_tokens_have_their_class() -> None:
    sequences = tokens.sequences(tokens.encode(["3a+=."]))
    grouping = token_classes(sequences)
    for token, code in zip(tokens.decode(sequences[0][:, None]), grouping.codes[0].tolist(), strict=True):
        assert token in tokens.TOKEN_CLASSES[grouping.groups[code]]
