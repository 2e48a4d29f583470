"""The paper's measurements. Figure 2: how well each of two computed numbers can be read at each token.

`compare` programs X Y relation: probes per (layer, token, number) on the residual stream, against what the
instructions seen so far give away and against the same probes on the untrained model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from cadmus import corpus, kernel, labels
from cadmus.families import Compare
from cadmus.model import Model
from probes import stats
from probes.bank import RidgeFitter
from probes.controls import prefix_majority
from probes.harvest import FOLDS, harvest, residual_sites, skeleton_folds, skeleton_ids
from probes.logistic import fit_on_validation, one_thread

NUMBERS = ("first", "second")


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
    beside accuracies. `progress` is told the share done.
    """
    drawn = corpus.held_out(family, "test_skeleton", programs, seed)
    values = _numbers(drawn, family)
    folds, skeletons = skeleton_folds(drawn), skeleton_ids(drawn)
    majority = prefix_majority(family)
    width = 2 * family.length + 1

    def probe(x: np.ndarray, about: dict) -> list[dict]:
        train, validation, test = (folds == FOLDS.index(name) for name in FOLDS)
        x = _standardized(x, train)
        ridge = RidgeFitter(x.shape[1], 2).update(x[train], values[train])
        ridge = ridge.fit(validation=RidgeFitter(x.shape[1], 2).update(x[validation], values[validation]))
        predicted = ridge.predict(x[test])
        clusters = (skeletons[test], np.flatnonzero(test), seed)
        rows = []
        for k, number in enumerate(NUMBERS):
            y = values[:, k]
            logistic = fit_on_validation(x[train], y[train], x[validation], y[validation])
            accuracy = stats.accuracy(logistic.predict(x[test]) == y[test], *clusters)
            r_squared = stats.r_squared(y[test], predicted[:, k], *clusters)
            shared = {**about, "variable": f"{number} number", "programs": int(test.sum()), "seed": seed}
            known = {"prefix_majority": majority[k, about["position"] - 1]}
            rows.append({**shared, **stats.columns("logistic", "accuracy", accuracy), **known})
            rows.append({**shared, **stats.columns("ridge", "R2", r_squared)})
        return rows

    rows, done = [], 0
    for name, model in models.items():
        sites = residual_sites(model)
        activations = {site: np.empty((programs, width, model.cfg.d_model), np.float32) for site in sites}
        for batch, cache in harvest(model, drawn, sites):
            for site in sites:
                activations[site][batch] = cache[site][:, 1 : width + 1].cpu().numpy()
        tasks = [
            delayed(probe)(
                activations[site][:, position - 1],
                {"model": name, "site": site, "layer": layer, "position": position},
            )
            for layer, site in enumerate(sites)
            for position in range(1, width + 1)
        ]
        with one_thread():
            for probed in Parallel(n_jobs=-1, backend="threading", return_as="generator")(tasks):
                rows += probed
                done += 1
                if progress is not None:
                    progress(done / (len(models) * len(tasks)))
    return pd.DataFrame(rows)


def _numbers(programs: np.ndarray, family: Compare) -> np.ndarray:
    """The two computed values of each program: int64 [n, 2], as the machine has them after the 2 * length-th token."""
    traces = kernel.traces(programs, entries=2)
    position = 2 * family.length
    return np.stack([labels.read(traces, name).values[:, position] for name in ("stack.1", "stack.0")], 1)


def _standardized(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Features with mean 0 and variance 1 over the training rows; constant ones stay 0."""
    mean, spread = x[train].mean(0), x[train].std(0)
    return (x - mean) / np.where(spread > 1e-6, spread, 1.0)


def token_names(family: Compare) -> list[str]:
    """What stands at each token of a `compare` program: X1 ... X5 Y1 ... Y5 and the relation."""
    return [f"{letter}{i + 1}" for letter in "XY" for i in range(family.length)] + ["rel"]
