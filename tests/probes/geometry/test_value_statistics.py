"""Statistics by value are sums that add up, and arrays that cannot be such statistics are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from probes.geometry.number_bases import compare
from probes.geometry.residues import separability
from probes.geometry.value_statistics import ValueStatistics, leave_out
from tests.number_codes import rows


def test_statistics_are_sums_by_value() -> None:
    x, v = rows()
    statistics = ValueStatistics.from_rows(x, v)
    assert statistics.values.tolist() == sorted(set(v.tolist()))
    assert repr(statistics) == "ValueStatistics(25 values, 300 rows, 5 features)"
    for value, count, total in zip(statistics.values, statistics.counts, statistics.sums):
        assert count == (v == value).sum()
        assert np.allclose(total, x[v == value].sum(0))
    assert np.allclose(statistics.scatter, sum(np.outer(row, row) for row in x))


def test_merged_statistics_are_those_of_one_pass() -> None:
    x, v = rows()
    whole = ValueStatistics.from_rows(x, v)
    parts = [ValueStatistics.from_rows(x[at], v[at]) for at in (slice(0, 1), slice(1, 9), slice(9, 9), slice(9, None))]
    merged = parts[3] + parts[0] + parts[2] + parts[1]
    for name in ("values", "counts", "sums", "scatter"):
        assert np.allclose(getattr(merged, name), getattr(whole, name)), name
    pd.testing.assert_frame_equal(compare(merged, 2, permutations=1), compare(whole, 2, permutations=1))


def test_values_without_rows_do_not_count() -> None:
    whole = ValueStatistics.from_rows(*rows())
    empty = ValueStatistics(np.array([-99, 98, 99]), np.zeros(3, int), np.zeros((3, 5)), np.zeros((5, 5)))
    pd.testing.assert_frame_equal(compare(whole + empty, 2, permutations=1), compare(whole, 2, permutations=1))
    pd.testing.assert_frame_equal(separability(whole + empty, [3]), separability(whole, [3]))


def test_folds_leave_out_values_over_the_whole_range_and_no_residue_class() -> None:
    fold = leave_out(121, 5, np.random.default_rng(0))
    for k in range(5):
        at = np.flatnonzero(fold == k)
        assert len(at) in (24, 25)
        assert np.diff(at).max() <= 9
        assert len(set(at % 5)) == len(set(at % 2) | {2, 3, 4}) == 5


def test_rows_that_do_not_fit_are_refused() -> None:
    x, v = rows()
    whole = ValueStatistics.from_rows(x, v)
    broken = np.where(np.arange(300)[:, None] < 7, np.nan, x)
    for call, message in [
        (lambda: ValueStatistics.from_rows(broken, v), "the activations are not finite in 7 of 300 rows; leave those"),
        (lambda: ValueStatistics.from_rows(x, v / 1), r"activations (300, 5) and float64 values (300,); expected [row"),
        (lambda: ValueStatistics.from_rows(x, v[:9]), "activations (300, 5) and int64 values (9,); expected [rows, f"),
        (lambda: whole + ValueStatistics.from_rows(x[:, :2], v), "5 and 2 features; expected as many; add statistics"),
    ]:
        with pytest.raises(ValueError, match="; ") as caught:
            call()
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


def test_statistics_that_do_not_belong_together_are_refused() -> None:
    valid = {"values": np.arange(3), "counts": np.ones(3), "sums": np.zeros((3, 2)), "scatter": np.eye(2)}
    for change, message in [
        ({"counts": np.ones(4)}, "values, counts, sums, scatter have shapes"),
        ({"values": np.array([0, 2, 1])}, "expected increasing integers; sort them first"),
        ({"scatter": np.full((2, 2), np.inf)}, "the sums of squared activations are not finite; leave out"),
    ]:
        with pytest.raises(ValueError, match=message):
            ValueStatistics(**{**valid, **change})
