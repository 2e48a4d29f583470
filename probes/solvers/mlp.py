"""The nonlinear reference: a network with one hidden layer on activations, as scikit-learn estimators.

What a linear probe reads is held against what this one reads at the same site. `probes.controls.input_network` trains
the same network on the input alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cadmus.runtime.devices import resolve_device
from probes.solvers.checks import Unmasked, check_classes, check_rows, constant_message, validated, weighted

VALIDATION_FRACTION = 0.15  # of the rows, for early stopping, where no validation data are given
CHUNK = 65536  # rows predicted at once

Parameters = list[Tensor]
"""First layer [inputs, hidden] and its bias, second layer [outputs, hidden] and its bias. With a second layer [hidden,
outputs], products of few outputs take five times as long on a CPU."""


class _Probe(BaseEstimator):
    """The part that the two estimators share: a network on standardized inputs, whose scale is folded into the first
    layer."""

    def __init__(
        self,
        hidden: int = 64,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 256,
        epochs: int = 200,
        patience: int = 10,
        seed: int = 0,
        device: str = "auto",
    ):
        self.hidden = hidden
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.seed = seed
        self.device = device

    def _fit_network(
        self,
        x: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray | None,
        validation: tuple[np.ndarray, np.ndarray] | None,
        bias: np.ndarray,
        row_losses: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        """Fit outputs to y under `row_losses` [n, ...], weighted by rows, from the constant `bias` [outputs] on: sets
        `coefs_`, `intercepts_`."""
        generator = torch.Generator().manual_seed(self.seed)
        weight = np.ones(len(x)) if weight is None else weight
        validation_weight = np.ones(0 if validation is None else len(validation[0]))
        if validation is None:
            training, held_out = split_rows(len(x), generator)
            validation, validation_weight = (x[held_out], y[held_out]), weight[held_out]
            x, y, weight = x[training], y[training], weight[training]
        mean, scale = mean_and_scale(x, weight)
        scale = np.where(scale > 1e-7 * abs(mean), scale, 1.0)
        device = resolve_device(self.device)

        def tensors(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
            standardized = (x - mean.astype(x.dtype)) / scale.astype(x.dtype)
            return torch.tensor(standardized, dtype=torch.float32, device=device), torch.tensor(y, device=device)

        def loss(outputs: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
            return (row_losses(outputs, labels).reshape(len(labels), -1).mean(1) * weights).mean()

        inputs, labels = tensors(x, y)
        validation_inputs, validation_labels = tensors(*validation)
        weights, validation_weights = (
            torch.tensor(part / part.mean(), dtype=torch.float32, device=device) for part in (weight, validation_weight)
        )
        parameters = initial_parameters(x.shape[1], self.hidden, bias, x.shape[1], generator, device)
        (best,), (self.epoch_,) = descend(
            Settings(self.lr, self.weight_decay, self.batch_size, self.epochs, self.patience),
            parameters,
            lambda rows: loss(outputs(parameters, inputs[rows] @ parameters[0]), labels[rows], weights[rows]),
            lambda: loss(outputs(parameters, validation_inputs @ parameters[0]), validation_labels, validation_weights)[
                None
            ],
            len(x),
            generator,
        )
        first, first_bias, second, second_bias = (part.double().numpy() for part in best)
        first = first / scale[:, None]
        self.coefs_ = [first, second.T]
        self.intercepts_ = [first_bias - mean @ first, second_bias]

    def _raw(self, X: np.ndarray) -> np.ndarray:
        """The network's outputs [n, outputs], in double precision, so that they do not depend on the batch."""
        check_is_fitted(self)
        X = validated(self, X, reset=False)
        (first, second), (first_bias, second_bias) = self.coefs_, self.intercepts_
        chunks = (X[start : start + CHUNK] for start in range(0, len(X), CHUNK))
        return np.concatenate([(chunk @ first + first_bias).clip(0) @ second + second_bias for chunk in chunks])

    def _check_validation(
        self, validation: tuple[np.ndarray, np.ndarray], **checks: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Validation (X, y) as arrays, checked by scikit-learn as training data are."""
        x, y = validation
        return validated(self, x, y, reset=False, **checks)


class MLPClassifierProbe(Unmasked, ClassifierMixin, _Probe):
    """A classifier with one hidden layer: ReLU, softmax, AdamW, early stopping on the validation log-loss.

    hidden: units; lr, weight_decay, batch_size: AdamW's; epochs: at most; patience: epochs without improvement before
    it stops; seed: of the initial weights, the order of the rows and the rows held out; device: cpu, cuda or mps;
    auto takes a GPU where there is one. It starts from the shares of the classes and keeps the best epoch, the start
    included, so that it does no worse on validation data than the constant. `fit` makes `classes_`, `coefs_`
    ([features, hidden], [hidden, classes]), `intercepts_`, and `epoch_`, the epoch that is kept (0: the constant).
    """

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Fit to X float [n, features] and y [n], labels of any type.

        validation: (X, y) to stop by; without it 15 % of the rows, of whatever programs. sample_weight: [n], how much a
        row counts in the loss. Raises ValueError for labels of one class, and for validation rows none of which has a
        class of y.
        """
        X, y = validated(self, X, y, ensure_min_samples=2)
        check_classification_targets(y)
        X, y, weight = weighted(X, y, sample_weight)
        check_rows(len(X))
        self.classes_, codes = np.unique(y, return_inverse=True)
        check_classes(self.classes_)
        if validation is not None:
            x_validation, y_validation = self._check_validation(validation)
            validation_codes = codes_of(y_validation, self.classes_)
            known = validation_codes >= 0
            if not known.any():
                raise ValueError("no validation row has a class of the training labels; split at random by skeleton")
            validation = x_validation[known], validation_codes[known]
        counts = np.bincount(codes, weight)
        losses = partial(F.cross_entropy, reduction="none")
        self._fit_network(X, codes, weight, validation, np.log(counts / counts.sum()), losses)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """The probability of every class: [n, classes]."""
        raw = self._raw(X)
        likelihoods = np.exp(raw - raw.max(1, keepdims=True))
        return likelihoods / likelihoods.sum(1, keepdims=True)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The most probable class of each row: [n]."""
        best = self._raw(X).argmax(1)
        return self.classes_[best]


class MLPRegressorProbe(Unmasked, MultiOutputMixin, RegressorMixin, _Probe):
    """Regression with one hidden layer: ReLU, squared error of standardized targets, AdamW, early stopping.

    Parameters and attributes are those of `MLPClassifierProbe`, with a column of the second layer per target; the
    constant it starts from is the mean.
    """

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Fit to X float [n, features] and numbers y [n] or [n, targets].

        validation: (X, y) to stop by; without it 15 % of the rows, of whatever programs. sample_weight: [n], how much a
        row counts in the loss. Raises ValueError for a constant target.
        """
        checks = {"multi_output": True, "y_numeric": True}
        X, y = validated(self, X, y, ensure_min_samples=2, **checks)
        X, y, weight = weighted(X, y, sample_weight)
        check_rows(len(X))
        self._flat = y.ndim == 1
        y = y.reshape(len(y), -1).astype(np.float64)
        mean, scale = mean_and_scale(y, np.ones(len(y)) if weight is None else weight)
        if (scale <= 1e-7 * abs(mean)).any():
            target = int((scale <= 1e-7 * abs(mean)).argmax())
            raise ValueError(constant_message(f"target {target}", f"{y[0, target]:g}"))
        if validation is not None:
            x_validation, y_validation = self._check_validation(validation, **checks)
            y_validation = (y_validation.reshape(len(y_validation), -1) - mean) / scale
            validation = x_validation, y_validation.astype(np.float32)
        standardized = ((y - mean) / scale).astype(np.float32)
        losses = partial(F.mse_loss, reduction="none")
        self._fit_network(X, standardized, weight, validation, np.zeros(y.shape[1]), losses)
        self.coefs_[1] = self.coefs_[1] * scale
        self.intercepts_[1] = self.intercepts_[1] * scale + mean
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The predicted numbers: [n] or [n, targets], as y was."""
        raw = self._raw(X)
        return raw[:, 0] if self._flat else raw


def mean_and_scale(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation of columns x [n, columns], rows weighted: float64 [columns] each."""
    shares = weight / weight.sum()
    mean = shares @ x.astype(np.float64, copy=False)
    return mean, np.sqrt(shares @ np.square(x - mean))


# --- the network -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """The settings of `descend`."""

    lr: float
    """AdamW's learning rate at the start."""

    weight_decay: float
    """AdamW's weight decay."""

    batch_size: int
    """Rows per step."""

    epochs: int
    """Passes over the rows, at most."""

    patience: int
    """Epochs without improvement before training stops."""


def descend(
    settings: Settings,
    parameters: Parameters,
    loss: Callable[[Tensor], Tensor],
    validation_losses: Callable[[], Tensor],
    rows: int,
    generator: torch.Generator,
) -> tuple[list[Parameters], list[int]]:
    """AdamW on mini-batches, with a learning rate that falls to 0 over all epochs.

    loss(row numbers int64 [batch]) is the scalar to lower; validation_losses() are the losses [targets] to stop by:
    training ends when none has fallen for `patience` epochs. Returns for each of these losses the parameters, on the
    CPU, of the epoch where it was least, and that epoch; 0 is the start.
    """
    optimizer = torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay, fused=True)
    steps = settings.epochs * -(-rows // settings.batch_size)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(steps, 1))
    least_losses, best_parameters, best_epochs = [], [], []
    for epoch in range(settings.epochs + 1):
        if epoch:
            with torch.enable_grad():
                for batch in torch.randperm(rows, generator=generator).split(settings.batch_size):
                    optimizer.zero_grad()
                    loss(batch.to(parameters[0].device)).backward()
                    optimizer.step()
                    decay.step()
        with torch.no_grad():
            losses = validation_losses().tolist()
        snapshot = [part.detach().cpu().clone() for part in parameters]
        if not epoch:
            least_losses = losses
            best_parameters = [snapshot] * len(losses)
            best_epochs = [0] * len(losses)
        for k in range(len(losses)):
            if losses[k] < least_losses[k]:
                least_losses[k] = losses[k]
                best_parameters[k] = snapshot
                best_epochs[k] = epoch
        if epoch - max(best_epochs) >= settings.patience:
            break
    return best_parameters, best_epochs


def split_rows(n: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of n rows in random order, for training and, `VALIDATION_FRACTION` of them, for early stopping."""
    order = torch.randperm(n, generator=generator).numpy()
    validation, training = np.split(order, [max(1, round(VALIDATION_FRACTION * n))])
    return training, validation


def initial_parameters(
    inputs: int, hidden: int, bias: np.ndarray, active: int, generator: torch.Generator, device: str
) -> Parameters:
    """A random first layer, scaled for `active` inputs of size 1 at once, and a second layer that gives the constant
    `bias` [outputs]."""
    first = torch.randn(inputs, hidden, generator=generator) * (2 / active) ** 0.5
    first_bias = torch.zeros(hidden)
    second = torch.zeros(len(bias), hidden)
    second_bias = torch.from_numpy(np.asarray(bias)).float()
    return [part.to(device).requires_grad_() for part in (first, first_bias, second, second_bias)]


def outputs(parameters: Parameters, summed: Tensor) -> Tensor:
    """The network's outputs [n, outputs], where the inputs times the first layer are `summed` [n, hidden]."""
    _, first_bias, second, second_bias = parameters
    return F.linear((summed + first_bias).relu(), second, second_bias)


def codes_of(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The index of each label in `classes`, which are sorted: int64 [n]; -1 for a label that is none of them."""
    codes = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return np.where(classes[codes] == labels, codes, -1)
