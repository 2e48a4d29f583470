"""What a small network makes of the input alone: the position and the last tokens, which see no model.

A linear baseline cannot multiply two digits; a probe's score counts where it is beyond what this one computes, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from cadmus.machine import vm
from cadmus.runtime.devices import resolve_device
from probes.solvers import mlp

BEFORE = len(vm.VOCAB)  # stands for the tokens before the sequence's first
_STEPS = 2500  # of mini-batches, at least, that the network is trained for


class Output(NamedTuple):
    """Labels [n]; where they are defined, bool [n]; kind "number" (squared error) or "category" (softmax)."""

    labels: np.ndarray
    defined: np.ndarray
    kind: str


def window(sequences: np.ndarray, k: int = 8) -> np.ndarray:
    """What an input-only baseline sees at every position: int16 [n, positions, k + 1], the ids of the last k tokens,
    the current one first (`BEFORE` for those before the sequence), then the position. sequences uint8 [n, positions].
    """
    n, positions = sequences.shape
    out = np.full((n, positions, k + 1), BEFORE, np.int16)
    for back in range(min(k, positions)):
        out[:, back:, back] = sequences[:, : positions - back]
    out[:, :, k] = np.arange(positions)
    return out


@dataclass
class TokenBaseline:
    """What a small network makes of the position and the last tokens, one-hot: a shared hidden layer, many targets.

    The one-hot inputs are never made: a hidden unit's input is a sum of one weight per column. Each target has its
    defined rows, counts equally in the loss, and is predicted by the network of the epoch that was best for it on
    validation data (0: its constant, from which it starts). Parameters as of `probes.solvers.mlp.MLPClassifierProbe`;
    epochs by default 5, more of few rows, so that there are about 2500 steps; patience is at least half of the epochs,
    for products are not found at once. `fit` makes `epochs_`, the epoch that is kept for each target.
    """

    hidden: int = 128
    lr: float = 1e-2
    weight_decay: float = 1e-2
    batch_size: int = 512
    epochs: int | None = None
    patience: int = 2
    seed: int = 0
    device: str = "auto"

    def fit(
        self,
        features: np.ndarray,
        targets: dict[str, Output],
        validation: tuple[np.ndarray, dict[str, Output]] | None = None,
    ) -> Self:
        """features int [n, columns], 0 or more, as of `window`; targets by name; validation, the same, to stop by:
        without it 15 % of the rows, of whatever programs.

        Raises ValueError for features or targets of another form, and for a target that is constant where it is
        defined, or that validation rows do not have.
        """
        _check_features(features, features.shape[-1])
        generator = torch.Generator().manual_seed(self.seed)
        targets = {name: _checked(name, Output(*target), features) for name, target in targets.items()}
        if validation is None:
            order = torch.randperm(len(features), generator=generator).numpy()
            held, rest = np.split(order, [max(1, round(mlp.HELD_OUT * len(order)))])
            validation = features[held], {name: _rows(target, held) for name, target in targets.items()}
            features, targets = features[rest], {name: _rows(target, rest) for name, target in targets.items()}
        x_held, held_targets = validation
        if set(held_targets) != set(targets) or not targets:
            came = f"validation has targets {sorted(held_targets)}, training {sorted(targets)}"
            raise ValueError(f"{came}; give one or more, the same in both")
        self._sizes = features.max(0).astype(np.int64) + 1
        self._heads, used = {}, 0
        for name, target in sorted(targets.items(), key=lambda item: item[1].kind, reverse=True):  # numbers first
            self._heads[name] = _Head.of(name, target, used)
            used = self._heads[name].columns.stop
        device = resolve_device(self.device)
        inputs, labels = self._ids(features, device), _Labels.of(targets, self._heads, device)
        held_targets = {name: _checked(name, Output(*target), x_held) for name, target in held_targets.items()}
        held_inputs, held_labels = self._ids(x_held, device), _Labels.of(held_targets, self._heads, device)
        bias = np.concatenate([head.bias for head in self._heads.values()])
        parameters = mlp.initial(int((self._sizes + 1).sum()), self.hidden, bias, len(self._sizes), generator, device)
        never = torch.bincount(inputs.flatten(), minlength=len(parameters[0])) == 0
        parameters[0].data[never] = 0.0
        epochs = self.epochs or max(5, round(_STEPS * self.batch_size / len(inputs)))
        kept, best = mlp.descend(
            replace(self, epochs=epochs, patience=max(self.patience, epochs // 2)),
            parameters,
            lambda rows: labels.losses(_outputs(parameters, inputs[rows]), rows).sum(),
            lambda: held_labels.losses(_outputs(parameters, held_inputs), slice(None)),
            len(inputs),
            generator,
        )
        self.epochs_ = dict(zip(self._heads, best, strict=True))
        self._networks = dict(zip(best, kept, strict=True))
        return self

    def predict(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """By target, [n]: float numbers, or labels of the kind that was given. Ids that training lacked count for
        nothing."""
        found = {name: [] for name in self._heads}
        device = resolve_device(self.device)
        networks = {epoch: [part.to(device) for part in network] for epoch, network in self._networks.items()}
        for start in range(0, max(len(features), 1), mlp.CHUNK):
            ids = self._ids(features[start : start + mlp.CHUNK], device)
            with torch.no_grad():
                said = {epoch: _outputs(network, ids).cpu().numpy() for epoch, network in networks.items()}
            for name, head in self._heads.items():
                found[name].append(head.decode(said[self.epochs_[name]][:, head.columns]))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _ids(self, features: np.ndarray, device: str) -> Tensor:
        """Rows of the first layer, int64 [n, columns]: each column has its own, one more for ids not in training."""
        _check_features(features, len(self._sizes))
        starts = np.cumsum(self._sizes + 1) - (self._sizes + 1)
        return torch.from_numpy(np.minimum(features, self._sizes) + starts).to(device)


@dataclass(frozen=True)
class _Head:
    """A target's columns of the outputs, what they start from, and what they stand for: classes, or mean and scale."""

    columns: slice
    bias: np.ndarray
    classes: np.ndarray | None
    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, name: str, target: Output, start: int) -> _Head:
        known = target.labels[target.defined]
        if len(known) < 2:
            raise ValueError(f"target {name!r} is defined in {len(known)} training rows; a probe needs 2 or more")
        if (known == known[0]).all():
            raise ValueError(f"target {name!r} is constant ({known[0]}) where it is defined; there is nothing to probe")
        if target.kind == "number":
            return cls(slice(start, start + 1), np.zeros(1), None, float(known.mean()), float(known.std()))
        classes, counts = np.unique(known, return_counts=True)
        return cls(slice(start, start + len(classes)), np.log(counts / len(known)), classes)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        if self.classes is not None:
            return self.classes[outputs.argmax(1)]
        return outputs[:, 0].astype(np.float64) * self.scale + self.mean


