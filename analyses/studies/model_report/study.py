"""Everything about a trained model, measured: what it completes, what of the machine's state can be read in it and what
it uses, and the paper's figures.

The parts are measured one after another (`steps`), and each is kept beside the page by the fingerprint of model, code
and config (`analyses.reporting.stored`), so that what is finished is not measured again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.reporting import stored
from analyses.reporting.behaviour import completion_table
from analyses.studies.interventions import study as interventions
from analyses.studies.paper import study as paper
from analyses.studies.state import study as state
from cadmus import DEFAULT_MODEL
from cadmus.programs.families import Compare
from cadmus.runtime import artifacts
from cadmus.runtime.checks import check_text_lists
from cadmus.runtime.devices import resolve_device
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training import checkpoint
from probes.interventions.counterfactuals.variables import resolve_variable
from probes.interventions.experiment.experiment import TooFewPairs

PARTS = {
    "completion": "what the model completes",
    "state": "what can be read in it",
    "interventions": "what it uses",
    "paper": "the paper's figures",
}
"""The parts of a report in the order in which they are measured, in words."""
_STATE_TABLES = ("scores", "gaps", "machines", "numbers", "residues", "dimensions", "readers")
QUICK: dict[str, Any] = {
    "quick": True,
    "programs": 1000,
    "eval_programs": 25,
    "cell_programs": 1,
    "reach": 25,
    "number_programs": 300,
    "pairs": 40,
}
"""The fields of a config for a first look."""


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
    reach: int = 40
    """X and Y of the paper's Figure 1 lie in -reach..reach."""
    number_programs: int = 4000
    """Programs of the paper's Figure 2."""
    pairs: int = 200
    """Pairs of programs of each variable that is exchanged inside the model."""
    quick: bool = False
    """A first look: interventions in few cells, probes of the present states alone, without networks and other
    machines. The sizes are those of the other fields (`QUICK` has small ones)."""
    parts: tuple[str, ...] = tuple(PARTS)
    """Which of `PARTS` are measured."""
    seed: int = 0
    """Seed of the programs drawn."""
    device: str = "auto"
    """`cpu`, `cuda` or `mps`; `auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        check_text_lists(self, "parts")
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ValueError(f"part {unknown[0] if unknown else ''!r} is none of {', '.join(PARTS)}; name one of these")
        self.paper_config()  # all three hold their numbers against their bounds
        self.state_config()
        self.interventions_config()

    @property
    def name(self) -> str:
        """What the page calls the model."""
        return Path(self.run).name

    def paper_config(self) -> paper.PaperConfig:
        """What the paper's study has to measure."""
        return paper.PaperConfig(
            run=self.run,
            eval_programs=self.eval_programs,
            reach=self.reach,
            programs=self.cell_programs,
            number_programs=self.number_programs,
            seed=self.seed,
            device=self.device,
        )

    def state_config(self) -> state.StateConfig:
        """What the state study has to measure."""
        config = state.StateConfig(run=self.run, programs=self.programs, seed=self.seed, device=self.device)
        return replace(config, offsets=(0,), machines=0, nonlinear=False) if self.quick else config

    def interventions_config(self) -> interventions.InterventionsConfig:
        """What the study of interventions has to measure."""
        return interventions.InterventionsConfig(
            runs=(self.run,), pairs=self.pairs, seed=self.seed, quick=self.quick, device=self.device
        )


@dataclass(frozen=True)
class ModelReportResults:
    """What is known of a model, as far as it has been measured."""

    config: ModelReportConfig
    """What is measured."""
    trained: checkpoint.Checkpoint
    """The model."""
    accuracies: pd.DataFrame | None = None
    """What it completes: rows of `cadmus.training.completion`."""
    paper: paper.PaperResults | None = None
    """The paper's figures, which are of compare programs: None for a model of a mixture without them."""
    state: state.StateResults | None = None
    """What of the machine's state can be read in it."""
    interventions: interventions.InterventionsResults | None = None
    """What of it the model uses; None for a model of a mixture without such variables."""
    untested: str = ""
    """Why nothing was exchanged in it."""
    coming: tuple[str, ...] = ()
    """The parts that are still to be measured."""


