"""Sufficient statistics of linear probes: sums over rows that every probe of a site is a function of.

A `Bank` gathers, for one site, the second moments of the activations under every mask (which rows a target has) and the
sum of the activations by target and class: one pass, many targets, memory flat in the rows. `moments` turns them into
what `probes.solvers.linear` solves: ridge regression for numbers, least-squares and discriminant classifiers for
categories. Banks of different rows add up.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import numpy as np

from cadmus.machine.jit import jit
from cadmus.states.variables import MAX_ABS_VALUE
from probes.data.examples import Labelled
from probes.solvers.moments import Moments
from probes.solvers.rows import BatchLabels, MaskProducts

CLASSES = 2 * MAX_ABS_VALUE + 1
_PRODUCT_BYTES = 64e6  # of second moments that are held apart at once


class Bank:
    """Sufficient statistics of one site: `update` batch after batch, `+` across processes, `moments(target)` to fit.

    mask_of int [targets]: which mask each target has; targets of one mask share their second moments. masks: how many
    there are, where some belong to no target.
    """

    def __init__(self, features: int, mask_of: np.ndarray, masks: int = 0):
        self.mask_of = np.asarray(mask_of)
        masks = max(masks, int(self.mask_of.max(initial=-1)) + 1)
        self.center: np.ndarray | None = None  # float32 [features], near the mean, so that float32 products are exact
        self.xx = np.zeros((masks, features, features))
        self.sums = np.zeros((len(self.mask_of), CLASSES, features))
        self.counts = np.zeros((len(self.mask_of), CLASSES))
        self.n_not_finite = 0  # rows left out: NaN or infinite

    @classmethod
    def of(cls, labels: Labelled | BatchLabels, features: int) -> Bank:
        """An empty bank of activations of so many features, for the targets of these labels."""
        n_masks = len(labels.masks) if isinstance(labels, BatchLabels) else labels.masks.shape[1]
        return cls(features, labels.mask_of, n_masks)

    def __repr__(self) -> str:
        masks, features, _ = self.xx.shape
        return f"{type(self).__name__}({features} features, {len(self.mask_of)} targets, {masks} masks)"

    def update(self, x: np.ndarray, rows: BatchLabels) -> Bank:
        """Add activations x, float [rows, features], with their labels; returns the bank itself.

        A row with an activation that is not finite is left out, and counted in `n_not_finite`.
        """
        x = np.asarray(x, np.float32)
        finite = np.isfinite(x @ np.ones(x.shape[1], np.float32))  # quick; finite rows may overflow
        if not finite.all():
            finite = np.isfinite(x).all(1)
        if not finite.all():
            self.n_not_finite += int((~finite).sum())
            if not finite.any():
                return self
            x = np.where(finite[:, None], x, x[finite].mean(0))
            rows = rows.without(~finite)
        if self.center is None:
            self.center = x.mean(0, dtype=np.float64).astype(np.float32)
        x = x - self.center
        _add_by_class(x, np.ascontiguousarray(rows.classes), self.sums, self.counts)
        self._add_products(x, rows.products)
        return self

    def _add_products(self, x: np.ndarray, products: MaskProducts) -> None:
        """Form a product per part, and add it to every mask or subtract it."""
        masks, features, _ = self.xx.shape
        total = self.xx.reshape(masks, -1)  # [masks, features * features], a view
        n_at_once = max(1, int(_PRODUCT_BYTES / (4 * features**2)))
        parts = [products.order[begin:end] for begin, end in itertools.pairwise(products.bounds)]
        for begin in range(0, len(parts), n_at_once):
            batch = parts[begin : begin + n_at_once]
            moments = np.empty((len(batch), features, features), np.float32)
            for product, rows in zip(moments, batch, strict=True):
                part = x if len(rows) == len(x) else x[rows]
                np.dot(part.T, part, out=product)
            # [masks, parts] @ [parts, features * features]
            total += products.weights[:, begin : begin + n_at_once] @ moments.reshape(len(batch), -1)

    def __add__(self, other: Bank) -> Bank:
        same = type(self) is type(other) and np.array_equal(self.mask_of, other.mask_of)
        if not same or self.xx.shape != other.xx.shape:
            raise ValueError("banks of different targets or widths do not add up; make both with the same arguments")
        total = type(self)(self.xx.shape[1], self.mask_of, len(self.xx))
        total.center = self.center if self.center is not None else other.center
        for bank in (self, other):
            if bank.center is not None:
                xx, sums = bank._moved_by(bank.center.astype(float) - total.center)
                total.xx += xx
                total.sums += sums
            total.counts += bank.counts
            total.n_not_finite += bank.n_not_finite
        return total

    def _moved_by(self, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The second moments [masks, features, features] and the sums [targets, classes, features] about another
        center: this one minus `step`."""
        n, x = np.zeros(len(self.xx)), np.zeros(self.xx.shape[:2])
        for target, mask in enumerate(self.mask_of):  # targets of one mask have the same rows
            n[mask], x[mask] = self.counts[target].sum(), self.sums[target].sum(0)
        outer = np.einsum("mi,j->mij", x, step)  # [masks, features, features]
        xx = self.xx + outer + outer.transpose(0, 2, 1) + n[:, None, None] * np.outer(step, step)
        return xx, self.sums + self.counts[:, :, None] * step

    def select(self, targets: np.ndarray) -> Bank:
        """The bank of some targets, int [selected]; the masks, which they number, are shared with this one."""
        selected = copy.copy(self)
        selected.mask_of = self.mask_of[targets]
        selected.sums, selected.counts = self.sums[targets], self.counts[targets]
        return selected

    def rows(self, target: int) -> int:
        """How many rows the target has."""
        return int(self.counts[target].sum())

    def classes(self, target: int) -> np.ndarray:
        """The values that the target takes: int [classes], ascending."""
        return np.flatnonzero(self.counts[target]) - MAX_ABS_VALUE

    def moments(self, target: int, classes: np.ndarray) -> Moments:
        """The moments of the target's rows with one-hot outputs, one per class of `classes`.

        Classes that the rows lack have outputs of zeros; values that are not in `classes` count as rows of no class.
        Raises ValueError for a target without rows.
        """
        n = self._n(target)
        at = np.asarray(classes) + MAX_ABS_VALUE
        x = self.sums[target].sum(0) / n
        counts = self.counts[target, at]
        share = counts / n
        xy = (self.sums[target, at] - counts[:, None] * x).T
        scatter = self.xx[self.mask_of[target]] - n * np.outer(x, x)
        return Moments(n, x + self.center, scatter, share, xy, counts - n * share**2)

    def numbers(self, targets: Sequence[int]) -> Moments:
        """The moments of the rows of targets of one mask, with the value of each as an output.

        Raises ValueError for targets without rows.
        """
        (mask,) = {int(self.mask_of[target]) for target in targets}
        n = self._n(targets[0])
        values = np.arange(CLASSES) - MAX_ABS_VALUE
        x = self.sums[targets[0]].sum(0) / n
        y = self.counts[targets] @ values / n
        # [targets, classes, features], [classes] -> [features, targets]
        xy = np.einsum("tkf,k->ft", self.sums[targets], values.astype(float), optimize=True) - n * np.outer(x, y)
        yy = self.counts[targets] @ values**2 - n * y**2
        return Moments(n, x + self.center, self.xx[mask] - n * np.outer(x, x), y, xy, yy)

    def _n(self, target: int) -> float:
        n = self.counts[target].sum()
        if not n:
            raise ValueError(f"target {target} has no rows")
        return n


