"""The paper's measurements: Table 3, and Figures 1 and 2 on `compare` programs, X Y relation.

Table 3: how often a held-out program is completed correctly (`cadmus.training.completion`). Figure 1: where in the
plane of X and Y the model tells their relation. Figure 2: how well each number can be read at each token, by probes per
(layer, token, number) on the residual stream, against what the instructions seen so far give away and against the same
probes on the untrained model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analyses.reporting.behaviour import completion_table
from analyses.studies.paper.prefix import prefix_majority
from cadmus import DEFAULT_MODEL
from cadmus.corpora import held_out
from cadmus.machine import kernel
from cadmus.models.model import Model
from cadmus.programs.families import Compare
from cadmus.runtime.checks import check_at_least, check_seed
from cadmus.runtime.devices import resolve_device
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.threads import on_threads
from cadmus.states import variables
from cadmus.statistics import clustered
from cadmus.training import checkpoint
from cadmus.training.plane import figure1
from probes.controls.untrained import untrained_twin
from probes.data.activations import batches, residual_sites
from probes.data.folds import FOLDS, skeleton_folds, skeleton_ids
from probes.solvers.linear import ridge
from probes.solvers.logistic import fit_on_validation
from probes.solvers.moments import Moments

MIN_NUMBER_PROGRAMS = 100  # of Figure 2
NUMBERS = ("first", "second")


@dataclass(frozen=True)
class PaperConfig:
    """Which model is measured, and on what."""

    run: str = DEFAULT_MODEL
    """A model that ships with the package, or a folder that `cadmus-probe train` wrote; its mixture must hold
    compare."""
    eval_programs: int = 1000
    """Programs completed for Table 3, of each family and split."""
    reach: int = 40
    """X and Y of Figure 1 lie in -reach..reach."""
    programs: int = 10
    """Programs of Figure 1 for each X and Y."""
    number_programs: int = 5000
    """Programs of Figure 2."""
    seed: int = 0
    """Seed of the programs drawn."""
    device: str = "auto"
    """`cpu`, `cuda` or `mps`; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "eval_programs", "reach", "programs")
        check_at_least(self, MIN_NUMBER_PROGRAMS, "number_programs")
        check_seed(self)


@dataclass(frozen=True)
class PaperResults:
    """The tables of the paper's measurements."""

    config: PaperConfig
    """What was measured."""
    trained: checkpoint.Checkpoint
    """The model."""
    family: Compare
    """The compare programs of the model's mixture."""
    accuracies: pd.DataFrame
    """Table 3: rows of `cadmus.training.completion`."""
    plane: pd.DataFrame
    """Figure 1: a row per X and Y, as `cadmus.training.plane.figure1` gives them."""
    numbers: pd.DataFrame
    """Figure 2: rows per (model, site, token, number), as `figure2` gives them."""


def run(config: PaperConfig, progress: Progress = no_progress) -> PaperResults:
    """Complete, answer and probe. Raises ValueError where the mixture has no compare."""
    trained = checkpoint.load(config.run)
    family = trained.mixture.family("compare")
    assert isinstance(family, Compare), "the class of that name"
    trained.model.to(resolve_device(config.device)).eval()
    accuracies = completion_table(trained, config.eval_programs, config.seed, progress).assign(**identity(trained))
    return PaperResults(config, trained, family, accuracies, **measure(config, trained, progress))


def measure(
    config: PaperConfig, trained: checkpoint.Checkpoint, progress: Progress = no_progress
) -> dict[str, pd.DataFrame]:
    """Figures 1 and 2 of a model that is on its device: the tables `plane` and `numbers` of `PaperResults`."""
    family = trained.mixture.family("compare")
    assert isinstance(family, Compare), "the class of that name"
    plane = figure1(
        trained.model,
        family,
        trained.mixture.hold_out,
        reach=config.reach,
        programs=config.programs,
        seed=config.seed,
        progress=progress,
    )
    numbers = figure2(
        {"trained": trained.model, "untrained": untrained_twin(trained.model, trained.seed)},
        family,
        programs=config.number_programs,
        seed=config.seed,
        progress=progress,
    )
    return {"plane": plane.assign(**identity(trained)), "numbers": numbers.assign(**identity(trained))}


def identity(trained: checkpoint.Checkpoint) -> dict[str, str]:
    """Which model and corpus a table is of, as its columns `run` and `corpus`."""
    return {"run": trained.fingerprint, "corpus": trained.corpus_fingerprint}


# --- Figure 2 --------------------------------------------------------------------------------------------------------


