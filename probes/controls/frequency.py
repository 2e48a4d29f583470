"""The most frequent label, of all, per token and per n-gram: the simplest scores that a probe must exceed."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data


class Majority:
    """The most frequent label per group, in the training data; unknown groups get the overall one.

    With the current token as the group it is the best constant given the token; with one group, the best constant. Of
    labels that are equally frequent, the smallest. labels and groups [n]. Raises ValueError for no labels.
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
        """The label of each group: [n] -> [n]."""
        at, known = _find(self.groups, np.asarray(groups))
        return np.where(known, self.labels[at], self.overall)


class NGram(ClassifierMixin, BaseEstimator):
    """The most frequent label given the last `order` tokens, backing off to fewer of them where that context came
    fewer than `min_count` times in the training data, down to the most frequent label of all.

    x integers [n, tokens]: the current token, the one before, ... (the first columns of
    `probes.controls.input_network.window`); of more columns than `order` the first are used, of fewer all. Where the
    prefix leaves a variable open this is a lower estimate of what it gives away. Of labels that are equally frequent,
    the smallest.
    """

    def __init__(self, order: int = 3, min_count: int = 10):
        self.order = order
        self.min_count = min_count

    def fit(self, x: np.ndarray, y: np.ndarray) -> NGram:
        """Count x integers [n, tokens] and y [n], labels of any type."""
        if self.order < 0 or self.min_count < 1:
            raise ValueError(
                f"order = {self.order}, min_count = {self.min_count}; expected order >= 0 and min_count >= 1"
            )
        x, y = validate_data(self, x, y)
        if y.dtype.kind not in "biu":  # integers are labels, however many there are: it would warn of many
            check_classification_targets(y)
        self.classes_, code = np.unique(y, return_inverse=True)
        context = np.zeros(len(x), np.int64)
        mode, count = _modes(context, code, 1, len(self.classes_))
        self._tables = [(np.zeros(1, np.int64), mode, count)]  # per order: contexts as numbers, label, times seen
        self._tokens = []
        for k in range(min(self.order, x.shape[1])):
            tokens, token = np.unique(x[:, k], return_inverse=True)
            self._tokens.append(tokens)
            contexts, context = np.unique(context * len(tokens) + token, return_inverse=True)
            self._tables.append((contexts, *_modes(context, code, len(contexts), len(self.classes_))))
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The label of each context: [n, tokens] -> [n]."""
        check_is_fitted(self)
        x = validate_data(self, x, reset=False)
        label = np.full(len(x), self._tables[0][1][0])
        context = np.zeros(len(x), np.int64)
        known = np.ones(len(x), np.bool_)
        for k, (tokens, (contexts, mode, count)) in enumerate(zip(self._tokens, self._tables[1:], strict=True)):
            token, known_token = _find(tokens, x[:, k])
            context, known_context = _find(contexts, context * len(tokens) + token)
            known &= known_token & known_context  # an unknown context is part of no longer one that is known
            label = np.where(known & (count[context] >= self.min_count), mode[context], label)
        return self.classes_[label]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # on continuous features, each of which is a token of its own
        return tags


def _modes(group: np.ndarray, code: np.ndarray, groups: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent code in each group, and the group's size: int64 [groups] each.

    group and code int [n], below `groups` and `classes`; of codes that are equally frequent, the smallest.
    """
    pairs, times = np.unique(group.astype(np.int64) * classes + code, return_counts=True)
    order = np.lexsort((pairs % classes, -times, pairs // classes))  # by group; most frequent, then smallest, first
    leading = np.searchsorted(pairs // classes, np.arange(groups))
    return pairs[order][leading] % classes, np.bincount(group, minlength=groups)


def _find(known: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each value stands in `known`, which is sorted, and whether it does: int64 and bool [n]."""
    at = np.searchsorted(known, values).clip(max=len(known) - 1)
    return at, known[at] == values
