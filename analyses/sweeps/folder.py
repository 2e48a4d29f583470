"""What lies in the folder of a sweep, and how far every run is.

sweep.json        what is asked for, and the cells with their recipes
corpus/ model/ evaluation/ probing/ interventions/    finished stages, by fingerprint
runs/NAME.json    how far a run is: its journal, not part of any result
table.parquet, table.csv, runs.csv; figure1.parquet where Figure 1 is measured
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from analyses.sweeps.cells import Cell, Run, cell_from_dict, cells_of, runs_of
from analyses.sweeps.sweep import Sweep
from analyses.sweeps.sweep_files import sweep_from_stored
from cadmus.runtime import artifacts
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training import checkpoint

SWEEP = "sweep.json"
_START_WEIGHTS = "start_weights"
WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


@dataclass(frozen=True)
class Status:
    """How far a run is."""

    state: str = WAITING
    """waiting, running, done or failed."""

    stage: str = ""
    """The stage it is in, or failed in."""

    fraction: float = 0.0
    """How much of the stage is done."""

    note: str = ""
    """What the stage says of itself."""

    why: str = ""
    """Why it failed, in one line."""

    traceback: str = ""
    """Where it failed, of an error that is a fault of this program or of its machine rather than of the sweep."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds by stage, over all attempts."""

    began: int = 0
    """How often it was begun."""

    host: str = ""
    """The machine where it runs, or ran."""

    pid: int = 0
    """The process there."""

    at: float = 0.0
    """When this was written, in seconds since 1970."""

    @property
    def failure(self) -> str:
        """The stage that failed, where one had begun, and why."""
        return f"{self.stage}: {self.why}" if self.stage else self.why


def open_sweep(folder: Path, sweep: Sweep, progress: Progress = no_progress) -> list[Cell]:
    """The cells of a sweep in its folder, which is begun where there is none.

    Seeds may be added to a sweep that has begun, since every run stands by itself. Raises ArtifactError where the
    folder holds another sweep, or this one as it was before it was changed otherwise: it says what differs. Nothing is
    overwritten but the pilot, which decides only whether the runs go on.
    """
    request = _request(sweep)
    path = folder / SWEEP
    if path.is_file():
        stored = read_sweep(folder)
        cells = _unchanged_cells(folder, stored, request, sweep)
        if stored["sweep"] != request:
            artifacts.write_json(path, {**stored, "sweep": request})
        return cells
    artifacts.check_free(folder, "sweep")
    if folder.is_dir() and any(entry.name != ".lock" for entry in folder.iterdir()):
        raise artifacts.ArtifactError(
            f"{folder} holds files that are of no sweep; choose another --out, or an empty folder"
        )
    cells = cells_of(sweep, progress)
    content = {"sweep": request, "cells": [cell.to_dict() for cell in cells], **artifacts.provenance()}
    artifacts.write_json(path, content)
    return cells


def _request(sweep: Sweep) -> dict[str, Any]:
    """What is asked for, as sweep.json has it: with the fingerprint of the weights that training begins with, which may
    be others by the time that the sweep goes on."""
    start = sweep.recipe.start
    weights = {_START_WEIGHTS: checkpoint.load(start).fingerprint} if start else {}
    return dict(json.loads(json.dumps(sweep.to_dict() | weights)))


def begun_cells(folder: Path, sweep: Sweep) -> list[Cell]:
    """The cells of a sweep that has begun in its folder; nothing is written. Raises ArtifactError as `open_sweep`."""
    return _unchanged_cells(folder, read_sweep(folder), _request(sweep), sweep)


