"""The weights of a model as the page carries them: half precision, in the order in which JavaScript reads them."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from cadmus.models.model import Model

MAX_PARAMETERS = 20_000_000  # 40 MB in half precision, 53 MB as text: what a browser opens and a mail carries
_MAX_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True, repr=False)
class Tensors:
    """Arrays of half precision, one after the other."""

    entries: list[dict[str, object]]
    """`name` and `shape` of each, in order."""
    base64: str
    """Their numbers, little-endian, row by row."""

    def __repr__(self) -> str:
        return f"Tensors({len(self.entries)}, {len(self.base64):,} characters)"

    @classmethod
    def of(cls, arrays: Iterable[tuple[str, np.ndarray]]) -> Tensors:
        """Pack arrays by name. Raises ValueError, naming it, for an array that half precision does not hold."""
        entries: list[dict[str, object]] = []
        parts = []
        for name, array in arrays:
            if not (abs(array) <= _MAX_HALF).all():  # NaN is not, either
                raise ValueError(
                    f"{name} holds numbers that half precision does not ({float(np.abs(array).max()):g}; at most "
                    f"{_MAX_HALF:g}): this model cannot be explored"
                )
            entries.append({"name": name, "shape": list(array.shape)})
            parts.append(np.ascontiguousarray(array, "<f2").tobytes())
        return cls(entries, base64.b64encode(b"".join(parts)).decode())

    @staticmethod
    def join(*parts: Tensors) -> str:
        """The base64 of several, one after the other."""
        return base64.b64encode(b"".join(base64.b64decode(part.base64) for part in parts)).decode()


def check_fits(model: Model) -> None:
    """Raise ValueError for a model that is too large for a page."""
    n = sum(parameter.numel() for parameter in model.parameters())
    if n > MAX_PARAMETERS:
        raise ValueError(
            f"the model has {n:,} parameters, a page carries up to {MAX_PARAMETERS:,}: explore a smaller one, or look "
            "into this one from Python (docs/interventions.md)"
        )


def rounded(model: Model) -> Model:
    """The model that the page computes: a copy in float32 whose weights are those of half precision."""
    result = copy.deepcopy(model).float().cpu().eval()
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.copy_(parameter.half().float())
    return result


def tensors_of(model: Model) -> Tensors:
    """Every weight under HookedTransformer's name, matrices as [out, in], as a linear layer takes them."""
    state = {name: tensor.float().cpu().numpy() for name, tensor in model.state_dict().items()}
    return Tensors.of((name, _as_rows(name.rpartition(".")[2], array)) for name, array in state.items())


def _as_rows(kind: str, array: np.ndarray) -> np.ndarray:
    """A weight as the page's `linear` reads it."""
    if kind in ("W_Q", "W_K", "W_V"):  # [head, d_model, d_head] -> [head * d_head, d_model]
        return array.transpose(0, 2, 1).reshape(-1, array.shape[1])
    if kind == "W_O":  # [head, d_head, d_model] -> [d_model, head * d_head]
        return array.reshape(-1, array.shape[2]).T
    if kind in ("W_in", "W_out", "W_U"):
        return array.T
    return array.reshape(-1) if kind in ("b_Q", "b_K", "b_V") else array
