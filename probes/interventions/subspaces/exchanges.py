"""Exchanges: a model run with some coordinates of an activation moved to those of a source, gradients and all.

Enters: `Interchanges` (arrays of programs, positions and answers), a site, and which coordinates move for which
variable. Leaves: logits at the answer's tokens, differentiable, and which answers are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from probes.interventions.editing import engine
from probes.interventions.subspaces.interchanges import NONE, Interchanges

BATCH = 512  # rows that are scored at once


@dataclass(frozen=True)
class Exchanges:
    """Interchanges at a site of a model, ready to run: one row per (interchange, variable) whose answer is known."""

    site: str
    """The hook name."""
    tokens: Tensor
    """Base up to the cut and the answer behind it, teacher-forced: int64 [m, pos]."""
    positions: Tensor
    """int64 [m, places], -1 for none."""
    source: Tensor
    """The source's activations there, float32 [m, places, width]."""
    variable: Tensor
    """Which variable is exchanged: int64 [m]."""
    targets: Tensor
    """The answer's tokens, -1 behind it: int64 [m, length]."""
    cuts: Tensor
    """int64 [m]."""
    edited: Tensor
    """Whether the exchange changes the answer: bool [m]."""
    rows: np.ndarray
    """Which interchange each row is: int64 [m]."""

    @property
    def width(self) -> int:
        """Numbers that an activation has."""
        return self.source.shape[2]


def exchanges(model: Any, interchanges: Interchanges, site: str) -> Exchanges:
    """Run the sources and lay out what every exchange asks for.

    model: ours, or any module with `hooks(...)` as ours that maps tokens [batch, pos] to logits [batch, pos, d_vocab].
    """
    rows, variables = np.nonzero(interchanges.known)
    device = next(model.parameters()).device
    sources = torch.as_tensor(interchanges.sources.astype(np.int64), device=device)
    source_positions = torch.as_tensor(interchanges.source_positions.astype(np.int64), device=device)
    activations = torch.cat(
        [
            _activations(model, tokens, places, site)
            for tokens, places in zip(sources.split(BATCH), source_positions.split(BATCH))
        ]
    )

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(array).astype(np.int64), device=device)

    targets = tensor(interchanges.answers[rows, variables])
    cuts = tensor(interchanges.cuts[rows])
    return Exchanges(
        site,
        _with_answers(tensor(interchanges.bases[rows]), cuts, targets),
        tensor(interchanges.base_positions[rows]),
        activations[torch.as_tensor(rows, device=device)],
        tensor(variables),
        targets,
        cuts,
        tensor(interchanges.edited[rows, variables]).bool(),
        rows,
    )


def _activations(model: Any, tokens: Tensor, positions: Tensor, site: str) -> Tensor:
    """Activations at positions [m, places]: float32 [m, places, width]; those of position 0 where there is none."""
    taken: list[Tensor] = []

    def take(x: Tensor, hook: Any) -> None:
        taken.append(engine.at_positions(x.flatten(2), positions).detach().float())

    with torch.no_grad(), model.hooks([(site, take)]):
        model(tokens)
    return taken[0]


def _with_answers(tokens: Tensor, cuts: Tensor, targets: Tensor) -> Tensor:
    """The bases up to their cuts, each followed by all tokens of its answer but the last: int64 [m, pos]."""
    length = targets.shape[1]
    width = max(int(cuts.max()) + length, int(cuts.max()) + 1)
    out = F.pad(tokens, (0, max(0, width - tokens.shape[1])))[:, :width].clone()
    rows = torch.arange(len(out), device=out.device)
    for number in range(length - 1):
        places = cuts + 1 + number
        out[rows, places] = torch.where(targets[:, number] >= 0, targets[:, number], out[rows, places])
    return out


def exchanged(x: Tensor, source: Tensor, basis: Tensor | None, gates: Tensor) -> Tensor:
    """x with some of its coordinates moved to the source's; x, source [m, places, width].

    basis: [width, k], None for the neurons themselves; gates [m, k] or [m, width]: how far each coordinate moves, 1 for
    the source's value.
    """
    difference = source - x
    if basis is None:
        return x + difference * gates[:, None]
    return x + (difference @ basis * gates[:, None]) @ basis.T


def answer_logits(model: Any, part: Exchanges, rows: Tensor, basis: Tensor | None, gates: Tensor) -> Tensor:
    """Logits at the answer's tokens under the exchange: [m, length, d_vocab], differentiable in basis and gates.

    rows: int64 [m] of `part`; basis and gates as `exchanged` takes them, gates [variables, k].
    """
    positions, source = part.positions[rows], part.source[rows]
    of_row = gates[part.variable[rows]]
    number = torch.arange(len(rows), device=rows.device)

    def swap(x: Tensor, hook: Any) -> Tensor:
        flat = x.flatten(2)
        before = engine.at_positions(flat, positions)  # [m, places, width]
        after = exchanged(before.float(), source, basis, of_row).to(x.dtype)
        keep = positions < 0
        where = torch.where(keep, flat.shape[1], positions)  # a position behind the last takes what is not patched
        room = torch.cat([flat, torch.zeros_like(flat[:, :1])], 1)
        return room.index_put((number[:, None], where), after)[:, :-1].reshape(x.shape)

    with model.hooks([(part.site, swap)]):
        logits = model(part.tokens[rows])
    steps = torch.arange(part.targets.shape[1], device=rows.device)
    places = (part.cuts[rows, None] + steps).clamp(max=logits.shape[1] - 1)
    return logits[number[:, None], places]


def correct(model: Any, part: Exchanges, basis: Tensor | None, gates: Tensor) -> np.ndarray:
    """Which exchanges give the whole answer that they ask for, teacher-forced, which is greedy decoding's: bool [m]."""
    is_right = []
    with torch.no_grad():
        for rows in torch.arange(len(part.tokens), device=part.tokens.device).split(BATCH):
            best = answer_logits(model, part, rows, basis, gates).argmax(-1)
            targets = part.targets[rows]
            is_right.append(((best == targets) | (targets == NONE)).all(1))
    return torch.cat(is_right).cpu().numpy()
