"""Does the probe compute the state, or the model represent it? Selectivity against machines at graded distance.

After Jin & Rinard (arXiv 2305.11169): the same probe is retrained on the states that alternative machines
(`cadmus.semantics`) have on the same programs. What a probe computes from the tokens it computes as well for them; what
the model represents serves the true machine better, and the more so the farther the other machine is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analyses import report, state, state_figures, state_tables
from analyses.figures import CONTROL, INTERVAL, theme
from analyses.sites import SiteAxis, places
from analyses.terminal import Stage
from cadmus import DEFAULT_MODEL


@dataclass(frozen=True)
class SemanticsConfig:
    """Which model, on how many programs, against how many machines."""

    run: str = DEFAULT_MODEL  # a model that ships, or a folder that `cadmus-probe train` wrote
    programs: int = 20_000  # probed
    machines: int = 8  # alternative ones, at distances spread evenly up to the farthest
    seed: int = 0  # of the programs drawn
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.machines < 1:
            raise ValueError(f"machines = {self.machines} must be 1 or more")


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
        shown=found.machines[["name", "moved", "distance", "entropy_gap", "nan_share"]].round(3),
    )
    gaps = report.Section(
        "gaps",
        "Selectivity gap by distance",
        (
            "Score minus that on permuted labels (within token and previous token), for the machine's states and for "
            "each alternative's, at the site where the variable is read best on validation programs.",
        ),
        figure=_by_distance(table) if len(table) else None,
        caption="Blue: the machine's own states, with the 95 % interval over skeletons. Points: the probes retrained "
        "on each alternative machine's states. Machines that change less than 1 % of a variable's labels are left out.",
        table=found.gaps,
        shown=shown(table),
    )
    title = f"{Path(config.run).name}: the machine's states against other machines'"
    about = {
        "command": f"cadmus-probe semantics {config.run} --programs {config.programs} --machines {config.machines} "
        f"--seed {config.seed}",
        "model": found.trained.fingerprint,
    }
    return report.write(report.Report(title, summary(table), (gaps, machines), about), out)


_COLUMNS = ("gap", "selectivity", "alternative_selectivity")  # of the table of gaps, each with its interval


def by_distance(found: state.State) -> pd.DataFrame:
    """The gaps at each variable's best site, with the distance of the machine; no rows where no machine changes the
    states of any variable."""
    if found.gaps.empty:
        columns = [f"{name}{end}" for name in _COLUMNS for end in ("", "_low", "_high")]
        return pd.DataFrame(
            columns=["site", "variable", "layer", "machine", "distance", "differing", "clusters", *columns]
        )
    rows = state_tables.at_best_sites(found.gaps, found.scores)
    return rows.assign(distance=rows.machine.map(found.machines.set_index("name").distance))


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `by_distance`, to be read."""
    return pd.DataFrame(
        {
            "variable": table.variable,
            **places(table),
            "machine": table.machine,
            "distance": table.distance.map(report.number),
            "labels that differ": table.differing.map("{:.0%}".format),
            "skeletons": table.clusters,
            "selectivity": report.intervals(table, "selectivity"),
            "of the alternative": report.intervals(table, "alternative_selectivity"),
            "gap": report.intervals(table, "gap"),
        }
    )


def summary(table: pd.DataFrame) -> tuple[str, ...]:
    """For which variables every machine, some or none is read worse than the true one."""
    if table.empty:
        return ("No alternative machine changes the states of any variable enough to tell.",)
    above = (table.gap_low > 0).groupby(table.variable, sort=False).agg(["all", "any"])
    parts = (
        ("of every alternative machine", above.index[above["all"]]),
        ("of some alternative machines, not all,", above.index[above["any"] & ~above["all"]]),
        ("of no alternative machine", above.index[~above["any"]]),
    )
    said = "; ".join(f"than those {whose} for {', '.join(names)}" for whose, names in parts if len(names))
    return (f"The machine's states are more selective (lower bound of the gap above 0) {said}.",)


def _by_distance(table: pd.DataFrame) -> Figure:
    """Selectivity by the distance of the machine, a panel per variable."""
    with theme():
        names = list(table.variable.unique())
        figure, axes = state_figures.panels(names, 1.9, xlabel="distance of the machine", ylabel="selectivity")
        for variable, ax in axes.items():
            part = table[table.variable == variable].sort_values("distance")
            own = part.iloc[0]
            ax.axhline(own.selectivity, color="C0", lw=1.4, label="the machine")
            ax.axhspan(own.selectivity_low, own.selectivity_high, color="C0", alpha=INTERVAL, lw=0)
            score, low, high = (part[f"alternative_selectivity{end}"] for end in ("", "_low", "_high"))
            error = state_figures.error(score, low, high)
            style = {"fmt": "o", "ms": 4, "lw": 1, "color": CONTROL}
            ax.errorbar(part.distance, score, error, label="alternative machines", **style)
            ((name, place),) = places(part).items()
            ax.set_title(f"{variable}, {name} {place.iloc[0]}", fontsize=8)
            ax.set(xlim=(0, 1.08 * table.distance.max()))
        state_figures.legend(figure, axes.values(), columns=2)
    return figure


def by_layer(table: pd.DataFrame) -> Figure:
    """Selectivity for the machine's states and for alternative machines', by site, a panel per variable."""
    sites, machines = SiteAxis.of(table), list(table.machine.unique())
    table = sites.rows(table)
    greys = sns.color_palette("Greys", len(machines) + 2)[2:]
    with theme():
        names = list(table.variable.unique())
        figure, axes = state_figures.panels(names, 1.8, xlabel=sites.name, ylabel="selectivity", room=sites.room)
        for variable, ax in axes.items():
            part = table[table.variable == variable]
            own = part.drop_duplicates("site")
            style = {"color": "C0", "marker": "o", "ms": 4, "lw": 1.4, "label": "the machine"}
            if sites.by_layer:
                ax.plot(own.x, own.selectivity, **style)
                ax.fill_between(own.x, own.selectivity_low, own.selectivity_high, color="C0", alpha=INTERVAL, lw=0)
            else:
                error = state_figures.error(own.selectivity, own.selectivity_low, own.selectivity_high)
                ax.errorbar(own.x, own.selectivity, error, ls="", **style)
            for k, machine in enumerate(machines):
                line = part[part.machine == machine]
                style = {"ls": ("--", ":", "-.")[k % 3], "lw": 1.4}
                if not sites.by_layer:
                    style = {"ls": "", "marker": "s^Dv<>p*"[k % 8], "ms": 5, "mfc": "none"}
                ax.plot(line.x, line.alternative_selectivity, color=greys[k], label=machine, **style)
            ax.axhline(0, color="0.8", lw=0.8, zorder=0)
            sites.label(ax)
        state_figures.legend(figure, axes.values(), columns=5)
    return figure


if __name__ == "__main__":
    import sys

    from analyses.cli import main

    sys.exit(main(["semantics", *sys.argv[1:]]))
