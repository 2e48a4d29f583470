"""The labels of a batch, sorted out once for the banks of every site: codes, masks, and the products to be formed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from cadmus.states.variables import MAX_ABS_VALUE


@dataclass(frozen=True)
class MaskProducts:
    """Parts of the rows whose second moments, added and subtracted, are those under every mask: part k is
    order[bounds[k]:bounds[k + 1]], and weights float32 [masks, parts] says what a mask makes of it: 1, -1 or 0."""

    order: np.ndarray
    bounds: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, defined: np.ndarray) -> MaskProducts:
        """defined bool [masks, rows] -> the cheaper of `partition` and `differences`."""
        if defined.all():
            masks, rows = defined.shape
            return cls(np.arange(rows), np.array([0, rows]), np.ones((masks, 1), np.float32))
        ways = cls.partition(defined), cls.differences(defined)
        return min(ways, key=lambda way: len(way.order) + way.weights.size)

    @classmethod
    def partition(cls, defined: np.ndarray) -> MaskProducts:
        """Parts of rows that the same masks have: no row is multiplied twice, but there may be many parts."""
        rows = np.flatnonzero(defined.any(0))
        first, part = _distinct(defined[:, rows].T)
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange(len(first) + 1))
        return cls(rows[order], bounds, defined[:, rows[first]].astype(np.float32))

    @classmethod
    def differences(cls, defined: np.ndarray) -> MaskProducts:
        """Every mask from a similar one, by the rows that it has more and those that it lacks: along the minimum
        spanning tree of the masks and the empty set, whose edges are as long as the masks are different."""
        masks = len(defined)
        counted = np.concatenate([defined, np.zeros((1, defined.shape[1]), np.bool_)]).astype(np.float32)
        common, size = (counted @ counted.T).astype(float), counted.sum(1)
        apart = size[:, None] + size - 2 * common
        tree = minimum_spanning_tree(apart + 0.5)  # 0 would be no edge
        order, parents = breadth_first_order(tree, masks, directed=False)
        weights, parts = np.zeros((masks + 1, 2 * masks), np.float32), []
        for mask in order[1:]:
            parent = parents[mask]
            before = defined[parent] if parent < masks else np.zeros_like(defined[mask])
            weights[mask] = weights[parent]
            for sign, rows in ((1, defined[mask] & ~before), (-1, before & ~defined[mask])):
                if rows.any():
                    weights[mask, len(parts)] = sign
                    parts.append(np.flatnonzero(rows))
        bounds = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
        return cls(np.concatenate([*parts, np.zeros(0, np.int64)]), bounds, weights[:masks, : len(parts)])


@dataclass(frozen=True)
class BatchLabels:
    """The labels of a batch: class codes int16 [rows, targets] (-1: none), and defined bool [masks, rows]."""

    codes: np.ndarray
    defined: np.ndarray

    @cached_property
    def products(self) -> MaskProducts:
        """Made where they are asked for: sums of one-hot features do without."""
        return MaskProducts.of(self.defined)

    @classmethod
    def of(cls, values: np.ndarray, defined: np.ndarray, mask_of: np.ndarray) -> BatchLabels:
        """values int [rows, targets], |values| <= 99 where defined; defined bool [rows, masks]; mask_of int [targets]:
        the mask of each target."""
        shown = defined[:, mask_of]
        outside = shown & (abs(values) > MAX_ABS_VALUE)
        if outside.any():
            row, target = np.argwhere(outside)[0]
            raise ValueError(
                f"target {target} has the value {values[row, target]}; numbers are probed on |v| <= {MAX_ABS_VALUE}: "
                "leave such rows out of its mask"
            )
        codes = np.where(shown, values + MAX_ABS_VALUE, -1).astype(np.int16)
        return cls(codes, np.ascontiguousarray(defined.T))

    def without(self, rows: np.ndarray) -> BatchLabels:
        """The same without some rows, which stay in place: bool [rows]."""
        return BatchLabels(np.where(rows[:, None], -1, self.codes).astype(np.int16), self.defined & ~rows)


def _distinct(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of bool [rows, masks]: the first of every set of equal rows, and which set each row belongs to."""
    bits = np.packbits(masks, axis=1)
    words = np.zeros((len(bits), -(-bits.shape[1] // 8) * 8), np.uint8)
    words[:, : bits.shape[1]] = bits
    words = words.view(np.uint64)
    if words.shape[1] == 1:  # numbers are sorted far faster than rows
        _, first, cell = np.unique(words[:, 0], return_index=True, return_inverse=True)
    else:
        _, first, cell = np.unique(words, axis=0, return_index=True, return_inverse=True)
    return first, cell.ravel()
