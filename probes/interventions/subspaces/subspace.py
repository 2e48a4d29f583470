"""Distributed alignment search: a few directions of a site that hold a variable, found by exchanging them.

Geiger et al. (2023, arXiv 2303.02536): the coordinates of a base's activation in a subspace are replaced by a source's,
and the subspace is turned until the model gives the answer that the exchange of the variable asks for. Maps are linear
only, orthonormal bases: nonlinear ones succeed on random models (arXiv 2507.08802). Several variables have orthogonal
subspaces, blocks of one basis, and each one's exchange must leave alone what it does not concern. `controls` has what
a result stands beside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cadmus.runtime import artifacts
from cadmus.runtime.checks import check_at_least
from cadmus.runtime.progress import Progress, no_progress
from probes.interventions.subspaces.exchanges import Exchanges, answer_logits, correct, exchanges
from probes.interventions.subspaces.interchanges import NONE, Interchanges

RANKS = (1, 2, 4, 8, 16)
_KIND = "subspace"


@dataclass(frozen=True)
class SearchConfig:
    """How a subspace is searched for. Raises ValueError for what is out of bounds."""

    steps: int = 400
    """Steps of Adam; its rate falls to zero linearly."""
    batch_size: int = 128
    """Exchanges in a step, half of them (where there are any) such as must change nothing."""
    lr: float = 0.02
    """The rate of the first step."""
    isolation: float = 1.0
    """Weight of the loss of exchanges that must change nothing."""
    seed: int = 0
    """Of the first basis and of the batches."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "batch_size")
        check_at_least(self, 0, "isolation", "seed")
        if not self.lr > 0:
            raise ValueError(f"lr = {self.lr} must be above 0")


@dataclass(frozen=True)
class Subspace:
    """An orthonormal basis at a site, whose columns belong to variables: what exchanging them exchanges."""

    site: str
    """The hook name; axes behind the position are taken as one."""
    variables: tuple[str, ...]
    """The variables, one block of columns each."""
    ranks: tuple[int, ...]
    """Columns of each variable."""
    basis: np.ndarray
    """float32 [width, sum of ranks], columns orthonormal."""
    losses: np.ndarray = field(repr=False)
    """Training loss (nats per token) at each step, float32 [steps]."""
    about: dict[str, Any] = field(default_factory=dict, repr=False)
    """How it was found: the search's settings, and the scores of the ranks that were tried."""

    def of(self, variable: str) -> np.ndarray:
        """The basis of one variable: float32 [width, rank]. ValueError for a variable that it does not have."""
        if variable not in self.variables:
            raise ValueError(f"{variable!r} is none of this subspace's variables: {', '.join(self.variables)}")
        number = self.variables.index(variable)
        start = sum(self.ranks[:number])
        return self.basis[:, start : start + self.ranks[number]]

    def save(self, folder: Path | str) -> Path:
        """Write to a folder that is whole or absent; `Subspace.load` reads it."""
        about = {"site": self.site, "variables": list(self.variables), "ranks": list(self.ranks), "about": self.about}
        with artifacts.new_folder(folder, _KIND) as partial:
            artifacts.write_arrays(partial / "basis.safetensors", {"basis": self.basis, "losses": self.losses})
            artifacts.write_json(partial / "subspace.json", about)
        return Path(folder)

    @classmethod
    def load(cls, folder: Path | str) -> Subspace:
        """Read what `save` wrote. Raises ArtifactError for what is missing, damaged or of another kind."""
        artifacts.read_manifest(folder, _KIND)
        arrays = artifacts.read_arrays(Path(folder) / "basis.safetensors")
        about = artifacts.read_json(Path(folder) / "subspace.json")
        names, ranks = tuple(about["variables"]), tuple(about["ranks"])
        return cls(about["site"], names, ranks, arrays["basis"], arrays["losses"], about["about"])


def block_gates(ranks: Sequence[int]) -> Tensor:
    """Which columns belong to which variable: float32 [variables, sum of ranks]."""
    owners = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
    return (owners == torch.arange(len(ranks))[:, None]).float()


def orthonormal(weights: Tensor) -> Tensor:
    """The basis that Gram and Schmidt's method makes of the columns: [width, k], differentiable.

    By a QR decomposition, whose signs are made the method's: on a CPU 20 to 60 times as fast as parametrizations by
    Householder reflections or Cayley's map, and as exact.
    """
    basis, triangle = torch.linalg.qr(weights)
    return basis * torch.where(triangle.diagonal() < 0, -1.0, 1.0)


def fit(
    model: Any,
    train: Interchanges,
    site: str,
    rank: int | Sequence[int],
    config: SearchConfig | None = None,
    progress: Progress = no_progress,
) -> Subspace:
    """Search for the subspace of each variable, all of them orthogonal to one another.

    Args:
        model: as `exchanges` takes it; its weights are not changed.
        train: interchanges to learn from; choose the rank and score on others (`interchanges.split`).
        site: where; a site with heads is taken as one vector of all of them.
        rank: directions of each variable, one number for all or one each.
        config: of the search.
        progress: is told of the steps.

    Raises ValueError where the ranks are more than the site has dimensions.
    """
    config = config or SearchConfig()
    ranks = (rank,) * len(train.variables) if isinstance(rank, int) else tuple(rank)
    part = exchanges(model, train, site)
    if len(ranks) != len(train.variables) or min(ranks) < 1 or sum(ranks) > part.width:
        raise ValueError(
            f"ranks {ranks} for {len(train.variables)} variables at {site!r}, which is {part.width} wide; give each "
            "variable 1 or more, together no more than that"
        )
    device = part.tokens.device
    generator = torch.Generator().manual_seed(config.seed)
    weights = torch.linalg.qr(torch.randn(part.width, sum(ranks), generator=generator))[0].to(device)
    weights.requires_grad_(True)
    gates = block_gates(ranks).to(device)

    def parameters_to_change(_: float) -> tuple[Tensor | None, Tensor]:
        return orthonormal(weights), gates

    def retract() -> None:
        weights.copy_(orthonormal(weights))

    losses = descend(model, part, [weights], parameters_to_change, config, generator, retract, progress=progress)
    basis = orthonormal(weights.detach()).cpu().numpy()
    return Subspace(site, train.variables, ranks, basis, losses, {"config": asdict(config), "rows": len(train)})


