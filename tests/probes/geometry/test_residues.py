"""Which residues are told apart: those of a planted code's periods, on held-out values, and no others."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from probes.geometry.residues import SHRINKAGES, _Split, separability
from probes.geometry.value_statistics import ValueStatistics
from tests.number_codes import planted, rows


def test_discriminants_are_scikit_learns() -> None:
    """On one split: LDA of the value means, whose shared covariance has the shrinkage added."""
    rng = np.random.default_rng(1)
    y = rng.normal(size=(60, 7)) + rng.normal(size=(3, 7))[np.arange(60) % 3]
    train, test = np.arange(60) % 5 > 0, np.arange(60) % 5 == 0
    residues = np.stack([np.arange(60) % 3, rng.permutation(60) % 3])
    split = _Split(y, np.ones(60), np.flatnonzero(train), np.flatnonzero(test))
    correct = split.correct(residues, 3)  # [shrinkages, labellings, tested values]
    for shrinkage, by_labelling in zip(SHRINKAGES, correct, strict=True):
        for labels, ours in zip(residues, by_labelling, strict=True):

            class Covariance:
                def fit(self, x: np.ndarray, shrinkage: float = shrinkage) -> Covariance:
                    self.covariance_ = np.cov(x.T, bias=True) + shrinkage * np.eye(7)
                    return self

            shares = np.bincount(labels[train]) / train.sum()
            reference = LinearDiscriminantAnalysis("lsqr", priors=shares, covariance_estimator=Covariance())
            reference.fit(y[train], labels[train])
            reference.intercept_ -= np.log(shares)  # ours holds residues equally likely
            assert np.array_equal(ours, reference.predict(y[test]) == labels[test])


def test_residues_of_a_circle_are_separable() -> None:
    """Those of its period only: v mod 5 is two opposite points of a circle of period 10, v mod 2 every other point."""
    table = separability(planted("circular")).set_index("period")
    assert table.loc[10, "low"] > 0.9
    rest = table.drop(10)
    assert (rest.low < rest.chance + 0.1).all()
    assert (table.control < table.chance + 0.1).all()


def test_residues_of_several_circles_and_of_a_helix_are_separable() -> None:
    table = separability(planted("Fourier"), [2, 5, 10, 3]).set_index("period")
    assert table.loc[[2, 5, 10], "low"].min() > 0.9
    assert table.loc[[2, 5, 10], "chance"].max() < 0.6
    assert table.loc[3, "low"] < table.loc[3, "chance"]
    assert separability(planted("helix"), [10]).score[0] > 0.95


def test_residues_of_a_line_and_of_noise_are_not_separable() -> None:
    for code in ("linear", "nothing"):
        table = separability(planted(code))
        assert (table.low > table.chance).sum() <= 1
        assert (table.score < table.chance + 0.1).all()


def test_intervals_are_wilsons() -> None:
    row = separability(planted("nothing"), [2]).iloc[0]
    p, n, z = row.score, row["values"], 1.959964
    centre, half = (p + z**2 / (2 * n)), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert np.allclose([row.low, row.high], [(centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)])


def test_chance_is_the_most_frequent_residue() -> None:
    """Of all values that are judged: of -20..20, 21 are even."""
    table = separability(planted("nothing", 1.0, np.arange(-20, 21)), [2, 3, 10], permutations=1)
    assert np.allclose(table.chance, np.array([21, 14, 5]) / 41)


def test_a_seed_fixes_the_table() -> None:
    statistics = planted("helix", 1.0, np.arange(-15, 16))
    tables = [separability(statistics, [2, 3], seed=seed, permutations=1) for seed in (1, 1, 2)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].score.equals(tables[2].score)
    assert (tables[0].rows == statistics.counts.sum()).all()


def test_what_cannot_be_told_is_refused() -> None:
    x, v = rows()
    few, whole = ValueStatistics.from_rows(x, v % 5), ValueStatistics.from_rows(x, v)
    for call, message in [
        (lambda: separability(few), "5 distinct values; expected 8 or more; gather rows of other values"),
        (lambda: separability(whole, [13]), "period 13 of 25 values; expected 2 to 12; lower it or gather more values"),
    ]:
        with pytest.raises(ValueError, match="expected") as caught:
            call()
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
