"""The data-flow edges of a pair's value: from which tokens the model would have to look where, and where else it could.

Edges come from `cadmus.states.provenance`, in model positions. They are those of the value itself, and the decision's:
from the last token before the cut to what put there what the answer is about, which the value may have become.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cadmus.machine import kernel, tokens
from cadmus.runtime.seeds import generator
from cadmus.states.provenance import provenance
from probes.interventions.attention.answers import truth
from probes.interventions.attention.flow import data_flow
from probes.interventions.attention.knockouts import Move
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.counterfactuals.roles import JointEdit


def value_edges(pairs: Pairs) -> pd.DataFrame:
    """The edges of each base's value: `row`, `kind`, `query`, `key`, in model positions, each once."""
    programs = tokens.encode(pairs.pairs["base"].tolist())
    edges = data_flow(programs)
    values = _values(pairs, programs)
    own = edges["value"].to_numpy() == values[edges["program"]]
    decides = edges["kind"].str.startswith("decision").to_numpy()
    edges = edges[own | decides].rename(columns={"program": "row"})
    return edges.drop_duplicates(["row", "kind", "query", "key"])[["row", "kind", "query", "key"]].reset_index(
        drop=True
    )


def _values(pairs: Pairs, programs: np.ndarray) -> np.ndarray:
    """The number of each base's value in its provenance, int64 [n]; -1 where it never lay on the stack."""
    table = provenance(programs, pairs.cuts).occurrences.frame()
    table = table[table["role"] == "arose"].rename(columns={"program": "pair"})
    own = pairs.roles[(pairs.roles["role"] == "arose") & (pairs.roles["base_token"] >= 0)]
    table = own[["pair", "edit_at", "place"]].merge(table, on=["pair", "edit_at", "place"]).drop_duplicates("pair")
    out = np.full(len(pairs), -1)
    out[table["pair"].to_numpy()] = table["value"].to_numpy()
    return out


def moves(pairs: Pairs, seed: int = 0) -> Move | None:
    """Where the edges from a load could lead instead: to the store, or to the token of origin, of another number that a
    register was given before; of several, one is drawn by `seed`. None where no base has such a one.

    The answer then asked for is that of the state in which the loaded copy is the other number. Bases in which the
    value is loaded more than once are left out.
    """
    programs = tokens.encode(pairs.pairs["base"].tolist())
    graph = provenance(programs, pairs.cuts)
    values = graph.values.frame().set_index(["program", "value"])
    versions = graph.versions.frame()
    edges = value_edges(pairs)
    loads = pairs.roles[(pairs.roles["role"] == "loaded") & (pairs.roles["base_token"] >= 0)]
    loads = loads[~loads["pair"].duplicated(keep=False) & (loads["version"] >= 0)].set_index("pair")
    rng = generator("moved edges", seed)
    own = pairs.pairs["value"].tolist()
    rows = []
    edits = [JointEdit(int(cut) - 1, {}) for cut in pairs.cuts]
    by_row = dict(list(edges.groupby("row")))
    for pair, others in versions.groupby("program"):
        if pair not in loads.index or pair not in by_row:
            continue
        load = loads.loc[pair]
        facts = values.loc[[(pair, value) for value in others["value"]]]
        numbers, is_int = facts["v"].to_numpy(), (facts["kind"] == kernel.KINDS[kernel.INT_KIND]).to_numpy()
        usable = is_int & (numbers != own[pair]) & (others["token"].to_numpy() < load["base_token"])
        if not usable.any():
            continue
        choice = int(rng.choice(np.flatnonzero(usable)))
        store, origin = int(others["token"].iloc[choice]) + 1, int(facts["arose"].iloc[choice]) + 1
        edits[pair] = JointEdit(int(load["edit_at"]), {load["place"]: int(numbers[choice])})
        for edge in by_row[pair].itertuples():
            if edge.kind in ("load_store", "load_origin") and edge.query == load["base_token"] + 1:
                to = store if edge.kind == "load_store" else origin
                if to != edge.key:
                    rows.append((pair, edge.kind, edge.query, edge.key, to))
    if not rows:
        return None
    return Move(pd.DataFrame(rows, columns=["row", "kind", "query", "key", "to"]), truth(pairs, edits))
