"""Does the probe compute the state, or the model represent it? Selectivity against machines at graded distance.

After Jin & Rinard (arXiv 2305.11169): the same probe is retrained on the states that alternative machines
(`cadmus.states.alternatives`) have on the same programs. What a probe computes from the tokens it computes as well for
them; what the model represents serves the true machine better, and the more so the farther the other machine is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analyses.reporting import figures, report
from analyses.reporting.figures import CONTROL, INTERVAL, theme
from analyses.reporting.sites import location_column
from analyses.studies.state import study
from analyses.studies.state.gaps import by_distance, shown
from cadmus import DEFAULT_MODEL
from cadmus.runtime.progress import Progress


@dataclass(frozen=True)
class AlternativesConfig:
    """Which model, on how many programs, against how many machines."""

    run: str = DEFAULT_MODEL  # a model that ships, or a folder that `cadmus-probe train` wrote
    programs: int = 20_000  # probed
    machines: int = 8  # alternative ones, at distances spread evenly up to the farthest
    seed: int = 0  # of the programs drawn
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.machines < 1:
            raise ValueError(f"machines = {self.machines} must be 1 or more")


def run(config: AlternativesConfig, out: Path | str, stage: Progress = lambda name, share, note: None) -> Path:
    """Measure and write the page to `out`; returns its path."""
    asked = study.StateConfig(
        config.run, config.programs, offsets=(0,), machines=config.machines, seed=config.seed, device=config.device
    )
    found = study.run(asked, stage)
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
        figure, axes = figures.panels(names, 1.9, xlabel="distance of the machine", ylabel="selectivity")
        for variable, ax in axes.items():
            part = table[table.variable == variable].sort_values("distance")
            own = part.iloc[0]
            ax.axhline(own.selectivity, color="C0", lw=1.4, label="the machine")
            ax.axhspan(own.selectivity_low, own.selectivity_high, color="C0", alpha=INTERVAL, lw=0)
            score, low, high = (part[f"alternative_selectivity{end}"] for end in ("", "_low", "_high"))
            error = figures.error(score, low, high)
            style = {"fmt": "o", "ms": 4, "lw": 1, "color": CONTROL}
            ax.errorbar(part.distance, score, error, label="alternative machines", **style)
            ((name, place),) = location_column(part).items()
            ax.set_title(f"{variable}, {name} {place.iloc[0]}", fontsize=8)
            ax.set(xlim=(0, 1.08 * table.distance.max()))
        figures.legend(figure, axes.values(), columns=2)
    return figure
