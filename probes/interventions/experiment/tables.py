"""The tables of an experiment: what its conditions come to, cell by cell, and the answers in one row per stratum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from cadmus.machine import tokens
from cadmus.states.provenance import ROLES
from cadmus.statistics import simultaneous
from probes.interventions.counterfactuals import judging
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.counterfactuals.variables import PairVariable, named_values
from probes.interventions.effects import verdicts
from probes.interventions.effects.effects import effects
from probes.interventions.effects.outcomes import SPANS, UNTRAINED, Outcomes
from probes.interventions.experiment.cells import Place, first_attending, is_input_change
from probes.interventions.experiment.conditions import CONTROLS, INTERCHANGE, Laboratory, Measured, positive_control

_MIN_COMPLETED = 0.2  # the share of pairs that count, below which the summary says that the model completes too little
_NO_CONTROLS = "the interchange succeeds in no more than 5 % of the pairs, so no control was run: d is the accuracy"


def _cells(lab: Laboratory) -> pd.DataFrame:
    """A row per layer and place, in the order of the arrays [layers, places, pairs]."""
    first = first_attending(lab.model, lab.pairs.sequences("base"))
    rows = [
        {
            "layer": layer,
            "role": place.spot.role,
            "span": place.spot.span,
            "input_change": is_input_change(layer, place, first),
        }
        for layer in lab.layers
        for place in lab.places
    ]
    return pd.DataFrame(rows)


def _flat(lab: Laboratory, array: np.ndarray) -> np.ndarray:
    """[layers, places, pairs], or [places, pairs] for all layers alike, as [cells, pairs]."""
    shape = len(lab.layers), len(lab.places), len(lab.pairs)
    return np.broadcast_to(array, shape).reshape(-1, len(lab.pairs))


def exchange_outcomes(lab: Laboratory, measured: Measured, variable: str) -> Outcomes:
    """The interchange, its controls and the twin as effects takes them: arrays [cells, pairs], a cell per layer and
    place."""
    table = lab.pairs.pairs
    controls = {name: np.where(lab.has_source[name], measured.success[name], np.nan) for name in CONTROLS}
    return Outcomes(
        variable=variable,
        cells=_cells(lab),
        mask=_flat(lab, np.stack([place.present for place in lab.places])),
        counts=_flat(lab, measured.counts),
        success=_flat(lab, measured.success[INTERCHANGE]),
        controls={name: _flat(lab, array) for name, array in controls.items()},
        untrained=_flat(lab, measured.success[UNTRAINED]),
        controlled=measured.has_controls.ravel(),
        base_skeletons=table["base_skeleton"].to_numpy(object),
        source_skeletons=table["source_skeleton"].to_numpy(object),
        kinds=table["kind"].to_numpy(object),
        strata=table["stratum"].to_numpy(object),
        shifted=(table["shift"] != 0).to_numpy(),
    )


def outcomes_of(lab: Laboratory, measured: Measured, variable: PairVariable) -> tuple[Outcomes, dict[str, np.ndarray]]:
    """All conditions of all cells as effects takes them, arrays [cells, pairs]; and of which pairs those shares are
    known that not every pair has, bool [pairs] or [cells, pairs]: `damage` (a same-value source), `chance` (others of
    the family), `positive` (input tokens that, patched, ask for another answer)."""
    chance = np.stack([_chance(lab, place) for place in lab.places])
    positive, possible = positive_control(lab, _makers(variable, lab.pairs))
    outcomes = replace(
        exchange_outcomes(lab, measured, variable.name),
        canonical=_flat(lab, measured.canonical),
        moved=_flat(lab, measured.moved),
        changed=_flat(lab, measured.changed),
        damage=_flat(lab, measured.damage),
        chance=_flat(lab, np.nan_to_num(chance)),
        positive=positive if possible.any() else None,
    )
    known = {"damage": lab.has_source["same_value"], "positive": possible, "chance": _flat(lab, ~np.isnan(chance))}
    return outcomes, known


def _chance(lab: Laboratory, place: Place) -> np.ndarray:
    """How often other pairs' completions are true for this pair's edit: float [pairs], NaN where there are none."""
    shares = judging.chance(place.pairs, lab.own, place.role, others=8, seed=lab.seed, edits=place.edits)
    return shares["success"].to_numpy(np.float64)


def effects_of(
    outcomes: Outcomes,
    known: Mapping[str, np.ndarray],
    lab: Laboratory,
    measured: Measured,
    readable: pd.DataFrame,
    seed: int,
) -> pd.DataFrame:
    """The table of `effects.effects`, as `experiment.Experiment.effects` describes it; known: as `outcomes_of`;
    readable: as `readability.readability`."""
    table = of_what_is_known(effects(outcomes, seed), outcomes, known)
    table = _with_consistency(_without_controls(table, lab, measured), lab, measured)
    flags = {(row.stratum, row.layer, row.role): row.readable for row in readable.itertuples()}
    places = zip(table["stratum"], table["layer"], table["role"], table["span"])
    is_readable = [flags.get(place[:3]) if place[3] == SPANS[0] else None for place in places]
    return table.assign(readable=pd.Series(is_readable, table.index, object))


# --- what is not known of every pair ---------------------------------------------------------------------------------


def of_what_is_known(table: pd.DataFrame, outcomes: Outcomes, known: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The effects, these shares anew, of the counting pairs for which they are known: NaN where there is none.

    known: bool [cells, pairs] or [pairs], by the names that the shares have in `Outcomes`.
    """
    table, counting = table.copy(), outcomes.counting
    shifted = np.zeros(counting.shape[1], np.bool_) if outcomes.shifted is None else outcomes.shifted
    groups = table.groupby(["kind", "shifted", "stratum"], sort=False).groups
    for name, has in known.items():
        values = getattr(outcomes, name)
        if values is None or not (counting & ~has).any():
            continue
        values, mask = np.broadcast_to(values, counting.shape), counting & has
        for (kind, shift, stratum), rows in groups.items():
            mine = (outcomes.kinds == kind) & (shifted == shift) & (outcomes.strata == stratum)
            skeletons = outcomes.base_skeletons[mine], outcomes.source_skeletons[mine]
            for column, numbers in simultaneous.share_columns(name, values[:, mine], mask[:, mine], *skeletons).items():
                table.loc[rows, column] = numbers
    return table


