"""Figures of the study of generalization, from the tables of `analyses.studies.generalization.study`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analyses.reporting.figures import CONTROL, MARKERS, error, legend, panels, theme
from analyses.studies.generalization.effects import best_models
from analyses.studies.generalization.inner_state import ACROSS, OWN, remainders
from analyses.studies.generalization.models import PROPERTY, Predictor, models, responses

MAX_PANELS = 8  # of the inner state
_FAR = 5.0  # times the widest interval of the mixed models: bounds beyond are cut off


def effects(table: pd.DataFrame) -> Figure:
    """Draw the effect of every predictor on every response with its interval, the wild bootstrap's in grey beside it;
    the table needs an effect."""
    table = best_models(table)
    names = list(dict.fromkeys(table["response"]))
    predictors = list(dict.fromkeys(table["predictor"]))[::-1]
    reach = _FAR * float((table["high"] - table["low"]).max())
    with theme():
        figure, axes = panels(names, 0.6 + 0.28 * len(predictors), xlabel="effect (share per s.d.)")
        for name, ax in axes.items():
            part = table[table["response"] == name]
            y = np.array([predictors.index(predictor) for predictor in part["predictor"]])
            wild = [part[f"wild_{end}"].clip(part["effect"] - reach, part["effect"] + reach) for end in ("low", "high")]
            ax.hlines(y - 0.15, *wild, color=CONTROL, lw=1.2, label="wild cluster bootstrap")
            spread = error(part["effect"], part["low"], part["high"])
            ax.errorbar(part["effect"], y + 0.05, xerr=spread, fmt="o", color="C0", ms=4.5, lw=1.4, label="mixed model")
            ax.axvline(0, color="0.6", lw=0.8)
            ax.set_yticks(range(len(predictors)), [display_name(predictor) for predictor in predictors])
            ax.set_ylim(-0.6, len(predictors) - 0.4)
        legend(figure, axes.values(), columns=2)
    return figure


def distributions(table: pd.DataFrame, predictor: Predictor) -> Figure:
    """Draw every model: each response by the predictor, a number or the names of a factor's levels; a marker for each
    seed."""
    names = [name for name in responses(table) if table.loc[table["response"] == name, "value"].notna().any()]
    seeds = sorted(table["seed"].unique())
    with theme():
        figure, axes = panels(names, 1.9, xlabel=display_name(predictor.name), ylabel="share", sharey=False)
        for name, ax in axes.items():
            rows = models(table, name)
            for k, seed in enumerate(seeds):
                part = rows[rows["seed"] == seed]
                style = {"marker": MARKERS[k % len(MARKERS)], "color": sns.color_palette("colorblind")[k % 10]}
                ax.plot(part[predictor.name], part["value"], ls="", ms=4, alpha=0.8, label=f"seed {seed}", **style)
            if predictor.logarithmic:
                ax.set_xscale("log")
            if not pd.api.types.is_numeric_dtype(rows[predictor.name]):
                ax.tick_params("x", rotation=45)
        legend(figure, axes.values(), columns=min(len(seeds), 8))
    return figure


def inner_state(table: pd.DataFrame, answers: pd.DataFrame) -> Figure:
    """Draw what accuracy in distribution leaves of accuracy out of distribution by what it leaves of the inner state: a
    point per model, a colour per cell; `answers` as `inner_state.inner_state`, with an effect across cells."""
    is_ours = (answers["comparison"] == ACROSS) & (answers["beyond"] == OWN)
    fitted = answers[is_ours & answers["effect"].notna()].sort_values("p")[:MAX_PANELS]
    titles = {f"{row.response}\nby {row.state}": (row.response, row.state) for row in fitted.itertuples()}
    cells = list(dict.fromkeys(table["cell"]))
    colors = dict(zip(cells, sns.color_palette("viridis", len(cells)), strict=True))
    with theme():
        figure, axes = panels(
            list(titles), 2.0, xlabel="inner state, remainder", ylabel="out of distribution,\nremainder", sharey=False
        )
        for title, ax in axes.items():
            left = remainders(table, *titles[title])
            for cell, part in left.groupby("cell"):
                ax.plot(part["state_left"], part["response_left"], ls="", marker="o", ms=3.5, color=colors[cell])
            slope, height = np.polyfit(left["state_left"], left["response_left"], 1)
            ends = np.array([left["state_left"].min(), left["state_left"].max()])
            ax.plot(ends, height + slope * ends, color=CONTROL, lw=1.0)
    return figure


def display_name(name: str) -> str:
    """A predictor's name; of a measured property without its prefix, since a factor may have the same name."""
    return f"{name.removeprefix(PROPERTY)} (measured)" if name.startswith(PROPERTY) else name
