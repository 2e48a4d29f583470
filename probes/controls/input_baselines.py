"""What the input alone gives away: constants, n-grams, and probes on the last tokens and the position.

A probe on a model's activations counts for something where it reads more than all of these, which see no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from cadmus.machine import vm
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.threads import on_threads
from probes.controls.frequency import Majority, NGram
from probes.controls.input_network import Output, TokenBaseline, window
from probes.data.examples import Examples, Labelled
from probes.data.targets import Targets
from probes.solvers import site_probes
from probes.solvers.bank import Bank, OneHotBank
from probes.solvers.rows import BatchLabels

WINDOW = 8  # tokens, the current one included
NGRAM = 3
_MAX_ROWS = 300_000  # training tokens that are kept; more change no baseline
_MAX_HIDDEN, _MAX_EPOCHS = 256, 8  # of a network
_MIN_BATCH, _MAX_BATCH = 128, 2048  # its rows in a step: a hundredth of all, between these


@dataclass(frozen=True)
class _Rows:
    """The probed tokens of some programs."""

    features: np.ndarray
    """The last tokens and the position, as `window` gives them: int16 [rows, WINDOW + 1]."""

    labels: BatchLabels
    """Of the machine's own targets."""

    @classmethod
    def of(cls, part: Examples, labels: Labelled) -> _Rows:
        features = window(part.sequences, WINDOW)[part.where]
        return cls(features, BatchLabels.at(labels, *np.nonzero(part.where)).select(labels.targets.own))

    @classmethod
    def concatenate(cls, parts: list[_Rows]) -> _Rows:
        features = np.concatenate([part.features for part in parts])
        return cls(features, BatchLabels.concatenate([part.labels for part in parts]))


