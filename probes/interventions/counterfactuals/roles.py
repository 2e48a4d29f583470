"""The roles of a pair's value: where a model is patched, which edit of the state that is, and what follows from it.

A row per pair, role and occurrence, out of the provenance of base and source; the edits are run by the oracle. Several
occurrences of a role are patched together, which is one edit after another: `joint_edits`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cadmus.machine import oracle, tokens, vm
from cadmus.states.provenance import ROLES, provenance
from probes.interventions.counterfactuals.prompts import NO_ANSWER, Answers
from probes.interventions.counterfactuals.substitutes import makes_true

ROLE_COLUMNS = {  # and their types
    "pair": "int64",
    "role": "str",
    "occurrence": "int64",
    "base_token": "int64",
    "source_token": "int64",
    "edit_at": "int64",
    "place": "str",
    "version": "int64",
    "distance": "int64",
    "edited_answer": "str",
    "joint_answer": "str",
    "note": "str",
}
_ABSENT = {
    "arose": "the value does not lie on the stack after the token that made it",
    "stored": "the value is stored in no register",
    "between": "no token stands between a store of the value and its last load",
    "loaded": "the value is loaded nowhere before the cut",
    "consumed": "no instruction takes the value before the cut",
    "overwritten": "no register that holds the value is overwritten before the cut",
    "decision": "the value is no longer in the state at the cut",
}
_SOURCE_LACKS = "the source's value has no such occurrence: not patched"
_NOTHING_TRUE = "no answer of the family makes the program true then"


def role_table(
    bases: Sequence[str],
    values: np.ndarray,
    sources: Sequence[str],
    source_values: np.ndarray,
    new_values: np.ndarray,
    answers: Answers,
    first_pair: int = 0,
) -> pd.DataFrame:
    """The roles of the values numbered `values` int [n] in prompts `bases`, patched from those in `sources`.

    new_values int [n]: what the edits put in place of the value. Prompts of equal length are aligned token by token,
    others occurrence by occurrence; columns are `ROLE_COLUMNS`, -1 where a program lacks a role.
    """
    bases, sources = tokens.text_list(bases, "bases"), tokens.text_list(sources, "sources")
    own, other = _occurrences(bases, values), _occurrences(sources, source_values)
    equal = np.array([len(base) == len(source) for base, source in zip(bases, sources)], np.bool_)[own["pair"]]
    aligned = own.merge(other, on=["pair", "role", "token", "place"], how="left", suffixes=("", "_2"))
    by_number = own.merge(other, on=["pair", "role", "occurrence"], how="left", suffixes=("", "_2"))
    same_token = np.where(aligned["occurrence_2"].notna(), own["token"], -1)
    source_token = np.where(equal, same_token, by_number["token_2"].fillna(-1))
    table = own.rename(columns={"token": "base_token"}).assign(source_token=source_token.astype(np.int64), note="")
    table.loc[table["source_token"] < 0, "note"] = _SOURCE_LACKS
    programs, cuts = tokens.encode(list(bases)), np.array([len(base) for base in bases], np.int64)
    pair = table["pair"].to_numpy()
    edits: list[dict[str, vm.ValueLike]] = [{place: v} for place, v in zip(table["place"], new_values[pair].tolist())]
    table["edited_answer"] = asked_for(programs[pair], cuts[pair], table["edit_at"].to_numpy(), edits, answers)
    table.loc[(table["edited_answer"] == "") & (table["note"] == ""), "note"] = _NOTHING_TRUE
    table["joint_answer"] = _joint_answers(table, bases, programs, cuts, new_values, answers)
    table = pd.concat([table, _absent(table, len(bases))], ignore_index=True)
    order = np.lexsort([table["occurrence"], [ROLES.index(role) for role in table["role"]], table["pair"]])
    table = table.iloc[order].reset_index(drop=True)
    table["pair"] += first_pair
    return table[list(ROLE_COLUMNS)]


def _occurrences(prompts: Sequence[str], values: np.ndarray) -> pd.DataFrame:
    """The occurrences of one value of each prompt: by pair and role, numbered within."""
    rows = provenance(tokens.encode(list(prompts)), np.array([len(prompt) for prompt in prompts], np.int64))
    table = rows.occurrences.frame()
    table = table[table["value"].to_numpy() == np.asarray(values)[table["program"]]]
    table = table.rename(columns={"program": "pair"}).drop(columns="value")
    table = table.astype(dict.fromkeys(("pair", "token", "edit_at", "version", "distance"), np.int64))
    table = table.sort_values(["pair", "role", "token", "place"], kind="stable").reset_index(drop=True)
    return table.assign(occurrence=table.groupby(["pair", "role"]).cumcount())


def _absent(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """A row for every role that a base lacks."""
    present = set(zip(table["pair"], table["role"]))
    absent = [(pair, role) for pair in range(n) for role in ROLES if (pair, role) not in present]
    numbers = dict.fromkeys(("base_token", "source_token", "edit_at", "version", "distance"), -1)
    texts = dict.fromkeys(("place", "edited_answer", "joint_answer"), "")
    rows = [{"pair": p, "role": role, "occurrence": 0, **numbers, **texts, "note": _ABSENT[role]} for p, role in absent]
    return pd.DataFrame(rows, columns=list(ROLE_COLUMNS))


def asked_for(
    prompts: np.ndarray,
    cuts: np.ndarray,
    at: np.ndarray,
    edits: Sequence[Mapping[str, vm.ValueLike]],
    answers: Answers,
) -> list[str]:
    """What the family's rule asks for at the cut of each prompt uint8 [n, width] whose state after token at[i] is
    edited; empty where there is no answer, or none that makes the program true."""
    if not len(prompts):
        return []
    states = oracle.traces(prompts, at, edits, entries=answers.reads)
    numbers, _ = answers.after_edits(states, cuts)
    is_true = makes_true(prompts, cuts, numbers, at, edits, answers)
    numbers = np.where(is_true, numbers, NO_ANSWER)
    return [answers.texts[number] if number != NO_ANSWER else "" for number in numbers.tolist()]


# --- several occurrences at once -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JointEdit:
    """What patching all occurrences of a role amounts to: one edit of one state."""

    at: int
    """The token after which the state is edited."""
    places: Mapping[str, vm.ValueLike]
    """What is put where; empty where the role is absent, so that nothing is edited."""


def joint_edit(prompt: str, rows: Sequence[tuple[int, str, int]], new_value: int) -> JointEdit:
    """The edit that puts `new_value` into every one of these occurrences, (edit_at, place, version) each.

    Edits at several tokens are made one after the other, each in the run that the earlier ones left; the last state, as
    it then is, stands for all of them. A version of a register keeps what it was given first.
    """
    steps: dict[int, list[str]] = {}
    versions = set()
    for edit_at, place, version in sorted(rows):
        if place.startswith("reg.") and (place, version) in versions:
            continue
        versions.add((place, version))
        steps.setdefault(edit_at, []).append(place)
    if not steps:
        return JointEdit(len(prompt) - 1, {})
    (at, places), *later = steps.items()
    edits: dict[str, vm.ValueLike] = dict.fromkeys(places, new_value)
    for next_at, next_places in later:
        state = oracle.edit(prompt, at, edits).states[next_at]
        edits = {f"stack.{k}": value for k, value in enumerate(reversed(state.stack))}
        edits |= {f"reg.{name}": value for name, value in state.registers.items()}
        edits |= dict.fromkeys(next_places, new_value)
        at = next_at
    return JointEdit(at, edits)


def joint_edits(
    roles: pd.DataFrame, role: str, prompts: Sequence[str], new_values: Sequence[int], pairs: Sequence[int]
) -> list[JointEdit]:
    """For each of the pairs, the edit that patching `role` amounts to, of the occurrences that the source has too."""
    prompts = tokens.text_list(prompts, "prompts")
    rows = roles[(roles["role"] == role) & (roles["source_token"] >= 0)]
    own: dict[int, list[tuple[int, str, int]]] = {}
    for pair, *row in zip(*(rows[name].tolist() for name in ("pair", "edit_at", "place", "version"))):
        own.setdefault(pair, []).append(tuple(row))
    return [joint_edit(text, own.get(pair, []), v) for text, v, pair in zip(prompts, new_values, pairs)]


def _joint_answers(
    table: pd.DataFrame,
    bases: Sequence[str],
    programs: np.ndarray,
    cuts: np.ndarray,
    new_values: np.ndarray,
    answers: Answers,
) -> list[str]:
    """What is asked for where all occurrences of a row's role are patched; empty where the source has none of them."""
    patched = table[table["source_token"] >= 0]
    keys = list(zip(patched["pair"], patched["role"]))
    several = Counter(keys)
    out = dict(zip(keys, patched["edited_answer"]))
    for role in ROLES:
        pairs = [pair for (pair, name), count in several.items() if name == role and count > 1]
        if not pairs:
            continue
        edits = joint_edits(table, role, [bases[p] for p in pairs], [int(new_values[p]) for p in pairs], pairs)
        at = np.array([edit.at for edit in edits], np.int64)
        texts = asked_for(programs[pairs], cuts[pairs], at, [dict(edit.places) for edit in edits], answers)
        out |= dict(zip([(pair, role) for pair in pairs], texts))
    return [out.get(key, "") for key in zip(table["pair"], table["role"])]
