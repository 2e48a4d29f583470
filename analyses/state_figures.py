"""Figures of the state report, from its tidy tables (`analyses.state.State`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses.figures import CONTROL, INTERVAL, theme
from analyses.state import DEPTHS, DISTANCES, LIVENESS
from analyses.state_tables import at_best_sites, breakdown, headline, main_probe
from probes.scores import layer_of

_WIDTH = 9.2
_COLUMNS = 4
_MARKERS = "os^Dvp*XhP<>"
_BEYOND = {"cmap": "RdBu_r", "vmin": -0.6, "vmax": 0.6, "center": 0}  # light near 0 in grey too; the sign is printed
LAYER = "layer (0: embedding)"
_APART = 0.07  # between the points of several lines at one place

# --- which rows ------------------------------------------------------------------------------------------------------


def in_the_stream(site: str) -> bool:
    """Whether a site is the residual stream between blocks, so that its layer names it."""
    return site.endswith((".hook_resid_pre", ".hook_resid_post"))


def one_site_a_layer(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the residual stream before the first block and after each, or, of none of these, of the first site of
    each layer."""
    sites = table[["site", "layer"]].drop_duplicates()
    residual = sites[sites.site.map(in_the_stream)]
    sites = residual if len(residual) else sites
    return table[table.site.isin(sites.drop_duplicates("layer").site)].sort_values("layer", kind="stable")


# --- panels ----------------------------------------------------------------------------------------------------------


