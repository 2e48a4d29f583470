"""Figures of the state report, from its tidy tables (`analyses.studies.state.study.StateResults`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.reporting.figures import CONTROL, FIGURE_WIDTH, INTERVAL, MARKERS, error, legend, panels, theme
from analyses.reporting.sites import MAX_NAMED, SiteAxis
from analyses.studies.state.study import DEPTHS, DISTANCES, LIVENESS
from analyses.studies.state.tables import at_best_sites, at_roles, breakdown, headline, main_probe
from analyses.studies.state.tables import by_offset as offset_rows
from probes.measurement.plan import TRAINED, UNTRAINED

_BEYOND = {"cmap": "RdBu_r", "vmin": -0.6, "vmax": 0.6, "center": 0}  # light near 0 in grey too; the sign is printed
_APART = 0.07  # between the points of several lines at one place
_SPREAD = 0.6  # of all of them, at most
MIN_EXPLAINED = 0.15  # R² of a variable, to show how many dimensions it takes: of less, the share of it is noise

# --- scores ----------------------------------------------------------------------------------------------------------


def maps(scores: pd.DataFrame) -> Figure:
    """Draw variable x site: the score, and the score beyond the best control of the probe's class and beyond all; marks
    where something is claimed."""
    rows = headline(scores)
    rows = rows[rows.score.notna()]
    variables, sites = list(rows.variable.unique()), SiteAxis.all(rows)
    drawn = {
        "score": ("read correctly (share)", {"cmap": "cividis", "vmin": 0, "vmax": 1}),
        "beyond": ("beyond the best control of its class", _BEYOND),
        "beyond_all": ("beyond the best of all controls", _BEYOND),
    }
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 1.1 + 0.3 * len(variables) + sites.room), layout="constrained")
        axes = figure.subplots(1, len(drawn), sharey=True)
        for ax, (column, (title, colors)) in zip(axes, drawn.items(), strict=True):
            _map(ax, rows, column, variables, sites, colors, fontsize=5.5)
            ax.set_title(title, fontsize=8)
            ax.set(xlabel=sites.name, ylabel="")
        _mark_map(axes[1], rows, sites.sites, variables, ("site", "variable"))
        if len(sites.sites) <= MAX_NAMED:  # wider maps have bars of their own
            _bar(figure, axes[0], "share")
            _bar(figure, axes[1:], "difference")
    return figure


def by_role(scores: pd.DataFrame) -> Figure:
    """Draw role x site: the score at the role's tokens beyond the best control of the probe's class, a panel per
    variable; marks where something is claimed."""
    return _by_group(at_roles(scores))


def by_token_class(scores: pd.DataFrame) -> Figure:
    """Draw token class x site: the same by class of the token."""
    rows = main_probe(scores)
    return _by_group(rows[(rows.by == "token class") & (rows.offset == 0) & rows.score.notna()])


def _by_group(rows: pd.DataFrame) -> Figure:
    sites = SiteAxis.of(rows)
    with theme():
        names = list(rows.variable.unique())
        height = 0.8 + 0.1 * rows.groupby("variable").group.nunique().max()
        figure, axes = panels(names, height, xlabel=sites.name, sharey=False, room=sites.room)
        for variable, ax in axes.items():
            part = rows[(rows.variable == variable) & rows.site.isin(sites.sites)]
            groups = list(part.group.unique())
            _map(ax, part, "beyond", groups, sites, _BEYOND, index="group", fontsize=5)
            _mark_map(ax, part, sites.sites, groups, ("site", "group"))
            ax.tick_params(labelsize=6)
            ax.xaxis.label.set_fontsize(7)
        if len(sites.sites) <= MAX_NAMED:
            _bar(figure, list(axes.values()), "score minus best control", aspect=40)
    return figure


def _bar(figure: Figure, axes: Axes | Sequence[Axes], label: str, aspect: float = 24) -> None:
    """Draw a colour bar above some maps of the same colours."""
    first = axes if isinstance(axes, Axes) else axes[0]
    bar = figure.colorbar(
        first.collections[0], ax=axes, location="top", orientation="horizontal", shrink=0.6, aspect=aspect, pad=0.02
    )
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6.5, length=2)


def _mark(ax: Axes, rows: pd.DataFrame, x: pd.Series, y: pd.Series) -> None:
    """Mark the rows that claim something at x and y: a disk for read, a ring for readable."""
    for word, fill in (("read", "k"), ("readable", "w")):
        marked = rows.claimed.eq(word)
        ax.scatter(x[marked], y[marked], s=8, facecolors=fill, edgecolors="k", linewidths=0.6, zorder=3, gid=word)


def _mark_map(ax: Axes, rows: pd.DataFrame, columns: list[str], order: list[str], names: tuple[str, str]) -> None:
    """Mark cells of a map in their upper right corners; names: the rows' columns that a map's columns and rows are."""
    x, y = (rows[name].map(where.index) for name, where in zip(names, (columns, order), strict=True))
    _mark(ax, rows, x + 0.88, y + 0.2)


def _map(
    ax: Axes,
    rows: pd.DataFrame,
    values: str,
    order: list[str],
    sites: SiteAxis,
    colors: dict,
    *,
    index: str = "variable",
    fontsize: float = 6.5,
) -> None:
    table = rows.pivot(index=index, columns="site", values=values).reindex(index=order, columns=sites.sites)
    numbered = len(sites.sites) <= MAX_NAMED
    _heatmap(ax, table, xticklabels=sites.labels, annot=numbered, annot_kws={"fontsize": fontsize}, **colors)
    if not numbered:
        ax.figure.colorbar(ax.collections[0], ax=ax, orientation="horizontal", location="top", shrink=0.5, aspect=30)
    if not sites.by_layer:
        ax.tick_params(axis="x", rotation=90, labelsize=6.5)


def _heatmap(ax: Axes, table: pd.DataFrame, **options: object) -> None:
    names = {"xlabel": ax.get_xlabel(), "ylabel": ax.get_ylabel()}
    table = table.astype(float).round(2) + 0.0  # no -0.00
    sns.heatmap(table, ax=ax, fmt=".2f", yticklabels=list(table.index), linewidths=0.3, cbar=False, **options)
    ax.set(**names)
    ax.tick_params(axis="y", rotation=0)
    ax.grid(visible=False)


_BREAKDOWNS = (  # by, whose variables, the groups in order, label, width
    ("stack depth", r"stack\.", DEPTHS, "stack depth", 1.2),
    ("read distance", r"reg\..\.value", DISTANCES, "tokens to the next read", 1.0),
    ("live", r"reg\..\.value", LIVENESS, "will it be read again?", 0.7),
)


def drawn_by_depth_and_distance(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows that `by_depth_and_distance` draws."""
    parts = [breakdown(scores, by) for by, *_ in _BREAKDOWNS]
    matching = [p[p.variable.str.match(pattern)] for p, (_, pattern, *_) in zip(parts, _BREAKDOWNS, strict=True)]
    return pd.concat(matching)


