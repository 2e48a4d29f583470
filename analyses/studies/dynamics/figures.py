"""Figures of the study of training, from the tables of `analyses.studies.dynamics.study`."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analyses.reporting import report
from analyses.reporting.figures import CONTROL, FIGURE_WIDTH, MARKERS, error, legend, panels, theme

_KINDS = {"probe": "the machine", "alternative": "an alternative machine"}


def trajectories(table: pd.DataFrame) -> Figure:
    """Draw the completion accuracy of each family, and the probe scores of every variable, over training."""
    titles = {"completion": "completed correctly", **{kind: f"read, of {name}" for kind, name in _KINDS.items()}}
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 4.0), layout="constrained")
        axes = figure.subplots(1, len(titles), sharex=True, sharey=True)
        for ax, (kind, title) in zip(axes, titles.items(), strict=True):
            part = table[table.kind == kind]
            for k, name in enumerate(part.name.unique()):
                color = sns.color_palette("colorblind")[k % 10]
                marker = MARKERS[k % 8]
                rows = part[part.name == name]
                for _, curve in rows.groupby("run"):
                    ax.plot(curve.step, curve.score, color=color, lw=0.5, alpha=0.5)
                mean = rows.groupby("step").score.mean()
                ax.plot(mean.index, mean, color=color, marker=marker, ms=3.5, lw=1.8, label=name)
            ax.set_xscale("log")
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set(xlabel="optimizer steps", title=title, ylim=(-0.03, 1.03))
            ax.legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17))
        axes[0].set_ylabel("share (of programs; of tokens)")
    return figure


def correlations(table: pd.DataFrame) -> Figure:
    """Draw the correlation within snapshots, variable x family, for the machine and for the alternative one."""
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 1.4 + 0.35 * table.variable.nunique()), layout="constrained")
        axes = figure.subplots(1, len(_KINDS), sharey=True)
        for ax, (kind, title) in zip(axes, _KINDS.items(), strict=True):
            part = table[table.kind == kind]
            order, columns = part.variable.unique(), part.family.unique()
            r = part.pivot(index="variable", columns="family", values="r").loc[order, columns]
            p = part.pivot(index="variable", columns="family", values="p").loc[order, columns]
            marks = r.map(report.number) + p.map(lambda value: "*" if value < 0.05 else "")
            colors = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1, "cbar": False, "linewidths": 0.3}
            sns.heatmap(r.astype(float), ax=ax, annot=marks.to_numpy(), fmt="", **colors)
            ax.set(title=f"{title} (*: p < 0.05)", xlabel="", ylabel="")
            ax.tick_params(axis="y", rotation=0)
            ax.set_xticks(ax.get_xticks(), list(columns), rotation=30, ha="right")
            ax.grid(visible=False)
    return figure


def leads(table: pd.DataFrame) -> Figure:
    """Draw by how many doublings of training each variable is before each family's behaviour; the table needs a pair
    that has a lead."""
    table = table[table.lead.notna()]
    variables = list(table.variable.unique())[::-1]
    styles = {"probe": ("o", "C0", 0.12), "alternative": ("s", CONTROL, -0.12)}
    with theme():
        families = list(table.family.unique())
        figure, axes = panels(families, 0.7 + 0.3 * len(variables), xlabel="lead (doublings of training)")
        for family, ax in axes.items():
            for kind, (marker, color, shift) in styles.items():
                part = table[(table.family == family) & (table.kind == kind)]
                if part.empty:  # the legend has what is drawn
                    continue
                y = [variables.index(variable) + shift for variable in part.variable]
                reach = error(part.lead, part.low, part.high)
                ax.errorbar(part.lead, y, xerr=reach, fmt=marker, color=color, ms=5, lw=1.2, label=_KINDS[kind])
            ax.axvline(0, color="0.6", lw=0.8)
            ax.set_yticks(range(len(variables)), variables)
            ax.set_ylim(-0.5, len(variables) - 0.5)
        legend(figure, axes.values(), columns=2)
    return figure
