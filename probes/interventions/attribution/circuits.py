"""Circuits: how much of a model's answer the best-ranked components or edges carry when all others are the source's.

Faithfulness of a circuit C is f(C) = (m(C) - m(none)) / (m(all) - m(none)), of means over rows: m is the metric when
everything outside the circuit has the activations of the source; m(all) is the model on the base, m(none) has nothing
but the source's. Along circuits of growing share k, CPR (circuit performance ratio) is the area under f(k), CMD
(circuit-model distance) the area between f(k) and 1 (MIB; Mueller et al. 2025, arXiv 2504.13151): by trapezoids over
the shares of components or edges that are counted here, from f = 0 at share 0 on. There CPR takes circuits by signed
scores and CMD by magnitudes, sizes are shares of edges even where nodes are ranked, and the area begins at 0.001.

Scores are those of `nodes.attribute` (components z and mlp_out, over all positions or each) or of
`edges.attribute_edges` (all positions): what patching would do to the metric, so that what carries the base's answer
has the highest. In circuits of nodes the input is the base's always; in circuits of edges it is a sender.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cadmus.machine.tokens import text_list
from cadmus.models import backends
from cadmus.models.hooks import Hook, HookFn, never_writes
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from cadmus.statistics import clustered
from cadmus.statistics.clustered import interval_columns
from probes.interventions.attribution.contrasts import Contrast, RowMetric, evaluate, tokens_of
from probes.interventions.attribution.edges import Graph, pick, written
from probes.interventions.attribution.scores import Scores
from probes.interventions.editing import engine
from probes.interventions.editing.edits import Arm, Edit
from probes.interventions.editing.patching import site_of
from probes.interventions.editing.paths import lies_behind, receiver_site, sender_site

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the components, as in MIB; each is rounded up to whole ones."""
ORDERS = ("signed", "magnitude")
_COMPONENTS = ("z", "mlp_out")
_ROWS = 64  # that are run at once
_STAGE = "circuits"  # of the progress


@dataclass(frozen=True)
class Faithfulness:
    """How much of the metric circuits recover."""

    curve: pd.DataFrame
    """A row per `circuit` ("attribution", "random", "untrained"), `order` ("signed": highest scores first, or
    "magnitude") and size: `share`, `components`; `value` (the faithfulness; of random orders their mean) with `low`,
    `high` (95 %, rows resampled by cluster); `spread`, the standard deviation over random orders (else 0); `n` rows."""
    areas: pd.DataFrame
    """A row per circuit and order: `cpr`, `cmd` (of random orders their mean), each with `_low`, `_high`, `_spread`;
    `span`, the metric that there is to recover, m(all) - m(none), with `span_low`, `span_high`: where that may be 0 the
    shares say nothing, and `note` says so; `n`."""


