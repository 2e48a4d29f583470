"""What a probe's score is held against: the untrained twin, control labels, majorities, n-grams, and what the prefix
alone gives away; and that no skeleton is on both sides of a split."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data


class Majority:
    """The most frequent label per group, in the training data; groups never seen get the overall one.

    With the current token as the group it is the best constant given the token; with one group, the best constant. Of
    labels that are as frequent, the smallest. labels and groups [n]. Raises ValueError where there are none.
    """

    def __init__(self, labels: np.ndarray, groups: np.ndarray):
        labels, groups = np.asarray(labels), np.asarray(groups)
        if not len(labels):
            raise ValueError("no labels to learn the most frequent one from")
        self.classes, code = np.unique(labels, return_inverse=True)
        self.overall = self.classes[np.bincount(code).argmax()].item()
        self.groups, group = np.unique(groups, return_inverse=True)
        mode, _ = _modes(group, code, len(self.groups), len(self.classes))
        self.labels = self.classes[mode]

    def predict(self, groups: np.ndarray) -> np.ndarray:
        """[n] groups -> [n] labels."""
        at, seen = _find(self.groups, np.asarray(groups))
        return np.where(seen, self.labels[at], self.overall)


class NGram(ClassifierMixin, BaseEstimator):
    """The most frequent label given the last `order` tokens, backing off to fewer of them where that context came
    fewer than `least` times in the training data, down to the most frequent label of all.

    x integers [n, contexts]: the current token, the one before, ... (`contexts`); of more columns than `order` the
    first count, of fewer all. Where the prefix leaves a variable open this is a guess from below at what it gives away:
    a lower estimate of the ceiling, and to be named so. Of labels that are as frequent, the smallest.
    """

    def __init__(self, order: int = 3, least: int = 10):
        self.order = order
        self.least = least

    def fit(self, x: np.ndarray, y: np.ndarray) -> NGram:
        """x [n, contexts], y [n] any labels."""
        if self.order < 0 or self.least < 1:
            raise ValueError(f"order = {self.order}, least = {self.least}; expected order >= 0 and least >= 1")
        x, y = validate_data(self, x, y)
        check_classification_targets(y)
        self.classes_, code = np.unique(y, return_inverse=True)
        context = np.zeros(len(x), np.int64)
        mode, count = _modes(context, code, 1, len(self.classes_))
        self._tables = [(np.zeros(1, np.int64), mode, count)]  # per order: contexts as numbers, label, times seen
        self._tokens = []
        for k in range(min(self.order, x.shape[1])):
            known, token = np.unique(x[:, k], return_inverse=True)
            self._tokens.append(known)
            contexts, context = np.unique(context * len(known) + token, return_inverse=True)
            self._tables.append((contexts, *_modes(context, code, len(contexts), len(self.classes_))))
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[n, contexts] -> [n] labels."""
        check_is_fitted(self)
        x = validate_data(self, x, reset=False)
        label = np.full(len(x), self._tables[0][1][0])
        context, seen = np.zeros(len(x), np.int64), np.ones(len(x), np.bool_)
        for k, (known, (contexts, mode, count)) in enumerate(zip(self._tokens, self._tables[1:], strict=True)):
            token, of_known = _find(known, x[:, k])
            context, of_contexts = _find(contexts, context * len(known) + token)
            seen &= of_known & of_contexts  # a context not seen has no longer one that was
            label = np.where(seen & (count[context] >= self.least), mode[context], label)
        return self.classes_[label]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # on continuous features, each of which is a token of its own
        return tags


def contexts(tokens: np.ndarray, order: int = 3) -> np.ndarray:
    """The current token and those before it, -1 before the first: int64 [n, length, order] of tokens [n, length]."""
    n, length = tokens.shape
    found = np.full((n, length, order), -1, np.int64)
    for k in range(min(order, length)):
        found[:, k:, k] = tokens[:, : length - k]
    return found


def _modes(group: np.ndarray, code: np.ndarray, groups: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Of codes [n] below `classes`, the most frequent in each group, and the group's size: int64 [groups] each."""
    pairs, times = np.unique(group.astype(np.int64) * classes + code, return_counts=True)
    order = np.lexsort((pairs % classes, -times, pairs // classes))  # by group; most frequent, then smallest, first
    leading = np.searchsorted(pairs // classes, np.arange(groups))
    return pairs[order][leading] % classes, np.bincount(group, minlength=groups)


def _find(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted value stands in `known`, which is sorted, and whether it does: int64 and bool [n]."""
    at = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return at, known[at] == wanted
