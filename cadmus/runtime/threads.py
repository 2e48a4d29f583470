"""Work on all cores at once, each with one thread for its algebra."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from joblib import cpu_count
from threadpoolctl import threadpool_limits

from cadmus.runtime.progress import Progress, no_progress

T = TypeVar("T")
_SWITCH_SECONDS = 1e-4
"""After which a thread that interprets Python lets others go on. With Python's own 5 ms a thread of small products
waits that long behind each of them while another interprets: on two cores it did a tenth of its work."""


def on_threads(
    work: Callable[..., T], arguments: Sequence[tuple], stage: str = "", progress: Progress = no_progress
) -> list[T]:
    """Call `work` with each tuple of arguments, on all cores, and return the results in order.

    `progress(stage, fraction, note)` is called after each. Matrices as small as those of probes lose by being shared,
    and threads that wait for each other on a busy machine stand still. Where one call fails, those that run are waited
    for and the others are not begun: a process that ends while threads are at work is aborted.
    """
    results: list[T] = []
    torch_threads, switch_seconds = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(1)
    sys.setswitchinterval(min(_SWITCH_SECONDS, switch_seconds))
    try:
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(cpu_count()) as pool:
            futures = [pool.submit(work, *call) for call in arguments]
            try:
                for future in futures:
                    results.append(future.result())
                    progress(stage, len(results) / len(arguments), "")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # leaving the context waits
                raise
    finally:
        torch.set_num_threads(torch_threads)
        sys.setswitchinterval(switch_seconds)
    return results
