"""The paper's measurements on `compare` programs, X Y relation.

Figure 1: where in the plane of X and Y the model tells their relation. Figure 2: how well each number can be read at
each token, by probes per (layer, token, number) on the residual stream, against what the instructions seen so far give
away and against the same probes on the untrained model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from analyses.studies.paper.prefix import prefix_majority
from cadmus.corpora import held_out
from cadmus.corpora.membership import program_hashes
from cadmus.machine import kernel, tokens, vm
from cadmus.models.model import Model
from cadmus.programs import skeletons
from cadmus.programs.families import Compare
from cadmus.programs.families.compare import RELATIONS, relation
from cadmus.programs.holdout import HoldOut
from cadmus.programs.parts.pieces import join, same
from cadmus.runtime.seeds import generator
from cadmus.runtime.threads import on_threads
from cadmus.states import variables
from cadmus.statistics import clustered
from probes.data.activations import batches, residual_sites
from probes.data.folds import FOLDS, skeleton_folds, skeleton_ids
from probes.solvers.linear import ridge
from probes.solvers.logistic import fit_on_validation
from probes.solvers.moments import Moments

NUMBERS = ("first", "second")
REGIONS = ("inside", "outside, X = Y", "outside, X and Y differ")  # of the plane, by the trained square

_TEST = [skeletons.SPLITS.index(split) for split in ("test", "test_skeleton")]
_BATCH = 8192  # programs read at once
_MAX_ROUNDS = 200  # of drawing programs for cells that have few

# --- Figure 1 --------------------------------------------------------------------------------------------------------


def figure1(
    model: Model,
    family: Compare,
    hold_out: HoldOut | None = None,
    *,
    reach: int = 40,
    programs: int = 10,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """A row per cell (x, y) of [-reach, reach]²: how often the model's next token after X Y is their relation.

    `programs` programs a cell that training never saw, of expressions as `family` has them: in the trained square those
    of held-out splits, beyond it any, since training draws no such values. Columns: x, y, region (one of REGIONS; the
    trained square is the family's low..high), accuracy, n (fewer where a cell has not as many), and how often the model
    answered less, equal, greater, other. Raises ValueError where a cell has no program, or they do not fit the model.
    """
    drawn, cells = _plane(family, reach, hold_out, programs, seed)
    last = tokens.lengths(drawn) - 1  # the model's position of Y's last token
    said = np.empty(len(drawn), np.int64)
    for start in range(0, len(drawn), _BATCH):
        rows = slice(start, start + _BATCH)
        sequences = torch.from_numpy(tokens.sequences(drawn[rows])).to(model.device)
        with torch.no_grad():
            logits = model(sequences)
        chosen = logits[torch.arange(len(sequences)), torch.from_numpy(last[rows]).to(model.device)].argmax(-1)
        said[rows] = chosen.cpu().numpy()
        if progress is not None:
            progress(min(1.0, (start + _BATCH) / len(drawn)))
    relations = np.array([vm.VOCAB.index(token) for token in RELATIONS])
    right = said == relations[np.sign(cells[:, 0] - cells[:, 1]) + 1]
    answers = {name: said == token for name, token in zip(("less", "equal", "greater"), relations, strict=True)}
    answers["other"] = ~np.isin(said, relations)
    table = pd.DataFrame({"x": cells[:, 0], "y": cells[:, 1], "accuracy": right, "n": 1, **answers})
    table = table.groupby(["x", "y"], as_index=False).agg(
        {"accuracy": "mean", "n": "sum", **dict.fromkeys(answers, "sum")}
    )
    inside = _inside(table.x, table.y, family)
    outside = np.where(table.x == table.y, REGIONS[1], REGIONS[2])
    return table.assign(region=np.where(inside, REGIONS[0], outside), seed=seed)


def _inside(x: np.ndarray | pd.Series, y: np.ndarray | pd.Series, family: Compare) -> np.ndarray:
    """Whether both values lie in the trained square."""
    return (np.minimum(x, y) >= family.low) & (np.maximum(x, y) <= family.high)


def _plane(
    trained: Compare, reach: int, hold_out: HoldOut | None, each: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """`each` distinct unseen programs, fewer where there are not as many, for every pair of values: uint8 [n, width]
    and int64 [n, 2]."""
    family = replace(trained, low=-reach, high=reach, assertions=1)
    rng = generator("figure 1", seed)
    values = np.arange(family.low, family.high + 1)
    cells = np.stack(np.meshgrid(values, values, indexing="ij"), -1).reshape(-1, 2)
    left = np.full(len(cells), each)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    known: set[int] = set()
    for _ in range(_MAX_ROUNDS):
        wanting = np.flatnonzero(left)
        if not len(wanting):
            break
        tried = np.repeat(wanting, 4 * left[wanting])
        x, y = cells[tried].T
        parts = family.numbers.draw(x, rng), family.numbers.draw(y, rng), relation(x, y), same(vm.END, len(x))
        programs = join(family.width, *parts)
        fine = np.isin(skeletons.splits(programs), _TEST) | ~_inside(x, y, trained)
        if hold_out is not None:
            fine &= ~hold_out.held(programs)
        programs, tried = programs[fine], tried[fine]
        keep = []
        for i, (cell, key) in enumerate(zip(tried.tolist(), program_hashes(programs).tolist(), strict=True)):
            if left[cell] and key not in known:
                known.add(key)
                left[cell] -= 1
                keep.append(i)
        found.append((programs[keep], tried[keep]))
    if (left == each).any():
        x, y = cells[np.flatnonzero(left == each)[0]]
        raise ValueError(
            f"{np.count_nonzero(left == each)} cells, ({x}, {y}) the first, have no unseen program; ask for a smaller "
            "reach or longer expressions"
        )
    programs, which = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return programs, cells[which]


# --- Figure 2 --------------------------------------------------------------------------------------------------------


def figure2(
    models: dict[str, Model],
    family: Compare,
    *,
    programs: int = 5000,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """Two rows per (model, site, token position, number): the accuracy of a logistic probe (the paper's) and the R² of
    a ridge probe, each on skeletons that neither the model's training nor the probe's has seen.

    `models` maps names to the trained model and its twins, all of one architecture. `position` is the model's (0 the
    marker), so the tokens are 1 ... 2 * length + 1. `prefix_majority` is exact (`controls.prefix_majority`) and stands
    beside accuracies. Of the family, programs of one statement whose expressions have the greatest length. `progress`
    is told the share done.
    """
    family = replace(family, assertions=1, min_length=0)
    drawn = held_out.held_out(family, "test_skeleton", programs, seed)
    values = _numbers(drawn, family)
    folds, clusters_of = skeleton_folds(drawn), skeleton_ids(drawn)
    majority = prefix_majority(family)
    width = 2 * family.length + 1

    def probe(x: np.ndarray, about: dict) -> list[dict]:
        train, validation, test = (folds == FOLDS.index(name) for name in FOLDS)
        x = _standardized(x, train)
        held = Moments.of(x[validation], values[validation])
        predicted = ridge(Moments.of(x[train], values[train]), validation=held)(x[test])
        clusters = (clusters_of[test], np.flatnonzero(test), seed)
        rows = []
        for k, number in enumerate(NUMBERS):
            y = values[:, k]
            logistic = fit_on_validation(x[train], y[train], x[validation], y[validation])
            accuracy = clustered.accuracy(logistic.predict(x[test]) == y[test], *clusters)
            r_squared = clustered.r_squared(y[test], predicted[:, k], *clusters)
            shared = {**about, "variable": f"{number} number", "programs": int(test.sum()), "seed": seed}
            known = {"prefix_majority": majority[k, about["position"] - 1]}
            rows.append({**shared, **clustered.columns("logistic", "accuracy", accuracy), **known})
            rows.append({**shared, **clustered.columns("ridge", "R2", r_squared)})
        return rows

    rows = []
    for done, (name, model) in enumerate(models.items()):
        sites = residual_sites(model)
        activations = {site: np.empty((programs, width, model.cfg.d_model), np.float32) for site in sites}
        for batch, cache in batches(model, drawn, sites):
            for site in sites:
                activations[site][batch] = cache[site][:, 1 : width + 1].cpu().numpy()
        cells = [
            (activations[site][:, position - 1], {"model": name, "site": site, "layer": layer, "position": position})
            for layer, site in enumerate(sites)
            for position in range(1, width + 1)
        ]
        tell = (lambda share, done=done: progress((done + share) / len(models))) if progress else (lambda share: None)
        for probed in on_threads(probe, cells, tell):
            rows += probed
    return pd.DataFrame(rows)


def _numbers(programs: np.ndarray, family: Compare) -> np.ndarray:
    """The two computed values of each program: int64 [n, 2], as the machine has them after the 2 * length-th token."""
    traces = kernel.traces(programs, entries=2)
    position = 2 * family.length
    return np.stack([variables.read(traces, name).values[:, position] for name in ("stack.1", "stack.0")], 1)


def _standardized(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Features with mean 0 and variance 1 over the training rows; constant ones stay 0."""
    mean, spread = x[train].mean(0), x[train].std(0)
    return (x - mean) / np.where(spread > 1e-6, spread, 1.0)


def token_names(family: Compare) -> list[str]:
    """What stands at each token of a `compare` program: X1 ... X5 Y1 ... Y5 and the relation."""
    return [f"{letter}{i + 1}" for letter in "XY" for i in range(family.length)] + ["rel"]
