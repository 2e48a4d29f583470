"""A sweep from its beginning, or from where it was killed, to its table: the pilot first, then every other run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.sweeps.cells import Cell, Run, pilot_cell, runs_of
from analyses.sweeps.engines import Engine, place_of
from analyses.sweeps.folder import DONE, FAILED, WAITING, open_sweep, read_status, write_status
from analyses.sweeps.runs import Outcome, Task
from analyses.sweeps.stages import Bench, is_whole
from analyses.sweeps.sweep import INTERCHANGE, READ, Sweep
from analyses.sweeps.tables import OK, tidy_table, write_tables
from cadmus.runtime.folder_lock import sole_writer
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.workers import check_guard

_TABLE_INTERVAL = 30.0  # seconds between two writings of the table while runs end

OnOutcome = Callable[[Run, Outcome], None]
"""Called when a run has ended."""


@dataclass(frozen=True)
class Result:
    """What a sweep has come to."""

    table: pd.DataFrame
    """The tidy table."""

    failed: tuple[str, ...]
    """The runs that failed, each with why, in words."""


class PilotFailure(ValueError):
    """The pilot cell did not reach its accuracy, or failed."""


def run_sweep(
    sweep: Sweep,
    folder: Path | str,
    engine: Engine,
    *,
    device: str = "cpu",
    pilot_runs: int = 1,
    retry: bool = False,
    progress: Progress = no_progress,
    on_outcome: OnOutcome = lambda run, outcome: None,
    on_start: Callable[[list[Run]], None] = lambda runs: None,
) -> Result:
    """Run what is missing of a sweep, and write its table.

    Args:
        sweep: what is asked for.
        folder: where everything lies; a sweep that was killed goes on there.
        engine: where runs are worked on.
        device: where models are trained: cpu, cuda, or auto, which is the CPU: small models are fastest there.
        pilot_runs: how many runs of the pilot cell come first, at most one per seed.
        retry: begin runs again that failed.
        progress: follows the making of cells.
        on_outcome: is called when a run has ended.
        on_start: is called with all runs before the first begins.

    Returns:
        The table, and the runs that failed.

    Raises:
        PilotFailure: a ValueError: the pilot did not reach its accuracy; the table so far is written.
        ValueError: the sweep contradicts itself.
        ArtifactError: the folder holds something else, or a changed sweep, or another process runs it.
    """
    check_guard()
    folder = Path(folder)
    place = place_of(device)
    with sole_writer(folder):
        cells = open_sweep(folder, sweep, progress)
        runs = runs_of(sweep, cells)
        on_start(runs)
        tasks = [Task(sweep, run, folder.resolve(), place) for run in _waiting(sweep, folder, runs, retry)]
        n_pilots = 0 if sweep.pilot is None else max(1, min(pilot_runs, len(sweep.seeds)))
        pilots = [run.name for run in runs[:n_pilots]]
        outcomes = _Outcomes(sweep, cells, folder, runs, on_outcome)
        first = [task for task in tasks if task.run.name in pilots]
        outcomes.work(engine, first)
        if sweep.pilot is not None:
            _check_pilot(sweep, cells, folder, runs[:n_pilots])
        outcomes.work(engine, [task for task in tasks if task not in first])
        table = write_tables(sweep, cells, folder)
    return Result(table, tuple(_failures(folder, runs)))


def _waiting(sweep: Sweep, folder: Path, runs: Sequence[Run], retry: bool) -> list[Run]:
    """The runs that are to be worked on: what was never begun, was at work when the sweep was killed, or was done and
    lacks a stage by now. Their journals say that they wait."""
    out = []
    for run in runs:
        status = read_status(folder, run)
        is_done = status.state == DONE and is_whole(Bench(sweep, run, folder, "cpu", no_progress, {}))
        if is_done or (status.state == FAILED and not retry):
            continue
        if status.state != WAITING:
            write_status(folder, run, replace(status, state=WAITING))
        out.append(run)
    return out


class _Outcomes:
    """Takes what an engine yields, and keeps the table on disk up to date."""

    def __init__(
        self, sweep: Sweep, cells: Sequence[Cell], folder: Path, runs: Sequence[Run], on_outcome: OnOutcome
    ) -> None:
        self.sweep, self.cells, self.folder, self.on_outcome = sweep, cells, folder, on_outcome
        self.by_name = {run.name: run for run in runs}
        self.written = time.monotonic()

    def work(self, engine: Engine, tasks: Sequence[Task]) -> None:
        """Have tasks worked on; the table is written when they end, whatever ends them."""
        if not tasks:
            return
        try:
            for outcome in engine(tasks):
                self._record(outcome)
                self.on_outcome(self.by_name[outcome.run], outcome)
                if time.monotonic() - self.written >= _TABLE_INTERVAL:
                    self._write()
        finally:
            self._write()

    def _record(self, outcome: Outcome) -> None:
        """Write a failure into the run's journal where its worker could not: it died, or sees no folder."""
        run = self.by_name[outcome.run]
        status = read_status(self.folder, run)
        if outcome.failure and status.state != FAILED:
            write_status(self.folder, run, replace(status, state=FAILED, why=outcome.failure))

    def _write(self) -> None:
        write_tables(self.sweep, self.cells, self.folder)
        self.written = time.monotonic()


def _check_pilot(sweep: Sweep, cells: Sequence[Cell], folder: Path, runs: Sequence[Run]) -> None:
    """Raise PilotFailure unless the median of the pilot's runs reaches its accuracy."""
    pilot, cell = sweep.pilot, pilot_cell(sweep, cells)
    assert pilot is not None, "there is a pilot where it is checked"
    assert cell is not None, "its cell is one of the grid"
    for run in runs:
        status = read_status(folder, run)
        if status.state == FAILED:
            raise PilotFailure(
                f"the pilot ({run.label}) failed in {status.stage or 'its start'}: {status.why}; mend that and add "
                "--retry, or change the sweep under another --out"
            )
    table = tidy_table(replace(sweep, pilot=None, seeds=tuple(run.seed for run in runs)), [cell], folder)
    rows = table[(table["response"] == "accuracy.in_distribution") & (table["status"] == OK)]
    accuracy = float(np.median(rows["value"])) if len(rows) else float("nan")
    if not accuracy >= pilot.accuracy:
        raise PilotFailure(
            f"the pilot ({cell.label}) reached an accuracy of {accuracy:.2f} in distribution, {pilot.accuracy:g} is "
            "asked for: a sweep of models that have not learned says nothing. Train longer (train.steps), on simpler "
            "programs or with a larger model, under another --out; or lower the pilot's accuracy, and go on"
        )
    for response in sweep.responses:
        mine = table[table["response"] == response]
        if response.partition(".")[0] in (READ, INTERCHANGE) and not (mine["status"] == OK).any():
            raise PilotFailure(
                f"the pilot ({cell.label}) could not measure {response}: {mine['why'].iloc[0]}; leave it out of the "
                "responses, or change the mixture, under another --out"
            )


def _failures(folder: Path, runs: Sequence[Run]) -> list[str]:
    out = []
    for run in runs:
        status = read_status(folder, run)
        if status.state == FAILED:
            out.append(f"{run.label}: {status.failure}")
    return out
