"""The tidy table of a sweep: one row per cell, seed and response, and what is not there said so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.sweeps.cells import Cell, Run, runs_of
from analyses.sweeps.folder import DONE, FAILED, Status, read_status
from analyses.sweeps.stages import Bench, is_finished, result_of, stages_of
from analyses.sweeps.sweep import FIGURE1, Sweep
from cadmus.runtime import artifacts
from cadmus.runtime.progress import no_progress

PROPERTY = "property."
"""What the columns of measured properties of a run's own corpus begin with."""

RESULT_COLUMNS = ("response", "value", "low", "high", "n", "status", "why")
OK, FAILURE, MISSING = "ok", "failed", "missing"
"""The column `status`: measured; the run failed; nothing could be measured, or the run is not done."""


def tidy_table(sweep: Sweep, cells: Sequence[Cell], folder: Path) -> pd.DataFrame:
    """The table as far as the sweep is: columns `sweep`, `cell`, `seed`, a column per factor, `property.NAME` (of the
    run's own corpus), `response`, `value`, `low`, `high` (95 %), `n`, `status` (ok, failed, missing) and `why`."""
    rows = []
    for run in sorted(runs_of(sweep, cells), key=lambda run: (list(cells).index(run.cell), run.seed)):
        rows += _rows(sweep, run, folder)
    properties = dict.fromkeys(name for row in rows for name in row if name.startswith(PROPERTY))
    factors = [factor.name for factor in sweep.factors]
    return pd.DataFrame(rows, columns=["sweep", "cell", "seed", *factors, *properties, *RESULT_COLUMNS])


def _rows(sweep: Sweep, run: Run, folder: Path) -> list[dict[str, Any]]:
    """The rows of one run."""
    status = read_status(folder, run)
    responses, properties = _results(sweep, run, folder)
    head = {"sweep": sweep.name, "cell": run.cell.key, "seed": run.seed, **_levels(run)}
    head |= {f"{PROPERTY}{name}": entry["value"] for name, entry in properties.items()}
    rows = []
    for response in sweep.responses:
        row = responses.get(response)
        if row is None:
            nothing = {"value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
            rows.append({**head, "response": response, **nothing, "status": _word(status), "why": _why(status)})
        else:
            word = MISSING if math.isnan(row["value"]) else OK
            rows.append({**head, **row, "status": word})
    return rows


def _results(sweep: Sweep, run: Run, folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, float]]]:
    """The measured responses and properties of a run, as far as its stages are there."""
    bench = Bench(sweep, run, folder, "cpu", no_progress, {})
    responses: dict[str, dict[str, Any]] = {}
    properties: dict[str, dict[str, float]] = {}
    for stage in stages_of(sweep)[2:]:
        if is_finished(bench, stage):
            result = result_of(bench, stage)
            responses |= {row["response"]: row for row in result["responses"]}
            properties |= result.get("properties", {})
    return responses, properties


def _word(status: Status) -> str:
    return FAILURE if status.state == FAILED else MISSING


def _why(status: Status) -> str:
    if status.state == FAILED:
        return status.failure
    return "not measured" if status.state == DONE else f"the run is {status.state}"


def runs_table(sweep: Sweep, cells: Sequence[Cell], folder: Path) -> pd.DataFrame:
    """One row per run: its levels, state, stage, why it failed, seconds by stage, and `overhead`, the seconds of all
    other stages over those of training."""
    rows = []
    for run in runs_of(sweep, cells):
        status = read_status(folder, run)
        seconds = {f"{stage}_seconds": status.seconds.get(stage, math.nan) for stage in stages_of(sweep)}
        training = status.seconds.get("model", math.nan)
        overhead = (sum(status.seconds.values()) - training) / training if training else math.nan
        head = {"cell": run.cell.key, "seed": run.seed, **run.cell.levels, "state": status.state}
        rows.append({**head, "stage": status.stage, "why": status.why, **seconds, "overhead": overhead})
    return pd.DataFrame(rows)


def plane_table(sweep: Sweep, cells: Sequence[Cell], folder: Path) -> pd.DataFrame:
    """Figure 1 of every model that has one: a row per cell, seed, X and Y, with a column per factor and those of
    `planes.COLUMNS`; empty where there is none."""
    parts = []
    for run in runs_of(sweep, cells):
        bench = Bench(sweep, run, folder, "cpu", no_progress, {})
        if FIGURE1 in sweep.kinds() and is_finished(bench, "evaluation"):
            plane = result_of(bench, "evaluation")["tables"][FIGURE1]
            parts.append(pd.DataFrame({"cell": run.cell.key, "seed": run.seed, **_levels(run), **plane}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _levels(run: Run) -> dict[str, Any]:
    """The levels of a run as columns have them."""
    return {name: str(level) if isinstance(level, list) else level for name, level in run.cell.levels.items()}


def write_tables(sweep: Sweep, cells: Sequence[Cell], folder: Path) -> pd.DataFrame:
    """Write table.parquet, table.csv and runs.csv into the folder, with figure1.parquet where the sweep has Figure 1,
    and return the tidy table."""
    table = tidy_table(sweep, cells, folder)
    artifacts.write_bytes(folder / "table.parquet", table.to_parquet(index=False))
    artifacts.write_bytes(folder / "table.csv", table.to_csv(index=False).encode())
    artifacts.write_bytes(folder / "runs.csv", runs_table(sweep, cells, folder).to_csv(index=False).encode())
    planes = plane_table(sweep, cells, folder)
    if len(planes):
        artifacts.write_bytes(folder / "figure1.parquet", planes.to_parquet(index=False))
    return table
