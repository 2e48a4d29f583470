"""Several processes that train as one, started by `torchrun`; alone, a process is rank 0 of 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cadmus.runtime.devices import resolve_device


def rank() -> int:
    """The number of this process among those that train together: 0 ... world() - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def processes(device: str = "auto") -> Iterator[str]:
    """Within the context, the processes that `torchrun` started train together; yields this one's device.

    device: cpu, cuda, mps, or auto, which is cuda where there is one. Raises ValueError for one not there.
    """
    kind = resolve_device(device)
    if not dist.is_torchelastic_launched():
        yield kind
        return
    kind = kind.split(":")[0]
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        local = f"cuda:{dist.get_node_local_rank()}" if kind == "cuda" else kind
        if kind == "cuda":
            torch.cuda.set_device(local)
        yield local
        dist.barrier()  # a process that is gone early takes the others' connections with it
    finally:
        dist.destroy_process_group()


def check_agreement(step: int) -> None:
    """Raise ValueError unless all processes go on from the same step."""
    if world() == 1:
        return
    steps: list[int] = [0] * world()
    dist.all_gather_object(steps, step)
    if len(set(steps)) > 1:
        raise ValueError(f"the processes go on from different steps {steps}: they must share the folder of the run")


def broadcast(value: Any) -> Any:
    """The first process's value, in all of them: each looks at its own machine, but all must go on alike."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def sum_gradients(gradients: list[Tensor], loss: Tensor) -> Tensor:
    """Sum the gradients over all processes, in place, in one message; returns the sum of the losses (0-dimensional)."""
    if world() == 1:
        return loss
    message = torch.cat([gradient.flatten() for gradient in gradients] + [loss[None]])
    dist.all_reduce(message)
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, total in zip(gradients, message[:-1].split(sizes), strict=True):
        gradient.copy_(total.view_as(gradient))
    return message[-1]
