"""One run of a sweep, in the process that an engine gives it: one thread, its journal, its failure as a result."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
import traceback
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from analyses.sweeps.cells import Run
from analyses.sweeps.folder import DONE, FAILED, RUNNING, SWEEP, Status, read_status, write_status
from analyses.sweeps.stages import Bench, run_stages
from analyses.sweeps.sweep import Sweep

DIED = "its worker died twice, the second time with no other beside it (out of memory?)"
"""Why a run failed whose worker went away each time."""

_INTERVAL = 1.0  # seconds between two lines of a journal, and two looks at the parent


@dataclass(frozen=True)
class Task:
    """A run as a worker gets it."""

    sweep: Sweep
    """The sweep."""

    run: Run
    """The run."""

    folder: Path
    """The folder of the sweep, as this machine calls it."""

    device: str = "cpu"
    """Where its model is trained and measured."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    run: str
    """Its name."""

    failure: str = ""
    """Why it failed; empty where it is done."""


def work(task: Task, parent: int | None = None) -> Outcome:
    """Make what is missing of a run; what goes wrong is recorded and told, not raised.

    parent: the process with which this one ends, even where that was killed: an orphan would hold folders that the
    resumed sweep needs.
    """
    if parent is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
        _watch(parent)
    if not (task.folder / SWEEP).is_file():
        return Outcome(
            task.run.name,
            f"{platform.node()} does not see the folder {task.folder} of the sweep; put it where all machines do",
        )
    torch.set_num_threads(1)
    with threadpool_limits(1):
        return _work(task)


@cache  # once per worker, however many runs it works on
def _watch(parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_INTERVAL)
    os._exit(1)


def _work(task: Task) -> Outcome:
    journal = _Journal(task)
    bench = Bench(task.sweep, task.run, task.folder, task.device, journal.progress, journal.seconds)
    journal.bench = bench
    try:
        run_stages(bench)
    except (ValueError, OSError) as error:  # what a sweep asks for cannot be had: its words say all
        return journal.fail(str(error))
    except Exception as error:  # a fault of ours, or of the machine, such as too little memory: recorded with its place
        return journal.fail(f"{type(error).__name__}: {error}", traceback.format_exc())
    journal.write(DONE)
    return Outcome(task.run.name)


class _Journal:
    """The journal of a run while it is at work."""

    def __init__(self, task: Task) -> None:
        self.task = task
        earlier = read_status(task.folder, task.run)
        self.status = Status(
            RUNNING, seconds=dict(earlier.seconds), began=earlier.began + 1, host=platform.node(), pid=os.getpid()
        )
        self.seconds: dict[str, float] = self.status.seconds
        self.bench: Bench | None = None
        self.last = 0.0
        self.write(RUNNING)

    def progress(self, stage: str, fraction: float, note: str = "") -> None:
        """Note where the run stands, once a second at most."""
        self.status = replace(self.status, fraction=fraction, note=f"{stage} {note}".strip())
        if time.monotonic() - self.last >= _INTERVAL:
            self.write(RUNNING)

    def fail(self, why: str, where: str = "") -> Outcome:
        """Record that the run failed, why, and where in the program."""
        why = " ".join(why.split()).rstrip(":")
        self.status = replace(self.status, why=why, traceback=where)
        self.write(FAILED)
        return Outcome(self.task.run.name, why)

    def write(self, state: str) -> None:
        """Write the journal, with the stage that is at work."""
        stage, seconds = "", dict(self.seconds)
        if self.bench is not None and self.bench.stage and state != DONE:
            stage = self.bench.stage
            seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - self.bench.began  # so far
        self.status = replace(self.status, state=state, stage=stage, seconds=seconds)
        write_status(self.task.folder, self.task.run, self.status)
        self.last = time.monotonic()
