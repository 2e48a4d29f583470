"""Responses by level: of every cell what its seeds give, and rank correlations with the levels of factors."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses.studies.generalization import models
from cadmus.statistics.clustered import benjamini_hochberg
from cadmus.statistics.ranks import DRAWS, block_spearman


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """A row per (response, cell): the levels of the factors, how many models have a value (`models`), and over these
    its `median`, `least` and `greatest`, NaN where there are none."""
    levels = models.factors(table)
    rows = []
    for (response, cell), part in table.groupby(["response", "cell"], sort=False):
        values = part["value"].dropna()
        spread = {"median": values.median(), "least": values.min(), "greatest": values.max()}
        head = {"response": response, "cell": cell, **{name: part[name].iloc[0] for name in levels}}
        rows.append({**head, "models": len(values), **spread})
    return pd.DataFrame(rows)


def medians(table: pd.DataFrame, response: str, factor: str) -> pd.Series:
    """The median of a response over the models of each level of a factor, by level, ascending."""
    return table[table["response"] == response].groupby(factor)["value"].median().sort_index()


def factor_of(table: pd.DataFrame, predictor: str) -> str | None:
    """The numeric factor whose levels a column of the table follows most nearly: itself, where it is one. None where
    there is no such factor, or the predictor is no column."""
    numeric = models.numeric_factors(table)
    if predictor not in table or not numeric:
        return None
    once = table.drop_duplicates(["cell", "seed"])
    rho = once[numeric].corrwith(once[predictor], method="spearman").abs()
    return None if rho.isna().all() else str(rho.idxmax())


def rank_correlations(table: pd.DataFrame, *, seed: int = 0, draws: int = DRAWS) -> pd.DataFrame:
    """Spearman's rho of every response with the levels of every numeric factor: within blocks of one seed and the same
    levels of the other factors, by permuting levels within them. Columns factor, response, rho, low, high, p, q (over
    the responses), blocks, models; and p_cells, by permuting levels alike for all seeds, which holds where cells differ
    for other reasons too."""
    rows = []
    for factor in models.numeric_factors(table):
        others = [name for name in models.factors(table) if name != factor]
        for response in models.responses(table):
            part = table[(table["response"] == response) & table["value"].notna() & table[factor].notna()]
            if part.empty:
                continue
            blocks = _labels(part, ["seed", *others])
            levels, values = (part[name].to_numpy(np.float64) for name in (factor, "value"))
            strata = _labels(part, others)
            ranks = block_spearman(levels, values, blocks, seed=seed, draws=draws)
            alike = block_spearman(levels, values, blocks, strata=strata, seed=seed, draws=draws)
            row = {"factor": factor, "response": response, "rho": ranks.rho, "low": ranks.low, "high": ranks.high}
            rows.append({**row, "p": ranks.p, "p_cells": alike.p, "blocks": ranks.blocks, "models": len(part)})
    out = pd.DataFrame(rows, columns=["factor", "response", "rho", "low", "high", "p", "p_cells", "blocks", "models"])
    out["q"] = np.nan
    for _, rows_of in out.groupby("factor"):
        out.loc[rows_of.index, "q"] = benjamini_hochberg(rows_of["p"].to_numpy(np.float64))
    return out


def _labels(table: pd.DataFrame, names: list[str]) -> np.ndarray:
    """The values of some columns as one text for each row; the same for all rows where there are no columns."""
    if not names:
        return np.full(len(table), "")
    return table[names].astype(str).agg("/".join, axis=1).to_numpy(dtype=str)
