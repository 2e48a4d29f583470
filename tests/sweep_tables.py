"""Tables of sweeps with planted effects, and how often the study's intervals hold them.

    python -m tests.sweep_tables 1000 docs/generalization_coverage.csv

simulates that many tables of each design, as the sweeps have them, and writes what the study says of them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.studies.generalization import models
from analyses.studies.generalization.effects import estimates_of
from analyses.studies.generalization.inner_state import ACROSS, OWN, OWN_AND_BASE, inner_state
from cadmus.statistics.ranks import block_spearman

RESPONSE = "accuracy.unseen_values"
INSIDE, BASE, STATE = "accuracy.in_distribution", "accuracy.base", "read.reg"
NOISE, SEEDS_DIFFER = 0.05, 0.03  # standard deviations, of models and of seeds (in all cells alike)


@dataclass(frozen=True)
class Planted:
    """A design, and what is true of it."""

    levels: tuple[int, ...]
    """How many levels each factor has."""
    effect: float
    """Of the first factor's property on the response, per standard deviation; the others have none."""
    spread: float
    """Of cells, beyond what their properties say."""
    seeds: int = 5
    """Models per cell."""
    state_effect: float = 0.0
    """Of the inner state on the response, beyond both accuracies, per standard deviation."""
    confounding: float = 0.0
    """Of accuracy in distribution and, if `with_base`, on the base mixture, which the state follows, on the response:
    shares per share."""
    with_base: bool = False
    """Whether accuracy on the base mixture is measured."""
    arms: tuple[tuple[int, ...], ...] = ()
    """The properties of each cell, in place of a grid of levels: arms that cannot be put in order."""


def table_of(planted: Planted, seed: int) -> pd.DataFrame:
    """A tidy table: properties are their factors and a little chance, responses linear in them."""
    rng = np.random.default_rng(seed)
    levels = np.meshgrid(*(np.arange(k) for k in planted.levels), indexing="ij")
    grid = np.array(planted.arms) if planted.arms else np.stack(levels, -1).reshape(-1, len(levels))
    cells = len(grid)
    cell, block = np.repeat(np.arange(cells), planted.seeds), np.tile(np.arange(planted.seeds), cells)
    properties = grid[cell] + 0.1 * rng.normal(size=(len(cell), grid.shape[1]))
    standardized = (properties - properties.mean(0)) / properties.std(0)
    inside = 0.7 + 0.03 * rng.normal(size=cells)[cell] + 0.02 * rng.normal(size=len(cell))
    base = 0.5 + 0.03 * rng.normal(size=cells)[cell] + 0.02 * rng.normal(size=len(cell))
    known = inside - 0.7 + (base - 0.5 if planted.with_base else 0.0)
    state = 0.6 + 2 * known + 0.05 * rng.normal(size=len(cell))
    state_left = (state - state.mean()) / state.std()
    value = 0.5 + planted.effect * standardized[:, 0] + planted.spread * rng.normal(size=cells)[cell]
    value += SEEDS_DIFFER * rng.normal(size=planted.seeds)[block] + NOISE * rng.normal(size=len(cell))
    value += planted.confounding * known + planted.state_effect * state_left
    head = {"sweep": "planted", "cell": [f"cell{k:02}" for k in cell], "seed": block}
    head |= {f"factor{k}": grid[cell, k] for k in range(grid.shape[1])}
    head |= {f"property.p{k}": properties[:, k] for k in range(grid.shape[1])}
    rest = {"low": np.nan, "high": np.nan, "n": 500, "status": "ok", "why": ""}
    parts = [(RESPONSE, value), (INSIDE, inside), *([(BASE, base)] if planted.with_base else []), (STATE, state)]
    return pd.concat(
        [pd.DataFrame(head | {"response": name, "value": y} | rest) for name, y in parts], ignore_index=True
    )


