"""Figures of the analyses, from their tidy tables: one theme, units on the axes, intervals and baselines shown."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

CONTROL = "0.45"  # grey of the untrained model and of other controls
INTERVAL = 0.18  # opacity of a band
MARKERS = "os^Dvp*XhP<>"  # of lines, in turn
FIGURE_WIDTH = 9.2  # inches
_COLUMNS = 4  # panels side by side
_LABEL = 26  # characters that fit beneath one of them


@contextlib.contextmanager
def theme() -> Iterator[None]:
    """Draw in the one theme, seaborn's white grid in the paper context; global settings are left as they were."""
    with sns.axes_style("whitegrid", {"grid.color": "0.92"}), sns.plotting_context("paper", font_scale=1.05):
        yield


def learning_curve(log: pd.DataFrame, evaluations: pd.DataFrame) -> Figure:
    """Training loss by tokens trained on, and completion accuracy where the run evaluated itself on its way: the tables
    `log` and `evaluations` of the record that `cadmus.training.loop` keeps."""
    evaluated = is_curve(evaluations)
    with theme():
        figure = Figure(figsize=(FIGURE_WIDTH, 3.4 if evaluated else 2.8), layout="constrained")
        axes = figure.subplots(1, 2 if evaluated else 1, squeeze=False)[0]
        axes[0].plot(log.tokens / 1e6, log.loss, color="C0", lw=1.6)
        axes[0].set(xlabel="tokens trained on (millions)", ylabel="training loss (nats per token)")
        if evaluated:
            families = evaluations.groupby("family", sort=False)
            colors = sns.color_palette("viridis", len(families))
            for k, (family, part) in enumerate(families):
                style = {"color": colors[k], "marker": MARKERS[k % len(MARKERS)]}
                axes[1].plot(part.tokens / 1e6, part.accuracy, lw=1.2, ms=4, label=family, **style)
            axes[1].set(xlabel="tokens trained on (millions)", ylabel="completion accuracy (share)", ylim=(-0.03, 1.03))
            axes[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def is_curve(evaluations: pd.DataFrame) -> bool:
    """Whether a run evaluated itself at more than one step."""
    return not evaluations.empty and evaluations.step.nunique() > 1


def panels(
    names: Sequence[str], height: float, *, xlabel: str, ylabel: str = "", sharey: bool = True, room: float = 0.0
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel of `height` inches per name, four to a row, and the panels by name. The lowest of each
    column labels its x axis, in `room` inches more; a label wider than a panel is broken."""
    columns = min(_COLUMNS, len(names))
    xlabel = textwrap.fill(xlabel, _LABEL * _COLUMNS // columns, break_long_words=False)
    rows = -(-len(names) // columns)
    labelled_rows = 1 if len(names) % columns == 0 else 2  # of panels with labels beneath them
    figure = Figure(figsize=(FIGURE_WIDTH, 0.5 + height * rows + room * labelled_rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=sharey)
    for k, ax in enumerate(axes.flat):
        lowest = k + columns >= len(names)
        ax.set_visible(k < len(names))
        ax.tick_params(labelbottom=lowest)
        ax.set(xlabel=xlabel if lowest else "", ylabel=ylabel if k % columns == 0 else "")
    by_name = dict(zip(names, axes.flat))
    for name, ax in by_name.items():
        ax.set_title(name, fontsize=8)
    return figure, by_name


def legend(figure: Figure, axes: Iterable[Axes], columns: int, fontsize: float | None = None) -> None:
    """Draw one legend beneath all panels, of whatever any of them holds; fontsize in points, None: the theme's."""
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=fontsize,
    )


def error(score: pd.Series, low: pd.Series, high: pd.Series) -> np.ndarray:
    """How far each interval reaches below and above its score: float [2, rows], as matplotlib wants error bars."""
    return np.stack([score - low, high - score]).clip(min=0)
