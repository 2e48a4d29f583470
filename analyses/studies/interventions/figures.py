"""Figures of the study that are about every variable at once, and a variable's two maps, from `tables.Tables`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analyses.reporting.figures import CONTROL, FIGURE_WIDTH, error, legend, theme
from analyses.studies.interventions import words
from analyses.studies.interventions.tables import headline_cells, of_headline, stratum, with_beyond
from cadmus.states.provenance import ROLES

YES, NO, UNDECIDED = "●", "○", "–"
_DARK = 0.55  # share of the scale from which on text on it is white
_SHADES: dict[str, Any] = {"cmap": "Blues", "vmin": 0.0, "vmax": 1.0}  # light is nothing, in grey too
VERDICT_MARKS = {  # gid -> marker, face, what it says
    "used": ("o", "k", "used"),
    "spent": ("X", "w", "spent: readable here, used earlier, its exchange changes nothing"),
    "unused": ("_", "k", "unused"),
}
READING_MARKS = {"read": ("s", "k", "read"), "readable": ("s", "w", "readable")}


# --- the picture that opens the page ---------------------------------------------------------------------------------


def overview(table: pd.DataFrame) -> Figure:
    """Draw, for each variable, how well a probe reads it and how often exchanging it moves the answer, each beside its
    controls, and the words for it; table: of `tables.headlines`."""
    n = len(table)
    height = 1.25 + 0.46 * n
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, height))
        span = {"bottom": 0.95 / height, "height": 1 - 1.25 / height}  # of the rows, in shares of the figure
        names, left, right, verdict = (
            figure.add_axes((x, span["bottom"], width, span["height"]))
            for x, width in ((0.0, 0.26), (0.28, 0.23), (0.55, 0.23), (0.80, 0.20))
        )
        y = np.arange(n)[::-1]
        _interval(left, table, y, "score", "the model", "s")
        hollow(left, table, y, "untrained", "untrained twin", "s")
        hollow(left, table, y, "input_linear", "input alone", "D")
        hollow(left, table, y, "input_network", "network on the input", "^")
        _interval(right, table, y, "accuracy", "exchange", "o")
        hollow(right, table, y, "control_score", "best control", "o")
        if table.get("chance", pd.Series(dtype=float)).notna().any():
            right.plot(table["chance"].to_numpy(float), y, "|", color="k", ms=9, mew=1.3, ls="", label="chance")
        left.set_title("readable, read", fontsize=9, weight="bold")
        right.set_title("used", fontsize=9, weight="bold")
        for ax, label in ((left, "read by a linear probe"), (right, "answers moved as the machine asks")):
            ax.set(xlim=(-0.04, 1.04), ylim=(-0.6, n - 0.4), yticks=[])
            ax.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "0.5", "", "1"))
            ax.set_xlabel(label, fontsize=8, labelpad=1)
            ax.tick_params(labelsize=8, pad=1)
            below: dict[str, Any] = {"bbox_to_anchor": (0.5, -0.4 / (height - 1.25)), "loc": "upper center"}
            ax.legend(frameon=False, fontsize=7, ncols=2, columnspacing=0.9, handletextpad=0.2, **below)
        _names(names, table, y)
        _verdicts(verdict, table, y)
        for ax in (names, verdict):
            ax.set(xlim=(0, 1), ylim=left.get_ylim())
    return figure


def _interval(ax: Axes, table: pd.DataFrame, y: np.ndarray, name: str, label: str, marker: str) -> None:
    """Draw a measured share with its interval."""
    if name not in table:
        return
    value = table[name].to_numpy(float)
    low, high = (table.get(f"{name}_{end}", table[name]).to_numpy(float) for end in ("low", "high"))
    reach = error(value, low, high)
    ax.errorbar(value, y, xerr=reach, fmt=marker, color="C0", ms=6, lw=1.6, mec="k", mew=0.6, label=label, gid=name)


def hollow(ax: Axes, table: pd.DataFrame, y: np.ndarray, name: str, label: str, marker: str) -> None:
    """Draw a control, a little lower than y, where the table has it: its column, and what the legend calls it."""
    if name in table and table[name].notna().any():
        value = table[name].to_numpy(float)
        ax.plot(value, y - 0.2, marker, mfc="w", mec=CONTROL, mew=1.1, ms=5, ls="", label=label, gid=name)


def _names(ax: Axes, table: pd.DataFrame, y: np.ndarray) -> None:
    """Write the variables in words."""
    for row, height in zip(table.to_dict("records"), y, strict=True):
        label = words.capital(words.variable(row["variable"]))
        ax.text(1.0, height + 0.1, label, ha="right", va="center", fontsize=8.5)
        pairs = f"{row['variable']}, {row['pairs']:,} pairs{', digits' if row['stratum'] == 'literal' else ''}"
        ax.text(1.0, height - 0.24, pairs, ha="right", va="center", fontsize=6.5, color="0.35")
    ax.set_axis_off()


def _verdicts(ax: Axes, table: pd.DataFrame, y: np.ndarray) -> None:
    """Write what is found of each variable, with a mark for each of readable, read and used."""
    for row, height in zip(table.to_dict("records"), y, strict=True):
        ax.text(0.0, height + 0.1, row["finding"], ha="left", va="center", fontsize=8.5, weight="bold")
        marks = f"readable {_mark(row, 'readable')}  read {_mark(row, 'read')}  used {_mark(row, 'used')}"
        ax.text(0.0, height - 0.24, marks, ha="left", va="center", fontsize=6.5, color="0.2")
    ax.set_axis_off()


def _mark(row: dict, word: str) -> str:
    """`●` where the word is claimed, `○` where it is surely not, `–` where it is open."""
    column = {"used": "use", "read": "reading", "readable": "is_readable"}[word]
    known = {"used": YES, "read": YES, "yes": YES, "unused": NO, "unread": NO, "no": NO}
    return known.get(row[column], UNDECIDED)


# --- a variable's maps -----------------------------------------------------------------------------------------------


def maps(readable: pd.DataFrame, verdicts: pd.DataFrame) -> Figure:
    """Draw, for one variable, role x layer: what a linear probe reads beyond its controls, and the exchange's success
    beyond its best control, with a mark where a word is claimed; tables: `Tables.readable` and `Tables.verdicts` of the
    variable."""
    cells = headline_cells(verdicts)
    readable = of_headline(readable, stratum(verdicts))
    read_at = set(readable["role"][readable["accuracy"].notna()]) if len(readable) else set()
    roles = [role for role in ROLES if role in read_at | set(cells["role"][cells["candidates"] > 0])]
    layers = sorted(cells["layer"].unique())
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 1.5 + 0.3 * len(roles)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        rows = with_beyond(readable)
        rows = rows[rows["role"].isin(roles) & rows["layer"].isin(layers)] if len(rows) else rows
        if len(rows):
            _map(left, rows, "beyond", roles, layers)
            claims = {word: rows[_claims(rows, word)] for word in READING_MARKS}
            _marks(left, claims, READING_MARKS, roles, layers)
        else:
            left.text(0.5, 0.5, "no probe was fitted", ha="center", va="center", transform=left.transAxes, fontsize=8)
            left.grid(visible=False)
        image = _map(right, cells, "d", roles, layers)
        _grey(right, cells[~cells["claimed"].astype(bool) & (cells["candidates"] > 0)], roles, layers)
        used = {word: cells[cells["claimed"].astype(bool) & cells["verdict"].eq(word)] for word in VERDICT_MARKS}
        _marks(right, used, VERDICT_MARKS, roles, layers)
        left.set_title("a linear probe, beyond the controls of its class", fontsize=8)
        right.set_title("the exchange, beyond its best control (d)", fontsize=8)
        figure.colorbar(image, ax=(left, right), label="share", shrink=0.9, pad=0.01, aspect=14)
        legend(figure, (left, right), columns=6, fontsize=7)
    return figure


def _claims(rows: pd.DataFrame, word: str) -> pd.Series:
    """Which rows carry the word; what is read is marked as read, not as readable too."""
    read = rows["read"].eq(True)
    return read if word == "read" else rows["readable"].eq(True) & ~read


def _map(ax: Axes, rows: pd.DataFrame, column: str, roles: Sequence[str], layers: Sequence[int]):
    """Draw a column as shades with the numbers on them; returns the image."""
    table = rows.pivot_table(index="role", columns="layer", values=column, dropna=False)
    table = table.reindex(index=list(roles), columns=list(layers)).to_numpy(float)
    image = ax.imshow(np.ma.masked_invalid(table), aspect="auto", **_SHADES)
    for i, j in np.argwhere(np.isfinite(table)):
        color = "w" if table[i, j] > _DARK else "k"
        ax.text(
            j,
            i + 0.06,
            f"{table[i, j] + 0.0:.2f}".replace("-0.00", "0.00"),
            ha="center",
            va="center",
            color=color,
            fontsize=6,
        )
    ax.set_xticks(range(len(layers)), ["in" if layer < 0 else str(layer) for layer in layers])
    ax.set_yticks(range(len(roles)), [str(role) for role in roles])
    ax.set_xlabel("residual stream after block (in: before block 0)")
    ax.grid(visible=False)
    ax.set_xticks(np.arange(len(layers) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(roles) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="w", lw=1.0)
    ax.tick_params(which="minor", length=0)
    return image


def _grey(ax: Axes, rows: pd.DataFrame, roles: Sequence[str], layers: Sequence[int]) -> None:
    """Hatch the cells that claim nothing because their patch amounts to a change of input."""
    label = "a change of input: reported, never claimed"
    for row in rows.to_dict("records"):
        x, y = layers.index(row["layer"]) - 0.5, roles.index(row["role"]) - 0.5
        patch = Rectangle(
            (x, y), 1, 1, facecolor="0.85", edgecolor="0.6", hatch="////", lw=0.0, label=label, gid="input"
        )
        ax.add_patch(patch)
        if np.isfinite(row["d"]):
            box = {"facecolor": "0.85", "edgecolor": "none", "pad": 0.8}
            j, i = x + 0.5, y + 0.56
            ax.text(j, i, f"{row['d'] + 0.0:.2f}", ha="center", va="center", color="0.3", fontsize=6, bbox=box)
        label = "_nolegend_"


def _marks(ax: Axes, rows: dict[str, pd.DataFrame], marks: dict, roles: Sequence[str], layers: Sequence[int]) -> None:
    """Mark cells in their upper right corners; each kind of mark can be found by its gid, the word."""
    for word, (marker, face, label) in marks.items():
        part = rows[word]
        if part.empty:
            continue
        x = np.array([layers.index(layer) for layer in part["layer"]]) + 0.34
        y = np.array([roles.index(role) for role in part["role"]]) - 0.3
        edge = "w" if face == "k" else "k"
        style = {"marker": marker, "s": 26, "linewidths": 0.8, "zorder": 4, "label": label, "gid": word}
        if marker == "_":
            ax.scatter(x, y, color="k", **style)
        else:
            ax.scatter(x, y, facecolors=face, edgecolors=edge, **style)
