"""What is not there, cell by cell."""

from __future__ import annotations

import pandas as pd

from analyses.studies.generalization import models


def missingness(table: pd.DataFrame) -> pd.DataFrame:
    """A row per (response, cell): how many models there are (`models`), how many have a value (`ok`), `failed`,
    `missing`, and the commonest reason (`why`); with the levels of the factors."""
    rows = []
    levels = models.factors(table)
    for (response, cell), part in table.groupby(["response", "cell"], sort=False):
        counts = part["status"].value_counts()
        reasons = part.loc[part["status"] != "ok", "why"].dropna()
        rows.append(
            {
                "response": response,
                "cell": cell,
                **{name: part[name].iloc[0] for name in levels},
                "models": len(part),
                **{status: int(counts.get(status, 0)) for status in ("ok", "failed", "missing")},
                "why": reasons.mode().iloc[0] if len(reasons) else "",
            }
        )
    return pd.DataFrame(rows)