def figure2(
    models: dict[str, Model],
    family: Compare,
    *,
    programs: int = 5000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """How well each of the two numbers is read at each token: two rows per (model, site, token position, number), the
    accuracy of a logistic probe (the paper's) and the R² of a ridge probe.

    Probes are trained and judged on skeletons that neither the model's training nor, for the judgement, the probe's
    has seen.

    Args:
        models: names -> the trained model and its twins, all of one architecture.
        family: its programs of one statement whose expressions have the greatest length are read.
        programs: how many.
        seed: of the programs drawn and of the resamples.
        progress: is told which share of the probes is fitted.

    Returns:
        A tidy table. `position` is the model's (0 the marker), so the tokens are 1 ... 2 * length + 1; beside
        accuracies stands `prefix_majority`, which is exact (`prefix.prefix_majority`).

    Raises:
        ValueError: the family has no such programs.
    """
    family = replace(family, assertions=1, min_length=0)
    texts = held_out.held_out(family, "test_skeleton", programs, seed)
    probe = _NumberProbe(texts, _numbers(texts, family), prefix_majority(family), seed)
    width = 2 * family.length + 1
    rows = []
    for done, (name, model) in enumerate(models.items()):
        sites = residual_sites(model)
        activations = _token_activations(model, texts, sites, width)
        cells = [
            (activations[site][:, position - 1], {"model": name, "site": site, "layer": layer, "position": position})
            for layer, site in enumerate(sites)
            for position in range(1, width + 1)
        ]

        for cell_rows in on_threads(probe, cells, "probe the two numbers", _part_of(progress, done, len(models))):
            rows += cell_rows
    return pd.DataFrame(rows)


def _part_of(progress: Progress, done: int, parts: int) -> Progress:
    """The progress of one of several parts, of which `done` are done, as a fraction of all."""
    return lambda stage, fraction, note: progress(stage, (done + fraction) / parts, note)


def _token_activations(model: Model, programs: np.ndarray, sites: list[str], width: int) -> dict[str, np.ndarray]:
    """Activations of the first `width` tokens of each program: {site: float32 [programs, width, d_model]}."""
    activations = {site: np.empty((len(programs), width, model.cfg.d_model), np.float32) for site in sites}
    for batch, cache in batches(model, programs, sites):
        for site in sites:
            activations[site][batch] = cache[site][:, 1 : width + 1].cpu().numpy()
    return activations


class _NumberProbe:
    """Fits and judges both probes of both numbers on the activations of one cell (model, site, token)."""

    def __init__(self, programs: np.ndarray, values: np.ndarray, majority: np.ndarray, seed: int):
        """programs uint8 [n, width]; values int64 [n, 2]; majority float [2, tokens]: `prefix_majority`."""
        self.values, self.majority, self.seed = values, majority, seed
        folds = skeleton_folds(programs)
        self.train, self.validation, self.test = (folds == FOLDS.index(name) for name in FOLDS)
        self.clusters = (skeleton_ids(programs)[self.test], np.flatnonzero(self.test), seed)

    def __call__(self, x: np.ndarray, keys: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of one cell; x float32 [n, features]; keys: the cell's columns."""
        train, validation, test = self.train, self.validation, self.test
        x = _standardize(x, train)
        predict = ridge(
            Moments.of(x[train], self.values[train]), validation=Moments.of(x[validation], self.values[validation])
        )
        predicted = predict(x[test])
        rows = []
        for k, number in enumerate(NUMBERS):
            y = self.values[:, k]
            logistic = fit_on_validation(x[train], y[train], x[validation], y[validation])
            accuracy = clustered.accuracy(logistic.predict(x[test]) == y[test], *self.clusters)
            r_squared = clustered.r_squared(y[test], predicted[:, k], *self.clusters)
            shared = {**keys, "variable": f"{number} number", "programs": int(test.sum()), "seed": self.seed}
            majority = {"prefix_majority": self.majority[k, keys["position"] - 1]}
            rows.append({**shared, **clustered.columns("logistic", "accuracy", accuracy), **majority})
            rows.append({**shared, **clustered.columns("ridge", "R2", r_squared)})
        return rows


def _numbers(programs: np.ndarray, family: Compare) -> np.ndarray:
    """The two computed values of each program: int64 [n, 2], as the machine has them after the 2 * length-th token."""
    traces = kernel.traces(programs, entries=2)
    position = 2 * family.length
    return np.stack([variables.read(traces, name).values[:, position] for name in ("stack.1", "stack.0")], 1)


def _standardize(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Give each feature mean 0 and variance 1 over the training rows; a constant one becomes 0."""
    mean, spread = x[train].mean(0), x[train].std(0)
    return (x - mean) / np.where(spread > 1e-6, spread, 1.0)


def token_names(family: Compare) -> list[str]:
    """The names of the tokens of a `compare` program: X1 ... X5 Y1 ... Y5 and the relation."""
    return [f"{letter}{i + 1}" for letter in "XY" for i in range(family.length)] + ["rel"]
