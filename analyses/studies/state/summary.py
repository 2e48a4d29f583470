"""The first sentences of the state report, in statements that its tables support."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from analyses.reporting import report
from analyses.reporting.sites import is_residual
from analyses.studies.state import tables
from analyses.studies.state.study import StateResults
from cadmus.statistics import clustered
from probes.measurement.scores import CONTROLS, EMBEDDING, MARGIN

MIN_PROGRAMS = 10_000  # from which on the controls hardly rise with more
_NETWORK = "input, nonlinear"
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_RAISED = re.compile(r"[^\W\d]\w*(:|$)")  # how the problem of a probe that raised begins: the exception's name
_UNREAD = re.compile(r"nothing is read at (\d+) test tokens")
_MAX_LETTERS = 200  # letters of a problem


def summary(results: StateResults) -> tuple[str, ...]:
    """Which variables are read, where, and beyond which controls."""
    rows = tables.headline(results.scores)
    best = tables.at_best_sites(rows[rows.score.notna()], results.scores).set_index("variable")
    read = best[best.read.eq(True)]
    cells = tables.breakdown(results.scores, "token class")
    surely = clustered.simultaneous(cells.beyond, cells.beyond_low) > MARGIN  # in all cells at once
    read_cells = cells[surely & cells.read.eq(True) & ~cells.variable.isin(read.index)]
    sentences = [
        few_programs_warning(results.programs),
        _read_over_all_tokens(read, rows),
        _read_at_token_classes(read_cells, len(cells)),
        _read_nowhere([name for name in best.index if name not in {*read.index, *read_cells.variable}]),
        _beyond_linear(best),
        _beyond_machines(results),
        *_unmeasured(rows),
    ]
    return tuple(filter(None, sentences))


def controls(rows: pd.DataFrame) -> list[str]:
    """The controls that at least one row has."""
    return [name for name in CONTROLS if rows[name].notna().any()]


def one_line(problem: str) -> str:
    """What a probe raised, on one line and short enough for a sentence or a cell of a table."""
    text = " ".join(problem.split())
    return text if len(text) <= _MAX_LETTERS else f"{text[:_MAX_LETTERS]} …"


def few_programs_warning(programs: int) -> str:
    """Say that nothing should be claimed from so few programs; empty where they are enough."""
    if programs >= MIN_PROGRAMS:
        return ""
    return (
        f"Nothing should be claimed from this run of {programs:,} programs: the controls, too, are fitted on "
        "few tokens and still rise with more, the strongest ones most, so that what is read beyond them here may not "
        f"be with {MIN_PROGRAMS:,} programs or more."
    )


def _read_over_all_tokens(read: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Which variables are read, of those in `rows`."""
    verb = "is" if len(read) == 1 else "are"
    count = f"{len(read)} of {rows.variable.nunique()} variables {verb} read, over all tokens,"
    beyond = f"by more than {MARGIN} (lower bound) beyond {_best_of(len(controls(rows)))}"
    scores = f": {'; '.join(_score_phrase(row, row.Index) for row in read.itertuples())}" if len(read) else ""
    return f"{count} {beyond}{scores}."


def _read_at_token_classes(cells: pd.DataFrame, number: int) -> str:
    """Say what is read at single classes of tokens, of `number` cells that were looked at."""
    if cells.empty:
        return ""
    scores = (f"{_score_phrase(row, row.variable)}, after a token of class {row.group}" for row in cells.itertuples())
    return (
        f"At single classes of tokens these are read too (the lower bound stays above {MARGIN} with intervals that "
        f"hold for all {number} cells at once): {'; '.join(scores)}."
    )


def _read_nowhere(variables: list[str]) -> str:
    if not variables:
        return ""
    return (
        f"Of {', '.join(variables)} nothing is surely read beyond what the input gives away and what an untrained "
        "model's activations hold."
    )


def _best_of(count: int) -> str:
    return "the only control" if count == 1 else f"the best of {_NUMBERS[count]} controls" if count else "any control"


