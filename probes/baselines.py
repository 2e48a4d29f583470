"""What the input alone gives away: constants, n-grams, and probes on the last tokens and the position.

A probe on a model's activations counts for something where it reads more than all of these, which see no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from cadmus import vm
from probes import reading
from probes.bank import OneHotBank
from probes.controls import Majority, NGram
from probes.examples import Examples, Labelled, Target
from probes.rows import Rows
from probes.token_baseline import TokenBaseline, window

WINDOW = 8  # tokens, the current one included
NGRAM = 3
_MOST_ROWS = 300_000  # training tokens that are kept; more change no baseline
_EPOCHS = 6  # of the network, at most


class Baselines:
    """`add` training and validation programs, `fit`, then `predict`. Of targets, only those at the places `own`; the
    network reads the present states only."""

    names = ("majority", "by token", "n-gram", "input, linear", "input, nonlinear")

    def __init__(self, targets: Sequence[Target], own: np.ndarray):
        self.own = own
        self.targets = tuple(targets[k] for k in own)
        self._parts: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {"train": [], "validation": []}
        self._mask_of = np.zeros(0, np.int64)

    def add(self, part: Examples, labels: Labelled, fold: str) -> None:
        """The tokens of `part` that are probed, and their labels; no more than what is enough."""
        if sum(len(known[0]) for known in self._parts[fold]) < _MOST_ROWS:
            self._mask_of = labels.mask_of[self.own]
            features = window(part.sequences, WINDOW)[part.where]
            self._parts[fold].append((features, labels.values[:, self.own].astype(np.int8), labels.defined))

    def fit(self, seed: int = 0) -> None:
        """Fit every baseline of every target."""
        folds = {fold: tuple(map(np.concatenate, zip(*parts, strict=True))) for fold, parts in self._parts.items()}
        self._parts.clear()
        features, values, defined = folds["train"]
        shown = defined[:, self._mask_of]
        self._constants = []
        for k in range(len(self.targets)):
            rows = shown[:, k]
            y, x = values[rows, k].astype(np.int64), features[rows]
            if len(y):
                constants = Majority(y, np.zeros(len(y), np.int64)), Majority(y, x[:, 0])
                self._constants.append((*constants, NGram(NGRAM).fit(x[:, :NGRAM], y)))
            else:
                self._constants.append(None)
        self._positions = int(features[:, WINDOW].max()) + 1
        banks = []
        for fold in ("train", "validation"):
            x, y, seen = folds[fold]
            bank = OneHotBank(WINDOW * len(vm.VOCAB) + self._positions, self._mask_of, seen.shape[1])
            banks.append(bank.update(self._ids(x), Rows.of(y.astype(np.int64), seen, self._mask_of)))
        with threadpool_limits(1, user_api="blas"):  # threads that wait for each other on a busy machine stand still
            self._linear = reading.fit(*banks, self.targets)

        def spoken(fold: str) -> dict[str, tuple[np.ndarray, np.ndarray, str]]:
            _, y, seen = folds[fold]
            return {
                str(k): (y[:, k].astype(np.int64), seen[:, self._mask_of[k]], "number" if t.as_number else "category")
                for k, t in enumerate(self.targets)
                if t.offset == 0 and k not in self._linear.problems
            }

        self._nonlinear = None
        if spoken("train"):
            self._nonlinear = TokenBaseline(seed=seed, epochs=_EPOCHS)
            self._nonlinear.fit(features, spoken("train"), validation=(folds["validation"][0], spoken("validation")))

    def _ids(self, features: np.ndarray) -> np.ndarray:
        """The one-hot features of each row: int64 [rows, WINDOW + 1], -1 for a token before the start and for a
        position beyond those of training."""
        size = len(vm.VOCAB)
        ids = features + size * np.arange(WINDOW + 1)
        known = features < np.array([*(size,) * WINDOW, self._positions])
        return np.where(known, ids, -1)

    def _one_hot(self, features: np.ndarray) -> np.ndarray:
        ids = self._ids(features)
        out = np.zeros((len(features), WINDOW * len(vm.VOCAB) + self._positions + 1), np.float32)
        np.put_along_axis(out, ids, 1, 1)  # -1 is the last, which is dropped
        return out[:, :-1]

    def predict(
        self, part: Examples, programs: np.ndarray, positions: np.ndarray, shown: np.ndarray | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """(name, what it says: float32 [rows, own targets]) for tokens of `part`, baseline after baseline; `shown` as
        for `Readouts.predict`."""
        features = window(part.sequences, WINDOW)[programs, positions]
        n = len(features)
        groups = np.zeros(n, np.int64), features[:, 0], features[:, :NGRAM]
        for which, (name, group) in enumerate(zip(self.names[:3], groups, strict=True)):
            said = np.full((n, len(self.targets)), np.nan, np.float32)
            for k, found in enumerate(self._constants):
                if found is not None:
                    said[:, k] = found[which].predict(group)
            yield name, said
        yield self.names[3], self._linear.predict(self._one_hot(features), shown)
        said = np.full((n, len(self.targets)), np.nan, np.float32)
        for k, column in self._nonlinear.predict(features).items() if self._nonlinear else ():
            said[:, int(k)] = column
        yield self.names[4], said
