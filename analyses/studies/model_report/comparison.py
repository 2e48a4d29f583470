"""Several models side by side, by the tables of their reports: what each completes, reads and uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.reporting import report
from analyses.reporting.figures import FIGURE_WIDTH, MARKERS, error, legend, theme
from analyses.studies.interventions import words
from analyses.studies.model_report import overview, page
from analyses.studies.model_report.study import ModelReportConfig
from cadmus.runtime import artifacts
from cadmus.runtime.progress import Progress, no_progress


@dataclass(frozen=True)
class Side:
    """One of the models that are compared."""

    name: str
    """What the page calls it."""
    folder: Path
    """Where its report lies."""
    completes: pd.DataFrame
    """`overview.completed_rows`, by family; empty where that was not measured."""
    reads: pd.DataFrame
    """`overview.read_rows`, by variable."""
    uses: pd.DataFrame
    """`overview.used_rows`, by variable."""

    @classmethod
    def of(cls, folder: Path, name: str) -> Side:
        """A report in its folder. Raises ArtifactError where it is damaged, or is no report about a model."""
        files = artifacts.read_manifest(folder, "report")["files"]
        frames = []
        for table, rows, key in (
            ("completion", overview.completed_rows, "family"),
            ("state", overview.read_rows, "variable"),
            ("findings", overview.used_rows, "variable"),
        ):
            path = f"tables/{table}.parquet"
            frames.append(rows(pd.read_parquet(folder / path)).set_index(key) if path in files else pd.DataFrame())
        if all(frame.empty for frame in frames):
            raise artifacts.ArtifactError(f"{folder} is not a report about a model; name one of cadmus-probe report")
        return cls(name, folder, *frames)


def make(configs: Sequence[ModelReportConfig], out: Path | str, progress: Progress = no_progress) -> Path:
    """Write a page on which several models stand side by side; returns its path.

    A config whose `run` is the folder of a report is taken from there; of others the report is made, in a folder of its
    own beneath `out`.
    """
    sides = []
    names = _names([config.run for config in configs])
    for name, config in zip(names, configs, strict=True):
        folder = Path(config.run)
        if not artifacts.holds(folder, "report"):
            folder = Path(out) / name
            page.make(config, folder, _labelled(progress, name))
        sides.append(Side.of(folder, name))
    return report.write(_report(sides, Path(out)), out)


def _names(runs: Sequence[str]) -> list[str]:
    """The last part of each path, made different by numbers where two are alike."""
    last = [Path(run).resolve().name if run in (".", "..") else Path(run).name for run in runs]
    return [f"{name}-{k + 1}" if last.count(name) > 1 else name for k, name in enumerate(last)]


def _labelled(progress: Progress, name: str) -> Progress:
    """The progress of one of several reports, each stage with the model's name."""

    def labelled(stage: str, fraction: float, note: str = "") -> None:
        progress(f"{name}: {stage}", fraction, note)

    return labelled


def _report(sides: Sequence[Side], out: Path) -> report.Report:
    names = [side.name for side in sides]
    sections = tuple(filter(None, (_completes(sides), _reads(sides), _uses(sides))))
    return report.Report(
        title=f"{report.listed(names)} side by side",
        summary=(),
        sections=sections,
        about={
            "command": f"cadmus-probe report {' '.join(names)}",
            **{f"report of {side.name}": _relative(side.folder, out) for side in sides},
        },
        finding=_finding(sides),
        overview=_picture(sides),
    )


def _relative(folder: Path, out: Path) -> str:
    inside = folder.resolve().is_relative_to(out.resolve())
    return folder.resolve().relative_to(out.resolve()).as_posix() if inside else folder.as_posix()


def _finding(sides: Sequence[Side]) -> str:
    """Each model's three counts in one sentence."""
    return f"{'; '.join(f'{side.name}: {_counts(side)}' for side in sides)}."


def _counts(side: Side) -> str:
    parts = []
    if len(side.completes):
        count = int((side.completes.accuracy >= overview.HIGH).sum())
        parts.append(f"{count} of {len(side.completes)} families completed at {overview.HIGH:.2f} or better")
    if len(side.reads):
        parts.append(f"{(side.reads.claimed == 'read').sum()} of {len(side.reads)} variables read beyond every control")
    if len(side.uses):
        parts.append(f"{(side.uses.use == 'used').sum()} of {len(side.uses)} exchanged variables used")
    return ", ".join(parts)


# --- tables ----------------------------------------------------------------------------------------------------------


def _completes(sides: Sequence[Side]) -> report.Section | None:
    return _section(
        sides,
        "completion",
        "What each completes",
        "Held-out programs of skeletons that training saw, completed greedily (95 % Wilson intervals). A difference is "
        "that from the first model, with Newcombe's interval (1998, method 10); it takes the programs as independent.",
        lambda side: side.completes,
        lambda row: report.with_interval(row.accuracy, row.low, row.high),
        difference=True,
    )


def _reads(sides: Sequence[Side]) -> report.Section | None:
    return _section(
        sides,
        "reads",
        "What can be read in each",
        "The score of a linear probe where most is claimed of the variable, and what is claimed there: read (beyond "
        "every control) or readable (beyond the controls of the probe's own class).",
        lambda side: side.reads,
        lambda row: " ".join(filter(None, [report.with_interval(row.score, row.low, row.high), row.claimed, _at(row)])),
    )


def _at(row: pd.Series) -> str:
    return f"({row.group})" if row.by == "role" else ""


