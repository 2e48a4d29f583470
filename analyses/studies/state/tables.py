"""Which rows of the state's tables stand for a variable: its main probe, the site where that reads best; and how the
tables of the page are laid out."""

from __future__ import annotations

import pandas as pd

from analyses.reporting import report
from analyses.reporting.sites import location_column
from probes.geometry.dimensions import smallest_sufficient
from probes.measurement.measure import TRAINED, UNTRAINED

# --- which rows ------------------------------------------------------------------------------------------------------


def headline(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of the present states' main probe over all tokens: one per (site, variable)."""
    rows = main_probe(scores)
    return rows[(rows.by == "all") & (rows.offset == 0)]


def main_probe(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of each variable's main probe, which numbers too are read by as classes: no regression."""
    return scores[~scores.as_number.astype(bool)]


def best_sites(scores: pd.DataFrame) -> pd.Series:
    """The site of each variable that reads most on the validation programs (so that the test score is no maximum)."""
    rows = headline(scores)
    order = rows.variable.unique()
    rows = rows.dropna(subset="score")
    best = rows.loc[rows.groupby("variable").validation.idxmax()].set_index("variable").site
    return best.reindex([variable for variable in order if variable in best.index])


def at_best_sites(rows: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of each variable at its site of `best_sites`, variable after variable."""
    best = best_sites(scores)
    rows = rows[rows.site == rows.variable.map(best)]
    return rows.sort_values("variable", key=lambda names: names.map(list(best.index).index), kind="stable")


def breakdown(scores: pd.DataFrame, by: str) -> pd.DataFrame:
    """The present states' scores by group, at each variable's site."""
    rows = main_probe(scores)
    rows = rows[(rows.by == by) & (rows.offset == 0) & rows.score.notna()]
    return at_best_sites(rows, scores)


# --- to be read ------------------------------------------------------------------------------------------------------


def residues(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Which residues are told apart at each variable's site, in the model and in its untrained twin."""
    rows = at_best_sites(table, scores)
    own, twin = (rows[rows.model == model] for model in (TRAINED, UNTRAINED))
    twin = twin.set_index(["variable", "period"]).reindex(pd.MultiIndex.from_frame(own[["variable", "period"]]))
    told = [
        ["" if pd.isna(r.score) else report.with_interval(r.score, r.low, r.high) for r in part.itertuples()]
        for part in (own, twin)
    ]
    return pd.DataFrame(
        {
            "variable": own.variable,
            **location_column(own),
            "residue of the value by": own.period,
            "told rightly, of values held out": told[0],
            "untrained model": told[1],
            "most frequent residue": own.chance.map(report.number),
            "permuted values": own.control.map(report.number),
        }
    )


def dimensions(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """How much of each variable is explained at its site, in the model and in its untrained twin, and how many
    dimensions and neurons that takes in the model."""
    rows = at_best_sites(table, scores)
    own, twin = (rows[rows.model == model] for model in (TRAINED, UNTRAINED))
    first = own.drop_duplicates("variable")
    least = {at: smallest_sufficient(part) or "" for at, part in own.groupby(["variable", "probe"])}
    return pd.DataFrame(
        {
            "variable": first.variable,
            **location_column(first),
            "R² of the one-hot values": first.full.map(report.number),
            "untrained model": first.variable.map(twin.groupby("variable").full.first()).map(report.number),
            "dimensions for 95 %": [least[variable, "reduced rank"] for variable in first.variable],
            "neurons for 95 %": [least[variable, "neurons"] for variable in first.variable],
        }
    )
