"""Which rows of the state's tables stand for a variable (those of its main probe, at the site where that reads best),
and how the tables of the page are laid out."""

from __future__ import annotations

import pandas as pd

from analyses.reporting import report
from analyses.reporting.sites import location_column
from probes.geometry.dimensions import smallest_sufficient
from probes.measurement.plan import TRAINED, UNTRAINED

# --- which rows ------------------------------------------------------------------------------------------------------


def headline(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of the present states' main probe over all tokens: one per (site, variable)."""
    rows = main_probe(scores)
    return rows[(rows.by == "all") & (rows.offset == 0)]


def main_probe(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of each variable's main probe, a classifier, numbers too being read as classes: no regression, and no
    network beside it."""
    return scores[~scores.as_number.astype(bool) & scores.probe_class.ne("network")]


def at_roles(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of the present states' main probe at the tokens of roles that have a score: one per (site, variable,
    role)."""
    rows = main_probe(scores)
    return rows[(rows.by == "role") & (rows.offset == 0) & rows.score.notna()]


def best_of_roles(scores: pd.DataFrame) -> pd.DataFrame:
    """Of `at_roles` the row of each (variable, role) at the site that reads most on the validation programs."""
    rows = at_roles(scores)
    return rows.loc[rows.groupby(["variable", "group"], sort=False).validation.idxmax()]


def networks(scores: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """What the network on the activations reads of the variables and groups of some rows, and what it is beyond the
    networks that are its controls: empty where there is none."""
    read = scores[scores.probe_class.eq("network")].set_index(["variable", "by", "group"])
    return [
        f"{report.number(read.score[key])} ({report.number(read.beyond[key])})" if key in read.index else ""
        for key in zip(rows.variable, rows.by, rows.group, strict=True)
    ]


def best_sites(scores: pd.DataFrame) -> pd.Series:
    """The site of each variable that reads most on the validation programs (so that the test score is no maximum)."""
    rows = headline(scores)
    order = rows.variable.unique()
    rows = rows.dropna(subset="score")
    best = rows.loc[rows.groupby("variable").validation.idxmax()].set_index("variable").site
    return best.reindex([variable for variable in order if variable in best.index])


def at_best_sites(rows: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of each variable at its site of `best_sites`, variable after variable."""
    best = best_sites(scores)
    rows = rows[rows.site == rows.variable.map(best)]
    return rows.sort_values("variable", key=lambda names: names.map(list(best.index).index), kind="stable")


def breakdown(scores: pd.DataFrame, by: str) -> pd.DataFrame:
    """The present states' scores by group, at each variable's site."""
    rows = main_probe(scores)
    rows = rows[(rows.by == by) & (rows.offset == 0) & rows.score.notna()]
    return at_best_sites(rows, scores)


def by_offset(scores: pd.DataFrame) -> pd.DataFrame:
    """The past, present and future states' scores over all tokens, at each variable's site."""
    rows = main_probe(scores)
    return at_best_sites(rows[(rows.by == "all") & rows.score.notna()], scores)


# --- for reading -----------------------------------------------------------------------------------------------------


def role_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Lay out each variable and role at its site, beside the best control of its class and of all."""
    rows = best_of_roles(scores)
    return pd.DataFrame(
        {
            "variable": rows.variable,
            "role": rows.group,
            **location_column(rows),
            "test tokens": rows.tokens,
            "score": [report.with_interval(row.score, row.low, row.high) for row in rows.itertuples()],
            "best of its class": best_controls(rows, "best_control", "beyond"),
            "beyond it": report.intervals(rows, "beyond"),
            "best of all controls": best_controls(rows, "best_of_all", "beyond_all"),
            "beyond all": report.intervals(rows, "beyond_all"),
            "network (beyond networks)": networks(scores, rows),
            "claimed": rows.claimed,
        }
    )


def best_controls(rows: pd.DataFrame, control: str, beyond: str) -> list[str]:
    """The best control by name with its score."""
    return [f"{name} {score:.2f}" for name, score in zip(rows[control], rows.score - rows[beyond], strict=True)]


def score_table(scores: pd.DataFrame, rows: pd.DataFrame, controls: list[str]) -> pd.DataFrame:
    """Lay out each variable's score at its site beside the controls."""
    return pd.DataFrame(
        {
            "variable": rows.variable,
            **location_column(rows),
            "score": [report.with_interval(row.score, row.low, row.high) for row in rows.itertuples()],
            **{name: rows[name].map(report.number) for name in controls},
            "beyond the best of its class": report.intervals(rows, "beyond"),
            "rise": rows.rise.map(report.number),
            "beyond all": report.intervals(rows, "beyond_all"),
            "network (beyond networks)": networks(scores, rows),
            "q": rows.q.map("{:.3f}".format),
            "selectivity": rows.selectivity.map(report.number),
            "bits saved (permuted)": [
                f"{row.frequency_bits - row.bits:.2f} ({row.control_frequency_bits - row.control_bits:.2f})"
                for row in rows.itertuples()
            ],
            "given away": rows.screen,
            "claimed": rows.claimed,
        }
    )


def residues(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Lay out which residues are told apart at each variable's site, in the model and in its untrained twin."""
    rows = at_best_sites(table, scores)
    trained, untrained = (rows[rows.model == model] for model in (TRAINED, UNTRAINED))
    keys = ["variable", "period"]
    untrained = untrained.set_index(keys).reindex(pd.MultiIndex.from_frame(trained[keys]))
    return pd.DataFrame(
        {
            "variable": trained.variable,
            **location_column(trained),
            "residue of the value by": trained.period,
            "told correctly, of values held out": _scores(trained),
            "untrained model": _scores(untrained),
            "most frequent residue": trained.chance.map(report.number),
            "permuted values": trained.control.map(report.number),
        }
    )


def _scores(rows: pd.DataFrame) -> list[str]:
    """Each row's score with its interval; empty where there is none."""
    return [
        "" if pd.isna(row.score) else report.with_interval(row.score, row.low, row.high) for row in rows.itertuples()
    ]


def dimensions(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Lay out how much of each variable is explained at its site, in the model and in its untrained twin, and how many
    dimensions and neurons that takes in the model."""
    rows = at_best_sites(table, scores)
    trained, untrained = (rows[rows.model == model] for model in (TRAINED, UNTRAINED))
    first = trained.drop_duplicates("variable")
    sizes = {key: smallest_sufficient(part) or "" for key, part in trained.groupby(["variable", "probe"])}
    return pd.DataFrame(
        {
            "variable": first.variable,
            **location_column(first),
            "R² of the one-hot values": first.full.map(report.number),
            "untrained model": first.variable.map(untrained.groupby("variable").full.first()).map(report.number),
            "dimensions for 95 %": [sizes[variable, "reduced rank"] for variable in first.variable],
            "neurons for 95 %": [sizes[variable, "neurons"] for variable in first.variable],
        }
    )
