"""What an edit does to activations: replace, add, steer to a reading, project out, swap in a subspace, noise.

A change is a function `change(x, rows, columns) -> y`: x [m, ...] are m activations of a site, each of one row and
position; rows int64 [m] says of which row, columns int64 [m] which of the row's positions it is (the column of
`Edit.positions`, or the position itself where that is None). y has x's shape. Those made here have gradients towards
their tensors. Where values differ by row, their shape says how:

| shape of values       | |
|-----------------------|---|
| that of one activation | the same everywhere |
| [rows, ...]           | one of each row, for all its positions |
| [rows, columns, ...]  | one of each row and position, as `engine.activations` gives them where positions are None |

They may be NumPy arrays. Raises ValueError where one is NaN: a model would answer it with nonsense.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray | Tensor
Change = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`change(x [m, ...], rows [m], columns [m]) -> y [m, ...]`."""

_ORTHONORMAL = 1e-3  # how far products of a basis's columns may lie from 0 and 1
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # SplitMix64 (Steele, Lea, Flood 2014)


def patch(values: Array) -> Change:
    """Put `values` in the activation's place: interchange, where they are a source's; resample, where any program's."""
    values = _numbers(values, "patch")

    def change(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return _select(values, x, rows, columns, "patch").expand_as(x).to(x.dtype)

    return change


def as_far(here: Tensor, there: Tensor, noise: Tensor) -> Tensor:
    """Activations as far from `here` as `there` is, in the directions of `noise`; all [..., width]: no change itself,
    but what `patch` takes for a control of equal size."""
    distance = (there - here).norm(dim=-1, keepdim=True)
    return here + noise * (distance / noise.norm(dim=-1, keepdim=True))


def add(values: Array, scale: float = 1.0) -> Change:
    """Add `scale * values`; negative scales subtract."""
    values = _numbers(values, "add")

    def change(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return x + scale * _select(values, x, rows, columns, "add").to(x.dtype)

    return change


def steer(directions: Array, targets: Array | float, intercept: Tensor | float = 0.0, dose: float = 1.0) -> Change:
    """Shift by the least norm after which `x @ directions + intercept` is `targets`.

    Args:
        directions: [features] or [features, k], of k readings at once; linearly independent.
        targets: what is to be read: a number, [k], [rows, k] or [rows, columns, k]; without the axis k where
            directions are [features].
        intercept: a number or [k]: what the reading adds.
        dose: the share of that shift; 1 reaches the targets, 0 leaves everything, above 1 overshoots.
    """
    directions = _numbers(directions, "steer")
    aims = _numbers(torch.as_tensor(targets), "steer")
    is_single = directions.ndim == 1
    directions = directions[:, None] if is_single else directions
    inverse = torch.linalg.pinv(directions)  # [k, features]

    def change(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        _check_features("steer", directions, x)
        reading = x @ directions.to(x.dtype) + intercept  # [..., k]
        aim = aims.to(x)
        aim = aim[..., None] if is_single else aim
        if aim.ndim > 1:
            aim = _select(aim, reading, rows, columns, "steer")
        return x + dose * (aim - reading) @ inverse.to(x.dtype)

    return change


def project_out(basis: Array, mean: Array | None = None) -> Change:
    """Remove the subspace that the columns of `basis` [features] or [features, k] span: x keeps the mean's share there.

    mean: [features], what the subspace is set to; None is zero.
    """
    basis = _numbers(basis, "project_out")
    mean = None if mean is None else _numbers(mean, "project_out")
    q, _ = torch.linalg.qr(basis[:, None] if basis.ndim == 1 else basis)  # [features, k]

    def change(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        _check_features("project_out", q, x)
        span = q.to(x.dtype)
        centred = x if mean is None else x - mean.to(x)
        return x - (centred @ span) @ span.T

    return change


def swap_subspace(basis: Tensor, values: Array, weights: Tensor | None = None) -> Change:
    """Take from `values` what lies in a subspace, and leave the rest: distributed interchange (Geiger et al. 2024).

    Args:
        basis: [features, k] with orthonormal columns, such as a rotation's first k columns.
        values: as for `patch`.
        weights: [k], how much of each direction is taken (0 to 1); None takes all. A sigmoid mask or a boundless one
            is a tensor that learns here.

    Raises:
        ValueError: columns that are not orthonormal; torch.linalg.qr(basis).Q makes them so.
    """
    values = _numbers(values, "swap_subspace")
    with torch.no_grad():
        error = float((basis.T @ basis - torch.eye(basis.shape[1], device=basis.device)).abs().max())
    if error > _ORTHONORMAL:
        raise ValueError(
            f"the products of the basis's columns lie up to {error:.2g} from those of orthonormal ones; "
            "use torch.linalg.qr(basis).Q"
        )

    def change(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        _check_features("swap_subspace", basis, x)
        span = basis.to(x.dtype)
        share = (_select(values, x, rows, columns, "swap_subspace").to(x.dtype) - x) @ span  # [..., k]
        return x + (share if weights is None else share * weights.to(x.dtype)) @ span.T

    return change


def zero() -> Change:
    """Put zeros in the activation's place."""
    return lambda x, rows, columns: torch.zeros_like(x)


def mean(vector: Array) -> Change:
    """Put the mean activation, [..] of one activation, in every activation's place."""
    vector = _numbers(vector, "mean")

    def change(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        if vector.shape != x.shape[1:]:
            raise ValueError(f"mean takes one activation, {tuple(x.shape[1:])}; it was given {tuple(vector.shape)}")
        return vector.to(x.dtype).expand_as(x)

    return change


def noise(scale: float, seed: int) -> Change:
    """Add independent normal noise of standard deviation `scale`.

    What a row and column gets is a function of the seed, the row, the column and the feature alone: the same whatever
    is run beside it.
    """

    def change(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        features = torch.arange(math.prod(x.shape[1:]), device=x.device)
        key = _mix(_mix(rows + _mix(torch.tensor(seed, device=x.device))) ^ (columns + 1))  # int64 [m]
        bits = _mix(key[:, None] + 2 * features), _mix(key[:, None] + 2 * features + 1)
        u, v = (((word >> 11) & (2**53 - 1)).double() / 2**53 for word in bits)  # uniform in [0, 1)
        normal = (-2 * (1 - u).log()).sqrt() * (2 * math.pi * v).cos()  # Box and Muller (1958)
        return x + scale * normal.reshape(x.shape).to(x.dtype)

    return change


def _mix(x: Tensor) -> Tensor:
    """Spread the bits of integers: int64 of any shape (wrapping around)."""
    step, first, second = (value - 2**64 if value >= 2**63 else value for value in _MIX)
    x = x + step
    x = (x ^ ((x >> 30) & (2**34 - 1))) * first
    x = (x ^ ((x >> 27) & (2**37 - 1))) * second
    return x ^ ((x >> 31) & (2**33 - 1))


def _numbers(values: Array, name: str) -> Tensor:
    """The values as a tensor, with their gradients; ValueError where one is NaN. (Scores of attention may be -inf.)"""
    values = torch.as_tensor(values)
    n_bad = int(values.isnan().sum())
    if n_bad:
        raise ValueError(f"{name} was given {n_bad:,} of {values.numel():,} numbers that are NaN; mend them")
    return values


def _select(values: Tensor, x: Tensor, rows: Tensor, columns: Tensor, name: str) -> Tensor:
    """What values hold for each of x [m, ...], by their shape: [m, ...], or the shape of one activation."""
    values = values.to(x.device)
    one = x.shape[1:]
    if values.shape == one:
        return values
    extra = values.ndim - len(one)
    if values.shape[extra:] != one or extra not in (1, 2):
        raise ValueError(
            f"{name} was given values {tuple(values.shape)} where one activation is {tuple(one)}; expected that, "
            f"[rows, {', '.join(map(str, one))}] or [rows, columns, {', '.join(map(str, one))}], and of chosen heads "
            "those heads' values only"
        )
    reach = (int(rows.max()) + 1, int(columns.max()) + 1)[:extra] if len(rows) else ()
    if any(size < needed for size, needed in zip(values.shape, reach, strict=False)):
        what = "rows" if values.shape[0] < reach[0] else "columns"
        raise ValueError(f"{name} was given values {tuple(values.shape)}, which have too few {what} for the positions")
    return values[rows] if extra == 1 else values[rows, columns]


def _check_features(name: str, basis: Tensor, x: Tensor) -> None:
    if basis.shape[0] != x.shape[-1]:
        raise ValueError(
            f"{name} was given directions of {basis.shape[0]} features; the activations have {x.shape[-1]}"
        )
