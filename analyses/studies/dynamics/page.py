"""The page about training: behaviour and readability over the snapshots, how they relate, and which comes first."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.reporting import report
from analyses.studies.dynamics import figures, study
from analyses.studies.dynamics.relations import MAX_PERMUTATIONS, MIN_RISE
from analyses.studies.dynamics.study import DynamicsConfig, DynamicsResults
from analyses.studies.dynamics.summary import summary
from cadmus.runtime.progress import Progress, no_progress


def make(config: DynamicsConfig, out: Path | str, progress: Progress = no_progress) -> Path:
    """Measure and write the page, its figures and tables to `out`; returns the page's path."""
    results = study.run(config, progress)
    page = report.Report("Readability over training", summary(results), sections(results), provenance(results))
    return report.write(page, out)


def provenance(results: DynamicsResults) -> dict[str, str]:
    """How the tables were made."""
    config = results.config
    return {
        "command": f"cadmus-probe dynamics {' '.join(config.runs)} --programs {config.programs} --eval-programs "
        f"{config.eval_programs} --seed {config.seed}",
        "runs": ", ".join(results.trajectories.drop_duplicates("run").fingerprint),
    }


def sections(results: DynamicsResults) -> tuple[report.Section, ...]:
    """The curves, their correlations, and their order."""
    return _trajectories(results.trajectories), _correlations(results), _leads(results.leads)


def _trajectories(table: pd.DataFrame) -> report.Section:
    return report.Section(
        "trajectories",
        "Behaviour and readability over training",
        (
            f"{table.run.nunique()} runs that differ in their seeds were measured at {table.step.nunique()} snapshots. "
            "Left: the share of a family's held-out programs that is completed. Middle: the share of tokens at which "
            "the probe reads a variable, at the site that is best on validation programs of that snapshot; the "
            "programs are the same throughout. Right: the same for the states that an alternative machine has on them.",
        ),
        figure=figures.trajectories(table),
        caption="Thin: each run; thick: their mean.",
        alt=f"Curves over {table.step.nunique()} snapshots of {table.run.nunique()} runs: completion accuracy by "
        "family, the score of each variable, and the same for an alternative machine.",
        table=table,
    )


def _correlations(results: DynamicsResults) -> report.Section:
    table = results.correlations
    runs = results.trajectories.run.nunique()
    return report.Section(
        "correlations",
        "Together, within a snapshot",
        (
            "At a given snapshot, do the runs whose probe reads more also complete more? Scores and accuracies are "
            "taken minus their means at that snapshot and pooled over all snapshots; p is exact, by permuting the "
            "runs' whole trajectories against each other. The last column gives the same for an alternative machine's "
            "states.",
        ),
        figure=figures.correlations(table) if table.r.notna().any() else None,
        caption=f"With {runs} runs the least p that is possible is "
        f"{1 / min(math.factorial(runs), MAX_PERMUTATIONS):.4f}.",
        table=table,
        display_table=_by_pair(table, "r (p)", _correlation),
    )


def _leads(table: pd.DataFrame) -> report.Section:
    return report.Section(
        "lead",
        "Which comes first",
        (
            "Each curve reaches half of the way from its first to its greatest value at some step. The lead is the "
            "number of doublings of training by which the variable reaches it before the family's behaviour does, "
            f"mean over runs with a 95 % t interval. A curve that rises by less than {MIN_RISE} in any run has none. A "
            "lead may merely say that what every state needs is learned early; the last column therefore gives the "
            "number of doublings by which the machine's states become readable before those of the alternative "
            "machine in the same runs.",
        ),
        figure=figures.leads(table) if table.lead.notna().any() else None,
        caption="Right of 0: readable before the behaviour is right.",
        table=table,
        display_table=_by_pair(table, "lead (q)", _lead).assign(earlier=_earlier(table)),
    )


def _by_pair(table: pd.DataFrame, name: str, cell: Callable[[Any], str]) -> pd.DataFrame:
    """Lay out a row per variable and family: a cell for the machine's states, and one for an alternative machine's."""
    columns = {}
    for kind, whose in (("probe", "the machine"), ("alternative", "an alternative machine")):
        part = table[table.kind == kind].set_index(["variable", "family"])
        columns[f"{name}, {whose}"] = pd.Series([cell(row) for row in part.itertuples()], part.index, dtype=str)
    return pd.DataFrame(columns).reset_index()


def _correlation(row: Any) -> str:
    return "" if np.isnan(row.r) else f"{report.number(row.r)} ({row.p:.3f})"


def _lead(row: Any) -> str:
    return "" if np.isnan(row.lead) else f"{report.with_interval(row.lead, row.low, row.high)} ({row.q:.3f})"


def _earlier(leads: pd.DataFrame) -> list[str]:
    """The column `earlier` of the machine's rows; empty where there is no number."""
    rows = leads[leads.kind == "probe"]
    cells = report.intervals(rows, "earlier")
    return ["" if missing else cell for missing, cell in zip(rows.earlier.isna(), cells, strict=True)]
