"""What happened to pairs under each condition, as plain arrays.

A pair *counts* where the model's own completion is true for the original state and false for the edited one; it
*succeeds* where the intervened completion has its family's form, is true for the edited state and false for the
original one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from probes.interventions.counterfactuals.pairs import KINDS, STRATA

SPANS = ("single", "from", "up_to")
THRESHOLD = 0.05  # what d must be surely above, or surely below
UNTRAINED = "untrained"


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
