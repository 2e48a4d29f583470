"""The figure of the page about alternative machines."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analyses.reporting import figures
from analyses.reporting.figures import CONTROL, INTERVAL, theme
from analyses.reporting.sites import location_column
from cadmus.statistics.clustered import interval_names


def by_distance(table: pd.DataFrame) -> Figure:
    """Selectivity by the distance of the machine, a panel per variable; table: `AlternativesResults.gaps_by_distance`,
    with a row or more."""
    with theme():
        variables = list(table.variable.unique())
        figure, axes = figures.panels(variables, 1.9, xlabel="distance of the machine", ylabel="selectivity")
        for variable, ax in axes.items():
            part = table[table.variable == variable].sort_values("distance")
            own = part.iloc[0]
            ax.axhline(own.selectivity, color="C0", lw=1.4, label="the machine")
            ax.axhspan(own.selectivity_low, own.selectivity_high, color="C0", alpha=INTERVAL, lw=0)
            score, low, high = (part[name] for name in interval_names("alternative_selectivity"))
            ax.errorbar(
                part.distance,
                score,
                figures.error(score, low, high),
                fmt="o",
                ms=4,
                lw=1,
                color=CONTROL,
                label="alternative machines",
            )
            ((name, place),) = location_column(part).items()
            ax.set_title(f"{variable}, {name} {place.iloc[0]}", fontsize=8)
            ax.set(xlim=(0, 1.08 * table.distance.max()))
        figures.legend(figure, axes.values(), columns=2)
    return figure
