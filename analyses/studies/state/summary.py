"""The first sentences of the state report, in statements that its tables support."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import pandas as pd

from analyses.reporting import report
from analyses.studies.state import claims, tables
from analyses.studies.state.study import StateResults
from cadmus.statistics import clustered
from probes.measurement.scores import CONTROLS, MARGIN, MAX_RISE

MIN_PROGRAMS = 10_000  # from which on the controls hardly rise with more
_RAISED = re.compile(r"[^\W\d]\w*(:|$)")  # how the problem of a probe that raised begins: the exception's name
_UNREAD = re.compile(r"nothing is read at (\d+) test tokens")
_MAX_LETTERS = 200  # letters of a problem


def summary(results: StateResults) -> tuple[str, ...]:
    """What is claimed of which variables, over all tokens and where the machine uses them: the column `claimed`."""
    everywhere = tables.headline(results.scores)
    at_roles = tables.at_roles(results.scores)
    sentences = [
        _over_all_tokens(everywhere),
        _at_roles(at_roles),
        _nowhere(everywhere, at_roles),
        _rising(pd.concat([everywhere, at_roles])),
        _by_networks(results.scores),
        _beyond_machines(results),
        *_unmeasured(everywhere),
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
        f"This run of {programs:,} programs supports no claim: the controls, too, are fitted on few tokens and still "
        f"rise with more, the strongest ones most, so that a margin seen here may vanish at {MIN_PROGRAMS:,} programs "
        "or more."
    )


def _over_all_tokens(rows: pd.DataFrame) -> str:
    """Which variables are claimed over all tokens, of those in `rows`."""
    names = claims.with_claims(rows).variable.unique()
    return f"{_how_many(len(names), list(rows.variable.unique()), 'variables')} claimed over all tokens{_claims(rows)}."


def _at_roles(rows: pd.DataFrame) -> str:
    """Which variables are claimed at the tokens of which roles."""
    if rows.empty:
        return ""
    pairs = claims.with_claims(rows).drop_duplicates(["variable", "group"])
    names = _names(rows.drop_duplicates(["variable", "group"]))
    return (
        "At the tokens where the machine writes, holds, loads and uses a value "
        f"{_how_many(len(pairs), names, 'variables by role')} claimed{_claims(rows)}."
    )


def _names(rows: pd.DataFrame) -> list[str]:
    return [f"{row.variable}{claims.of_group(row.by, row.group)}" for row in rows.itertuples()]


def _how_many(n: int, names: list[str], what: str) -> str:
    """`2 of 7 variables are`; of one variable alone its name: `reg.a is`, `reg.a is not`."""
    if len(names) == 1:
        return f"{names[0]} is" if n else f"{names[0]} is not"
    return f"{n} of {len(names)} {what} {'is' if n == 1 else 'are'}"


def _claims(rows: pd.DataFrame) -> str:
    """What the rows claim, word by word: each variable at the sites where it is claimed so, with the score at the one
    of these that reads most on validation programs, and the best control there."""
    parts = []
    for word, words in claims.WORDS.items():
        phrases = [
            _phrase(part, word) for _, part in claims.with_claims(rows, word).groupby(["variable", "group"], sort=False)
        ]
        if phrases:
            parts.append(f"as {words}: {'; '.join(phrases)}")
    return f", {', '.join(parts)}" if parts else ""


def _phrase(part: pd.DataFrame, word: str) -> str:
    """A variable's claim at some sites in words."""
    row = part.loc[part.validation.idxmax()]
    control, beyond = (row.best_of_all, row.beyond_all) if word == "read" else (row.best_control, row.beyond)
    return (
        f"{row.variable}{claims.of_group(row.by, row.group)} {claims.places(list(part.site))} "
        f"({report.with_interval(row.score, row.low, row.high)} against {row.score - beyond:.2f} of {control})"
    )


def _nowhere(everywhere: pd.DataFrame, at_roles: pd.DataFrame) -> str:
    rows = pd.concat([everywhere[everywhere.score.notna()], at_roles])
    names = [name for name in rows.variable.unique() if name not in set(claims.with_claims(rows).variable)]
    return f"Over all tokens and by role nothing is claimed of {', '.join(names)}." if names else ""


def _rising(rows: pd.DataFrame) -> str:
    """Where nothing is claimed because the best control of the probe's class still rises."""
    sound = rows.screen.eq("") & (rows.clusters >= clustered.MIN_CLUSTERS)
    rising = rows[(rows.beyond_low > MARGIN) & rows.readable.ne(True) & sound]
    if rising.empty:
        return ""
    names = dict.fromkeys(
        f"{row.variable}{claims.of_group(row.by, row.group).rstrip(',')}" for row in rising.itertuples()
    )
    return (
        f"At {len(rising)} cells the score's lower bound lies more than {MARGIN} above the best control of the probe's "
        f"class, and yet nothing is claimed ({'; '.join(names)}): their controls still rise with the number of "
        f"programs (the second half of the programs brought more than {MAX_RISE}, or twice as much again would leave "
        "too little). More programs would decide."
    )


def _by_networks(scores: pd.DataFrame) -> str:
    """What networks on the activations read beyond networks on the input and on the untrained model's activations."""
    rows = scores[scores.probe_class.eq("network") & scores.by.isin(["all", "role"])]
    if rows.empty:
        return ""
    read = rows[rows.readable.eq(True)]
    scored = [
        f"{name} {report.with_interval(row.score, row.low, row.high)} against {row.score - row.beyond:.2f}"
        for name, row in zip(_names(read), read.itertuples())
    ]
    return (
        f"{_how_many(len(read), _names(rows), 'variables and variables by role')} read by networks on the activations "
        f"more than {MARGIN} (lower bound) beyond networks on the last eight tokens and on the untrained model's "
        f"activations{': ' + '; '.join(scored) if scored else ''}."
    )


def _beyond_machines(results: StateResults) -> str:
    """Say for which variables the probe is more selective for the machine's states than for those of every other."""
    if results.gaps.empty:
        return ""
    rows = tables.at_best_sites(results.gaps, results.scores)
    smallest = rows.loc[rows.groupby("variable", sort=False).gap_low.idxmin()]
    surely = smallest[smallest.gap_low > 0]
    others = f"each of the {rows.machine.nunique()} alternative machines"
    if surely.empty:
        return (
            "For none of the variables is the probe surely more selective for the machine's states than for those of "
            f"{others}."
        )
    gaps = (
        f"{row.variable} by {report.with_interval(row.gap, row.gap_low, row.gap_high)}" for row in surely.itertuples()
    )
    return (
        f"The probe is more selective for the machine's states than for those of {others} (smallest gap): "
        f"{', '.join(gaps)}."
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
