"""The cells of an experiment: which layer and roles a patch edits, where that is, and what the machine then asks for.

A *spot* is a role over a span of roles: the role alone ("single"), it and all later ones ("from"), or it and all
earlier ones ("up_to"). A cell is a spot at a layer of the residual stream; layer -1 is the stream before the first
block. Dead versions belong to no span: "overwritten" is a spot of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from cadmus.machine import oracle, tokens
from cadmus.models import backends
from cadmus.states.provenance import ROLES
from probes.interventions.counterfactuals import judging
from probes.interventions.counterfactuals.pairs import Pairs, check_role
from probes.interventions.counterfactuals.prompts import Answers
from probes.interventions.counterfactuals.roles import JointEdit, asked_for, joint_edits
from probes.interventions.editing import engine

INPUT_LAYER = -1  # the residual stream before the first block
ALIVE = tuple(role for role in ROLES if role != "overwritten")
_LEAST_MASS = 1e-3  # of a query's attention on other positions, from which on a layer counts as attending


@dataclass(frozen=True)
class Spot:
    """A role, over a span of roles."""

    role: str
    """Of `ROLES`."""
    span: str = "single"
    """"single", "from" or "up_to"."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that are patched together."""
        if self.span == "single":
            return (self.role,)
        number = ALIVE.index(self.role)
        return ALIVE[number:] if self.span == "from" else ALIVE[: number + 1]

    @property
    def is_whole(self) -> bool:
        """Whether the value is another one wherever it lies."""
        return self.span != "single" and self.roles == ALIVE


