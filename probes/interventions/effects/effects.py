"""What edits of a model's activations do, beside every control: one table of effects per variable, layer and role.

Enters: what happened to the same pairs under each condition, as plain arrays (`Outcomes`). Leaves: a tidy table, a row
per kind of pair, stratum and cell, of which `verdicts` makes words. Shared definitions: a pair *counts* where the
model's own completion is true for the original state and false for the edited one; it *succeeds* where the intervened
completion has its family's form, is true for the edited state and false for the original one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from cadmus.statistics import simultaneous
from cadmus.statistics.clustered import interval_columns
from probes.interventions.counterfactuals.pairs import KINDS, STRATA

SPANS = ("single", "from", "up_to")
THRESHOLD = 0.05  # what d must be surely above, or surely below
UNTRAINED = "untrained"
_CELL_COLUMNS = {"span": "single", "input_change": False, "readable": None}  # and what they are where they are left out
_SHARES = ("canonical", "moved", "changed", "damage", "chance")


@dataclass(frozen=True)
class Outcomes:
    """What happened to the pairs of one variable under every condition.

    A cell is what one patch edits: a layer and a role, over a span of roles, perhaps one component or head of the
    layer. Arrays [cells, pairs] are not looked at where `mask` is off. Raises ValueError for shapes and names that do
    not fit.
    """

    variable: str
    """The variable whose value was exchanged, such as `reg.a`."""
    cells: pd.DataFrame
    """A row per cell: `layer`, `role`, and where it is not the default `span` ("single"; "from", the role and all later
    ones; "up_to"), `input_change` (the patch amounts to a change of input), `readable` (by a probe; None: not known),
    and any further labels, such as `component` and `head`."""
    mask: np.ndarray
    """Which pairs have the cell's role: bool [cells, pairs]."""
    counts: np.ndarray
    """The model's own completion is true for the original state and false for the edited one: bool [pairs], or
    [cells, pairs] where the edit, and so the answer, differs by role."""
    success: np.ndarray
    """Under the interchange: bool [cells, pairs]."""
    controls: Mapping[str, np.ndarray]
    """Success under each control, by its name (`third_value`, `same_value`, `random`): bool [cells, pairs], or float
    with NaN for a pair that the control does not exist for, which is then left out of what is said of that control."""
    base_skeletons: np.ndarray
    """[pairs], labels of any type."""
    source_skeletons: np.ndarray
    """[pairs]."""
    kinds: np.ndarray
    """"minimal" or "discriminating", [pairs]."""
    strata: np.ndarray
    """"literal" or "computed", [pairs]."""
    shifted: np.ndarray | None = None
    """Which pairs needed a shift of positions: bool [pairs]; None: no pair."""
    untrained: np.ndarray | None = None
    """Success of the untrained twin under the same interchange, whether the pair counts or not: bool [cells, pairs]."""
    canonical: np.ndarray | None = None
    """Success with the family's canonical answer: bool [cells, pairs]."""
    moved: np.ndarray | None = None
    """Probability moved onto tokens that are true only after the edit, in -1 ... 1: float [cells, pairs]."""
    changed: np.ndarray | None = None
    """The interchange changed the completion at all: bool [cells, pairs]."""
    damage: np.ndarray | None = None
    """A same-value source made the completion false for the original state: bool [cells, pairs]."""
    chance: np.ndarray | None = None
    """Share of the other pairs' completions that are true for this pair's edit: float [cells, pairs] or [pairs]."""
    positive: np.ndarray | None = None
    """Success where the input tokens were patched instead, the positive control: bool [pairs]."""
    controlled: np.ndarray | None = None
    """Whether the cell's controls were run, bool [cells]; None: all were. Where they were not, nothing is tested: such
    a cell is never above the threshold, whatever its success."""
    labels: Mapping[str, object] = field(default_factory=dict)
    """Columns that are the same in all rows, such as the model and the seed."""

    def __post_init__(self) -> None:
        pairs, cells = len(self.base_skeletons), len(self.cells)
        missing = {"layer", "role"} - set(self.cells.columns)
        if missing:
            raise ValueError(f"cells have no column {', '.join(sorted(missing))}; give every cell a layer and a role")
        for name, value in self._arrays():
            shapes = {"chance": [(pairs,), (cells, pairs)], "counts": [(pairs,), (cells, pairs)]}
            shapes["controlled"] = [(cells,)]
            by_pair = name in ("base_skeletons", "source_skeletons", "kinds", "strata", "shifted", "positive")
            expected = shapes.get(name, [(pairs,)] if by_pair else [(cells, pairs)])
            if np.shape(value) not in expected:
                words = " or ".join(map(str, expected))
                raise ValueError(f"{name} has shape {np.shape(value)}; expected {words} ({cells} cells, {pairs} pairs)")
        spans = self.cells.get("span", ["single"])
        for name, names, known in (
            ("kinds", self.kinds, KINDS),
            ("strata", self.strata, STRATA),
            ("span", spans, SPANS),
        ):
            unknown = sorted(set(map(str, names)) - set(known))
            if unknown:
                raise ValueError(f"{name}: {unknown[0]!r} is none of {', '.join(known)}")

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        skipped = ("variable", "cells", "labels", "controls")
        for name in (entry.name for entry in fields(self) if entry.name not in skipped):
            if getattr(self, name) is not None:
                yield name, getattr(self, name)
        for name, value in self.controls.items():
            if name == UNTRAINED:
                raise ValueError("give the untrained twin's successes as `untrained`, which reports its own n")
            yield f"controls[{name!r}]", value

    def select(self, rows: np.ndarray) -> Outcomes:
        """The same of some pairs: rows bool or int [..] of the pairs."""
        chosen_rows: dict[str, Any] = {
            name: value[..., rows]
            for name, value in self._arrays()
            if not name.startswith("controls[") and name != "controlled"
        }
        controls = {name: value[..., rows] for name, value in self.controls.items()}
        return replace(self, controls=controls, **chosen_rows)

    @property
    def counting(self) -> np.ndarray:
        """Which pairs count in which cell: bool [cells, pairs]."""
        return np.asarray(self.mask, np.bool_) & np.asarray(self.counts, np.bool_)

    def has_controls(self) -> np.ndarray:
        """Whether the controls of each cell were run: bool [cells]."""
        return np.ones(len(self.cells), np.bool_) if self.controlled is None else np.asarray(self.controlled, np.bool_)


