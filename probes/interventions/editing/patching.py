"""Named interventions as tables: patching grids, ablations, doses, edges taken away; each a call of the engine.

Names are those of TransformerLens's `patching`: a *component* is "resid_pre", "resid_mid", "resid_post", "attn_out",
"mlp_out", or of single heads "z", "q", "k", "v", "pattern". A *metric* is a function of the next token's logits
[rows, d_vocab] at the positions `at` that gives a number, or one for each row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cadmus.runtime.progress import Progress, no_progress
from probes.interventions.editing import changes, engine
from probes.interventions.editing.edits import Arm, EdgeEdit, Edit, Positions
from probes.interventions.editing.engine import Array

Metric = Callable[[Tensor], Tensor]
"""Logits [rows, d_vocab] -> a number, or [rows]."""

COMPONENTS = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "z": "attn.hook_z",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "pattern": "attn.hook_pattern",
}
OF_HEADS = ("z", "q", "k", "v", "pattern")
_ARMS = 2048  # that run at once
Roles = Mapping[str, tuple[Array, Array]]
"""By name, the positions int [rows] or [rows, k] in the base, and as many in the source; -1 for none in both."""


def site_of(model: Any, component: str, layer: int) -> str:
    """The site of a component in a block; queries and keys of rotary models are taken as they are attended with."""
    if component not in COMPONENTS:
        raise ValueError(f"component {component!r} is none of {', '.join(COMPONENTS)}")
    name = COMPONENTS[component]
    if component in ("q", "k") and model.cfg.positional_embedding_type == "rotary":
        name = name.replace("hook_", "hook_rot_")
    return f"blocks.{layer}.{name}"


def components_of(components: str | Sequence[str]) -> list[str]:
    """One component or several as a list. Raises ValueError for none."""
    names = [components] if isinstance(components, str) else list(components)
    if not names:
        raise ValueError(f"there is no component: give one or more of {', '.join(COMPONENTS)}")
    return names


def layers_of(model: Any, layers: Sequence[int] | None) -> list[int]:
    """The layers as a list, all of the model's for None. Raises ValueError for none."""
    numbers = list(range(model.cfg.n_layers) if layers is None else layers)
    if not numbers:
        raise ValueError(f"there is no layer: give one or more of 0 ... {model.cfg.n_layers - 1}, or None for all")
    return numbers


