"""Figures of the study of training, from the tables of `analyses.dynamics`."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analyses.figures import CONTROL, theme

_WIDTH = 9.2


def trajectories(table: pd.DataFrame) -> Figure:
    """Completion accuracy of each family, and the probe scores of every variable, over training."""
    families = list(table[table.kind == "completion"].name.unique())
    with theme():
        figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for ax, kind, title in zip(
            axes, ("completion", "probe"), ("completed rightly", "read by a probe"), strict=True
        ):
            part = table[table.kind == kind]
            names = families if kind == "completion" else list(part.name.unique())
            for k, name in enumerate(names):
                color, marker = sns.color_palette("colorblind")[k % 10], "os^Dvp*X"[k % 8]
                rows = part[part.name == name]
                for _, one in rows.groupby("run"):
                    ax.plot(one.step, one.score, color=color, lw=0.5, alpha=0.5)
                mean = rows.groupby("step").score.mean()
                ax.plot(mean.index, mean, color=color, marker=marker, ms=3.5, lw=1.8, label=name)
            ax.set_xscale("log")
            ax.set(xlabel="optimizer steps", title=title, ylim=(-0.03, 1.03))
            ax.legend(frameon=False, fontsize=7, loc="upper left")
        axes[0].set_ylabel("share of held-out programs, of tokens")
    return figure


def correlations(table: pd.DataFrame) -> Figure:
    """Correlation within snapshots, variable x family, for the machine and for the alternative one."""
    with theme():
        figure = Figure(figsize=(_WIDTH, 0.9 + 0.35 * table.variable.nunique()), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, kind, title in zip(
            axes, ("probe", "alternative"), ("the machine", "an alternative machine"), strict=True
        ):
            part = table[table.kind == kind]
            order, columns = part.variable.unique(), part.family.unique()
            r = part.pivot(index="variable", columns="family", values="r").loc[order, columns]
            p = part.pivot(index="variable", columns="family", values="p").loc[order, columns]
            marks = r.map("{:.2f}".format) + p.map(lambda value: "*" if value < 0.05 else "")
            colors = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1, "cbar": False, "linewidths": 0.3}
            sns.heatmap(r.astype(float), ax=ax, annot=marks.to_numpy(), fmt="", **colors)
            ax.set(title=f"{title} (*: p < 0.05)", xlabel="", ylabel="")
            ax.tick_params(axis="y", rotation=0)
    return figure


def leads(table: pd.DataFrame) -> Figure:
    """By how many doublings of training each variable is before each family's behaviour."""
    table = table[table.lead.notna()]
    families = list(table.family.unique())
    with theme():
        figure = Figure(figsize=(_WIDTH, 1.2 + 0.3 * table.variable.nunique()), layout="constrained")
        axes = figure.subplots(1, max(1, len(families)), sharex=True, sharey=True, squeeze=False)[0]
        for ax, family in zip(axes, families, strict=False):
            for kind, marker, color, shift in (("probe", "o", "C0", 0.12), ("alternative", "s", CONTROL, -0.12)):
                part = table[(table.family == family) & (table.kind == kind)]
                y = [list(table.variable.unique())[::-1].index(v) + shift for v in part.variable]
                error = [part.lead - part.low, part.high - part.lead]
                label = "the machine" if kind == "probe" else "an alternative machine"
                ax.errorbar(part.lead, y, xerr=error, fmt=marker, color=color, ms=5, lw=1.2, label=label)
            ax.axvline(0, color="0.6", lw=0.8)
            ax.set(title=family, xlabel="lead (doublings of training)")
            ax.set_yticks(range(table.variable.nunique()), list(table.variable.unique())[::-1])
        if families:
            handles = axes[0].get_legend_handles_labels()
            figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
    return figure
