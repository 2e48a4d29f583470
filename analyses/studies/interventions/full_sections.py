"""The parts of the page that only a full run has: the subspace in each variable's best cell, and attribution."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analyses.reporting import report
from analyses.studies.interventions import words
from analyses.studies.interventions.tables import Tables

METHODS = {
    "search": "directions that were searched for",
    "principal components": "principal components",
    "neurons": "as many neurons",
    "one neuron": "one neuron",
    "whole component": "all of the residual stream",
    "arbitrary labels": "directions for arbitrary answers",
    "untrained": "directions in the untrained twin",
}


def sections(tables: Tables) -> tuple[report.Section, ...]:
    """A section for each part that was measured."""
    return tuple(_sections(tables))


def _sections(tables: Tables) -> Iterator[report.Section]:
    if len(tables.subspaces):
        yield _subspaces(tables.subspaces)
    if len(tables.attribution):
        yield _attribution(tables.attribution)
    if len(tables.components):
        text = "What attribution says of each node and edge, and what patching it does, on average over pairs."
        yield report.Section("components", "Every node and edge", (text,), table=tables.components)


# --- subspaces -------------------------------------------------------------------------------------------------------


def subspace_sentence(rows: pd.DataFrame) -> str:
    """What the search found of one variable, beside the whole residual stream and the search for arbitrary answers, or
    why nothing was searched for; rows: of `Tables.subspaces`."""
    name = words.variable(rows["variable"].iloc[0])
    if _measured(rows).empty:
        return f"Nothing was searched for of {name}: {rows['note'].iloc[0]}."
    by_method = rows.set_index("method").to_dict("index")
    search, whole, arbitrary = (by_method[method] for method in ("search", "whole component", "arbitrary labels"))
    rank = int(search["rank"])
    directions = "one direction" if rank == 1 else f"{words.count(rank)} directions"
    place = words.place(int(search["layer"]), search["role"])
    moved = [report.interval_of(row, "accuracy") for row in (search, whole, arbitrary)]
    sentence = (
        f"{words.capital(name)}, {place}: exchanging {directions} gives the answer asked for in {moved[0]} of "
        f"{int(search['pairs'])} new pairs, all of the residual stream in {moved[1]}, directions that were "
        f"searched for arbitrary answers in {moved[2]}."
    )
    illusion = " That directions do more than the whole may be an illusion: no input moves the model along them alone."
    return sentence + (illusion if search["illusion"] else "")


def _measured(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that have figures."""
    return rows[rows["accuracy"].notna()] if "accuracy" in rows else rows.iloc[:0]


def _subspaces(table: pd.DataFrame) -> report.Section:
    rows = _measured(table).to_dict("records")
    columns = ("variable", "what is exchanged", "directions", "moved", "left alone", "beyond the whole")
    values = [
        (
            row["variable"],
            METHODS[row["method"]],
            int(row["rank"]),
            report.interval_of(row, "accuracy"),
            report.interval_of(row, "isolation"),
            report.interval_of(row, "beyond_whole"),
        )
        for row in rows
    ]
    return report.Section(
        "subspaces",
        "In how many directions",
        (
            "In the block and role where the exchange of a variable does most, a few orthonormal directions are "
            "searched for whose exchange alone gives the answers that the machine asks for, and leaves the answer "
            "where the source has the same value (distributed alignment search). The cell was chosen on the pairs "
            "above; the search learned, chose how many directions, and is scored on new pairs of other skeletons.",
            *(subspace_sentence(part) for _, part in table.groupby("variable", sort=False)),
        ),
        caption="Moved: right answers of exchanges that must change the answer. Left alone: of those that must not. "
        "Brackets: 95 % intervals over skeletons.",
        table=table,
        display_table=pd.DataFrame(values, columns=list(columns)) if values else None,
    )


# --- attribution -----------------------------------------------------------------------------------------------------


def _attribution(table: pd.DataFrame) -> report.Section:
    rows = table[table["pearson"].notna()].to_dict("records") if "pearson" in table else []
    columns = ("variable", "cells", "type", "Pearson", "Spearman", "how many", "pairs")
    values = [
        (
            row["variable"],
            row["kind"],
            row["component"],
            report.interval_of(row, "pearson"),
            report.interval_of(row, "spearman"),
            int(row["cells"]),
            int(row["rows"]),
        )
        for row in rows
    ]
    silent = table[table["note"] != ""]
    missing = [f"{words.variable(row.variable)} ({row.note})" for row in silent.itertuples()]
    return report.Section(
        "attribution",
        "Attribution beside patching",
        (
            "Gradients, integrated on the way from the base's input to the source's, estimate for all heads, MLPs, "
            "blocks and edges at once what patching each of them does to the answer's logit difference. Each was "
            "patched too: correlations over cells say how far the estimates can be relied on in this model.",
            f"Nothing was attributed for {report.listed(missing)}." if missing else "",
        ),
        caption="Nodes are heads, MLPs and the residual stream after each block, by role; edges lead from a head or "
        "MLP to another's input or to the logits. Brackets: 95 % intervals, pairs resampled by skeleton.",
        table=table,
        display_table=pd.DataFrame(values, columns=list(columns)) if values else None,
    )