# --- cells -----------------------------------------------------------------------------------------------------------


def _without_controls(table: pd.DataFrame, lab: Laboratory, measured: Measured) -> pd.DataFrame:
    """The effects, with no figure where a control was not run."""
    numbers, places = _numbers(lab)
    has = np.array(
        [
            measured.has_controls[numbers[layer], places[role, span]]
            for layer, role, span in zip(table["layer"], table["role"], table["span"])
        ],
        bool,
    )
    table = table.assign(has_controls=has)
    names = [f"{name}{end}" for name in (*CONTROLS, UNTRAINED, "damage") for end in ("", "_low", "_high")]
    table.loc[~has, names] = np.nan
    table.loc[~has, "untrained_n"] = 0
    table["best_control"] = table["best_control"].where(has, None)
    silent = ~has & (table["note"] == "")
    return table.assign(controls_note=np.where(silent, _NO_CONTROLS, ""))


def _with_consistency(table: pd.DataFrame, lab: Laboratory, measured: Measured) -> pd.DataFrame:
    """The effects, with `consistent`: of the interchanges after whose edited answer the model asserts something else
    (`consistent_n`), the share whose whole program is true of the edited state and has its family's form."""
    numbers, places = _numbers(lab)
    pairs = lab.pairs.pairs
    shares, n = [], []
    for row in table.itertuples():
        mine = ((pairs["kind"] == row.kind) & (pairs["stratum"] == row.stratum)).to_numpy(np.bool_)
        mine = mine & ((pairs["shift"] != 0) == row.shifted).to_numpy()
        cell = numbers[row.layer], places[row.role, row.span]
        mine = mine & measured.moves_on[cell]
        n.append(int(mine.sum()))
        shares.append(float(measured.stays[cell][mine].mean()) if mine.any() else np.nan)
    return table.assign(consistent=shares, consistent_n=n)


