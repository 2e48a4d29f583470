"""Words for effects: used, unused, spent or undecided, per variable, layer and role, and why.

Enters: the table of `effects`. Only discriminating pairs without a shift speak; Holm's correction goes over variables,
Benjamini and Hochberg's over heads; bounds hold for all layers and roles of a variable at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cadmus.machine.tokens import text_list
from cadmus.states.provenance import ROLES
from cadmus.statistics.clustered import MIN_CLUSTERS, benjamini_hochberg
from cadmus.statistics.simultaneous import holm
from probes.interventions.effects.outcomes import SPANS, THRESHOLD

LEVEL = 0.05  # of false verdicts over all variables, and of false heads among those called used
MIN_PAIRS_UNUSED = 200
MIN_POSITIVE = 0.5  # what the positive control's accuracy must be surely above, or the pairs cannot show absence


def verdicts(table: pd.DataFrame, roles: Sequence[str] = ROLES) -> pd.DataFrame:
    """The rows of `effects` that may claim something, with columns `p_holm`, `claimed`, `verdict`, `reason` and
    `obstacle` (what keeps the whole variable from being called unused; empty where nothing does).

    Rows of minimal and of shifted pairs are left out. A cell that amounts to a change of input keeps its row with
    `claimed` False and the verdict "undecided": reported, never claimed; so does a cell whose role no pair has.

    - *used*: the lower bound of d lies above 0.05, and still does at the variable's level of Holm's correction. So the
      chance that any variable without effect is called used anywhere is at most 5 %, and within a variable all cells
      hold together.
    - *unused*: the upper bound of d lies below 0.05 at every layer, role and span that was tested, one of them
      cumulative, on 200 pairs or more each, and the positive control on those pairs is surely above 0.5 (Holm over
      variables, too).
    - *spent*: readable here, the upper bounds of d and of the share of answers that change at all below 0.05 here, used
      earlier: at an earlier layer and the same or an earlier role, or at an earlier role and the same or an earlier
      layer, from where the value can have come here. Cells of the single role say so, and patches up to a role that is
      itself an earlier one; those from a role on do not, as what they move may lie behind. An exchange that changes
      answers, though not to the machine's, replaces something else besides, such as an answer that stands there by
      then: it cannot show that the value is spent.
    - *undecided*: else; `reason` says what is missing.

    Each of the three words needs 30 pairs, of 30 base and 30 source skeletons, in its cell.

    Args:
        table: of one model; strata of a variable are judged each for itself, and count as tests of Holm's correction.
        roles: their order, from the earliest.

    Raises ValueError where no row comes from discriminating pairs without a shift.
    """
    roles = tuple(text_list(roles, "roles"))
    rows = table[(table["kind"] == "discriminating") & ~table["shifted"].astype(bool)].reset_index(drop=True)
    if rows.empty:
        raise ValueError("no row comes from discriminating pairs without a shift; verdicts rest on those alone")
    unknown = sorted(set(rows["role"]) - set(roles))
    if unknown:
        raise ValueError(f"role {unknown[0]!r} is none of {', '.join(roles)}; pass the roles in their order")
    claimed = ~rows["input_change"].astype(bool) & (rows["candidates"] > 0)
    groups = [index.to_numpy() for index in rows.groupby(["variable", "stratum"], sort=False).groups.values()]
    cells = [group[claimed.to_numpy()[group]] for group in groups]
    above = _over_variables([_smallest(rows["p_above"].to_numpy()[group]) for group in cells])
    below = _over_variables([_largest(rows["p_below"].to_numpy()[group]) for group in cells])
    words = np.full(len(rows), "undecided", object)
    reasons = np.full(len(rows), "", object)
    obstacles = np.full(len(rows), "", object)
    p_holm = np.full(len(rows), np.nan)
    for number, group in enumerate(groups):
        part = rows.iloc[group].assign(claimed=claimed.iloc[group])
        p_holm[group] = above[0][number]
        words[group], reasons[group], obstacles[group] = _judge(
            part, above[0][number], above[1][number], below[0][number], {role: i for i, role in enumerate(roles)}
        )
    return rows.assign(p_holm=p_holm, claimed=claimed, verdict=words, reason=reasons, obstacle=obstacles)


def heads(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `effects`, a cell per head, with `q` (Benjamini-Hochberg over all of them) and `used`: q at most 0.05.

    Cells that amount to a change of input have no q and are not used, nor are those of fewer than 30 pairs or
    skeletons. Raises ValueError as `verdicts` does.
    """
    rows = table[(table["kind"] == "discriminating") & ~table["shifted"].astype(bool)].reset_index(drop=True)
    if rows.empty:
        raise ValueError("no row comes from discriminating pairs without a shift; heads' roles rest on those alone")
    testable = ~rows["input_change"].astype(bool) & (rows[["pairs", "clusters"]] >= MIN_CLUSTERS).all(axis=1)
    q = benjamini_hochberg(rows["p_alone"].where(testable).to_numpy(np.float64))
    return rows.assign(q=q, used=np.nan_to_num(q, nan=1.0) <= LEVEL)


