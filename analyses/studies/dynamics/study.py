"""When does each variable become readable, before or after the behaviour is right?

At every snapshot of runs that differ in their seeds: completion accuracy per family, and the probe score of every
variable, for the machine and for an alternative one. Two curves that both rise correlate, whatever they measure, so
Jin & Rinard's correlation (arXiv 2305.11169) is taken within snapshots, over the seeds, and order in time is a lead
with its interval, the run being the unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.studies.dynamics.relations import correlations, lead
from cadmus.models.model import Model
from cadmus.programs.mixture import Mixture
from cadmus.runtime.checks import check_at_least, check_seed, check_text_lists
from cadmus.runtime.devices import resolve_device
from cadmus.runtime.progress import Progress, no_progress
from cadmus.states.alternatives import Alternative, alternatives
from cadmus.training import checkpoint
from cadmus.training.completion import evaluate
from probes.data.activations import residual_sites
from probes.data.examples import Examples, draw
from probes.data.targets import TRUE_MACHINE, Target
from probes.measurement.measure import measure
from probes.measurement.plan import TRAINED

VARIABLES = ("depth", "stack.0.value", "stack.1.value", "needed.relation", "reg.a.value", "reg.b.value")
MIN_RUNS = 5  # for a correlation over runs, or a lead with an interval
_MACHINES = 8  # drawn, of which the middle one is read: far enough to differ, near enough to be as hard


@dataclass(frozen=True)
class DynamicsConfig:
    """Which runs, and how much is measured at each of their snapshots."""

    runs: tuple[str, ...]
    """Folders that `cadmus-probe train` wrote, with snapshots, or models that ship; of one recipe, each of another
    seed."""
    programs: int = 3000
    """Programs probed."""
    eval_programs: int = 300
    """Held-out programs completed, of each family."""
    seed: int = 0
    """Seed of the programs drawn."""
    device: str = "auto"
    """`cpu`, `cuda` or `mps`; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        check_text_lists(self, "runs")
        if len(self.runs) < MIN_RUNS:
            raise ValueError(
                f"{len(self.runs)} runs; a relation over training needs {MIN_RUNS} or more that differ in their "
                "seeds: cadmus-probe train --recipe dynamics --seed K --out runs/dynamics/K"
            )
        check_at_least(self, 1, "programs", "eval_programs")
        check_seed(self)


@dataclass(frozen=True)
class DynamicsResults:
    """What was measured at every snapshot, and how readability and behaviour relate over training."""

    config: DynamicsConfig
    """What was measured."""
    trajectories: pd.DataFrame
    """A row per (run, step, measure), as `trajectories` gives them."""
    correlations: pd.DataFrame
    """A row per (kind, variable, family), as `relations.correlations` gives them."""
    leads: pd.DataFrame
    """A row per (kind, variable, family), as `relations.lead` gives them."""


def run(config: DynamicsConfig, progress: Progress = no_progress) -> DynamicsResults:
    """Measure every snapshot, and relate readability to behaviour."""
    table = trajectories(config, progress)
    return DynamicsResults(config, table, correlations(table), lead(table))


def trajectories(config: DynamicsConfig, progress: Progress = no_progress) -> pd.DataFrame:
    """Completion accuracies and probe scores at every snapshot of the runs.

    Returns a row per (run, step, measure): kind "completion" (name: a family), "probe" or "alternative" (name: a
    variable), and its score, NaN where no probe could be fitted. Raises ValueError where a run has no snapshots, or
    runs differ in more than their seeds.
    """
    device = resolve_device(config.device)
    runs = [checkpoint.load(source) for source in config.runs]
    snapshots = [checkpoint.snapshots(source) for source in config.runs]
    _check(config.runs, runs, snapshots)
    examples = draw(runs[0].mixture, config.programs, config.seed)
    machine = alternatives(examples.programs[:1000], _MACHINES, config.seed, candidates=12 * _MACHINES)[_MACHINES // 2]
    targets = [Target(variable, 0, name) for name in (TRUE_MACHINE, machine.name) for variable in VARIABLES]
    rows, done = [], 0
    progress("snapshots", 0.0, "")
    for source, trained, paths in zip(config.runs, runs, snapshots, strict=True):
        for step, path in sorted(paths.items()):
            model = checkpoint.load_snapshot(trained, path).to(device).eval()
            keys = {"run": source, "seed": trained.seed, "step": step, "fingerprint": trained.fingerprint}
            rows += [{**keys, **row} for row in _completion_scores(model, trained.mixture, config)]
            rows += [{**keys, **row} for row in _probe_scores(model, examples, targets, machine)]
            done += 1
            progress("snapshots", done / (len(runs) * len(paths)), f"{source}, step {step}")
    return pd.DataFrame(rows)


def _check(sources: tuple[str, ...], runs: list[checkpoint.Checkpoint], snapshots: list[dict[int, Path]]) -> None:
    """ValueError unless the runs have the same snapshots, mixture and architecture, and each a seed of its own."""
    for source, trained, paths in zip(sources, runs, snapshots, strict=True):
        if not paths:
            raise ValueError(f"{source} has no snapshots; train it with snapshots = 24 in its recipe, as dynamics has")
        differing = {
            "other snapshots": paths.keys() != snapshots[0].keys(),
            "another mixture": trained.mixture.fingerprint != runs[0].mixture.fingerprint,
            "another architecture": trained.model.cfg != runs[0].model.cfg,
        }
        if any(differing.values()):
            differences = " and ".join(what for what, differs in differing.items() if differs)
            raise ValueError(f"{source} has {differences} than {sources[0]}; give runs of one recipe")
    seeds = [trained.seed for trained in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"the runs have the seeds {seeds}; give each seed once")


def _completion_scores(model: Model, mixture: Mixture, config: DynamicsConfig) -> list[dict[str, Any]]:
    """The completion accuracy of each family, on programs of skeletons that training never saw."""
    accuracies = evaluate(
        model,
        mixture,
        splits=("test_skeleton",),
        out_of_distribution=False,
        programs=config.eval_programs,
        seed=config.seed,
    )
    return [{"kind": "completion", "name": row.family, "score": row.accuracy} for row in accuracies]


def _probe_scores(
    model: Model, examples: Examples, targets: list[Target], machine: Alternative
) -> list[dict[str, Any]]:
    """The test score of each target at the site that reads most in the validation programs."""
    sites = residual_sites(model)
    measurement = measure(model, examples, targets, sites, machines={machine.name: machine.semantics}, controls=False)
    rows = []
    for k, target in enumerate(targets):
        site = max(sites, key=lambda site: measurement.validation[site][k])
        n = measurement.tested.counts.correct[k].sum()
        fitted = n and k not in measurement.site_probes[TRAINED, site].problems
        score = measurement.tested.tallies[TRAINED, site].correct[k].sum() / n if fitted else np.nan
        kind = "probe" if target.machine == TRUE_MACHINE else "alternative"
        rows.append({"kind": kind, "name": target.name, "score": float(score), "site": site})
    return rows
