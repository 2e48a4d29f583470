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
    earlier = own[own.earlier_low > 0].drop_duplicates("variable")
    correlations = results.correlations
    related = correlations[(correlations.kind == "probe") & (correlations.p < MAX_P)]
    return (
        f"Variables that are readable before a family's behaviour is right (q < {MAX_Q} over {len(own)} pairs): "
        f"{_pairs(before)}.",
        f"Variables that are readable only after it: {_pairs(after)}.",
        "Variables that are readable earlier than the same of an alternative machine in the same runs, so that the "
        f"order is of this state and not of what any state needs: {_earlier(earlier)}.",
        f"Variables that go with a family's behaviour within snapshots over the runs (p < {MAX_P}, uncorrected): "
        f"{_related(related)}.",
    )


def _pairs(leads: pd.DataFrame) -> str:
    """Each variable and family, with the doublings of training between them."""
    phrases = []
    for row in leads.itertuples():
        order, sign = ("before", 1) if row.lead > 0 else ("after", -1)
        low, high = sorted((sign * row.low, sign * row.high))
        interval = report.with_interval(abs(row.lead), low, high)
        phrases.append(f"{row.variable} {order} {row.family} by {interval} doublings")
    return "; ".join(phrases) or "none"


def _earlier(leads: pd.DataFrame) -> str:
    """Each variable, with the doublings of training between it and an alternative machine's."""
    intervals = report.intervals(leads, "earlier")
    phrases = (f"{name} by {interval} doublings" for name, interval in zip(leads.variable, intervals, strict=True))
    return "; ".join(phrases) or "none"


def _related(correlations: pd.DataFrame) -> str:
    phrases = (f"{row.variable} with {row.family} (r {row.r:.2f}, p {row.p:.3f})" for row in correlations.itertuples())
    return ", ".join(phrases) or "none"
