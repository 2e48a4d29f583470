"""The table of scores as a notebook shows it: a few columns in place of forty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from cadmus.machine.tokens import text_list
from probes.measurement.tally import ALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_ROWS = 30  # that a notebook shows


class ScoreTable(pd.DataFrame):
    """The data frame that `scores.table` makes. Whatever is taken from it is a plain data frame.

    In a notebook it shows up to 30 rows of `brief()`: each variable at the site that reads it best on validation
    programs, present states first. All rows and columns are there all the same.
    """

    def brief(self) -> pd.DataFrame:
        """The rows over all tokens, and over those of a role, each with its score and interval, the best control of the
        probe's class, what is beyond it and beyond all controls, and what is claimed."""
        rows = pd.DataFrame(self)
        rows = rows[rows.by.isin([ALL, "role"])]
        return pd.DataFrame(
            {
                "site": rows.site,
                "variable": rows.variable,
                "tokens": rows.group,
                "offset": rows.offset,
                "probe": rows.probe,
                "metric": rows.metric,
                "score": _with_interval(rows, "score", "low", "high"),
                "best control": rows.best_control.fillna(""),
                "beyond": _with_interval(rows, "beyond", "beyond_low", "beyond_high"),
                "beyond all": _with_interval(rows, "beyond_all", "beyond_all_low", "beyond_all_high"),
                "claimed": rows.claimed,
                "note": [
                    problem or screen for problem, screen in zip(rows.problem, rows.screen.fillna(""), strict=True)
                ],
            }
        )

    def summary(self) -> str:
        """A line per variable: the score of the present state over all tokens at the site that is best on validation
        programs, what is beyond the best control there, and what is claimed; or why there is no score."""
        lines = []
        for variable, rows in self._main().groupby("variable", sort=False):
            measured = rows.dropna(subset="score")
            if measured.empty:
                lines.append(f"{variable}: {rows.problem.iloc[0] or 'no score'}")
                continue
            best = measured.loc[[measured.validation.fillna(measured.score).idxmax()]]
            row = best.iloc[0]
            score, beyond = (
                _with_interval(best, name, low, high).iloc[0]
                for name, low, high in (("score", "low", "high"), ("beyond", "beyond_low", "beyond_high"))
            )
            control = f", {beyond} beyond {row.best_control}" if beyond else ""
            lines.append(
                f"{variable}: {row.metric} {score} at {row.site}{control}; {row.claimed or 'nothing'} is claimed"
            )
        return "\n".join(lines)

    def plot(self, variables: Sequence[str] = ()) -> Figure:
        """Scores of present states over all tokens by layer, a line per variable with its interval, the best control
        dotted, and a mark where something is claimed. variables: those that are drawn; none: all.

        Raises ValueError for a variable that the table does not have.
        """
        from matplotlib.figure import Figure

        variables = text_list(variables, "variables")
        main = self._main()
        for name in variables:
            if name not in set(main.variable):
                raise ValueError(f"variable {name!r} is not in the table; it has {', '.join(main.variable.unique())}")
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for k, name in enumerate(variables or main.variable.unique()):
            rows = main[main.variable == name].dropna(subset="score").sort_values("layer", kind="stable")
            if rows.empty:
                continue
            axes.fill_between(rows.layer, rows.low, rows.high, color=f"C{k % 10}", alpha=0.2, lw=0)
            axes.plot(rows.layer, rows.score, color=f"C{k % 10}", label=name)
            axes.plot(rows.layer, rows.score - rows.beyond, ":", color=f"C{k % 10}")
            claims = rows[rows.claimed.astype(bool)]
            axes.plot(claims.layer, claims.score, "o", color=f"C{k % 10}")
        axes.plot([], [], "k:", label="best control")
        axes.plot([], [], "ko", label="claimed")
        axes.set(xlabel="layers that have run", ylabel="score", xticks=sorted(main.layer.unique()))
        figure.legend(loc="outside right upper", frameon=False)
        return figure

    def _main(self) -> pd.DataFrame:
        """The rows of present states over all tokens, of one probe per variable: a classifier where there is one."""
        rows = pd.DataFrame(self)
        rows = rows[(rows.by == ALL) & (rows.offset == 0) & (rows.metric != "R2") & (rows.probe != "network")]
        has_classifier = rows.variable.isin(rows.variable[~rows.as_number.astype(bool)])
        return rows[~rows.as_number.astype(bool) | ~has_classifier]

    def _repr_html_(self) -> str:
        brief = self.brief()
        # the rows stand in the order of the sites: the first of them alone would all be of the embedding
        best = self.loc[brief.index].sort_values("validation", ascending=False, kind="stable")
        best = best.drop_duplicates(["variable", "by", "group", "offset", "probe", "metric"])
        rows = brief[brief.index.isin(best.index)].sort_values("offset", key=abs, kind="stable").head(_MAX_ROWS)
        return (
            f"{rows.to_html(index=False)}<p>{len(rows)} of {len(self)} rows, each variable at the site that reads it "
            f"best on validation programs; {len(rows.columns)} of {len(self.columns)} columns. <code>.brief()</code> "
            "has the other sites, <code>.columns</code> names all.</p>"
        )


def _with_interval(rows: pd.DataFrame, name: str, low: str, high: str) -> pd.Series:
    """The estimate with its interval as a text, `0.84 [0.83, 0.85]`; empty where there is none."""
    texts = [
        "" if pd.isna(estimate) else f"{estimate:.2f} [{below:.2f}, {above:.2f}]"
        for estimate, below, above in zip(rows[name], rows[low], rows[high], strict=True)
    ]
    return pd.Series(texts, index=rows.index, dtype=object)