def effects(
    outcomes: Outcomes | Iterable[Outcomes], seed: int = 0, resamples: int = simultaneous.RESAMPLES
) -> pd.DataFrame:
    """The table of effects: a row per variable, kind of pair, shift, stratum and cell.

    Shares are of the pairs that count (`pairs` of `candidates`): `accuracy` (interchange accuracy) and `canonical` (the
    strict figure) have Wilson intervals clustered by base and source skeleton, and so have `changed`, `damage`,
    `chance` and every control by its name; `moved` is a mean. `untrained` is of all pairs with the
    role, `untrained_n`. `d` is success minus the best control on the same pairs, the twin's included; its bounds
    `d_low`, `d_high` hold for all cells of one variable, kind, shift and stratum at once, and whichever control is the
    best (they are the least of the bounds for all controls). Pairs that lack a control are left out of its difference;
    the upper bound is that of controls that all pairs of the cell have, if there are some. `p_above` and `p_below` say
    the same as p-values against d = 0.05; `p_alone` is that of the cell alone; where no controls were run nothing is
    above (both are 1). `clusters` are the skeletons of bases, or of sources if those are fewer. `note` says why a row
    has no figure.

    Args:
        outcomes: of one variable, or of several.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises ValueError where there are no pairs, or no controls.
    """
    several = [outcomes] if isinstance(outcomes, Outcomes) else list(outcomes)
    parts = []
    for one in several:
        if not one.controls:
            raise ValueError(f"{one.variable} has no control; d is success minus the best control, so give one or more")
        groups = list(_groups(one))
        if not groups:
            raise ValueError(f"{one.variable} has no pairs; draw some, or leave the variable out")
        for labels, group in groups:
            parts.append(_table(group, labels, seed, resamples))
    return pd.concat(parts, ignore_index=True)


def _groups(outcomes: Outcomes) -> Iterator[tuple[dict[str, object], Outcomes]]:
    """Pairs of one kind, with or without a shift, of one stratum: those that are compared with one another."""
    shifted = np.zeros(len(outcomes.kinds), np.bool_) if outcomes.shifted is None else np.asarray(outcomes.shifted)
    for kind in KINDS:
        for shift in (False, True):
            for stratum in STRATA:
                rows = (outcomes.kinds == kind) & (shifted == shift) & (outcomes.strata == stratum)
                if rows.any():
                    yield {"kind": kind, "shifted": shift, "stratum": stratum}, outcomes.select(rows)


def _table(outcomes: Outcomes, labels: Mapping[str, object], seed: int, resamples: int) -> pd.DataFrame:
    """The rows of one group of pairs."""
    counting = outcomes.counting
    columns: dict[str, object] = {"variable": outcomes.variable, **outcomes.labels, **labels}
    columns |= {name: outcomes.cells[name].to_numpy() for name in outcomes.cells}
    columns |= {name: default for name, default in _CELL_COLUMNS.items() if name not in columns}
    columns["candidates"] = np.asarray(outcomes.mask).sum(1)
    columns["pairs"] = counting.sum(1)
    columns |= _share_columns("accuracy", outcomes.success, counting, outcomes)
    for name in _SHARES:
        if getattr(outcomes, name) is not None:
            columns |= _share_columns(name, getattr(outcomes, name), counting, outcomes)
    for name, success in outcomes.controls.items():
        columns |= _share_columns(name, success, counting & ~np.isnan(np.asarray(success, np.float64)), outcomes)
    if outcomes.untrained is not None:
        columns |= _share_columns(UNTRAINED, outcomes.untrained, np.asarray(outcomes.mask, np.bool_), outcomes)
        columns["untrained_n"] = columns["candidates"]
    if outcomes.positive is not None:
        columns |= _share_columns("positive", outcomes.positive, counting, outcomes)
    columns |= _difference_columns(outcomes, counting, seed, resamples)
    table = pd.DataFrame(columns, index=range(len(outcomes.cells)))
    return table.assign(note=[_note(row.candidates, row.pairs) for row in table.itertuples()])


