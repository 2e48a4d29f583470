"""Does the probe compute the state, or the model represent it? Selectivity against machines at graded distance.

After Jin & Rinard (arXiv 2305.11169): the same probe is retrained on the states that alternative machines
(`cadmus.states.alternatives`) have on the same programs. What a probe computes from the tokens it computes as well for
them; what the model represents serves the true machine better, by a margin that grows with the distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analyses.studies.state import study as state
from analyses.studies.state.gaps import by_distance
from cadmus import DEFAULT_MODEL
from cadmus.runtime.checks import check_at_least
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training import checkpoint


@dataclass(frozen=True)
class AlternativesConfig:
    """Which model, on how many programs, against how many machines."""

    run: str = DEFAULT_MODEL
    """A model that ships with the package, or a folder that `cadmus-probe train` wrote."""
    programs: int = 20_000
    """Programs probed, of skeletons that no training saw."""
    machines: int = 8
    """Alternative machines, at distances spread evenly up to the farthest."""
    seed: int = 0
    """Seed of the programs drawn."""
    device: str = "auto"
    """`cpu`, `cuda` or `mps`; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "machines")
        self.state_config()  # which holds programs and seed against their bounds

    def state_config(self) -> state.StateConfig:
        """What the state study has to measure: the present states alone."""
        return state.StateConfig(
            run=self.run,
            programs=self.programs,
            offsets=(0,),
            machines=self.machines,
            roles=False,
            nonlinear=False,
            seed=self.seed,
            device=self.device,
        )


@dataclass(frozen=True)
class AlternativesResults:
    """The machines, and how much more selective probes are for the true machine's states than for theirs."""

    config: AlternativesConfig
    """What was measured."""
    trained: checkpoint.Checkpoint
    """The model."""
    machines: pd.DataFrame
    """A row per alternative machine: what it exchanges, its distance, how uncertain its labels are."""
    gaps: pd.DataFrame
    """A row per (site, variable, machine), as `probes.measurement.scores.gaps` gives them."""
    gaps_by_distance: pd.DataFrame
    """The gaps at each variable's best site, with the distance of the machine (`studies.state.gaps.by_distance`)."""


def run(config: AlternativesConfig, progress: Progress = no_progress) -> AlternativesResults:
    """Retrain the state study's probes on the states of every machine."""
    results = state.run(config.state_config(), progress)
    return AlternativesResults(config, results.trained, results.machines, results.gaps, by_distance(results))
