"""When does each variable become readable, before or after the behaviour is right?

At every snapshot of runs that differ in their seeds: completion accuracy per family, and the probe score of every
variable, for the machine and for an alternative one. Two curves that both rise correlate, whatever they measure, so
Jin & Rinard's correlation (arXiv 2305.11169) is taken within snapshots, over the seeds, and order in time is a lead
with its interval, the run being the unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.reporting import report
from analyses.studies.dynamics import figures
from analyses.studies.dynamics.relations import MAX_PERMUTATIONS, MIN_RISE, correlations, lead
from cadmus.models.model import Model
from cadmus.runtime.devices import resolve_device
from cadmus.runtime.progress import Progress
from cadmus.states.alternatives import Alternative, alternatives
from cadmus.training import checkpoint
from cadmus.training.completion import evaluate
from probes.data.activations import residual_sites
from probes.data.examples import TRUE_MACHINE, Examples, Target, draw
from probes.measurement.measure import TRAINED, measure

VARIABLES = ("depth", "stack.0.value", "stack.1.value", "needed.relation", "reg.a.value", "reg.b.value")
MIN_RUNS = 5  # for a correlation over runs, or a lead with an interval
SURE = 0.05  # q of a lead that is claimed
_MACHINES = 8  # drawn, of which the middle one is read: far enough to differ, near enough to be as hard


@dataclass(frozen=True)
class DynamicsConfig:
    """Which runs, and how much is measured at each of their snapshots."""

    runs: tuple[str, ...]
    programs: int = 3000  # probed
    eval_programs: int = 300  # completed, per family
    seed: int = 0  # of the programs drawn
    device: str = "auto"

    def __post_init__(self) -> None:
        if len(self.runs) < MIN_RUNS:
            raise ValueError(
                f"{len(self.runs)} runs; a relation over training needs {MIN_RUNS} or more that differ in their "
                "seeds: cadmus-probe train --recipe dynamics --seed K --out runs/dynamics/K"
            )


def run(config: DynamicsConfig, out: Path | str, stage: Progress = lambda name, share, note: None) -> Path:
    """Measure and write the page to `out`; returns its path."""
    table = trajectories(config, stage)
    together, leads = correlations(table), lead(table)
    runs, steps = table.run.nunique(), table.step.nunique()
    sections = (
        report.Section(
            "trajectories",
            "Behaviour and readability over training",
            (
                f"{runs} runs that differ in their seeds, at {steps} snapshots. Left: how many held-out programs of a "
                "family are completed rightly. Middle: how often the probe reads a variable, at the site that is best "
                "on validation programs of that snapshot; the same programs throughout. Right: the same for the states "
                "that an alternative machine has on them.",
            ),
            figure=figures.trajectories(table),
            caption="Thin: each run; thick: their mean.",
            table=table,
        ),
        report.Section(
            "correlations",
            "Together, within a snapshot",
            (
                "Over the runs, at one snapshot: do those whose probe reads more complete more? Scores and accuracies "
                "minus their means at that snapshot, all snapshots pooled; p by permuting the runs' whole trajectories "
                "against each other, exactly. Beside it the same for the states of an alternative machine.",
            ),
            figure=figures.correlations(together) if together.r.notna().any() else None,
            caption=f"With {runs} runs the least p that is possible is "
            f"{1 / min(math.factorial(runs), MAX_PERMUTATIONS):.4f}.",
            table=together,
            shown=_shown(together, "r (p)", _correlation),
        ),
        report.Section(
            "lead",
            "Which comes first",
            (
                "The step at which each curve has come half of its way from its first to its greatest value; the lead "
                f"is how many doublings of training the variable is before the family's behaviour, mean over runs with "
                f"a 95 % t interval. A curve that rises by less than {MIN_RISE} in any run has none. A lead may "
                "only say that what any state needs is learned early: the last column is by how many doublings the "
                "machine's states are readable before those of the alternative machine in the same runs.",
            ),
            figure=figures.leads(leads) if leads.lead.notna().any() else None,
            caption="Right of 0: readable before the behaviour is right.",
            table=leads,
            shown=_shown(leads, "lead (q)", _lead).assign(earlier=_earlier(leads)),
        ),
    )
    about = {
        "command": f"cadmus-probe dynamics {' '.join(config.runs)} --programs {config.programs} --eval-programs "
        f"{config.eval_programs} --seed {config.seed}",
        "runs": ", ".join(table.drop_duplicates("run").fingerprint),
    }
    return report.write(report.Report("Readability over training", summary(together, leads), sections, about), out)


def trajectories(config: DynamicsConfig, stage: Progress = lambda name, share, note: None) -> pd.DataFrame:
    """A row per (run, step, measure): kind "completion" (name: a family), "probe" or "alternative" (name: a variable),
    score, NaN where no probe could be fitted. ValueError where a run has no snapshots, or runs differ in more than
    their seeds."""
    place = resolve_device(config.device)
    runs = [checkpoint.load(source) for source in config.runs]
    snapshots = [checkpoint.snapshots(source) for source in config.runs]
    _check(config.runs, runs, snapshots)
    examples = draw(runs[0].mixture, config.programs, config.seed)
    machine = alternatives(examples.programs[:1000], _MACHINES, config.seed, candidates=12 * _MACHINES)[_MACHINES // 2]
    targets = [Target(variable, 0, name) for name in (TRUE_MACHINE, machine.name) for variable in VARIABLES]
    rows, done = [], 0
    stage("snapshots", 0.0, "")
    for source, trained, kept in zip(config.runs, runs, snapshots, strict=True):
        for step, path in sorted(kept.items()):
            model = checkpoint.load_snapshot(trained, path).to(place).eval()
            about = {"run": source, "seed": trained.seed, "step": step, "fingerprint": trained.fingerprint}
            accuracies = evaluate(
                model,
                trained.mixture,
                splits=("test_skeleton",),
                out_of_distribution=False,
                programs=config.eval_programs,
                seed=config.seed,
            )
            rows += [{**about, "kind": "completion", "name": a.family, "score": a.accuracy} for a in accuracies]
            rows += [{**about, **row} for row in _read(model, examples, targets, machine)]
            done += 1
            stage("snapshots", done / (len(runs) * len(kept)), f"{source}, step {step}")
    return pd.DataFrame(rows)


def _check(sources: tuple[str, ...], runs: list[checkpoint.Checkpoint], snapshots: list[dict[int, Path]]) -> None:
    for source, trained, kept in zip(sources, runs, snapshots, strict=True):
        if not kept:
            raise ValueError(f"{source} has no snapshots; train it with snapshots = 24 in its recipe, as dynamics has")
        differing = {
            "other snapshots": kept.keys() != snapshots[0].keys(),
            "another mixture": trained.mixture.fingerprint != runs[0].mixture.fingerprint,
            "another architecture": trained.model.cfg != runs[0].model.cfg,
        }
        if any(differing.values()):
            said = " and ".join(what for what, is_so in differing.items() if is_so)
            raise ValueError(f"{source} has {said} than {sources[0]}; give runs of one recipe")
    seeds = [trained.seed for trained in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"the runs have the seeds {seeds}; give each seed once")


def _read(model: Model, examples: Examples, targets: list[Target], machine: Alternative) -> list[dict]:
    """The test score of each target at the site that reads most in the validation programs."""
    sites = residual_sites(model)
    found = measure(model, examples, targets, sites, machines={machine.name: machine.semantics}, controls=False)
    rows = []
    for k, target in enumerate(targets):
        site = max(sites, key=lambda site: found.validation[site][k])
        n = found.counts.right_all[k].sum()
        fitted = n and k not in found.readouts[TRAINED, site].problems
        score = found.tallies[TRAINED, site].right_all[k].sum() / n if fitted else np.nan
        kind = "probe" if target.machine == TRUE_MACHINE else "alternative"
        rows.append({"kind": kind, "name": target.name, "score": float(score), "site": site})
    return rows


def summary(together: pd.DataFrame, leads: pd.DataFrame) -> tuple[str, ...]:
    """What may be said of the machine's own variables."""
    own = leads[(leads.kind == "probe") & leads.lead.notna()]
    sure = own[own.q < SURE]
    before, after = sure[sure.lead > 0], sure[sure.lead < 0]
    sooner = own[own.earlier_low > 0].drop_duplicates("variable")
    linked = together[(together.kind == "probe") & (together.p < 0.05)]
    said = ", ".join(f"{row.variable} with {row.family} (r {row.r:.2f}, p {row.p:.3f})" for row in linked.itertuples())
    return (
        f"Readable before the behaviour is right (q < {SURE} over {len(own)} pairs): {_pairs(before)}.",
        f"After it: {_pairs(after)}.",
        "Earlier than the same variable of an alternative machine in the same runs, so that the order is of this state "
        "and not of what any state needs: " + (_listed(sooner) or "none") + ".",
        f"Related within snapshots over the runs (p < 0.05, uncorrected): {said or 'nothing'}.",
    )


