"""Which heads or neurons hold a variable, and how many directions it takes: masks that are learned, then made binary.

The discrete form of the search for a subspace: in place of a rotation, a gate for each head or neuron says whether it
is exchanged. Gates are sigmoids whose temperature falls while a price per unit is paid (De Cao et al. 2020, arXiv
2004.14992, with annealing in place of noise). The boundless form (Wu et al. 2023, arXiv 2305.08809) keeps the rotation
and learns where each variable's block of coordinates ends.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.runtime import artifacts
from cadmus.runtime.progress import Progress, no_progress
from probes.interventions.subspaces.exchanges import exchanges
from probes.interventions.subspaces.interchanges import Interchanges
from probes.interventions.subspaces.subspace import SearchConfig, Subspace, descend, orthonormal

PRICE = 0.05  # nats for a gate that is open, of all units: the loss that a whole layer must be worth
_HOT, _COLD = 1.0, 0.05  # temperatures of the gates at the first and the last step
_KIND = "mask"


@dataclass(frozen=True)
class Mask:
    """Which units of a site are exchanged for each variable."""

    site: str
    """The hook name."""
    variables: tuple[str, ...]
    """The variables."""
    units: np.ndarray
    """Which heads (of a site with a head axis) or neurons: bool [variables, units]."""
    size: int
    """Numbers that a unit has: 1 of a neuron, d_head or d_model of a head."""
    about: dict[str, Any] = field(default_factory=dict, repr=False)
    """How it was found."""

    @property
    def gates(self) -> Tensor:
        """What `exchanges.correct` takes, with no basis: float32 [variables, width]."""
        return torch.as_tensor(self.units.repeat(self.size, 1).astype(np.float32))

    def save(self, folder: Path | str) -> Path:
        """Write to a folder that is whole or absent; `Mask.load` reads it."""
        about = {"site": self.site, "variables": list(self.variables), "size": self.size, "about": self.about}
        with artifacts.new_folder(folder, _KIND) as partial:
            artifacts.write_arrays(partial / "mask.safetensors", {"units": self.units})
            artifacts.write_json(partial / "mask.json", about)
        return Path(folder)

    @classmethod
    def load(cls, folder: Path | str) -> Mask:
        """Read what `save` wrote. Raises ArtifactError for what is missing, damaged or of another kind."""
        artifacts.read_manifest(folder, _KIND)
        about = artifacts.read_json(Path(folder) / "mask.json")
        units = artifacts.read_arrays(Path(folder) / "mask.safetensors")["units"]
        return cls(about["site"], tuple(about["variables"]), units, about["size"], about["about"])


def fit_mask(
    model: Any,
    train: Interchanges,
    site: str,
    unit_size: int = 1,
    price: float = PRICE,
    config: SearchConfig | None = None,
    progress: Progress = no_progress,
) -> Mask:
    """Which units to exchange so that the model gives the answers that are asked for.

    Args:
        model: as `exchanges.exchanges` takes it.
        train: interchanges to learn from.
        site: where; its axes behind the position are taken as one.
        unit_size: 1 for neurons; the last axis of a site with a head axis (`d_head` at `attn.hook_z`) for heads.
        price: nats for opening all gates of a variable; each costs its share.
        config: of the search.
        progress: is told of the steps.

    Raises ValueError where the site does not consist of such units.
    """
    config = config or SearchConfig(lr=0.1)
    part = exchanges(model, train, site)
    if unit_size < 1 or part.width % unit_size:
        raise ValueError(f"{site!r} is {part.width} wide, which is no number of units of size {unit_size}")
    count, units = len(train.variables), part.width // unit_size
    openness = torch.zeros(count, units, device=part.tokens.device, requires_grad=True)
    generator = torch.Generator().manual_seed(config.seed)
    done = [0.0]

    def gates() -> Tensor:
        return torch.sigmoid(openness / _temperature(done[0]))

    def change(fraction: float) -> tuple[None, Tensor]:
        done[0] = fraction
        return None, gates().repeat_interleave(unit_size, 1)

    losses = descend(
        model,
        part,
        [openness],
        change,
        config,
        generator,
        penalty=lambda: price * gates().mean(1).sum(),
        progress=progress,
    )
    about = {"config": asdict(config), "price": price, "rows": len(train), "loss": float(losses[-1])}
    return Mask(site, train.variables, (openness > 0).cpu().numpy(), unit_size, about)


def fit_boundless(
    model: Any,
    train: Interchanges,
    site: str,
    max_rank: int,
    price: float = PRICE,
    config: SearchConfig | None = None,
    progress: Progress = no_progress,
) -> Subspace:
    """The subspace of each variable, of as many directions as are worth their price, `max_rank` at most.

    As `subspace.fit`, which see; price: nats for all `max_rank` directions of a variable. Coordinate i of a block is
    exchanged by sigmoid((boundary - i - 1/2) / temperature); at the end those before the boundary are kept, at least
    one.
    """
    config = config or SearchConfig()
    count = len(train.variables)
    part = exchanges(model, train, site)
    if not 1 <= max_rank * count <= part.width:
        raise ValueError(
            f"max_rank = {max_rank} for {count} variables does not fit {site!r}, which is {part.width} wide"
        )
    device = part.tokens.device
    generator = torch.Generator().manual_seed(config.seed)
    start = torch.linalg.qr(torch.randn(part.width, max_rank * count, generator=generator))[0]
    weights = start.to(device).requires_grad_(True)
    share = torch.full((count,), 0.5, device=device, requires_grad=True)  # of max_rank, so that one rate suits both
    owners = torch.eye(count, device=device)  # [variables, blocks]
    place = torch.arange(max_rank, device=device) + 0.5
    done = [0.0]

    def gates() -> Tensor:
        inside = torch.sigmoid((share[:, None] * max_rank - place) / _temperature(done[0]))  # [variables, max_rank]
        return (owners[:, :, None] * inside[:, None]).flatten(1)  # [variables, blocks * max_rank]

    def change(fraction: float) -> tuple[Tensor, Tensor]:
        done[0] = fraction
        return orthonormal(weights), gates()

    def after_step() -> None:
        weights.copy_(orthonormal(weights))
        share.clamp_(0, 1)

    def penalty() -> Tensor:
        return price * share.sum()

    losses = descend(model, part, [weights, share], change, config, generator, after_step, penalty, progress)
    ranks = tuple(max(1, round(max_rank * float(value))) for value in share.detach())
    basis = orthonormal(weights.detach()).cpu().numpy()
    kept_columns = np.concatenate([np.arange(rank) + number * max_rank for number, rank in enumerate(ranks)])
    about = {"config": asdict(config), "price": price, "max_rank": max_rank, "rows": len(train)}
    return Subspace(site, train.variables, ranks, np.ascontiguousarray(basis[:, kept_columns]), losses, about)


def _temperature(fraction: float) -> float:
    """From hot to cold, geometrically."""
    return _HOT * (_COLD / _HOT) ** fraction
