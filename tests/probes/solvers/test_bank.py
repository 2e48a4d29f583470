"""Streamed sums against plain ones over all rows: whatever the batches, masks and processes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from probes.data.examples import labelled
from probes.data.targets import Target
from probes.solvers.bank import Bank, OneHotBank
from probes.solvers.moments import Moments
from probes.solvers.rows import BatchLabels
from tests.planted import examples

MASK_OF = np.array([0, 1, 1, 2])  # of four targets; mask 3 has none


def labels(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """values int [n, 4] and defined bool [n, 4 masks]; what is not defined is out of range."""
    rng = np.random.default_rng(seed)
    defined = rng.random((n, 4)) < [1.0, 0.6, 0.3, 0.5]
    values = np.stack([rng.integers(-99, 100, n), *rng.integers(-3, 4, (2, n)), rng.integers(0, 2, n)], 1)
    return np.where(defined[:, MASK_OF], values, 12345), defined


def activations(n: int = 400, features: int = 7, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, features)) @ rng.normal(size=(features, features)) + 3).astype(np.float32)


def banked(x: np.ndarray, values: np.ndarray, defined: np.ndarray, cuts: tuple[int, ...] = ()) -> Bank:
    bank = Bank(x.shape[1], MASK_OF, masks=defined.shape[1])
    for part in zip(*(np.split(array, cuts) for array in (x, values, defined)), strict=True):
        bank.update(part[0], BatchLabels.of(*part[1:], MASK_OF))
    return bank


def check(moments: Moments, expected: Moments, rtol: float = 1e-5) -> None:
    size = {
        "xy": np.sqrt(np.diag(expected.scatter)[:, None] * expected.yy.clip(1e-9)),
        "scatter": expected.scatter.max(),
    }
    assert moments.n == expected.n
    for name in ("mean", "scatter", "y_mean", "xy", "yy"):
        a, b = getattr(moments, name), getattr(expected, name)
        assert a.shape == b.shape, name
        assert np.abs((a - b) / size.get(name, np.abs(b).max() + 1e-9)).max() < rtol, name


def check_bank(bank: Bank, x: np.ndarray, values: np.ndarray, defined: np.ndarray) -> None:
    for target, mask in enumerate(MASK_OF):
        rows = defined[:, mask]
        y = values[rows, target]
        classes = np.unique(y)
        assert bank.rows(target) == rows.sum()
        assert np.array_equal(bank.classes(target), classes)
        check(bank.moments(target, classes), Moments.of(x[rows], y[:, None] == classes))
        check(bank.numbers([target]), Moments.of(x[rows], y[:, None]))
    rows = defined[:, 1]
    check(bank.numbers([1, 2]), Moments.of(x[rows], values[rows][:, [1, 2]]))


@pytest.mark.parametrize("cuts", [(), (1,), (150, 151, 390), tuple(range(40, 400, 40))])
def test_a_bank_holds_the_sums_over_all_rows(cuts: tuple[int, ...]) -> None:
    x, (values, defined) = activations(), labels()
    bank = banked(x, values, defined, cuts)
    check_bank(bank, x, values, defined)
    assert bank.n_not_finite == 0


def test_second_moments_are_formed_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probes.solvers.bank._PRODUCT_BYTES", 3 * 4 * 7**2)  # of eight parts
    x, (values, defined) = activations(), labels()
    assert BatchLabels.of(values, defined, MASK_OF).products.weights.shape[1] >= 8
    check_bank(banked(x, values, defined), x, values, defined)


def test_classes_that_are_not_asked_for_are_rows_of_no_class() -> None:
    x, (values, defined) = activations(), labels()
    rows, classes = defined[:, 1], np.array([-2, 0, 3, 50])
    expected = Moments.of(x[rows], values[rows, 1][:, None] == classes)
    check(banked(x, values, defined).moments(1, classes), expected)
    assert expected.yy[3] == 0
    assert expected.y_mean.sum() < 0.6


def test_banks_of_different_rows_add_up() -> None:
    x, (values, defined) = activations(), labels()
    x[250:] += 40  # another centre
    left, right = (banked(x[part], values[part], defined[part], (90,)) for part in (slice(0, 250), slice(250, 400)))
    before = left.xx.copy(), left.sums.copy()
    check_bank(left + right, x, values, defined)
    assert np.array_equal(left.xx, before[0])
    assert np.array_equal(left.sums, before[1])
    empty = Bank(7, MASK_OF, masks=4)
    for total in (left + empty + right, empty + left + right):
        check_bank(total, x, values, defined)
    assert (empty + empty).rows(0) == 0


def test_banks_that_do_not_fit_are_not_added() -> None:
    bank = Bank(7, MASK_OF, masks=4)
    for other in (
        Bank(6, MASK_OF, masks=4),
        Bank(7, MASK_OF[::-1], masks=4),
        Bank(7, MASK_OF, 5),
        OneHotBank(7, MASK_OF, 4),
    ):
        with pytest.raises(
            ValueError, match="banks of different targets or widths do not add up; make both with the same"
        ):
            bank + other


@pytest.mark.parametrize("mean", [1e2, 1e4])
def test_a_mean_far_beyond_the_spread_costs_no_digits(mean: float) -> None:
    """Sums of squares in single precision would be all rounding: they are formed about a centre near the mean."""
    (values, defined), rng = labels(4000), np.random.default_rng(2)
    x = (rng.normal(size=(4000, 7)) + mean * rng.normal(size=7)).astype(np.float32)
    rows = defined[:, 1]
    y = values[rows, 1][:, None] == np.arange(-3, 4)
    naive = x[rows].T @ x[rows] - rows.sum() * np.outer(x[rows].mean(0), x[rows].mean(0))
    expected = Moments.of(x[rows], y)
    assert np.abs(naive - expected.scatter).max() > 1e-3 * expected.scatter.max()
    check(banked(x, values, defined, (100, 2000)).moments(1, np.arange(-3, 4)), expected)


def test_rows_that_are_not_finite_are_left_out_and_counted() -> None:
    x, (values, defined) = activations(), labels()
    broken = np.random.default_rng(3).choice(400, 60, replace=False)
    x[broken[:50], 2] = np.nan
    x[broken[50:], 5] = np.inf
    x[200:210] = np.nan  # a batch of nothing else
    sound = np.isfinite(x).all(1)
    for cuts in ((), (100, 200, 210)):
        bank = banked(x, values, defined, cuts)
        check_bank(bank, x[sound], values[sound], defined[sound])
        assert bank.n_not_finite == (~sound).sum()
    nothing = banked(np.full_like(x, np.nan), values, defined)
    assert (nothing.n_not_finite, nothing.rows(0)) == (400, 0)
    assert (nothing + banked(x[sound], values[sound], defined[sound])).n_not_finite == 400


def test_a_bank_of_labels_has_their_targets_and_masks() -> None:
    part = examples(120)
    labelled_part = labelled(part, [Target("stack.0.value"), Target("depth"), Target("stack.0.value", permuted=True)])
    rows = BatchLabels.at(labelled_part, *np.nonzero(part.where))
    for bank in (Bank.of(labelled_part, 5), Bank.of(rows, 5)):
        assert np.array_equal(bank.mask_of, [0, 1, 0])
        assert bank.xx.shape == (2, 5, 5)
    assert Bank.of(rows.select(np.array([0, 2])), 5).xx.shape == (2, 5, 5), "masks are numbered as before"
    assert isinstance(OneHotBank.of(rows, 5), OneHotBank)


def test_no_rows_have_no_moments() -> None:
    bank = Bank(7, MASK_OF)
    for moments in (lambda: bank.moments(2, np.arange(2)), lambda: bank.numbers([2])):
        with pytest.raises(ValueError, match="target 2 has no rows"):
            moments()


def test_values_beyond_99_are_refused() -> None:
    values, defined = np.array([[5, -100], [99, 3]]), np.ones((2, 1), np.bool_)
    message = r"target 1 has the value -100; numbers are probed on \|v\| <= 99: leave such rows out of its mask"
    with pytest.raises(ValueError, match=message):
        BatchLabels.of(values, defined, np.array([0, 0]))
    BatchLabels.of(values, np.array([[True, False], [True, True]]), np.array([0, 1]))


def test_one_hot_features_are_never_materialized() -> None:
    rng = np.random.default_rng(4)
    values, defined = labels()
    ids = rng.integers(0, 5, (400, 3)) + np.arange(0, 15, 5)
    ids[rng.random(ids.shape) < 0.2] = -1
    x = np.zeros((400, 16), np.float32)
    np.put_along_axis(x, ids, 1, 1)
    bank = OneHotBank(15, MASK_OF, masks=4)
    parts = [OneHotBank(15, MASK_OF, masks=4) for _ in range(2)]
    for part in (slice(0, 130), slice(130, 400)):
        rows = BatchLabels.of(values[part], defined[part], MASK_OF)
        bank.update(ids[part], rows)
        parts[part.start > 0].update(ids[part], rows)
    check_bank(bank, x[:, :15], values, defined)
    check_bank(parts[0] + parts[1], x[:, :15], values, defined)
    assert isinstance(parts[0] + parts[1], OneHotBank)


def test_memory_does_not_grow_with_the_rows() -> None:
    values, defined = labels(2000)
    x, rows = activations(2000, 64), BatchLabels.of(values, defined, MASK_OF)
    bank = Bank(64, MASK_OF, masks=4).update(x, rows)  # compiled, and its arrays made
    peaks = []
    for batches in (2, 10):
        tracemalloc.start()
        for _ in range(batches):
            bank.update(x, rows)
        peaks.append(tracemalloc.get_traced_memory())
        tracemalloc.stop()
    assert peaks[1][1] < 1.1 * peaks[0][1]
    assert peaks[1][0] < x.nbytes, "a batch was kept"


# --- moments ---------------------------------------------------------------------------------------------------------


def test_moments_of_parts_are_those_of_all() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(90, 4)) + 1e3, rng.normal(size=(90, 2)) - 50
    x[40:] += 7
    whole = Moments.of(x, y)
    assert np.allclose(whole.scatter, 90 * np.cov(x.T, bias=True))
    assert np.allclose(whole.xy, (x - x.mean(0)).T @ (y - y.mean(0)))
    parts = [Moments.of(x[rows], y[rows]) for rows in (slice(0, 1), slice(1, 40), slice(40, 90))]
    check(parts[0] + parts[1] + parts[2], whole, 1e-10)
    check(parts[2] + (parts[1] + parts[0]), whole, 1e-10)


def test_moments_about_other_means_and_of_functions_of_the_class() -> None:
    rng = np.random.default_rng(6)
    x, codes = rng.normal(size=(80, 4)), rng.integers(0, 5, 80)
    y, mean, y_mean = np.eye(5)[codes], rng.normal(size=4), rng.normal(size=5)
    scatter, xy, yy = Moments.of(x, y).about(mean, y_mean)
    assert np.allclose(scatter, (x - mean).T @ (x - mean))
    assert np.allclose(xy, (x - mean).T @ (y - y_mean))
    assert np.allclose(yy, ((y - y_mean) ** 2).sum(0))
    outputs = rng.normal(size=(5, 3))
    check(Moments.of(x, y).mapped(outputs), Moments.of(x, outputs[codes]), 1e-10)
