"""Worker processes, one thread each, that start afresh and end with the process that wants them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

import numba

UNGUARDED = (
    "workers import the script that starts them, and this one would start its work again: put its work under "
    '`if __name__ == "__main__":`, or use no workers'
)
"""The cause of death of a worker that ran the work of the script that started it."""

_UNGUARDED_STATUS = 86


class WorkerPool(ProcessPoolExecutor):
    """Processes that start afresh ("spawn"), so that nothing of this one is copied into them.

    Each first imports the script that runs: one that asks for workers has its own work under
    `if __name__ == "__main__":`.
    """

    def __init__(self, workers: int) -> None:
        check_guard()
        super().__init__(workers, multiprocessing.get_context("spawn"), _start_worker)
        # Start all at the first submit: a pool that starts one while another dies may wait for it for ever.
        self._safe_to_dynamically_spawn_children = False  # of CPython, private

    def cause_of_death(self) -> str:
        """Why workers may have died, and what to do: to be asked before a broken pool is shut down."""
        processes = list((self._processes or {}).values())
        for process in processes:
            process.join(5)  # the first has died, the pool ends the others
        statuses = [process.exitcode for process in processes]
        if _UNGUARDED_STATUS in statuses:
            return UNGUARDED
        return "is there enough memory? Use fewer workers"


def check_guard() -> None:
    """End this process at once where it is a worker that still imports the script which wants workers."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(_UNGUARDED_STATUS)


def _start_worker() -> None:
    numba.config.NUMBA_NUM_THREADS = 1  # type: ignore[attr-defined]  # numba sets its options at run time
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the parent does, even where it was killed: a worker that waits for work would never notice."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    os._exit(1)
