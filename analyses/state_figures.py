"""Figures of the state report, from its tidy tables (`analyses.state.State`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.figures import CONTROL, INTERVAL, theme

_WIDTH = 9.2
_MARKERS = "os^Dvp*XhP<>"
_BEYOND = {"cmap": "RdBu_r", "vmin": -0.6, "vmax": 0.6, "center": 0}  # light near 0 in grey too; the sign is printed


def headline(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of the present states' main probe over all tokens: one per (site, variable)."""
    return scores[(scores.by == "all") & (scores.offset == 0) & (scores.probe != "ridge") & (scores.metric != "R2")]


def best_sites(scores: pd.DataFrame) -> pd.Series:
    """The site of each variable that reads most on the validation programs (so that the test score is no maximum)."""
    rows = headline(scores)
    order = rows.variable.unique()
    rows = rows.dropna(subset="score")
    best = rows.loc[rows.groupby("variable").validation.idxmax()].set_index("variable").site
    return best.reindex([variable for variable in order if variable in best.index])


def maps(scores: pd.DataFrame) -> Figure:
    """Variable x layer: the score, and the score beyond the best control; a dot where it may be called read."""
    rows = headline(scores)
    variables, sites = list(rows.variable.unique()), list(rows.site.unique())
    with theme():
        figure = Figure(figsize=(_WIDTH, 0.9 + 0.3 * len(variables)), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        _map(axes[0], rows, "score", variables, sites, {"cmap": "cividis", "vmin": 0, "vmax": 1})
        _map(axes[1], rows, "beyond", variables, sites, _BEYOND)
        axes[0].set_title("read rightly (share)")
        axes[1].set_title("beyond the best control (dot: surely by more than 0.05)")
        read = rows[rows.read.eq(True)]
        x, y = (sites.index(s) + 0.88 for s in read.site), (variables.index(v) + 0.2 for v in read.variable)
        axes[1].scatter(list(x), list(y), s=9, color="k")
        for ax in axes:
            ax.set(xlabel=_site_axis(rows), ylabel="")
    return figure


def by_token_class(scores: pd.DataFrame, variables: Sequence[str]) -> Figure:
    """Token class x layer of the score beyond the best control, a panel per variable."""
    rows = scores[(scores.by == "token class") & (scores.offset == 0) & (scores.probe != "ridge")]
    rows = rows[rows.score.notna()]
    variables = [v for v in variables if (rows.variable == v).any()]
    sites, columns = list(rows.site.unique()), 4
    with theme():
        height = -(-len(variables) // columns)
        figure = Figure(figsize=(_WIDTH, 0.4 + 2.3 * height), layout="constrained")
        axes = figure.subplots(height, columns, squeeze=False, sharex=True)
        for ax, variable in zip(axes.flat, variables, strict=False):
            part = rows[rows.variable == variable]
            _map(ax, part, "beyond", list(part.group.unique()), sites, _BEYOND, index="group", fontsize=5)
            ax.set_title(variable, fontsize=8)
            ax.tick_params(labelsize=6)
            ax.set(ylabel="", xlabel="")
        for ax in axes.flat[len(variables) :]:
            ax.set_visible(False)
        for ax in axes[-1]:
            ax.set_xlabel(_site_axis(rows))
    return figure


def _site_axis(rows: pd.DataFrame) -> str:
    return "layer (0: embedding)" if rows.layer.nunique() == rows.site.nunique() else "site"


def _map(
    ax: Axes,
    rows: pd.DataFrame,
    values: str,
    order: list[str],
    sites: list[str],
    colors: dict,
    *,
    index: str = "variable",
    fontsize: float = 6.5,
) -> None:
    table = rows.pivot(index=index, columns="site", values=values).reindex(order)[sites].astype(float)
    layers = rows.drop_duplicates("site").set_index("site").layer
    labels = layers[sites].tolist() if layers.nunique() == len(sites) else sites
    shown = {"annot": len(sites) <= 12, "fmt": ".2f", "annot_kws": {"fontsize": fontsize}, "cbar": False}
    sns.heatmap(table, ax=ax, xticklabels=labels, yticklabels=order, linewidths=0.3, **shown, **colors)
    ax.tick_params(axis="y", rotation=0)
    ax.grid(visible=False)


def by_depth_and_distance(scores: pd.DataFrame) -> Figure:
    """At each variable's site: the score by stack depth, by read distance of a register, and live against dead."""
    rows = _at_sites(scores)
    stack = [v for v in rows.variable.unique() if v.startswith("stack.")]
    registers = [v for v in rows.variable.unique() if v.startswith("reg.") and v.endswith(".value")]
    with theme():
        figure = Figure(figsize=(_WIDTH, 3.1), layout="constrained")
        axes = figure.subplots(1, 3, sharey=True, width_ratios=(1.2, 1, 0.7))
        panels = (("stack depth", stack), ("read distance", registers), ("live", registers))
        for ax, (by, variables) in zip(axes, panels, strict=True):
            part = rows[rows.by == by]
            groups = list(part.group.unique())
            for k, variable in enumerate(v for v in variables if (part.variable == v).any()):
                _line(ax, part[part.variable == variable], groups, k, variable)
            ax.set(xlabel={"live": "will it be read again?", "read distance": "tokens to the next read"}.get(by, by))
            ax.set(ylim=(-0.03, 1.03), xlim=(-0.4, max(len(groups), 1) - 0.6))
            ax.set_xticks(range(len(groups)), groups)
            if ax.lines:
                ax.legend(frameon=False, fontsize=7)
        axes[0].set_ylabel("read rightly (share)\nhollow: best control")
    return figure


def _line(ax: Axes, part: pd.DataFrame, groups: list[str], k: int, label: str) -> None:
    part = part[part.score.notna()]
    x = [groups.index(group) for group in part.group]
    color, marker = sns.color_palette("colorblind")[k % 10], _MARKERS[k % len(_MARKERS)]
    ax.plot(x, part.score, color=color, marker=marker, ms=5, lw=1.4, label=label)
    ax.fill_between(x, part.low, part.high, color=color, alpha=INTERVAL, lw=0)
    ax.plot(x, part.score - part.beyond, color=color, marker=marker, mfc="none", ms=5, lw=0.8, ls=":")


def by_offset(scores: pd.DataFrame) -> Figure:
    """Past, present and future states at each variable's site, beside the best control of each."""
    rows = scores[(scores.by == "all") & (scores.probe != "ridge") & scores.score.notna() & (scores.metric != "R2")]
    rows = at_best_sites(rows, scores)
    variables, columns = list(rows.variable.unique()), 4
    with theme():
        height = -(-len(variables) // columns)
        figure = Figure(figsize=(_WIDTH, 0.5 + 1.7 * height), layout="constrained")
        axes = figure.subplots(height, columns, squeeze=False, sharex=True, sharey=True)
        for ax, variable in zip(axes.flat, variables, strict=False):
            part = rows[rows.variable == variable].sort_values("offset")
            ax.plot(part.offset, part.score, "o-", color="C0", ms=4, lw=1.4, label="probe")
            ax.fill_between(part.offset, part.low, part.high, color="C0", alpha=INTERVAL, lw=0)
            ax.plot(part.offset, part.score - part.beyond, "s--", color=CONTROL, ms=3, lw=1.1, label="best control")
            ax.axvline(0, color="0.8", lw=0.8, zorder=0)
            ax.set_title(variable, fontsize=8)
            ax.set(ylim=(-0.03, 1.03))
        for ax in axes.flat[len(variables) :]:
            ax.set_visible(False)
        for ax in axes[-1]:
            ax.set_xlabel("state, tokens ahead")
        for row in axes:
            row[0].set_ylabel("read rightly")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def by_family(scores: pd.DataFrame) -> Figure:
    """Variable x family: the score beyond the best control at each variable's site."""
    rows = _at_sites(scores)
    rows = rows[(rows.by == "family") & rows.score.notna()]
    order, families = list(rows.variable.unique()), list(rows.group.unique())
    table = rows.pivot(index="variable", columns="group", values="beyond").reindex(order)[families].astype(float)
    with theme():
        figure = Figure(figsize=(_WIDTH, 1.2 + 0.3 * len(order)), layout="constrained")
        ax = figure.subplots()
        sns.heatmap(
            table, ax=ax, annot=True, fmt=".2f", annot_kws={"fontsize": 7}, linewidths=0.3, cbar=False, **_BEYOND
        )
        ax.set(xlabel="", ylabel="")
        ax.set_xticks(ax.get_xticks(), families, rotation=30, ha="right")
        ax.tick_params(axis="y", rotation=0)
        ax.grid(visible=False)
    return figure


def _at_sites(scores: pd.DataFrame) -> pd.DataFrame:
    """The present states' rows at each variable's site."""
    rows = scores[(scores.offset == 0) & (scores.probe != "ridge") & (scores.metric != "R2")]
    return at_best_sites(rows, scores)


def at_best_sites(rows: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of each variable at its site of `best_sites`, variable after variable."""
    best = best_sites(scores)
    rows = rows[rows.site == rows.variable.map(best)]
    return rows.sort_values("variable", key=lambda names: names.map(list(best.index).index), kind="stable")


def gaps(table: pd.DataFrame) -> Figure:
    """Selectivity for the machine's states and for alternative machines', by layer, a panel per variable."""
    variables, columns = list(table.variable.unique()), 4
    with theme():
        height = -(-len(variables) // columns)
        figure = Figure(figsize=(_WIDTH, 0.5 + 1.8 * height), layout="constrained")
        axes = figure.subplots(height, columns, squeeze=False, sharex=True, sharey=True)
        for ax, variable in zip(axes.flat, variables, strict=False):
            part = table[(table.variable == variable) & (table.layer >= 0)].sort_values("layer")
            true = part.drop_duplicates("layer")
            ax.plot(true.layer, true.selectivity, "o-", color="C0", ms=4, lw=1.4, label="the machine")
            ax.fill_between(true.layer, true.selectivity_low, true.selectivity_high, color="C0", alpha=INTERVAL, lw=0)
            for k, machine in enumerate(part.machine.unique()):
                line = part[part.machine == machine]
                style = {"color": CONTROL, "ls": ("--", ":", "-.")[k % 3], "lw": 1.2}
                ax.plot(line.layer, line.alternative_selectivity, label=machine, **style)
            ax.axhline(0, color="0.8", lw=0.8, zorder=0)
            ax.set_title(variable, fontsize=8)
        for ax in axes.flat[len(variables) :]:
            ax.set_visible(False)
        for ax in axes[-1]:
            ax.set_xlabel("layer (0: embedding)")
        for row in axes:
            row[0].set_ylabel("selectivity")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def numbers(table: pd.DataFrame) -> Figure:
    """How integers are held: held-out R² of the mean activation by basis and layer, a panel per variable and number of
    functions."""
    panels = [(variable, k) for variable in table.variable.unique() for k in sorted(table.k.unique())]
    columns = max(2, table.k.nunique())
    with theme():
        figure = Figure(figsize=(_WIDTH, 0.4 + 2.8 * -(-len(panels) // columns)), layout="constrained")
        axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False, sharey=True, sharex=True)
        for ax, (variable, size) in zip(axes.flat, panels, strict=False):
            part = table[(table.variable == variable) & (table.layer >= 0) & (table.k == size)]
            for k, basis in enumerate(part.basis.unique()):
                line = part[part.basis == basis].sort_values("layer")
                color = sns.color_palette("colorblind")[k % 10]
                ax.plot(line.layer, line.score, marker=_MARKERS[k], color=color, ms=4, lw=1.4, label=basis)
                ax.fill_between(line.layer, line.low, line.high, color=color, alpha=0.1, lw=0)
            best = part.groupby("layer").control.max()
            ax.plot(best.index, best, color=CONTROL, ls="--", lw=1.2, label="permuted values, best basis")
            ax.set(title=f"{variable}, {size} functions", xlabel="layer (0: embedding)", ylim=(-0.25, 1.03))
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)
        axes[0, 0].set_ylabel("R² on held-out values")
        axes[0, -1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def neurons(table: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """How many dimensions and how many neurons a variable needs, at its site."""
    table = at_best_sites(table, scores)
    variables = list(table.variable.unique())
    with theme():
        figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, probe in zip(axes, ("reduced rank", "neurons"), strict=True):
            for k, variable in enumerate(variables):
                line = table[(table.variable == variable) & (table.probe == probe)].sort_values("k")
                share = np.where(line.full > 0.02, line.score / line.full, np.nan)
                color = sns.color_palette("colorblind")[k % 10]
                ax.plot(line.k, share, marker=_MARKERS[k % len(_MARKERS)], color=color, ms=4, lw=1.2, label=variable)
            ax.axhline(0.95, color="0.6", ls=":", lw=1)
            ax.set_xscale("log", base=2)
            ax.set(xlabel={"reduced rank": "dimensions", "neurons": "neurons (coordinates)"}[probe], ylim=(-0.03, 1.06))
        axes[0].set_ylabel("share of the full probe's R²")
        axes[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