def by_variable(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variable and stratum of a table of `verdicts`: its verdict as a whole and where it is used.

    `verdict` is "used" where any cell is, "unused" where all are, else "undecided"; `cells_used` counts those cells,
    `first` and `best` name the earliest and the strongest of them, with the strongest one's `d` and bounds (of all
    claimed cells where none is used).
    """
    parts = []
    for (variable, stratum), rows in table.groupby(["variable", "stratum"], sort=False):
        claimed = rows[rows["claimed"]]
        used = claimed[claimed["verdict"] == "used"]
        unused = len(claimed) > 0 and (claimed["verdict"] == "unused").all()
        known = (used if len(used) else claimed).dropna(subset=["d"])
        best = known.loc[known["d"].idxmax()] if len(known) else None
        parts.append(
            {
                "variable": variable,
                "stratum": stratum,
                "verdict": "used" if len(used) else "unused" if unused else "undecided",
                "cells": len(claimed),
                "cells_used": len(used),
                "first": _name(used.sort_values("layer", kind="stable").iloc[0]) if len(used) else "",
                "best": "" if best is None else _name(best),
                "pairs": 0 if best is None else int(best["pairs"]),
                **{name: np.nan if best is None else best[name] for name in ("accuracy", "d", "d_low", "d_high")},
                "p_holm": rows["p_holm"].iloc[0],
                "reason": "" if len(used) or unused else _why_undecided(rows),
            }
        )
    return pd.DataFrame(parts)


def _over_variables(p: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Holm-adjusted p-values of the variables, and by how much those of their cells are multiplied.

    A variable's factor is the number of variables whose p-value is no smaller, so that the smallest p-value among its
    cells reaches level just where the variable does, given those before it.
    """
    values = np.array(p, np.float64)
    adjusted = holm(values)
    tests = int((~np.isnan(values)).sum())
    order = np.argsort(np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable"), kind="stable")
    return adjusted, np.maximum(tests - order, 1)


def _judge(
    part: pd.DataFrame, p_used: float, factor: int, p_unused: float, order: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, str]:
    """Words and reasons for the cells of one variable and stratum, and what keeps it from being unused.

    p_used, p_unused: Holm-adjusted, of the variable; factor: what its cells' p-values are multiplied by; order: the
    roles'.
    """
    claimed = part["claimed"].to_numpy()
    enough = (part[["pairs", "clusters"]] >= MIN_CLUSTERS).all(axis=1).to_numpy()
    holds = part["p_above"].to_numpy() * factor <= LEVEL
    used = claimed & enough & (p_used <= LEVEL) & holds & (part["d_low"].to_numpy() > THRESHOLD)
    low_here = claimed & (part["d_high"].to_numpy() < THRESHOLD)
    obstacle = _obstacle_to_unused(part, low_here, p_unused)
    used_earlier = _used_earlier(part, used, order)
    words = np.full(len(part), "undecided", object)
    words[used] = "used"
    if not obstacle:
        words[claimed] = "unused"
    else:
        is_readable = part["readable"].map(_is_true).to_numpy(bool)
        words[low_here & _leaves_answers(part) & enough & is_readable & used_earlier] = "spent"
    reasons = [
        _reason(row, word, obstacle, factor, earlier)
        for row, word, earlier in zip(part.to_dict("records"), words, used_earlier)
    ]
    return words, np.array(reasons, object), obstacle


def _used_earlier(part: pd.DataFrame, used: np.ndarray, order: dict[str, int]) -> np.ndarray:
    """Which cells come behind one that is used, as `verdicts` says it: bool [cells]; used: bool [cells]."""
    layers, ranks, spans = part["layer"].to_numpy(), part["role"].map(order).to_numpy(), part["span"].to_numpy()
    layer, rank = layers[:, None], ranks[:, None]  # of what comes behind; [behind, before] below
    is_earlier_role = (ranks < rank) & (layers <= layer)
    is_earlier = is_earlier_role | ((layers < layer) & (ranks <= rank))
    shows = np.where(spans == "single", is_earlier, (spans == "up_to") & is_earlier_role)
    return (shows & used).any(1)


def _leaves_answers(part: pd.DataFrame) -> np.ndarray:
    """Which exchanges surely change fewer answers than the threshold, to whatever: bool [cells]."""
    if "changed_high" not in part:
        return np.zeros(len(part), np.bool_)
    return part["changed_high"].to_numpy(np.float64) < THRESHOLD


def _is_true(flag: object) -> bool:
    """Of a flag that may be None or not a number, where it is not known."""
    return flag is not None and flag == True  # noqa: E712


def _obstacle_to_unused(part: pd.DataFrame, low_here: np.ndarray, p_unused: float) -> str:
    """Why the variable may not be called unused; empty where it may."""
    claimed = part["claimed"].to_numpy()
    if not claimed.any():
        return "every cell amounts to a change of input"
    fewest_pairs, fewest_clusters = (int(part[name].to_numpy()[claimed].min()) for name in ("pairs", "clusters"))
    few = []
    if fewest_pairs < MIN_PAIRS_UNUSED:
        more = f"; {MIN_PAIRS_UNUSED / fewest_pairs:.1f} times as many would do" if fewest_pairs else ""
        few.append(f"some cell has {fewest_pairs} pairs of the {MIN_PAIRS_UNUSED} that unused asks for{more}")
    if fewest_clusters < MIN_CLUSTERS:
        few.append(f"some cell has {fewest_clusters} skeletons of the {MIN_CLUSTERS} that a claim asks for")
    if not low_here[claimed].all() or not p_unused <= LEVEL:
        return "; ".join(["d is not surely below 0.05 at every layer and role", *few])
    if few:
        return "; ".join(few)
    spans = set(part["span"][claimed])
    if not spans - {SPANS[0]}:
        return "no cumulative patch was tested"
    if "positive" not in part or not part["positive_low"].notna().any():
        return "no positive control on the same pairs"
    if not (part["positive_low"].to_numpy()[claimed] > MIN_POSITIVE).all():
        return "the positive control on the same pairs does not pass"
    return ""


def _reason(row: dict[str, Any], word: str, obstacle: str, factor: int, used_earlier: bool) -> str:
    """Why the cell has its word, in a sentence without a full stop."""
    d = f"d = {row['d']:.2f} [{row['d_low']:.2f}, {row['d_high']:.2f}]"
    if row["note"]:
        return str(row["note"])
    if not row["claimed"]:
        return f"amounts to a change of input: reported, never claimed ({d})"
    if word == "used":
        return f"{d} beyond {row['best_control']}"
    if word == "unused":
        return f"{d} here, and surely below 0.05 everywhere"
    if word == "spent":
        return f"readable, {d}, used earlier"
    if row["d_low"] > THRESHOLD:
        return f"{d}, " + (_few(row) or f"not beyond Holm's level 0.05 / {factor}")
    if row["d_high"] < THRESHOLD:
        missing = [_few(row)]
        missing += ["" if _is_true(row["readable"]) else "not shown to be readable here"]
        missing += ["" if used_earlier else "not shown to be used earlier"]
        missing += [_answers_changed(row)]
        why = ", ".join(filter(None, missing))
        return f"moves no more than its controls here ({d}); {obstacle}, and not spent: {why}"
    return f"{d} reaches across 0.05 on {row['pairs']} pairs"


def _answers_changed(row: dict[str, Any]) -> str:
    """Which answers keep a cell from being spent; empty where the exchange surely leaves them as they are."""
    if pd.isna(row.get("changed_high", np.nan)):
        return "how many answers change is not known"
    if row["changed_high"] < THRESHOLD:
        return ""
    share = f"{row['changed']:.2f} [{row['changed_low']:.2f}, {row['changed_high']:.2f}]"
    return f"the exchange changes {share} of the answers, if not to the machine's"


def _few(row: dict[str, Any]) -> str:
    """What a cell has too little of for any claim, with its count; empty where it has enough."""
    if row["pairs"] < MIN_CLUSTERS:
        return f"on fewer than {MIN_CLUSTERS} pairs ({row['pairs']})"
    if row["clusters"] < MIN_CLUSTERS:
        return f"on fewer than {MIN_CLUSTERS} skeletons ({row['clusters']})"
    return ""


def _why_undecided(rows: pd.DataFrame) -> str:
    """Why a variable is neither used nor unused: the note where no row has a figure, else what `unused` lacks."""
    notes = rows["note"]
    return str(notes.iloc[0] if (notes != "").all() else "used nowhere for sure; " + rows["obstacle"].iloc[0])


def _name(row: pd.Series) -> str:
    span = "" if row["span"] == "single" else f" ({row['span'].replace('_', ' ')})"
    return f"layer {row['layer']}, {row['role']}{span}"


def _smallest(p: np.ndarray) -> float:
    return float(np.nanmin(p)) if (~np.isnan(p)).any() else np.nan


def _largest(p: np.ndarray) -> float:
    return float(p.max()) if len(p) and not np.isnan(p).any() else np.nan
