"""The engine `ray`: runs as tasks of a Ray cluster, one CPU each and, on GPUs, one GPU each.

The sweep's folder must lie where all machines see it under the same path. A worker that dies is tried again once, by
Ray; a cluster that goes away ends the sweep with an error, and what was finished stays: the same command goes on.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from analyses.sweeps.runs import Outcome, Task, work

_RETRIES = 1  # of a run whose worker died
_CONNECTION_TIMEOUT = 10.0  # seconds until an address counts as dead
_POLL = 5.0  # seconds after which the cluster is looked at, while nothing ends


class ClusterGone(OSError):
    """The cluster does not answer any more."""


def check_installed() -> None:
    """Raise ValueError where Ray is not installed."""
    if find_spec("ray") is None:
        raise ValueError("--engine ray needs Ray, which is not installed: pip install 'cadmus-probe[ray]'")


def on_cluster(tasks: Sequence[Task], jobs: int, address: str) -> Iterator[Outcome]:
    """Work on tasks on a cluster; address: of a running one (empty: the one that RAY_ADDRESS names, else one that is
    started on this machine and ends with the sweep); jobs: at once, 0: as many as there are CPUs.

    Raises ClusterGone, an OSError, where the cluster cannot be reached or goes away.
    """
    import ray

    mine = not ray.is_initialized()
    if mine:
        _check_reachable(address or os.environ.get("RAY_ADDRESS", ""))
        try:
            ray.init(address=address or None, log_to_driver=False, **({} if address else _local_options(jobs)))
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _absent(address or os.environ.get("RAY_ADDRESS") or "this machine", error) from None
    try:
        yield from _collect(ray, tasks, jobs, address)
    finally:
        if mine:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise ClusterGone where nothing answers at HOST:PORT: Ray itself would try for minutes."""
    try:
        _connect(address)
    except OSError as error:
        raise _absent(address, error) from None


def _connect(address: str) -> None:
    """Raise OSError where nothing answers at HOST:PORT; an address of another form is not tried."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_CONNECTION_TIMEOUT).close()


def _absent(address: str, why: Exception) -> ClusterGone:
    return ClusterGone(f"no Ray cluster at {address}: {why}; start one: ray start --head")


def _local_options(jobs: int) -> dict[str, Any]:
    """What a cluster of this machine alone is started with."""
    return {"include_dashboard": False} | ({} if os.environ.get("RAY_ADDRESS") or not jobs else {"num_cpus": jobs})


def _collect(ray: Any, tasks: Sequence[Task], jobs: int, address: str) -> Iterator[Outcome]:
    on_gpu = tasks[0].device.startswith("cuda")
    remote = ray.remote(num_cpus=1, num_gpus=1 if on_gpu else 0, max_retries=_RETRIES)(work)
    given = address or os.environ.get("RAY_ADDRESS", "")
    head = given if given.startswith("ray://") else ray.get_runtime_context().gcs_address  # a client sees no other
    waiting = list(tasks)
    pending: dict[Any, Task] = {}
    limit = jobs or len(waiting)
    try:
        while waiting or pending:
            while waiting and len(pending) < limit:
                task = waiting.pop(0)
                task = replace(task, device="cuda") if on_gpu else task  # Ray shows a worker its own GPU alone
                pending[remote.remote(task)] = task
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=_POLL)
            if not ready:
                _check_alive(ray, head)
            for reference in ready:
                yield _outcome(ray, reference, pending.pop(reference))
    except ray.exceptions.RaySystemError as error:
        raise _gone(error) from None


def _outcome(ray: Any, reference: Any, task: Task) -> Outcome:
    try:
        return ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        return Outcome(task.run.name, f"its worker died twice (out of memory?) ({type(error).__name__})")
    except ray.exceptions.RayTaskError:  # an error of `work` itself
        raise
    except ray.exceptions.RayError as error:  # its machine died, its raylet, the whole cluster
        raise _gone(error) from None


def _check_alive(ray: Any, head: str) -> None:
    """Raise ClusterGone where the cluster's head does not answer, which Ray itself asks for a minute and then ends this
    process; or where no machine of the cluster is alive."""
    for last in (False, True):
        try:
            _connect(head)
            break
        except OSError as error:
            if last:
                raise _gone(f"nothing answers at {head}: {error}") from None
            time.sleep(_POLL)
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]
    except Exception as error:
        raise _gone(error) from None
    if not alive:
        raise _gone("no machine of it is alive")


def _gone(why: object) -> ClusterGone:
    text = " ".join(str(why).split())[:200]
    return ClusterGone(
        f"the Ray cluster went away ({text}); what was finished is kept: start the cluster and run the command again"
    )
