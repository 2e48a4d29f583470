"""Which rows are multiplied, added and subtracted: every mask's sum over rows must come out, and cheaply."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from probes.solvers.rows import BatchLabels, MaskProducts


def sums(products: MaskProducts, numbers: np.ndarray) -> np.ndarray:
    """By mask, the sum of a number per row, as the products are added up."""
    parts = [numbers[products.order[begin:end]].sum() for begin, end in itertools.pairwise(products.bounds)]
    return products.weights @ np.array(parts, float)


def independent(masks: int = 6, rows: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((masks, rows)) < rng.random((masks, 1))


def similar(masks: int = 40, rows: int = 300, seed: int = 1) -> np.ndarray:
    """Masks that differ from three in a few rows each; some alike, one empty, one full."""
    rng = np.random.default_rng(seed)
    defined = independent(3, rows, seed)[rng.integers(0, 3, masks)] ^ (rng.random((masks, rows)) < 0.02)
    defined[1], defined[2], defined[3] = defined[0], False, True
    return defined


@pytest.mark.parametrize("way", [MaskProducts.of, MaskProducts.partition, MaskProducts.differences])
@pytest.mark.parametrize(
    "defined",
    [independent(), similar(), np.zeros((3, 20), np.bool_), np.ones((3, 20), np.bool_), np.ones((1, 0), np.bool_)],
    ids=["independent", "similar", "empty", "full", "no rows"],
)
def test_every_mask_gets_the_sum_over_its_rows(way, defined: np.ndarray) -> None:
    numbers = np.random.default_rng(2).integers(-50, 50, defined.shape[1])
    assert np.array_equal(sums(way(defined), numbers), defined @ numbers)


def test_independent_masks_share_rows_and_similar_ones_differences() -> None:
    few, many = independent(3), similar(rows=3000)
    assert len(MaskProducts.of(few).order) == few.any(0).sum(), "each row once"
    chosen, parts = MaskProducts.of(many), MaskProducts.partition(many)
    assert len(chosen.order) < 0.2 * many.sum()
    assert len(chosen.order) + chosen.weights.size < 0.5 * (len(parts.order) + parts.weights.size)


def test_rows_without_some_are_those_of_the_rest() -> None:
    values = np.random.default_rng(4).integers(-9, 10, (300, 40))
    defined, left_out = similar(), np.arange(300) % 7 == 0
    rows = BatchLabels.of(values, defined.T, np.arange(40)).without(left_out)
    assert np.array_equal(rows.defined, defined & ~left_out)
    assert np.array_equal(rows.codes, np.where(rows.defined.T, values + 99, -1))
    assert np.array_equal(sums(rows.products, np.arange(300)), rows.defined @ np.arange(300))
