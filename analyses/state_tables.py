"""Which rows of the state's table stand for a variable: its main probe, and the site where that reads best."""

from __future__ import annotations

import pandas as pd


def headline(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of the present states' main probe over all tokens: one per (site, variable)."""
    rows = main_probe(scores)
    return rows[(rows.by == "all") & (rows.offset == 0)]


def main_probe(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of each variable's main probe, which numbers too are read by as classes: no regression."""
    return scores[scores.probe != "ridge"]


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
