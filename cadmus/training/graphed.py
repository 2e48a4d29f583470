"""A training step on one GPU as a CUDA graph: hundreds of small kernels, launched in one call.

At our sizes a kernel takes microseconds, as long as it takes to launch one from Python. A graph records a step once,
gradient, clipping and optimizers, and replays it on other programs. What it reads lies at fixed addresses and has fixed
shapes: every batch is laid out in one array of as many tokens as the largest is expected to have. The mathematics is
that of `gradient.accumulate_gradient` and of the optimizers; nothing is waited for, so the programs of the next steps
are drawn and laid out meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cadmus.machine import tokens
from cadmus.models.model import Model
from cadmus.models.packed import IGNORED, Packed, has_flash, import_flash, lay_out
from cadmus.runtime.devices import PRECISIONS
from cadmus.training.gradient import through_block

_WARMUP = 3  # steps before one is recorded: kernels are compiled in them, and optimizers make their state
_SPARE = 1.1  # room for batches of so many times the tokens of the first
_MULTIPLE = 1024  # that the room is rounded up to, tokens
_AHEAD = 4  # batches that may wait for the GPU


@dataclass(frozen=True)
class Room:
    """The fixed shape of a batch: an array int32 [size] of inputs, targets, positions, where programs begin, and how
    many tokens count."""

    programs: int
    """Programs of a batch."""

    tokens: int
    """Tokens at most; what a batch leaves empty is filled with rows of the marker, whose targets are IGNORED."""

    longest: int
    """Tokens of a program at most, its marker counted and its `.` not."""

    @property
    def sequences(self) -> int:
        """Programs, and the rows that fill up what the shortest batch leaves empty."""
        return self.programs + -(-self.tokens // self.longest)

    @property
    def size(self) -> int:
        """Numbers of the array."""
        return 3 * self.tokens + self.sequences + 2

    def fill(self, programs: np.ndarray, batch: np.ndarray) -> bool:
        """Lay programs uint8 [programs, width] out in `batch`, int32 [size]; False where they have no room."""
        lengths = tokens.lengths(programs) + 1
        n_tokens = int(lengths.sum())
        if n_tokens > self.tokens or len(programs) != self.programs or lengths.max() > self.longest:
            return False
        inputs, targets, positions = batch[: 3 * self.tokens].reshape(3, self.tokens)
        starts = batch[3 * self.tokens : -1]
        starts[: self.programs + 1] = np.append(0, np.cumsum(lengths))
        fillers = n_tokens + self.longest * np.arange(1, self.sequences - self.programs + 1)
        starts[self.programs + 1 :] = np.minimum(fillers, self.tokens)
        lay_out(programs, lengths, inputs, targets, positions)
        inputs[n_tokens:] = tokens.PAD
        targets[n_tokens:] = IGNORED
        positions[n_tokens:] = 0
        batch[-1] = n_tokens
        return True

    def packed(self, batch: Tensor) -> tuple[Packed, Tensor]:
        """What `fill` wrote, as a model reads it, and the number of tokens that count."""
        inputs, targets, positions = batch[: 3 * self.tokens].view(3, self.tokens).long()
        offsets = batch[3 * self.tokens : -1]
        starts = offsets.cpu().numpy().astype(np.int64) if batch.device.type == "cpu" else np.empty(0, np.int64)
        return Packed(inputs, targets, positions, starts, offsets, self.longest), batch[-1]


def can_record(device: torch.device, precision: str) -> bool:
    """Whether steps on this device can be recorded: on a GPU in half precision, with PyTorch 2.10 or later."""
    if device.type != "cuda":
        return False
    import_flash()
    return has_flash(PRECISIONS[precision])


class GraphedStep:
    """Steps of `model` by `optimizers` on one GPU. These must have been made for it (`optimizers.make_optimizers`).

    clip: the greatest norm of the gradient; precision: of products; programs: a batch, for the shape of all.
    """

    def __init__(
        self,
        model: Model,
        optimizers: list[torch.optim.Optimizer],
        precision: str,
        clip: float,
        programs: np.ndarray,
    ):
        self.model = model
        self.optimizers = optimizers
        self.precision = precision
        self.clip = clip
        n_tokens = int((tokens.lengths(programs) + 1).sum())
        room_tokens = -(-int(_SPARE * n_tokens) // _MULTIPLE) * _MULTIPLE
        self.room = Room(len(programs), room_tokens, programs.shape[1])
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._through = through_block(model.device.type, dynamic=False)
        self._batch = torch.zeros(self.room.size, dtype=torch.int32, device=model.device)
        self._waiting = [torch.zeros(self.room.size, dtype=torch.int32).pin_memory() for _ in range(_AHEAD)]
        self._copied: list[torch.cuda.Event] = [torch.cuda.Event() for _ in range(_AHEAD)]
        self._rates = [
            torch.zeros((), device=model.device) for optimizer in optimizers for group in optimizer.param_groups
        ]
        self._results = torch.zeros(2, device=model.device)
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream(model.device)

    def step(self, programs: np.ndarray, rate: float) -> tuple[Tensor, int] | None:
        """Take a step -> (loss and norm of the gradient [2], on the GPU; the number of tokens that count).

        None where the batch has no room: nothing is stepped then.
        """
        place = self._steps % _AHEAD
        self._copied[place].synchronize()  # or the copy of four steps ago would read this batch
        waiting = self._waiting[place]
        if not self.room.fill(programs, waiting.numpy()):
            return None
        self._batch.copy_(waiting, non_blocking=True)
        self._copied[place].record()
        self._set_rate(rate)
        self._steps += 1
        if self._graph is not None:
            self._graph.replay()
        elif self._steps <= _WARMUP:
            self._on_own_stream()
        else:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._step()
            self._graph.replay()  # recording runs nothing
        return self._results.clone(), int(waiting[-1])

    def _set_rate(self, rate: float) -> None:
        """Make it the rate of all optimizers: numbers on the GPU, or the recorded ones would stay."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, own_rate in zip(groups, self._rates, strict=True):
            own_rate.fill_(rate)
            group["lr"] = own_rate

    def _on_own_stream(self) -> None:
        """Take a step on another stream than the default one, as what is recorded later needs it."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._step()
        torch.cuda.current_stream().wait_stream(self._stream)

    def _step(self) -> None:
        """Gradient, clipping and optimizers, on what lies in the batch."""
        packed, n_tokens = self.room.packed(self._batch)
        dtype = PRECISIONS[self.precision]
        with torch.autocast("cuda", dtype, enabled=self.precision != "fp32", cache_enabled=False):
            logits = self.model.packed_logits(packed, self._through)  # [tokens, d_vocab]
        loss = F.cross_entropy(logits.float(), packed.targets, reduction="sum") / n_tokens
        gradients = torch.autograd.grad(loss, self._parameters)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self._results.copy_(torch.stack((loss.detach(), norm)))
