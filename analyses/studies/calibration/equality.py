"""Hierarchical equality: a task whose hidden variables are known, to calibrate the search for subspaces.

Four objects a, b, c, d; the answer is whether (a = b) is the same as (c = d) (Geiger et al. 2023, arXiv 2303.02536,
section 4). A network of three ReLU layers on random vectors, trained to solve it, holds the two equalities in its
second hidden layer, spread over many neurons: a linear search finds both, single neurons do not, and neither does a
search on a network that is not trained. `construct` makes the same by hand, at once.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadmus.models.hooks import HookRegistry
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from probes.interventions.subspaces.interchanges import Interchanges

VARIABLES = ("left", "right")  # a = b, c = d
SITES = ("hook_layer_1", "hook_layer_2", "hook_layer_3")
OBJECTS = 20_000  # so many that held-out ones are new to every network
D_OBJECT = 8
_LIFT = 20.0  # above anything that the second layer of a network made by hand adds up to


class EqualityNetwork(nn.Module):
    """Tokens [batch, 4] -> logits [batch, 4, 2], the same at each position, of "different" and "the same".

    An object's token stands for a random vector that is not trained. Sites are `SITES`, [batch, 1, width]: activations
    behind each ReLU.
    """

    def __init__(self, width: int = 64, seed: int = 0, d_object: int = D_OBJECT):
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.objects: Tensor
        self.register_buffer("objects", torch.rand(OBJECTS, d_object, generator=draws) - 0.5)
        sizes = [4 * d_object, width, width, width]
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in itertools.pairwise(sizes))
        self.unembed = nn.Linear(width, 2)
        for layer in (*self.layers, self.unembed):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=draws)
            nn.init.zeros_(layer.bias)
        self._sites = HookRegistry(list(SITES), [])

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [batch, 4] -> [batch, 4, 2]."""
        x = self.objects[tokens].flatten(1)[:, None]  # [batch, 1, 4 * d_object]
        for site, layer in zip(SITES, self.layers):
            x = self._sites(site, F.relu(layer(x)))
        return self.unembed(x).expand(-1, tokens.shape[1], -1)

    @contextlib.contextmanager
    def hooks(self, fwd_hooks: Iterable[tuple[str, Any]]) -> Iterator[EqualityNetwork]:
        """As `cadmus.models.model.Model.hooks`."""
        with self._sites.hooks(fwd_hooks):
            yield self


def draw(n: int, seed: int, held_out: bool = False) -> np.ndarray:
    """Objects of n tasks, int64 [n, 4]: each equality holds in half of them, whatever the other does.

    Networks are trained on the first nine tenths of the objects; held-out tasks are of the rest.
    """
    rng = generator("hierarchical equality", seed, int(held_out))
    first = OBJECTS * 9 // 10
    tasks = rng.integers(first, OBJECTS, (n, 4)) if held_out else rng.integers(0, first, (n, 4))
    for left in (0, 2):
        equal = rng.random(n) < 0.5
        tasks[equal, left + 1] = tasks[equal, left]
    return tasks


def equalities(tasks: np.ndarray) -> np.ndarray:
    """Whether a = b and whether c = d: bool [n, 2]."""
    return tasks[:, ::2] == tasks[:, 1::2]


def train(
    seed: int = 0, width: int = 64, steps: int = 2500, batch_size: int = 1024, progress: Progress = no_progress
) -> EqualityNetwork:
    """A network trained to solve the task."""
    network = EqualityNetwork(width, seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        tasks = draw(batch_size, seed=1000 * seed + step)
        same = torch.as_tensor(equalities(tasks).all(1) | ~equalities(tasks).any(1)).long()
        loss = F.cross_entropy(network(torch.as_tensor(tasks))[:, 0], same)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            progress("hierarchical equality", (step + 1) / steps, f"loss {loss.item():.3f}")
    return network.requires_grad_(False).eval()


def construct(width: int = 128, seed: int = 0, d_object: int = 16) -> EqualityNetwork:
    """A network made by hand, right on 99.9 % of tasks, whose second layer holds two distances along random directions.

    Layer 1: |a - b| and |c - d| by halves, and the objects themselves. Layer 2: the two sums and the objects, along an
    orthonormal basis that is drawn, far above 0, so that its ReLU does nothing. Layer 3: how much nearer to 0 than
    usual the first sum is, the second, both together: a soft decision, or a search would have no gradient. Raises
    ValueError for a width below the numbers of 8 objects.
    """
    inputs = 4 * d_object
    if width < 2 * inputs:
        raise ValueError(f"width = {width} must be {2 * inputs} or more")
    network = EqualityNetwork(width, seed, d_object)
    draws = torch.Generator().manual_seed(seed + 1)
    directions = torch.linalg.qr(torch.randn(width, inputs + 2, generator=draws))[0]  # [width, sums and objects]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        first, second, third = (_linear(layer) for layer in network.layers)
        halves = torch.eye(inputs).view(2, 2, d_object, inputs)  # [pair, member, number, input]
        differences = (halves[:, 0] - halves[:, 1]).flatten(0, 1)  # [pair * number, input]
        first.weight[:inputs] = torch.cat([differences, -differences])
        first.weight[inputs : 2 * inputs] = torch.eye(inputs)
        first.bias[inputs : 2 * inputs] = 1.0
        sums = torch.zeros(2, width)
        for pair in (0, 1):
            for sign in (0, 1):
                start = sign * 2 * d_object + pair * d_object
                sums[pair, start : start + d_object] = 1.0
        objects = torch.eye(width)[inputs : 2 * inputs]
        second.weight.copy_(directions @ torch.cat([sums, objects]))
        second.bias.fill_(_LIFT)
        slope = 3.5 / d_object  # of numbers in -1/2 ... 1/2 the mean difference is 1/3
        third.weight[:3] = -slope * torch.stack([directions[:, 0], directions[:, 1], directions[:, :2].sum(1)])
        third.bias[:3] = 1 - third.weight[:3].sum(1) * _LIFT
        network.unembed.weight.copy_(10 * F.pad(torch.tensor([[1.0, 1.0, -2.0], [-1.0, -1.0, 2.0]]), (0, width - 3)))
        network.unembed.bias.copy_(10 * torch.tensor([-0.5, 0.5]))
    return network.requires_grad_(False).eval()


def _linear(layer: nn.Module) -> nn.Linear:
    assert isinstance(layer, nn.Linear)
    return layer


def accuracy(network: EqualityNetwork, n: int = 4000, seed: int = 0) -> float:
    """The share of held-out tasks that the network solves."""
    tasks = draw(n, seed, held_out=True)
    e = equalities(tasks)
    with torch.no_grad():
        answers = network(torch.as_tensor(tasks))[:, 0].argmax(-1).numpy()
    return float((answers == (e[:, 0] == e[:, 1])).mean())


def interchanges(n: int, seed: int, held_out: bool = False) -> Interchanges:
    """Pairs of tasks, with what exchanging each of the two equalities asks for."""
    tasks = draw(2 * n, seed, held_out)
    bases, sources = tasks[:n], tasks[n:]
    of_base, of_source = equalities(bases), equalities(sources)
    base_answers = (of_base[:, 0] == of_base[:, 1]).astype(np.int64)
    answers = np.stack([of_source[:, 0] == of_base[:, 1], of_base[:, 0] == of_source[:, 1]], 1).astype(np.int64)
    zeros = np.zeros((n, 1), np.int64)
    rows = np.arange(n)
    return Interchanges(
        VARIABLES, bases, sources, zeros, zeros, np.full(n, 3), base_answers[:, None], answers[..., None], rows, rows
    )