def covered(planted: Planted, tables: int, shifts: tuple[float, ...], draws: int = 999) -> dict[str, float]:
    """How often, of tables with this planted truth, the 95 % intervals of the first property's effect hold it, by the
    three regressions; and how often an effect is found, of each size in `shifts`, 0 among them: by each (`positive`),
    and by the mixed model and the bootstrap together (`claimed`).

    A response to which an effect times the property is added has intervals that are shifted by it, so that one table
    tells of effects of any size.
    """
    out: dict[str, float] = {}
    n_properties = len(planted.arms[0] if planted.arms else planted.levels)
    predictors = tuple(models.Predictor(f"property.p{k}", logarithmic=False) for k in range(n_properties))
    for seed in range(tables):
        table = models.check(table_of(planted, seed))
        frame = models.design(models.models(table, RESPONSE), RESPONSE, predictors)
        row = estimates_of(frame, seed=0, draws=draws)[0]
        excluded = {}
        for key, prefix in (("mixed", ""), ("robust", "robust_"), ("wild", "wild_")):
            low, high = row[f"{prefix}low"], row[f"{prefix}high"]
            _count(out, f"covered_{key}", low <= planted.effect <= high, tables)
            excluded[key] = [not low <= planted.effect - shift <= high for shift in shifts]
            for shift, positive in zip(shifts, excluded[key], strict=True):
                _count(out, f"positive_{key}_{shift:g}", positive, tables)
        for shift, *both in zip(shifts, excluded["mixed"], excluded["wild"], strict=True):
            _count(out, f"claimed_{shift:g}", all(both), tables)
        levels, blocks = frame.rows["factor0"], frame.rows[["seed", *(f"factor{k}" for k in range(1, len(predictors)))]]
        codes = np.unique(blocks.to_numpy(), axis=0, return_inverse=True)[1].ravel()
        others = blocks.to_numpy()[:, 1:]
        strata = np.unique(others, axis=0, return_inverse=True)[1].ravel() if others.size else np.zeros_like(codes)
        for name, grouped in (("positive_ranks", None), ("positive_ranks_cells", strata)):
            ranks = block_spearman(levels.to_numpy(), frame.y, codes, strata=grouped, draws=199)
            _count(out, name, ranks.p <= 0.05, tables)
    return out


def covered_state(planted: Planted, tables: int, draws: int = 999) -> dict[str, float]:
    """The same of the question of the inner state: how often its effect across and within cells, beyond all accuracies
    that are measured, is held and found, by its p alone and with the wild bootstrap's; `naive_across`: how often it is
    found across cells beyond accuracy in distribution alone."""
    out: dict[str, float] = {}
    asked = OWN_AND_BASE if planted.with_base else OWN
    for seed in range(tables):
        table = inner_state(table_of(planted, seed), draws=draws)
        for row in table[table["beyond"] == asked].to_dict("records"):
            where = row["comparison"].split()[0]
            _count(out, f"covered_{where}", row["low"] <= planted.state_effect <= row["high"], tables)
            _count(out, f"positive_{where}", row["p"] <= 0.05, tables)
            _count(out, f"claimed_{where}", row["p"] <= 0.05 and row["wild_p"] <= 0.05, tables)
        naive = table[(table["beyond"] == OWN) & (table["comparison"] == ACROSS)].iloc[0]
        _count(out, "naive_across", naive["p"] <= 0.05, tables)
    return out


def _count(counts: dict[str, float], name: str, hit: bool, tables: int) -> None:
    counts[name] = counts.get(name, 0.0) + bool(hit) / tables


SHIFTS = (0.0, 0.02, 0.05, 0.1)  # effects, in shares per standard deviation
LEVELS = ((5,), (3, 2), (4, 2), (4, 3))
DESIGNS = [Planted(levels, 0.0, spread) for levels in LEVELS for spread in (0.0, 0.03, 0.1)]
ARMS = ((0, 0), (0, 0), (0, 1), (0, 1), (1, 1))  # as base, equal, values, strict and lenient of Figure 1
DESIGNS += [Planted((5,), 0.0, spread, arms=ARMS) for spread in (0.0, 0.03, 0.1)]
STATES = [
    Planted(levels, 0.05, 0.03, state_effect=effect, confounding=1.0, with_base=with_base)
    for levels in LEVELS
    for with_base in (False, True)
    for effect in (0.0, 0.03)
]


def main(tables: int, out: Path) -> None:
    """Simulate, and write a row per design, quantity and size of the effect."""
    rows = []
    for question, designs in (("property", DESIGNS), ("inner state", STATES)):
        for planted in designs:
            shares = covered(planted, tables, SHIFTS) if question == "property" else covered_state(planted, tables)
            design = f"{len(planted.arms)} arms" if planted.arms else " x ".join(map(str, planted.levels))
            head = {"question": question, "design": design, "seeds": planted.seeds, "with_base": planted.with_base}
            head |= {"spread_of_cells": planted.spread, "effect": planted.state_effect, "tables": tables}
            rows += [{**head, "quantity": name, "share": round(share, 4)} for name, share in shares.items()]
            pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