@dataclass(frozen=True)
class _Labels:
    """Targets as the loss wants them: numbers [n, a], standardized, with weights [n, a], 0 where undefined; categories
    with their columns, their weight, and codes int64 [n], -1 where undefined."""

    numbers: Tensor
    weights: Tensor
    categories: list[tuple[slice, float, Tensor]]

    @classmethod
    def of(cls, targets: dict[str, Output], heads: dict[str, _Head], device: str) -> _Labels:
        numbers, weights, categories = [], [], []
        for name, head in heads.items():
            labels, defined, kind = targets[name]
            codes = None if kind == "number" else mlp.codes_of(labels, head.classes)
            defined = defined if codes is None else defined & (codes >= 0)
            if not defined.any():
                raise ValueError(f"target {name!r} has no validation rows with labels that training has")
            weight = 1 / float(defined.mean())  # so that a batch holds the target's mean loss, whatever its rows
            if codes is None:
                numbers.append(np.where(defined, (labels - head.mean) / head.scale, 0.0))
                weights.append(defined * weight)
            else:
                categories.append((head.columns, weight, torch.from_numpy(np.where(defined, codes, -1)).to(device)))
        shape = (len(defined), len(numbers))
        numbers, weights = (
            torch.from_numpy(np.stack(each, 1).astype(np.float32) if each else np.zeros(shape, np.float32)).to(device)
            for each in (numbers, weights)
        )
        return cls(numbers, weights, categories)

    def losses(self, outputs: Tensor, rows: Tensor | slice) -> Tensor:
        """The mean loss of each target, numbers first: [targets]."""
        squared = (outputs[:, : self.numbers.shape[1]] - self.numbers[rows]).square() * self.weights[rows]
        entropies = [
            weight / len(outputs) * F.cross_entropy(outputs[:, columns], codes[rows], ignore_index=-1, reduction="sum")
            for columns, weight, codes in self.categories
        ]
        return torch.cat([squared.mean(0), *(entropy[None] for entropy in entropies)])


def _checked(name: str, target: Output, features: np.ndarray) -> Output:
    labels, defined = np.asarray(target.labels), np.asarray(target.defined)
    if target.kind not in ("number", "category"):
        raise ValueError(f"target {name!r} has kind {target.kind!r}; expected 'number' or 'category'")
    n = len(features)
    if labels.shape != (n,) or defined.shape != (n,) or defined.dtype != np.bool_:
        raise ValueError(
            f"target {name!r} has labels {labels.shape}, defined {defined.dtype} {defined.shape}; expected [{n}], "
            f"bool [{n}], a row each as the features have"
        )
    return Output(labels, defined, target.kind)


def _check_features(features: np.ndarray, columns: int) -> None:
    if features.dtype.kind not in "iu" or features.ndim != 2 or features.shape[1] != columns or (features < 0).any():
        raise ValueError(
            f"features are {features.dtype} {features.shape}; expected integers [rows, {columns}], 0 or more, as "
            "window() gives them"
        )


def _rows(target: Output, rows: np.ndarray) -> Output:
    return Output(target.labels[rows], target.defined[rows], target.kind)


def _outputs(parameters: mlp.Parameters, ids: Tensor) -> Tensor:
    """ids int64 [n, columns], the inputs that are 1 -> [n, outputs]."""
    table, bias, second, second_bias = parameters
    if ids.is_cuda:
        return mlp.outputs(parameters, F.embedding_bag(ids, table, mode="sum"))
    return F.linear(_Hidden.apply(ids, table, bias), second, second_bias)


class _Hidden(torch.autograd.Function):
    """The hidden layer on the CPU, relu(embedding_bag(ids, table) + bias): torch's own gradient of the sum takes 50
    times as long as this one, and what lies between is made in place."""

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
        _add_gradients(*(part.numpy() for part in (ids, hidden, gradient.contiguous(), table, bias)))
        return None, table, bias


@njit(cache=True, nogil=True)
def _add_gradients(ids, hidden, gradient, table, bias):
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