def run(
    config: ModelReportConfig, progress: Progress = no_progress, folder: Path | str | None = None
) -> ModelReportResults:
    """Complete, exchange, probe and answer: the last of `steps`."""
    return list(steps(config, progress, folder))[-1]


def steps(
    config: ModelReportConfig, progress: Progress = no_progress, folder: Path | str | None = None
) -> Iterator[ModelReportResults]:
    """Measure part after part; what is known is yielded after each.

    folder: finished parts of the same fingerprints are read there, and new ones saved. None: nothing is saved.
    """
    trained = checkpoint.load(config.run)
    trained.model.to(resolve_device(config.device)).eval()
    families = {family.name for family in trained.mixture.families}
    coming = [part for part in PARTS if part in config.parts and (part != "paper" or "compare" in families)]
    results = ModelReportResults(config, trained, coming=tuple(coming))
    for part in coming:
        results = replace(_MEASURE[part](results, folder, progress), coming=results.coming[1:])
        yield results


def _completion(results: ModelReportResults, folder: Path | str | None, progress: Progress) -> ModelReportResults:
    config, trained = results.config, results.trained

    def measure() -> dict[str, pd.DataFrame]:
        table = completion_table(trained, config.eval_programs, config.seed, progress)
        return {"accuracies": table.assign(**paper.identity(trained))}

    key = _key(trained, [config.eval_programs, config.seed], "paper")
    return replace(results, accuracies=stored.tables(folder, "completion", key, measure)["accuracies"])


def _interventions(results: ModelReportResults, folder: Path | str | None, progress: Progress) -> ModelReportResults:
    families = {family.name for family in results.trained.mixture.families}
    if not any(families & set(resolve_variable(variable).families) for variable in interventions.VARIABLES):
        return replace(results, untested=f"its families ({', '.join(sorted(families))}) have no such variable")
    if folder is not None:
        stored.ignored_by_git(folder)
    try:
        measured = interventions.run(results.config.interventions_config(), progress, folder)
    except TooFewPairs as error:
        return replace(results, untested=str(error))
    return replace(results, interventions=measured)


def _state(results: ModelReportResults, folder: Path | str | None, progress: Progress) -> ModelReportResults:
    config, trained = results.config.state_config(), results.trained

    def measure() -> dict[str, pd.DataFrame]:
        measured = state.run(config, progress)
        frames = {name: getattr(measured, name) for name in _STATE_TABLES}
        return {**frames, "size": pd.DataFrame({"programs": [measured.programs]})}

    settings = {name: value for name, value in asdict(config).items() if name not in ("run", "device")}
    tables = stored.tables(folder, "state", _key(trained, settings, "state"), measure)
    programs = int(tables.pop("size").programs.iloc[0])
    return replace(results, state=state.StateResults(config, trained, **tables, programs=programs))


def _paper(results: ModelReportResults, folder: Path | str | None, progress: Progress) -> ModelReportResults:
    config, trained = results.config.paper_config(), results.trained
    settings = [config.reach, config.programs, config.number_programs, config.seed]
    key = _key(trained, settings, "paper")
    tables = stored.tables(folder, "paper", key, lambda: paper.measure(config, trained, progress))
    family = trained.mixture.family("compare")
    assert isinstance(family, Compare), "the class of that name"
    accuracies = pd.DataFrame() if results.accuracies is None else results.accuracies
    return replace(results, paper=paper.PaperResults(config, trained, family, accuracies=accuracies, **tables))


_MEASURE = {"completion": _completion, "state": _state, "interventions": _interventions, "paper": _paper}


def _key(trained: checkpoint.Checkpoint, settings: Any, study: str) -> str:
    """What names a measurement: the same for the same weights, mixture, settings, machine and code."""
    return artifacts.fingerprint(
        {
            "model": trained.fingerprint,
            "untrained": trained.seed,
            "mixture": trained.mixture.fingerprint,
            "machine": artifacts.machine_fingerprint(),
            "settings": settings,
            "code": stored.code_fingerprint(study),
        }
    )