def by_depth_and_distance(scores: pd.DataFrame) -> Figure | None:
    """Draw, at each variable's site, the score by stack depth, by read distance of a register, and live against dead;
    None where no variable has such scores."""
    rows = drawn_by_depth_and_distance(scores)
    drawings = []
    for by, _, order, label, width in _BREAKDOWNS:
        part = rows[rows.by == by]
        if len(part):
            drawings.append((part, [group for group in order if group in set(part.group)], label, width))
    if not drawings:
        return None
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 3.5), layout="constrained")
        widths = [width for *_, width in drawings]
        axes = figure.subplots(1, len(drawings), sharey=True, squeeze=False, width_ratios=widths)[0]
        for ax, (part, groups, label, _) in zip(axes, drawings, strict=True):
            variables = list(part.variable.unique())
            for k, variable in enumerate(variables):
                shift = min(_APART, _SPREAD / len(variables)) * (k - (len(variables) - 1) / 2)
                _points(ax, part[part.variable == variable], groups, k, shift, variable)
            ax.set(xlabel=label, ylim=(-0.03, 1.03), xlim=(-0.4, len(groups) - 0.6))
            ax.set_xticks(range(len(groups)), groups)
            ax.legend(frameon=False, fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        axes[0].set_ylabel("read correctly (share)\nhollow: best control")
    return figure


def _points(ax: Axes, part: pd.DataFrame, groups: list[str], k: int, shift: float, label: str) -> None:
    """Draw the k-th variable of a panel: its scores with their intervals, and its best controls hollow."""
    part = part.sort_values("group", key=lambda names: names.map(groups.index))
    x = np.array([groups.index(group) for group in part.group]) + shift
    style = {"color": sns.color_palette("colorblind")[k % 10], "marker": MARKERS[k % len(MARKERS)], "ms": 5}
    ax.errorbar(x, part.score, error(part.score, part.low, part.high), lw=1.4, elinewidth=1, label=label, **style)
    ax.plot(x, part.score - part.beyond, mfc="none", lw=0.8, ls=":", **style)
    _mark(ax, part, pd.Series(x, part.index), part.score)


def by_offset(scores: pd.DataFrame) -> Figure:
    """Draw past, present and future states at each variable's site, beside the best control of each."""
    rows = offset_rows(scores)
    with theme():
        names = list(rows.variable.unique())
        figure, axes = panels(names, 1.7, xlabel="state, tokens ahead", ylabel="read correctly")
        for variable, ax in axes.items():
            part = rows[rows.variable == variable].sort_values("offset")
            ax.plot(part.offset, part.score, "o-", color="C0", ms=4, lw=1.4, label="probe")
            ax.fill_between(part.offset, part.low, part.high, color="C0", alpha=INTERVAL, lw=0)
            ax.plot(part.offset, part.score - part.beyond, "s--", color=CONTROL, ms=3, lw=1.1, label="best control")
            _mark(ax, part, part.offset, part.score)
            ax.axvline(0, color="0.8", lw=0.8, zorder=0)
            ax.set(ylim=(-0.03, 1.03))
            ax.set_xticks(sorted(rows.offset.unique()))
        legend(figure, axes.values(), columns=2)
    return figure


def by_family(scores: pd.DataFrame, families: Sequence[str]) -> Figure:
    """Draw variable x family: the score beyond the best control at each variable's site."""
    rows = breakdown(scores, "family")
    table = rows.pivot(index="variable", columns="group", values="beyond")
    table = table.reindex(index=rows.variable.unique(), columns=families)
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 1.2 + 0.3 * len(table)), layout="constrained")
        ax = figure.subplots()
        _heatmap(ax, table, annot=True, annot_kws={"fontsize": 7}, **_BEYOND)
        drawn = rows[rows.group.isin(families)]
        _mark_map(ax, drawn, list(families), list(table.index), ("group", "variable"))
        ax.set_xticks(ax.get_xticks(), families, rotation=30, ha="right")
        _bar(figure, ax, "score minus best control", aspect=40)
    return figure


