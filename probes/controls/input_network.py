"""A small network on the input alone, the position and the last tokens: the strongest baseline, which sees no model.

A linear baseline cannot multiply two digits; a probe's score counts where it exceeds this one's, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cadmus.machine import vm
from cadmus.machine.jit import jit
from cadmus.runtime.devices import resolve_device
from probes.solvers import mlp
from probes.solvers.checks import check_rows, constant_message

BEFORE = len(vm.VOCAB)  # stands for the tokens before the sequence's first
_MIN_STEPS = 2500  # of mini-batches that the network is trained for


class Output(NamedTuple):
    """A target of the network: the labels of n rows, of which some may be undefined."""

    labels: np.ndarray
    """[n]: numbers, or labels of any type."""

    defined: np.ndarray
    """bool [n]: whether the row has a label; the others are ignored."""

    kind: str
    """"number" (squared error) or "category" (softmax)."""

    def at(self, rows: np.ndarray) -> Output:
        """The same target at some rows only."""
        return Output(self.labels[rows], self.defined[rows], self.kind)


def window(sequences: np.ndarray, k: int = 8) -> np.ndarray:
    """The features of an input-only baseline at every position of sequences uint8 [n, positions].

    int16 [n, positions, k + 1]: the ids of the last k tokens, the current one first (`BEFORE` for those before the
    sequence), then the position.
    """
    n, positions = sequences.shape
    out = np.full((n, positions, k + 1), BEFORE, np.int16)
    for back in range(min(k, positions)):
        out[:, back:, back] = sequences[:, : positions - back]
    out[:, :, k] = np.arange(positions)
    return out


@dataclass
class TokenBaseline:
    """A network with one hidden layer that many targets share, on the position and the last tokens, one-hot.

    The one-hot inputs are never formed: a hidden unit's input is a sum of one weight per column. Each target has its
    defined rows, counts equally in the loss, and is predicted by the network of the epoch that was best for it on
    validation data (0: its constant, from which it starts). `fit` makes `epochs_`, the epoch kept for each target.
    """

    hidden: int = 128
    """Hidden units."""

    lr: float = 1e-2
    """AdamW's learning rate at the start; it falls to 0."""

    weight_decay: float = 1e-2
    """AdamW's weight decay."""

    batch_size: int = 512
    """Rows per step."""

    epochs: int | None = None
    """Passes over the rows, at most; by default 5, and more of few rows, so that there are about 2500 steps."""

    patience: int = 2
    """Epochs without improvement before training stops; at least half of the epochs, for products are found late."""

    seed: int = 0
    """Seed of the initial weights, the order of the rows and the rows held out."""

    device: str = "auto"
    """"cpu", "cuda", "mps" or "auto", which takes a GPU where there is one."""

    def fit(
        self,
        features: np.ndarray,
        targets: dict[str, Output],
        validation: tuple[np.ndarray, dict[str, Output]] | None = None,
    ) -> Self:
        """Fit to features int [n, columns], 0 or more, as `window` gives them, and targets by name.

        validation: (features, targets) to stop by; without it 15 % of the rows, of whatever programs. Raises ValueError
        for features or targets of another form, for a target that is constant where it is defined, or that has no
        validation rows with labels that training has.
        """
        generator = torch.Generator().manual_seed(self.seed)
        _check_features(features, features.shape[-1])
        targets = _as_outputs(targets, features)
        if validation is None:
            training, held_out = mlp.split_rows(len(features), generator)
            validation = features[held_out], {name: output.at(held_out) for name, output in targets.items()}
            features, targets = features[training], {name: output.at(training) for name, output in targets.items()}
        if set(validation[1]) != set(targets) or not targets:
            raise ValueError(
                f"validation has targets {sorted(validation[1])}, training {sorted(targets)}; give one or more, the "
                "same in both"
            )
        self._sizes = features.max(0).astype(np.int64) + 1
        self._columns = _arrange(targets)
        device = resolve_device(self.device)
        train_rows = self._rows(features, targets, device)
        validation_rows = self._rows(validation[0], _as_outputs(validation[1], validation[0]), device)
        return self._train(train_rows, validation_rows, generator, device)

    def _rows(self, features: np.ndarray, targets: dict[str, Output], device: str) -> _Rows:
        return _Rows(self._ids(features, device), _LossTargets.of(targets, self._columns, device))

    def _train(self, train: _Rows, validation: _Rows, generator: torch.Generator, device: str) -> Self:
        """Descend from the constants, and keep for each target the network of its best epoch."""
        bias = np.concatenate([columns.bias for columns in self._columns.values()])
        inputs = int((self._sizes + 1).sum())
        parameters = mlp.initial_parameters(inputs, self.hidden, bias, len(self._sizes), generator, device)
        unused = torch.bincount(train.ids.flatten(), minlength=inputs) == 0
        parameters[0].data[unused] = 0.0
        epochs = self.epochs or max(5, round(_MIN_STEPS * self.batch_size / len(train.ids)))
        patience = max(self.patience, epochs // 2)
        best_parameters, best_epochs = mlp.descend(
            mlp.Settings(self.lr, self.weight_decay, self.batch_size, epochs, patience),
            parameters,
            lambda rows: train.targets.losses(_outputs(parameters, train.ids[rows]), rows).sum(),
            lambda: validation.targets.losses(_outputs(parameters, validation.ids), slice(None)),
            len(train.ids),
            generator,
        )
        self.epochs_ = dict(zip(self._columns, best_epochs, strict=True))
        self._networks = dict(zip(best_epochs, best_parameters, strict=True))
        return self

    def predict(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """The predictions for features int [n, columns]: {target: [n]}, float numbers, or labels as they were given.

        Ids that training lacked contribute nothing.
        """
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self._columns}
        device = resolve_device(self.device)
        networks = {epoch: [part.to(device) for part in network] for epoch, network in self._networks.items()}
        for start in range(0, max(len(features), 1), mlp.CHUNK):
            ids = self._ids(features[start : start + mlp.CHUNK], device)
            with torch.no_grad():
                outputs = {epoch: _outputs(network, ids).cpu().numpy() for epoch, network in networks.items()}
            for name, columns in self._columns.items():
                parts[name].append(columns.decode(outputs[self.epochs_[name]][:, columns.place]))
        return {name: np.concatenate(chunks) for name, chunks in parts.items()}

    def _ids(self, features: np.ndarray, device: str) -> Tensor:
        """The rows of the first layer that features select: int64 [n, columns]. Each column has rows of its own, one
        per id of training and one for all other ids."""
        _check_features(features, len(self._sizes))
        starts = np.cumsum(self._sizes + 1) - (self._sizes + 1)
        return torch.from_numpy(np.minimum(features, self._sizes) + starts).to(device)


@dataclass(frozen=True)
class _OutputColumns:
    """The columns of the network's outputs that belong to one target, and how to read it from them."""

    place: slice
    """Which columns."""

    bias: np.ndarray
    """float [columns]: the constant that training starts from."""

    classes: np.ndarray | None
    """The label of each column of a category; None for a number."""

    mean: float = 0.0
    """Of a number: the mean of its training labels."""

    scale: float = 1.0
    """Of a number: the standard deviation of its training labels."""

    @classmethod
    def of(cls, name: str, output: Output, start: int) -> _OutputColumns:
        """The columns of a target, from `start` on. Raises ValueError for fewer than 2 labels, and constant ones."""
        labels = output.labels[output.defined]
        check_rows(len(labels), f"training rows of target {name!r}")
        if (labels == labels[0]).all():
            raise ValueError(constant_message(f"target {name!r}", labels[0]))
        if output.kind == "number":
            return cls(slice(start, start + 1), np.zeros(1), None, float(labels.mean()), float(labels.std()))
        classes, counts = np.unique(labels, return_counts=True)
        return cls(slice(start, start + len(classes)), np.log(counts / len(labels)), classes)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """The prediction [n] from this target's columns of the outputs [n, columns]."""
        if self.classes is not None:
            return self.classes[outputs.argmax(1)]
        return outputs[:, 0].astype(np.float64) * self.scale + self.mean


def _arrange(targets: Mapping[str, Output]) -> dict[str, _OutputColumns]:
    """Columns of the outputs for every target, side by side, numbers first."""
    columns: dict[str, _OutputColumns] = {}
    start = 0
    for name, output in sorted(targets.items(), key=lambda item: item[1].kind, reverse=True):
        columns[name] = _OutputColumns.of(name, output, start)
        start = columns[name].place.stop
    return columns


@dataclass(frozen=True)
class _LossTargets:
    """The labels of n rows in the form that the loss needs; `a` counts the targets that are numbers."""

    numbers: Tensor
    """float32 [n, a]: the standardized numbers, 0 where undefined."""

    weights: Tensor
    """float32 [n, a]: the weight of each, 0 where undefined."""

    categories: list[tuple[slice, float, Tensor]]
    """Of each category its columns, its weight, and class indices int64 [n], -1 where undefined."""

    @classmethod
    def of(cls, targets: dict[str, Output], columns: dict[str, _OutputColumns], device: str) -> _LossTargets:
        """The targets in the order of their columns. Raises ValueError for one without any label that training has."""
        numbers, weights, categories = [], [], []
        for name, target in columns.items():
            labels, defined, _ = targets[name]
            codes = None if target.classes is None else mlp.codes_of(labels, target.classes)
            defined = defined if codes is None else defined & (codes >= 0)
            if not defined.any():
                raise ValueError(f"target {name!r} has no validation rows with labels that training has")
            weight = 1 / float(defined.mean())  # so that a batch holds the target's mean loss, whatever its rows
            if codes is None:
                numbers.append(np.where(defined, (labels - target.mean) / target.scale, 0.0))
                weights.append(defined * weight)
            else:
                categories.append((target.place, weight, torch.from_numpy(np.where(defined, codes, -1)).to(device)))

        def stacked(arrays: list[np.ndarray]) -> Tensor:
            matrix = np.stack(arrays, 1) if arrays else np.zeros((len(defined), 0))
            return torch.from_numpy(matrix.astype(np.float32)).to(device)

        return cls(stacked(numbers), stacked(weights), categories)

    def losses(self, outputs: Tensor, rows: Tensor | slice) -> Tensor:
        """The mean loss of each target, numbers first, given the outputs [rows, columns] of some rows: [targets]."""
        squared = (outputs[:, : self.numbers.shape[1]] - self.numbers[rows]).square() * self.weights[rows]
        entropies = [
            weight / len(outputs) * F.cross_entropy(outputs[:, place], codes[rows], ignore_index=-1, reduction="sum")
            for place, weight, codes in self.categories
        ]
        return torch.cat([squared.mean(0), *(entropy[None] for entropy in entropies)])


class _Rows(NamedTuple):
    """The rows that the network is trained on, or judged on."""

    ids: Tensor
    """int64 [n, columns]: the inputs that are 1."""

    targets: _LossTargets
    """Their labels."""


def _as_outputs(targets: Mapping[str, tuple], features: np.ndarray) -> dict[str, Output]:
    """The targets as `Output`s of arrays. Raises ValueError for labels that do not fit the features, unknown kinds."""
    outputs = {}
    n = len(features)
    for name, target in targets.items():
        labels, defined, kind = target
        labels, defined = np.asarray(labels), np.asarray(defined)
        if kind not in ("number", "category"):
            raise ValueError(f"target {name!r} has kind {kind!r}; expected 'number' or 'category'")
        if labels.shape != (n,) or defined.shape != (n,) or defined.dtype != np.bool_:
            raise ValueError(
                f"target {name!r} has labels {labels.shape}, defined {defined.dtype} {defined.shape}; expected [{n}], "
                f"bool [{n}], a row each as the features have"
            )
        outputs[name] = Output(labels, defined, kind)
    return outputs


def _check_features(features: np.ndarray, columns: int) -> None:
    if features.dtype.kind not in "iu" or features.ndim != 2 or features.shape[1] != columns or (features < 0).any():
        raise ValueError(
            f"features are {features.dtype} {features.shape}; expected integers [rows, {columns}], 0 or more, as "
            "window() gives them"
        )


def _outputs(parameters: mlp.Parameters, ids: Tensor) -> Tensor:
    """The network's outputs [n, outputs] for ids int64 [n, columns], the inputs that are 1."""
    table, bias, second, second_bias = parameters
    if ids.is_cuda:
        return mlp.outputs(parameters, F.embedding_bag(ids, table, mode="sum"))
    return F.linear(_Hidden.apply(ids, table, bias), second, second_bias)


class _Hidden(torch.autograd.Function):
    """The hidden layer on the CPU, relu(embedding_bag(ids, table) + bias), in place: torch's own gradient of the sum
    takes 50 times as long as this one."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        hidden = F.embedding_bag(ids, table, mode="sum").add_(bias).relu_()
        ctx.save_for_backward(ids, hidden)
        ctx.shape = table.shape
        return hidden

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        ids, hidden = ctx.saved_tensors
        table, bias = torch.zeros(ctx.shape), torch.zeros(ctx.shape[1])
        arrays = (part.numpy() for part in (ids, hidden, gradient.contiguous(), table, bias))
        _add_gradients(*arrays)
        return None, table, bias


@jit
def _add_gradients(ids, hidden, gradient, table, bias):
    """Add each row's gradient [hidden], where its hidden unit is active, to the bias and to its ids' table rows."""
    passed = np.empty(len(bias), np.float32)
    for i in range(len(ids)):
        for k in range(len(bias)):
            passed[k] = gradient[i, k] if hidden[i, k] > 0 else 0.0
        for k in range(len(bias)):
            bias[k] += passed[k]
        for column in range(ids.shape[1]):
            row = ids[i, column]
            for k in range(len(bias)):
                table[row, k] += passed[k]
