"""Figures of how values travel: heads against the data-flow graph, blocked edges, store or load, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.reporting.figures import FIGURE_WIDTH, MARKERS, error, legend, panels, theme
from analyses.studies.interventions import words
from analyses.studies.interventions.figures import hollow
from analyses.studies.interventions.tables import is_loaded
from cadmus.states.provenance import ROLES
from cadmus.statistics.clustered import MIN_CLUSTERS

MAX_HEADS, MIN_HEADS = 28, 10  # rows of the matrix: those with a mark, and some that attend most
MARKS = {  # column of the table of heads -> marker, face, place in the cell, what it says
    "attends": ("s", "w", -0.42, "attends beyond baseline and twin"),
    "needed": ("o", "k", -0.30, "needed: blocked, answers break"),
    "used": ("^", "w", -0.18, "carries: exchanged, answers move"),
}
_ROLE_STYLES = {role: (color, marker) for role, color, marker in zip(ROLES, sns.color_palette("colorblind"), MARKERS)}


def head_names(table: pd.DataFrame) -> pd.Series:
    """Heads by block and number, `3.2`."""
    return table["layer"].astype(str) + "." + table["head"].astype(str)


def heads(table: pd.DataFrame) -> Figure:
    """Draw head x variable: how far its attention on the data-flow edges lies beyond the baseline, with marks where it
    attends, is needed or carries the value, and the kind of edge written where there is one; table: `Tables.heads`."""
    table = table.assign(name=head_names(table))
    variables = list(table["variable"].unique())
    is_marked = table[[name for name in MARKS if name in table]].eq(True).any(axis=1)
    marked, strength = set(table["name"][is_marked]), table.groupby("name")["flow_d"].max().fillna(-1)
    order = sorted(strength.index, key=lambda name: (name not in marked, -strength[name]))[
        : min(MAX_HEADS, max(MIN_HEADS, len(marked)))
    ]
    rows = sorted(order, key=lambda name: tuple(map(int, name.split("."))))
    table = table[table["name"].isin(rows)]
    cells = table.pivot(index="name", columns="variable", values="flow_d").reindex(index=rows, columns=variables)
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 1.5 + 0.24 * len(rows)), layout="constrained")
        ax = figure.subplots()
        image = ax.imshow(np.ma.masked_invalid(cells.to_numpy(float)), aspect="auto", cmap="Blues", vmin=0, vmax=1)
        ax.set_yticks(range(len(rows)), rows, fontsize=7)
        ax.set_xticks(range(len(variables)), variables, fontsize=8)
        ax.xaxis.tick_top()
        ax.set_xlim(-0.5, max(4, len(variables)) - 0.5)  # cells stay narrow where there are few variables
        ax.set_ylabel("head (block.number)")
        ax.grid(visible=False)
        for name in MARKS:
            if name in table and table[name].eq(True).any():  # the legend explains no mark that no cell has
                _mark_heads(ax, table[table[name].eq(True)], name, variables, rows)
        for row in table[is_marked.loc[table.index]].to_dict("records"):
            kind = row["knockout"] if row.get("needed") is True else row["flow"]
            color = "w" if row["flow_d"] > 0.55 else "k"
            where = variables.index(row["variable"]) + 0.48, rows.index(row["name"])
            ax.text(*where, str(kind).replace("_", " "), ha="right", va="center", fontsize=5.5, color=color)
        figure.colorbar(image, ax=ax, label="attention beyond the baseline", shrink=0.9, pad=0.01)
        legend(figure, [ax], columns=3)
    return figure


def _mark_heads(ax: Axes, part: pd.DataFrame, name: str, variables: Sequence[str], rows: Sequence[str]) -> None:
    marker, face, shift, label = MARKS[name]
    x = np.array([variables.index(variable) for variable in part["variable"]]) + shift
    y = np.array([rows.index(head) for head in part["name"]])
    style: dict[str, Any] = {"edgecolors": "k" if face == "w" else "w", "linewidths": 0.8, "s": 26}
    ax.scatter(x, y, marker=marker, facecolors=face, label=label, gid=name, **style)


def edges(table: pd.DataFrame) -> Figure:
    """Draw what blocking all edges of a kind breaks, in all blocks at once, beside blocking as much mass elsewhere,
    and how often another value is answered where they were moved to its carrier; table: `Tables.edges`."""
    rows = table[table["layer"] < 0].reset_index(drop=True)
    y = np.arange(len(rows))[::-1]
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 1.3 + 0.21 * len(rows)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        reach = error(rows["broken"], rows["broken_low"], rows["broken_high"])
        left.errorbar(rows["broken"], y, xerr=reach, fmt="none", ecolor="C0", lw=1.4)
        needed = rows["needed"].eq(True).to_numpy()
        for mask, face, label in ((needed, "C0", "these edges: needed"), (~needed, "w", "these edges: not claimed")):
            style: dict[str, Any] = {"mfc": face, "mec": "k", "mew": 0.7, "ms": 5.5, "ls": "", "label": label}
            if mask.any():
                left.plot(rows["broken"][mask], y[mask], "o", gid="needed" if face == "C0" else "open", **style)
        hollow(left, rows, y, "elsewhere", "equal mass elsewhere in the head", "s")
        hollow(left, rows, y, "no_flow", "equal mass where no value flows", "D")
        if rows["moved"].notna().any():
            right.plot(rows["moved"], y, "o", color="C0", ms=5, mec="k", mew=0.6, label="these edges moved")
            hollow(right, rows, y, "moved_control", "blocked, not moved", "X")
        labels = [f"{row.variable}: {row.kind.replace('_', ' ')} ({row.pairs:,})" for row in rows.itertuples()]
        left.set_yticks(y, labels, fontsize=7)
        left.set_title("blocked: share of right answers broken", fontsize=8)
        right.set_title("moved to another value: share that answer it", fontsize=8)
        for ax in (left, right):
            ax.set(xlim=(-0.03, 1.03), ylim=(-0.7, len(rows) - 0.3), xlabel="share of prompts")
            ax.grid(axis="y", visible=False)
        legend(figure, [left, right], columns=4)
    return figure


def mechanism(table: pd.DataFrame) -> Figure:
    """Draw, for each variable and group of pairs, from which block to which an exchange at each role moves the answer;
    table: `Tables.mechanism`."""
    table = table[table["pairs"].groupby([table["variable"], table["group"]]).transform("max") >= MIN_CLUSTERS]
    groups = list(dict.fromkeys(zip(table["variable"], table["group"], strict=True)))
    moving = table[table["first"] >= 0]
    roles = [role for role in ROLES if role in set(moving["role"])]
    last = max(1, int(moving["last"].max())) if len(moving) else 1
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 1.2 + 0.26 * len(groups)), layout="constrained")
        ax = figure.subplots()
        for k in range(0, len(groups), 2):  # every second row is shaded, so that marks are told to their rows
            ax.axhspan(k - 0.5, k + 0.5, color="0.95", lw=0, zorder=0)
        for k, role in enumerate(roles):
            color, marker = _ROLE_STYLES[role]
            rows = moving[moving["role"] == role]
            where = [groups.index(pair) for pair in zip(rows["variable"], rows["group"], strict=True)]
            y = len(groups) - 1 - np.array(where, float) + 0.16 * ((len(roles) - 1) / 2 - k)
            ax.hlines(y, rows["first"], rows["last"], color=color, lw=2)
            for end in ("first", "last"):
                ax.plot(
                    rows[end], y, marker, color=color, mec="k", mew=0.5, ms=4.5, label=role if end == "first" else None
                )
        names = table.groupby(["variable", "group"], sort=False)["mechanism"].first()
        pairs = table.groupby(["variable", "group"], sort=False)["pairs"].max()
        labels = [f"{variable}, {group} ({pairs[variable, group]:,})" for variable, group in groups]
        ax.set_yticks(range(len(groups)), labels[::-1], fontsize=7)
        ax.set(xlabel="exchange after block", ylim=(-0.6, len(groups) - 0.4), xlim=(-0.5, last + 0.5))
        ax.set_xticks(range(last + 1))
        loaded = {variable: is_loaded(part) for variable, part in table.groupby("variable")}
        labels_right = [words.mechanism(names[pair], loaded[pair[0]]) for pair in groups]
        right = ax.twinx()
        right.set_ylim(ax.get_ylim())
        right.set_yticks(range(len(groups)), labels_right[::-1], fontsize=7)
        right.tick_params(length=0)
        for other in (ax, right):
            other.grid(axis="y", visible=False)
        legend(figure, [ax], columns=max(1, len(roles)))
    return figure


def persistence(table: pd.DataFrame) -> Figure:
    """Draw the share of answers moved by how many tokens lie between the exchange and the decision, a line per role;
    table: `Tables.persistence`, exchanges at a single role."""
    bins = list(dict.fromkeys(table.sort_values("from_tokens")["from_tokens"]))
    names = list(table["variable"].unique())
    with theme():
        figure, axes = panels(names, 1.7, xlabel="tokens until the decision", ylabel="answers moved", room=0.1)
        for variable, ax in axes.items():
            part = table[table["variable"] == variable]
            for k, role in enumerate(role for role in ROLES if role in set(part["role"])):
                rows = part[part["role"] == role].sort_values("from_tokens")
                color, marker = _ROLE_STYLES[role]
                x = np.array([bins.index(low) for low in rows["from_tokens"]]) + 0.07 * (k - 2)
                reach = error(rows["accuracy"], rows["accuracy_low"], rows["accuracy_high"])
                ax.errorbar(
                    x, rows["accuracy"], reach, color=color, marker=marker, ms=3.5, lw=1.2, elinewidth=0.7, label=role
                )
            ax.set(ylim=(-0.04, 1.04))
            ax.set_xticks(range(len(bins)), [f"{low}+" if low > 1 else str(low) for low in bins], fontsize=7)
        legend(figure, axes.values(), columns=6)
    return figure


def dead(table: pd.DataFrame) -> Figure:
    """Draw how often exchanging a dead value changes the answer, or makes it wrong, after each block, by role; table:
    `Tables.dead`, rows with pairs."""
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 2.7), layout="constrained")
        top = min(1.0, max(0.05, table[["changed_high", "wrong_high"]].max(axis=None)))
        axes = figure.subplots(1, 2, sharey=True)
        for ax, (name, title) in zip(
            axes, (("changed", "the answer becomes another"), ("wrong", "the answer becomes wrong"))
        ):
            for k, ((variable, role), rows) in enumerate(table.groupby(["variable", "role"], sort=False)):
                color, marker = _ROLE_STYLES[role]
                reach = error(rows[name], rows[f"{name}_low"], rows[f"{name}_high"])
                label = role if table["variable"].nunique() == 1 else f"{variable}, {role}"
                style: dict[str, Any] = {"color": color, "marker": marker, "ms": 4, "lw": 1.2, "elinewidth": 0.7}
                ax.errorbar(rows["layer"] + 0.06 * k, rows[name], reach, label=label, **style)
            ax.set(ylim=(-0.04 * top, 1.04 * top), xlabel="exchange after block")
            ax.set_title(title, fontsize=8)
        axes[0].set_ylabel("share of prompts")
        legend(figure, axes, columns=4)
    return figure
