"""The effect of measured properties on responses: mixed and cluster-robust regressions, the wild bootstrap beside them.

Effects are in units of the response (shares) per standard deviation of the predictor over models. Seeds are blocks;
cells are the clusters, since what a design does not control differs between cells, not models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analyses.studies.generalization import models
from analyses.studies.generalization.models import BEHAVIOUR, IN_DISTRIBUTION, INSIDE, LEVEL, Design, Predictor
from cadmus.runtime.progress import Progress, no_progress
from cadmus.statistics import regression
from cadmus.statistics.clustered import benjamini_hochberg

MAX_INFLATION = 10.0  # of a variance, above which predictors are not told apart
ALONE, JOINT, GIVEN = "alone", "joint", "given accuracy in distribution"
_NUMBERS = (
    *("effect", "low", "high", "p", "q", "freedom", "between", "within", "reach"),
    *("least_squares", "robust_low", "robust_high", "robust_p", "wild_low", "wild_high", "wild_p"),
    *("partial_r2", "left_out_r2", "inflation", "condition", "bound_low", "bound_high"),
)
COLUMNS = ("response", "predictor", "scale", "model", "beside", "models", "missing", "cells", "seeds", *_NUMBERS, "why")
_STAGE = "regressions"


def effects(
    table: pd.DataFrame,
    predictors: Sequence[Predictor],
    *,
    seed: int = 0,
    draws: int = regression.DRAWS,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Regress every response on the predictors, each alone and, where there are several, jointly.

    Joint is: a property beside all others that are named; a factor, which the design sets, beside the other factors
    alone, since it may act by way of the properties, and to hold these fixed would take from its effect, or turn it. A
    predictor that is itself a response stays out of the joint regression, since what it explains may come of the
    others: of accuracies out of distribution it is regressed beside accuracy in distribution instead.

    Args:
        table: Of a sweep, as `models.check` gives it.
        predictors: What responses are regressed on; a response is not regressed on itself, or on a part of itself.
        seed: Of the bootstrap.
        draws: Of the bootstrap.
        progress: Follows the regressions.

    Returns:
        A row per (response, predictor, model `alone`, `joint` or `given accuracy in distribution`); `beside` names what
        is held fixed. `effect` with `low`, `high`, `p` is that of the model with a random intercept for each cell,
        `reach` how many standard deviations the predictor ranges over; `least_squares` is the effect of least squares,
        `robust_...` with errors clustered by cell (CR2), `wild_...` the wild cluster bootstrap; `q` is p under
        Benjamini and Hochberg over the responses; `left_out_r2` says how well cells that were left out are predicted,
        `bound_low` and `bound_high` what the effect could be whatever the missing values are. NaN, and why, where
        nothing could be fitted.
    """
    rows: list[dict[str, Any]] = []
    names, in_design = models.responses(table), models.design_of(table)
    for k, response in enumerate(names):
        progress(_STAGE, k / len(names), response)
        mine = [predictor for predictor in predictors if not _is_part(predictor.name, response)]
        part = models.models(table, response)
        for predictor in mine:
            rows += _fitted(part, response, (predictor,), ALONE, seed, draws)
            beside = _beside(part, response, predictor.name, names)
            if beside:
                rows += _fitted(part, response, (predictor, *beside), GIVEN, seed, draws)[:1]
        rows += _jointly(part, response, [each for each in mine if each.name not in names], in_design, seed, draws)
    out = pd.DataFrame(rows, columns=list(COLUMNS))
    for _, rows_of in out.groupby(["predictor", "model"]):
        out.loc[rows_of.index, "q"] = benjamini_hochberg(rows_of["p"].to_numpy(np.float64))
    progress(_STAGE, 1.0, "")
    return out