def _beyond_linear(rows: pd.DataFrame) -> str:
    """What is read beyond every control but the network, which computes from the tokens what no linear probe can."""
    others = [name for name in controls(rows) if name != _NETWORK]
    best_other = rows[others].max(axis=1)
    sound = rows.screen.eq("") & (rows.clusters >= clustered.MIN_CLUSTERS)
    beyond = rows[(rows.low - best_other > MARGIN) & rows.best_control.eq(_NETWORK) & rows.read.ne(True) & sound]
    if beyond.empty:
        return ""
    scores = (
        f"{name} {report.with_interval(row.score, row.low, row.high)} against {best_other[name]:.2f}"
        for name, row in beyond.iterrows()
    )
    return (
        "Where the strongest control is the network on the last eight tokens, which computes states itself, the lower "
        f"bound of the score is more than {MARGIN} above what the best of the other {_NUMBERS[len(others)]} scored (a "
        f"comparison with its score alone, neither paired nor corrected) for {', '.join(scores)}."
    )


def _beyond_machines(results: StateResults) -> str:
    """Say for which variables the probe is more selective for the machine's states than for those of every other."""
    if results.gaps.empty:
        return ""
    rows = tables.at_best_sites(results.gaps, results.scores)
    smallest = rows.loc[rows.groupby("variable", sort=False).gap_low.idxmin()]
    surely = smallest[smallest.gap_low > 0]
    if surely.empty:
        return (
            "For no variable is the probe surely more selective for the machine's states than for those of every "
            "alternative machine."
        )
    gaps = (
        f"{row.variable} by {report.with_interval(row.gap, row.gap_low, row.gap_high)}" for row in surely.itertuples()
    )
    return (
        "The probe is more selective for the machine's states than for those of every alternative machine (smallest "
        f"gap): {', '.join(gaps)}."
    )


def _unmeasured(rows: pd.DataFrame) -> Iterator[str]:
    """Where the probe raised, where it read nothing, and what could not be measured at any site, and why."""
    failed = rows[rows.problem.str.match(_RAISED)]
    if len(failed):
        yield f"The probe failed: {_places(failed, rows, (one_line(problem) for problem in failed.problem))}."
    unread = rows.note.str.extract(_UNREAD, expand=False).dropna()
    nothing = rows.loc[unread.index]
    if len(nothing):
        shares = (f"at {n} of {tokens} test tokens" for n, tokens in zip(unread, nothing.tokens, strict=True))
        yield f"Nothing is read, which counts as wrong: {_places(nothing, rows, shares)}."
    never = rows[rows.score.isna().groupby(rows.variable).transform("all") & ~rows.index.isin(failed.index)]
    reasons = never.groupby("variable", sort=False).problem.first()
    groups = [f"{', '.join(part.index)} ({one_line(why)})" for why, part in reasons.groupby(reasons, sort=False)]
    if groups:
        yield f"These could not be measured: {'; '.join(groups)}."


def _places(part: pd.DataFrame, rows: pd.DataFrame, texts: Iterable[str]) -> str:
    """`depth at 2 of 3 sites (why)`: for each variable how many of its sites are in `part`, and the first of its
    texts."""
    by_variable = part.assign(text=list(texts)).groupby("variable", sort=False)
    return "; ".join(
        f"{variable} at {len(cells)} of {(rows.variable == variable).sum()} sites ({cells.text.iloc[0]})"
        for variable, cells in by_variable
    )


def _score_phrase(row: Any, name: str) -> str:
    """One row in words: the score with its interval, where, and the best control."""
    return (
        f"{name} {report.with_interval(row.score, row.low, row.high)} {_place(row)} "
        f"({row.best_control} {row.score - row.beyond:.2f})"
    )


def _place(row: Any) -> str:
    if row.site == EMBEDDING:
        return "in the embedding"
    return f"after layer {row.layer}" if is_residual(row.site) else f"at {row.site}"
