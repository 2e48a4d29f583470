"""What the state report found, in statements that its tables support."""

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

ENOUGH = 10_000  # programs, from which on the controls hardly rise with more
_NETWORK = "input, nonlinear"
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_RAISED = re.compile(r"[^\W\d]\w*(:|$)")  # how the problem of a probe that raised begins: the exception's name
_UNREAD = re.compile(r"nothing is read at (\d+) test tokens")
_MAX_LETTERS = 200  # letters of a problem


def statements(found: StateResults) -> tuple[str, ...]:
    """What may be said: which variables are read, where, beyond which controls."""
    rows = tables.headline(found.scores)
    at = tables.at_best_sites(rows[rows.score.notna()], found.scores).set_index("variable")
    read = at[at.read.eq(True)]
    said = [
        _few(found),
        f"{len(read)} of {rows.variable.nunique()} variables are read, over all tokens, by more than {MARGIN} (lower "
        f"bound) beyond {_best_of(len(controls(rows)))}"
        + (f": {'; '.join(_said(row) for row in read.itertuples())}." if len(read) else "."),
    ]
    classes = tables.breakdown(found.scores, "token class")
    surely = clustered.simultaneous(classes.beyond, classes.beyond_low) > MARGIN
    rest = classes[surely & classes.read.eq(True) & ~classes.variable.isin(read.index)]
    if len(rest):
        said.append(
            f"At single classes of tokens also (the lower bound stays above {MARGIN} with intervals that hold for all "
            f"{len(classes)} cells at once): "
            + "; ".join(f"{_said(row, row.variable)}, after a token of class {row.group}" for row in rest.itertuples())
            + "."
        )
    nothing = [v for v in at.index if v not in set(read.index) | set(rest.variable)]
    if nothing:
        said.append(
            f"Of {', '.join(nothing)} nothing is surely read beyond what the input gives away and what an untrained "
            "model's activations hold."
        )
    said += [_beyond_linear(at), _beyond_machines(found), *_unmeasured(rows)]
    return tuple(filter(None, said))


def controls(rows: pd.DataFrame) -> list[str]:
    """Those that rows of the state's table are held against."""
    return [name for name in CONTROLS if rows[name].notna().any()]


def one_line(problem: str) -> str:
    """What a probe raised, as it may stand in a sentence or in a cell of a table."""
    text = " ".join(problem.split())
    return text if len(text) <= _MAX_LETTERS else f"{text[:_MAX_LETTERS]} …"


def _few(found: StateResults) -> str:
    if found.programs >= ENOUGH:
        return ""
    return (
        f"Nothing should be claimed from this run of {found.programs:,} programs: the controls, too, are fitted on few "
        "tokens and still rise with more, the strongest ones most, so that what is read beyond them here may not be "
        f"with {ENOUGH:,} programs or more."
    )


def _best_of(count: int) -> str:
    return "the only control" if count == 1 else f"the best of {_NUMBERS[count]} controls" if count else "any control"


def _beyond_linear(at: pd.DataFrame) -> str:
    """What is read beyond every control but the network, which computes from the tokens what no linear probe can."""
    named = [name for name in controls(at) if name != _NETWORK]
    others = at[named].max(axis=1)
    sound = at.screen.eq("") & (at.clusters >= clustered.MIN_CLUSTERS)
    more = at[(at.low - others > MARGIN) & at.best_control.eq(_NETWORK) & at.read.ne(True) & sound]
    if more.empty:
        return ""
    said = (
        f"{name} {report.with_interval(row.score, row.low, row.high)} against {others[name]:.2f}"
        for name, row in more.iterrows()
    )
    return (
        "Where the strongest control is the network on the last eight tokens, which computes states itself, the lower "
        f"bound of the score is more than {MARGIN} above what the best of the other {_NUMBERS[len(named)]} scored (a "
        f"comparison with its score alone, neither paired nor corrected) for {', '.join(said)}."
    )


def _beyond_machines(found: StateResults) -> str:
    """Whose probe is more selective for the machine's states than for those of every alternative machine."""
    if found.gaps.empty:
        return ""
    rows = tables.at_best_sites(found.gaps, found.scores)
    least = rows.loc[rows.groupby("variable", sort=False).gap_low.idxmin()]
    surely = least[least.gap_low > 0]
    said = (f"{r.variable} by {report.with_interval(r.gap, r.gap_low, r.gap_high)}" for r in surely.itertuples())
    text = ", ".join(said) or "of no variable"
    return f"More selective for the machine's states than for those of every alternative machine (least gap): {text}."


def _unmeasured(rows: pd.DataFrame) -> Iterator[str]:
    """Where the probe raised, where it read nothing, and what could not be measured at any site, and why."""
    failed = rows[rows.problem.str.match(_RAISED)]
    if len(failed):
        yield f"The probe failed: {_where(failed, rows, (one_line(problem) for problem in failed.problem))}."
    unread = rows.note.str.extract(_UNREAD, expand=False).dropna()
    nothing = rows.loc[unread.index]
    if len(nothing):
        share = (f"at {n} of {tokens} test tokens" for n, tokens in zip(unread, nothing.tokens, strict=True))
        yield f"Nothing is read, which counts as wrong: {_where(nothing, rows, share)}."
    never = rows[rows.score.isna().groupby(rows.variable).transform("all") & ~rows.index.isin(failed.index)]
    reasons = never.groupby("variable", sort=False).problem.first()
    told = [f"{', '.join(part.index)} ({one_line(why)})" for why, part in reasons.groupby(reasons, sort=False)]
    if told:
        yield f"Not measured: {'; '.join(told)}."


def _where(part: pd.DataFrame, rows: pd.DataFrame, texts: Iterable[str]) -> str:
    """`depth at 2 of 3 sites (why)`: of each variable the sites of `part`, and the first of its texts."""
    table = part.assign(text=list(texts)).groupby("variable", sort=False)
    return "; ".join(
        f"{variable} at {len(one)} of {(rows.variable == variable).sum()} sites ({one.text.iloc[0]})"
        for variable, one in table
    )


def _said(row: Any, name: str = "") -> str:
    """One row in words: the score with its interval, where, and the best control."""
    return (
        f"{name or row.Index} {report.with_interval(row.score, row.low, row.high)} {_place(row)} "
        f"({row.best_control} {row.score - row.beyond:.2f})"
    )


def _place(row: Any) -> str:
    if row.site == EMBEDDING:
        return "in the embedding"
    return f"after layer {row.layer}" if is_residual(row.site) else f"at {row.site}"
