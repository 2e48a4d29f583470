"""The table of scores as a notebook shows it: a few columns in place of forty."""

from __future__ import annotations

import pandas as pd

from probes.measurement.tally import ALL

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