def faithfulness(
    model: Any,
    contrast: Contrast,
    scores: Scores,
    metric: str | RowMetric = "logit_difference",
    *,
    sizes: Sequence[float] = SIZES,
    orders: Sequence[str] = ORDERS,
    random: int = 5,
    untrained: tuple[Any, Scores] | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Faithfulness:
    """Curves of circuits by the scores' rank, beside random orders of the same sizes and the untrained twin.

    Args:
        model: of any backend; of edges, of one that edits the inputs of heads.
        contrast: rows that the scores were not computed on, where the figure is to hold beyond them. Its other answer
            should be the source's own (`Contrast.of(pairs, "source_answer")`): that is what no circuit at all says.
        scores: of z and mlp_out, or of edges.
        metric: as for attribution.
        sizes: shares in (0, 1].
        orders: of `ORDERS`.
        random: how many random orders.
        untrained: the twin, and its own scores of the same cells.
        seed: of the random orders and of the bootstrap.
        progress: follows the stage "circuits".

    Raises ValueError for scores that are no circuit's, a size or an order that does not exist.
    """
    orders = text_list(orders, "orders")
    counts = _counts(sizes, len(scores.cells))
    for order in orders:
        if order not in ORDERS:
            raise ValueError(f"order {order!r} is none of {', '.join(ORDERS)}")
    rng = generator("circuits", seed)
    tasks: list[tuple[str, str, Any, list[np.ndarray]]] = [
        ("attribution", order, model, [_ranks(scores, order)]) for order in orders
    ]
    if random:
        tasks.append(("random", "random", model, [rng.permutation(len(scores.cells)) for _ in range(random)]))
    if untrained is not None:
        twin, own = untrained
        tasks += [("untrained", order, twin, [_ranks(own, order)]) for order in orders]
    runs: dict[int, dict[bytes, np.ndarray]] = {}  # by model and circuit: several orders begin alike
    curves, areas = [], []
    for number, (circuit, order, which, ranks) in enumerate(tasks):
        progress(_STAGE, number / len(tasks), f"{circuit}, {order}")
        circuits = [np.zeros(len(scores.cells), bool), np.ones(len(scores.cells), bool)]
        circuits += [rank < count for rank in ranks for count in counts]
        known = runs.setdefault(id(which), {})
        new = {one.tobytes(): one for one in circuits if one.tobytes() not in known}
        if new:
            known |= dict(zip(new, run_circuits(which, contrast, scores.cells, list(new.values()), metric)))
        values = np.stack([known[one.tobytes()] for one in circuits])
        labels = {"circuit": circuit, "order": order}
        curve, area = _summary(values, len(ranks), counts, contrast, len(scores.cells), seed)
        curves.append(curve.assign(**labels))
        areas.append({**labels, **area})
    progress(_STAGE, 1.0, "")
    front = ["circuit", "order"]
    curve = pd.concat(curves, ignore_index=True)
    return Faithfulness(curve[front + [name for name in curve if name not in front]], pd.DataFrame(areas))


def run_circuits(
    model: Any, contrast: Contrast, cells: pd.DataFrame, circuits: Sequence[np.ndarray], metric: str | RowMetric
) -> np.ndarray:
    """The metric of every row with everything outside each circuit as in the source: float64 [circuits, rows].

    cells as of `Scores`, of nodes or edges; circuits bool [cells] each.
    """
    run = _run_edges if "sender" in cells else _run_nodes
    parts = []
    for begin in range(0, len(contrast), _ROWS):
        part = contrast.select(np.arange(begin, min(begin + _ROWS, len(contrast))))
        parts.append(run(model, part, cells, circuits))
    logits = torch.cat(parts, 1)
    of_metric = contrast.metric(metric)
    return np.stack([evaluate(of_metric, of_circuit).double().cpu().numpy() for of_circuit in logits])


def _counts(sizes: Sequence[float], n: int) -> list[int]:
    """The different numbers of components, ascending."""
    if not len(sizes) or min(sizes) <= 0 or max(sizes) > 1:
        raise ValueError(f"sizes {tuple(sizes)} are no shares: give numbers above 0, up to 1")
    return sorted({int(np.ceil(size * n - 1e-9)) for size in sizes})


def _ranks(scores: Scores, order: str) -> np.ndarray:
    """The place of each cell, 0 the first: int64 [cells]."""
    totals = scores.totals
    best = np.argsort(-(abs(totals) if order == "magnitude" else totals), kind="stable")
    rank = np.empty(len(best), np.int64)
    rank[best] = np.arange(len(best))
    return rank


# --- nodes -----------------------------------------------------------------------------------------------------------


def _run_nodes(model: Any, contrast: Contrast, cells: pd.DataFrame, circuits: Sequence[np.ndarray]) -> Tensor:
    """Logits [circuits, rows, d_vocab]."""
    components = set(cells["component"])
    if not components <= set(_COMPONENTS) or not set(cells["position"].map(type)) <= {int, str}:
        raise ValueError(f"a circuit of nodes is of {' and '.join(_COMPONENTS)}; these are {sorted(components)}")
    names = set(cells["position"])
    is_each = "all" not in names
    if names != {"all"} and not all(isinstance(name, int) for name in names):
        raise ValueError("a circuit of nodes is over positions 'all' or 'each'; these are by role")
    groups = cells.groupby(["component", "layer"], sort=False).indices
    sites = {group: site_of(model, group[0], int(group[1])) for group in groups}
    values = engine.activations(model, contrast.source, list(sites.values()))
    width = contrast.base.shape[1] if is_each else 1
    arms: list[Arm] = []
    for circuit in circuits:
        edits = []
        for group, index in groups.items():
            outside = index[~circuit[index]]
            if not len(outside):
                continue
            heads = model.cfg.n_heads if group[0] == "z" else 1
            mask = np.zeros((width, heads), bool)
            places = cells["position"].to_numpy()[outside].astype(int) if is_each else 0
            mask[places, np.maximum(cells["head"].to_numpy()[outside], 0)] = True
            edits.append(Edit(sites[group], None, _replace(values[sites[group]], mask, group[0] == "z")))
        arms.append(edits)
    return engine.run(model, contrast.base, arms, contrast.at).logits


def _replace(values: Tensor, mask: np.ndarray, is_of_heads: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The change that puts values [rows, pos, ...] where mask bool [pos or 1, head or 1] is set."""
    places = torch.from_numpy(mask).to(values.device)

    def change(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        here = places[columns if len(places) > 1 else torch.zeros_like(columns)]  # [m, head]
        here = here[:, :, None] if is_of_heads else here
        return torch.where(here, values[rows, columns].to(x.dtype), x)

    return change


# --- edges -----------------------------------------------------------------------------------------------------------


def _run_edges(model: Any, contrast: Contrast, cells: pd.DataFrame, circuits: Sequence[np.ndarray]) -> Tensor:
    """Logits [circuits, rows, d_vocab]."""
    graph = Graph.of(model)
    table = graph.table()
    if set(cells["position"]) != {"all"} or not table.equals(cells[list(table)].reset_index(drop=True)):
        raise ValueError(
            "a circuit of edges is over all edges of the model and positions 'all', as attribute_edges gives them"
        )
    outsides = []
    for circuit in circuits:
        table_of = np.zeros((len(graph.senders), len(graph.receivers)), np.float32)
        table_of[graph.edges] = ~circuit
        outsides.append(torch.from_numpy(table_of).to(next(model.parameters()).device))
    tokens, at = tokens_of(model, contrast, slice(None))
    source = written(model, contrast.source, graph)
    here = torch.arange(len(tokens), device=tokens.device)
    logits = []
    with torch.no_grad():
        for outside in outsides:
            with backends.hooks(model, _hooks(graph, source, outside)):
                logits.append(model(tokens)[here, at])
    return torch.stack(logits)


def _hooks(graph: Graph, source: Tensor, outside: Tensor) -> Iterator[tuple[str, HookFn]]:
    """Hooks that give each receiver the source's output of every sender whose edge lies outside the circuit.

    source [senders, rows, pos, d_model]; outside float [senders, receivers].
    """
    missing: dict[int, Tensor] = {}  # by sender: what it writes in the source minus what it has written in this pass
    by_sender: dict[str, dict[int, int | str]] = {}
    for s, sender in enumerate(graph.senders):
        by_sender.setdefault(sender_site(sender), {})[s] = sender[1]
    by_receiver: dict[str, dict[int, Any]] = {}
    for r, receiver in enumerate(graph.receivers):
        by_receiver.setdefault(receiver_site(receiver), {})[r] = receiver

    def note(members: Mapping[int, int | str]) -> HookFn:
        @never_writes
        def look(x: Tensor, hook: Hook) -> None:
            for s, part in members.items():
                missing[s] = source[s] - pick(x, part)

        return look

    def give(members: Mapping[int, Any]) -> HookFn:
        first = next(iter(members.values()))
        senders = [s for s, sender in enumerate(graph.senders) if lies_behind(first, sender)]
        shares = outside[senders][:, list(members)]  # [senders, receivers of the site]

        @never_writes
        def change(x: Tensor, hook: Hook) -> Tensor:
            stack = torch.stack([missing[s] for s in senders])
            delta = torch.einsum("sbpd,sr->bprd", stack, shares.to(stack.dtype))
            return x + (delta if x.ndim == 4 else delta[:, :, 0])

        return change

    # where a site is of a sender and a receiver the first comes first; none is
    yield from ((site, note(members)) for site, members in by_sender.items())
    yield from ((site, give(members)) for site, members in by_receiver.items())


# --- figures ---------------------------------------------------------------------------------------------------------


def _summary(
    values: np.ndarray, orderings: int, counts: list[int], contrast: Contrast, n: int, seed: int
) -> tuple[pd.DataFrame, dict[str, object]]:
    """The curve and the areas of circuits of one kind; values [2 + orderings * sizes, rows], nothing and all first."""
    sums = clustered.cluster_sums(np.ascontiguousarray(values.T), contrast.clusters, np.arange(len(contrast)))
    shares = np.array([0, *counts]) / n

    def curves(totals: np.ndarray) -> np.ndarray:
        """[.., 2 + orderings * sizes] -> faithfulness [.., orderings, sizes]."""
        none, whole = totals[..., :1], totals[..., 1:2]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (totals[..., 2:] - none) / (whole - none)
        return share.reshape(*share.shape[:-1], orderings, len(counts))

    def area(totals: np.ndarray, is_distance: bool) -> np.ndarray:
        f = curves(totals)
        f = np.concatenate([np.zeros_like(f[..., :1]), f], -1)
        return np.trapezoid(abs(1 - f) if is_distance else f, shares, axis=-1)  # [.., orderings]

    def point(totals: np.ndarray, number: int) -> np.ndarray:
        return curves(totals)[..., number]

    rows = []
    for number, count in enumerate(counts):
        at_size = _over_orders(sums, partial(point, number=number), "value", seed)
        of_value = {name.removeprefix("value_"): value for name, value in at_size.items()}
        rows.append({"share": count / n, "components": count, **of_value, "n": len(contrast)})
    columns: dict[str, object] = {}
    for name, is_distance in (("cpr", False), ("cmd", True)):
        columns |= _over_orders(sums, partial(area, is_distance=is_distance), name, seed)
    span = clustered.bootstrap(
        clustered.cluster_sums(
            np.stack([values[1] - values[0], np.ones(len(contrast))], 1), contrast.clusters, np.arange(len(contrast))
        ),
        lambda totals: totals[..., 0] / totals[..., 1],
        seed,
    )
    columns |= interval_columns("span", span.estimate, span.low, span.high)
    is_open = span.low <= 0 <= span.high
    note = "base and source may not differ in the metric, so that there is nothing to recover" if is_open else ""
    return pd.DataFrame(rows), columns | {"n": len(contrast), "note": note}


def _over_orders(
    sums: np.ndarray, figure: Callable[[np.ndarray], np.ndarray], name: str, seed: int
) -> dict[str, object]:
    """Columns of a figure, totals [..] -> [.., orderings]: the mean over orderings, its interval, and their spread."""
    cell = clustered.bootstrap(sums, lambda totals: figure(totals).mean(-1), seed)
    columns: dict[str, object] = interval_columns(name, cell.estimate, cell.low, cell.high)
    return columns | {f"{name}_spread": float(figure(sums.sum(0)).std())}
