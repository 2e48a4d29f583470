"""The tables of the study: those of every variable as one, and the row that says what was found of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from analyses.reporting import report
from analyses.studies.interventions import words
from cadmus.statistics.clustered import MIN_CLUSTERS
from probes.interventions.effects.outcomes import THRESHOLD
from probes.interventions.effects.verdicts import by_variable, verdicts
from probes.interventions.experiment.tables import moves_input, summary_of

_FLAGS = {"readable", "read"}  # True, False, or None where nothing can be said


@dataclass(frozen=True)
class Tables:
    """What was measured in one model: tidy tables, the column `variable` first."""

    verdicts: pd.DataFrame
    """A row per variable, stratum, layer, role and span, as `probes.interventions.effects.verdicts` gives them."""
    effects: pd.DataFrame
    """The same of all pairs, minimal and shifted ones too: `probes.interventions.effects.effects`."""
    readable: pd.DataFrame
    """A row per variable, stratum, layer and role: what a probe reads there, beside its controls."""
    heads: pd.DataFrame
    """A row per variable and head: attention along the data flow, its knock-out, the exchange of its output."""
    edges: pd.DataFrame
    """A row per variable, kind of edge and layer (-1: all): what blocking all these edges breaks."""
    mechanism: pd.DataFrame
    """A row per variable, group of pairs and role: between which layers an exchange moves the answer."""
    persistence: pd.DataFrame
    """A row per variable, role and distance between exchange and decision: whether the answer is moved."""
    dead: pd.DataFrame
    """A row per variable, layer and role: what an exchange of a dead value moves."""
    summary: pd.DataFrame
    """A row per variable and stratum: `Experiment.summary`, of the verdicts above."""
    subspaces: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per variable and method: the subspace in its best cell, and what it stands beside; empty unless asked."""
    attribution: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per variable, kind and type of component: attribution against patching; empty unless asked."""
    components: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per variable and node or edge: what attribution says of it, and what patching does; empty unless asked."""

    @classmethod
    def of(cls, experiments: Mapping[str, Any]) -> Tables:
        """The tables of experiments by variable (`probes.interventions.experiment.Experiment`), one below the other.

        Verdicts are given anew, and summaries with them: Holm's correction goes over all variables that are tested
        together.
        """
        frames = {column.name: _joined(column.name, experiments) for column in fields(cls)}
        tables = cls(**{**frames, "verdicts": verdicts(frames["effects"])})
        summaries = [_summary(tables.only(variable)) for variable in tables.variables]
        return replace(tables, summary=pd.concat(summaries, ignore_index=True))

    @property
    def variables(self) -> list[str]:
        """The variables, in the order of the page."""
        return list(self.verdicts["variable"].unique())

    def only(self, variable: str) -> Tables:
        """The rows of one variable."""
        return Tables(**{column.name: _of(getattr(self, column.name), variable) for column in fields(self)})


def _summary(tables: Tables) -> pd.DataFrame:
    """The summary of one variable anew; its routes, which no correction touches, as they stand in the old one."""
    old = tables.summary.iloc[0] if len(tables.summary) else pd.Series(dtype=object)
    return summary_of(tables.verdicts, tables.readable, _text(old, "mechanism"), _text(old, "heads"))


def _joined(name: str, experiments: Mapping[str, Any]) -> pd.DataFrame:
    """One table of all experiments, those left out that have no such rows."""
    parts = []
    for variable, experiment in experiments.items():
        table = getattr(experiment, name, None)
        if table is None or not len(table):
            continue
        table = table.drop(columns="variable", errors="ignore").copy()
        table.insert(0, "variable", variable)
        for flag in _FLAGS & set(table):
            if not table[flag].map(lambda value: isinstance(value, str)).any():  # in a summary they are texts
                table[flag] = pd.Series(
                    [None if pd.isna(value) else bool(value) for value in table[flag]], table.index, object
                )
        parts.append(table)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"variable": pd.Series(dtype=object)})


