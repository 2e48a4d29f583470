"""Engines: where the runs of a sweep are worked on. `local`: joblib's processes on this machine; `ray`: a cluster.

An engine is given tasks and yields what became of them, in whatever order they end. Where a worker dies, the runs that
were at work are begun again one by one; one whose worker dies then too is recorded as failed, and the others go on.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from analyses.sweeps.folder import RUNNING, read_status
from analyses.sweeps.runs import DIED, Outcome, Task, work
from cadmus.runtime import devices

ENGINES = ("local", "ray")
Engine = Callable[[Sequence[Task]], Iterator[Outcome]]
"""Works on tasks and yields what became of each."""


def engine_of(name: str, jobs: int = 0, address: str = "") -> Engine:
    """The engine of that name. jobs: runs at once, 0: one per core (per GPU, where that is the device); address: of a
    Ray cluster. Raises ValueError for an unknown engine, and where Ray is not installed."""
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; there are {', '.join(ENGINES)}")
    if name == "local" and address:
        raise ValueError("--address is of a Ray cluster; add --engine ray")
    if name == "local":
        return lambda tasks: _on_processes(tasks, jobs)
    from analyses.sweeps.cluster import check_installed, on_cluster

    check_installed()
    return lambda tasks: on_cluster(tasks, jobs, address)


def n_jobs(device: str, jobs: int = 0) -> int:
    """How many runs go on at once on this machine: as many as asked for, else one per core, or per GPU."""
    if jobs:
        return jobs
    return max(1, _n_gpus()) if device.startswith("cuda") else cpu_count()


def _n_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def placed(device: str, number: int) -> str:
    """The device of the run of that number, where `cuda` stands for all GPUs in turn."""
    if device == "cuda" and _n_gpus() > 1:
        return f"cuda:{number % _n_gpus()}"
    return device


def place_of(device: str) -> str:
    """The device that is meant; small models are trained fastest one per core, so auto is the CPU."""
    return "cpu" if device == "auto" else device


def check_device(device: str, engine: str) -> None:
    """Raise ValueError for a device that there is none of: on this machine or, where the engine is a cluster, anywhere;
    whether a cluster has it, its machines say."""
    if engine == "local":
        devices.resolve_device(place_of(device))
    elif device.split(":")[0] not in devices.KINDS:
        raise ValueError(f"unknown device {device!r}; there are {', '.join(devices.KINDS)}")


def _on_processes(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """Work on tasks in processes of one thread each, which end with this one. Raises ValueError for a device that this
    machine lacks."""
    for device in {task.device for task in tasks}:
        devices.resolve_device(device)
    waiting = [replace(task, device=placed(task.device, number)) for number, task in enumerate(tasks)]
    at_once = n_jobs(tasks[0].device, jobs) if tasks else 0
    while waiting:
        ended: set[str] = set()
        try:
            for outcome in _pool(waiting, at_once):
                ended.add(outcome.run)
                yield outcome
            return
        except TerminatedWorkerError:
            waiting = [task for task in waiting if task.run.name not in ended]
            begun = [task for task in waiting if read_status(task.folder, task.run).state == RUNNING]
            suspects = begun or waiting[:at_once]  # a worker may die before its run has a journal
            for task in suspects:
                yield from _alone(task)
            waiting = [task for task in waiting if task not in suspects]


def _pool(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """Work on tasks, so many at once; TerminatedWorkerError where a worker dies, which ends the others too."""
    # A worker whose memory has grown since its first run ends between two runs, and another takes its place.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor", UserWarning)
    at_least_two = max(2, jobs)  # or joblib would work in this process; only as many as are dispatched are at work
    try:
        with parallel_config("loky", n_jobs=at_least_two, inner_max_num_threads=1):
            pool = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=jobs)
            yield from pool(delayed(work)(task, os.getpid()) for task in tasks)
    except BaseException:
        get_reusable_executor().shutdown(wait=True, kill_workers=True)
        raise


def _alone(task: Task) -> Iterator[Outcome]:
    """Work on a task that may have killed its worker with no other beside it; a failure where it does so again."""
    try:
        yield from _pool([task], 1)
    except TerminatedWorkerError:
        yield Outcome(task.run.name, DIED)
