"""The gradient of a batch: cut into parts that fit into memory, spread over the cores of a CPU and over processes.

Programs lie one after another, so that next to nothing is padding; the gradient is that of the whole batch, however
it is cut. On a GPU torch compiles the blocks, which fuses what lies between their products.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from cadmus.machine import tokens
from cadmus.models.layers import Block
from cadmus.models.model import Model, ThroughBlock
from cadmus.models.packed import Packed, pack
from cadmus.runtime.devices import PRECISIONS
from cadmus.training.distributed import rank, sum_gradients, world

# Tokens of a batch that go through the model together: more take memory (on a CPU 80 kB a token at 6 layers of width
# 128) and leave the caches, fewer pay more often for what a pass costs whatever its size.
_PART_TOKENS = {"cpu": 6144}
PART_TOKENS_GPU = 131_072
_MIN_TOKENS = 1024  # in a part, or a core does without: of smaller ones a step takes up to three times as long
_MULTIPLE = 256  # that the tokens of a part are filled up to


@cache
def through_block(device_type: str, dynamic: bool = True) -> ThroughBlock:
    """How packed programs go through a block: on a GPU compiled, once for all blocks (half a minute at the first step),
    where triton is there to do it; `dynamic` for any number of tokens."""
    if device_type != "cuda" or importlib.util.find_spec("triton") is None:
        return Block.on_packed
    return torch.compile(Block.on_packed, dynamic=dynamic)


def accumulate_gradient(model: Model, programs: np.ndarray, precision: str) -> tuple[Tensor, int]:
    """Compute the gradient of a batch's mean loss, over all processes, into the parameters' `grad`.

    programs uint8 [n, width], of all processes; each takes its share. Returns the loss (nats, mean over the tokens that
    count; 0-dimensional, so that nothing waits for a GPU) and the number of those tokens.
    """
    model.check_unhooked()  # hooks belong to this thread, parts run on others
    through = through_block(model.device.type)
    lengths = tokens.lengths(programs) + 1
    n_tokens = int(lengths.sum())  # of all processes
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def part_gradient(part: np.ndarray) -> list[Tensor]:
        """The part's share of the loss, and its gradient by each parameter."""
        packed = pack(part, model.device, _MULTIPLE)
        return loss_and_gradients(model, packed, n_tokens, parameters, through, precision)

    own_programs = programs[np.argsort(lengths, kind="stable")][rank() :: world()]
    loss, *gradients = _sum_over_parts(part_gradient, _cut(own_programs, model.device), model.device)
    loss = sum_gradients(gradients, loss)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return loss, n_tokens


def loss_and_gradients(
    model: Model,
    packed: Packed,
    n_tokens: int | Tensor,
    parameters: list[Parameter],
    through: ThroughBlock,
    precision: str,
) -> list[Tensor]:
    """The share of packed programs in the mean loss over n_tokens tokens, and its gradient by each parameter."""
    device_type, dtype = model.device.type, PRECISIONS[precision]
    # weights are cast once for each use: a copy that is kept would not follow them where the pass is recorded
    with torch.autocast(device_type, dtype, enabled=precision != "fp32", cache_enabled=device_type != "cuda"):
        logits = model.packed_logits(packed, through)  # [tokens, d_vocab]
    loss = F.cross_entropy(logits.float(), packed.targets, reduction="sum") / n_tokens
    return [loss.detach(), *torch.autograd.grad(loss, parameters)]


def _cut(programs: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """Cut programs, shortest first, into parts of about as many tokens each, with programs of all lengths.

    The parts are as few as `_PART_TOKENS` allows; on a CPU there are as many for each core, as long as they are worth a
    core's while.
    """
    n_tokens = int((tokens.lengths(programs) + 1).sum())
    n_parts = -(-n_tokens // _PART_TOKENS.get(device.type, PART_TOKENS_GPU))
    if device.type == "cpu":
        cores = max(1, min(torch.get_num_threads(), n_tokens // _MIN_TOKENS))
        n_parts = cores * -(-n_parts // cores)
    return [part for k in range(n_parts) if len(part := programs[k::n_parts])]


def _sum_over_parts(
    work: Callable[[np.ndarray], list[Tensor]], parts: list[np.ndarray], device: torch.device
) -> list[Tensor]:
    """The sums of the tensors that `work` returns for each part, added in the order of the parts.

    On a CPU each core takes parts of its own (on two cores 1.25 times as fast, for models as small as ours, as if both
    shared each product), and a product has one thread meanwhile; a single part has them all.
    """
    cores = torch.get_num_threads() if device.type == "cpu" and len(parts) > 1 else 1
    if cores > 1:
        torch.set_num_threads(1)
    try:
        results: Iterator[list[Tensor]] = map(work, parts) if cores == 1 else _pool(cores).map(work, parts)
        sums = next(results)
        for tensors in results:
            torch._foreach_add_(sums, tensors)
    finally:
        if cores > 1:
            torch.set_num_threads(cores)
    return sums


@cache
def _pool(cores: int) -> ThreadPoolExecutor:
    """Threads that stay: to start them anew in each step, as `runtime.threads.on_threads` does, takes a sixth of it."""
    return ThreadPoolExecutor(cores, "train")
