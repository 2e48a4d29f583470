"""Edge attribution: what each path from a head or MLP to the input of another would do, from one pass's gradients.

The residual stream is a sum, so that a receiver's input changes by what its sender writes in the source minus what it
writes in the base; times the metric's gradient by that input this estimates `paths.path_grid` (edge attribution
patching; Syed, Rager & Conmy 2023, arXiv 2310.10348), with integrated gradients as in EAP-IG (Hanna, Pezzelle &
Belinkov 2024, arXiv 2403.17806).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cadmus.runtime.progress import Progress, no_progress
from probes.interventions.attribution.contrasts import Contrast, RowMetric, as_roles, check_aligned, tokens_of
from probes.interventions.attribution.gradients import check_method, mean_gradients, metric_of
from probes.interventions.attribution.scores import Scores
from probes.interventions.editing import engine
from probes.interventions.editing.locations import INPUT_SITE
from probes.interventions.editing.patching import Roles
from probes.interventions.editing.paths import (
    INPUT,
    WAYS,
    Receiver,
    Sender,
    lies_behind,
    name_of,
    receiver_site,
    sender_site,
)

METHODS = ("gradient", "inputs")
_ROWS = 32  # that are run at once
_STAGE = "attribution"  # of the progress


@dataclass(frozen=True)
class Graph:
    """The senders and receivers of a model, in the order of a pass."""

    senders: list[Sender]
    """All of them, or some."""
    receivers: list[Receiver]
    """All of them, or some."""

    @classmethod
    def of(cls, model: Any) -> Graph:
        """Every sender, the input first, and every receiver."""
        layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
        senders: list[Sender] = [INPUT]
        receivers: list[Receiver] = []
        for layer in layers:
            senders += [*((layer, head) for head in heads), (layer, "mlp")]
            receivers += [(layer, head, way) for way in WAYS for head in heads] + [(layer, "mlp", "in")]
        return cls(senders, [*receivers, (len(layers), "logits", "in")])

    def without_input(self) -> Graph:
        """The same with heads and MLPs alone as senders, as `relevance.patch_edges` patches them."""
        return Graph([sender for sender in self.senders if sender != INPUT], self.receivers)

    @property
    def edges(self) -> np.ndarray:
        """Which receivers lie behind which senders: bool [senders, receivers]."""
        return np.array([[lies_behind(receiver, sender) for receiver in self.receivers] for sender in self.senders])

    def table(self) -> pd.DataFrame:
        """A row per edge, by sender and receiver: `component` ("head to q"), `sender` and `receiver` ("2.1", "3.mlp",
        "4.0.q", "input", "logits")."""
        return pd.DataFrame(
            [
                {
                    "component": f"{_kind(self.senders[s])} to {_kind(self.receivers[r])}",
                    "sender": name_of(self.senders[s]),
                    "receiver": name_of(self.receivers[r]),
                }
                for s, r in np.argwhere(self.edges)
            ]
        )


def attribute_edges(
    model: Any,
    contrast: Contrast,
    positions: str | Roles = "all",
    metric: str | RowMetric = "logit_difference",
    *,
    method: str = "gradient",
    steps: int = 8,
    graph: Graph | None = None,
    progress: Progress = no_progress,
) -> Scores:
    """Attribution of edges: for every sender and every receiver behind it, what `paths.path_grid` would find.

    Args:
        model: of a backend that edits the inputs of heads (ours, or a HookedTransformer).
        contrast: base and source of equal length, and what is asked.
        positions: where the sender's output changes: "all", "roles" (those of the contrast), or roles by name.
        metric: of `contrasts.METRICS`, or logits [rows, d_vocab] -> [rows], differentiable.
        method: "gradient" (at the base) or "inputs" (its mean along the way of the inputs), as `nodes.attribute`.
        steps: gradients of a mean.
        graph: None is `Graph.of(model)`.
        progress: follows the stage "attribution".

    Raises ValueError as `nodes.attribute` does.
    """
    check_method(method, METHODS)
    roles = as_roles(contrast, positions, "all")
    check_aligned(contrast, roles)
    graph = Graph.of(model) if graph is None else graph
    is_edge = graph.edges
    of_metric = metric_of(model, contrast, metric)
    places = {name: here for name, (here, _) in roles.items()} if roles else {"all": None}
    values = np.full((len(places), int(is_edge.sum()), len(contrast)), np.nan)
    for begin in range(0, len(contrast), _ROWS):
        progress(_STAGE, begin / len(contrast), f"{begin:,} of {len(contrast):,} rows")
        rows = slice(begin, begin + _ROWS)
        change = written(model, contrast.source[rows], graph) - written(model, contrast.base[rows], graph)
        gradient = _received(model, contrast, rows, graph, of_metric, method, steps)
        for number, here in enumerate(places.values()):
            part = here if here is None else here[rows]
            values[number, :, rows] = _products(change, gradient, part)[is_edge]
    progress(_STAGE, 1.0, "")
    table = pd.concat([graph.table().assign(position=name) for name in places], ignore_index=True)
    return Scores(table, values.reshape(-1, len(contrast)), contrast.clusters, method)


def written(model: Any, sequences: np.ndarray, graph: Graph) -> Tensor:
    """What each sender writes: [senders, rows, pos, d_model]."""
    sites = [sender_site(sender) for sender in graph.senders]
    read = engine.activations(model, sequences, list(dict.fromkeys(sites)))
    return torch.stack([pick(read[site], sender[1]) for site, sender in zip(sites, graph.senders, strict=True)])


def pick(x: Tensor, part: int | str) -> Tensor:
    """That head of [rows, pos, head, d_model], or all of [rows, pos, d_model]."""
    return x[:, :, part] if isinstance(part, int) else x


def _received(
    model: Any, contrast: Contrast, rows: slice, graph: Graph, metric: Any, method: str, steps: int
) -> Tensor:
    """The (mean) gradient by what each receiver reads: [receivers, rows, pos, d_model]."""
    tokens, at = tokens_of(model, contrast, rows)
    sites = [receiver_site(receiver) for receiver in graph.receivers]
    way = None
    if method == "inputs":
        way = engine.activations(model, contrast.source[rows], [INPUT_SITE])[INPUT_SITE]
    distinct = list(dict.fromkeys(sites))
    read = mean_gradients(model, tokens, at, distinct, lambda logits: metric(logits, rows), way, steps)
    return torch.stack([pick(read[site], receiver[1]) for site, receiver in zip(sites, graph.receivers, strict=True)])


def _products(change: Tensor, gradient: Tensor, here: np.ndarray | None) -> np.ndarray:
    """The scores of all senders with all receivers, float64 [sender, receiver, rows].

    change [sender, rows, pos, d_model], gradient [receiver, rows, pos, d_model]; here int64 [rows, k]: the positions
    that count, None for all; rows without any are NaN.
    """
    if here is not None:
        row, column = np.nonzero(here >= 0)
        mask = torch.zeros(change.shape[1:3], dtype=change.dtype, device=change.device)
        mask[row, here[row, column]] = 1
        change = change * mask[:, :, None]
    left = change.transpose(0, 1).flatten(2)  # [rows, sender, pos * d_model]
    right = gradient.transpose(0, 1).flatten(2)  # [rows, receiver, pos * d_model]
    scores = (left @ right.mT).permute(1, 2, 0).double().cpu().numpy()
    return scores if here is None else np.where((here >= 0).any(1), scores, np.nan)


def _kind(end: tuple) -> str:
    if len(end) == 3:  # a receiver
        return end[2] if end[2] in WAYS else end[1]
    return "head" if isinstance(end[1], int) else end[1]