def best_models(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with an effect: of each response and predictor those of the joint regression, else of that beside
    accuracy in distribution, else of the predictor alone; not alone where the one beside could not be fitted."""
    keys = pd.MultiIndex.from_frame(table[["response", "predictor"]])
    has_given = keys.isin(keys[table["model"] == GIVEN])
    fitted = table[table["effect"].notna() & ~((table["model"] == ALONE) & has_given)]
    order = fitted["model"].map([JOINT, GIVEN, ALONE].index)
    return fitted.loc[order.groupby([fitted["response"], fitted["predictor"]], sort=False).idxmin()]


def doubt(row: dict[str, Any]) -> str:
    """Why no sign can be claimed of a row of `effects`; empty where one can."""
    if row["low"] <= 0 <= row["high"]:
        return "the interval holds 0"
    if row["q"] > LEVEL:
        return f"q = {row['q']:.3f}"
    is_positive = row["effect"] > 0
    if row["wild_p"] > LEVEL:
        return f"the wild bootstrap does not agree (p = {row['wild_p']:.3f})"
    if not (row["wild_low"] > 0 if is_positive else row["wild_high"] < 0):
        return f"the wild bootstrap does not agree (its interval is {row['wild_low']:.2g} to {row['wild_high']:.2g})"
    if row["model"] != ALONE and row["inflation"] > MAX_INFLATION:
        return f"its predictor cannot be told from the others (variance inflation {row['inflation']:.0f})"
    if row["missing"] and not (row["bound_low"] > 0 if is_positive else row["bound_high"] < 0):
        return f"{row['missing']:.0f} missing values could turn the sign"
    return ""


def _is_part(one: str, other: str) -> bool:
    """Whether they are one response, or one is a part of the other: interchange.reg.loaded of interchange.reg."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _beside(part: pd.DataFrame, response: str, predictor: str, responses: Sequence[str]) -> list[Predictor]:
    """The accuracies in distribution beyond which a measured predictor is asked about an accuracy out of distribution;
    none of other predictors and responses."""
    if predictor not in responses or not response.startswith(BEHAVIOUR) or {response, predictor} & set(INSIDE):
        return []
    return [Predictor(name, False) for name in models.covariates(part, (IN_DISTRIBUTION,), "value", predictor)]


def _jointly(
    part: pd.DataFrame,
    response: str,
    predictors: list[Predictor],
    in_design: list[Predictor],
    seed: int,
    draws: int,
) -> list[dict[str, Any]]:
    """The rows of the joint regressions: of properties beside all the predictors, of factors beside the design's."""
    rows = []
    for together, are_factors in ((predictors, False), (in_design, True)):
        mine = [each.name for each in predictors if (each in in_design) == are_factors]
        if mine and len(together) > 1:
            fitted = _fitted(part, response, tuple(together), JOINT, seed, draws)
            rows += [row for row in fitted if row["predictor"] in mine]
    return rows


def _fitted(
    part: pd.DataFrame, response: str, predictors: tuple[Predictor, ...], model: str, seed: int, draws: int
) -> list[dict[str, Any]]:
    """The rows of one regression, a row per predictor; models that lack a predictor are missing, too."""
    known = part[["value", *(predictor.name for predictor in predictors)]].notna().all(axis=1)
    heads = [
        {
            "response": response,
            "predictor": predictor.name,
            "scale": "log10" if predictor.logarithmic else "linear",
            "model": model,
            "beside": ", ".join(other.name for other in predictors if other != predictor),
            "models": int(known.sum()),
            "missing": int((~known).sum()),
            "cells": part.loc[known, "cell"].nunique(),
            "seeds": part.loc[known, "seed"].nunique(),
            **dict.fromkeys(_NUMBERS, np.nan),
            "why": "",
        }
        for predictor in predictors
    ]
    try:
        frame = models.design(part, response, predictors)
    except ValueError as error:
        return [{**head, "why": str(error)} for head in heads]
    if not frame.y.std() > 1e-12:
        return [{**head, "why": f"{response} is the same in all models"} for head in heads]
    estimates = estimates_of(frame, seed, draws)
    bounds = bounds_of_missing(part, response, predictors)
    return [{**head, **row, **bound} for head, row, bound in zip(heads, estimates, bounds, strict=True)]


def estimates_of(frame: Design, seed: int, draws: int) -> list[dict[str, float]]:
    """What is said of each predictor."""
    mixed = regression.random_intercepts(frame.y, frame.x, frame.cells, len(frame.predictors))
    robust = regression.cluster_robust(frame.y, frame.x, frame.cells)
    inflation = regression.variance_inflation(frame.standardized)
    condition = regression.condition_number(frame.standardized)
    left_out = regression.left_out_r_squared(frame.y, frame.x, frame.cells)
    out = []
    for k in range(1, 1 + len(frame.predictors)):
        wild = regression.wild_cluster(frame.y, frame.x, k, frame.cells, seed=seed, draws=draws)
        fixed = mixed.coefficients
        out.append(
            {
                "effect": fixed.estimate[k],
                "low": fixed.low[k],
                "high": fixed.high[k],
                "p": fixed.p[k],
                "freedom": fixed.freedom[k],
                "between": mixed.between,
                "within": mixed.within,
                "reach": float(np.ptp(frame.x[:, k])),
                "least_squares": robust.estimate[k],
                "robust_low": robust.low[k],
                "robust_high": robust.high[k],
                "robust_p": robust.p[k],
                "wild_low": wild.low,
                "wild_high": wild.high,
                "wild_p": wild.p,
                "partial_r2": regression.partial_r_squared(frame.y, frame.x, k),
                "left_out_r2": left_out,
                "inflation": inflation[k - 1],
                "condition": condition,
            }
        )
    return out


def bounds_of_missing(part: pd.DataFrame, response: str, predictors: tuple[Predictor, ...]) -> list[dict[str, float]]:
    """What each effect (of least squares) could be, whatever shares in 0 ... 1 the missing values are (Manski 1990):
    bound_low and bound_high, a dictionary per predictor; equal where nothing is missing, NaN where a model has a value
    and lacks a predictor, or lacks both and its cell's are unknown, too."""
    names = [predictor.name for predictor in predictors]
    if part.loc[part["value"].notna(), names].isna().any(axis=None):
        return [{"bound_low": np.nan, "bound_high": np.nan} for _ in predictors]
    filled = part.copy()
    for name in names:
        means = filled.groupby("cell")[name].transform("mean")
        filled[name] = filled[name].fillna(means)
    if filled[names].isna().any(axis=None):
        return [{"bound_low": np.nan, "bound_high": np.nan} for _ in predictors]
    is_missing = filled["value"].isna().to_numpy()
    try:
        frame = models.design(filled.assign(value=filled["value"].fillna(0.0)), response, predictors)
    except ValueError:
        return [{"bound_low": np.nan, "bound_high": np.nan} for _ in predictors]
    weights = np.linalg.pinv(frame.x)[1 : 1 + len(predictors)]  # an effect is their product with y
    known = weights[:, ~is_missing] @ frame.y[~is_missing]
    return [
        {
            "bound_low": float(known[k] + np.minimum(weights[k, is_missing], 0).sum()),
            "bound_high": float(known[k] + np.maximum(weights[k, is_missing], 0).sum()),
        }
        for k in range(len(predictors))
    ]
