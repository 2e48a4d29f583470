"""The search for subspaces on hierarchical equality: what it finds of two known variables, beside all its references.

Networks of `equality`, made by hand and trained, whose second hidden layer holds whether a = b and whether c = d. The
figure is the mean of the accuracy on exchanges that change the answer and of that on those that must not (0.5: chance),
on tasks of objects that no network was trained on.

Trained networks are 128 wide. Of four that are 64 wide (seeds 0 to 3) all solve the task, but two hold the variables
less cleanly, so that a search scores 0.96 to 0.98 there at any rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from analyses.studies.calibration import equality
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.threads import on_threads
from probes.interventions.subspaces import controls, masks
from probes.interventions.subspaces.exchanges import correct, exchanges
from probes.interventions.subspaces.interchanges import Interchanges
from probes.interventions.subspaces.subspace import SearchConfig, block_gates

SITE = "hook_layer_2"
HAND, TRAINED = "equality, made by hand", "equality, trained"
RATE = "interchange_accuracy"
WIDTH = 128
MAX_RANK = 8  # of the search that learns its rank


@dataclass(frozen=True)
class _Network:
    """A network that solves the task, and how it is searched."""

    condition: str
    seed: int
    make: Callable[[], equality.EqualityNetwork]
    twin: equality.EqualityNetwork
    ranks: tuple[int, ...]
    config: SearchConfig
    tasks: tuple[int, int, int]  # to search with, to choose with, to score


def _networks(count: int, seed: int) -> list[_Network]:
    """So many networks made by hand and trained, in turn."""
    networks = []
    for number in range(seed * 100, seed * 100 + count):
        quick = SearchConfig(steps=200, lr=0.03, batch_size=128, seed=number)
        config = SearchConfig(steps=800, batch_size=256, seed=number)
        by_hand = equality.EqualityNetwork(WIDTH, seed=number + 50, d_object=16)
        initial = equality.EqualityNetwork(WIDTH, seed=number)  # what the trained one began as

        def construct(number: int = number) -> equality.EqualityNetwork:
            return equality.construct(WIDTH, number)

        def train(number: int = number) -> equality.EqualityNetwork:
            return equality.train(number, WIDTH)

        networks.append(_Network(TRAINED, number, train, initial, (2, 4, 8), config, (6000, 400, 2000)))
        networks.append(_Network(HAND, number, construct, by_hand, (1, 2), quick, (2000, 100, 2000)))
    return networks


def search(count: int, seed: int = 0, progress: Progress = no_progress) -> pd.DataFrame:
    """Search in `count` networks of either kind.

    Returns the rows of `controls.compare` and those of masks ("mask of neurons", "boundless search"), with
    `condition`, `seed` and the network's `task` accuracy, and the score's interval `score_low`, `score_high`.
    """
    jobs = [(network,) for network in _networks(count, seed)]
    parts = on_threads(_search_one, jobs, "hierarchical equality", progress)
    return pd.concat(parts, ignore_index=True)


def _search_one(network: _Network) -> pd.DataFrame:
    """The rows of one network."""
    model = network.make()
    n_train, n_chosen, n_test = network.tasks
    parts = (
        equality.interchanges(n_train, 1),
        equality.interchanges(n_chosen, 3),
        equality.interchanges(n_test, 2, held_out=True),
    )
    _, table = controls.compare(model, parts, SITE, network.ranks, network.twin, network.config)
    others = pd.DataFrame(_mask_rows(model, parts[0], parts[2], network.config))
    table = pd.concat([table, others], ignore_index=True)
    low, high = _mean_interval(table[["accuracy", "isolation"]].to_numpy(), *_bounds(table))
    about = {"condition": network.condition, "seed": network.seed, "task": equality.accuracy(model)}
    return table.assign(score_low=low, score_high=high, **about)


def _mask_rows(model: Any, train: Interchanges, test: Interchanges, config: SearchConfig) -> list[dict[str, Any]]:
    """What a learned mask of neurons and a search that learns its rank find."""
    part = exchanges(model, test, SITE)
    mask = masks.fit_mask(model, train, SITE, config=SearchConfig(steps=config.steps, lr=0.1, seed=config.seed))
    found_subspace = masks.fit_boundless(model, train, SITE, MAX_RANK, config=config)
    of_subspace = torch.as_tensor(found_subspace.basis), block_gates(found_subspace.ranks)
    rows = []
    for method, ranks, (basis, gates) in (
        ("mask of neurons", mask.units.sum(1), (None, mask.gates)),
        ("boundless search", found_subspace.ranks, of_subspace),
    ):
        scores = controls.score_rows(test, part, correct(model, part, basis, gates))
        rows += [{"method": method, "rank": int(rank), **row} for rank, row in zip(ranks, scores, strict=True)]
    return rows


def _bounds(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """float64 [rows, 2] each: the lower and the upper bounds of accuracy and isolation."""
    low, high = (table[[f"accuracy_{end}", f"isolation_{end}"]].to_numpy() for end in ("low", "high"))
    return low, high


def _mean_interval(estimates: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the mean of independent shares, [rows, shares] -> [rows], recovered from their own bounds (Zou & Donner
    2008, Stat. Med. 27)."""
    mean, k = estimates.mean(1), estimates.shape[1]
    below, above = (np.sqrt(np.square(estimates - bound).sum(1)) / k for bound in (low, high))
    return mean - below, mean + above


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the study's table of rates: each method's mean score over networks and variables, by kind of network.

    Intervals are over exchanges, of these networks; `n` is the number of exchanges that change the answer.
    """
    rows = []
    for (method, condition), part in table.groupby(["method", "condition"], sort=False):
        shares = np.stack([part.score, part.score_low, part.score_high])[:, None]  # [3, 1, networks * variables]
        low, high = _mean_interval(*shares)
        about = {"instrument": f"subspace: {method}", "condition": condition, "rate": RATE}
        rows.append(
            {
                **about,
                "estimate": float(part.score.mean()),
                "low": float(low[0]),
                "high": float(high[0]),
                "n": int(part.pairs.sum()),
            }
        )
    return pd.DataFrame(rows)
