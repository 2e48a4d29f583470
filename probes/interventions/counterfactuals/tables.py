"""The tables of pairs: what roles and skeletons add to them, and several tables as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cadmus.machine import tokens, vm
from cadmus.programs.parts.family import Family
from cadmus.programs.skeletons import skeletons
from cadmus.runtime import artifacts
from cadmus.states.provenance import provenance
from probes.interventions.counterfactuals.pairs import PAIR_COLUMNS
from probes.interventions.counterfactuals.prompts import Answers
from probes.interventions.counterfactuals.roles import ROLE_COLUMNS, role_table


def about(variable: str, families: Sequence[Family]) -> dict[str, Any]:
    """What is said of all pairs, whatever they were made of."""
    machine = artifacts.machine_fingerprint()
    names = [family.name for family in families]
    return {"variable": variable, "families": names, "machine": machine, "versions": artifacts.provenance()}


def joined(pairs: list[pd.DataFrame], roles: list[pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One table of all pairs, numbered through, and one of all roles, with their columns in order, of their types."""
    table = pd.concat(pairs, ignore_index=True)
    return _typed(table.assign(pair=np.arange(len(table))), PAIR_COLUMNS), _typed(pd.concat(roles), ROLE_COLUMNS)


def _typed(table: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    types = {name: "int64" for name, kind in columns.items() if kind == "int64"}
    return table.reindex(columns=list(columns)).astype(types).reset_index(drop=True)


def with_roles(table: pd.DataFrame, answers: Answers, first_pair: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The pairs with what their roles and skeletons say, and the roles. `_value`, `_arose`: of the base's value, and
    `_source_value`: of the source's, which arose at the same token unless it is given."""
    for name in ("base", "source"):
        texts = tokens.encode(table[name].tolist())
        table[f"{name}_skeleton"] = [text.rstrip(vm.END) for text in tokens.decode(skeletons(texts))]
    if "_source_value" not in table:
        table["_source_value"] = _values_arising(table["source"].tolist(), table["_arose"].to_numpy())
    columns = (table[name].to_numpy() for name in ("_value", "_source_value", "source_value"))
    values, source_values, new_values = columns
    bases, sources = table["base"].tolist(), table["source"].tolist()
    roles = role_table(bases, values, sources, source_values, new_values, answers, first_pair)
    distances = _distances(roles, table, first_pair)
    return table.assign(read_distance=distances[0], overwrites=distances[1]), roles


def _values_arising(prompts: list[str], arose: np.ndarray) -> np.ndarray:
    """The number of the value that arose at that token, and lay on top of the stack, in each prompt: int64 [n]."""
    rows = provenance(tokens.encode(prompts), np.array([len(prompt) for prompt in prompts], np.int64)).occurrences
    table = rows.frame()
    table = table[(table["role"] == "arose") & (table["place"] == "stack.0")]
    table = table[table["edit_at"].to_numpy() == arose[table["program"]]]
    return (
        table.drop_duplicates("program").set_index("program")["value"].reindex(range(len(prompts))).to_numpy(np.int64)
    )


def _distances(roles: pd.DataFrame, table: pd.DataFrame, first_pair: int) -> tuple[np.ndarray, np.ndarray]:
    """`read_distance` and `overwrites` of each pair: int64 [n] both."""
    rows = roles.assign(pair=roles["pair"] - first_pair)
    rows = rows[rows["base_token"] >= 0]
    first = {
        role: rows[rows["role"] == role].drop_duplicates("pair").set_index("pair") for role in rows["role"].unique()
    }

    def of(role: str, column: str) -> np.ndarray:
        """The column's value of the first occurrence, NaN where there is none: float [n]."""
        empty = pd.Series(np.nan, index=range(len(table)))
        return (first[role][column].reindex(empty.index) if role in first else empty).to_numpy(np.float64)

    arose = of("arose", "base_token")
    load = of("loaded", "distance")
    load = np.where(load < 0, of("loaded", "base_token") - arose, load)  # an element that is read off
    uses = (load, of("consumed", "base_token") - arose, table["cut"].to_numpy() - 1 - arose)
    distance = np.select([~np.isnan(use) for use in uses], uses)
    return distance.astype(np.int64), np.nan_to_num(of("stored", "version")).astype(np.int64)
