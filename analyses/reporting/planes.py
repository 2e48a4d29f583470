"""The plane of two computed numbers, the paper's Figure 1: a map of right answers, and the same by their distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from analyses.reporting.figures import CONTROL, FIGURE_WIDTH, INTERVAL, panels, theme
from cadmus.statistics.proportions import wilson


def plane(table: pd.DataFrame, low: int, high: int) -> Figure:
    """Draw Figure 1 of the paper; table: as `cadmus.training.plane.figure1` gives it, perhaps with cells missing;
    low..high is the trained square."""
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 0.85))
        image = _map(left, table, low, high)
        left.set(xlabel="X", ylabel="Y", title="dashed: the trained square")
        figure.colorbar(image, ax=left, label="right answers (share)", shrink=0.85)
        styles = {"inside": ("o", "C0", "inside the trained square"), "outside": ("s", CONTROL, "outside")}
        for where, (marker, color, label) in styles.items():
            part = table[table.region.str.startswith(where)]
            if len(part):
                _by_distance(right, part, marker=marker, color=color, label=label)
        right.set(xlabel="distance |X - Y|", ylabel="right answers (share)", ylim=(-0.03, 1.03))
        right.legend(frameon=False, loc="lower right")
    return figure


def planes(tables: Mapping[str, pd.DataFrame], low: int, high: int) -> Figure:
    """Draw a map of Figure 1 for each table, by its name; arguments as for `plane`."""
    with theme():
        figure, axes = panels(list(tables), 2.3, xlabel="X", ylabel="Y")
        for name, ax in axes.items():
            image = _map(ax, tables[name], low, high)
        figure.colorbar(image, ax=list(axes.values()), label="right answers (share)", shrink=0.85)
    return figure


def _map(ax: Axes, table: pd.DataFrame, low: int, high: int) -> AxesImage:
    """Draw the share of right answers by X and Y, the trained square outlined."""
    reach = int(table[["x", "y"]].abs().max().max())
    values = np.arange(-reach, reach + 1)
    cells = table.pivot(index="y", columns="x", values="accuracy").reindex(index=values, columns=values)
    edges = (-reach - 0.5, reach + 0.5)
    image = ax.imshow(cells, origin="lower", extent=(*edges, *edges), vmin=0, vmax=1, cmap="cividis")
    side = high - low + 1
    outlines: list[dict[str, Any]] = [{"lw": 2.2, "ec": "black"}, {"lw": 1.4, "ec": "white", "ls": "--"}]
    for outline in outlines:  # seen on light and on dark
        ax.add_patch(Rectangle((low - 0.5, low - 0.5), side, side, fill=False, **outline))
    ax.grid(visible=False)
    return image


def _by_distance(ax: Axes, table: pd.DataFrame, *, marker: str, color: str, label: str) -> None:
    """Draw the accuracy by |x - y| with its Wilson interval."""
    n_correct = (table.accuracy * table.n).round()
    sums = pd.DataFrame({"correct": n_correct, "n": table.n}).groupby((table.x - table.y).abs()).sum()
    low, high = wilson(sums.correct, sums.n)
    ax.plot(sums.index, sums.correct / sums.n, marker=marker, ms=3.5, lw=1.2, color=color, label=label)
    ax.fill_between(sums.index, low, high, color=color, alpha=INTERVAL, lw=0)
