"""Scores: what patching each cell does to the metric of each row, estimated or exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from probes.interventions.attribution.contrasts import means


@dataclass(frozen=True, repr=False)
class Scores:
    """What patching each cell does to the metric of each row: the patched one minus the base's, estimated or exact."""

    cells: pd.DataFrame
    """A row per cell: `component`, and of nodes `layer`, `head` (-1: no single one) and `position`; of edges `sender`,
    `receiver` and `position`."""
    values: np.ndarray
    """float64 [cells, rows], NaN where a row has no such position."""
    clusters: np.ndarray
    """Those of the contrast's rows: int64 [rows]."""
    method: str
    """One of `METHODS`, or "patching"."""

    def __repr__(self) -> str:
        return f"Scores({len(self.cells):,} cells, {self.values.shape[1]:,} rows, by {self.method})"

    def frame(self, seed: int = 0) -> pd.DataFrame:
        """The cells with `method`, `value` (the mean over rows), `low`, `high` (95 %, by cluster) and `n` rows."""
        columns = means(self.values, self.clusters, seed)
        return self.cells.assign(method=self.method, **columns)

    @property
    def totals(self) -> np.ndarray:
        """The mean over the rows that have the position, float64 [cells]; 0 where no row has."""
        counts = ~np.isnan(self.values)
        return np.where(counts, self.values, 0).sum(1) / np.maximum(counts.sum(1), 1)
