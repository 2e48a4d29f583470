"""What a subspace stands beside: single neurons, principal components, the whole component, arbitrary labels, the twin.

A subspace that beats the patch of the whole component it lies in may owe that to directions that no input moves (the
illusion of Makelov, Lange & Nanda 2024, arXiv 2311.17030), so the whole component is in every table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cadmus.runtime.progress import Progress, no_progress
from cadmus.statistics import simultaneous
from cadmus.statistics.clustered import interval_columns
from probes.interventions.subspaces.exchanges import Exchanges, correct, exchanges
from probes.interventions.subspaces.interchanges import Interchanges
from probes.interventions.subspaces.subspace import RANKS, SearchConfig, Subspace, block_gates, choose, fit

METHODS = (
    "search",
    "principal components",
    "neurons",
    "one neuron",
    "whole component",
    "arbitrary labels",
    "untrained",
)


def principal_components(part: Exchanges, rank: int) -> Tensor:
    """The directions along which sources differ from one another most: float32 [width, rank], orthonormal.

    Of the training pairs' source activations, all variables alike, since components know none.
    """
    rows = part.source.flatten(0, 1)
    _, _, directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    return directions[:rank].T.contiguous()


def neuron_scores(model: Any, part: Exchanges, variables: int, progress: Progress = no_progress) -> np.ndarray:
    """What exchanging each neuron alone scores for each variable: float64 [variables, width].

    The mean of the accuracy on exchanges that change the answer and of that on those that must not. It takes `width`
    passes over the rows; hand over a few hundred.
    """
    scores = np.empty((variables, part.width))
    variable, edited = part.variable.cpu().numpy(), part.edited.cpu().numpy()
    for neuron in range(part.width):
        gates = torch.zeros(variables, part.width, device=part.tokens.device)
        gates[:, neuron] = 1
        right = correct(model, part, None, gates)
        for number in range(variables):
            scores[number, neuron] = _balanced(right, edited, variable == number)
        progress("neurons", (neuron + 1) / part.width, "")
    return scores


def compare(
    model: Any,
    parts: tuple[Interchanges, Interchanges, Interchanges],
    site: str,
    ranks: Sequence[int] = RANKS,
    twin: Any | None = None,
    config: SearchConfig | None = None,
    progress: Progress = no_progress,
) -> tuple[Subspace, pd.DataFrame]:
    """Search at a site, and score the result and all that it stands beside on pairs that nothing was chosen on.

    Args:
        model: as `exchanges.exchanges` takes it.
        parts: training, validation and test interchanges, of `interchanges.split`.
        site: where.
        ranks: that are tried; the validation pairs choose one, which the references get too.
        twin: the untrained model, None to leave it out; it is searched with the same budget.
        config: of the search.
        progress: is told of the stages.

    Returns:
        The subspace, and a table, a row per method (`METHODS`) and variable: `rank`, `accuracy` on the test exchanges
        that change the answer with its interval and `pairs`, `isolation` on those that must not with its own (NaN where
        there are none), both clustered by base and source skeleton, and `score`, the mean of the two. `beyond_whole`,
        of the search alone, is how far its accuracy exceeds the whole component's, with an interval, on exchanges that
        change the answer where no other variable's does (the whole component exchanges all of them), and `illusion`
        says that it surely does; NaN and False where there are no such pairs.
    """
    train, validation, test = parts
    subspace = choose(model, train, validation, site, ranks, config, progress)
    rank, scored = subspace.ranks[0], exchanges(model, test, site)
    device = scored.tokens.device
    basis, gates = torch.as_tensor(subspace.basis, device=device), block_gates(subspace.ranks).to(device)
    runs = [_Run("search", rank, model, test, scored, basis, gates)]
    runs += _references(model, parts, site, scored, rank, progress)
    runs += _other_searches(model, twin, parts, site, scored, rank, gates, config or SearchConfig())
    rows, right_by_method = [], {}
    for run in runs:
        right = correct(run.model, run.part, run.basis, run.gates)
        right_by_method[run.method] = right
        scores = score_rows(run.interchanges, run.part, right)
        rows += [{"method": run.method, "rank": run.rank, **row} for row in scores]
    gain = right_by_method["search"].astype(float) - right_by_method["whole component"]
    table = pd.DataFrame(rows).assign(site=site)
    table = table.merge(_beyond_whole(test, scored, gain), "left", ["method", "variable"])
    return subspace, table.assign(illusion=table["beyond_whole_low"] > 0)


@dataclass(frozen=True, eq=False)
class _Run:
    """Some coordinates, whose exchange is scored."""

    method: str
    """Of `METHODS`."""
    rank: int
    """How many coordinates are exchanged for each variable."""
    model: Any
    """Where."""
    interchanges: Interchanges
    """What is asked of the model."""
    part: Exchanges
    """The same, ready to run."""
    basis: Tensor | None
    """float32 [width, k]; None: the neurons themselves."""
    gates: Tensor
    """float32 [variables, k or width]: which coordinates belong to which variable."""


def _references(
    model: Any,
    parts: tuple[Interchanges, Interchanges, Interchanges],
    site: str,
    scored: Exchanges,
    rank: int,
    progress: Progress,
) -> list[_Run]:
    """What is exchanged without a search: components, neurons chosen on the validation pairs, and everything."""
    train, validation, test = parts
    device, width = scored.tokens.device, scored.width
    by_neuron = neuron_scores(model, exchanges(model, validation, site), len(test.variables), progress)
    components = principal_components(exchanges(model, train, site), rank)
    k = components.shape[1]
    everything = torch.ones(len(test.variables), width, device=device)
    return [
        _Run("principal components", k, model, test, scored, components, everything[:, :k]),
        _Run("neurons", rank, model, test, scored, None, _best(by_neuron, rank, device)),
        _Run("one neuron", 1, model, test, scored, None, _best(by_neuron, 1, device)),
        _Run("whole component", width, model, test, scored, None, everything),
    ]


def _other_searches(
    model: Any,
    twin: Any | None,
    parts: tuple[Interchanges, Interchanges, Interchanges],
    site: str,
    scored: Exchanges,
    rank: int,
    gates: Tensor,
    config: SearchConfig,
) -> list[_Run]:
    """The same search where it must find nothing: for arbitrary answers, and in the untrained twin."""
    train, _, test = parts
    device = scored.tokens.device
    arbitrary = fit(model, train.with_arbitrary_labels(config.seed), site, rank, config)
    labelled = test.with_arbitrary_labels(config.seed + 1)
    basis = torch.as_tensor(arbitrary.basis, device=device)
    runs = [_Run("arbitrary labels", rank, model, labelled, exchanges(model, labelled, site), basis, gates)]
    if twin is not None:
        basis = torch.as_tensor(fit(twin, train, site, rank, config).basis, device=device)
        runs.append(_Run("untrained", rank, twin, test, exchanges(twin, test, site), basis, gates))
    return runs


def _beyond_whole(interchanges: Interchanges, part: Exchanges, gain: np.ndarray) -> pd.DataFrame:
    """How far the search exceeds the whole component, a row per variable; gain [m]: right minus right."""
    variable, edited = part.variable.cpu().numpy(), part.edited.cpu().numpy()
    alone = edited & (interchanges.edited.sum(1) == 1)[part.rows]
    cells = np.stack([alone & (variable == number) for number in range(len(interchanges.variables))])
    bases, sources = interchanges.base_skeletons[part.rows], interchanges.source_skeletons[part.rows]
    bounds = simultaneous.two_way(np.broadcast_to(gain, cells.shape), cells, bases, sources)
    columns = interval_columns("beyond_whole", bounds.estimate, bounds.low, bounds.high)
    return pd.DataFrame({"method": "search", "variable": interchanges.variables, **columns})


def score_rows(interchanges: Interchanges, part: Exchanges, right: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy and isolation of each variable with their intervals: columns of a tidy table, a row per variable.

    right: bool [m], of `exchanges.correct` on `part`, which `exchanges` made of `interchanges`.
    """
    variable, edited = part.variable.cpu().numpy(), part.edited.cpu().numpy()
    bases, sources = interchanges.base_skeletons[part.rows], interchanges.source_skeletons[part.rows]
    cells = np.stack(
        [
            (variable == number) & (edited == flag)
            for number in range(len(interchanges.variables))
            for flag in (True, False)
        ]
    )
    shares = simultaneous.shares(np.broadcast_to(right, cells.shape), cells, bases, sources)
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(interchanges.variables):
        accuracy, isolation = shares[2 * number : 2 * number + 2]
        rows.append(
            {
                "variable": name,
                "pairs": int(cells[2 * number].sum()),
                **interval_columns("accuracy", accuracy.estimate, accuracy.low, accuracy.high),
                **interval_columns("isolation", isolation.estimate, isolation.low, isolation.high),
                "score": float(np.nanmean([accuracy.estimate, isolation.estimate])),
            }
        )
    return rows


def _best(scores: np.ndarray, k: int, device: torch.device) -> Tensor:
    """Gates of the k neurons that score best for each variable alone: float32 [variables, width]."""
    gates = np.zeros(scores.shape, np.float32)
    np.put_along_axis(gates, np.argsort(-scores, axis=1, kind="stable")[:, :k], 1, axis=1)
    return torch.as_tensor(gates, device=device)


def _balanced(right: np.ndarray, edited: np.ndarray, rows: np.ndarray) -> float:
    """The mean of the share right where the answer changes and of that where it must not, of those there are."""
    shares = [right[rows & flag].mean() for flag in (edited, ~edited) if (rows & flag).any()]
    return float(np.mean(shares)) if shares else np.nan
