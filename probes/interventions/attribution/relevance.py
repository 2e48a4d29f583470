"""Relevance: how near attribution comes to patching itself, per type of component.

`patch_nodes` and `patch_edges` patch the cells that attribution estimates, one by one; `relevance` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from cadmus.statistics import clustered
from cadmus.statistics.clustered import interval_columns
from probes.interventions.attribution.contrasts import Contrast, RowMetric, as_roles, check_aligned, evaluate
from probes.interventions.attribution.edges import Graph
from probes.interventions.attribution.scores import Scores
from probes.interventions.editing import engine
from probes.interventions.editing.patching import Roles, patch_grid
from probes.interventions.editing.paths import path_grid

_MIN_CELLS = 3  # of a correlation


def patch_nodes(
    model: Any,
    contrast: Contrast,
    components: str | Sequence[str] = ("z", "mlp_out", "resid_post"),
    positions: str | Roles = "each",
    metric: str | RowMetric = "logit_difference",
    *,
    layers: Sequence[int] | None = None,
    fast: bool = True,
) -> Scores:
    """What patching each cell does (`patching.patch_grid`); arguments and cells as `nodes.attribute`'s."""
    roles = as_roles(contrast, positions, "each", "all")
    if not roles:
        check_aligned(contrast, roles)
    rows_of = _Rows(model, contrast, metric)
    places: Any = roles or positions
    table = patch_grid(
        model, contrast.base, contrast.source, components, places, rows_of, at=contrast.at, layers=layers, fast=fast
    )
    values = rows_of.values()
    for name, (here, _) in roles.items():
        values[np.ix_((table["position"] == name).to_numpy(), (here < 0).all(1))] = np.nan
    cells = table[["component", "layer", "head", "position"]]
    return Scores(cells, values, contrast.clusters, "patching")


def patch_edges(
    model: Any,
    contrast: Contrast,
    positions: str | Roles = "all",
    metric: str | RowMetric = "logit_difference",
    *,
    graph: Graph | None = None,
    fast: bool = True,
) -> Scores:
    """What patching each path does (`paths.path_grid`); arguments and cells as `edges.attribute_edges`'s.

    The input is no sender here; give `attribute_edges` the graph `Graph.of(model).without_input()`.
    """
    graph = (Graph.of(model) if graph is None else graph).without_input()
    roles = as_roles(contrast, positions, "all")
    check_aligned(contrast, roles)
    places = {name: here for name, (here, _) in roles.items()} if roles else {"all": None}
    tables, values = [], []
    for name, here in places.items():
        rows_of = _Rows(model, contrast, metric)
        path_grid(
            model,
            contrast.base,
            contrast.source,
            graph.senders,
            graph.receivers,
            rows_of,
            at=contrast.at,
            positions=here,
            fast=fast,
        )
        tables.append(graph.table().assign(position=name))
        part = rows_of.values()
        values.append(part if here is None else np.where((here >= 0).any(1), part, np.nan))
    return Scores(pd.concat(tables, ignore_index=True), np.concatenate(values), contrast.clusters, "patching")


class _Rows:
    """A metric for grids, which call it once for each cell in order: it keeps what it gave for every row."""

    def __init__(self, model: Any, contrast: Contrast, metric: str | RowMetric) -> None:
        self.metric = contrast.metric(metric)
        self.base = evaluate(self.metric, engine.logits(model, contrast.base, [[]], contrast.at)[0])
        self.cells: list[Tensor] = []

    def __call__(self, logits: Tensor) -> Tensor:
        value = evaluate(self.metric, logits)
        self.cells.append(value - self.base)
        return value

    def values(self) -> np.ndarray:
        """The differences to the base, float64 [cells, rows]."""
        return torch.stack(self.cells).double().cpu().numpy()


# --- comparison ------------------------------------------------------------------------------------------------------


def relevance(estimate: Scores, exact: Scores, seed: int = 0, resamples: int = 1000) -> pd.DataFrame:
    """Correlations of estimated with exact effects over cells (their means over rows), per component type.

    A row per `component` and one for "all": `method`; `pearson` and `spearman`, each with `_low` and `_high` (95 %,
    rows resampled by cluster) and `_nodes_low`, `_nodes_high` (cells resampled); `cells`; `rows`. Cells that neither
    moves in any row, such as positions before base and source differ, are left out; where fewer than three are left,
    or one side is constant, the correlations are NaN.

    Raises ValueError where the two are not of the same cells and rows.
    """
    if not estimate.cells.astype(str).equals(exact.cells.astype(str)) or estimate.values.shape != exact.values.shape:
        raise ValueError(
            f"{estimate} and {exact} are not of the same cells and rows: give both the same contrast, components and "
            "positions (of edges, Graph.of(model).without_input())"
        )
    moves = (np.nan_to_num(estimate.values) != 0).any(1) | (np.nan_to_num(exact.values) != 0).any(1)
    component = exact.cells["component"].to_numpy()
    table = []
    for name in [*dict.fromkeys(component), "all"]:
        cells = moves & ((component == name) | (name == "all"))
        row: dict[str, object] = {"component": name, "method": estimate.method}
        for kind, correlation in (("pearson", pearson), ("spearman", spearman)):
            row |= _with_intervals(kind, correlation, estimate.values[cells], exact, cells, seed, resamples)
        table.append(row | {"cells": int(cells.sum()), "rows": exact.values.shape[1]})
    return pd.DataFrame(table)


_Correlation = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _with_intervals(
    name: str,
    correlation: _Correlation,
    estimate: np.ndarray,
    exact: Scores,
    cells: np.ndarray,
    seed: int,
    resamples: int,
) -> dict[str, object]:
    """A correlation over cells with both intervals; estimate float [cells, rows]."""
    truth = exact.values[cells]
    k = len(truth)
    if k < _MIN_CELLS:
        columns = (name, f"{name}_low", f"{name}_high", f"{name}_nodes_low", f"{name}_nodes_high")
        return dict.fromkeys(columns, float("nan"))
    counts = ~np.isnan(truth)
    parts = np.concatenate([np.where(counts, estimate, 0), np.where(counts, truth, 0), counts]).T  # [rows, 3 * cells]
    sums = clustered.cluster_sums(parts, exact.clusters, np.arange(len(parts)))

    def statistic(totals: np.ndarray) -> np.ndarray:
        first, second, n = np.split(totals, 3, axis=-1)
        return correlation(first / np.maximum(n, 1), second / np.maximum(n, 1))

    rows = clustered.bootstrap(sums, statistic, seed, resamples)
    first, second, n = np.split(sums.sum(0), 3)
    draws = np.random.default_rng(seed).integers(0, k, (resamples, k))
    drawn = correlation((first / np.maximum(n, 1))[draws], (second / np.maximum(n, 1))[draws])
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if not np.isnan(drawn).all() else (np.nan, np.nan)
    return {
        **interval_columns(name, rows.estimate, rows.low, rows.high),
        f"{name}_nodes_low": float(low),
        f"{name}_nodes_high": float(high),
    }


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation along the last axis; NaN where one is constant."""
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis, ties at their mean rank; NaN where one is constant."""
    return pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))