class OneHotBank(Bank):
    """The same sums of one-hot features, which are never materialized: a row is the few features that it has."""

    def update(self, ids: np.ndarray, rows: BatchLabels) -> Bank:
        """Add rows by the features that are 1 in each: ids int [rows, columns], distinct in a row; -1: none."""
        if self.center is None:
            self.center = np.zeros(self.xx.shape[1], np.float32)
        ids = np.ascontiguousarray(ids, np.int64)
        _add_one_hot(ids, rows.classes, self.sums, self.counts)
        _add_pairs(ids, rows.masks, self.xx)
        return self


@jit
def _add_one_hot(ids, classes, sums, counts):
    for i in range(len(ids)):
        for target in range(classes.shape[1]):
            code = classes[i, target]
            if code >= 0:
                counts[target, code] += 1
                for k in ids[i]:
                    if k >= 0:
                        sums[target, code, k] += 1


@jit
def _add_pairs(ids, masks, xx):
    for mask in range(len(xx)):
        into = xx[mask]
        for i in range(len(ids)):
            if masks[mask, i]:
                for j in ids[i]:
                    if j >= 0:
                        for k in ids[i]:
                            if k >= 0:
                                into[j, k] += 1


@jit
def _add_by_class(x, classes, sums, counts):
    """Add each row of x to the sum of its class, target by target."""
    rows, targets = classes.shape
    block = 512  # rows that stay in a core's cache while every target reads them
    for begin in range(0, rows, block):
        for target in range(targets):
            for i in range(begin, min(begin + block, rows)):
                code = classes[i, target]
                if code >= 0:
                    counts[target, code] += 1
                    into = sums[target, code]
                    for k in range(x.shape[1]):
                        into[k] += x[i, k]