def _listed(rows: pd.DataFrame) -> str:
    return "; ".join(
        f"{row.variable} by {report.with_interval(row.earlier, row.earlier_low, row.earlier_high)} doublings"
        for row in rows.itertuples()
    )


def _pairs(rows: pd.DataFrame) -> str:
    said = []
    for row in rows.itertuples():
        order, sign = ("before", 1) if row.lead > 0 else ("after", -1)
        low, high = sorted((sign * row.low, sign * row.high))
        said.append(
            f"{row.variable} {order} {row.family} by {report.with_interval(abs(row.lead), low, high)} doublings"
        )
    return "; ".join(said) or "none"


def _shown(table: pd.DataFrame, name: str, said: Callable[[Any], str]) -> pd.DataFrame:
    """A row per variable and family: what is `said` of the machine's states, and of an alternative machine's."""
    columns = {}
    for kind, whose in (("probe", "the machine"), ("alternative", "an alternative machine")):
        part = table[table.kind == kind].set_index(["variable", "family"])
        columns[f"{name}, {whose}"] = pd.Series([said(row) for row in part.itertuples()], part.index, dtype=str)
    return pd.DataFrame(columns).reset_index()


def _correlation(row: Any) -> str:
    return "" if np.isnan(row.r) else f"{report.number(row.r)} ({row.p:.3f})"


def _lead(row: Any) -> str:
    return "" if np.isnan(row.lead) else f"{report.with_interval(row.lead, row.low, row.high)} ({row.q:.3f})"


def _earlier(leads: pd.DataFrame) -> list[str]:
    own = leads[leads.kind == "probe"]
    return [
        "" if np.isnan(row.earlier) else report.with_interval(row.earlier, row.earlier_low, row.earlier_high)
        for row in own.itertuples()
    ]
