"""The nonlinear reference: a network with one hidden layer on activations, as scikit-learn estimators.

What a linear probe reads is held against what this one reads at the same site. `probes.controls.input_network` trains
the same network on the input alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from cadmus.runtime.devices import resolve_device

HELD_OUT = 0.15  # of the rows, for early stopping, where no validation data are given
CHUNK = 65536  # rows predicted at once
_FLOATS = (np.float64, np.float32)

# First layer [inputs, hidden], its bias; second layer [outputs, hidden], its bias. The other way round products of few
# outputs take five times as long on a CPU.
Parameters = list[Tensor]


class _Probe(BaseEstimator):
    """What the two estimators share: a network on standardized inputs, its scale folded into the first layer."""

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

    def _descend(
        self,
        x: np.ndarray,
        y: np.ndarray,
        validation: tuple[np.ndarray, np.ndarray] | None,
        bias: np.ndarray,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        """Fit outputs to y under `loss`, from the constant `bias` [outputs] on: sets `coefs_`, `intercepts_`."""
        generator = torch.Generator().manual_seed(self.seed)
        if validation is None:
            order = torch.randperm(len(x), generator=generator).numpy()
            held = max(1, round(HELD_OUT * len(x)))
            (x, y), validation = (x[order[held:]], y[order[held:]]), (x[order[:held]], y[order[:held]])
        mean, scale = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
        scale = np.where(scale > 1e-7 * abs(mean), scale, 1.0)
        device = resolve_device(self.device)

        def tensors(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
            x = torch.tensor((x - mean.astype(x.dtype)) / scale.astype(x.dtype), dtype=torch.float32, device=device)
            return x, torch.tensor(y, device=device)

        inputs, labels = tensors(x, y)
        held_inputs, held_labels = tensors(*validation)
        parameters = initial(x.shape[1], self.hidden, bias, x.shape[1], generator, device)
        (kept,), (self.epoch_,) = descend(
            self,
            parameters,
            lambda rows: loss(outputs(parameters, inputs[rows] @ parameters[0]), labels[rows]),
            lambda: loss(outputs(parameters, held_inputs @ parameters[0]), held_labels)[None],
            len(x),
            generator,
        )
        first, first_bias, second, second_bias = (part.double().numpy() for part in kept)
        first = first / scale[:, None]
        self.coefs_, self.intercepts_ = [first, second.T], [first_bias - mean @ first, second_bias]

    def _raw(self, X: np.ndarray) -> np.ndarray:
        """The network's outputs [n, outputs], in double precision, so that they do not depend on the batch."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=_FLOATS)
        (first, second), (first_bias, second_bias) = self.coefs_, self.intercepts_
        chunks = (X[start : start + CHUNK] for start in range(0, len(X), CHUNK))
        return np.concatenate([(chunk @ first + first_bias).clip(0) @ second + second_bias for chunk in chunks])

    def _validated(self, validation: tuple[np.ndarray, np.ndarray], **how: Any) -> tuple[np.ndarray, np.ndarray]:
        return validate_data(self, *validation, reset=False, dtype=_FLOATS, **how)


class MLPClassifierProbe(ClassifierMixin, _Probe):
    """A classifier with one hidden layer: ReLU, softmax, AdamW, early stopping on the validation log-loss.

    hidden: units; lr, weight_decay, batch_size: AdamW's; epochs: at most; patience: epochs without improvement before
    it stops; seed: of the initial weights, the order of the rows and the rows held out; device: cpu, cuda or mps;
    auto takes a GPU where there is one. It starts from the shares of the classes and keeps the best epoch, the start
    included, so that it does no worse on validation data than the constant. `fit` makes `classes_`, `coefs_`
    ([features, hidden], [hidden, classes]), `intercepts_`, and `epoch_`, the one that is kept (0: the constant).
    """

    def fit(self, X: np.ndarray, y: np.ndarray, validation: tuple[np.ndarray, np.ndarray] | None = None) -> Self:
        """X [n, features], y [n] labels; validation (X, y) to stop by: without it 15 % of the rows, of whatever
        programs. Raises ValueError for labels of one class, and for validation rows none of which has a class of y."""
        X, y = validate_data(self, X, y, dtype=_FLOATS, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"the labels have one class only ({self.classes_[0]}); there is nothing to probe")
        if validation is not None:
            x_held, y_held = self._validated(validation)
            held = codes_of(y_held, self.classes_)
            if (held < 0).all():
                raise ValueError("no validation row has a class of the training labels; split at random by skeleton")
            validation = x_held[held >= 0], held[held >= 0]
        shares = np.bincount(codes) / len(codes)
        self._descend(X, codes, validation, np.log(shares), F.cross_entropy)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[n, classes]."""
        raw = self._raw(X)
        shares = np.exp(raw - raw.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The most probable class of each row: [n]."""
        best = self._raw(X).argmax(1)
        return self.classes_[best]