@dataclass(frozen=True, eq=False)
class Place:
    """Where a spot lies in each pair, and what follows from an edit there."""

    spot: Spot
    """Which."""
    pairs: Pairs
    """The pairs, in whose table of roles the spot stands as the role `role`."""
    base: np.ndarray
    """int64 [n, k]: the model's positions in bases, -1 behind the last."""
    source: np.ndarray
    """int64 [n, k]: those in sources that belong to them."""

    @property
    def role(self) -> str | None:
        """What `judging` calls it; None: the value as a whole."""
        return None if self.spot.is_whole else self.spot.role

    @cached_property
    def present(self) -> np.ndarray:
        """bool [n]: which pairs have the spot."""
        return self.base[:, 0] >= 0

    @cached_property
    def edits(self) -> list[JointEdit]:
        """What the patch amounts to in the machine, pair by pair; nothing where a pair lacks the spot."""
        return self.pairs.edits(self.role)

    def judge(self, rows: np.ndarray, programs: list[str]) -> pd.DataFrame:
        """What completions of the pairs `rows` (int64 [m]) are worth after the edit here, as `judging.judge`."""
        return judging.judge_rows(self.pairs, self.role, rows, programs, self.edits)

    def counting(self, completions: list[str]) -> np.ndarray:
        """bool [n]: which pairs count here, as `judging.counting`."""
        table = self.judge(np.arange(len(self.pairs)), completions)
        return (table["true_original"] & ~table["true_edited"]).to_numpy() & self.present

    def truths(self, rows: np.ndarray, programs: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Whether programs, each a continuation of the base of pair rows[i], are true as the machine goes on from the
        base's state, and from the edited one: bool [m] both."""
        if not len(rows):
            return np.zeros(0, np.bool_), np.zeros(0, np.bool_)
        arrays, cuts = tokens.encode(programs), self.pairs.cuts[rows]
        at = np.array([self.edits[row].at for row in rows.tolist()], np.int64)
        places = [self.edits[row].places for row in rows.tolist()]
        return oracle.continuation_verdicts(arrays, cuts), oracle.continuation_verdicts(arrays, cuts, at, places)

    @classmethod
    def of(cls, pairs: Pairs, spot: Spot) -> Place:
        """The spot in the pairs. Raises ValueError for a role that does not exist."""
        check_role(spot.role)
        if spot.span == "single":
            return cls(spot, pairs, pairs.positions(spot.role), pairs.source_positions(spot.role))
        joined = _joined(pairs, spot)
        return cls(spot, joined, joined.positions(spot.role), joined.source_positions(spot.role))


def _joined(pairs: Pairs, spot: Spot) -> Pairs:
    """The pairs with all roles of a span as one, and what is asked for where they are patched together."""
    rows = pairs.roles[pairs.roles["role"].isin(spot.roles)]
    rows = rows.sort_values(["pair", "base_token"], kind="stable").assign(role=spot.role).reset_index(drop=True)
    table = pairs.pairs
    if spot.is_whole:
        return replace(pairs, roles=rows.assign(joint_answer=table["edited_answer"].to_numpy()[rows["pair"]]))
    edits = joint_edits(rows, spot.role, *(table[name].tolist() for name in ("base", "source_value", "pair")))
    answers_of_pairs = np.full(len(table), "", object)
    for name, members in table.groupby("family").groups.items():
        mine = [row for row in np.asarray(members).tolist() if edits[row].places]
        answers = Answers(pairs.family(str(name)), int(pairs.about.get("reads", 1)))
        programs = pairs.sequences("base")[mine, 1:]
        at = np.array([edits[row].at for row in mine], np.int64)
        answers_of_pairs[mine] = asked_for(
            programs, pairs.cuts[mine], at, [dict(edits[row].places) for row in mine], answers
        )
    return replace(pairs, roles=rows.assign(joint_answer=answers_of_pairs[rows["pair"]]))


def spots_of(pairs: Pairs, roles: Sequence[str] | None, full: bool) -> list[Spot]:
    """The spots that are tested: the roles that some pair has, each alone; all together; all up to the loads; with
    `full` every span. Raises ValueError for an unknown role, and for one that no pair has."""
    roles = None if roles is None else tokens.text_list(roles, "roles")
    present = [role for role in ROLES if pairs.present(role).any()]
    for role in roles or ():
        check_role(role)
        if role not in present:
            notes = pairs.roles.loc[pairs.roles["role"] == role, "note"]
            why = notes.iloc[0] if len(notes) else "no pair has it"
            raise ValueError(f"{pairs.about.get('variable')} has no role {role!r} in these pairs ({why})")
    chosen_roles = [role for role in present if roles is None or role in roles]
    spots = [Spot(role) for role in chosen_roles]
    alive = [role for role in chosen_roles if role in ALIVE]
    if roles is None:
        spots.append(Spot(ALIVE[0], "from"))
        if "loaded" in alive:
            spots.append(Spot("loaded", "up_to"))  # what stands behind holds other values too
    if full:
        spots += [Spot(role, "from") for role in alive[1:]]
        spots += [Spot(role, "up_to") for role in alive[1:-1]]
    return list(dict.fromkeys(spots))


def layers_of(model: Any, layers: Sequence[int] | None, quick: bool) -> list[int]:
    """The layers after which the residual stream is patched: all, with -1 (before the first block, where a patch
    changes the input and claims nothing); every second and the last where it is `quick`; or those given. Raises
    ValueError for layers that the model does not have."""
    n = model.cfg.n_layers
    if layers is None:
        return sorted({*range(1, n, 2), n - 1}) if quick else [INPUT_LAYER, *range(n)]
    outside = [layer for layer in layers if not INPUT_LAYER <= layer < n]
    if outside or not len(layers):
        raise ValueError(f"layers {list(layers)} are not of the model's, 0 ... {n - 1} (-1: before the first block)")
    return sorted({int(layer) for layer in layers})


def first_attending(model: Any, sequences: np.ndarray) -> int:
    """The first layer that attends to another position: before it, activations are functions of a position's own token.

    sequences: uint8 [rows, pos] to look at.
    """
    sites = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    for layer, site in enumerate(sites):
        (site,) = backends.check_readable(model, [site])
        pattern = engine.activations(model, sequences[:64], [site])[site]  # [row, head, query, key]
        own = torch.diagonal(pattern, dim1=-2, dim2=-1)
        if float((pattern.sum(-1) - own)[..., 1:].max()) > _LEAST_MASS:
            return layer
    return model.cfg.n_layers


def is_input_change(layer: int, place: Place, first: int) -> bool:
    """Whether the patch amounts to a change of input: before the first layer that attends, at tokens that differ."""
    if layer >= first:
        return False
    if layer == INPUT_LAYER:
        return True
    base, source = (place.pairs.sequences(name) for name in ("base", "source"))
    rows = np.arange(len(base))[:, None]
    differs = base[rows, np.maximum(place.base, 0)] != source[rows, np.maximum(place.source, 0)]
    return bool((differs & (place.base >= 0)).any())