def _uses(sides: Sequence[Side]) -> report.Section | None:
    return _section(
        sides,
        "uses",
        "What each uses",
        "How often an exchange of the value inside the model moves its answer to the one that the machine asks for, "
        "where it does so best, and what follows for the variable.",
        lambda side: side.uses,
        lambda row: f"{report.with_interval(row.accuracy, row.accuracy_low, row.accuracy_high)} {row.finding}",
    )


def _section(
    sides: Sequence[Side],
    name: str,
    title: str,
    text: str,
    rows_of: Callable[[Side], pd.DataFrame],
    cell: Callable[[pd.Series], str],
    difference: bool = False,
) -> report.Section | None:
    """A table with a column per model; None where no model has such rows."""
    order = _union([rows_of(side) for side in sides])
    if not order:
        return None
    columns: dict[str, list[str]] = {}
    for side in sides:
        rows = rows_of(side)
        columns[side.name] = [cell(rows.loc[key]) if key in rows.index else "" for key in order]
        if difference and side is not sides[0]:
            first = rows_of(sides[0])
            columns[f"{side.name} minus {sides[0].name}"] = [
                _difference(rows.loc[key], first.loc[key]) if key in rows.index and key in first.index else ""
                for key in order
            ]
    key_name = "family" if name == "completion" else "variable"
    table = pd.DataFrame({key_name: order, **columns})
    return report.Section(name, title, (text,), table=table, display_table=table)


def _difference(row: pd.Series, first: pd.Series) -> str:
    """The difference of two shares with the interval that follows from their Wilson intervals (Newcombe 1998)."""
    d = row.accuracy - first.accuracy
    low = d - np.hypot(row.accuracy - row.low, first.high - first.accuracy)
    high = d + np.hypot(row.high - row.accuracy, first.accuracy - first.low)
    return report.with_interval(d, low, high)


def _union(tables: Sequence[pd.DataFrame]) -> list[str]:
    """The rows that any table has, in the order of the first that has them."""
    return list(dict.fromkeys(key for table in tables for key in table.index))


# --- the picture -----------------------------------------------------------------------------------------------------


def _picture(sides: Sequence[Side]) -> report.Section:
    return report.Section(
        "overview",
        "What each completes, reads and uses",
        figure=_figure(sides),
        caption="Filled: claimed (or, at the left, measured); hollow: not claimed. Bars are 95 % intervals.",
        alt="Three panels of points with intervals, a colour and shape per model: "
        f"{'; '.join(f'{side.name}: {_counts(side)}' for side in sides)}.",
    )


def _figure(sides: Sequence[Side]) -> Figure:
    panels: list[tuple[str, list[pd.DataFrame], Callable[[str], str]]] = [
        ("completes", [_points_of(side.completes, "accuracy", "low", "high") for side in sides], str),
        ("reads", [_points_of(side.reads, "score", "low", "high", "claimed") for side in sides], _state_words),
        ("uses", [_points_of(side.uses, "accuracy", "accuracy_low", "accuracy_high", "use") for side in sides], _short),
    ]
    orders = [_union(tables) for _, tables, _ in panels]
    with theme():
        height = 1.3 + (0.16 + 0.1 * len(sides)) * max(map(len, orders))
        figure = Figure(figsize=(FIGURE_WIDTH, height), layout="constrained")
        axes = figure.subplots(1, 3)
        for ax, (title, tables, naming), order in zip(axes, panels, orders, strict=True):
            ax.set_title(title, fontsize=10, loc="left", weight="bold")
            for k, (side, table) in enumerate(zip(sides, tables, strict=True)):
                _draw(ax, table, order, k, len(sides), side.name)
            ax.set_yticks(range(len(order)), [naming(key) for key in order])
            ax.set(xlim=(-0.03, 1.03), ylim=(max(len(order), 1) - 0.5, -0.5), xlabel="share")
            ax.tick_params(labelsize=7)
            ax.grid(axis="y", visible=False)
        legend(figure, axes, columns=4)
    return figure


def _points_of(table: pd.DataFrame, value: str, low: str, high: str, claim: str = "") -> pd.DataFrame:
    """The rows as columns value, low, high and claimed (bool)."""
    if table.empty or value not in table:
        return pd.DataFrame({"value": [], "low": [], "high": [], "claimed": []})
    claimed = table[claim].isin(["read", "used"]) if claim else pd.Series(True, table.index)
    return pd.DataFrame({"value": table[value], "low": table[low], "high": table[high], "claimed": claimed})


def _draw(ax: Axes, table: pd.DataFrame, order: list[str], k: int, n: int, name: str) -> None:
    """Draw the k-th of n models; what is not claimed is hollow."""
    color = sns.color_palette("colorblind")[k % 10]
    y = np.array([order.index(key) for key in table.index], float) + 0.6 * ((k + 0.5) / n - 0.5)
    for is_claimed in (True, False):
        part = table.claimed.eq(is_claimed).to_numpy(bool)
        rows = table[part]
        label = name if is_claimed or not table.claimed.any() else "_nolegend_"
        style: dict[str, Any] = {"ls": "", "marker": MARKERS[k % len(MARKERS)], "ms": 4.5, "lw": 1, "color": color}
        if not is_claimed:
            style["mfc"] = "w"
        if len(rows):
            ax.errorbar(rows.value, y[part], None, error(rows.value, rows.low, rows.high), label=label, **style)


def _state_words(variable: str) -> str:
    return overview.state_words(pd.Series({"variable": variable, "by": "all", "group": ""}))


def _short(variable: str) -> str:
    return words.variable(variable).removeprefix("the ").removeprefix("an ")
