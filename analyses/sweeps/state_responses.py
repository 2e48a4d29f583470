"""What a run's model holds and uses: the responses read.VARIABLE, interchange.VARIABLE and mechanism.VARIABLE.

The reduced form of `probes.interventions.experiment`: the same pairs, cells, conditions and probes, without what takes
a model apart head by head. Programs are those of the base mixture, for all cells alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses.sweeps.accuracies import Response, nothing
from analyses.sweeps.sweep import INTERCHANGE, MECHANISM, READ, Sweep, variable_and_role
from cadmus.models.model import Model
from cadmus.runtime.progress import Progress, no_progress
from cadmus.statistics.proportions import wilson
from cadmus.statistics.simultaneous import shares
from probes.controls.untrained import untrained_twin
from probes.interventions.counterfactuals import drawing
from probes.interventions.counterfactuals.variables import resolve_variable
from probes.interventions.effects.mechanism import mechanism
from probes.interventions.effects.outcomes import Outcomes
from probes.interventions.experiment.cells import Place, layers_of, spots_of
from probes.interventions.experiment.conditions import Laboratory
from probes.interventions.experiment.readability import readability
from probes.interventions.experiment.tables import exchange_outcomes

CODES = {"tracked at the store": 1.0, "both": 0.5, "looked up at the load": 0.0}
"""The value of mechanism.VARIABLE by its word, which stands in the column `why`; undecided is missing."""

_PROBE_ROLES = ("loaded", "decision")  # where a probe's score is taken: at the load, else at the decision


def readings(sweep: Sweep, model: Model, seed: int, progress: Progress = no_progress) -> dict[str, pd.DataFrame]:
    """How well each variable is read: by name, the table of `probes.interventions.experiment.readability`."""
    twin = untrained_twin(model, seed)
    layers = layers_of(model, None, False)
    return {
        name: readability(
            model, twin, resolve_variable(name), sweep.recipe.mixture, layers,
            programs=sweep.measure.probe_programs, seed=seed, progress=progress,
        )
        for name in sweep.variables
    }  # fmt: skip


def read_responses(sweep: Sweep, tables: dict[str, pd.DataFrame]) -> list[Response]:
    """read.VARIABLE: the share of values that a linear probe reads at the load, after the layer where it reads most of
    the values by which its penalty was chosen."""
    out = []
    for name, table in tables.items():
        response = f"{READ}.{name}"
        if response in sweep.responses:
            scored = table[table["accuracy"].notna() & (table["layer"] >= 0) & (table["programs"] > 0)]
            role = next((role for role in _PROBE_ROLES if (scored["role"] == role).any()), None)
            if role is None:
                out.append(nothing(response, "too few programs for a probe"))
                continue
            mine = scored[scored["role"] == role]  # a row per layer, and per stratum of values
            best = mine[mine["layer"] == mine.loc[mine["validation"].idxmax(), "layer"]]
            n, n_right = int(best["programs"].sum()), float((best["accuracy"] * best["programs"]).sum())
            (low,), (high,) = wilson([round(n_right)], [n])
            out.append(Response(response, n_right / n, float(low), float(high), n))
    return out


@dataclass(frozen=True)
class Interchanges:
    """What exchanging a variable's value does, cell by cell."""

    outcomes: Outcomes
    """As `probes.interventions.effects.effects` takes them."""

    mechanism: pd.DataFrame
    """As `probes.interventions.effects.mechanism` makes it."""


def interchanges(sweep: Sweep, model: Model, name: str, seed: int, progress: Progress = no_progress) -> Interchanges:
    """Exchange a variable's value after every layer, at every role.

    Raises ValueError where the mixture has too few pairs.
    """
    variable, mixture = resolve_variable(name), sweep.recipe.mixture
    pairs = drawing.draw(variable, mixture, sweep.measure.pairs, seed, kinds=["discriminating"], progress=progress)
    places = [Place.of(pairs, spot) for spot in spots_of(pairs, None, False)]
    layers = layers_of(model, None, False)
    lab = Laboratory(model, untrained_twin(model, seed), pairs, places, layers, seed)
    outcomes = exchange_outcomes(lab, lab.measure(False, progress), name)
    return Interchanges(outcomes, mechanism(outcomes, pairs, seed))


def interchange_responses(sweep: Sweep, name: str, result: Interchanges, accuracy: float) -> list[Response]:
    """interchange.VARIABLE, interchange.VARIABLE.ROLE and mechanism.VARIABLE; accuracy: that in distribution."""
    out = []
    for response in sweep.responses:
        kind = response.partition(".")[0]
        if kind not in (INTERCHANGE, MECHANISM) or variable_and_role(response)[0] != name:
            continue
        if kind == INTERCHANGE:
            out.append(_cross_fitted(response, result.outcomes, variable_and_role(response)[1]))
        else:
            out.append(_mechanism(response, result.mechanism, accuracy, sweep.measure.least_accuracy))
    return out


def _cross_fitted(response: str, outcomes: Outcomes, role: str) -> Response:
    """The interchange accuracy of the cell that does best, which is chosen on the pairs of some base skeletons and
    scored on those of the others, both ways. A cell is one role after one layer; what amounts to a change of input has
    no part: early cells, and literals where their digits stand. role: of the cells, empty: any."""
    cells = outcomes.cells
    is_wanted = ~cells["input_change"].astype(bool) & (cells["layer"] >= 0) & (cells["span"] == "single")
    if role:
        is_wanted &= cells["role"] == role
    index = np.flatnonzero(is_wanted.to_numpy())
    shifted = np.zeros(len(outcomes.kinds), bool) if outcomes.shifted is None else np.asarray(outcomes.shifted, bool)
    counting = outcomes.counting[index] & ((np.asarray(outcomes.kinds) == "discriminating") & ~shifted)
    counting &= ~np.outer(cells["role"].to_numpy()[index] == "arose", np.asarray(outcomes.strata) == "literal")
    success = np.asarray(outcomes.success, bool)[index]
    skeletons = np.unique(outcomes.base_skeletons.astype(str), return_inverse=True)[1]
    fold = skeletons % 2
    correct, mask = (np.zeros((1, len(fold)), bool) for _ in range(2))
    for half in (0, 1):
        choosing, scoring = (counting & (fold == part) for part in (1 - half, half))
        if choosing.any() and scoring.any():
            best = int(np.argmax((success & choosing).sum(1)))
            correct[0] |= success[best] & scoring[best]
            mask[0] |= scoring[best]
    n = int(mask.sum())
    if not n:
        return nothing(response, "no pair counts: the model completes none of them")
    share = shares(correct, mask, outcomes.base_skeletons, outcomes.source_skeletons)[0]
    return Response(response, share.estimate, share.low, share.high, n)


def _mechanism(response: str, table: pd.DataFrame, accuracy: float, least: float) -> Response:
    """The mechanism as a number, its word beside it; missing where it is undecided, or too little is completed."""
    if accuracy < least:
        return nothing(response, f"completion in distribution is {accuracy:.2f}, below {least:g}")
    if table.empty:
        return nothing(response, "no pair counts")
    rows = table[table["group"] == "all"]
    word, n = str(rows["mechanism"].iloc[0]), int(rows["pairs"].max())
    if word not in CODES:
        return nothing(response, word, n)
    return Response(response, CODES[word], np.nan, np.nan, n, word)
