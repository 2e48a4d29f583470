"""The first sentences of the page about training, in statements that its tables support."""

from __future__ import annotations

import pandas as pd

from analyses.reporting import report
from analyses.studies.dynamics.study import DynamicsResults

MAX_Q = 0.05  # of a lead that is claimed
MAX_P = 0.05  # of a correlation that is named


def summary(results: DynamicsResults) -> tuple[str, ...]:
    """What comes before what, and what goes with what, of the machine's own variables."""
    leads = results.leads
    own = leads[(leads.kind == "probe") & leads.lead.notna()]
    claimed = own[own.q < MAX_Q]
    before = claimed[claimed.lead > 0]
    after = claimed[claimed.lead < 0]
    correlations = results.correlations
    related = correlations[(correlations.kind == "probe") & (correlations.p < MAX_P)]
    return (
        f"A variable becomes readable before a family's behaviour is right (q < {MAX_Q}) in {len(before)} of "
        f"{len(own)} pairs{_pairs(before)}.",
        f"It becomes readable only afterwards in {len(after)} of {len(own)} pairs{_pairs(after)}.",
        _beside_alternative(own),
        f"Within snapshots, a variable's score correlates with a family's accuracy over the runs (p < {MAX_P}, "
        f"uncorrected) in {len(related)} of {(correlations.kind == 'probe').sum()} pairs{_related(related)}.",
    )


def _pairs(leads: pd.DataFrame) -> str:
    """Each variable and family, with the doublings of training between them."""
    phrases = []
    for row in leads.itertuples():
        order, sign = ("before", 1) if row.lead > 0 else ("after", -1)
        low, high = sorted((sign * row.low, sign * row.high))
        interval = report.with_interval(abs(row.lead), low, high)
        phrases.append(f"{row.variable} {order} {row.family} by {interval} doublings")
    return report.after_colon(phrases)


def _beside_alternative(own: pd.DataFrame) -> str:
    """Which variables are readable earlier than those of an alternative machine, of those that both have dates of."""
    compared = own[own.earlier_low.notna()]
    if compared.empty:
        return (
            "No variable can be compared with the same variable of an alternative machine: not both rise enough to be "
            "dated, so that the order may be that of what every state needs."
        )
    earlier = compared[compared.earlier_low > 0].drop_duplicates("variable")
    intervals = report.intervals(earlier, "earlier")
    phrases = [f"{name} by {interval} doublings" for name, interval in zip(earlier.variable, intervals, strict=True)]
    return (
        f"{len(earlier)} of {compared.variable.nunique()} variables become readable surely earlier than the same "
        f"variable of an alternative machine in the same runs{report.after_colon(phrases)}."
    )


def _related(correlations: pd.DataFrame) -> str:
    return report.after_colon(
        [f"{row.variable} with {row.family} (r {row.r:.2f}, p {row.p:.3f})" for row in correlations.itertuples()]
    )
