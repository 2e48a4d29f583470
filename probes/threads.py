"""Work on all cores at once, each with one thread for its algebra."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits


def on_threads(
    work: Callable[..., Any], arguments: Sequence[tuple], progress: Callable[[float], None] = lambda share: None
) -> list[Any]:
    """`work` of each tuple of arguments, `progress` being told of the share that is done.

    Matrices as small as those of probes lose by being shared, and threads that wait for each other on a busy machine
    stand still.
    """
    done, before = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            tasks = (delayed(work)(*one) for one in arguments)
            for result in Parallel(n_jobs=-1, backend="threading", return_as="generator")(tasks):
                done.append(result)
                progress(len(done) / len(arguments))
    finally:
        torch.set_num_threads(before)
    return done
