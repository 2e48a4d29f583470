"""A training step on one GPU as a CUDA graph: hundreds of small kernels, launched in one call.

At our sizes a kernel takes microseconds, as long as it takes to launch one from Python. A graph records a step once,
gradient, clipping and optimizers, and replays it on other programs. What it reads lies at fixed addresses and has fixed
shapes: every batch is laid out in one array of as many tokens as the largest is expected to have. The mathematics is
that of `gradient.accumulate_gradient` and of the optimizers; a step is not waited for, so the programs of the next ones
are drawn and laid out meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cadmus.machine import tokens
from cadmus.models.model import Model
from cadmus.models.packed import IGNORED, Packed, check_ends, has_flash, import_flash, lay_out
from cadmus.runtime.devices import PRECISIONS
from cadmus.training.gradient import PART_TOKENS_GPU, loss_and_gradients, through_block

_WARMUP = 3  # steps before one is recorded: kernels are compiled in them, and optimizers make their state
_SPARE = 1.1  # room for batches of so many times the tokens of the first
_MULTIPLE = 1024  # that the room is rounded up to, tokens
_AHEAD = 4  # batches that may wait for the GPU


@dataclass(frozen=True)
class Room:
    """The fixed shape of a batch: an array int32 [size] of inputs, targets, positions, where programs begin, and how
    many tokens count."""

    n_programs: int
    """Programs of a batch."""

    n_tokens: int
    """Tokens at most; what a batch leaves empty is filled with rows of the marker, whose targets are IGNORED."""

    longest: int
    """Tokens of a program at most, its marker counted and its `.` not."""

    @property
    def n_sequences(self) -> int:
        """Programs, and the rows that fill up what the shortest batch leaves empty."""
        return self.n_programs + -(-self.n_tokens // self.longest)

    @property
    def size(self) -> int:
        """Numbers of the array."""
        return 3 * self.n_tokens + self.n_sequences + 2

    def fill(self, programs: np.ndarray, batch: np.ndarray) -> bool:
        """Lay programs uint8 [n_programs, width] out in `batch`, int32 [size]; False where they have no room.

        Raises ValueError for a program without its `.`.
        """
        lengths = tokens.lengths(programs) + 1
        check_ends(programs, lengths)
        n_tokens = int(lengths.sum())
        if n_tokens > self.n_tokens or len(programs) != self.n_programs or lengths.max() > self.longest:
            return False
        inputs, targets, positions = batch[: 3 * self.n_tokens].reshape(3, self.n_tokens)
        starts = batch[3 * self.n_tokens : -1]
        starts[: self.n_programs + 1] = np.append(0, np.cumsum(lengths))
        fillers = n_tokens + self.longest * np.arange(1, self.n_sequences - self.n_programs + 1)
        starts[self.n_programs + 1 :] = np.minimum(fillers, self.n_tokens)
        lay_out(programs, lengths, inputs, targets, positions)
        inputs[n_tokens:] = tokens.PAD
        targets[n_tokens:] = IGNORED
        positions[n_tokens:] = 0
        batch[-1] = n_tokens
        return True

    def packed(self, batch: Tensor) -> tuple[Packed, Tensor]:
        """What `fill` wrote, as a model reads it, and the number of tokens that count."""
        inputs, targets, positions = batch[: 3 * self.n_tokens].view(3, self.n_tokens).long()
        offsets = batch[3 * self.n_tokens : -1]
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

    clip: the greatest norm of the gradient; precision: of products; longest: the tokens of a program at most. Nothing
    else may hold a graph of autograd through the model's parameters meanwhile (a clone of one that is not detached,
    say): CUDA cannot record a step beside it.
    """

    def __init__(
        self, model: Model, optimizers: list[torch.optim.Optimizer], precision: str, clip: float, longest: int
    ):
        self.model = model
        self.optimizers = optimizers
        self.precision = precision
        self.clip = clip
        self.longest = longest
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._rates = [
            torch.zeros((), device=model.device) for optimizer in optimizers for group in optimizer.param_groups
        ]
        self._results = torch.zeros(2, device=model.device)
        self._room: Room | None = None  # of the largest batch so far
        self._steps = 0  # in that room

    def step(self, programs: np.ndarray, rate: float) -> tuple[Tensor, int] | None:
        """Take a step -> (loss and norm of the gradient [2], on the GPU; the number of tokens that count).

        A batch that is larger than those before has a step of its size recorded. None, and nothing is stepped, where it
        is too large for one pass. ValueError while a hook is set.
        """
        self.model.check_unhooked()
        n_tokens = int((tokens.lengths(programs) + 1).sum())
        if n_tokens > PART_TOKENS_GPU:
            return None
        with torch.cuda.device(self.model.device):
            if self._room is None or n_tokens > self._room.n_tokens:
                self._make_room(len(programs), n_tokens)
            self._lay_out(programs)
            self._set_rate(rate)
            self._run()
            return self._results.clone(), n_tokens

    def _make_room(self, n_programs: int, n_tokens: int) -> None:
        """Forget what was recorded, and be ready for batches of so many programs and somewhat more tokens."""
        device = self.model.device
        self._room = Room(n_programs, -(-int(_SPARE * n_tokens) // _MULTIPLE) * _MULTIPLE, self.longest)
        self._steps = 0
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream(device)
        self._batch = torch.zeros(self._room.size, dtype=torch.int32, device=device)
        self._waiting = [torch.zeros(self._room.size, dtype=torch.int32).pin_memory() for _ in range(_AHEAD)]
        self._copied = [torch.cuda.Event() for _ in range(_AHEAD)]

    def _lay_out(self, programs: np.ndarray) -> None:
        """Put the batch where the step reads it."""
        place = self._steps % _AHEAD
        self._copied[place].synchronize()  # or the copy of `_AHEAD` steps ago would read this batch
        waiting = self._waiting[place]
        assert self._room is not None, "it was made"
        if not self._room.fill(programs, waiting.numpy()):
            raise ValueError(
                f"{len(programs)} programs of at most {tokens.lengths(programs).max()} tokens came; expected "
                f"{self._room.n_programs} of less than {self.longest}"
            )
        self._batch.copy_(waiting, non_blocking=True)
        self._copied[place].record()

    def _set_rate(self, rate: float) -> None:
        """Make it the rate of all optimizers: numbers on the GPU, or the recorded ones would stay."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, own_rate in zip(groups, self._rates, strict=True):
            own_rate.fill_(rate)
            group["lr"] = own_rate

    def _run(self) -> None:
        """Take the step: the first few launch by launch, on a stream of their own as recording needs it."""
        self._steps += 1
        if self._steps <= _WARMUP:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._take()
            torch.cuda.current_stream().wait_stream(self._stream)
            return
        if self._steps == _WARMUP + 1:
            with torch.cuda.graph(self._graph):
                self._take()
        self._graph.replay()  # recording ran nothing

    def _take(self) -> None:
        """Gradient, clipping and optimizers, on what lies in the batch."""
        assert self._room is not None, "it was made"
        packed, n_tokens = self._room.packed(self._batch)
        through = through_block(self.model.device.type, dynamic=False)
        loss, *gradients = loss_and_gradients(self.model, packed, n_tokens, self._parameters, through, self.precision)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self._results.copy_(torch.stack((loss, norm)))
