"""The first sentence of the page about alternative machines, in statements that its table supports."""

from __future__ import annotations

from analyses.studies.alternatives.study import AlternativesResults


def summary(results: AlternativesResults) -> tuple[str, ...]:
    """For which variables the true machine's states are read more selectively than every, some or no other
    machine's."""
    table = results.gaps_by_distance
    if table.empty:
        return ("No alternative machine changes the states of any variable enough to tell.",)
    above = (table.gap_low > 0).groupby(table.variable, sort=False).agg(["all", "any"])
    groups = (
        ("of every alternative machine", above.index[above["all"]]),
        ("of some alternative machines, not all,", above.index[above["any"] & ~above["all"]]),
        ("of no alternative machine", above.index[~above["any"]]),
    )
    parts = (f"than those {whose} for {', '.join(names)}" for whose, names in groups if len(names))
    return (f"The machine's states are more selective (lower bound of the gap above 0) {'; '.join(parts)}.",)
