"""Which property of the training programs made the models of a sweep generalize?

Reads the tidy table of a sweep (`cadmus-probe sweep`) and the hypotheses that its file states, and answers them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.studies.generalization import models, planes
from analyses.studies.generalization.effects import effects
from analyses.studies.generalization.hypotheses import Hypothesis, answers, hypothesis_of
from analyses.studies.generalization.inner_state import inner_state
from analyses.studies.generalization.levels import cells, rank_correlations
from analyses.studies.generalization.missing import missingness
from analyses.studies.generalization.models import Predictor
from analyses.studies.generalization.planes import Planes
from cadmus.runtime.artifacts import read_json, read_table
from cadmus.runtime.checks import check_at_least, check_seed, check_text_lists
from cadmus.runtime.progress import Progress, no_progress

TABLE, SWEEP = "table.parquet", "sweep.json"


@dataclass(frozen=True)
class GeneralizationConfig:
    """Which sweep, and what its responses are regressed on."""

    sweep: str
    """The folder that `cadmus-probe sweep` wrote."""
    predictors: tuple[str, ...] = ()
    """Properties, factors or responses to regress on, beside those of the hypotheses; where there are none, the factors
    that are numbers."""
    draws: int = 4999
    """Draws of the wild bootstrap, and permutations of the rank correlations."""
    seed: int = 0
    """Seed of both."""
    beside: str = ""
    """Of a sweep with Figure 1: the file of another model's plane, which stands beside those of the sweep."""

    def __post_init__(self) -> None:
        check_text_lists(self, "predictors")
        check_at_least(self, 99, "draws")
        check_seed(self)


@dataclass(frozen=True)
class GeneralizationResults:
    """The tables of the study."""

    config: GeneralizationConfig
    """What was asked."""
    name: str
    """What the sweep is called."""
    table: pd.DataFrame
    """The sweep's own table, values of failed and missing rows NaN."""
    properties: pd.DataFrame
    """Which properties the design moved, as `models.moved_properties`."""
    effects: pd.DataFrame
    """As `effects.effects`; empty where no factor is a number, and no predictor is named."""
    hypotheses: pd.DataFrame
    """As `hypotheses.answers`; empty where the sweep states none."""
    cells: pd.DataFrame
    """As `levels.cells`."""
    ranks: pd.DataFrame
    """As `levels.rank_correlations`."""
    inner_state: pd.DataFrame
    """As `inner_state.inner_state`; empty where it was not measured."""
    missing: pd.DataFrame
    """As `missing.missingness`."""
    planes: Planes = field(default_factory=Planes)
    """Figure 1 of every model, where the sweep has it."""


def run(config: GeneralizationConfig, progress: Progress = no_progress) -> GeneralizationResults:
    """Read the sweep's folder and regress. Raises ValueError where it holds no sweep, or too little of one."""
    table, stored = read(Path(config.sweep))
    figure1 = planes.read(Path(config.sweep), stored, config.beside)
    return replace(analyze(table, stored, config, progress), planes=figure1)


def read(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The tidy table of a sweep's folder, and what the sweep asked for, empty where only the table is there. Raises
    ValueError where there is none, or one of them is damaged."""
    if not (folder / TABLE).is_file():
        raise ValueError(f"{folder} holds no table of a sweep ({TABLE}); name the folder of cadmus-probe sweep")
    stored = {}
    if (folder / SWEEP).is_file():
        stored = read_json(folder / SWEEP).get("sweep", {})
        if not stored:
            raise ValueError(f"{folder / SWEEP} is damaged: it holds no sweep; take it away to study the table alone")
    return read_table(folder / TABLE), stored


def analyze(
    table: pd.DataFrame, stored: dict[str, Any], config: GeneralizationConfig, progress: Progress = no_progress
) -> GeneralizationResults:
    """The study of a tidy table; `stored` may have `name` and `hypotheses`. Raises ValueError for a table that is none,
    and for a hypothesis about what is not in it."""
    table = models.check(table)
    hypotheses = [hypothesis_of(entry) for entry in stored.get("hypotheses", [])]
    for hypothesis in hypotheses:
        if hypothesis.response not in models.responses(table):
            raise ValueError(
                f"hypothesis about {hypothesis.response!r}: the sweep has no such response; it has "
                f"{', '.join(models.responses(table))}"
            )
    resolved = [(hypothesis, models.resolve(table, hypothesis.predictor)) for hypothesis in hypotheses]
    predictors = _predictors(table, config, resolved)
    fitted = effects(table, predictors, seed=config.seed, draws=config.draws, progress=progress)
    return GeneralizationResults(
        config=config,
        name=str(stored.get("name") or table.get("sweep", pd.Series(["sweep"])).iloc[0]),
        table=table,
        properties=models.moved_properties(table),
        effects=fitted,
        hypotheses=answers([(hypothesis, predictor.name) for hypothesis, predictor in resolved], fitted),
        cells=cells(table),
        ranks=rank_correlations(table, seed=config.seed, draws=config.draws),
        inner_state=inner_state(table, seed=config.seed, draws=config.draws),
        missing=missingness(table),
    )


def _predictors(
    table: pd.DataFrame, config: GeneralizationConfig, resolved: list[tuple[Hypothesis, Predictor]]
) -> list[Predictor]:
    """What responses are regressed on: what hypotheses and config name; else the factors that are numbers, if any."""
    named = [predictor for _, predictor in resolved]
    named += [models.resolve(table, name) for name in config.predictors]
    return list(dict.fromkeys(named or models.design_of(table)))
