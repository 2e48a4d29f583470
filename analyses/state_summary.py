"""What the state report found, in statements that its tables support."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analyses import report, state_figures, state_tables
from analyses.state import State
from probes.scores import CONTROLS, EMBEDDING, MARGIN


def statements(found: State) -> tuple[str, ...]:
    """What may be said: which variables are read, where, beyond which controls."""
    rows = state_tables.headline(found.scores)
    at = state_tables.at_best_sites(rows[rows.score.notna()], found.scores).set_index("variable")
    read = at[at.read.eq(True)]
    unmeasured = [variable for variable in rows.variable.unique() if variable not in at.index]
    said = [
        f"{len(read)} of {rows.variable.nunique()} variables are read, over all tokens, by more than {MARGIN} (lower "
        "bound) beyond the best of seven controls"
        + (f": {'; '.join(_said(row) for row in read.itertuples())}." if len(read) else ".")
    ]
    classes = state_tables.breakdown(found.scores, "token class")
    rest = classes[classes.read.eq(True) & ~classes.variable.isin(read.index)]
    if len(rest):
        best = rest.loc[rest.groupby("variable", sort=False).beyond.idxmax()]
        said.append(
            "At single classes of tokens (intervals not corrected for their number) also "
            + "; ".join(f"{_said(row, row.variable)}, after a token of class {row.group}" for row in best.itertuples())
            + "."
        )
    nothing = [v for v in at.index if v not in set(read.index) | set(rest.variable)]
    if nothing:
        said.append(
            f"Of {', '.join(nothing)} nothing is surely read beyond what the input gives away and what an untrained "
            "model's activations hold."
        )
    said += [_beyond_linear(at), _beyond_machines(found)]
    if unmeasured:
        said.append(f"Not measured, too few tokens or constant: {', '.join(unmeasured)}.")
    return tuple(filter(None, said))


def _beyond_linear(at: pd.DataFrame) -> str:
    """What is read beyond every control but the network, which computes from the tokens what no linear probe can."""
    others = at[[name for name in CONTROLS if name != "input, nonlinear"]].max(axis=1)
    more = at[(at.low - others > MARGIN) & at.read.ne(True) & at.screen.eq("")]
    if more.empty:
        return ""
    said = (
        f"{name} {report.with_interval(row.score, row.low, row.high)} against {others[name]:.2f}"
        for name, row in more.iterrows()
    )
    return (
        "The strongest control is the network on the last eight tokens, which computes states itself; beyond the other "
        f"six (score against the best of them) are {', '.join(said)}."
    )


def _beyond_machines(found: State) -> str:
    """Whose probe is more selective for the machine's states than for those of every alternative machine."""
    if found.gaps.empty:
        return ""
    rows = state_tables.at_best_sites(found.gaps, found.scores)
    least = rows.loc[rows.groupby("variable", sort=False).gap_low.idxmin()]
    surely = least[least.gap_low > 0]
    said = (f"{r.variable} by {report.with_interval(r.gap, r.gap_low, r.gap_high)}" for r in surely.itertuples())
    text = ", ".join(said) or "of no variable"
    return f"More selective for the machine's states than for those of every alternative machine (least gap): {text}."


def _said(row: Any, name: str = "") -> str:
    """One row in words: the score with its interval, where, and the best control."""
    return (
        f"{name or row.Index} {report.with_interval(row.score, row.low, row.high)} {_place(row)} "
        f"({row.best_control} {row.score - row.beyond:.2f})"
    )


def _place(row: Any) -> str:
    if row.site == EMBEDDING:
        return "in the embedding"
    return f"after layer {row.layer}" if state_figures.in_the_stream(row.site) else f"at {row.site}"