class Baselines:
    """Everything that reads the machine's own targets, `targets.own`, off the input: `add` training and validation
    programs, `fit`, then `predict`.

    The present state of every variable has a network of its own, as strong as we know how to make it at this size: one
    for all loses by being shared, 0.04 of the top of the stack and more of registers. A variable's other offsets, and
    its value as a number, share one.
    """

    names = ("majority", "by token", "n-gram", "input, linear", "input, nonlinear")

    def __init__(self, targets: Targets):
        self.targets = targets[targets.own]
        self._parts: dict[str, list[_Rows]] = {"train": [], "validation": []}

    def __repr__(self) -> str:
        return f"Baselines({len(self.targets)} targets)"

    def add(self, part: Examples, labels: Labelled, fold: str) -> None:
        """Add the tokens of `part` that are probed, and their labels; no more than what is enough."""
        if sum(len(rows.features) for rows in self._parts[fold]) < _MAX_ROWS:
            self._parts[fold].append(_Rows.of(part, labels))

    def fit(self, seed: int = 0, progress: Progress = no_progress) -> None:
        """Fit every baseline of every target."""
        train, validation = (_Rows.concatenate(self._parts[fold]) for fold in ("train", "validation"))
        self._parts.clear()
        self._constants = on_threads(_constants, [(train, k) for k in range(len(self.targets))])
        self._positions = int(train.features[:, WINDOW].max()) + 1
        train_bank, validation_bank = self._bank(train), self._bank(validation)
        with threadpool_limits(1, user_api="blas"):  # threads that wait for each other on a busy machine stand still
            self._linear = site_probes.fit(train_bank, validation_bank, self.targets)
        self._networks = on_threads(
            self._network,
            [(group, train, validation, seed) for group in self._network_groups()],
            "fit controls",
            progress,
        )

    def _bank(self, rows: _Rows) -> Bank:
        features = WINDOW * len(vm.VOCAB) + self._positions
        return OneHotBank.of(rows.labels, features).update(self._ids(rows.features), rows.labels)

    def _network_groups(self) -> list[list[int]]:
        """Which targets share a network."""
        groups: dict[tuple, list[int]] = {}
        for k, target in enumerate(self.targets):
            if k not in self._linear.problems:
                groups.setdefault((target.variable, target.offset == 0 and not target.regression), []).append(k)
        return sorted(groups.values(), key=len, reverse=True)  # what takes longest begins first

    def _network(self, targets: list[int], train: _Rows, validation: _Rows, seed: int) -> TokenBaseline | None:
        """Fit the network of some targets: None where no validation token has a value that training has."""
        features, outputs = self._outputs(train, targets)
        validation_features, validation_outputs = self._outputs(validation, targets)
        for name, output in list(outputs.items()):
            values, known = (o.labels[o.defined] for o in (validation_outputs[name], output))
            if not np.isin(values, known).any():
                del outputs[name], validation_outputs[name]
        if not outputs:
            return None
        batch_size = int(np.clip(len(features) // 100, _MIN_BATCH, _MAX_BATCH))
        network = TokenBaseline(
            hidden=_MAX_HIDDEN,
            epochs=_MAX_EPOCHS,
            batch_size=batch_size,
            lr=1e-2 * (batch_size / 512) ** 0.5,
            seed=seed,
        )
        return network.fit(features, outputs, validation=(validation_features, validation_outputs))

    def _outputs(self, rows: _Rows, targets: list[int]) -> tuple[np.ndarray, dict[str, Output]]:
        """The features of the rows at which one of these targets is defined, and their labels, by the target's index
        as a name."""
        some = rows.labels.mask[:, targets].any(1)
        outputs = {}
        for k in targets:
            values, mask = rows.labels.of_target(k)
            kind = "number" if self.targets[k].regression else "category"
            outputs[str(k)] = Output(values[some], mask[some], kind)
        return rows.features[some], outputs

    def _ids(self, features: np.ndarray) -> np.ndarray:
        """The one-hot features of each row: int64 [rows, WINDOW + 1], -1 for a token before the start and for a
        position beyond those of training."""
        size = len(vm.VOCAB)
        ids = features + size * np.arange(WINDOW + 1)
        known = features < np.array([size] * WINDOW + [self._positions])
        return np.where(known, ids, -1)

    def _one_hot(self, features: np.ndarray) -> np.ndarray:
        ids = self._ids(features)
        one_hot = np.zeros((len(features), WINDOW * len(vm.VOCAB) + self._positions + 1), np.float32)
        np.put_along_axis(one_hot, ids, 1, 1)  # -1 is the last, which is dropped
        return one_hot[:, :-1]

    def predict(
        self, part: Examples, programs: np.ndarray, positions: np.ndarray, mask: np.ndarray | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, predictions float32 [rows, own targets]) for tokens of `part`, baseline after baseline; mask
        bool [rows, own targets] as for `SiteProbes.predict`."""
        features = window(part.sequences, WINDOW)[programs, positions]
        yield from self._constant_predictions(features)
        yield self.names[3], self._linear.predict(self._one_hot(features), mask)
        predicted = np.full((len(features), len(self.targets)), np.nan, np.float32)
        networks = filter(None, self._networks)
        for outputs in on_threads(TokenBaseline.predict, [(network, features) for network in networks]):
            for k, column in outputs.items():
                predicted[:, int(k)] = column
        yield self.names[4], predicted

    def _constant_predictions(self, features: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        contexts = np.zeros(len(features), np.int64), features[:, 0], features[:, :NGRAM]
        for i, (name, context) in enumerate(zip(self.names[:3], contexts, strict=True)):
            predicted = np.full((len(features), len(self.targets)), np.nan, np.float32)
            for k, constants in enumerate(self._constants):
                if constants is not None:
                    predicted[:, k] = constants[i].predict(context)
            yield name, predicted


def _constants(train: _Rows, target: int) -> tuple[Majority, Majority, NGram] | None:
    """The best constant of a target, the best given the token, and the n-gram; None where it has no rows."""
    values, mask = train.labels.of_target(target)
    y, x = values[mask], train.features[mask]
    if not len(y):
        return None
    return Majority(y, np.zeros(len(y), np.int64)), Majority(y, x[:, 0]), NGram(NGRAM).fit(x[:, :NGRAM], y)
