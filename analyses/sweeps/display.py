"""What a person sees of a sweep: how far it is, the time left, and the table so far."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from analyses.sweeps.cells import Cell, Run
from analyses.sweeps.folder import DONE, FAILED, RUNNING, Status
from analyses.sweeps.plan import Plan
from analyses.sweeps.stages import stages_of
from analyses.sweeps.sweep import Sweep
from analyses.sweeps.tables import OK
from cadmus.runtime.artifacts import read_table
from cadmus.statistics.regression import MEANT_SEEDS

_MAX_RESPONSES = 5  # columns of the table so far
_STALE = 180.0  # seconds without a word, after which a run seems to be dead


def few_seeds(sweep: Sweep) -> str:
    """What is said of a sweep with few seeds a cell; empty of another."""
    n = len(sweep.seeds)
    if n >= MEANT_SEEDS:
        return ""
    seeds = f"{n} seed{'s' * (n > 1)} a cell"
    return f"{sweep.name}: {seeds}, {MEANT_SEEDS} are meant; fewer tell little, more can be added"


def time_left(known: Sequence[tuple[Run, Status]], jobs: int) -> float:
    """Seconds until all runs have ended, by the runs that are done; NaN where none is."""
    done = [sum(status.seconds.values()) for _, status in known if status.state == DONE]
    if not done:
        return math.nan
    mean = sum(done) / len(done)
    n_open = sum(status.state not in (DONE, FAILED) for _, status in known)
    at_work = sum(min(sum(status.seconds.values()) / mean, 1.0) for _, status in known if status.state == RUNNING)
    return max(0.0, n_open - at_work) * mean / max(1, min(jobs, n_open))


def duration(seconds: float) -> str:
    """Seconds in words: `4 min`, `2.5 h`."""
    if math.isnan(seconds):
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(n: float) -> str:
    """Bytes in words."""
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB" if n >= 1e6 else f"{n / 1e3:.0f} kB"


def plan_rows(plan: Plan) -> list[tuple[str, str]]:
    """A plan as rows of text."""
    rests_on = (
        f"{plan.measured_runs} runs" if plan.measured_runs else "a few steps of training, and a fifth for all else"
    )
    return [
        ("cells", f"{plan.cells:,}"),
        ("runs", f"{plan.runs:,} ({plan.remaining:,} to do)"),
        ("parameters", f"{plan.parameters:,} at most"),
        ("time of a run", f"{duration(plan.seconds_per_run)} on one core (measured on {rests_on})"),
        ("time", f"{duration(3600 * plan.hours)} with {plan.jobs} at once ({plan.hours:.2f} h)"),
        ("disk", f"{size(plan.bytes)}, and {size(plan.peak_bytes)} while runs are at work"),
    ]


def view(sweep: Sweep, known: Sequence[tuple[Run, Status]], table: pd.DataFrame, jobs: int) -> Group:
    """The whole: a line, the runs at work, the cells so far."""
    counts = {state: sum(status.state == state for _, status in known) for state in (DONE, FAILED, RUNNING)}
    line = Text(
        f"{sweep.name}: {counts[DONE]} of {len(known)} runs done, {counts[RUNNING]} at work, {counts[FAILED]} failed; "
        f"time left {duration(time_left(known, jobs))}"
    )
    return Group(line, _runs_at_work(sweep, known), cells_so_far(sweep, known, table))


def _runs_at_work(sweep: Sweep, known: Sequence[tuple[Run, Status]]) -> Table:
    stages = stages_of(sweep)
    out = Table("at work", "stage", "", "", box=None)
    for run, status in known:
        if status.state == RUNNING:
            number = stages.index(status.stage) + 1 if status.stage in stages else 0
            silent = time.time() - status.at
            note = f"nothing heard for {duration(silent)}" if silent > _STALE else status.note
            out.add_row(run.label, f"{status.stage} ({number} of {len(stages)})", f"{status.fraction:.0%}", note)
    return out


def cells_so_far(sweep: Sweep, known: Sequence[tuple[Run, Status]], table: pd.DataFrame) -> Table:
    """A row per cell: its levels, how many runs are done, and of some responses the least, median and greatest value
    over the seeds: never a mean alone."""
    names = [factor.name for factor in sweep.factors]
    responses = sweep.responses[:_MAX_RESPONSES]
    out = Table(*names, "done", *responses, box=None)
    by_cell: dict[str, tuple[Cell, int]] = {}
    for run, status in known:
        cell, n = by_cell.get(run.cell.key, (run.cell, 0))
        by_cell[run.cell.key] = cell, n + (status.state == DONE)
    for key, (cell, n) in by_cell.items():
        values = [_spread(table, key, response) for response in responses]
        out.add_row(*(str(cell.levels[name]) for name in names), f"{n}/{len(sweep.seeds)}", *values)
    return out


def _spread(table: pd.DataFrame, cell: str, response: str) -> str:
    if table.empty:
        return ""
    rows = table[(table["cell"] == cell) & (table["response"] == response) & (table["status"] == OK)]["value"]
    return f"{rows.min():.2f} {rows.median():.2f} {rows.max():.2f}" if len(rows) else ""


def table_so_far(folder: Path) -> pd.DataFrame:
    """The table that lies in the folder; empty where there is none yet."""
    path = folder / "table.parquet"
    return read_table(path) if path.is_file() else pd.DataFrame()
