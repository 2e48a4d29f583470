"""The same variable at the same site by several probes: how much is read linearly, and by which classifier.

Least squares, discriminant and logistic classifiers over the values, and a network with one hidden layer, the nonlinear
reference: what it reads beyond the others is there, but not linearly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cadmus.runtime.progress import Progress, no_progress
from cadmus.statistics import clustered
from probes.data.activations import token_rows
from probes.data.examples import Examples, labelled
from probes.data.targets import Target, Variable
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
    variables: Mapping[str, str | Variable] | None = None,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """A row per (variable, probe): accuracy on the test tokens at the variable's site, with its interval over
    skeletons.

    sites: hook name by variable; variables: the functions of one's own among them, by name. Penalties are chosen on
    validation tokens, which also stop the network.

    A variable with too little to fit or to judge has no rows: fewer than two values that training has often enough,
    no validation token with one of these, no test token.
    """
    rows: list[dict] = []
    targets = [Target((variables or {}).get(name, name)) for name in sites]
    folds = {name: _tokens(model, examples.fold(name), sites, targets, n) for name, n in ROWS.items()}
    for done, (variable, site) in enumerate(sites.items(), 1):
        x, y, _ = folds["train"].rows(variable, site)
        x_validation, y_validation, _ = folds["validation"].rows(variable, site)
        x_test, y_test, clusters = folds["test"].rows(variable, site)
        values, counts = np.unique(y, return_counts=True)
        values = values[counts >= MIN_OF_CLASS]
        frequent = np.isin(y, values)
        known = np.isin(y_validation, values)
        if len(values) > 1 and known.any() and len(y_test):
            x, y = x[frequent], y[frequent]
            mean, spread = x.mean(0), x.std(0) + 1e-6
            validation = (x_validation[known] - mean) / spread, y_validation[known]
            for name, probe in _fit_probes((x - mean) / spread, y, validation, seed).items():
                correct = probe.predict((x_test - mean) / spread) == y_test
                score = clustered.accuracy(correct, *clusters, seed)
                rows.append({"variable": variable, "site": site, **clustered.columns(name, "accuracy", score)})
        progress("other probes", done / len(sites), variable)
    return pd.DataFrame(rows)


def _fit_probes(x: np.ndarray, y: np.ndarray, validation: tuple[np.ndarray, np.ndarray], seed: int) -> dict[str, Any]:
    """Fit each probe on standardized features, with the penalty that is most accurate on the validation rows."""
    probes: dict[str, Any] = {}
    for name, (kind, parameter, values) in PENALTIES.items():
        candidates = [kind(**{parameter: value}).fit(x, y) for value in values]
        probes[name] = max(candidates, key=lambda probe: probe.score(*validation))
    network = MLPClassifierProbe(hidden=128, epochs=40, patience=4, seed=seed)
    probes["network"] = network.fit(x, y, validation=validation)
    return probes


@dataclass(frozen=True)
class _Tokens:
    """Activations and labels of some tokens of one fold."""

    x: dict[str, np.ndarray]
    """{site: float32 [tokens, features]}."""
    labels: dict[str, tuple[np.ndarray, np.ndarray]]
    """{variable: (values [tokens], whether it is defined, bool [tokens])}."""
    programs: np.ndarray
    """The program of each token, int64 [tokens]."""
    skeletons: np.ndarray
    """The skeleton of each token's program, int64 [tokens]."""

    def rows(self, variable: str, site: str) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """x [rows, features], y [rows] and (skeletons, programs) [rows] where the variable is defined."""
        values, defined = self.labels[variable]
        defined = defined & np.isfinite(self.x[site]).all(1)
        x = self.x[site][defined]
        return x, values[defined].astype(np.int64), (self.skeletons[defined], self.programs[defined])


def _tokens(model: Any, examples: Examples, sites: Mapping[str, str], targets: list[Target], rows: int) -> _Tokens:
    """Take the first programs (their order is random) up to about `rows` tokens."""
    examples = examples[: max(1, int(np.searchsorted(examples.where.sum(1).cumsum(), rows, "right")))]
    read = labelled(examples, targets)
    batches = list(token_rows(model, examples.programs, list(dict.fromkeys(sites.values())), where=examples.where))
    programs = np.concatenate([batch.programs for batch in batches])
    positions = np.concatenate([batch.positions for batch in batches])
    values, mask = read.at(programs, positions)
    labels = {variable: (values[:, k], mask[:, k]) for k, variable in enumerate(sites)}
    x = {site: np.concatenate([batch.activations[site] for batch in batches]) for site in batches[0].activations}
    return _Tokens(x, labels, programs, examples.skeletons[programs])
