"""The labels of a batch, sorted out once for the banks of every site: classes, masks, and the products to be formed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from cadmus.states.variables import MAX_ABS_VALUE
from probes.data.examples import Labelled


@dataclass(frozen=True)
class MaskProducts:
    """Parts of the rows whose second moments, added and subtracted, are those under every mask.

    Rows that many masks share are multiplied once for all of them, in one of two ways. With many masks that are alike
    `differences` wins: of the 73 masks of the default state report on 32,749 rows of width 128 they take 0.06 s, where
    `partition` takes 0.26 s. With few it is `partition`: 0.016 s where the 9 masks of its present states take 0.020 s
    by differences (one core; `python -m benchmarks bank` has a smaller case).
    """

    order: np.ndarray
    """Rows, part after part: int64."""

    bounds: np.ndarray
    """Part k is order[bounds[k]:bounds[k + 1]]: int64 [parts + 1]."""

    weights: np.ndarray
    """How part k enters the sum of a mask, 1, -1 or 0: float32 [masks, parts]."""

    @classmethod
    def of(cls, masks: np.ndarray) -> MaskProducts:
        """Choose the cheaper of `partition` and `differences` for masks, bool [masks, rows]."""
        if masks.all():
            n_masks, n_rows = masks.shape
            return cls(np.arange(n_rows), np.array([0, n_rows]), np.ones((n_masks, 1), np.float32))
        ways = cls.partition(masks), cls.differences(masks)
        return min(ways, key=lambda way: len(way.order) + way.weights.size)

    @classmethod
    def partition(cls, masks: np.ndarray) -> MaskProducts:
        """Parts of rows that the same masks have: no row is multiplied twice, but there may be many parts."""
        rows = np.flatnonzero(masks.any(0))
        first, part = _distinct(masks[:, rows].T)
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange(len(first) + 1))
        return cls(rows[order], bounds, masks[:, rows[first]].astype(np.float32))

    @classmethod
    def differences(cls, masks: np.ndarray) -> MaskProducts:
        """Each mask from a similar one, by the rows that it has more and those that it lacks: along the minimum
        spanning tree of the masks and the empty set, whose edges are as long as the masks are different."""
        n_masks = len(masks)
        with_empty = np.concatenate([masks, np.zeros((1, masks.shape[1]), np.bool_)])
        counted = with_empty.astype(np.float32)
        common, size = (counted @ counted.T).astype(float), counted.sum(1)
        distances = size[:, None] + size - 2 * common
        tree = minimum_spanning_tree(distances + 0.5)  # 0 would be no edge
        order, parents = breadth_first_order(tree, n_masks, directed=False)
        weights = np.zeros((n_masks + 1, 2 * n_masks), np.float32)
        parts: list[np.ndarray] = []
        for mask in order[1:]:
            own, parent = with_empty[mask], with_empty[parents[mask]]
            weights[mask] = weights[parents[mask]]
            for sign, rows in ((1, own & ~parent), (-1, parent & ~own)):
                if rows.any():
                    weights[mask, len(parts)] = sign
                    parts.append(np.flatnonzero(rows))
        bounds = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
        return cls(np.concatenate([*parts, np.zeros(0, np.int64)]), bounds, weights[:n_masks, : len(parts)])


@dataclass(frozen=True, repr=False)
class BatchLabels:
    """The labels of the rows of a batch, as banks add them up."""

    classes: np.ndarray
    """The value's place among -99..99, -1 where the target is not defined: int16 [rows, targets]."""

    masks: np.ndarray
    """Where the targets of each mask are defined: bool [masks, rows]."""

    mask_of: np.ndarray
    """The mask of each target: int64 [targets]."""

    @cached_property
    def products(self) -> MaskProducts:
        """The products to be formed. Computed lazily: `OneHotBank` does not need them."""
        return MaskProducts.of(self.masks)

    @classmethod
    def of(cls, values: np.ndarray, masks: np.ndarray, mask_of: np.ndarray) -> BatchLabels:
        """Make them of values int [rows, targets], masks bool [rows, masks] and the mask of each target, int [targets].

        Raises ValueError for a value beyond -99..99 where it is defined.
        """
        mask = masks[:, mask_of]
        outside = mask & (abs(values) > MAX_ABS_VALUE)
        if outside.any():
            row, target = np.argwhere(outside)[0]
            raise ValueError(
                f"target {target} has the value {values[row, target]}; numbers are probed on |v| <= {MAX_ABS_VALUE}: "
                "leave such rows out of its mask"
            )
        classes = np.where(mask, values + MAX_ABS_VALUE, -1).astype(np.int16)
        return cls(classes, np.ascontiguousarray(masks.T), np.asarray(mask_of))

    @classmethod
    def at(cls, labels: Labelled, programs: np.ndarray, positions: np.ndarray) -> BatchLabels:
        """The labels of a batch's tokens: programs and positions int64 [rows], among those that were labelled."""
        rows = labels.rows_at(programs, positions)
        return cls.of(labels.values[rows], labels.masks[rows], labels.mask_of)

    @classmethod
    def concatenate(cls, parts: Sequence[BatchLabels]) -> BatchLabels:
        """The rows of several batches, one after the other."""
        return cls(
            np.concatenate([part.classes for part in parts]),
            np.concatenate([part.masks for part in parts], 1),
            parts[0].mask_of,
        )

    def __len__(self) -> int:
        return len(self.classes)

    def __repr__(self) -> str:
        return f"BatchLabels({len(self):,} rows, {len(self.mask_of)} targets, {len(self.masks)} masks)"

    @property
    def mask(self) -> np.ndarray:
        """Where each target is defined: bool [rows, targets]."""
        return self.classes >= 0

    def of_target(self, target: int) -> tuple[np.ndarray, np.ndarray]:
        """(values int64, 0 where the target is not defined, mask bool) of one target, both [rows]."""
        mask = self.classes[:, target] >= 0
        return np.where(mask, self.classes[:, target].astype(np.int64) - MAX_ABS_VALUE, 0), mask

    def select(self, targets: np.ndarray) -> BatchLabels:
        """The labels of some targets, int [selected]; the masks, which they number, stay."""
        return replace(self, classes=np.ascontiguousarray(self.classes[:, targets]), mask_of=self.mask_of[targets])

    def without(self, rows: np.ndarray) -> BatchLabels:
        """Leave out some rows, bool [rows], which stay in place: no target is defined there."""
        classes = np.where(rows[:, None], -1, self.classes).astype(np.int16)
        return replace(self, classes=classes, masks=self.masks & ~rows)


def _distinct(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group equal rows of masks, bool [rows, masks]: the first row of each group, and the group of each row."""
    bits = np.packbits(masks, axis=1)
    words = np.zeros((len(bits), -(-bits.shape[1] // 8) * 8), np.uint8)
    words[:, : bits.shape[1]] = bits
    words = words.view(np.uint64)
    if words.shape[1] == 1:  # numbers are sorted far faster than rows
        _, first, group = np.unique(words[:, 0], return_index=True, return_inverse=True)
    else:
        _, first, group = np.unique(words, axis=0, return_index=True, return_inverse=True)
    return first, group.ravel()
