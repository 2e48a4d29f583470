"""A circuit that is planted by training: our own model, with LayerNorm, is taught where the value X must lie.

Interchange-intervention training (Geiger et al. 2022, arXiv 2112.00826) of `cadmus.models.model.Model` on the fragment
*lookup* of `planted`: programs are completed, and at the same time the residual stream of one cell (layer x position)
is exchanged with another program's. At a cell of the path that is drawn the answer must become the other program's X,
at every other cell it must stay. At the cells that X has left, and at one more position, linear maps are trained along
that read X: decoys. Weights are made anew each time, from the seed, in a few seconds (`plant_trained`).

That exact patching finds the path is what was trained for, so that here it is the tool that is tried, on a model with
LayerNorm; that steering, erasing and the verdicts find it was not trained for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from analyses.studies.calibration.circuits import DIGITS
from analyses.studies.calibration.planted import MIN_ACCURACY, Cell, Planted
from cadmus.machine import tokens
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.runtime.seeds import generator

TRAINED = "trained"  # the condition's name in the tables
LAYERS = 4
WIDTH = 32
STEPS = 200
BATCH = 64  # programs of a step, and as many sources
_RATE = 5e-3  # the highest, of Adam
_LARGER = 3.0  # than usual are the first weights, which is what so small a model learns fastest from


def plant_trained(seed: int, steps: int = STEPS) -> Planted:
    """Train a model whose path of X, form of programs and decoy are drawn by the seed; deterministic in it.

    Raises ValueError where it then completes less than 99 % of its programs as the machine asks.
    """
    rng = generator("calibration, trained", seed)
    planted = _untrained(rng, seed)
    _train(planted, rng, steps)
    planted.model.eval().requires_grad_(False)
    if planted.accuracy() < MIN_ACCURACY:
        raise ValueError(f"{planted} is right in less than {MIN_ACCURACY} after {steps} steps; take more")
    return planted


def _untrained(rng: np.random.Generator, seed: int) -> Planted:
    """A model of random weights, with what it is to become: `7A3B5Ca`, X moves to its store and then to the load."""
    stores = [str(register) for register in rng.permutation(list("ABC"))]
    at = int(rng.integers(0, 3))
    register = stores[at].lower()
    if at and rng.random() < 0.5:
        stores[0] = stores[at]  # a store that is overwritten
    form = "".join(f"0{store}" for store in stores) + register
    arose, stored, load = 2 * at + 1, 2 * at + 2, len(form)
    first, second = sorted(int(layer) for layer in rng.choice(LAYERS, 2, replace=False))
    carriers: set[Cell] = {(stream, arose) for stream in range(first + 1)}
    carriers |= {(stream, stored) for stream in range(first + 1, second + 1)}
    carriers |= {(stream, load) for stream in range(second + 1, LAYERS + 1)}
    spent = {(stream, arose) for stream in range(first + 1, LAYERS + 1)}
    spent |= {(stream, stored) for stream in range(second + 1, LAYERS + 1)}
    beside = np.arange(stored + 1, load)  # none behind the last store
    shown_at = int(rng.choice(beside)) if len(beside) else None
    decoys = {(stream, shown_at) for stream in range(2, LAYERS + 1)} if shown_at is not None else set()
    model = Model(
        ModelConfig(n_layers=LAYERS, d_model=WIDTH, n_heads=4, d_head=WIDTH // 4, d_mlp=2 * WIDTH, n_ctx=len(form) + 2),
        seed,
    )
    return Planted(
        fragment="lookup",
        condition=TRAINED,
        seed=seed,
        model=model,
        form=form,
        slot=at,
        carriers=frozenset(carriers),
        duplicates=frozenset(),
        decoys=frozenset(spent | decoys),
        mixed=frozenset(),
        edges=frozenset(),
        duplicate_edges=frozenset(),
    )


def _train(planted: Planted, rng: np.random.Generator, steps: int) -> None:
    """Train the planted model in place: to complete, to move with carriers and with nothing else, to show decoys."""
    model = planted.model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".W_" in name:
                parameter.mul_(_LARGER)
    decoys = sorted(planted.decoys)
    readers = torch.zeros(len(decoys), WIDTH, DIGITS, requires_grad=True)  # of X, at the decoys
    optimizer = torch.optim.Adam([*model.parameters(), readers], lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    groups = [np.array(sorted(planted.carriers)), np.array(sorted(set(planted.cells) - planted.carriers))]
    for _ in range(steps):
        digits = planted.draw(2 * BATCH, rng)
        x = torch.from_numpy(digits[:, planted.slot])
        sequences = torch.from_numpy(tokens.sequences(planted.programs(digits))).long()
        logits, streams = _streams(planted, sequences)
        is_carrier = rng.random(BATCH) < 0.5
        of_group = [group[rng.integers(0, len(group), BATCH)] for group in groups]
        cells = torch.from_numpy(np.where(is_carrier[:, None], *of_group))  # [row, (stream, position)]
        exchanged = _exchanged(planted, sequences[:BATCH], cells, [stream[BATCH:] for stream in streams])
        expected = torch.where(torch.from_numpy(is_carrier), x[BATCH:], x[:BATCH])
        decoy_inputs = torch.stack(
            [F.layer_norm(streams[stream][:, position], (WIDTH,)) for stream, position in decoys]
        )
        read = torch.einsum("cnd,cdk->cnk", decoy_inputs, readers).flatten(0, 1)  # [cells * programs, digits]
        loss = F.cross_entropy(logits, x) + F.cross_entropy(exchanged, expected)
        loss = loss + F.cross_entropy(read, x.repeat(len(decoys)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _streams(planted: Planted, sequences: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The answer's logits [programs, d_vocab] and every residual stream [programs, positions, d_model]."""
    streams: list[Tensor] = []

    def keep(x: Tensor, hook: Any) -> None:
        streams.append(x)

    hooks = [(planted.site(stream), keep) for stream in range(LAYERS + 1)]
    with planted.model.hooks(hooks):
        return planted.model(sequences)[:, planted.length], streams


def _exchanged(planted: Planted, sequences: Tensor, cells: Tensor, sources: list[Tensor]) -> Tensor:
    """The answer's logits where each row's cell, int64 [rows, 2], holds what its source has there: [rows, d_vocab]."""

    def exchange(stream: int) -> Callable[[Tensor, Any], Tensor]:
        rows = torch.nonzero(cells[:, 0] == stream)[:, 0]
        positions = cells[rows, 1]
        return lambda x, hook: x.index_put((rows, positions), sources[stream][rows, positions])

    hooks = [(planted.site(stream), exchange(stream)) for stream in range(LAYERS + 1)]
    with planted.model.hooks(hooks):
        return planted.model(sequences)[:, planted.length]