def panels(
    names: Sequence[str], height: float, *, xlabel: str, ylabel: str = "", sharey: bool = True
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel of `height` inches per name, four to a row; the lowest of each column labels its x axis."""
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(_WIDTH, 0.5 + height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=sharey)
    for k, ax in enumerate(axes.flat):
        lowest = k + columns >= len(names)
        ax.set_visible(k < len(names))
        ax.tick_params(labelbottom=lowest)
        ax.set(xlabel=xlabel if lowest else "", ylabel=ylabel if k % columns == 0 else "")
    shown = dict(zip(names, axes.flat))
    for name, ax in shown.items():
        ax.set_title(name, fontsize=8)
    return figure, shown


def legend(figure: Figure, axes: Iterable[Axes], columns: int) -> None:
    """One legend for all panels, beneath them: what stands in any."""
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)


# --- scores ----------------------------------------------------------------------------------------------------------


def maps(scores: pd.DataFrame) -> Figure:
    """Variable x layer: the score, and the score beyond the best control; a dot where it may be called read."""
    rows = headline(scores)
    rows = rows[rows.score.notna()]
    variables, sites = list(rows.variable.unique()), list(rows.site.unique())
    with theme():
        figure = Figure(figsize=(_WIDTH, 1.1 + 0.3 * len(variables)), layout="constrained")
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


def by_token_class(scores: pd.DataFrame) -> Figure:
    """Token class x layer of the score beyond the best control, a panel per variable."""
    rows = main_probe(scores)
    rows = rows[(rows.by == "token class") & (rows.offset == 0) & rows.score.notna()]
    sites = list(rows.site.unique())
    with theme():
        figure, axes = panels(list(rows.variable.unique()), 2.3, xlabel=_site_axis(rows), sharey=False)
        for variable, ax in axes.items():
            part = rows[rows.variable == variable]
            _map(ax, part, "beyond", list(part.group.unique()), sites, _BEYOND, index="group", fontsize=5)
            ax.tick_params(labelsize=6)
            ax.xaxis.label.set_size(7)
    return figure


def _site_axis(rows: pd.DataFrame) -> str:
    return LAYER if _layers_name(list(rows.site.unique())) else "site"


def _layers_name(sites: list[str]) -> bool:
    """Whether these sites can go by their layers."""
    return all(map(in_the_stream, sites)) and len({layer_of(site) for site in sites}) == len(sites)


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
    table = rows.pivot(index=index, columns="site", values=values).reindex(index=order, columns=sites)
    labels = [layer_of(site) for site in sites] if _layers_name(sites) else sites
    _heatmap(ax, table, xticklabels=labels, annot=len(sites) <= 12, annot_kws={"fontsize": fontsize}, **colors)


def _heatmap(ax: Axes, table: pd.DataFrame, **options: object) -> None:
    names = {"xlabel": ax.get_xlabel(), "ylabel": ax.get_ylabel()}
    table = table.astype(float).round(2) + 0.0  # no -0.00
    sns.heatmap(table, ax=ax, fmt=".2f", yticklabels=list(table.index), linewidths=0.3, cbar=False, **options)
    ax.set(**names)
    ax.tick_params(axis="y", rotation=0)
    ax.grid(visible=False)


def by_depth_and_distance(scores: pd.DataFrame) -> Figure | None:
    """At each variable's site: the score by stack depth, by read distance of a register, and live against dead; None
    where no variable has such scores."""
    asked = (
        ("stack depth", r"stack\.", DEPTHS, "stack depth", 1.2),
        ("read distance", r"reg\..\.value", DISTANCES, "tokens to the next read", 1.0),
        ("live", r"reg\..\.value", LIVENESS, "will it be read again?", 0.7),
    )
    shown = []
    for by, pattern, groups, label, width in asked:
        part = breakdown(scores, by)
        part = part[part.variable.str.match(pattern)]
        if len(part):
            shown.append((part, [group for group in groups if group in set(part.group)], label, width))
    if not shown:
        return None
    with theme():
        figure = Figure(figsize=(_WIDTH, 3.5), layout="constrained")
        axes = figure.subplots(1, len(shown), sharey=True, squeeze=False, width_ratios=[width for *_, width in shown])[
            0
        ]
        for ax, (part, groups, label, _) in zip(axes, shown, strict=True):
            variables = list(part.variable.unique())
            for k, variable in enumerate(variables):
                shift = _APART * (k - (len(variables) - 1) / 2)
                _points(ax, part[part.variable == variable], groups, k, shift, variable)
            ax.set(xlabel=label, ylim=(-0.03, 1.03), xlim=(-0.4, len(groups) - 0.6))
            ax.set_xticks(range(len(groups)), groups)
            ax.legend(frameon=False, fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        axes[0].set_ylabel("read rightly (share)\nhollow: best control")
    return figure


def _points(ax: Axes, part: pd.DataFrame, groups: list[str], k: int, shift: float, label: str) -> None:
    part = part.sort_values("group", key=lambda names: names.map(groups.index))
    x = np.array([groups.index(group) for group in part.group]) + shift
    style = {"color": sns.color_palette("colorblind")[k % 10], "marker": _MARKERS[k % len(_MARKERS)], "ms": 5}
    ax.errorbar(x, part.score, error(part.score, part.low, part.high), lw=1.4, elinewidth=1, label=label, **style)
    ax.plot(x, part.score - part.beyond, mfc="none", lw=0.8, ls=":", **style)


def error(score: pd.Series, low: pd.Series, high: pd.Series) -> np.ndarray:
    """How far the interval reaches below and above: [2, rows]."""
    return np.stack([score - low, high - score]).clip(min=0)


def by_offset(scores: pd.DataFrame) -> Figure:
    """Past, present and future states at each variable's site, beside the best control of each."""
    rows = main_probe(scores)
    rows = at_best_sites(rows[(rows.by == "all") & rows.score.notna()], scores)
    with theme():
        names = list(rows.variable.unique())
        figure, axes = panels(names, 1.7, xlabel="state, tokens ahead", ylabel="read rightly")
        for variable, ax in axes.items():
            part = rows[rows.variable == variable].sort_values("offset")
            ax.plot(part.offset, part.score, "o-", color="C0", ms=4, lw=1.4, label="probe")
            ax.fill_between(part.offset, part.low, part.high, color="C0", alpha=INTERVAL, lw=0)
            ax.plot(part.offset, part.score - part.beyond, "s--", color=CONTROL, ms=3, lw=1.1, label="best control")
            ax.axvline(0, color="0.8", lw=0.8, zorder=0)
            ax.set(ylim=(-0.03, 1.03))
            ax.set_xticks(sorted(rows.offset.unique()))
        legend(figure, axes.values(), columns=2)
    return figure


def by_family(scores: pd.DataFrame, families: Sequence[str]) -> Figure:
    """Variable x family: the score beyond the best control at each variable's site."""
    rows = breakdown(scores, "family")
    table = rows.pivot(index="variable", columns="group", values="beyond")
    table = table.reindex(index=rows.variable.unique(), columns=families)
    with theme():
        figure = Figure(figsize=(_WIDTH, 1.2 + 0.3 * len(table)), layout="constrained")
        ax = figure.subplots()
        _heatmap(ax, table, annot=True, annot_kws={"fontsize": 7}, **_BEYOND)
        ax.set_xticks(ax.get_xticks(), families, rotation=30, ha="right")
    return figure


# --- how states are held ---------------------------------------------------------------------------------------------


def numbers(table: pd.DataFrame) -> Figure:
    """How integers are held: held-out R² of the mean activation by basis and layer, a panel per variable and number of
    functions."""
    table, bases = one_site_a_layer(table), list(table.basis.unique())
    shown = [(variable, k) for variable in table.variable.unique() for k in sorted(table.k.unique())]
    columns = table.k.nunique()
    with theme():
        rows = -(-len(shown) // columns)
        figure = Figure(figsize=(_WIDTH, 0.7 + 2.8 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
        for ax, (variable, size) in zip(axes.flat, shown, strict=True):
            part = table[(table.variable == variable) & (table.k == size)]
            for k, basis in enumerate(bases):
                line = part[part.basis == basis]
                style = {"color": sns.color_palette("colorblind")[k % 10], "marker": _MARKERS[k], "ms": 4}
                x = line.layer + _APART * (k - (len(bases) - 1) / 2)
                reach = error(line.score, line.low, line.high)
                ax.errorbar(x, line.score, reach, lw=1.4, elinewidth=0.8, label=basis, **style)
            best = part.groupby("layer").control.max()
            ax.plot(best.index, best, color=CONTROL, ls="--", lw=1.2, label="permuted values, best basis")
            ax.set(title=f"{variable}, {size} functions", ylim=(-0.25, 1.03))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        for ax in axes[-1]:
            ax.set_xlabel(LAYER)
        for ax in axes[:, 0]:
            ax.set_ylabel("R² on held-out values")
        legend(figure, axes.flat, columns=4)
    return figure


def neurons(table: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """How many dimensions and how many neurons a variable needs, at its site; those of which the probe without a limit
    explains next to nothing are left out."""
    table = at_best_sites(table[table.full > 0.02], scores)
    with theme():
        figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        labels = {"reduced rank": "dimensions", "neurons": "neurons (coordinates)"}
        for ax, (probe, label) in zip(axes, labels.items(), strict=True):
            for k, variable in enumerate(table.variable.unique()):
                line = table[(table.variable == variable) & (table.probe == probe)].sort_values("k")
                style = {"color": sns.color_palette("colorblind")[k % 10], "marker": _MARKERS[k % len(_MARKERS)]}
                ax.plot(
                    line.k, line.score / line.full, ls="-" if k < 10 else "--", ms=4, lw=1.2, label=variable, **style
                )
            ax.axhline(0.95, color="0.6", ls=":", lw=1)
            ax.set_xscale("log", base=2)
            ax.set(xlabel=label, ylim=(-0.03, 1.06))
        axes[0].set_ylabel("share of the full probe's R²")
        if len(table):
            axes[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
