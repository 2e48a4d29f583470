"""What the page says: its first paragraph, and for each variable a sentence, in statements that the tables support."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analyses.reporting import report
from analyses.studies.interventions import words
from analyses.studies.interventions.study import InterventionsResults, ModelResults
from probes.interventions.effects.outcomes import THRESHOLD

MIN_COUNTING = 0.2  # of a variable's pairs, below which the page says that the model completes too little


def summary(results: InterventionsResults) -> tuple[str, ...]:
    """At most three sentences, as one paragraph: what the model uses, how surely, and whether it can be read too."""
    model = results.models[0]
    table = headline_rows(model.headlines)
    used = table[table["use"] == "used"]
    sentences = [
        _uses(model.name, table, len(table) < len(model.headlines)),
        _strongest(used),
        _several(results) or _readings(used),
    ]
    return (" ".join(filter(None, sentences)),)


def headline_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The variables that carry the headline: those whose values are computed, where there are any; an exchange of what
    is written as a digit moves the input itself."""
    computed = table[table["stratum"] == "computed"]
    return computed if len(computed) else table


def _uses(name: str, table: pd.DataFrame, only_computed: bool) -> str:
    """Which variables are used, of those tested; only_computed: whether others are left out."""
    used = [words.variable(variable) for variable in table["variable"][table["use"] == "used"]]
    n = len(table)
    kind = "variables whose values are computed" if only_computed else "variables tested"
    tested = f"the {words.count(n)} {kind}" if n > 1 else words.variable(table["variable"].iloc[0])
    if not used:
        verb = "is not shown to use any of" if n > 1 else "is not shown to use"
        return f"{name} {verb} {tested}: no exchange of a value inside it moves its answers surely beyond the controls."
    how_many = "all" if len(used) == n else words.count(len(used))
    of = f"{how_many} of {tested} ({report.listed(used)})" if n > 1 else tested
    return (
        f"{name} uses {of}: exchanging the value inside the model moves its answer to the one that the machine asks "
        "for, more often than any control does."
    )


def _strongest(used: pd.DataFrame) -> str:
    """The greatest effect with its control."""
    if used.empty:
        return ""
    row = used.loc[used["d"].idxmax()].to_dict()
    if len(used) == 1:
        return f"It does so in {_moved(row)}."
    return f"The effect is greatest for {words.variable(row['variable'])}: {_moved(row)}."


def _readings(used: pd.DataFrame) -> str:
    """How use and reading go together; used: the variables that are used."""
    parts = []
    for reading, phrase in (("read", "read beyond every control"), ("readable", "readable beyond the untrained twin")):
        names = [words.variable(name) for name in used["variable"][used["reading"] == reading]]
        if names:
            subject = _all(len(used)) if len(names) == len(used) else report.listed(names)
            parts.append(f"{subject} {_be(names)} also {phrase} by a linear probe")
    unread = [words.variable(name) for name in used["variable"][used["reading"] == "unread"]]
    if unread:
        subject = _all(len(used)) if len(unread) == len(used) else report.listed(unread)
        parts.append(f"{subject} {_be(unread)} used, yet no linear probe reads {_them(unread)}")
    unknown = [words.variable(name) for name in used["variable"][used["reading"] == ""]]
    if unknown:
        subject = _all(len(used)) if len(unknown) == len(used) else report.listed(unknown)
        parts.append(f"whether a linear probe reads {subject} is undecided")
    return f"{words.capital('; '.join(parts))}." if parts else ""


def _all(n: int) -> str:
    return "it" if n == 1 else "both" if n == 2 else f"all {words.count(n)}"


def _several(results: InterventionsResults) -> str:
    """In how many models each use holds, where there are several."""
    n = len(results.models)
    if n == 1:
        return ""
    counts = []
    for variable in headline_rows(results.models[0].headlines)["variable"]:
        uses = [use for model in results.models if (use := _use(model, variable))]
        counts.append(f"{words.variable(variable)} in {sum(use == 'used' for use in uses)} of {len(uses)}")
    return (
        f"Over the {words.count(n)} models, for each variable those that were trained on its programs, use is found "
        f"for {report.listed(counts)}."
    )


def _use(model: ModelResults, variable: str) -> str:
    rows = model.headlines[model.headlines["variable"] == variable]
    return rows["use"].iloc[0] if len(rows) else ""


