"""The first sentences of the page about alternative machines, in statements that its table supports."""

from __future__ import annotations

import pandas as pd

from analyses.reporting import report
from analyses.studies.alternatives.study import AlternativesResults
from analyses.studies.state.summary import few_programs_warning


def summary(results: AlternativesResults) -> tuple[str, ...]:
    """Say for how many variables the probe is more selective for the machine's states than for those of every, some or
    no other machine, and by how much."""
    table = results.gaps_by_distance
    if table.empty:
        return ("No alternative machine changes the states of any variable enough to tell.",)
    above = (table.gap_low > 0).groupby(table.variable, sort=False).agg(["all", "any", "sum", "size"])
    every = above[above["all"]]
    some = above[above["any"] & ~above["all"]]
    none = above[~above["any"]]
    smallest = table.loc[table.groupby("variable", sort=False).gap_low.idxmin()].set_index("variable")
    greatest = table.loc[table.groupby("variable", sort=False).gap_low.idxmax()].set_index("variable")
    some_phrases = [f"{row.Index} ({row.sum} of {row.size})" for row in some.itertuples()]
    sentences = [
        f"The probe is more selective for the machine's states than for those of every alternative machine (lower "
        f"bound of the gap above 0; smallest gap) for {len(every)} of {len(above)} variables"
        f"{report.after_colon(_gaps(smallest.loc[every.index]))}."
    ]
    if len(some):
        phrases = report.after_colon(some_phrases)
        sentences.append(f"For {_variables(some)} this holds against some of the machines only{phrases}.")
    if len(none):
        names = report.after_colon(_gaps(greatest.loc[none.index]))
        sentences.append(f"For {_variables(none)} it holds against none of them (greatest gap){names}.")
    warning = few_programs_warning(results.config.programs)
    return (*sentences, warning) if warning else tuple(sentences)


def _variables(rows: pd.DataFrame) -> str:
    return f"{len(rows)} variable{'s' * (len(rows) != 1)}"


def _gaps(rows: pd.DataFrame) -> list[str]:
    """Each variable with its gap."""
    return [f"{name} {report.with_interval(row.gap, row.gap_low, row.gap_high)}" for name, row in rows.iterrows()]
