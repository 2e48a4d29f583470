"""Intervals over clusters: they cover the truth where tokens depend on one another, and are fixed by their seed."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import r2_score

from cadmus.statistics import clustered


def clustered_answers(seed: int, clusters: int = 100, size: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong answers, far more alike within a skeleton than between; the share of right is 0.7."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(0.7, 0.3, clusters)
    return rng.random((clusters, size)).ravel() < chance.repeat(size), np.arange(clusters).repeat(size)


def test_intervals_cover_the_truth_where_tokens_depend() -> None:
    """95 % over 300 data sets (4 standard errors are 5 %); a bootstrap over tokens covers it far too rarely."""
    by_skeleton = by_token = 0
    for seed in range(300):
        correct, skeletons = clustered_answers(seed)
        interval = clustered.accuracy(correct, skeletons, skeletons)
        by_skeleton += interval.low <= 0.7 <= interval.high
        assert interval.estimate == correct.mean()
        assert interval.clusters == 100
        rows = np.arange(len(correct))
        interval = clustered.accuracy(correct, rows, rows)
        by_token += interval.low <= 0.7 <= interval.high
        assert interval.clusters == 2000
    assert 0.90 <= by_skeleton / 300 <= 0.99
    assert by_token / 300 < 0.70


def test_r_squared_interval_covers_the_truth() -> None:
    n_covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        skeletons = np.arange(80).repeat(5)
        signal = rng.normal(size=80).repeat(5)  # shared by a skeleton, as its error is
        error = 0.5 * rng.normal(size=80).repeat(5)
        interval = clustered.r_squared(signal + error, signal, skeletons, skeletons, seed)
        n_covered += interval.low <= 1 - 0.25 / 1.25 <= interval.high
    assert 0.88 <= n_covered / 200 <= 0.99


def test_few_skeletons_fall_back_to_programs() -> None:
    rng = np.random.default_rng(0)
    correct, programs = rng.random(600) < 0.5, np.arange(200).repeat(3)
    assert clustered.accuracy(correct, programs % 29, programs).clusters == 200
    assert clustered.accuracy(correct, programs % 30, programs).clusters == 30
    sums = clustered.cluster_sums(np.stack([correct, np.ones(600)], 1), programs % 30, programs)
    assert sums[7].tolist() == [correct[programs % 30 == 7].sum(), (programs % 30 == 7).sum()]
    assert np.allclose(sums.sum(0), [correct.sum(), 600])


def test_perfect_scores_have_an_interval_too() -> None:
    """Of 40 skeletons that are right with 0.97 each, three data sets in ten show no error at all."""
    skeletons = np.arange(40).repeat(5)
    perfect = clustered.accuracy(np.ones(200, np.bool_), skeletons, skeletons)
    assert (perfect.estimate, perfect.high, perfect.clusters) == (1, 1, 40)
    assert perfect.low == pytest.approx(40 / (40 + 1.96**2), abs=1e-4)  # Wilson 1927
    nothing = clustered.accuracy(np.zeros(200, np.bool_), skeletons, skeletons)
    assert (nothing.estimate, nothing.low, nothing.high) == (0, 0, pytest.approx(1 - perfect.low))
    n_covered, n_perfect = 0, 0
    for seed in range(300):
        correct = (np.random.default_rng(seed).random(40) < 0.97).repeat(5)
        interval = clustered.accuracy(correct, skeletons, skeletons)
        n_covered += interval.low <= 0.97 <= interval.high
        n_perfect += correct.all()
    assert 60 <= n_perfect <= 120
    assert n_covered / 300 >= 0.90


def test_labels_of_clusters_may_be_anything() -> None:
    """Skeletons are 64-bit hashes: they must not be mixed up by rounding to float."""
    hashes = np.uint64(2**63) + np.arange(40, dtype=np.uint64).repeat(5)
    assert clustered.accuracy(np.ones(200, np.bool_), hashes, hashes).clusters == 40


def test_r_squared_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(-20, 21, 500)
    for noise in (0.1, 5.0, 60.0):
        predicted = y + noise * rng.normal(size=500)
        interval = clustered.r_squared(y, predicted, np.arange(500), np.arange(500))
        assert interval.estimate == pytest.approx(r2_score(y, predicted))
        assert interval.low < interval.estimate < interval.high


def test_bootstrap_is_fixed_by_its_seed_and_narrows_with_data() -> None:
    correct, skeletons = clustered_answers(0)
    first, again, other = (clustered.accuracy(correct, skeletons, skeletons, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.estimate == other.estimate
    assert first.low != other.low
    more, more_skeletons = clustered_answers(0, clusters=400)
    wide = first.high - first.low
    narrow = clustered.accuracy(more, more_skeletons, more_skeletons)
    assert narrow.high - narrow.low == pytest.approx(wide / 2, rel=0.25)


def test_no_data_has_no_interval() -> None:
    nothing = np.zeros(0)
    with pytest.raises(ValueError, match="no clusters to resample: the score rests on no data"):
        clustered.accuracy(nothing.astype(bool), nothing, nothing)


def test_columns_of_a_score() -> None:
    assert clustered.columns("ridge", "R2", clustered.Interval(0.5, 0.4, 0.6, 31)) == {
        "probe": "ridge",
        "metric": "R2",
        "score": 0.5,
        "low": 0.4,
        "high": 0.6,
        "clusters": 31,
    }
    assert clustered.interval_names("gap") == ("gap", "gap_low", "gap_high")
    assert clustered.interval_columns("gap", 0.5, 0.4, 0.6) == {"gap": 0.5, "gap_low": 0.4, "gap_high": 0.6}