def _of(table: pd.DataFrame, variable: str) -> pd.DataFrame:
    return table[table["variable"] == variable].reset_index(drop=True) if "variable" in table else table


# --- one row a variable ----------------------------------------------------------------------------------------------


def stratum(rows: pd.DataFrame) -> str:
    """The stratum that a variable's headline is of: values that arise by computation where enough pairs of them count
    to claim anything (30), or where there are no others; else those that are written as digits."""
    pairs = rows.groupby("stratum")["pairs"].max()
    return "computed" if pairs.get("computed", 0) >= MIN_CLUSTERS or "literal" not in pairs else "literal"


def headline_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of verdicts that stand in a variable's map: of its headline's stratum, each edited at a single role.

    Where a literal's digit stands the input itself moves: what is used there is undecided on the map.
    """
    parts = [
        rows[(rows["stratum"] == stratum(rows)) & (rows["span"] == "single")]
        for _, rows in table.groupby("variable", sort=False)
    ]
    parts = [rows.assign(verdict=rows["verdict"].mask(_only_input(rows), "undecided")) for rows in parts]
    return pd.concat(parts, ignore_index=True) if parts else table.iloc[:0]


def headlines(tables: Tables) -> pd.DataFrame:
    """A row per variable: what is read of it and where, what it is used for and where, and the numbers beside."""
    rows = [_headline(tables.only(variable)) for variable in tables.variables]
    table = pd.DataFrame(rows)
    for name in ("layer", "probe_layer"):
        if name in table:
            table[name] = table[name].astype("Int64")
    return table


def _headline(tables: Tables) -> dict[str, Any]:
    rows = tables.verdicts
    name = stratum(rows)
    reads = _reading(of_headline(tables.readable, name))
    uses = of_stratum(rows, name)
    own = tables.summary[tables.summary["stratum"] == name] if len(tables.summary) else tables.summary
    summary = own.iloc[0] if len(own) else pd.Series(dtype=object)
    return {
        **uses,
        "finding": words.finding(reads["reading"], uses["use"], uses["spent"]),
        **reads,
        "heads": heads_claimed(tables.heads),
        "mechanism": words.mechanism(_text(summary, "mechanism"), is_loaded(tables.mechanism)),
        "notes": _text(summary, "notes"),
    }


def of_headline(readable: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of the probes of one variable that are scored on its headline's stratum."""
    return readable[readable["stratum"] == name] if len(readable) else readable


def _only_input(cells: pd.DataFrame) -> pd.Series:
    """Which rows of verdicts are used, yet by an exchange that moves the input."""
    return (cells["verdict"] == "used") & moves_input(cells)


def of_stratum(rows: pd.DataFrame, name: str) -> dict[str, Any]:
    """What the verdicts of one variable say of a stratum: `use`, `spent`, `reason`, the strongest cell with its
    numbers, and how many pairs count.

    `only_input`: the answer is moved, yet only where a literal's digit stands, so that the use is undecided.
    """
    cells = rows[rows["stratum"] == name]
    word = by_variable(cells).iloc[0].to_dict()
    row = strongest_cell(cells)
    only_input = word["verdict"] == "used" and not ((cells["verdict"] == "used") & ~moves_input(cells)).any()
    if only_input:
        word |= {"verdict": "undecided", "reason": "moved only where its digit stands, which moves the input itself"}
    return {
        "variable": rows["variable"].iloc[0],
        "stratum": name,
        "use": word["verdict"],
        "only_input": only_input,
        "spent": bool((cells["verdict"] == "spent").any()),
        "reason": word["reason"],
        **({} if row is None else _cell_columns(row)),
        "candidates": int(cells["candidates"].max()),
        "pairs": 0 if row is None else int(row["pairs"]),
    }


