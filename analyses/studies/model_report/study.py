"""Everything about a trained model, measured: what it completes, the paper's figures, and its state."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analyses.reporting.behaviour import completion_table
from analyses.studies.paper import study as paper
from analyses.studies.state import study as state
from cadmus import DEFAULT_MODEL
from cadmus.runtime.devices import resolve_device
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training import checkpoint


@dataclass(frozen=True)
class ModelReportConfig:
    """Which model, and how much is measured."""

    run: str = DEFAULT_MODEL
    """A model that ships with the package, or a folder that `cadmus-probe train` wrote."""
    programs: int = 20_000
    """Programs probed, of skeletons that no training saw."""
    eval_programs: int = 500
    """Programs completed, of each family and split."""
    cell_programs: int = 5
    """Programs of the paper's Figure 1 for each X and Y."""
    number_programs: int = 4000
    """Programs of the paper's Figure 2."""
    seed: int = 0
    """Seed of the programs drawn."""
    device: str = "auto"
    """`cpu`, `cuda` or `mps`; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        self.paper_config()  # both hold their numbers against their bounds
        self.state_config()

    def paper_config(self) -> paper.PaperConfig:
        """What the paper's study has to measure."""
        return paper.PaperConfig(
            run=self.run,
            eval_programs=self.eval_programs,
            programs=self.cell_programs,
            number_programs=self.number_programs,
            seed=self.seed,
            device=self.device,
        )

    def state_config(self) -> state.StateConfig:
        """What the state study has to measure."""
        return state.StateConfig(run=self.run, programs=self.programs, seed=self.seed, device=self.device)


@dataclass(frozen=True)
class ModelReportResults:
    """What is known of a model."""

    config: ModelReportConfig
    """What was measured."""
    trained: checkpoint.Checkpoint
    """The model."""
    accuracies: pd.DataFrame
    """What it completes: rows of `cadmus.training.completion`."""
    paper: paper.PaperResults | None
    """The paper's figures, which are of compare programs: None for a model of a mixture without them."""
    state: state.StateResults
    """What of the machine's state can be read in it."""


def run(config: ModelReportConfig, progress: Progress = no_progress) -> ModelReportResults:
    """Complete, answer and probe."""
    trained = checkpoint.load(config.run)
    if "compare" in (family.name for family in trained.mixture.families):
        paper_results = paper.run(config.paper_config(), progress)
        accuracies = paper_results.accuracies
    else:
        paper_results = None
        trained.model.to(resolve_device(config.device))
        accuracies = completion_table(trained, config.eval_programs, config.seed, progress)
        accuracies = accuracies.assign(run=trained.fingerprint)
    state_results = state.run(config.state_config(), progress)
    return ModelReportResults(config, trained, accuracies, paper_results, state_results)
