"""What of the machine's state does a model hold, and what does it use? Every variable tested by intervention.

For each variable pairs of programs are drawn that differ in its value; the value is exchanged inside the model, at
every block and role, and the machine says what must be answered then (`probes.interventions.experiment`). An experiment
is saved as soon as it is finished, and one of the same model, pairs and code is read instead of being made again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd

from analyses.reporting.stored import code_fingerprint
from analyses.studies.interventions import tables
from cadmus import DEFAULT_MODEL
from cadmus.programs.mixture import Mixture
from cadmus.runtime import artifacts
from cadmus.runtime.checks import check_at_least, check_seed, check_text_lists
from cadmus.runtime.devices import resolve_device
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.threads import on_threads
from cadmus.training import checkpoint
from probes.controls.untrained import untrained_twin
from probes.interventions.counterfactuals.variables import resolve_variable
from probes.interventions.experiment import experiment
from probes.interventions.experiment.experiment import Experiment, TooFewPairs

VARIABLES = ("reg", "stack.0", "stack.1", "compare.first", "compare.second", "sequence", "argument")
STAGES = (
    "pairs",
    "interchange",
    "controls",
    "readability",
    "attention",
    "knock-outs",
    "edits",
    "dead values",
    "subspaces",  # with `full`
    "attribution",
)
DONE = "done"  # the stage of an experiment that is finished
NOT_TRAINED = "the model was trained on no programs that have it"
MIN_PAIRS = 20
EXPERIMENTS = "experiments"  # the folder beside the page in which they are saved


@dataclass(frozen=True)
class InterventionsConfig:
    """Which models are tested, and how thoroughly."""

    runs: tuple[str, ...] = (DEFAULT_MODEL,)
    """Models that ship with the package, or folders that `cadmus-probe train` wrote; the page is about the first, and
    says in how many of them each finding holds."""
    variables: tuple[str, ...] = ()
    """Variables to test; none named: all of `VARIABLES` whose programs a model was trained on."""
    pairs: int = 300
    """Pairs of programs for each variable."""
    seed: int = 0
    """Seed of the pairs and of the resampling."""
    quick: bool = False
    """Fewer pairs and cells, for a look."""
    full: bool = False
    """All spans of roles, controls in every cell, all kinds of edges on all pairs, paths between heads, subspaces and
    attribution."""
    device: str = "auto"
    """`cpu`, `cuda` or `mps`; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        check_text_lists(self, "runs", "variables")
        check_at_least(self, MIN_PAIRS, "pairs")
        check_seed(self)
        if self.quick and self.full:
            raise ValueError("quick and full exclude each other; ask for one of them")
        if not self.runs:
            raise ValueError("no model is named; name one or more")
        for kind, names in (("model", self.runs), ("variable", self.variables)):
            repeated = [name for name in names if names.count(name) > 1]
            if repeated:
                raise ValueError(f"{repeated[0]} is named twice; name each {kind} once")
        for variable in self.variables:
            resolve_variable(variable)

    @property
    def names(self) -> tuple[str, ...]:
        """What the page calls the models: the last part of each path, or all of it where two end alike."""
        last = [Path(run).name for run in self.runs]
        return tuple(run if last.count(name) > 1 else name for run, name in zip(self.runs, last, strict=True))


@dataclass(frozen=True)
class ModelResults:
    """What was found in one model."""

    name: str
    """What the page calls it."""
    trained: checkpoint.Checkpoint
    """The model."""
    tables: tables.Tables
    """The tables of all variables."""
    headlines: pd.DataFrame
    """A row per variable: what is found of it (`tables.headlines`)."""
    untested: Mapping[str, str]
    """Why variables of `VARIABLES` were not tested: the model was not trained on their programs, or too few pairs were
    found of one that was not named."""


@dataclass(frozen=True)
class InterventionsResults:
    """What was found in each model."""

    config: InterventionsConfig
    """What was asked for."""
    models: tuple[ModelResults, ...]
    """In the order of `config.runs`."""


def run(
    config: InterventionsConfig, progress: Progress = no_progress, folder: Path | str | None = None
) -> InterventionsResults:
    """Test every variable in every model.

    folder: of a page of this study; its finished experiments of the same fingerprint are read, new ones saved there.
    None: nothing is saved. Raises ValueError for a variable that a model's mixture has no programs of, before any work
    is done, and where too few pairs are found of one that is named, or of all.
    """
    checkpoints = [checkpoint.load(run) for run in config.runs]
    for name, trained in zip(config.names, checkpoints, strict=True):
        _check_variables(config.variables, name, trained.mixture)
    models = []
    for name, trained in zip(config.names, checkpoints, strict=True):
        label = f"{name}, " if len(config.runs) > 1 else ""
        models.append(_test(config, name, trained, progress, label, folder))
    return InterventionsResults(config, tuple(models))