def _unchanged_cells(folder: Path, stored: dict[str, Any], request: dict[str, Any], sweep: Sweep) -> list[Cell]:
    """The cells that are stored. Raises ArtifactError where something else was asked for than now, seeds that are added
    and the pilot aside."""
    free = {"pilot": None} | ({"seeds": None} if set(stored["sweep"]["seeds"]) <= set(sweep.seeds) else {})
    if _START_WEIGHTS not in stored["sweep"]:  # an older one
        free[_START_WEIGHTS] = None
    differing = _differences({**stored["sweep"], **free}, {**request, **free})
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise artifacts.ArtifactError(
            f"{folder} holds the sweep {stored['sweep'].get('name')!r} as it was before it was changed "
            f"({'; '.join(differing[:3])}{more}); name another --out, or undo the change"
        )
    return _stored_cells(folder, stored, sweep)


def read_sweep(folder: Path) -> dict[str, Any]:
    """What sweep.json says, `sweep` and `cells`. Raises ArtifactError where the folder holds no sweep, or a damaged
    one."""
    if not (folder / SWEEP).is_file():
        raise artifacts.ArtifactError(f"{folder} holds no sweep (it has no {SWEEP}); name the folder of one")
    stored = artifacts.read_json(folder / SWEEP)
    for key, kind in (("sweep", dict), ("cells", list)):
        if not isinstance(stored, dict) or not isinstance(stored.get(key), kind):
            raise _damaged(folder, f"it lacks {key}")
    seeds = stored["sweep"].get("seeds")
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        raise _damaged(folder, f"its seeds are {seeds!r}")
    return stored


def _damaged(folder: Path, why: object) -> artifacts.ArtifactError:
    return artifacts.ArtifactError(
        f"{folder / SWEEP} is damaged ({why}); run the sweep with another --out, or put the file back"
    )


def _stored_cells(folder: Path, stored: dict[str, Any], sweep: Sweep) -> list[Cell]:
    """The cells that sweep.json has. Raises ArtifactError for what is no cell."""
    try:
        return [cell_from_dict(cell, sweep.recipe) for cell in stored["cells"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, f"a cell is none: {type(error).__name__}: {error}") from None


def _differences(stored: Any, request: Any, place: str = "") -> list[str]:
    """What differs between two plain values: `seeds: [0, 1], now [0, 1, 2]`."""
    if isinstance(stored, dict) and isinstance(request, dict):
        out = []
        for key in {**stored, **request}:
            out += _differences(stored.get(key), request.get(key), f"{place}.{key}" if place else str(key))
        return out
    if isinstance(stored, list) and isinstance(request, list) and len(stored) == len(request):
        nested = [_differences(a, b, f"{place}[{k}]") for k, (a, b) in enumerate(zip(stored, request))]
        return [entry for entries in nested for entry in entries]
    return [] if stored == request else [f"{place}: {_short(stored)}, now {_short(request)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- the journals of runs --------------------------------------------------------------------------------------------


def read_status(folder: Path, run: Run | str) -> Status:
    """How far a run is; waiting where it was never begun. Raises ArtifactError for a journal that cannot be read."""
    name = run if isinstance(run, str) else run.name
    path = folder / "runs" / f"{name}.json"
    if not path.is_file():
        return Status()
    try:
        return Status(**artifacts.read_json(path))
    except TypeError as error:
        raise artifacts.ArtifactError(
            f"{path} is no journal of a run ({error}); delete it: the run is looked at anew"
        ) from None


def write_status(folder: Path, run: Run | str, status: Status) -> None:
    """Write a run's journal, with the time."""
    name = run if isinstance(run, str) else run.name
    artifacts.write_json(folder / "runs" / f"{name}.json", asdict(status) | {"at": time.time()})


def statuses(folder: Path, runs: Sequence[Run]) -> Iterator[tuple[Run, Status]]:
    """How far every run is."""
    for run in runs:
        yield run, read_status(folder, run)


def stored_runs(folder: Path) -> tuple[Sweep, list[Run]]:
    """The sweep that lies in a folder, without its file, and all its runs. Raises ArtifactError where there is none."""
    stored = read_sweep(folder)
    try:
        sweep = sweep_from_stored(stored["sweep"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, f"what is asked for is no sweep: {type(error).__name__}: {error}") from None
    return sweep, runs_of(sweep, _stored_cells(folder, stored, sweep))
