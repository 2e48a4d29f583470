"""What edits of a model's activations do, beside every control: one table of effects per variable, layer and role.

Enters: what happened to the same pairs under each condition (`outcomes`). Leaves: a tidy table, a row per kind of pair,
stratum and cell, of which `verdicts` makes words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cadmus.statistics import simultaneous
from cadmus.statistics.clustered import interval_columns
from probes.interventions.counterfactuals.pairs import KINDS, STRATA
from probes.interventions.effects.outcomes import THRESHOLD, UNTRAINED, Outcomes

_CELL_COLUMNS = {"span": "single", "input_change": False, "readable": None}  # and what they are where they are left out
_SHARES = ("canonical", "moved", "changed", "damage", "chance")


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
