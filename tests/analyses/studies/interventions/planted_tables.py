"""Tables of the study with known findings, made of planted outcomes of interchanges."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses.studies.interventions.tables import Tables
from probes.interventions.effects.effects import effects
from probes.interventions.effects.verdicts import verdicts
from tests.probes.interventions.effects.planted_outcomes import planted

ROLES = ("arose", "stored", "loaded", "decision")
CELLS = pd.DataFrame(
    [(layer, role, "single") for layer in range(1, 9) for role in ROLES]
    + [(layer, "stored", "from") for layer in range(1, 9)],
    columns=["layer", "role", "span"],
)
MOVES = {("reg", 2, "stored"): 0.85, ("reg", 3, "loaded"): 0.7, ("compare.first", 1, "arose"): 0.8}


def tables(variables: tuple[str, ...] = ("reg", "compare.first", "sequence"), pairs: int = 300) -> Tables:
    """reg is read and used, then spent; compare.first is used and not read; nothing is known of sequence."""
    rng = np.random.default_rng(0)
    outcomes = []
    for variable in variables:
        rates = {(layer, role): rate for (name, layer, role), rate in MOVES.items() if name == variable}
        is_input = CELLS["role"].eq("arose") & CELLS["layer"].eq(1) & (variable == "reg")
        flags = [variable == "reg" and role in ("stored", "loaded") for role in CELLS["role"]]
        cells = CELLS.assign(input_change=is_input, readable=flags)
        counting = 0.0 if variable == "sequence" else 0.9
        outcomes.append(planted(rates=rates, variable=variable, cells=cells, pairs=pairs, counting=counting))
    table = effects(outcomes, resamples=200)
    names = list(CELLS[CELLS["span"] == "single"].itertuples())
    readable = pd.DataFrame(
        [
            _probe(variable, cell.layer, cell.role, variable == "reg" and cell.role in ("stored", "loaded"), rng)
            for variable in variables
            for cell in names
        ]
    )
    empty = pd.DataFrame({"variable": []})
    summary = pd.DataFrame({"variable": variables, "stratum": "computed", "mechanism": "", "notes": ""})
    heads = pd.concat([_heads(variable) for variable in variables], ignore_index=True)
    return Tables(verdicts(table), table, readable, heads, empty, empty, empty, empty, summary)


def _heads(variable: str) -> pd.DataFrame:
    """Head 3.1 attends to and is needed for the register's store; the others do nothing."""
    rows = [(layer, head) for layer in range(8) for head in range(2)]
    table = pd.DataFrame(rows, columns=["layer", "head"]).assign(variable=variable, flow="load_store", flow_d=0.02)
    one = (table["layer"] == 3) & (table["head"] == 1) & (variable == "reg")
    table = table.assign(attends=one, needed=one, used=False, knockout="load_store", accuracy=0.0)
    return table.assign(flow_d=table["flow_d"].where(~one, 0.7), knockout_d=one * 0.5, broken=one * 0.6)


def _probe(variable: str, layer: int, role: str, reads: bool, rng: np.random.Generator) -> dict:
    score = rng.uniform(0.8, 0.95) if reads else rng.uniform(0.3, 0.4)
    return {
        "variable": variable,
        "stratum": "computed",
        "layer": layer,
        "role": role,
        "accuracy": score,
        "accuracy_low": score - 0.03,
        "accuracy_high": score + 0.03,
        "untrained": 0.3,
        "input_linear": 0.35,
        "input_network": 0.4,
        "beyond_low": score - 0.4,
        "beyond_all_low": score - 0.45,
        "beyond_high": score - 0.36 if variable != "sequence" else score,  # of sequence too little is known
        "beyond_all_high": score - 0.41 if variable != "sequence" else score,
        "readable": reads,
        "read": reads and layer > 2,
    }
