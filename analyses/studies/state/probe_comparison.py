"""The same variable at the same site by several probes: how much is read linearly, and by which classifier.

Least squares, discriminant and logistic classifiers over the values, and a network with one hidden layer, the nonlinear
reference: what it reads beyond the others is there, but not linearly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from cadmus.statistics import clustered
from probes.data.activations import token_rows
from probes.data.examples import Examples, Target, labelled
from probes.solvers.estimators import DiscriminantProbe, LeastSquaresProbe
from probes.solvers.logistic import LogisticProbe
from probes.solvers.mlp import MLPClassifierProbe
from probes.solvers.site_probes import MIN_OF_CLASS

ROWS = {"train": 12_000, "validation": 4_000, "test": 8_000}  # tokens of each fold
PENALTIES = {
    "least squares": (LeastSquaresProbe, "alpha", (1.0, 1e2, 1e4)),
    "discriminant": (DiscriminantProbe, "shrinkage", (1e-4, 1e-2, 1e-1)),
    "logistic": (LogisticProbe, "C", (1e-3, 1e-1)),
}


def compare(
    model: Any,
    examples: Examples,
    sites: Mapping[str, str],
    *,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> pd.DataFrame:
    """A row per (variable, probe): accuracy on the test tokens at the variable's site, with its interval over
    skeletons. sites: hook name by variable. Penalties are chosen on validation tokens, which also stop the network.

    A variable with too little to fit or to judge has no rows: fewer than two values that training has often enough,
    no validation token with one of these, no test token.
    """
    rows: list[dict] = []
    folds = {name: _tokens(model, examples.fold(name), sites, most) for name, most in ROWS.items()}
    for done, (variable, site) in enumerate(sites.items()):
        (x, y, _), (x_held, y_held, _), (x_test, y_test, clusters) = (
            folds[name].of(variable, site) for name in ("train", "validation", "test")
        )
        values, counts = np.unique(y, return_counts=True)
        values = values[counts >= MIN_OF_CLASS]
        often, known = np.isin(y, values), np.isin(y_held, values)
        if len(values) > 1 and known.any() and len(y_test):
            x, y = x[often], y[often]
            mean, spread = x.mean(0), x.std(0) + 1e-6
            held = (x_held[known] - mean) / spread, y_held[known]
            for name, probe in _fitted((x - mean) / spread, y, held, seed).items():
                right = probe.predict((x_test - mean) / spread) == y_test
                score = clustered.accuracy(right, *clusters, seed)
                rows.append({"variable": variable, "site": site, **clustered.columns(name, "accuracy", score)})
        progress((done + 1) / len(sites))
    return pd.DataFrame(rows)


def _fitted(x: np.ndarray, y: np.ndarray, held: tuple[np.ndarray, np.ndarray], seed: int) -> dict[str, Any]:
    """Each probe on standardized features, with the penalty that is most accurate on the validation rows `held`."""
    found = {}
    for name, (kind, parameter, values) in PENALTIES.items():
        candidates = [kind(**{parameter: value}).fit(x, y) for value in values]
        found[name] = max(candidates, key=lambda probe: probe.score(*held))
    found["network"] = MLPClassifierProbe(hidden=128, epochs=40, patience=4, seed=seed).fit(x, y, validation=held)
    return found


class _Tokens:
    """Activations and labels of some tokens of one fold."""

    def __init__(self, x: dict[str, np.ndarray], labels: dict[str, tuple], programs: np.ndarray, skeletons: np.ndarray):
        self.x, self.labels, self.programs, self.skeletons = x, labels, programs, skeletons

    def of(self, variable: str, site: str) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """x [rows, features], y [rows] and (skeletons, programs) [rows] where the variable is defined."""
        values, defined = self.labels[variable]
        defined = defined & np.isfinite(self.x[site]).all(1)
        x = self.x[site][defined]
        return x, values[defined].astype(np.int64), (self.skeletons[defined], self.programs[defined])


def _tokens(model: Any, examples: Examples, sites: Mapping[str, str], rows: int) -> _Tokens:
    """The tokens of the first programs (their order is random) that have about so many."""
    examples = examples[: max(1, int(np.searchsorted(examples.where.sum(1).cumsum(), rows, "right")))]
    targets = [Target(variable) for variable in sites]
    read = labelled(examples, targets)
    batches = list(token_rows(model, examples.programs, list(dict.fromkeys(sites.values())), where=examples.where))
    programs, positions = (np.concatenate([getattr(b, name) for b in batches]) for name in ("programs", "positions"))
    values, defined = read.at(programs, positions)
    labels = {v: (values[:, k], defined[:, read.mask_of[k]]) for k, v in enumerate(sites)}
    x = {site: np.concatenate([b.activations[site] for b in batches]) for site in batches[0].activations}
    return _Tokens(x, labels, programs, examples.skeletons[programs])
