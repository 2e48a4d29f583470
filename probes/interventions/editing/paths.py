"""Path patching: what one head or MLP writes, put into the input of another and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.interventions.editing import changes, engine
from probes.interventions.editing.edits import Arm, Edit, Positions
from probes.interventions.editing.engine import Array
from probes.interventions.editing.locations import INPUT_SITE, stream_site
from probes.interventions.editing.patching import Metric, measure

_ROWS = 64  # of which the activations of all senders are held at once
Sender = tuple[int, int | str]
"""(layer, head), (layer, "mlp"), or `INPUT`."""
Receiver = tuple[int, int | str, str]
"""(layer, head, "q" | "k" | "v"), (layer, "mlp", "in"), or (n_layers, "logits", "in")."""
INPUT = (-1, "input")
"""The stream before the first block, as a sender of attribution; `path_grid` does not patch it."""
WAYS = ("q", "k", "v")
"""By which a head receives."""


def path_grid(
    model: Any,
    base: Array,
    source: Array,
    senders: Sequence[Sender],
    receivers: Sequence[Receiver],
    metric: Metric,
    *,
    at: Array,
    positions: Positions = None,
    fast: bool = True,
) -> pd.DataFrame:
    """What a sender writes in the source reaches one receiver alone, along the residual stream.

    Everything between the two, heads and MLPs alike, stays as in the base (the direct path; Wang et al. 2023 let MLPs
    between follow). As the stream is a sum, the receiver's input changes by the difference of what the sender writes.

    Args:
        model: of any backend that edits the inputs of heads.
        base: int [rows, pos].
        source: int [rows, pos]: with the same positions.
        senders: (layer, head) or (layer, "mlp").
        receivers: (layer, head, "q" | "k" | "v"), (layer, "mlp", "in"), or (n_layers, "logits", "in").
        metric: see `probes.interventions.editing.patching`.
        at: int [rows].
        positions: where the sender's output is changed; None is everywhere.
        fast: as `engine.logits`.

    Returns:
        A row per sender and receiver that lies behind it: `sender`, `receiver` ("2.1", "3.mlp", "4.0.q", "logits"),
        `value`, `rows`, `changed`.
    """
    pairs = list(_pairs(model, senders, receivers))
    deltas = _differences(model, base, source, dict.fromkeys(sender for sender, _ in pairs))
    arms: list[Arm] = [_receive(receiver, deltas[sender], positions) for sender, receiver in pairs]
    index = [{"sender": name_of(sender), "receiver": name_of(receiver)} for sender, receiver in pairs]
    return measure(model, base, arms, at, index, metric, fast=fast)


def _differences(model: Any, base: Array, source: Array, senders: Iterable[Sender]) -> dict[Sender, Tensor]:
    """How much more each sender writes in the source than in the base: [rows, pos, d_model]. What all heads write apart
    is large: a few rows at a time."""
    sites = {sender: sender_site(sender) for sender in senders}
    parts: dict[Sender, list[Tensor]] = {sender: [] for sender in sites}
    for start in range(0, len(base), _ROWS):
        rows = slice(start, start + _ROWS)
        there, here = (engine.activations(model, part[rows], sorted(set(sites.values()))) for part in (source, base))
        for sender, site in sites.items():
            delta = there[site] - here[site]  # [rows, pos, (head,) d_model]
            parts[sender].append(delta if sender[1] == "mlp" else delta[:, :, int(sender[1])].clone())
    return {sender: torch.cat(several) for sender, several in parts.items()}


def _pairs(model: Any, senders: Sequence[Sender], receivers: Sequence[Receiver]) -> Iterator[tuple[Sender, Receiver]]:
    """Senders with the receivers behind them; ValueError for what is neither, or outside the model."""
    heads, layers = model.cfg.n_heads, model.cfg.n_layers
    for layer, part in senders:
        if not 0 <= layer < layers or not (part == "mlp" or part in range(heads)):
            raise ValueError(f"sender {(layer, part)} is no (layer, head) or (layer, 'mlp') of the model")
    for layer, part, way in receivers:
        is_head = part in range(heads) and way in WAYS and 0 <= layer < layers
        is_other = ((part, way) == ("mlp", "in") and 0 <= layer < layers) or (layer, part, way) == (
            layers,
            "logits",
            "in",
        )
        if not is_head and not is_other:
            raise ValueError(
                f"receiver {(layer, part, way)} is no (layer, head, 'q' | 'k' | 'v'), (layer, 'mlp', 'in') or "
                f"({layers}, 'logits', 'in') of the model"
            )
    for sender in senders:
        for receiver in receivers:
            if lies_behind(receiver, sender):
                yield sender, receiver


def lies_behind(receiver: tuple, sender: tuple) -> bool:
    """Whether what a sender writes can reach a receiver."""
    is_same_block = receiver[0] == sender[0] and receiver[1] == "mlp" and sender[1] != "mlp"
    return receiver[0] > sender[0] or is_same_block


def sender_site(sender: Sender) -> str:
    """The site that shows what a sender writes."""
    if sender == INPUT:
        return INPUT_SITE
    return f"blocks.{sender[0]}." + ("hook_mlp_out" if sender[1] == "mlp" else "attn.hook_result")


def receiver_site(receiver: Receiver) -> str:
    """The site that shows the stream that a receiver reads."""
    layer, part, way = receiver
    if part == "logits":
        return stream_site(layer - 1)
    return f"blocks.{layer}.hook_" + ("mlp_in" if part == "mlp" else f"{way}_input")


def _receive(receiver: Receiver, delta: Tensor, positions: Positions) -> Edit:
    """The edit of a receiver's input by delta [rows, pos, d_model]."""
    if positions is not None:
        array = torch.as_tensor(positions).reshape(-1, 1) if np.ndim(positions) < 2 else torch.as_tensor(positions)
        delta = engine.at_positions(delta, array.expand(len(delta), -1))
    site, part = receiver_site(receiver), receiver[1]
    if part in ("mlp", "logits"):
        return Edit(site, positions, changes.add(delta))
    return Edit(site, positions, changes.add(delta[:, :, None]), [int(part)])


def name_of(end: tuple) -> str:
    """A sender or receiver in words: "2.1", "3.mlp", "4.0.q", "input", "logits"."""
    if end[1] in ("input", "logits"):
        return end[1]
    return ".".join(str(part) for part in end if part != "in")
