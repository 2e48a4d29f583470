"""Work on all cores at once, each with one thread for its algebra."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from joblib import cpu_count
from threadpoolctl import threadpool_limits


def on_threads(
    work: Callable[..., Any], arguments: Sequence[tuple], progress: Callable[[float], None] = lambda share: None
) -> list[Any]:
    """`work` of each tuple of arguments, `progress` being told of the share that is done.

    Matrices as small as those of probes lose by being shared, and threads that wait for each other on a busy machine
    stand still. Where one fails, those that run are waited for and the others left out: a process that ends while
    threads are at work is aborted.
    """
    done, before = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(cpu_count()) as pool:
            futures = [pool.submit(work, *one) for one in arguments]
            try:
                for future in futures:
                    done.append(future.result())
                    progress(len(done) / len(arguments))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # leaving the context waits
                raise
    finally:
        torch.set_num_threads(before)
    return done
