"""Tallies against a plain loop over tokens."""

from __future__ import annotations

import numpy as np
import pytest

from cadmus.machine import tokens
from probes.measurement.tally import ALL, Breakdown, Tally, clusters_of, token_classes

DETAILED = np.array([-1, 1, 0])


def rows(n: int = 500) -> tuple[np.ndarray, ...]:
    """read (some NaN), values, shown [n, 3], clusters [n] and groups [n, 2] of two breakdowns (groups 1-2 and 3-5)."""
    rng = np.random.default_rng(0)
    values = rng.integers(-5, 6, (n, 3))
    read = values + rng.normal(size=(n, 3)) * 0.5
    read[rng.random((n, 3)) < 0.05] = np.nan
    groups = np.stack([rng.integers(0, 3, n), rng.integers(2, 6, n)], 1)
    groups[groups == [0, 2]] = -1
    return read.astype(np.float32), values, rng.random((n, 3)) < 0.7, rng.integers(0, 40, n), groups.astype(np.int16)


def test_a_tally_is_a_loop_over_tokens() -> None:
    data = rows()
    right, by_group, error = np.zeros((3, 40)), np.zeros((2, 40, 6)), np.zeros((3, 40))
    read_all = np.zeros(3)
    for read, values, shown, cluster, groups in zip(*data, strict=True):
        for k in np.flatnonzero(shown):
            hit = abs(read[k] - values[k]) < 0.5
            right[k, cluster] += hit
            error[k, cluster] += (float(read[k]) - values[k]) ** 2
            read_all[k] += not np.isnan(read[k])
            if DETAILED[k] >= 0:
                for group in (0, *groups[groups >= 0]):
                    by_group[DETAILED[k], cluster, group] += hit
    tally = Tally(40, DETAILED, 6)
    for part in (slice(0, 123), slice(123, 124), slice(124, 500)):
        tally.add(*(array[part] for array in data))
    assert np.array_equal(tally.right_all, right)
    assert np.array_equal(tally.right, by_group)
    assert np.allclose(tally.error_all, error, equal_nan=True)
    assert np.isnan(error).any()
    assert not np.isnan(error).all()
    assert np.array_equal(tally.read, read_all)
    assert np.array_equal(tally.of(0), right[0])
    assert np.array_equal(tally.of(1, 4), by_group[1, :, 4])
    assert np.array_equal(tally.of(2), by_group[0, :, 0]), "group 0 is every token"


def test_without_detailed_targets_or_groups() -> None:
    read, values, shown, clusters, groups = rows()
    tally = Tally(40, np.full(3, -1), 0).add(read, values, shown, clusters, groups[:, :0])
    assert tally.right_all.sum() > 0
    assert Tally(40, np.zeros(0), 1).add(read[:, :0], values[:, :0], shown[:, :0], clusters, groups).read.shape == (0,)


def test_groups_are_numbered_through() -> None:
    first, second = np.array([[0, 1, -1]]), np.array([[2, -1, 0]])
    groups = Breakdown.of(token_class=(first, ("digit", "stack")), family=(second, ("a", "b", "c")))
    assert groups.names == (
        (ALL, ALL),
        *(("token class", "digit"), ("token class", "stack")),
        *(("family", "a"), ("family", "b"), ("family", "c")),
    )
    assert groups.codes.tolist() == [[[1, 5], [2, -1], [-1, 3]]]
    assert groups.codes.dtype == np.int16
    none = Breakdown.none((4, 7))
    assert none.names == ((ALL, ALL),)
    assert none.codes.shape == (4, 7, 0)
    with pytest.raises(ValueError, match=r"no breakdown is given; Groups\.none says that there is none"):
        Breakdown.of()


def test_few_skeletons_are_clustered_by_program() -> None:
    skeletons = np.uint64(2**63) + np.arange(60, dtype=np.uint64) % 30
    assert np.array_equal(clusters_of(skeletons, 60), np.arange(60) % 30)
    assert np.array_equal(clusters_of(skeletons % 29, 60), np.arange(60))


def test_tokens_have_their_class() -> None:
    sequences = tokens.sequences(tokens.encode(["3a+=."]))
    codes, names = token_classes(sequences)
    for token, code in zip(tokens.decode(sequences[0][:, None]), codes[0].tolist(), strict=True):
        assert token in tokens.TOKEN_CLASSES[names[code]]