def _share_columns(
    name: str, values: np.ndarray, mask: np.ndarray, outcomes: Outcomes
) -> dict[str, list[float] | np.ndarray]:
    """The mean of values [cells, pairs] or [pairs] over the mask, with an interval unless they may be negative."""
    values = np.broadcast_to(np.asarray(values, np.float64), mask.shape)
    if name == "moved":
        n = mask.sum(1)
        with np.errstate(invalid="ignore"):
            return {name: np.where(mask, values, 0).sum(1) / np.where(n > 0, n, np.nan)}
    return dict(simultaneous.share_columns(name, values, mask, outcomes.base_skeletons, outcomes.source_skeletons))


@dataclass(frozen=True)
class Beyond:
    """Success minus each control on the pairs that have it, all differences bounded at once."""

    names: np.ndarray
    """The controls, the untrained twin's last: [controls]."""
    bounds: simultaneous.Simultaneous
    """Of [controls * cells], control by control."""
    is_complete: np.ndarray
    """Whether all pairs of the cell have the control; all True for a cell in which no control is so: bool [controls,
    cells]."""

    def by_control(self, values: np.ndarray) -> np.ndarray:
        """Values of all differences, [controls * cells] -> [controls, cells]."""
        return values.reshape(len(self.names), -1)

    def least(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """d with its bounds, float [cells] each: the least of all controls; the upper one of complete ones."""
        high = np.where(self.is_complete, self.by_control(self.bounds.high), np.nan)
        estimate, low = (np.fmin.reduce(self.by_control(x), 0) for x in (self.bounds.estimate, self.bounds.low))
        return estimate, low, np.fmin.reduce(high, 0)

    def clusters(self) -> np.ndarray:
        """Of each cell, int [cells]; of the control that has most."""
        return self.by_control(self.bounds.clusters).max(0)


def beyond_controls(
    outcomes: Outcomes,
    index: np.ndarray,
    mask: np.ndarray,
    seed: int = 0,
    resamples: int = simultaneous.RESAMPLES,
) -> Beyond:
    """Success of the cells index int [m], minus each control, over the pairs of mask bool [m, pairs].

    The best control is not known beforehand: all differences are bounded at once, and the least bounds of a cell hold
    for its least difference.
    """
    controls = dict(outcomes.controls)
    if outcomes.untrained is not None:
        controls[UNTRAINED] = outcomes.untrained
    k = len(controls)
    success = np.asarray(outcomes.success, np.float64)[index]
    differences = np.stack([success - np.asarray(control, np.float64)[index] for control in controls.values()])
    masks = mask & ~np.isnan(differences)  # [controls, cells, pairs]
    bounds = simultaneous.two_way(
        differences.reshape(k * len(index), -1),  # [controls * cells, pairs]
        masks.reshape(k * len(index), -1),
        outcomes.base_skeletons,
        outcomes.source_skeletons,
        seed=seed,
        resamples=resamples,
    )
    is_complete = (masks == mask).all(2)
    return Beyond(np.array(list(controls), object), bounds, is_complete | ~is_complete.any(0))


def _difference_columns(outcomes: Outcomes, mask: np.ndarray, seed: int, resamples: int) -> dict[str, object]:
    """Success minus the best control, and what is surely known of it."""
    beyond = beyond_controls(outcomes, np.arange(len(mask)), mask, seed, resamples)
    bounds, by_control = beyond.bounds, beyond.by_control
    estimates = by_control(bounds.estimate)
    best = np.where(np.isnan(estimates), np.inf, estimates).argmin(0)
    d, low, high = beyond.least()
    is_run = outcomes.has_controls() | ~mask.any(1)
    p_above, p_alone = (np.fmax.reduce(by_control(p(THRESHOLD)), 0) for p in (bounds.p_above, bounds.p_alone))
    p_below = np.where(beyond.is_complete, by_control(bounds.p_below(THRESHOLD)), np.nan)
    return {
        "best_control": np.where(mask.any(1), beyond.names[best], None),
        **interval_columns("d", d, low, high),
        "p_above": np.where(is_run, p_above, 1.0),  # above for every control
        "p_below": np.fmin.reduce(p_below, 0),  # below for one
        "p_alone": np.where(is_run, p_alone, 1.0),
        "clusters": beyond.clusters(),
    }


def _note(candidates: int, pairs: int) -> str:
    if not candidates:
        return "no pair has this role"
    if not pairs:
        return (
            f"none of {candidates} pairs counts: the model's own completion is never true for the original state and "
            "false for the edited one, so nothing can be said"
        )
    return ""
