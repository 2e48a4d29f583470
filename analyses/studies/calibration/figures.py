"""Figures of calibration, from the tables of `analyses.studies.calibration.study`."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analyses.reporting.figures import FIGURE_WIDTH, MARKERS, error, legend, theme
from analyses.studies.calibration.study import MAX_FALSE, MAX_NEURON, MIN_ALIGNMENT, MIN_AUROC

PANELS = {
    "auroc": "AUROC,\ncarriers against the rest",
    "false_positive": "false claims,\nof what carries nothing",
    "false_positive_decoy": "false claims,\nof what is readable, unused",
    "false_negative": "missed,\nof what carries X",
}


def rates(table: pd.DataFrame) -> Figure:
    """Draw every rate of every instrument with its interval, a colour for each condition; dashed: what is asked."""
    table = table[table.rate.isin(PANELS)]
    instruments = list(table.instrument.unique())[::-1]
    conditions = list(table.condition.unique())
    colors = sns.color_palette("colorblind", len(conditions))
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 1.2 + 0.42 * len(instruments)), layout="constrained")
        axes = figure.subplots(1, len(PANELS), sharey=True)
        for ax, (rate, title) in zip(axes, PANELS.items(), strict=True):
            for k, condition in enumerate(conditions):
                part = table[(table.rate == rate) & (table.condition == condition)]
                y = [instruments.index(name) + 0.3 - 0.6 * k / max(1, len(conditions) - 1) for name in part.instrument]
                style = {"fmt": MARKERS[k % len(MARKERS)], "color": colors[k], "ms": 3.5, "lw": 1.0}
                reach = error(part.estimate, part.low, part.high)
                ax.errorbar(part.estimate, y, xerr=reach, label=condition, **style)
            ax.axvline(MIN_AUROC if rate == "auroc" else MAX_FALSE, color="0.5", lw=0.8, ls="--")
            ax.set(xlim=(-0.03, 1.03), xlabel="share of cases" if rate != "auroc" else "AUROC")
            ax.set_title(title, fontsize=7.5)
        axes[0].set_yticks(range(len(instruments)), instruments)
        axes[0].set_ylim(-0.6, len(instruments) - 0.4)
        legend(figure, axes, columns=len(conditions))
    return figure


def refits(table: pd.DataFrame) -> Figure:
    """Draw how far each refitted probe lies above the most frequent value, and how much each eraser changes, by
    method: a dot per cell; dashed: one point above."""
    table = table.assign(excess=table.accuracy - table.majority)
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 2.8), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        panels = (
            ("excess", "accuracy of a refitted probe, minus the majority"),
            ("change", "change (share of variance)"),
        )
        for ax, (column, label) in zip(axes, panels, strict=True):
            style = {"hue": "probe"} if column == "excess" else {}
            part = (
                table
                if column == "excess"
                else table.drop_duplicates(["fragment", "condition", "seed", "case", "method"])
            )
            sns.stripplot(part, x=column, y="method", ax=ax, size=2.5, alpha=0.6, dodge=column == "excess", **style)
            ax.set(xlabel=label, ylabel="")
        axes[0].axvline(0.01, color="0.5", lw=0.8, ls="--")
        axes[0].legend(frameon=False, fontsize=7, title="")
    return figure


def alignments(table: pd.DataFrame) -> Figure:
    """Draw what each method scores on hierarchical equality, a dot per network and variable with its interval."""
    methods = list(table.method.unique())[::-1]
    conditions = list(table.condition.unique())
    colors = sns.color_palette("colorblind", len(conditions))
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 0.9 + 0.3 * len(methods)), layout="constrained")
        ax = figure.subplots()
        for k, condition in enumerate(conditions):
            part = table[table.condition == condition]
            number = part.groupby("method").cumcount() / (part.groupby("method").method.transform("size") - 1).clip(1)
            y = part.method.map(methods.index) + 0.36 - 0.5 * k - 0.22 * number
            style = {"fmt": MARKERS[k], "color": colors[k], "ms": 3.5, "lw": 1.0}
            reach = error(part.score, part.score_low, part.score_high)
            ax.errorbar(part.score, y, xerr=reach, label=condition.removeprefix("equality, "), **style)
        for value in (0.5, MAX_NEURON, MIN_ALIGNMENT):
            ax.axvline(value, color="0.5", lw=0.8, ls=":" if value == 0.5 else "--")
        ax.set_yticks(range(len(methods)), methods)
        ax.set(ylim=(-0.6, len(methods) - 0.4), xlim=(0.42, 1.02), xlabel="score: mean of accuracy and isolation")
        ax.legend(
            frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), title="network", title_fontsize=7
        )
    return figure
