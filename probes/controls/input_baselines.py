"""What the input alone gives away: constants, n-grams, and probes on the last tokens and the position.

A probe on a model's activations counts for something where it reads more than all of these, which see no model. Each is
fitted to half of the training rows as well: what the other half brings it says whether it still rises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

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
_MAX_ROLE_ROWS = 150_000  # training tokens, of which some have the role: the network of all tokens learns from all
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

    def __getitem__(self, rows: slice) -> _Rows:
        labels = self.labels
        masks = np.ascontiguousarray(labels.masks[:, rows])
        return _Rows(self.features[rows], replace(labels, classes=labels.classes[rows], masks=masks))


class Baselines:
    """Everything that reads the machine's own targets, `targets.own`, off the input: `add` training and validation
    programs, `fit`, then `predict`.

    The present state of every variable has a network of its own, as strong as we know how to make it at this size: one
    for all loses by being shared, 0.04 of the top of the stack and more of registers. A variable's other offsets, and
    its value as a number, share one. A target that is confined to the tokens of a role is read by its own network, or
    by that of the same variable at all tokens, which has more to learn from: whichever is better on validation tokens.
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
        """Fit every baseline of every target, to half of the training rows and to all."""
        train, validation = (_Rows.concatenate(self._parts[fold]) for fold in ("train", "validation"))
        self._parts.clear()
        half = train[: len(train.features) // 2]
        self._half, self._whole = _Fitted(self.targets, half), _Fitted(self.targets, train)
        rows = {self._whole: train, self._half: half}
        banks = [(fitted, fitted.bank(part), fitted.bank(validation)) for fitted, part in rows.items()]
        on_threads(_Fitted.fit_linear, banks)
        networks = [(self._whole, group) for group in self._whole.network_groups()]
        networks += [(self._half, group) for group in self._half.network_groups() if self._has_claims(group)]
        on_threads(
            _Fitted.fit_network,
            [(fitted, group, rows[fitted], validation, seed) for fitted, group in networks],
            "fit controls",
            progress,
        )
        for fitted in (self._whole, self._half):
            fitted.choose_networks(validation)

    def _has_claims(self, group: list[int]) -> bool:
        """Whether a present state of which claims are made is among some targets: the others' networks, which are the
        dearest, have no learning curve."""
        return any(self.targets[k].offset == 0 for k in np.intersect1d(group, self.targets.main))

    def predict(
        self,
        part: Examples,
        programs: np.ndarray,
        positions: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        half: bool = False,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, predictions float32 [rows, own targets]) for tokens of `part`, baseline after baseline; mask
        bool [rows, own targets] as for `SiteProbes.predict`; half: as fitted to half of the training rows."""
        features = window(part.sequences, WINDOW)[programs, positions]
        yield from zip(self.names, (self._half if half else self._whole).predict(features, mask), strict=True)


class _Fitted:
    """The baselines of all targets, fitted to some rows."""

    def __init__(self, targets: Targets, train: _Rows):
        self.targets = targets
        self.positions = int(train.features[:, WINDOW].max(initial=0)) + 1
        self.constants = on_threads(_constants, [(train, k) for k in range(len(targets))])
        self.networks: dict[int, TokenBaseline] = {}  # by target
        self.network_of: dict[int, int] = {}  # the target whose outputs are taken for a target

    def bank(self, rows: _Rows) -> Bank:
        features = WINDOW * len(vm.VOCAB) + self.positions
        return OneHotBank.of(rows.labels, features).update(self.ids(rows.features), rows.labels)

    def fit_linear(self, train: Bank, validation: Bank) -> None:
        self.linear = site_probes.fit(train, validation, self.targets)

    def network_groups(self) -> list[list[int]]:
        """Which targets share a network."""
        groups: dict[tuple, list[int]] = {}
        for k, target in enumerate(self.targets):
            if k not in self.linear.problems:
                present = target.offset == 0 and not target.regression
                groups.setdefault((target.variable, present, target.where), []).append(k)
        return sorted(groups.values(), key=len, reverse=True)  # what takes longest begins first

    def fit_network(self, targets: list[int], train: _Rows, validation: _Rows, seed: int) -> None:
        """Fit the network of some targets, where a validation token has a value that training has."""
        if any(self.targets[k].where for k in targets):
            train = train[:_MAX_ROLE_ROWS]
        features, outputs = self._outputs(train, targets)
        validation_features, validation_outputs = self._outputs(validation, targets)
        for name, output in list(outputs.items()):
            values, known = (o.labels[o.defined] for o in (validation_outputs[name], output))
            if not np.isin(values, known).any():
                del outputs[name], validation_outputs[name]
        if not outputs:
            return
        batch_size = int(np.clip(len(features) // 100, _MIN_BATCH, _MAX_BATCH))
        network = TokenBaseline(
            hidden=_MAX_HIDDEN,
            epochs=_MAX_EPOCHS,
            batch_size=batch_size,
            lr=1e-2 * (batch_size / 512) ** 0.5,
            seed=seed,
        )
        network.fit(features, outputs, validation=(validation_features, validation_outputs))
        for name in outputs:
            self.networks[int(name)], self.network_of[int(name)] = network, int(name)

    def choose_networks(self, validation: _Rows) -> None:
        """Take for each target of a role the network that reads it best on the validation rows: its own, or that of
        the same variable at all tokens."""
        for k, target in enumerate(self.targets):
            everywhere = replace(target, where="")
            if not target.where or everywhere not in self.targets:
                continue
            values, mask = validation.labels.of_target(k)
            correct = {
                other: (self.networks[other].predict(validation.features[mask])[str(other)] == values[mask]).mean()
                for other in (k, self.targets.index(everywhere))
                if other in self.networks and mask.any()
            }
            if correct:
                self.network_of[k] = max(correct, key=lambda other: correct[other])

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

    def ids(self, features: np.ndarray) -> np.ndarray:
        """The one-hot features of each row: int64 [rows, WINDOW + 1], -1 for a token before the start and for a
        position beyond those of training."""
        size = len(vm.VOCAB)
        ids = features + size * np.arange(WINDOW + 1)
        known = features < np.array([size] * WINDOW + [self.positions])
        return np.where(known, ids, -1)

    def _one_hot(self, features: np.ndarray) -> np.ndarray:
        ids = self.ids(features)
        one_hot = np.zeros((len(features), WINDOW * len(vm.VOCAB) + self.positions + 1), np.float32)
        np.put_along_axis(one_hot, ids, 1, 1)  # -1 is the last, which is dropped
        return one_hot[:, :-1]

    def predict(self, features: np.ndarray, mask: np.ndarray | None) -> Iterator[np.ndarray]:
        """Yield the predictions of each baseline in the order of `Baselines.names`: float32 [rows, targets], NaN where
        mask bool [rows, targets] is False."""
        contexts = np.zeros(len(features), np.int64), features[:, 0], features[:, :NGRAM]
        masks = np.ones((len(features), len(self.targets)), np.bool_) if mask is None else mask
        rows_of = [np.flatnonzero(column) for column in masks.T]
        for i, context in enumerate(contexts):
            predicted = np.full((len(features), len(self.targets)), np.nan, np.float32)
            for k, constants in enumerate(self.constants):
                if constants is not None and len(rows_of[k]):
                    predicted[rows_of[k], k] = constants[i].predict(context[rows_of[k]])
            yield predicted
        yield self.linear.predict(self._one_hot(features), mask)
        yield self._network_predictions(features, masks)

    def _network_predictions(self, features: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """What the networks predict, each where one of its targets is defined: float32 [rows, targets]."""
        readers: dict[int, list[int]] = {}  # the targets that a network is to read, by its identity
        for k, other in self.network_of.items():
            readers.setdefault(id(self.networks[other]), []).append(k)
        networks = [self.networks[self.network_of[targets[0]]] for targets in readers.values()]
        rows_of = [np.flatnonzero(mask[:, targets].any(1)) for targets in readers.values()]
        calls = [(network, features[rows]) for network, rows in zip(networks, rows_of, strict=True)]
        predicted = np.full((len(features), len(self.targets)), np.nan, np.float32)
        outputs = on_threads(TokenBaseline.predict, calls)
        for targets, rows, columns in zip(readers.values(), rows_of, outputs, strict=True):
            for k in targets:
                predicted[rows, k] = columns[str(self.network_of[k])]
        return predicted


def _constants(train: _Rows, target: int) -> tuple[Majority, Majority, NGram] | None:
    """The best constant of a target, the best given the token, and the n-gram; None where it has no rows."""
    values, mask = train.labels.of_target(target)
    y, x = values[mask], train.features[mask]
    if not len(y):
        return None
    return Majority(y, np.zeros(len(y), np.int64)), Majority(y, x[:, 0]), NGram(NGRAM).fit(x[:, :NGRAM], y)
