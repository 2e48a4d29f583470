"""Does the inner state predict accuracy out of distribution beyond accuracy in distribution?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analyses.studies.generalization import models
from analyses.studies.generalization.models import BEHAVIOUR, IN_DISTRIBUTION, INSIDE, LEVEL
from cadmus.statistics import regression
from cadmus.statistics.clustered import benjamini_hochberg

INNER = ("read.", "interchange.")
ACROSS, WITHIN = "across cells", "within cells"
OWN, OWN_AND_BASE = "accuracy in distribution", "accuracy in distribution and on the base mixture"
BEYOND = {OWN: (IN_DISTRIBUTION,), OWN_AND_BASE: INSIDE}
"""What the state may add to, and the accuracies that it is."""
_NUMBERS = (
    *("effect", "low", "high", "p", "q", "wild_p"),
    *("partial_r2", "left_out_r2_without", "left_out_r2"),
)


def inner_state(table: pd.DataFrame, *, seed: int = 0, draws: int = regression.DRAWS) -> pd.DataFrame:
    """For each accuracy out of distribution and each measure of the inner state: what the state adds to accuracy in
    distribution, that on the cell's own programs, and, where it is measured, to that and the accuracy on the base
    mixture together, on whose programs all states are measured.

    `across cells` compares all models; `within cells`, those of one training distribution, which differ by seed alone.
    Columns response, state, comparison, beyond (of `BEYOND`), models, cells; effect (shares per standard deviation of
    the state) with low, high, p (errors clustered by cell, CR2) and q (over the rows of a comparison and what it is
    beyond), wild_p; partial_r2; and how well left out cells are predicted without and with the
    state (left_out_r2_without, left_out_r2; across cells only); why.
    """
    names = models.responses(table)
    states = [name for name in names if name.startswith(INNER)]
    outside = [name for name in names if name.startswith(BEHAVIOUR) and name not in INSIDE]
    rows = []
    if IN_DISTRIBUTION in names:
        for response in outside:
            part = models.models(table, response)
            questions = [beyond for beyond, accuracies in BEYOND.items() if set(accuracies) <= set(names)]
            rows += [
                _compared(part, response, state, how, beyond, seed, draws)
                for state in states
                for how in (ACROSS, WITHIN)
                for beyond in questions
            ]
    columns = ["response", "state", "comparison", "beyond", "models", "cells", *_NUMBERS, "why"]
    out = pd.DataFrame(rows, columns=columns)
    for _, rows_of in out.groupby(["comparison", "beyond"]):
        out.loc[rows_of.index, "q"] = benjamini_hochberg(rows_of["p"].to_numpy(np.float64))
    return out


def claimed(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of which it is said that the state adds something: q and the wild bootstrap's p, both of the effect of
    least squares, are at most 0.05."""
    return table[(table["q"] <= LEVEL) & (table["wild_p"] <= LEVEL)]


def _compared(
    part: pd.DataFrame, response: str, state: str, comparison: str, beyond: str, seed: int, draws: int
) -> dict[str, Any]:
    complete = part[part[["value", state, *BEYOND[beyond]]].notna().all(axis=1)]
    inside = models.covariates(complete, BEYOND[beyond], "value", state)
    head = {
        "response": response,
        "state": state,
        "comparison": comparison,
        "beyond": beyond,
        "models": len(complete),
        "cells": complete["cell"].nunique(),
        **dict.fromkeys(_NUMBERS, np.nan),
        "why": "",
    }
    too_few = {**head, "why": f"{len(complete)} models in {head['cells']} cells have all of them measured: too few"}
    if head["cells"] < 3:
        return too_few
    y, inner = (complete[name].to_numpy(np.float64) for name in ("value", state))
    cells = complete["cell"].to_numpy()
    start = np.ones((len(y), 1)) if comparison == ACROSS else (cells[:, None] == np.unique(cells)).astype(np.float64)
    rest = start
    for name in inside:
        values = complete[name].to_numpy(np.float64)
        if models.varies(values, rest):
            rest = np.column_stack([rest, _standardized(values)])
    if len(y) <= rest.shape[1] + 2:
        return too_few
    if not (models.varies(inner, rest) and models.varies(y, start)):
        return {**head, "why": f"{state} or {response} does not vary beyond {beyond}"}
    x = np.column_stack([rest, _standardized(inner)])
    robust = regression.cluster_robust(y, x, cells)
    wild = regression.wild_cluster(y, x, x.shape[1] - 1, cells, seed=seed, draws=draws)
    across = comparison == ACROSS
    return {
        **head,
        "effect": robust.estimate[-1],
        "low": robust.low[-1],
        "high": robust.high[-1],
        "p": robust.p[-1],
        "wild_p": wild.p,
        "partial_r2": regression.partial_r_squared(y, x, x.shape[1] - 1),
        "left_out_r2_without": regression.left_out_r_squared(y, rest, cells) if across else np.nan,
        "left_out_r2": regression.left_out_r_squared(y, x, cells) if across else np.nan,
    }


def remainders(table: pd.DataFrame, response: str, state: str) -> pd.DataFrame:
    """What accuracy in distribution leaves of the response and of the state, model by model: columns cell, seed,
    response_left, state_left; empty where too few models have all of them."""
    part = models.models(table, response)
    inside = models.covariates(part, BEYOND[OWN], "value", state)
    complete = part[part[["value", state, *inside]].notna().all(axis=1)]
    columns = ["cell", "seed", "response_left", "state_left"]
    if len(complete) < 4:
        return pd.DataFrame(columns=columns)
    accuracies = complete[inside].to_numpy(np.float64)
    x = np.column_stack([np.ones(len(accuracies)), accuracies - accuracies.mean(axis=0)])
    left = {}
    for name, column in (("response_left", "value"), ("state_left", state)):
        values = complete[column].to_numpy(np.float64)
        left[name] = values - x @ np.linalg.lstsq(x, values, rcond=None)[0]
    return complete[["cell", "seed"]].assign(**left)[columns]


def _standardized(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()
