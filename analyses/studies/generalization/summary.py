"""The first sentences of the page about a sweep, in statements that its tables support."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analyses.reporting import report
from analyses.studies.generalization import levels, planes
from analyses.studies.generalization.effects import GIVEN, best_models, doubt
from analyses.studies.generalization.figures import display_name
from analyses.studies.generalization.hypotheses import CONTRADICTED, SUPPORTED, UNDECIDED
from analyses.studies.generalization.inner_state import ACROSS, OWN, OWN_AND_BASE, WITHIN, claimed
from analyses.studies.generalization.models import LEVEL
from analyses.studies.generalization.study import GeneralizationResults
from cadmus.statistics.regression import MEANT_SEEDS

_NAMED = 3  # effects in a sentence
_LEVELS = 6  # of a factor in a sentence


def summary(results: GeneralizationResults) -> tuple[str, ...]:
    """What was answered, what goes with what, whether the inner state adds to it, and what is missing."""
    return tuple(
        sentence
        for sentence in (
            *_decided(results),
            _counts(results.hypotheses),
            planes.sentence(results.planes),
            _effects(results.effects),
            _inner_state(results.inner_state),
            _size(results.table),
        )
        if sentence
    )


def _counts(table: pd.DataFrame) -> str:
    if table.empty:
        return "The sweep states no hypotheses: what follows was not expected beforehand."
    counts = [f"{(table.verdict == verdict).sum()} {verdict}" for verdict in (SUPPORTED, CONTRADICTED, UNDECIDED)]
    return f"Of {len(table)} hypotheses {', '.join(counts)}."


def _decided(results: GeneralizationResults) -> Iterator[str]:
    """Each decided hypothesis in its own words, with its effect and what the levels behind it give."""
    table = results.hypotheses
    for row in table[table["verdict"] != UNDECIDED].to_dict("records") if len(table) else ():
        statement = (row["statement"] or row["name"]).rstrip(".")
        effect = report.with_interval(row["effect"], row["low"], row["high"])
        sentence = (
            f'{row["verdict"].capitalize()}: "{statement}" ({row["response"]} changes by {effect} per standard '
            f"deviation of {display_name(row['predictor'])}"
        )
        at_levels = _of_levels(results.table, row["response"], row["predictor"])
        yield f"{sentence}{_beside(row)}{at_levels})."


def _beside(row: dict[str, Any]) -> str:
    """What is held fixed in the regression that a hypothesis rests on."""
    if row["model"] == GIVEN:
        return f", {GIVEN}"
    others = [display_name(name) for name in row["beside"].split(", ") if name]
    return f" at the same {report.listed(others)}" if others else ""


def _of_levels(table: pd.DataFrame, response: str, predictor: str) -> str:
    factor = levels.factor_of(table, predictor)
    if factor is None:
        return ""
    values = levels.medians(table, response, factor).dropna()
    if not 2 <= len(values) <= _LEVELS:
        return ""
    at = report.listed([f"{report.number(value)} at {level:g}" for level, value in values.items()])
    return f"; medians by {factor}: {at}"


def _effects(table: pd.DataFrame) -> str:
    if table.empty:
        return ""
    fitted = best_models(table)
    if fitted.empty:
        return "No effect could be fitted."
    certain = fitted[[not doubt(row) for row in fitted.to_dict("records")]]
    largest = certain.reindex(certain["effect"].abs().sort_values(ascending=False).index)[:_NAMED]
    phrases = [
        f"{row.response} changes by {report.with_interval(row.effect, row.low, row.high)} per standard deviation of "
        f"{display_name(row.predictor)}"
        for row in largest.itertuples()
    ]
    verb = "is" if len(certain) == 1 else "are"
    start = f"Of {len(fitted)} effects on all responses {len(certain)} {verb} claimed"
    start += ", by the rule of the hypotheses with q over the responses"
    if len(certain) > _NAMED:
        start += ", the largest"
    return f"{start}{report.after_colon(phrases)}."


def _inner_state(table: pd.DataFrame) -> str:
    if table.empty:
        return ""
    counts = {}
    for key, part in table[table["effect"].notna()].groupby(["comparison", "beyond"]):
        counts[key] = f"{len(claimed(part))} of {len(part)} pairs"
    across, within, given = (counts.get(key) for key in ((ACROSS, OWN), (WITHIN, OWN), (ACROSS, OWN_AND_BASE)))
    parts = [f"in {across} over all models"] if across else []
    if across and given and across != given:
        parts[0] += f" (in {given.partition(' of ')[0]} where accuracy on the base mixture is held fixed too)"
    parts += [f"in {within} between seeds of one distribution"] if within else []
    return (
        f"The inner state predicts accuracy out of distribution beyond accuracy in distribution {' and '.join(parts)} "
        f"(q at most {LEVEL}, the wild bootstrap agreeing)."
        if parts
        else ""
    )


def _size(table: pd.DataFrame) -> str:
    once = table.drop_duplicates(["cell", "seed"])
    counts = once.groupby("cell")["seed"].nunique()
    n_missing = int((table["status"] != "ok").sum())
    seeds = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    few = f"; fewer than {MEANT_SEEDS} seeds a cell tell little" if counts.min() < MEANT_SEEDS else ""
    return (
        f"{len(once)} models in {len(counts)} cells, {seeds} seeds each{few}; {n_missing} of {len(table)} measurements "
        "failed or are missing."
    )
