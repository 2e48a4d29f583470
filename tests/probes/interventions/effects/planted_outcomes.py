"""Outcomes of interchanges with known effects, for tests of the tables that are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from probes.interventions.effects.outcomes import Outcomes

ROLES = ("arose", "stored", "loaded")
CELLS = pd.DataFrame(
    [(layer, role, "single") for layer in range(4) for role in ROLES]
    + [(layer, "stored", "from") for layer in range(4)],
    columns=["layer", "role", "span"],
)


def planted(
    seed: int = 0,
    rates: Mapping[tuple[int, str], float] | None = None,
    pairs: int = 300,
    control: float = 0.03,
    variable: str = "reg.a",
    counting: float = 0.9,
    skeletons: int = 200,
    positive: float = 0.95,
    cells: pd.DataFrame = CELLS,
    **changes: Any,
) -> Outcomes:
    """Pairs whose interchange succeeds at `rates[layer, role]`, else as often as each control does (`control`).

    Pairs of a base skeleton are alike. An exchange changes an answer where it succeeds, and no other; changes replace
    fields of the result.
    """
    rng = np.random.default_rng([seed, len(variable), ord(variable[-1])])
    rates = rates or {}
    base, source = rng.integers(0, skeletons, (2, pairs))
    rate = np.array([rates.get((cell.layer, cell.role), control) for cell in cells.itertuples()])
    shape = (len(cells), pairs)

    names, number = np.unique(base, return_inverse=True)

    def draws(chance: np.ndarray | float) -> np.ndarray:
        alike = rng.random((len(cells), len(names)))[:, number]
        return np.where(rng.random(shape) < 0.3, alike, rng.random(shape)) < chance

    counts, success = rng.random(pairs) < counting, draws(rate[:, None])
    fields: dict[str, Any] = {
        "variable": variable,
        "cells": cells,
        "mask": np.ones(shape, bool),
        "counts": counts,
        "success": success,
        "changed": changes.get("success", success),
        "controls": {"third_value": draws(control), "same_value": draws(control), "random": draws(control)},
        "untrained": draws(0.0),
        "damage": draws(0.02),
        "chance": np.full(pairs, 0.1),
        "positive": rng.random(pairs) < positive,
        "base_skeletons": base,
        "source_skeletons": source,
        "kinds": np.full(pairs, "discriminating"),
        "strata": np.full(pairs, "computed"),
    }
    return Outcomes(**{**fields, **changes})
