"""Tables that are counted from the measurements: right answers by region of the plane."""

from __future__ import annotations

import pandas as pd

from analyses.studies.paper import study
from cadmus.statistics.proportions import wilson


def by_region(table: pd.DataFrame) -> pd.DataFrame:
    """A row per region of the plane: right answers, programs, accuracy with its Wilson interval, and the answers given;
    table: `PaperResults.plane`."""
    rows = []
    for region in study.REGIONS:
        part = table[table.region == region]
        n = int(part.n.sum())
        n_correct = round(float((part.accuracy * part.n).sum()))
        if n:
            low, high = wilson([n_correct], [n])
            answers = {name: int(part[name].sum()) for name in ("less", "equal", "greater", "other")}
            accuracy = {"accuracy": n_correct / n, "low": low[0], "high": high[0]}
            rows.append({"region": region, "n": n, **accuracy, **answers})
    return pd.DataFrame(rows)
