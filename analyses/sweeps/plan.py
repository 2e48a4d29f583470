"""What a sweep will take, before anything starts: cells, hours and bytes, from what this machine does right now.

A few steps of the base recipe's training are timed on one thread, with a corpus of their own. Where runs of the sweep
are done, their seconds count instead.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyses.sweeps.cells import Cell, Run, runs_of
from analyses.sweeps.folder import DONE, Status
from analyses.sweeps.sweep import Sweep
from cadmus.corpora.build import build
from cadmus.models.model import Model
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training.loop import train

_STEPS = 12  # that are timed, the first third left out
_SAMPLE = 4000  # programs of the corpus that is timed
OVERHEAD = 0.2
"""What everything but training takes of a run, as a share of its training, where no run has told yet."""

_RESULT_BYTES = 400_000  # of the results of one run: JSON with the tables of probes and mechanisms
_TRAINING_LOG_BYTES = 200  # of a row of the record


@dataclass(frozen=True)
class Plan:
    """What a sweep will take."""

    cells: int
    """Combinations of levels."""

    runs: int
    """Models."""

    remaining: int
    """Those that are not done."""

    parameters: int
    """Parameters of the largest model."""

    seconds_per_run: float
    """Wall-clock seconds of one run on one core (or GPU)."""

    measured_runs: int
    """How many runs that rests on; 0: on a few steps of training, plus a fifth for all else."""

    jobs: int
    """Runs at once."""

    bytes: int
    """Of the finished sweep, on disk."""

    peak_bytes: int
    """While runs are at work, each with its corpus."""

    @property
    def hours(self) -> float:
        """Hours until all is done."""
        return self.remaining * self.seconds_per_run / min(self.jobs, max(1, self.remaining)) / 3600


def plan_of(
    sweep: Sweep,
    cells: Sequence[Cell],
    known: Sequence[tuple[Run, Status]] = (),
    *,
    jobs: int,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> Plan:
    """What the sweep will take. known: how far its runs are, if it has begun."""
    runs = runs_of(sweep, cells)
    done = [status for _, status in known if status.state == DONE and "model" in status.seconds]
    if done:
        seconds = float(np.mean([sum(status.seconds.values()) for status in done]))
    else:
        seconds = float(np.mean([_training_seconds(cell, device, progress) for cell in _extremes(cells)])) * (
            1 + OVERHEAD
        )
    parameters = [_parameters(cell) for cell in cells]
    of_run = max(4 * n + _log_bytes(cell) for n, cell in zip(parameters, cells)) + _RESULT_BYTES
    corpus = max(cell.recipe.size * cell.recipe.mixture.width for cell in cells)
    at_work = min(jobs, len(runs)) * (corpus + 12 * max(parameters))  # a state has weights and two moments
    return Plan(
        cells=len(cells),
        runs=len(runs),
        remaining=len(runs) - len([status for _, status in known if status.state == DONE]),
        parameters=max(parameters),
        seconds_per_run=seconds,
        measured_runs=len(done),
        jobs=jobs,
        bytes=len(runs) * of_run,
        peak_bytes=len(runs) * of_run + at_work,
    )


def _extremes(cells: Sequence[Cell]) -> list[Cell]:
    """The first and the last cell: the lowest and the highest levels."""
    return [cells[0]] if len(cells) == 1 else [cells[0], cells[-1]]


def _parameters(cell: Cell) -> int:
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Model(cell.recipe.cfg).parameters())


def _log_bytes(cell: Cell) -> int:
    return cell.recipe.train.steps // cell.recipe.train.log_every * _TRAINING_LOG_BYTES


def _training_seconds(cell: Cell, device: str, progress: Progress) -> float:
    """Seconds that training takes on one thread, as a few steps tell, and drawing the corpus."""
    import torch

    recipe = cell.recipe
    progress("time a few steps", 0.0, cell.label)
    size = min(recipe.size, max(_SAMPLE, recipe.train.batch_size))
    begin = time.perf_counter()
    corpus = build(recipe.mixture, size, 0)
    drawing = (time.perf_counter() - begin) * recipe.size / size
    ends: list[float] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = replace(recipe.train, steps=_STEPS, warmup_steps=1, evaluate_every=0, snapshots=0, average_steps=0)
        model = Model(recipe.cfg, seed=0).to(device)
        train(model, corpus, config, on_step=lambda now: ends.append(time.perf_counter()))
    finally:
        torch.set_num_threads(threads)
    progress("time a few steps", 1.0, "")
    steps = np.diff(ends)[_STEPS // 3 :]
    return float(np.median(steps)) * recipe.train.steps + drawing
