"""Figure 2 of the paper, from its tidy table: both numbers token by token."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.reporting.figures import CONTROL, FIGURE_WIDTH, INTERVAL, MARKERS, theme


def numbers_by_token(table: pd.DataFrame, tokens: list[str]) -> Figure:
    """Draw Figure 2 of the paper, for every layer; table: as `study.figure2` gives it; tokens: their names."""
    panels = [
        ("logistic", "accuracy", "logistic probe: accuracy"),
        ("ridge", "R2", "ridge probe: R² (axis cut at 0)"),
    ]
    numbers = list(table.variable.unique())
    positions = np.arange(1, len(tokens) + 1)
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 6.2), layout="constrained")
        axes = figure.subplots(len(panels), len(numbers), sharex=True, sharey=True)
        for row, (probe, metric, label) in zip(axes, panels, strict=True):
            for ax, number in zip(row, numbers, strict=True):
                part = table[(table.variable == number) & (table.probe == probe) & (table.metric == metric)]
                _layers(ax, part[part.model == "trained"])
                _best_layer(ax, part[part.model == "untrained"])
                if metric == "accuracy":
                    majority = part.groupby("position").prefix_majority.first()
                    ax.plot(majority.index, majority, "k:", lw=1.6, label="best guess from the prefix (exact)")
                ax.axvline(len(tokens) // 2 + 0.5, color="0.7", lw=0.8)
                ax.axvline(len(tokens) - 0.5, color="0.7", lw=0.8)
                ax.set(ylim=(-0.03, 1.03), xlim=(0.7, len(tokens) + 0.3))
                ax.set_xticks(positions, tokens)
                ax.grid(axis="x", visible=False)
            row[0].set_ylabel(label)
        for ax, number in zip(axes[0], numbers, strict=True):
            ax.set_title(f"the {number}")
        for ax in axes[-1]:
            ax.set_xlabel("current token")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _layers(ax: Axes, table: pd.DataFrame) -> None:
    """Draw a line per layer, with its interval."""
    layers = sorted(table.layer.unique())
    colors = sns.color_palette("viridis_r", len(layers) + 1)[1:]
    for color, layer in zip(colors, layers, strict=True):
        line = table[table.layer == layer].sort_values("position")
        label = "embedding" if layer == 0 else f"after layer {layer}"
        marker = MARKERS[layer % len(MARKERS)]
        ax.plot(line.position, line.score, color=color, marker=marker, ms=4, lw=1.4, label=label)
        ax.fill_between(line.position, line.low, line.high, color=color, alpha=INTERVAL, lw=0)


def _best_layer(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the control at its best: at each position the layer of the untrained model that reads most."""
    best = table.loc[table.groupby("position").score.idxmax()]
    ax.plot(best.position, best.score, color=CONTROL, ls="--", lw=1.6, label="untrained model, best layer")
    ax.fill_between(best.position, best.low, best.high, color=CONTROL, alpha=INTERVAL, lw=0)
