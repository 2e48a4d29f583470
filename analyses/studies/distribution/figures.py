"""Figures of a training distribution: lengths, values, depth and skeletons by family, and the instructions in use."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from analyses.reporting.figures import theme
from cadmus.machine import tokens, vm
from cadmus.programs import skeletons
from cadmus.properties import behaviour

RANKS = 60  # of skeletons that are drawn, evenly spaced on the logarithmic axis
VALUES = 60  # integers beyond -60 and 60 are counted at the ends
_PANELS = {
    "tokens": "tokens",
    "values": "computed values",
    "depth": "stack depth",
    "skeletons": "skeleton rank",
}


def distributions(samples: dict[str, np.ndarray]) -> pd.DataFrame:
    """Shares per family: columns family, what (`tokens`, `values`, `depth`, `skeletons`), x, share. x is a number of
    tokens, an integer, a depth, a rank (of which `RANKS` are kept)."""
    tables = []
    for family, programs in samples.items():
        states = behaviour.states(programs, behaviour.structure(programs).main)
        values = states.values[states.computed].clip(-VALUES, VALUES)
        _, counts = np.unique(skeletons.skeleton_hashes(programs, "skeleton"), return_counts=True)
        found = {
            "tokens": np.unique(tokens.lengths(programs), return_counts=True),
            "values": np.unique(values, return_counts=True),
            "depth": np.unique(states.depth, return_counts=True),
            "skeletons": (np.arange(1, len(counts) + 1), np.sort(counts)[::-1]),
        }
        for what, (x, n) in found.items():
            share = n / max(1, n.sum())
            if what == "skeletons":  # the curve is drawn over log ranks, and needs no more of them than this
                kept = np.unique(np.geomspace(1, len(x), RANKS).round().astype(int)) - 1
                x, share = x[kept], share[kept]
            tables.append(pd.DataFrame({"family": family, "what": what, "x": x, "share": share}))
    return pd.concat(tables, ignore_index=True)


def draw_distributions(table: pd.DataFrame) -> Figure:
    """A row of four panels per family."""
    families = list(table.family.unique())
    with theme():
        figure = Figure(figsize=(9.2, 0.95 * len(families) + 0.7), layout="constrained")
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


def instructions(samples: dict[str, np.ndarray]) -> pd.DataFrame:
    """The share of each instruction among a family's tokens: columns family, token, share."""
    tables = []
    for family, programs in samples.items():
        inside = np.arange(programs.shape[1]) <= tokens.lengths(programs)[:, None]
        counts = np.bincount(programs[inside], minlength=len(vm.VOCAB))
        tables.append(pd.DataFrame({"family": family, "token": list(vm.VOCAB), "share": counts / counts.sum()}))
    return pd.concat(tables, ignore_index=True)


def draw_instructions(table: pd.DataFrame) -> Figure:
    """Families down, instructions across, in the order of the vocabulary."""
    grid = table.pivot(index="family", columns="token", values="share")
    grid = grid.loc[list(table.family.unique()), list(vm.VOCAB)]
    with theme():
        figure = Figure(figsize=(9.2, 0.3 * len(grid) + 1.2), layout="constrained")
        ax = figure.subplots()
        sns.heatmap(
            *(grid.where(grid > 0),),
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