def strongest_cell(cells: pd.DataFrame) -> pd.Series | None:
    """The used cell of the greatest d, edited at a single role where one is; of all claimed cells where none is used;
    None where nothing was measured.

    Of values that are written as digits cells without the digit go first: there the input itself moves.
    """
    claimed = cells[cells["claimed"].astype(bool) & cells["d"].notna()]
    used = claimed[claimed["verdict"] == "used"]
    onward = used[~moves_input(used)]
    parts = [part for rows in (onward, used) for part in (rows[rows["span"] == "single"], rows)]
    rows = next((part for part in (*parts, claimed) if len(part)), None)
    return None if rows is None else rows.loc[rows["d"].idxmax()]


def _cell_columns(row: pd.Series) -> dict[str, Any]:
    """The strongest cell: its place, its accuracy, and its best control's."""
    control = row["best_control"]
    out = {"layer": row["layer"], "role": row["role"], "span": row["span"]}
    for name in ("accuracy", "chance"):
        for suffix in ("", "_low", "_high"):
            out[f"{name}{suffix}"] = row.get(f"{name}{suffix}", np.nan)
    out |= {"control": control, "d": row["d"], "d_low": row["d_low"], "d_high": row["d_high"]}
    out |= {f"control_score{suffix}": row.get(f"{control}{suffix}", np.nan) for suffix in ("", "_low", "_high")}
    return out


def with_beyond(readable: pd.DataFrame) -> pd.DataFrame:
    """The rows with `beyond`, the accuracy minus that of the best control of the probe's own class: the same probe on
    the untrained twin, or on the position and the last tokens."""
    if readable.empty:
        return readable
    return readable.assign(beyond=readable["accuracy"] - readable[["untrained", "input_linear"]].max(axis=1))


def _reading(readable: pd.DataFrame) -> dict[str, Any]:
    """What the probes claim of a variable, and the cell of the greatest bound that says so.

    `reading`: "read", "readable"; "unread", where some cell was tested and the upper bound beyond all controls is below
    0.05 in every one that was; "" where that is undecided. `is_readable`: "yes", "no" (the same of the bound beyond the
    controls of the probe's own class) or "undecided".
    """
    empty = {"reading": "", "is_readable": "undecided", "probe_layer": np.nan, "probe_role": "", "score": np.nan}
    measured = readable[readable["accuracy"].notna()] if len(readable) else readable
    if measured.empty:
        return empty
    claims = {word: measured[measured[word].eq(True)] for word in ("read", "readable")}
    reading = next((word for word, rows in claims.items() if len(rows)), "")
    rows = claims[reading] if reading else measured
    is_readable = "yes" if reading else "no" if _surely_absent(measured, "readable") else "undecided"
    reading = "unread" if not reading and _surely_absent(measured, "read") else reading
    row = rows.loc[rows["beyond_all_low" if reading == "read" else "beyond_low"].fillna(-2).idxmax()]
    scores = {f"score{end}": row[f"accuracy{end}"] for end in ("", "_low", "_high")}
    controls = {name: row[name] for name in ("untrained", "input_linear", "input_network")}
    place = {"probe_layer": row["layer"], "probe_role": row["role"]}
    return {"reading": reading, "is_readable": is_readable, **place, **scores, **controls}


def _surely_absent(measured: pd.DataFrame, word: str) -> bool:
    """Whether the upper bound of what a word is about is below 0.05 in every cell that was tested, and some was."""
    tested = measured[measured[word].notna()]
    name = {"readable": "beyond_high", "read": "beyond_all_high"}[word]
    return len(tested) > 0 and name in tested and bool((tested[name] < THRESHOLD).all())


def _text(row: pd.Series, name: str) -> str:
    value = row.get(name, "")
    return "" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value)


def is_loaded(mechanism: pd.DataFrame) -> bool:
    """Whether the values of a variable are loaded, so that they may be looked up at the load; mechanism: its rows."""
    return "role" in mechanism and "loaded" in set(mechanism["role"])


