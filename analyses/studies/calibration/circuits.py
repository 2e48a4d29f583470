"""Transformers made by hand: heads and neurons are written down in features, and turned into weights in some basis.

A *feature* is a coordinate that stands for one thing: a token, a position, a digit in one slot. A circuit reads and
writes features; `assemble` lays them along directions of the residual stream, orthogonal or overlapping ones, and
gives a HookedTransformer without normalization that computes in them exactly what the circuit says.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cadmus.machine import vm

DIGITS = 10


class Features:
    """Groups of features, one after the other: `at(group)` and `at(group, k)` are vectors that pick them out."""

    def __init__(self, groups: Mapping[str, int]) -> None:
        self.groups = dict(groups)
        self.size = sum(self.groups.values())
        starts = np.cumsum([0, *self.groups.values()])
        self._start = dict(zip(self.groups, starts, strict=False))

    def at(self, group: str, k: int | None = None) -> np.ndarray:
        """The unit vectors of a group, float [size of the group, features], or that of its feature k, [1, features]."""
        rows = np.eye(self.size)[self._start[group] : self._start[group] + self.groups[group]]
        return rows if k is None else rows[k : k + 1]


@dataclass(frozen=True)
class Head:
    """A head in features: it attends where queries meet keys, and carries what it reads to where it writes."""

    queries: np.ndarray
    """float [r, features]"""
    keys: np.ndarray
    """float [r, features]: the score of a query position with features q at a key position with features k is
    (queries @ q) @ (keys @ k)."""
    reads: np.ndarray
    """float [s, features]"""
    writes: np.ndarray
    """float [s, features]: what is read as `reads @ x` is written as `writes.T @` it."""


@dataclass(frozen=True)
class Neurons:
    """Rectified neurons in features: writes.T @ relu(reads @ x)."""

    reads: np.ndarray
    """float [neurons, features]"""
    writes: np.ndarray
    """float [neurons, features]"""


@dataclass
class Circuit:
    """What a transformer computes, in features."""

    features: Features
    """The coordinates of the residual stream."""
    embed: np.ndarray
    """float [d_vocab, features]: what each token brings."""
    positions: np.ndarray
    """float [n_ctx, features]: what each position brings."""
    unembed: np.ndarray
    """float [features, d_vocab]"""
    heads: list[list[Head]]
    """The heads of each layer."""
    neurons: dict[int, Neurons] = field(default_factory=dict)
    """The neurons of each layer that has some."""


def orthogonal_basis(size: int, rng: np.random.Generator) -> np.ndarray:
    """Random directions that are all at right angles: float [features, d_model]."""
    basis, triangle = np.linalg.qr(rng.normal(size=(size, size)))
    return basis * np.sign(np.diag(triangle))


def oblique_basis(size: int, rng: np.random.Generator, spread: float = 0.6) -> np.ndarray:
    """Random directions that overlap, each of length 1, yet can be told apart exactly: float [features, d_model].

    They are an orthogonal basis plus `spread` times as much of random directions.
    """
    noise = rng.normal(size=(size, size)) / np.sqrt(size)
    basis = orthogonal_basis(size, rng) + spread * noise
    return basis / np.linalg.norm(basis, axis=1, keepdims=True)


def sphere_codes(dimensions: int, rng: np.random.Generator, steps: int = 500) -> np.ndarray:
    """Ten points of a sphere that keep apart, with the digit itself along the first axis: float [10, dimensions].

    The first coordinate is (digit - 4.5) / 9, so that a digit is a linear function of its code; the others are moved
    apart by descent on how near the nearest codes are.
    """
    digit = (torch.arange(DIGITS) - 4.5).double() / 9
    free = torch.from_numpy(rng.normal(size=(DIGITS, dimensions - 1))).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.02)
    beside = ~torch.eye(DIGITS, dtype=torch.bool)
    for _ in range(steps):
        rest = free / free.norm(dim=1, keepdim=True) * (1 - digit[:, None] ** 2).sqrt()
        codes = torch.cat([digit[:, None], rest], 1)
        loss = torch.logsumexp(30 * (codes @ codes.T)[beside], 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return codes.detach().numpy()


def one_hot_codes() -> np.ndarray:
    """A dimension for each digit: float [10, 10]."""
    return np.eye(DIGITS)


# --- weights ---------------------------------------------------------------------------------------------------------


def assemble(circuit: Circuit, basis: np.ndarray, rng: np.random.Generator, noise: float = 0.0) -> Any:
    """The HookedTransformer that computes the circuit, float32, its features along the rows of `basis`.

    basis float [features, d_model], of full row rank. To every weight is added `noise` times the root mean square of
    its tensor, times a standard normal draw. Raises ValueError where layers differ in their number of heads.
    """
    counts = {len(heads) for heads in circuit.heads}
    if len(counts) > 1:
        raise ValueError(f"layers have {sorted(counts)} heads; give each layer as many")
    model = _empty(circuit, basis.shape[1])
    reader = np.linalg.pinv(basis)  # [d_model, features]
    weights = {
        "embed.W_E": circuit.embed @ basis,
        "pos_embed.W_pos": circuit.positions @ basis,
        "unembed.W_U": reader @ circuit.unembed,
    }
    for layer, heads in enumerate(circuit.heads):
        weights |= {f"blocks.{layer}.attn.{name}": w for name, w in _attention(heads, basis, reader, model.cfg).items()}
    for layer, neurons in circuit.neurons.items():
        shape = (model.cfg.d_mlp, basis.shape[1])
        weights[f"blocks.{layer}.mlp.W_in"] = _padded((neurons.reads @ reader.T), shape).T
        weights[f"blocks.{layer}.mlp.W_out"] = _padded(neurons.writes @ basis, shape)
    state = model.state_dict()
    for name, weight in weights.items():
        noisy = weight + noise * np.sqrt(np.square(weight).mean()) * rng.normal(size=weight.shape)
        state[name].copy_(torch.from_numpy(noisy))
    return model.eval().requires_grad_(False)


def _empty(circuit: Circuit, d_model: int) -> Any:
    """A HookedTransformer of the circuit's shape whose weights are all zero."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    every_head = [head for heads in circuit.heads for head in heads]
    cfg = HookedTransformerConfig(
        n_layers=len(circuit.heads),
        d_model=d_model,
        n_heads=len(circuit.heads[0]),
        d_head=max(max(len(head.queries), len(head.reads)) for head in every_head),
        d_mlp=max([len(neurons.reads) for neurons in circuit.neurons.values()], default=1),
        n_ctx=len(circuit.positions),
        d_vocab=len(vm.VOCAB),
        act_fn="relu",
        normalization_type=None,
        init_weights=False,
        device="cpu",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        model = HookedTransformer(cfg)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    return model


def _attention(heads: Sequence[Head], basis: np.ndarray, reader: np.ndarray, cfg: Any) -> dict[str, np.ndarray]:
    """The four matrices of a layer's heads, each [head, ...], in TransformerLens's shapes."""
    shape = (cfg.d_head, basis.shape[1])
    scale = np.sqrt(cfg.d_head)  # by which scores are divided
    return {
        "W_Q": np.stack([scale * _padded(head.queries @ reader.T, shape).T for head in heads]),
        "W_K": np.stack([_padded(head.keys @ reader.T, shape).T for head in heads]),
        "W_V": np.stack([_padded(head.reads @ reader.T, shape).T for head in heads]),
        "W_O": np.stack([_padded(head.writes @ basis, shape) for head in heads]),
    }


def _padded(rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Rows of zeros beneath, up to the shape."""
    return np.concatenate([rows, np.zeros((shape[0] - len(rows), shape[1]))])
