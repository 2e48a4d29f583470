"""Figures of a training distribution: lengths, values, depth and skeletons by family, and the instructions in use."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from analyses.reporting.figures import FIGURE_WIDTH, theme
from cadmus.machine import vm

_PANELS = {
    "tokens": "tokens",
    "values": "computed values",
    "depth": "stack depth",
    "skeletons": "skeleton rank",
}


def distributions(table: pd.DataFrame) -> Figure:
    """Draw a row of four panels per family; table: as `tables.distributions` gives it."""
    families = list(table.family.unique())
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 0.95 * len(families) + 0.7), layout="constrained")
        axes = figure.subplots(len(families), len(_PANELS), sharex="col", squeeze=False)
        for row, family in zip(axes, families, strict=True):
            for ax, what in zip(row, _PANELS, strict=True):
                part = table[(table.family == family) & (table.what == what)]
                _panel(ax, part, what)
            row[0].set_ylabel(family.replace("_", "\n"), rotation=0, ha="right", va="center")
        for ax, label in zip(axes[-1], _PANELS.values(), strict=True):
            ax.set_xlabel(label)
        for ax, label in zip(axes[0], ("share", "share", "share", "share, logarithmic"), strict=True):
            ax.set_title(label, fontsize=8, color="0.35")
    return figure


def _panel(ax: Axes, part: pd.DataFrame, what: str) -> None:
    """Draw one family's distribution of `what`, a key of `_PANELS`."""
    if what == "skeletons":
        ax.loglog(part.x, part.share, color="C0", lw=1.4, marker="." if len(part) < 40 else None)
        ax.set_ylim(5e-6, 1.5)
        ax.set_yticks([1e-4, 1e-2, 1])
    elif what == "values":
        ax.fill_between(part.x, part.share, step="mid", color="C0", lw=0)
        ax.set_ylim(0)
    else:
        ax.bar(part.x, part.share, width=0.9, color="C0", lw=0)
    ax.tick_params(labelsize=7)
    ax.grid(axis="x", visible=False)


def instructions(table: pd.DataFrame) -> Figure:
    """Draw families down and instructions across, in the order of the vocabulary; table: as `tables.instructions` gives
    it."""
    grid = table.pivot(index="family", columns="token", values="share")
    grid = grid.loc[list(table.family.unique()), list(vm.VOCAB)]
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 0.3 * len(grid) + 1.2), layout="constrained")
        ax = figure.subplots()
        sns.heatmap(
            grid.where(grid > 0),
            ax=ax,
            norm=LogNorm(1e-4, 0.3),
            cmap="Blues",
            linewidths=0.4,
            linecolor="0.94",
            xticklabels=[token.replace("$", r"\$") for token in grid.columns],
            cbar_kws={"label": "share of tokens", "pad": 0.01},
        )
        ax.set(xlabel="instruction", ylabel="")
        ax.tick_params(axis="x", rotation=0, labelsize=7)
        ax.tick_params(axis="y", rotation=0)
    return figure
