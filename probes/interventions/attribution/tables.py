"""What attribution says of an experiment's pairs, and how near it comes to patching the same cells one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from probes.interventions.attribution.contrasts import Contrast
from probes.interventions.attribution.edges import Graph, attribute_edges
from probes.interventions.attribution.nodes import attribute
from probes.interventions.attribution.relevance import patch_edges, patch_nodes, relevance
from probes.interventions.attribution.scores import Scores
from probes.interventions.counterfactuals.pairs import Pairs

COMPONENTS = ("z", "mlp_out", "resid_post")
NODES, EDGES = "nodes", "edges"
METHOD = "inputs"
STEPS = 4
ROWS = {NODES: 64, EDGES: 24}  # pairs: patching every path is dear
MIN_ROWS = 12
_STAGE = "attribution"


def attributions(
    model: Any, pairs: Pairs, counts: np.ndarray, *, seed: int = 0, progress: Progress = no_progress
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Integrated-gradient attribution of nodes and edges, held against patching each of them.

    Nodes are heads, MLPs and the residual stream after each layer, by role; edges lead from a head or MLP to another's
    input or the logits, over all positions. Only discriminating pairs without a shift that count have a part.

    Args:
        model: of any backend.
        pairs: of one variable.
        counts: bool [pairs], those that count.
        seed: of the pairs that are drawn, 64 for nodes and 24 for edges at most, and of the resampling.
        progress: follows the stage "attribution".

    Returns:
        By type of component, `relevance.relevance`'s columns, with `kind` ("nodes", "edges") and `note`; and a row per
        cell: `kind`, `component`, `layer`, `head`, `position` or `sender`, `receiver`, and what is `estimated` and
        `exact`, the mean move of the logit difference towards the edited answer. Where fewer than 12 pairs can be
        taken there is one row with the reason, and no cell.
    """
    table = pairs.pairs
    rows = np.flatnonzero(counts & (table["kind"] == "discriminating").to_numpy() & (table["shift"] == 0).to_numpy())
    rows = np.sort(generator("attribution", seed).permutation(rows)[: ROWS[NODES]])
    try:
        contrast = Contrast.of(pairs.select(rows)) if len(rows) else None
    except ValueError:  # no answers that differ in a token
        contrast = None
    if contrast is None or len(contrast) < MIN_ROWS:
        n = 0 if contrast is None else len(contrast)
        note = f"{n} pairs count and have answers that differ in a token; {MIN_ROWS} are needed"
        return pd.DataFrame([{"kind": NODES, "component": "all", "rows": n, "note": note}]), pd.DataFrame()
    relevances, cells = [], []
    for number, kind in enumerate((NODES, EDGES)):
        progress(_STAGE, number / 2, kind)
        part = contrast.select(np.arange(min(len(contrast), ROWS[kind])))
        estimate, exact = _both(model, part, kind)
        relevances.append(relevance(estimate, exact, seed).assign(kind=kind, note=""))
        cells.append(exact.cells.assign(kind=kind, estimated=estimate.totals, exact=exact.totals))
    progress(_STAGE, 1.0, "")
    return pd.concat(relevances, ignore_index=True), pd.concat(cells, ignore_index=True)


def _both(model: Any, contrast: Contrast, kind: str) -> tuple[Scores, Scores]:
    """What attribution estimates, and what patching finds."""
    if kind == NODES:
        estimate = attribute(model, contrast, COMPONENTS, "roles", method=METHOD, steps=STEPS)
        return estimate, patch_nodes(model, contrast, COMPONENTS, "roles")
    graph = Graph.of(model).without_input()
    estimate = attribute_edges(model, contrast, method=METHOD, steps=STEPS, graph=graph)
    return estimate, patch_edges(model, contrast, graph=graph)
