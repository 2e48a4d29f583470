"""Does the probe compute the state, or the model represent it? Selectivity against machines at graded distance.

After Jin & Rinard (arXiv 2305.11169): the same probe is retrained on the states that alternative machines
(`cadmus.semantics`) have on the same programs. What a probe computes from the tokens it computes as well for them; what
the model represents serves the true machine better, and the more so the farther the other machine is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analyses import report, state, state_figures
from analyses.figures import CONTROL, INTERVAL, theme
from analyses.terminal import Stage
from cadmus import DEFAULT_MODEL


@dataclass(frozen=True)
class SemanticsConfig:
    """Which model, on how many programs, against how many machines."""

    run: str = DEFAULT_MODEL
    programs: int = 20_000
    machines: int = 8
    seed: int = 0
    device: str = "auto"


def run(config: SemanticsConfig, out: Path | str, stage: Stage = lambda name, share, note: None) -> Path:
    """Measure and write the page to `out`; returns its path."""
    asked = state.StateConfig(
        config.run, config.programs, offsets=(0,), machines=config.machines, seed=config.seed, device=config.device
    )
    found = state.run(asked, stage)
    table = by_distance(found)
    machines = report.Section(
        "machines",
        "The machines",
        (
            "Each gives some instructions the meanings of others of the same type. Distance: the share of executed "
            "instructions whose meaning is another. The entropy of every label stays within 0.5 bit of the true "
            "machine's, and at most a tenth of the states has NAN on top where the true machine has none.",
        ),
        table=found.machines,
        shown=found.machines[["name", "moved", "distance", "entropy_gap", "nan_share"]].round(3).astype(str),
    )
    gaps = report.Section(
        "gaps",
        "Selectivity gap by distance",
        (
            "Score minus that on permuted labels (within token and previous token), for the machine's states and for "
            "each alternative's, at the site where the variable is read best on validation programs.",
        ),
        figure=_figure(table),
        caption="Blue: the machine's own states, with the 95 % interval over skeletons. Points: the probes retrained "
        "on each alternative machine's states. Machines that change less than 1 % of a variable's labels are left out.",
        table=found.gaps,
        shown=_shown(table),
    )
    title = f"{Path(config.run).name}: the machine's states against other machines'"
    about = {
        "command": f"cadmus-probe semantics {config.run} --programs {config.programs} --machines {config.machines} "
        f"--seed {config.seed}",
        "model": found.trained.fingerprint,
    }
    return report.write(report.Report(title, summary(table), (gaps, machines), about), out)


def by_distance(found: state.State) -> pd.DataFrame:
    """The gaps at each variable's best site, with the distance of the machine."""
    rows = state_figures.at_best_sites(found.gaps, found.scores)
    return rows.assign(distance=rows.machine.map(found.machines.set_index("name").distance))


def summary(table: pd.DataFrame) -> str:
    """For which variables every machine, some or none is read worse than the true one."""
    above = table.groupby("variable", sort=False).gap_low.agg(["min", "max"])
    every, some = above.index[above["min"] > 0], above.index[(above["max"] > 0) & (above["min"] <= 0)]
    none = above.index[above["max"] <= 0]
    parts = [
        (
            every,
            "The machine's states are more selective than those of every alternative machine (lower bound of the "
            "gap above 0) for",
        ),
        (some, "than those of some alternatives for"),
        (none, "than those of none for"),
    ]
    return "; ".join(f"{text} {', '.join(names)}" for names, text in parts if len(names)) + "."


def _figure(table: pd.DataFrame) -> Figure:
    variables, columns = list(table.variable.unique()), 4
    with theme():
        rows = -(-len(variables) // columns)
        figure = Figure(figsize=(9.2, 0.5 + 1.9 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for ax, variable in zip(axes.flat, variables, strict=False):
            part = table[table.variable == variable].sort_values("distance")
            own = part.iloc[0]
            ax.axhline(own.selectivity, color="C0", lw=1.4, label="the machine")
            ax.axhspan(own.selectivity_low, own.selectivity_high, color="C0", alpha=INTERVAL, lw=0)
            error = np.abs(
                part[["alternative_selectivity_low", "alternative_selectivity_high"]].T.to_numpy()
                - part.alternative_selectivity.to_numpy()
            )
            ax.errorbar(
                part.distance,
                part.alternative_selectivity,
                error,
                fmt="o",
                ms=4,
                lw=1,
                color=CONTROL,
                label="alternative machines",
            )
            ax.set_title(f"{variable}, layer {own.layer}", fontsize=8)
            ax.set(xlim=(0, None))
        for ax in axes.flat[len(variables) :]:
            ax.set_visible(False)
        for ax in axes[-1]:
            ax.set_xlabel("distance of the machine")
        for row in axes:
            row[0].set_ylabel("selectivity")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    sns.despine(figure)
    return figure


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "variable": table.variable,
            "layer": table.layer,
            "machine": table.machine,
            "distance": table.distance.map("{:.2f}".format),
            "labels that differ": table.differing.map("{:.0%}".format),
            "selectivity": [report.with_interval(*row) for row in _columns(table, "selectivity")],
            "of the alternative": [report.with_interval(*row) for row in _columns(table, "alternative_selectivity")],
            "gap": [report.with_interval(*row) for row in _columns(table, "gap")],
        }
    )


def _columns(table: pd.DataFrame, name: str) -> list[tuple[float, float, float]]:
    return list(table[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False, name=None))


if __name__ == "__main__":
    import sys

    from analyses.cli import main

    sys.exit(main(["semantics", *sys.argv[1:]]))
