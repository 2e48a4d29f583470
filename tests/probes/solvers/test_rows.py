"""Which rows are multiplied, added and subtracted: every mask's sum over rows must come out, and cheaply."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from probes.data.examples import labelled
from probes.data.targets import Target
from probes.solvers.rows import BatchLabels, MaskProducts
from tests.planted import examples


def sums(products: MaskProducts, numbers: np.ndarray) -> np.ndarray:
    """The sum of a number per row, by mask, as the products are added up."""
    parts = [numbers[products.order[begin:end]].sum() for begin, end in itertools.pairwise(products.bounds)]
    return products.weights @ np.array(parts, float)


def independent(masks: int = 6, rows: int = 300, seed: int = 0) -> np.ndarray:
    """Masks bool [masks, rows] that have nothing to do with one another."""
    rng = np.random.default_rng(seed)
    return rng.random((masks, rows)) < rng.random((masks, 1))


def similar(masks: int = 40, rows: int = 300, seed: int = 1) -> np.ndarray:
    """Masks that differ from three in a few rows each; some alike, one empty, one full."""
    rng = np.random.default_rng(seed)
    result = independent(3, rows, seed)[rng.integers(0, 3, masks)] ^ (rng.random((masks, rows)) < 0.02)
    result[1] = result[0]
    result[2] = False
    result[3] = True
    return result


@pytest.mark.parametrize(
    "masks",
    [independent(), similar(), np.zeros((3, 20), np.bool_), np.ones((3, 20), np.bool_), np.ones((1, 0), np.bool_)],
    ids=["independent", "similar", "empty", "full", "no rows"],
)
def test_every_mask_gets_the_sum_over_its_rows(masks: np.ndarray) -> None:
    numbers = np.random.default_rng(2).integers(-50, 50, masks.shape[1])
    for way in (MaskProducts.of, MaskProducts.partition, MaskProducts.differences):
        assert np.array_equal(sums(way(masks), numbers), masks @ numbers), way.__name__


def test_independent_masks_share_rows_and_similar_ones_differences() -> None:
    few, many = independent(3), similar(rows=3000)
    assert len(MaskProducts.of(few).order) == few.any(0).sum(), "each row once"
    cheaper, partition = MaskProducts.of(many), MaskProducts.partition(many)
    assert len(cheaper.order) < 0.2 * many.sum()
    assert len(cheaper.order) + cheaper.weights.size < 0.5 * (len(partition.order) + partition.weights.size)


def test_rows_without_some_are_those_of_the_rest() -> None:
    values = np.random.default_rng(4).integers(-9, 10, (300, 40))
    masks, left_out = similar(), np.arange(300) % 7 == 0
    rows = BatchLabels.of(values, masks.T, np.arange(40)).without(left_out)
    assert np.array_equal(rows.masks, masks & ~left_out)
    assert np.array_equal(rows.classes, np.where(rows.masks.T, values + 99, -1))
    assert np.array_equal(sums(rows.products, np.arange(300)), rows.masks @ np.arange(300))


def test_labels_of_some_targets_and_of_several_batches() -> None:
    values = np.random.default_rng(5).integers(-9, 10, (300, 40))
    masks, mask_of = similar(), np.arange(40)[::-1]
    whole = BatchLabels.of(values, masks.T, mask_of)
    parts = [BatchLabels.of(values[rows], masks.T[rows], mask_of) for rows in (slice(0, 120), slice(120, 300))]
    together = BatchLabels.concatenate(parts)
    assert len(together) == 300
    for name in ("classes", "masks", "mask_of"):
        assert np.array_equal(getattr(together, name), getattr(whole, name)), name
    some = whole.select(np.array([7, 2]))
    assert np.array_equal(some.mask, masks.T[:, mask_of[[7, 2]]])
    for k, target in enumerate((7, 2)):
        column, mask = some.of_target(k)
        assert np.array_equal(mask, some.mask[:, k])
        assert np.array_equal(column, np.where(mask, values[:, target], 0))


def test_labels_of_a_batch_are_those_of_its_tokens() -> None:
    part = examples(120)
    labels = labelled(part, [Target("stack.0.value"), Target("depth"), Target("stack.0.kind")])
    programs, positions = (index[::3] for index in np.nonzero(part.where))
    rows = BatchLabels.at(labels, programs, positions)
    values, mask = labels.at(programs, positions)
    assert np.array_equal(rows.mask, mask)
    assert np.array_equal(rows.classes[mask], values[mask] + 99)
    assert np.array_equal(rows.mask_of, labels.mask_of)
