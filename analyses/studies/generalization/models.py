"""The tidy table of a sweep as designs: one row per model, its predictors in comparable units.

The table has a row per (cell, seed, response): `sweep`, `cell`, `seed`, a column per factor, `property.NAME` (of the
model's own corpus), `response`, `value`, `low`, `high`, `n`, `status` (ok, failed, missing) and `why`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

COLUMNS = ("cell", "seed", "response", "value", "status", "why")
MEASURED = ("sweep", *COLUMNS, "low", "high", "n")  # what is neither a factor nor a property
PROPERTY = "property."
IN_DISTRIBUTION = "accuracy.in_distribution"
BASE = "accuracy.base"
BEHAVIOUR = ("accuracy.", "true.")  # what responses about completions begin with
INSIDE = (IN_DISTRIBUTION, BASE)  # a cell's own programs, and those that all inner states are measured on
MIN_LOG_RANGE = 10.0  # a predictor above 0 whose greatest level is so many times its least counts in powers of 10
LEVEL = 0.05  # of q and of the bootstrap's p
MIN_BETWEEN = 0.5  # of a property's variance between cells, for the design to have moved it


@dataclass(frozen=True)
class Predictor:
    """A column that responses are regressed on."""

    name: str
    """The column of the table, or another response."""
    logarithmic: bool
    """Whether its logarithm is meant."""

    def values(self, column: pd.Series) -> np.ndarray:
        """The column in the units of the regression, float64 [n]: not yet standardized."""
        numbers = column.to_numpy(np.float64)
        return np.log10(numbers) if self.logarithmic else numbers


def check(table: pd.DataFrame) -> pd.DataFrame:
    """The table, its values of failed and missing rows NaN. Raises ValueError where a column is missing or has holes, a
    value is none, a (cell, seed, response) stands there twice, or there are fewer than two cells or seeds."""
    absent = [name for name in COLUMNS if name not in table.columns]
    if absent:
        raise ValueError(f"the sweep's table has no column {', '.join(absent)}; it is written by cadmus-probe sweep")
    for name in ("cell", "seed", "response", "status", *factors(table)):
        if table[name].isna().any():
            raise ValueError(f"the sweep's table has {int(table[name].isna().sum())} rows without {name}")
        if name in set(table["response"]):
            raise ValueError(f"the sweep's table has a column {name}, which is a response too; call it otherwise")
    other = set(table["status"]) - {"ok", "failed", "missing"}
    if other:
        raise ValueError(f"the sweep's table has the status {min(other)!r}; there are ok, failed, missing")
    ok = table[table["status"] == "ok"]
    is_share = ok["response"].str.startswith(BEHAVIOUR)
    wrong = ok[~np.isfinite(ok["value"].astype(np.float64)) | is_share & ~ok["value"].between(0, 1)]
    if len(wrong):
        row = wrong.iloc[0]
        raise ValueError(
            f"the sweep's table has {row.response} = {row.value:g} (cell {row.cell}, seed {row.seed}), and says ok; a "
            "value that was not measured has the status missing"
        )
    repeated = table.duplicated(["cell", "seed", "response"])
    if repeated.any():
        row = table[repeated].iloc[0]
        raise ValueError(f"the sweep's table has {row.response} of cell {row.cell}, seed {row.seed}, twice")
    for name, what in (("cell", "cells"), ("seed", "seeds")):
        if table[name].nunique() < 2:
            raise ValueError(
                f"the sweep has {table[name].nunique()} {what}; nothing can be told from fewer than two (five seeds a "
                "cell are meant): add levels or seeds"
            )
    out = table.copy()
    out["value"] = out["value"].where(out["status"] == "ok").astype(np.float64)
    return out


def factors(table: pd.DataFrame) -> list[str]:
    """The columns of the factors."""
    return [name for name in table.columns if name not in MEASURED and not name.startswith(PROPERTY)]


def numeric_factors(table: pd.DataFrame) -> list[str]:
    """The factors whose levels are numbers."""
    return [name for name in factors(table) if _is_number(table[name])]


def design_of(table: pd.DataFrame) -> list[Predictor]:
    """The factors that are numbers and vary."""
    return [resolve(table, name) for name in numeric_factors(table) if table[name].nunique() > 1]


def responses(table: pd.DataFrame) -> list[str]:
    """The names of the responses, in the order of the table."""
    return list(dict.fromkeys(table["response"]))


def models(table: pd.DataFrame, response: str) -> pd.DataFrame:
    """A row per model, missing ones too: the rows of one response, and all responses as columns of their names."""
    others = table.pivot(index=["cell", "seed"], columns="response", values="value")
    rows = table[table["response"] == response].reset_index(drop=True)
    return rows.join(others, on=["cell", "seed"])


def covariates(rows: pd.DataFrame, accuracies: Sequence[str], *columns: str) -> list[str]:
    """Of the accuracies beyond which something is asked of models that have these columns: those that are measured,
    vary, and say something that the ones before them do not; all of them where no model has what it takes to see it."""
    names = [name for name in accuracies if name in rows.columns]
    complete = rows[rows[[*columns, *names]].notna().all(axis=1)]
    if complete.empty:
        return names
    out: list[str] = []
    for name in names:
        rest = np.column_stack([np.ones(len(complete)), complete[out].to_numpy(np.float64)])
        if varies(complete[name].to_numpy(np.float64), rest):
            out.append(name)
    return out


def varies(values: np.ndarray, rest: np.ndarray) -> bool:
    """Whether the other columns, [n, k], leave anything of the values, [n]."""
    left = values - rest @ np.linalg.lstsq(rest, values, rcond=None)[0]
    return bool((left**2).sum() > 1e-9 * max(float(((values - values.mean()) ** 2).sum()), 1e-12))


def resolve(table: pd.DataFrame, name: str) -> Predictor:
    """The predictor of that name: a factor, a property (`property.NAME`, or NAME where no factor is called so), or
    another response.

    Raises ValueError, which lists what there is, for another name, and where it is no number or the same everywhere.
    """
    column = f"{PROPERTY}{name}" if name not in table.columns and f"{PROPERTY}{name}" in table.columns else name
    if column in responses(table):
        return Predictor(column, logarithmic=False)
    if column not in table.columns or column in MEASURED:
        known = [*factors(table), *(name for name in table.columns if name.startswith(PROPERTY)), *responses(table)]
        raise ValueError(f"predictor {name!r} is no factor, property or response; there are {', '.join(known)}")
    if not _is_number(table[column]):
        raise ValueError(f"predictor {column!r} is no number: name the property that its levels move")
    values = table[column].dropna()
    if values.nunique() < 2:
        raise ValueError(f"predictor {column!r} is the same in all models: the sweep does not vary it")
    return Predictor(column, bool(values.min() > 0 and values.max() / values.min() >= MIN_LOG_RANGE))


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def moved_properties(table: pd.DataFrame) -> pd.DataFrame:
    """What the design moved: a row per property, its spread over models, and the share of its variance that lies
    between cells (the rest is chance between corpora). Columns property, mean, deviation, between, moved."""
    rows = []
    once = table.drop_duplicates(["cell", "seed"])
    for name in (name for name in once.columns if name.startswith(PROPERTY)):
        part = once[["cell", name]].dropna()
        values = part[name].to_numpy(np.float64)
        total = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
        within = float(((part[name] - part.groupby("cell")[name].transform("mean")) ** 2).sum())
        share = 1 - within / total if total > 1e-18 * max(float((values**2).sum()), 1e-300) else 0.0
        rows.append(
            {
                "property": name,
                "mean": float(values.mean()) if len(values) else np.nan,
                "deviation": float(values.std()) if len(values) else np.nan,
                "between": share,
                "moved": share >= MIN_BETWEEN,
            }
        )
    return pd.DataFrame(rows, columns=["property", "mean", "deviation", "between", "moved"])


@dataclass(frozen=True)
class Design:
    """Models of one response, ready for a regression; rows in which a number is missing are left out."""

    y: np.ndarray
    """The response, float64 [n]."""
    x: np.ndarray
    """Intercept, the predictors (standardized over these models), then the seeds as blocks: float64 [n, k]."""
    cells: np.ndarray
    """The cell of each model, [n]."""
    predictors: tuple[Predictor, ...]
    """Columns 1 to k of x."""
    rows: pd.DataFrame
    """The models."""

    @property
    def standardized(self) -> np.ndarray:
        """The predictors alone: float64 [n, predictors]."""
        return self.x[:, 1 : 1 + len(self.predictors)]


def design(rows: pd.DataFrame, response: str, predictors: tuple[Predictor, ...]) -> Design:
    """The design of a regression of the response on predictors, from `models(table, response)`.

    Raises ValueError where the cells or models are too few, a predictor is the same in all that are left, or predictors
    are sums of one another.
    """
    names = [predictor.name for predictor in predictors]
    complete = rows[["value", *names]].notna().all(axis=1)
    part = rows[complete].reset_index(drop=True)
    n_cells = part["cell"].nunique()
    if n_cells < len(predictors) + 2:
        raise ValueError(
            f"{n_cells} cells have {response} measured: a regression on {' and '.join(names)} needs "
            f"{len(predictors) + 2} or more"
        )
    columns = []
    for predictor in predictors:
        values = predictor.values(part[predictor.name])
        if not values.std() > 1e-12 * max(abs(values).max(), 1e-300):
            raise ValueError(f"{predictor.name} is the same in all models that have {response}")
        columns.append((values - values.mean()) / values.std())
    x = np.column_stack([np.ones(len(part)), *columns, _blocks(part["seed"].to_numpy())])
    if len(part) <= x.shape[1] + 1:
        raise ValueError(
            f"{len(part)} models have {response} measured, too few seeds for {len(predictors)} predictors beside the "
            "differences between seeds"
        )
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise ValueError(f"{', '.join(names)} cannot be told apart in the models that have {response}: leave one out")
    return Design(part["value"].to_numpy(np.float64), x, part["cell"].to_numpy(), predictors, part)


def _blocks(seeds: np.ndarray) -> np.ndarray:
    """A centered column per seed but the first: float64 [n, seeds - 1]."""
    names = np.unique(seeds)[1:]
    indicators = (seeds[:, None] == names).astype(np.float64)
    return indicators - indicators.mean(0) if len(names) else indicators