def checked_roles(roles: Roles, n_rows: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Roles as int64 [rows, k] in base and source. Raises ValueError for none, and where the two do not agree."""
    if not roles:
        raise ValueError("there is no role: give one or more by name, or a contrast that has some")
    out = {}
    for name, places in roles.items():
        here, there = (np.asarray(place).astype(np.int64) for place in places)
        if here.shape != there.shape or here.shape[:1] != (n_rows,) or ((here < 0) != (there < 0)).any():
            raise ValueError(
                f"role {name!r}: base {here.shape} and source {there.shape} need as many positions for each of "
                f"{n_rows} rows, -1 in the same places"
            )
        out[name] = here.reshape(n_rows, -1), there.reshape(n_rows, -1)
    return out


def patch_grid(
    model: Any,
    base: Array,
    source: Array,
    components: str | Sequence[str],
    positions: str | Roles,
    metric: Metric,
    *,
    at: Array,
    layers: Sequence[int] | None = None,
    fast: bool = True,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Activation patching: each component of each layer at each place, from source runs into base runs, one by one.

    Args:
        model: of any backend.
        base: int [rows, pos]: the sequences that are run.
        source: int [rows, pos]: where what is put in comes from, row by row.
        components: one or several of `COMPONENTS`; those of heads are patched head by head.
        positions: "each" (every position up to the last of `at`, one by one), "all" (together), or roles.
        metric: see the module.
        at: int [rows]: the positions in the base whose next token is wanted.
        layers: None is all of them.
        fast: as `engine.logits`.
        progress: follows the stage "patch".

    Returns:
        A row per component, layer, head (-1: no single one) and position: `value`, the metric (its mean over the rows
        that have the position); `rows`, how many these are; `changed`, the share of them in which the patch changed
        anything: where it is 0 the value is the unedited model's.

    Raises:
        ValueError: as `engine.logits`; an unknown component; sources of another shape; no component, layer or role.
    """
    names = components_of(components)
    base, source = torch.as_tensor(base), torch.as_tensor(source)
    if base.shape != source.shape:
        raise ValueError(f"base is {tuple(base.shape)} and source {tuple(source.shape)}; pad them to one shape")
    places = _places(positions, np.asarray(at))
    blocks = layers_of(model, layers)
    tables = []
    for number, component in enumerate(names):
        progress("patch", number / len(names), component)
        sites = {layer: site_of(model, component, layer) for layer in blocks}
        values = engine.activations(model, source, list(sites.values()))
        if component == "pattern":
            values = {site: value.transpose(1, 2) for site, value in values.items()}  # [rows, query, head, key]
        heads = range(model.cfg.n_heads) if component in OF_HEADS else (-1,)
        cells = list(itertools.product(blocks, heads, places))
        arms: list[Arm] = [_patch(sites[layer], values[sites[layer]], place, head) for layer, head, (_, place) in cells]
        index = [
            {"component": component, "layer": layer, "head": head, "position": name} for layer, head, (name, _) in cells
        ]
        rows_of = {name: _has(place, len(base)) for name, place in places}
        has = [rows_of[name] for _, _, (name, _) in cells]
        tables.append(measure(model, base, arms, at, index, metric, has=has, fast=fast))
    progress("patch", 1.0, "")
    return pd.concat(tables, ignore_index=True)


_Place = tuple[Positions, np.ndarray | None]  # in the base, and in the source where that is another


def _places(positions: str | Roles, at: np.ndarray) -> list[tuple[Any, _Place]]:
    """(name, place) of every position of a grid; at int [rows]: the last of them in each row."""
    if isinstance(positions, str):
        if positions == "all":
            return [("all", (None, None))]
        if positions != "each":
            raise ValueError(f"positions {positions!r} is neither 'each' nor 'all', nor roles by name")
        return [(p, (p, None)) for p in range(int(at.max()) + 1)]
    return list(checked_roles(positions, len(at)).items())


def _patch(site: str, values: Tensor, place: _Place, head: int) -> Edit:
    """The edit that puts in values [rows, pos, ...] of the source."""
    positions, origin = place
    heads = None if head < 0 else [head]
    values = values if head < 0 else values[:, :, [head]]
    if isinstance(positions, int):
        values = values[:, positions]
    elif origin is not None:
        values = engine.at_positions(values, origin.reshape(len(values), -1))
    return Edit(site, positions, changes.patch(values), heads)


def _has(place: _Place, n_rows: int) -> np.ndarray:
    """bool [rows]: which rows have the position."""
    positions = place[0]
    if positions is None or isinstance(positions, int):
        return np.ones(n_rows, bool)
    return np.any(np.asarray(positions).reshape(n_rows, -1) >= 0, axis=1)


def measure(
    model: Any,
    sequences: Array,
    arms: Sequence[Arm],
    at: Array,
    index: Sequence[Mapping[str, Any]],
    metric: Metric,
    *,
    has: Sequence[np.ndarray] | None = None,
    fast: bool = True,
) -> pd.DataFrame:
    """Run arms and give the metric of each: `index` (a row for each arm) with `value`, `rows`, `changed`.

    has: bool [rows] for each arm: the rows that count; None: all. Raises ValueError where there are no arms.
    """
    if not arms:
        raise ValueError("there is nothing to run: give a dose, or a sender with a receiver behind it")
    rows = []
    for begin in range(0, len(arms), _ARMS):
        part = arms[begin : begin + _ARMS]
        outcome = engine.run(model, sequences, part, at, fast=fast)
        for number, (logits, changed) in enumerate(zip(outcome.logits, outcome.changed, strict=True), begin):
            counts = np.ones(len(changed), bool) if has is None else has[number]
            value = metric(logits)
            if value.ndim:
                value = value[torch.from_numpy(counts).to(value.device)].double().mean()
            share = float(changed[counts].mean()) if counts.any() else float("nan")
            rows.append({**index[number], "value": float(value), "rows": int(counts.sum()), "changed": share})
    return pd.DataFrame(rows)


# --- ablations, doses, edges -----------------------------------------------------------------------------------------


def ablation_grid(
    model: Any,
    sequences: Array,
    components: str | Sequence[str],
    metric: Metric,
    *,
    at: Array,
    mode: str = "mean",
    reference: Array | None = None,
    positions: Positions = None,
    seed: int = 0,
    fast: bool = True,
) -> pd.DataFrame:
    """Ablate each component of each layer (and head): what does the metric become without what it says?

    Args:
        model: of any backend.
        sequences: int [rows, pos].
        components: of `COMPONENTS`, but "pattern".
        metric: see the module.
        at: int [rows].
        mode: "zero"; "mean", each position's mean over the rows of `reference`; "resample", the activation of another
            row of `reference`, which has as many, drawn with `seed`.
        reference: int [n, pos], as wide as the sequences; None: the sequences themselves.
        positions: where; None is everywhere.
        seed: fixes which row goes where.
        fast: as `engine.logits`.

    Returns:
        A row per component, layer and head (-1: no single one): `value`, `rows`, `changed`.
    """
    if mode not in ("zero", "mean", "resample"):
        raise ValueError(f"mode {mode!r} is none of 'zero', 'mean', 'resample'")
    names = components_of(components)
    if "pattern" in names:
        raise ValueError("a pattern is no activation to ablate: take its edges away with edge_grid")
    cells = [
        (component, layer, head)
        for component in names
        for layer in range(model.cfg.n_layers)
        for head in (range(model.cfg.n_heads) if component in OF_HEADS else (-1,))
    ]
    sites = [site_of(model, component, layer) for component, layer, _ in cells]
    values: dict[str, Tensor | None] = dict.fromkeys(sites)
    if mode != "zero":
        read = engine.activations(model, sequences if reference is None else reference, list(values))
        values = {site: _stand_in(read[site], mode, len(sequences), seed) for site in sites}
    arms: list[Arm] = [
        _ablate(site, values[site], positions, head) for site, (_, _, head) in zip(sites, cells, strict=True)
    ]
    index = [{"component": component, "layer": layer, "head": head} for component, layer, head in cells]
    return measure(model, sequences, arms, at, index, metric, fast=fast)


def _stand_in(values: Tensor, mode: str, n_rows: int, seed: int) -> Tensor:
    """What takes an activation's place [rows, pos, ...], from those of the reference [n, pos, ...]."""
    if mode == "mean":
        return values.mean(0, keepdim=True).expand(n_rows, *values.shape[1:])
    if len(values) != n_rows or n_rows < 2:
        raise ValueError(f"resampling needs a reference of {n_rows} rows, two or more; it has {len(values)}")
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)  # one cycle: no row gets its own
    return values[other.to(values.device)]