def _test(
    config: InterventionsConfig,
    name: str,
    trained: checkpoint.Checkpoint,
    progress: Progress,
    label: str,
    folder: Path | str | None,
) -> ModelResults:
    """Test every variable in one model: on a CPU several side by side, each on a thread of its own."""
    model = trained.model.to(resolve_device(config.device)).eval()
    twin = untrained_twin(model, trained.seed)
    present = _present(trained.mixture)
    untested = {} if config.variables else {v: NOT_TRAINED for v in VARIABLES if v not in present}
    progress = _in_turn(progress)

    def test(variable: str) -> Experiment | TooFewPairs:
        bar = _one_bar(progress, f"{label}{variable}")
        place = None if folder is None else Path(folder) / EXPERIMENTS / f"{variable}-{key(config, trained, variable)}"
        return _experiment(config, trained, twin, variable, place, bar)

    variables = config.variables or present
    is_on_cpu = next(model.parameters()).device.type == "cpu"
    calls = [(variable,) for variable in variables]
    several = on_threads(test, calls) if is_on_cpu and len(calls) > 1 else [test(variable) for variable in variables]
    results = dict(zip(variables, several, strict=True))
    untested |= {variable: str(error) for variable, error in results.items() if isinstance(error, TooFewPairs)}
    experiments = {variable: result for variable, result in results.items() if isinstance(result, Experiment)}
    if not experiments:
        raise TooFewPairs(f"{name}: too few pairs of every variable; {next(iter(untested.values()))}")
    frames = tables.Tables.of(experiments)
    return ModelResults(name, trained, frames, tables.headlines(frames), untested)


def _experiment(
    config: InterventionsConfig,
    trained: checkpoint.Checkpoint,
    twin: Any,
    variable: str,
    place: Path | None,
    progress: Progress,
) -> Experiment | TooFewPairs:
    """The experiment of one variable, read from its place or saved there as soon as it is finished; the error where
    there are too few pairs of a variable that was not named. Raises TooFewPairs for one that was."""
    stored = _load(place)
    if stored is not None:
        progress(DONE, 1.0, "read from an earlier run")
        return stored
    start = time.monotonic()
    try:
        result = experiment.test(
            trained.model,
            variable,
            mixture=trained.mixture,
            pairs=config.pairs,
            seed=config.seed,
            untrained=twin,
            quick=config.quick,
            full=config.full,
            progress=progress,
        )
    except TooFewPairs as error:
        if config.variables:
            raise
        progress(DONE, 1.0, "too few pairs")
        return error
    if place is not None:
        result.save(place)
    progress(DONE, 1.0, f"{time.monotonic() - start:.0f} s")
    return result


def _in_turn(progress: Progress) -> Progress:
    """The same, called by one thread at a time."""
    lock = Lock()

    def report(stage: str, fraction: float, note: str = "") -> None:
        with lock:
            progress(stage, fraction, note)

    return report


def _one_bar(progress: Progress, name: str) -> Progress:
    """One bar for all stages of a variable, which names the stage under way; it is full when the variable is done."""
    reached = 0.0

    def report(stage: str, fraction: float, note: str = "") -> None:
        nonlocal reached
        if stage == DONE:
            progress(name, 1.0, note)
            return
        if stage in STAGES:  # what else there is, is part of the stage under way
            reached = max(reached, (STAGES.index(stage) + fraction) / len(STAGES))
        progress(name, min(reached, 0.99), stage)

    return report


# --- which variables -------------------------------------------------------------------------------------------------


def _present(mixture: Mixture) -> tuple[str, ...]:
    """The variables of `VARIABLES` that programs of the mixture have. Raises ValueError where there is none."""
    families = {family.name for family in mixture.families}
    present = tuple(variable for variable in VARIABLES if families & set(resolve_variable(variable).families))
    if not present:
        raise ValueError(
            f"mixture {mixture.name!r} has none of the variables {', '.join(VARIABLES)}; it has the families "
            f"{', '.join(sorted(families))}"
        )
    return present


def _check_variables(variables: Sequence[str], name: str, mixture: Mixture) -> None:
    """ValueError for a variable that no family of a model's mixture has, or where none is named and it has none."""
    if not variables:
        _present(mixture)
    families = [family.name for family in mixture.families]
    for variable in variables:
        needed = resolve_variable(variable).families
        if not set(needed) & set(families):
            raise ValueError(
                f"{name} was trained on no programs of {' or '.join(needed)}, which {variable} is a variable of; its "
                f"mixture has {', '.join(families)}"
            )


# --- experiments on disk ---------------------------------------------------------------------------------------------


def key(config: InterventionsConfig, trained: checkpoint.Checkpoint, variable: str) -> str:
    """What names an experiment: the same for the same weights, mixture, pairs, settings and code."""
    return artifacts.fingerprint(
        {
            "model": trained.fingerprint,
            "untrained": trained.seed,
            "mixture": trained.mixture.fingerprint,
            "machine": artifacts.machine_fingerprint(),
            "variable": variable,
            "settings": [config.pairs, config.seed, config.quick, config.full],
            "code": code_fingerprint(),
        }
    )


def _load(place: Path | None) -> Experiment | None:
    """The experiment saved there; None where there is none, or one that was damaged."""
    if place is None or not place.exists():
        return None
    try:
        return Experiment.load(place)
    except artifacts.ArtifactError:
        return None
