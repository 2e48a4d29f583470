"""Which heads carry a value: each head's output, at the tokens that hold the value, exchanged for a source's.

An interchange of one head succeeds where the answer becomes the one that the source's value asks for; beside it stand
the same exchange from a source with a third value, and a random change of the same size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cadmus.machine import oracle, tokens
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from probes.interventions.attention.answers import Bases, Judge, Patch, answers, judged, truth
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.editing import changes, engine
from probes.interventions.effects import verdicts
from probes.interventions.effects.effects import effects
from probes.interventions.effects.outcomes import THRESHOLD, Outcomes

ROLES = ("arose", "stored", "loaded", "consumed", "decision")
_READ = 128


@dataclass(frozen=True)
class Exchange:
    """Bases, and where from what of which sources is put into them."""

    bases: Bases
    """What is edited."""
    positions: np.ndarray
    """int64 [n, k]: the model's positions in each base, -1 for none."""
    sources: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """`source` and `third_value`: what a model reads, uint8 [n, pos], and the positions there, int64 [n, k]."""
    becomes: Judge
    """Whether programs are those that the source's value asks for."""
    counts: np.ndarray
    """bool [n]: the own completion is true for the original state and false for the edited one."""
    source_skeletons: np.ndarray
    """[n]."""
    variable: str = ""
    """What is exchanged."""


def exchange_of(pairs: Pairs, bases: Bases, roles: Sequence[str] = ROLES) -> Exchange:
    """The exchange of the pairs' values at all tokens of these roles together; bases are those of the same pairs.

    Pairs that do not discriminate, or whose source has another length, do not count.
    """
    roles = tokens.text_list(roles, "roles")
    table = pairs.pairs
    own = pairs.roles[pairs.roles["role"].isin(roles) & (pairs.roles["source_token"] >= 0)]
    own = own.drop_duplicates(["pair", "base_token"])
    column = own.groupby("pair").cumcount().to_numpy()
    positions = np.full((2, len(pairs), int(column.max(initial=0)) + 1), -1, np.int64)
    for array, name in zip(positions, ("base_token", "source_token")):
        array[own["pair"].to_numpy(), column] = own[name].to_numpy() + 1
    has_third = (table["third_value"] != "").to_numpy()
    sources = {
        "source": (pairs.sequences("source"), positions[1]),
        "third_value": (pairs.sequences("third_value"), np.where(has_third[:, None], positions[0], -1)),
    }
    edits = pairs.edits()
    at = np.array([edit.at for edit in edits], np.int64)
    programs = tokens.encode(list(bases.own))
    also_true = oracle.continuation_verdicts(programs, pairs.cuts, at, [edit.places for edit in edits])
    right = bases.right()
    speaks = ((table["kind"] == "discriminating") & (table["shift"] == 0)).to_numpy()
    counts = right & ~also_true & speaks
    source_skeletons, variable = table["source_skeleton"].to_numpy(), str(pairs.about.get("variable", ""))
    return Exchange(bases, positions[0], sources, truth(pairs, edits), counts, source_skeletons, variable)


def heads_by_interchange(
    model: Any, exchange: Exchange, *, seed: int = 0, progress: Progress = no_progress
) -> pd.DataFrame:
    """Exchange the output (`z`) of each head: the rows of `verdicts.heads`, one per layer and head.

    `accuracy`, `third_value`, `random`, `d` with bounds for all heads at once, `q`, `used`, and `pairs` as in
    `effects.effects`. Where no more than 5 % succeed, d cannot be above 0.05: controls are not run (`controlled` is
    False, and they are 0). Pairs without a third-value source have no part in that control, which is NaN where none
    has one.

    Args:
        model: of any backend.
        exchange: what is put where (`exchange_of`).
        seed: of the random changes and the bootstrap.
        progress: follows the stage "edits".

    Raises ValueError where no pair counts.
    """
    if not exchange.counts.any():
        raise ValueError(
            "no pair counts: none discriminates, or the model's own completions are wrong or true for both states; "
            "draw discriminating pairs that the model completes"
        )
    cells = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    positions = np.where(exchange.counts[:, None], exchange.positions, -1)
    own = _read(model, tokens.sequences(exchange.bases.arrays()), positions)
    values = {name: _read(model, *source) for name, source in exchange.sources.items()}
    patches = [_patch(model, exchange, *cell, positions, values["source"]) for cell in cells]
    success, masks = _successes(model, exchange, patches, progress)
    tested = np.flatnonzero(success.sum(1) > THRESHOLD * masks.sum(1))
    noise = generator("head interchange", seed).standard_normal(tuple(own.shape), np.float32)
    random = changes.as_far(own, values["source"], torch.from_numpy(noise).to(own))
    third = np.where(exchange.sources["third_value"][1] >= 0, positions, -1)
    controls = {name: np.zeros(success.shape) for name in ("third_value", "random")}
    controls["third_value"][:, ~(third >= 0).any(1)] = np.nan
    for name, array, where in (("third_value", values["third_value"], third), ("random", random, positions)):
        patches = [_patch(model, exchange, *cells[k], where, array) for k in tested.tolist()]
        succeeds, is_patched = _successes(model, exchange, patches, progress)
        controls[name][tested] = np.where(is_patched, succeeds, np.nan)
    n = len(exchange.counts)
    outcomes = Outcomes(
        variable=exchange.variable,
        cells=pd.DataFrame([(layer, "arose", head) for layer, head in cells], columns=["layer", "role", "head"]),
        mask=masks,
        counts=exchange.counts,
        success=success,
        controls=controls,
        controlled=np.isin(np.arange(len(cells)), tested),
        base_skeletons=exchange.bases.skeletons,
        source_skeletons=exchange.source_skeletons,
        kinds=np.full(n, "discriminating"),
        strata=np.full(n, "computed"),
    )
    table = verdicts.heads(effects(outcomes, seed)).assign(controlled=outcomes.has_controls())
    return table.drop(columns=["role", "span", "kind", "stratum", "shifted", "readable", "input_change"])


def _read(model: Any, sequences: np.ndarray, positions: np.ndarray) -> Tensor:
    """The heads' outputs at positions int64 [n, k] of each row: float32 [n, k, layer, head, d_head]."""
    sites = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    parts = []
    for first in range(0, len(sequences), _READ):
        rows = slice(first, first + _READ)
        read = engine.activations(model, sequences[rows], sites)
        parts.append(torch.stack([engine.at_positions(read[site], positions[rows]) for site in sites], 2))
    return torch.cat(parts)


def _patch(model: Any, exchange: Exchange, layer: int, head: int, positions: np.ndarray, values: Tensor) -> Patch:
    """The patch of a head; in the last layer of what the answer is read from alone, as nothing else reaches it."""
    if layer == model.cfg.n_layers - 1:
        positions = np.where(positions == exchange.bases.cuts[:, None], positions, -1)
    return Patch(f"blocks.{layer}.attn.hook_z", positions, values[:, :, layer, [head]], (head,))


def _successes(
    model: Any, exchange: Exchange, patches: Sequence[Patch], progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Which answers become those of the source's value, and which pairs are patched: bool [patches, n] both."""
    bases = exchange.bases
    none = np.zeros(len(bases), np.bool_)
    texts = answers(model, bases, patches, progress)
    success = judged(model, bases, patches, texts, exchange.becomes, none)
    return success, np.array([patch.rows for patch in patches], np.bool_).reshape(success.shape)