# --- how states are held ---------------------------------------------------------------------------------------------

_HOLLOW = {"ls": "", "mfc": "white", "mew": 0.8, "elinewidth": 0.6, "alpha": 0.55}  # points of the untrained model


def numbers(table: pd.DataFrame) -> Figure:
    """Draw how integers are held: the held-out R² of the mean activation by basis and site, in the model (filled) and
    in its untrained twin (hollow), a panel per variable and number of functions."""
    sites, bases = SiteAxis.of(table), list(table.basis.unique())
    table = sites.rows(table)
    names = [(variable, k) for variable in table.variable.unique() for k in sorted(table.k.unique())]
    columns = table.k.nunique()
    with theme():
        rows = -(-len(names) // columns)
        figure = Figure(figsize=(FIGURE_WIDTH, 0.7 + 3.4 * rows + sites.room), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
        for ax, (variable, size) in zip(axes.flat, names, strict=True):
            _bases(ax, table[(table.variable == variable) & (table.k == size)], bases, sites)
            ax.set(title=f"{variable}, {size} functions", ylim=(-0.25, 1.03))
            sites.label(ax)
        for ax in axes[-1]:
            ax.set_xlabel(sites.name)
        for ax in axes[:, 0]:
            ax.set_ylabel("R² on held-out values\nhollow: untrained model")
        legend(figure, axes.flat, columns=4)
    return figure


def _bases(ax: Axes, part: pd.DataFrame, bases: list[str], sites: SiteAxis) -> None:
    """Draw the scores of every basis in both models, and of the best basis on permuted values."""
    for k, basis in enumerate(bases):
        style = {
            "color": sns.color_palette("colorblind")[k % 10],
            "marker": MARKERS[k],
            "ms": 4,
            "ls": sites.line,
        }
        shift = _APART * (k - (len(bases) - 1) / 2)
        trained, untrained = (part[(part.basis == basis) & (part.model == model)] for model in (TRAINED, UNTRAINED))
        reach = error(trained.score, trained.low, trained.high)
        ax.errorbar(trained.x + shift, trained.score, reach, lw=1.4, elinewidth=0.8, label=basis, **style)
        reach = error(untrained.score, untrained.low, untrained.high)
        ax.errorbar(untrained.x + shift + _APART / 2, untrained.score, reach, **style | _HOLLOW)
    best = part[part.model == TRAINED].groupby("x").control.max()
    permuted = {"ls": "--", "lw": 1.2} if sites.by_layer else {"ls": "", "marker": "_"}
    ax.plot(best.index, best, color=CONTROL, label="permuted values, best basis", **permuted)


def neurons(table: pd.DataFrame, scores: pd.DataFrame) -> Figure | None:
    """Draw how many dimensions and how many neurons a variable needs in the model, at its site, a panel per variable.

    Variables of which the probe without a limit explains less than MIN_EXPLAINED of the variance are left out; None
    where these are all.
    """
    table = at_best_sites(table[(table.full > MIN_EXPLAINED) & (table.model == TRAINED)], scores)
    names = list(table.variable.unique())
    if not names:
        return None
    styles = {"reduced rank": ("o-", "dimensions"), "neurons": ("s--", "neurons (coordinates of the site)")}
    with theme():
        figure, axes = panels(names, 1.7, xlabel="how many", ylabel="share of R²")
        for variable, ax in axes.items():
            for probe, (style, label) in styles.items():
                line = table[(table.variable == variable) & (table.probe == probe)].sort_values("k")
                ax.plot(line.k, line.score / line.full, style, ms=3.5, lw=1.3, label=label)
            ax.axhline(0.95, color="0.6", ls=":", lw=1)
            ax.set_xscale("log", base=2)
            ax.set(ylim=(-0.03, 1.25))
        legend(figure, axes.values(), columns=2)
    return figure