def _ablate(site: str, values: Tensor | None, positions: Positions, head: int) -> Edit:
    heads = None if head < 0 else [head]
    if values is None:
        return Edit(site, positions, changes.zero(), heads)
    if positions is None:
        return Edit(site, None, changes.patch(values if head < 0 else values[:, :, [head]]), heads)
    array = np.asarray(positions)
    places = array if array.ndim == 2 else np.broadcast_to(array, len(values))
    return _patch(site, values, (places, places), head)


def dose_curve(
    model: Any,
    sequences: Array,
    site: str,
    positions: Positions,
    directions: Tensor,
    targets: Tensor | float,
    doses: Sequence[float],
    metric: Metric,
    *,
    at: Array,
    intercept: Tensor | float = 0.0,
    fast: bool = True,
) -> pd.DataFrame:
    """Steer by a share of the least shift that reaches the targets (`changes.steer`): a row per dose.

    Columns: `site`, `dose`, `value`, `rows`, `changed`; dose 0 is the model as it is.
    """
    arms: list[Arm] = [
        Edit(site, positions, changes.steer(directions, targets, intercept, dose)) if dose else [] for dose in doses
    ]
    index = [{"site": site, "dose": dose} for dose in doses]
    return measure(model, sequences, arms, at, index, metric, fast=fast)


def edge_grid(
    model: Any,
    sequences: Array,
    queries: Positions,
    keys: Positions,
    metric: Metric,
    *,
    at: Array,
    mode: str = "block",
    to: Positions = None,
    layers: Sequence[int] | None = None,
    fast: bool = True,
) -> pd.DataFrame:
    """Take edges from queries to keys away (`EdgeEdit`): in each head, in all heads of each layer, in all layers.

    A row per layer and head, -1 standing for all: `layer`, `head`, `value`, `rows`, `changed`. Raises ValueError for no
    layer.
    """
    blocks = layers_of(model, layers)
    arms: list[Arm] = []
    index = []
    for layer in blocks:
        for head in (*range(model.cfg.n_heads), -1):
            arms.append(EdgeEdit(layer, queries, keys, None if head < 0 else [head], mode, to))
            index.append({"layer": layer, "head": head})
    arms.append([EdgeEdit(layer, queries, keys, None, mode, to) for layer in blocks])
    index.append({"layer": -1, "head": -1})
    return measure(model, sequences, arms, at, index, metric, fast=fast)