def descend(
    model: Any,
    part: Exchanges,
    parameters: list[Tensor],
    change: Callable[[float], tuple[Tensor | None, Tensor]],
    config: SearchConfig,
    generator: torch.Generator,
    after_step: Callable[[], None] = lambda: None,
    penalty: Callable[[], Tensor] | None = None,
    progress: Progress = no_progress,
) -> np.ndarray:
    """Adam on the cross-entropy of the answers under the exchange; returns the loss of each step, float32 [steps].

    change: from the share of the steps that is done to the (basis, gates) of `answer_logits`; penalty: added to the
    loss. The model's weights get no gradient meanwhile.
    """
    optimizer = torch.optim.Adam(parameters, lr=config.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / config.steps)
    losses = np.empty(config.steps, np.float32)
    edited = part.edited.cpu()
    pools = [torch.nonzero(edited)[:, 0], torch.nonzero(~edited)[:, 0]]
    with weights_fixed(model):
        for step in range(config.steps):
            rows = _batch(pools, config, generator).to(part.tokens.device)
            logits = answer_logits(model, part, rows, *change(step / config.steps))
            weight = torch.where(part.edited[rows], 1.0, config.isolation)
            loss = _loss(logits, part.targets[rows], weight)
            objective = loss if penalty is None else loss + penalty()
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                after_step()
            losses[step] = loss.item()
            progress("search", (step + 1) / config.steps, f"loss {loss.item():.3f}")
    return losses


def _batch(pools: list[Tensor], config: SearchConfig, generator: torch.Generator) -> Tensor:
    """Rows of a step: half change the answer, half do not, where there are both and isolation is asked for."""
    stays = len(pools[1]) > 0 and config.isolation > 0
    sizes = [config.batch_size - config.batch_size // 2, config.batch_size // 2] if stays else [config.batch_size, 0]
    drawn = [pool[torch.randint(len(pool), (n,), generator=generator)] for pool, n in zip(pools, sizes) if n]
    return torch.cat(drawn)


def _loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy per token (nats); logits [m, length, d_vocab], targets [m, length], weights [m]."""
    by_token = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none", ignore_index=NONE)
    by_row = by_token.view(targets.shape).sum(1) / (targets != NONE).sum(1)
    return (by_row * weights).sum() / weights.sum()


@contextlib.contextmanager
def weights_fixed(model: Any) -> Iterator[None]:
    """Let no parameter of the model ask for a gradient within the context."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def choose(
    model: Any,
    train: Interchanges,
    validation: Interchanges,
    site: str,
    ranks: Sequence[int] = RANKS,
    config: SearchConfig | None = None,
    progress: Progress = no_progress,
) -> Subspace:
    """The subspace of the smallest rank that is no worse than the best by one standard error, on validation pairs.

    Its `about["ranks"]` has each rank's validation score: the mean of the accuracy where the exchange changes the
    answer and of that where it must not. Score the result on other pairs again. Ranks that do not fit the site are left
    out; ValueError where none fits.
    """
    part = exchanges(model, validation, site)
    fitting = sorted({rank for rank in ranks if 1 <= rank * len(train.variables) <= part.width})
    if not fitting:
        raise ValueError(
            f"no rank of {tuple(ranks)} fits {len(train.variables)} variables at {site!r}, {part.width} wide"
        )
    subspaces, scores = [], []
    for number, rank in enumerate(fitting):

        def report(stage: str, fraction: float, note: str = "", number: int = number, rank: int = rank) -> None:
            progress(stage, (number + fraction) / len(fitting), f"rank {rank}, {note}")

        subspaces.append(fit(model, train, site, rank, config, report))
        scores.append(_score(model, part, subspaces[-1]))
    best = int(np.argmax(scores))
    error = np.sqrt(scores[best] * (1 - scores[best]) / max(1, int(part.edited.sum())))
    smallest = next(number for number, score in enumerate(scores) if score >= scores[best] - error)
    taken = subspaces[smallest]
    table = [{"rank": rank, "validation": round(float(score), 6)} for rank, score in zip(fitting, scores)]
    about = {**taken.about, "ranks": table, "validation_rows": len(validation)}
    return Subspace(taken.site, taken.variables, taken.ranks, taken.basis, taken.losses, about)


def _score(model: Any, part: Exchanges, subspace: Subspace) -> float:
    device = part.tokens.device
    basis, gates = torch.as_tensor(subspace.basis, device=device), block_gates(subspace.ranks).to(device)
    right, edited = correct(model, part, basis, gates), part.edited.cpu().numpy()
    return float(np.mean([right[rows].mean() for rows in (edited, ~edited) if rows.any()]))
