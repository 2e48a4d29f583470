"""What is not there, cell by cell; and rank correlations of responses with the levels of factors."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses.studies.generalization import models
from cadmus.statistics.clustered import benjamini_hochberg
from cadmus.statistics.ranks import DRAWS, block_spearman


def missingness(table: pd.DataFrame) -> pd.DataFrame:
    """A row per (response, cell): how many models there are (`models`), how many have a value (`ok`), `failed`,
    `missing`, and the commonest reason (`why`); with the levels of the factors."""
    rows = []
    levels = models.factors(table)
    for (response, cell), part in table.groupby(["response", "cell"], sort=False):
        counts = part["status"].value_counts()
        reasons = part.loc[part["status"] != "ok", "why"].dropna()
        rows.append(
            {
                "response": response,
                "cell": cell,
                **{name: part[name].iloc[0] for name in levels},
                "models": len(part),
                **{status: int(counts.get(status, 0)) for status in ("ok", "failed", "missing")},
                "why": reasons.mode().iloc[0] if len(reasons) else "",
            }
        )
    return pd.DataFrame(rows)


def rank_correlations(table: pd.DataFrame, *, seed: int = 0, draws: int = DRAWS) -> pd.DataFrame:
    """Spearman's rho of every response with the levels of every numeric factor: within blocks of one seed and the same
    levels of the other factors, by permuting levels within them. Columns factor, response, rho, low, high, p, q (over
    the responses), blocks, models; and p_cells, by permuting levels alike for all seeds, which holds where cells differ
    for other reasons too."""
    numeric = [
        name
        for name in models.factors(table)
        if pd.api.types.is_numeric_dtype(table[name]) and not pd.api.types.is_bool_dtype(table[name])
    ]
    rows = []
    for factor in numeric:
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