def _be(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _them(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"


# --- of one variable -------------------------------------------------------------------------------------------------


def sentence(row: Mapping[str, Any]) -> str:
    """What an exchange of the variable does to the answer; row: of `tables.headlines`."""
    name = words.variable(row["variable"])
    if not row["pairs"]:
        return (
            f"Nothing can be said of {name}: none of its {row['candidates']:,} pairs counts, because the model's own "
            "completion is never true for the original state and false for the edited one."
        )
    where = words.place(row["layer"], row["role"], row["span"])
    if row["use"] == "used":
        return f"Exchanging {name} {where}, moves the answer in {_moved(row)} (d = {_d(row)})."
    if row["use"] == "unused":
        return (
            f"The model does not use {name} in these programs: no exchange, at any block or role, moves the answer "
            f"surely by 0.05 more than its controls; the greatest d is {_d(row)} on {row['pairs']:,} counting pairs."
        )
    if row.get("only_input"):
        return (
            f"Exchanging {name} {where}, moves the answer in {_moved(row)} (d = {_d(row)}); its digit stands there, so "
            "that the exchange moves the input itself, and nothing is claimed of what the model does with the value."
        )
    why = ""
    if row["d_low"] > THRESHOLD:
        why = "; this would count for a variable alone, yet not after Holm's correction over all that are tested"
    return (
        f"Whether the model uses {name} is not decided: at best, {where}, the exchange moves the answer in "
        f"{_moved(row)} (d = {_d(row)}){why}."
    )


def other_stratum(row: Mapping[str, Any]) -> str:
    """The same of the pairs in which the value is written as a digit, beside a headline of computed ones; row: of
    `tables.of_stratum`. Empty where nothing is used there."""
    if row["use"] != "used" and not row.get("only_input"):
        return ""
    where = words.place(row["layer"], row["role"], row["span"])
    moves = f"In pairs in which it is written as a digit, the exchange {where}, moves the answer in {_moved(row)}"
    input_moves = "; there it moves the input itself" if row.get("only_input") else ""
    return f"{moves} (d = {_d(row)}){input_moves}."


def reading(row: Mapping[str, Any]) -> str:
    """What a linear probe reads of the variable, beside its controls; empty where none was fitted."""
    if pd.isna(row["score"]):
        return ""
    controls = [
        f"{report.number(row['untrained'])} in the untrained twin",
        f"{report.number(row['input_linear'])} from the last tokens alone",
        f"{report.number(row['input_network'])} by a network on these tokens",
    ]
    claim = {
        "read": "which is surely beyond all of these",
        "readable": "which is surely beyond the first two, linear as well, and not beyond the network",
        "unread": "which is surely no more than 0.05 beyond all of these, as everywhere",
        "": "which is not surely beyond these",
    }[row["reading"]]
    score = report.interval_of(row, "score")
    place = words.place(row["probe_layer"], row["probe_role"])
    reads = f"A linear probe reads the value {place}, in {score} of the programs"
    return f"{reads}, against {report.listed(controls)}, {claim}."


def notes(row: Mapping[str, Any], cells: pd.DataFrame) -> str:
    """What else must be known of a variable: where it is spent, whether the pairs could have shown use, and whether too
    few count; cells: its rows of verdicts, of the headline's stratum."""
    sentences = []
    spent = cells[(cells["verdict"] == "spent") & (cells["span"] == "single")]
    places = [f"{words.ROLES[role]} ({_blocks(part['layer'])})" for role, part in spent.groupby("role", sort=False)]
    if places:
        sentences.append(
            f"It is spent, that is still readable while exchanges hardly change answers, {report.listed(places)}."
        )
    if 0 < row["pairs"] < MIN_COUNTING * row["candidates"]:
        sentences.append(
            f"Only {row['pairs']:,} of {row['candidates']:,} pairs count: the model completes few of these programs."
        )
    if row["use"] != "used" and "positive" in cells and cells["positive"].notna().any():
        best = cells.loc[cells["positive"].idxmax()]
        share = report.interval_of(best, "positive")
        sentences.append(f"Patching the input tokens of the same pairs moves the answer in {share} of them.")
    return " ".join(sentences)


def _blocks(layers: pd.Series) -> str:
    numbers = sorted(set(layers))
    return f"after block{'s' * (len(numbers) > 1)} {report.listed([str(number) for number in numbers])}"


def _moved(row: Mapping[str, Any]) -> str:
    """`0.85 [0.80, 0.88] of 273 counting pairs, against 0.06 [0.03, 0.10] with a source of the same value`."""
    moved = report.interval_of(row, "accuracy")
    if pd.isna(row["control_score"]):
        return f"{moved} of {row['pairs']:,} counting pairs, too few successes for the controls to be run"
    control = report.interval_of(row, "control_score")
    return f"{moved} of {row['pairs']:,} counting pairs, against {control} {words.control(row['control'])}"


def _d(row: Mapping[str, Any]) -> str:
    return report.interval_of(row, "d")