def moves_input(rows: pd.DataFrame) -> pd.Series:
    """Which rows of verdicts patch a literal where its digit stands, alone or with later roles: there the input itself
    moves, and only when and whereto it travels is a finding."""
    return (rows["stratum"] == "literal") & ((rows["role"] == "arose") | (rows["span"] == "up_to"))


def summary_of(words: pd.DataFrame, readable: pd.DataFrame, mechanism: str, heads: str) -> pd.DataFrame:
    """A row per stratum of one variable, as `experiment.Experiment.summary` describes it.

    words, readable: of the variable; mechanism, heads: what its routes say, in words.
    """
    rows = []
    for row in verdicts.by_variable(words).to_dict("records"):
        mine = words[words["stratum"] == row["stratum"]]
        drawn = int(mine["candidates"].max())
        counting = int(mine["pairs"].max())
        notes = [row["reason"]]
        if drawn and counting < _MIN_COMPLETED * drawn:
            notes.append(f"the model completes too little: {counting} of {drawn} pairs count")
        if "positive" in mine and mine["positive_low"].notna().any():
            notes.append(f"patching the input tokens: {mine['positive'].dropna().iloc[0]:.2f}")
        used = mine[mine["verdict"] == "used"]
        only_input = len(used) > 0 and bool(moves_input(used).all())
        if only_input:
            notes.append("a literal patched where it stands is moved input: only when and whereto it travels is found")
        spent = mine[mine["verdict"] == "spent"]
        if len(spent):
            notes.append("spent at " + ", ".join(_where(spent)))
        rows.append(
            {
                "variable": row["variable"],
                "stratum": row["stratum"],
                **_claims(readable[readable["stratum"] == row["stratum"]]),
                "used": "undecided" if only_input else row["verdict"],
                "where": row["best"],
                **{name: row[name] for name in ("accuracy", "d", "d_low", "d_high")},
                "mechanism": mechanism,
                "heads": heads,
                "pairs": counting,
                "drawn": drawn,
                "notes": "; ".join(note for note in notes if note),
            }
        )
    return pd.DataFrame(rows)


def _claims(readable: pd.DataFrame) -> dict[str, str | None]:
    """Where a stratum's values are readable and read, in words."""
    known = readable[readable["readable"].notna()]
    return {
        name: ", ".join(_where(known[known[name].astype(bool)])) if len(known) else None
        for name in ("readable", "read")
    }


def _where(rows: pd.DataFrame) -> list[str]:
    """Roles, each with its layers, in words: `loaded (layers 1-3)`."""
    out = []
    for role in [role for role in ROLES if (rows["role"] == role).any()]:
        layers = sorted(set(rows.loc[rows["role"] == role, "layer"].tolist()))
        out.append(f"{role} (layers {', '.join(map(str, layers))})")
    return out


def _numbers(lab: Laboratory) -> tuple[dict[int, int], dict[tuple[str, str], int]]:
    """Where a layer, and a role and span, stand in the arrays."""
    places = {(place.spot.role, place.spot.span): number for number, place in enumerate(lab.places)}
    return {layer: number for number, layer in enumerate(lab.layers)}, places


def _makers(variable: PairVariable, pairs: Pairs) -> np.ndarray:
    """The tokens that make each base's value: bool [pairs, tokens]."""
    programs = tokens.encode(pairs.pairs["base"].tolist())
    every = named_values(variable, programs, pairs.cuts)
    arose = pairs.roles[(pairs.roles["role"] == "arose") & (pairs.roles["base_token"] >= 0)].drop_duplicates("pair")
    origins = dict(zip(arose["pair"].tolist(), arose["edit_at"].tolist()))
    mine = np.array([origins.get(p) == at for p, at in zip(every.prompt.tolist(), every.arose.tolist())], np.bool_)
    out = np.zeros(programs.shape, np.bool_)
    if mine.any():
        chosen_rows = every[np.flatnonzero(mine)]
        out[chosen_rows.prompt] = chosen_rows.makers()
    return out