class MLPRegressorProbe(MultiOutputMixin, RegressorMixin, _Probe):
    """Regression with one hidden layer: ReLU, squared error of standardized targets, AdamW, early stopping.

    Parameters and attributes as of `MLPClassifierProbe`, a column of the second layer per target; the constant it
    starts from is the mean.
    """

    def fit(self, X: np.ndarray, y: np.ndarray, validation: tuple[np.ndarray, np.ndarray] | None = None) -> Self:
        """X [n, features], y [n] or [n, targets]; validation (X, y) to stop by: without it 15 % of the rows, of
        whatever programs. Raises ValueError for a target that is constant."""
        how = {"multi_output": True, "y_numeric": True}
        X, y = validate_data(self, X, y, dtype=_FLOATS, ensure_min_samples=2, **how)
        self._flat, y = y.ndim == 1, y.reshape(len(y), -1).astype(np.float64)
        mean, scale = y.mean(0), y.std(0)
        if (scale <= 1e-7 * abs(mean)).any():
            target = int((scale <= 1e-7 * abs(mean)).argmax())
            raise ValueError(f"target {target} is constant ({y[0, target]:g}); there is nothing to probe")
        if validation is not None:
            x_held, y_held = self._validated(validation, **how)
            validation = x_held, ((y_held.reshape(len(y_held), -1) - mean) / scale).astype(np.float32)
        self._descend(X, ((y - mean) / scale).astype(np.float32), validation, np.zeros(y.shape[1]), F.mse_loss)
        self.coefs_[1] = self.coefs_[1] * scale
        self.intercepts_[1] = self.intercepts_[1] * scale + mean
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """[n] or [n, targets], as y was."""
        raw = self._raw(X)
        return raw[:, 0] if self._flat else raw


# --- the network -----------------------------------------------------------------------------------------------------


class Settings(Protocol):
    """What `descend` needs to know."""

    lr: float
    weight_decay: float
    batch_size: int
    epochs: int
    patience: int


def descend(
    settings: Settings,
    parameters: Parameters,
    loss: Callable[[Tensor], Tensor],
    held_losses: Callable[[], Tensor],
    rows: int,
    generator: torch.Generator,
) -> tuple[list[Parameters], list[int]]:
    """AdamW on `loss` of mini-batches of row numbers; for each of `held_losses` the parameters of the epoch where it
    was least, and the epoch, 0 being the start. The rate falls to 0 over all epochs; it stops before when none has
    fallen for `patience` epochs."""
    optimizer = torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay, fused=True)
    steps = settings.epochs * -(-rows // settings.batch_size)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(steps, 1))
    least, kept, best = [], [], []
    for epoch in range(settings.epochs + 1):
        if epoch:
            with torch.enable_grad():
                for batch in torch.randperm(rows, generator=generator).split(settings.batch_size):
                    optimizer.zero_grad()
                    loss(batch.to(parameters[0].device)).backward()
                    optimizer.step()
                    decay.step()
        with torch.no_grad():
            found = held_losses().tolist()
        now = [part.detach().cpu().clone() for part in parameters]
        if not epoch:
            least, kept, best = found, [now] * len(found), [0] * len(found)
        for k in range(len(found)):
            if found[k] < least[k]:
                least[k], kept[k], best[k] = found[k], now, epoch
        if epoch - max(best) >= settings.patience:
            break
    return kept, best


def initial(
    inputs: int, hidden: int, bias: np.ndarray, active: int, generator: torch.Generator, device: str
) -> Parameters:
    """A random first layer, for `active` inputs of size 1 at once, and a second one that says `bias` [outputs]."""
    first = torch.randn(inputs, hidden, generator=generator) * (2 / active) ** 0.5
    zeros = torch.zeros(hidden), torch.zeros(len(bias), hidden)
    parts = (first, *zeros, torch.from_numpy(np.asarray(bias)).float())
    return [part.to(device).requires_grad_() for part in parts]


def outputs(parameters: Parameters, summed: Tensor) -> Tensor:
    """What the network says, [n, outputs], where the inputs times the first layer are `summed` [n, hidden]."""
    _, first_bias, second, second_bias = parameters
    return F.linear((summed + first_bias).relu(), second, second_bias)


def codes_of(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Indices into `classes`, which are sorted; -1 for labels that are none of them."""
    codes = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return np.where(classes[codes] == labels, codes, -1)
