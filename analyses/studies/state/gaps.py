"""The gaps between the machine's states and alternative machines': their table and figure."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analyses.reporting import figures, report
from analyses.reporting.figures import INTERVAL, theme
from analyses.reporting.sites import SiteAxis, location_column
from analyses.studies.state import study, tables
from cadmus.statistics.clustered import interval_names

_COLUMNS = ("gap", "selectivity", "alternative_selectivity")  # of the table of gaps, each with its interval


def by_distance(results: study.StateResults) -> pd.DataFrame:
    """The gaps at each variable's best site, with the distance of the machine; no rows where no machine changes the
    states of any variable."""
    if results.gaps.empty:
        names = ["site", "variable", "layer", "machine", "distance", "differing", "clusters"]
        return pd.DataFrame(columns=names + [column for name in _COLUMNS for column in interval_names(name)])
    rows = tables.at_best_sites(results.gaps, results.scores)
    return rows.assign(distance=rows.machine.map(results.machines.set_index("name").distance))


def display_table(table: pd.DataFrame) -> pd.DataFrame:
    """Format the table of `by_distance` for reading."""
    return pd.DataFrame(
        {
            "variable": table.variable,
            **location_column(table),
            "machine": table.machine,
            "distance": table.distance.map(report.number),
            "labels that differ": table.differing.map("{:.0%}".format),
            "skeletons": table.clusters,
            "selectivity": report.intervals(table, "selectivity"),
            "of the alternative": report.intervals(table, "alternative_selectivity"),
            "gap": report.intervals(table, "gap"),
        }
    )


def by_layer(table: pd.DataFrame) -> Figure:
    """Selectivity for the machine's states and for alternative machines', by site, a panel per variable."""
    sites, machines = SiteAxis.of(table), list(table.machine.unique())
    table = sites.rows(table)
    greys = sns.color_palette("Greys", len(machines) + 2)[2:]
    with theme():
        variables = list(table.variable.unique())
        figure, axes = figures.panels(variables, 1.8, xlabel=sites.name, ylabel="selectivity", room=sites.room)
        for variable, ax in axes.items():
            part = table[table.variable == variable]
            own = part.drop_duplicates("site")
            style: dict[str, Any] = {"color": "C0", "marker": "o", "ms": 4, "lw": 1.4, "label": "the machine"}
            if sites.by_layer:
                ax.plot(own.x, own.selectivity, **style)
                ax.fill_between(own.x, own.selectivity_low, own.selectivity_high, color="C0", alpha=INTERVAL, lw=0)
            else:
                error = figures.error(own.selectivity, own.selectivity_low, own.selectivity_high)
                ax.errorbar(own.x, own.selectivity, error, ls="", **style)
            for k, machine in enumerate(machines):
                line = part[part.machine == machine]
                if sites.by_layer:
                    style = {"ls": ("--", ":", "-.")[k % 3], "lw": 1.4}
                else:
                    style = {"ls": "", "marker": "s^Dv<>p*"[k % 8], "ms": 5, "mfc": "none"}
                ax.plot(line.x, line.alternative_selectivity, color=greys[k], label=machine, **style)
            ax.axhline(0, color="0.8", lw=0.8, zorder=0)
            sites.label(ax)
        figures.legend(figure, axes.values(), columns=5)
    return figure
