"""What a probe's score is held against: the untrained twin, control labels, majorities, n-grams, and what the prefix
alone gives away; and that no skeleton is on both sides of a split."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from cadmus.models.model import Model
from cadmus.programs.families import Compare


def untrained_twin(model: Model, seed: int) -> Model:
    """The same architecture as it was before training with this seed."""
    return Model(model.cfg, seed=seed).to(model.device).eval()


def control_labels(
    labels: np.ndarray, tokens: np.ndarray, previous: np.ndarray, seed: int, defined: np.ndarray | None = None
) -> np.ndarray:
    """Labels permuted among the rows that have the same token after the same previous token: like `labels`.

    labels [rows] or [rows, variables], each variable permuted for itself; tokens and previous integers [rows]; defined
    bool, shaped as the labels: the others stay where they are. The marginal stays exactly as it is, given both tokens
    too; a pair of tokens that occurs once keeps its label. After the control tasks of Hewitt & Liang (2019, arXiv
    1909.03368), which give each word type a fixed random label: here what the tokens give away about the label stays,
    so that score minus control score is what the probe found beyond it. Raises ValueError where shapes do not fit.
    """
    labels = np.asarray(labels)
    defined = np.ones(labels.shape, np.bool_) if defined is None else np.asarray(defined)
    rows = (len(labels),)
    if np.shape(tokens) != rows or np.shape(previous) != rows or defined.shape != labels.shape:
        raise ValueError(
            f"labels {labels.shape}, defined {defined.shape}, tokens {np.shape(tokens)} and previous tokens "
            f"{np.shape(previous)}; expected one of each for each row"
        )
    first, second = (np.unique(column, return_inverse=True)[1] for column in (tokens, previous))
    pair = first * (second.max(initial=0) + 1) + second
    pair = pair.astype(np.min_scalar_type(pair.max(initial=0)))  # 16 bits are sorted ten times as fast as 64
    control = labels.copy()
    for k, (column, at) in enumerate(zip(_as_columns(control), _as_columns(defined), strict=True)):
        chosen = np.flatnonzero(at)
        shuffled = chosen[np.random.default_rng([seed, k]).permutation(len(chosen))]
        by_pair, shuffled_by_pair = (index[np.argsort(pair[index], kind="stable")] for index in (chosen, shuffled))
        column[by_pair] = column[shuffled_by_pair]
    return control


def _as_columns(array: np.ndarray) -> np.ndarray:
    """A view [variables, rows] of [rows] or [rows, variables]."""
    return array[None] if array.ndim == 1 else array.T


def leaked(train_skeletons: np.ndarray, test_skeletons: np.ndarray) -> None:
    """ValueError where a skeleton, given as a text or as its number, is both in the training and in the test data."""
    test = np.unique(test_skeletons)
    both = np.intersect1d(np.unique(train_skeletons), test, assume_unique=True)
    if len(both):
        raise ValueError(
            f"{len(both)} of {len(test)} test skeletons are in the training data too ({both[0]!s} for one); "
            "split by skeleton, as probes.harvest.skeleton_folds does"
        )


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


def prefix_majority(family: Compare) -> np.ndarray:
    """How often the best guess of X and of Y is right, given the instructions seen so far: float [2, 2 * length + 1].

    Exact: every expression is enumerated with the weight that the generator gives it. Entry [k, t] is for number k
    (0: X, 1: Y) after t + 1 tokens. 1.0 once the number is computed; less while the prefix leaves it open. Needs a
    family of one statement whose expressions have one length (ValueError).
    """
    if family.assertions > 1:
        raise ValueError(
            f"compare with assertions = {family.assertions}: the two numbers are those of a single statement"
        )
    length, joint = family.length, family.value_weights  # joint [x, y]
    y_given_x = joint / joint.sum(1, keepdims=True)
    accuracy = np.ones((2, 2 * length + 1))
    for seen in range(1, length + 1):
        table = _prefix_shares(family, seen)  # [prefix, value]: P(prefix | value)
        prefix_and_x = table * joint.sum(1)
        accuracy[0, seen - 1] = prefix_and_x.max(1).sum()
        accuracy[1, seen - 1] = (prefix_and_x @ y_given_x).max(1).sum()
        accuracy[1, length + seen - 1] = sum((table * row).max(1).sum() for row in joint)  # X is known by then
    return accuracy.clip(max=1.0)  # sums of probabilities may end an ulp above


def _prefix_shares(family: Compare, seen: int) -> np.ndarray:
    """P(the first `seen` tokens | the value of the expression): float [prefixes, values low..high]."""
    listed, value, weight = family.numbers.listed()
    inside = (value >= family.low) & (value <= family.high)
    _, prefix = np.unique(listed[inside, :seen], axis=0, return_inverse=True)
    size = family.high - family.low + 1
    cell = prefix.ravel() * size + value[inside] - family.low
    weights = np.bincount(cell, weight[inside], minlength=(prefix.max() + 1) * size).reshape(-1, size)
    return weights / weights.sum(0)