def heads_claimed(heads: pd.DataFrame) -> str:
    """The heads of one variable that are needed or carry it, `3.2 (needed, load store), 4.1 (carries)`; empty for
    none."""
    if heads.empty:
        return ""
    phrases = []
    for row, needed, used in zip(heads.itertuples(), _flag(heads, "needed"), _flag(heads, "used"), strict=True):
        does = [f"needed, {str(row.knockout).replace('_', ' ')}"] if needed else []
        does += ["carries"] if used else []
        if does:
            phrases.append(f"{row.layer}.{row.head} ({'; '.join(does)})")
    return ", ".join(phrases)


def _flag(table: pd.DataFrame, name: str) -> pd.Series:
    """A column of flags as bool, False where it is missing."""
    return table[name].eq(True) if name in table else pd.Series(False, table.index)


# --- for reading -----------------------------------------------------------------------------------------------------


def verdict_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `headlines`, formatted for reading: variable, readable, read, used, where, by which heads,
    mechanism, moved, best control, counting pairs."""
    reads = {"read": "yes", "unread": "no"}
    return pd.DataFrame(
        {
            "variable": table["variable"],
            "readable": table["is_readable"],
            "read": [reads.get(word, "undecided") for word in table["reading"]],
            "used": table["use"].map({"used": "yes", "unused": "no", "undecided": "undecided"}),
            "where": [where(row) for row in table.to_dict("records")],
            "by which heads": table["heads"].replace("", "none claimed"),
            "mechanism": table["mechanism"].replace("", "undecided"),
            "moved": [report.interval_of(row, "accuracy") for row in table.to_dict("records")],
            "best control": [_control(row) for row in table.to_dict("records")],
            "counting pairs": [f"{row.pairs:,} of {row.candidates:,}" for row in table.itertuples()],
        }
    )


def untested_rows(reasons: Mapping[str, str]) -> pd.DataFrame:
    """The same rows of variables that were not tested; reasons: why, by variable."""
    rows = [{"variable": variable, "used": "untested", "where": reason} for variable, reason in reasons.items()]
    return pd.DataFrame(rows, columns=["variable", "used", "where"])


def with_untested(table: pd.DataFrame, reasons: Mapping[str, str]) -> pd.DataFrame:
    """A table of `headlines` with a row for each variable that was not tested: `use` and `finding` say so, `reason`
    why."""
    rows = [
        {"variable": variable, "use": "untested", "finding": "untested", "reason": why}
        for variable, why in reasons.items()
    ]
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True) if rows else table


def where(row: Mapping[str, Any]) -> str:
    """The strongest cell of a headline; empty where nothing is used."""
    return words.place(row["layer"], row["role"], row["span"]) if row["use"] == "used" else ""


def _control(row: Mapping[str, Any]) -> str:
    share = report.interval_of(row, "control_score")
    return f"{share} {words.control(row['control'])}" if share else ""


def in_models(several: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per variable: in how many models it is read, readable and used, and what is found in each.

    several: model's name -> its table of `headlines`.
    """
    rows = []
    for variable in _in_order(several.values()):
        found_in = {name: table[table["variable"] == variable] for name, table in several.items()}
        present = {name: part.iloc[0] for name, part in found_in.items() if len(part)}
        n = len(present)
        rows.append(
            {
                "variable": variable,
                "models": n,
                "readable": sum(row["reading"] in ("read", "readable") for row in present.values()),
                "read": sum(row["reading"] == "read" for row in present.values()),
                "used": sum(row["use"] == "used" for row in present.values()),
                **{name: present[name]["finding"] if name in present else "not tested" for name in several},
            }
        )
    return pd.DataFrame(rows)


def _in_order(several: Iterable[pd.DataFrame]) -> Sequence[str]:
    return list(dict.fromkeys(name for table in several for name in table["variable"]))
