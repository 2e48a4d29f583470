"""What the input alone gives away: constants, n-grams, and probes on the last tokens and the position.

A probe on a model's activations counts for something where it reads more than all of these, which see no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from cadmus.machine import vm
from cadmus.runtime.threads import on_threads
from probes.controls.frequency import Majority, NGram
from probes.controls.input_network import TokenBaseline, window
from probes.data.examples import Examples, Labelled, Target
from probes.solvers import site_probes
from probes.solvers.bank import OneHotBank
from probes.solvers.rows import BatchLabels

WINDOW = 8  # tokens, the current one included
NGRAM = 3
_MAX_ROWS = 300_000  # training tokens that are kept; more change no baseline
_HIDDEN, _EPOCHS = 256, 8  # of a network, at most
_BATCHES = (128, 2048)  # its rows in a step: a hundredth of all, between these

_Fold = tuple[np.ndarray, np.ndarray, np.ndarray]  # features, values [rows, targets], defined [rows, masks]


class Baselines:
    """`add` training and validation programs, `fit`, then `predict`. Of targets, only those at the places `own`.

    The present state of every variable has a network of its own, as strong as we know how to make it at this size: one
    for all loses by being shared, 0.04 of the top of the stack and more of registers. A variable's other offsets, and
    its value as a number, share one.
    """

    names = ("majority", "by token", "n-gram", "input, linear", "input, nonlinear")

    def __init__(self, targets: Sequence[Target], own: np.ndarray):
        self.own = own
        self.targets = tuple(targets[k] for k in own)
        self._parts: dict[str, list[_Fold]] = {"train": [], "validation": []}
        self._mask_of = np.zeros(0, np.int64)

    def add(self, part: Examples, labels: Labelled, fold: str) -> None:
        """The tokens of `part` that are probed, and their labels; no more than what is enough."""
        if sum(len(known[0]) for known in self._parts[fold]) < _MAX_ROWS:
            self._mask_of = labels.mask_of[self.own]
            features = window(part.sequences, WINDOW)[part.where]
            self._parts[fold].append((features, labels.values[:, self.own].astype(np.int8), labels.defined))

    def fit(self, seed: int = 0, progress: Callable[[float], None] = lambda share: None) -> None:
        """Fit every baseline of every target."""
        folds = {fold: tuple(map(np.concatenate, zip(*parts, strict=True))) for fold, parts in self._parts.items()}
        self._parts.clear()
        features, values, defined = folds["train"]
        columns = zip(values.T, defined[:, self._mask_of].T, strict=True)
        self._constants = on_threads(_constants, [(features, *column) for column in columns])
        self._positions = int(features[:, WINDOW].max()) + 1
        banks = []
        for fold in ("train", "validation"):
            x, y, seen = folds[fold]
            bank = OneHotBank(WINDOW * len(vm.VOCAB) + self._positions, self._mask_of, seen.shape[1])
            banks.append(bank.update(self._ids(x), BatchLabels.of(y.astype(np.int64), seen, self._mask_of)))
        with threadpool_limits(1, user_api="blas"):  # threads that wait for each other on a busy machine stand still
            self._linear = site_probes.fit(*banks, self.targets)

        tasks = [(chosen, folds["train"], folds["validation"], seed) for chosen in self._shared()]
        self._networks = on_threads(self._network, tasks, progress)

    def _shared(self) -> list[list[int]]:
        """Which targets share a network."""
        groups: dict[tuple, list[int]] = {}
        for k, target in enumerate(self.targets):
            if k not in self._linear.problems:
                groups.setdefault((target.variable, target.offset == 0 and not target.as_number), []).append(k)
        return sorted(groups.values(), key=len, reverse=True)  # what takes longest begins first

    def _network(self, chosen: list[int], train: _Fold, held: _Fold, seed: int) -> TokenBaseline | None:
        """None where no validation token has a value that training has."""

        def rows_of(fold: _Fold) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray, str]]]:
            features, values, defined = fold
            shown = defined[:, self._mask_of[chosen]]
            some = shown.any(1)
            kinds = ("number" if self.targets[k].as_number else "category" for k in chosen)
            spoken = zip(chosen, values[some][:, chosen].T, shown[some].T, kinds, strict=True)
            return features[some], {str(k): (y.astype(np.int64), seen, kind) for k, y, seen, kind in spoken}

        (features, targets), (x_held, held_targets) = rows_of(train), rows_of(held)
        for k in list(targets):
            (y, shown, _), (y_held, shown_held, _) = targets[k], held_targets[k]
            if not np.isin(y_held[shown_held], y[shown]).any():
                del targets[k], held_targets[k]
        if not targets:
            return None
        batch = int(np.clip(len(features) // 100, *_BATCHES))
        network = TokenBaseline(
            hidden=_HIDDEN, epochs=_EPOCHS, batch_size=batch, lr=1e-2 * (batch / 512) ** 0.5, seed=seed
        )
        return network.fit(features, targets, validation=(x_held, held_targets))

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
        for `SiteProbes.predict`."""
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
        networks = filter(None, self._networks)
        for found in on_threads(TokenBaseline.predict, [(network, features) for network in networks]):
            for k, column in found.items():
                said[:, int(k)] = column
        yield self.names[4], said


def _constants(features: np.ndarray, values: np.ndarray, shown: np.ndarray) -> tuple[Majority, Majority, NGram] | None:
    """The best constant of a target, the best given the token, and the n-gram; None where it has no rows."""
    y, x = values[shown].astype(np.int64), features[shown]
    if not len(y):
        return None
    return Majority(y, np.zeros(len(y), np.int64)), Majority(y, x[:, 0]), NGram(NGRAM).fit(x[:, :NGRAM], y)
