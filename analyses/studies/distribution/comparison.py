"""Two training distributions side by side: their properties, and how far the second lies from the first."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses.studies.distribution.study import ALL, Source
from cadmus.machine.tokens import text_list
from cadmus.properties import structure
from cadmus.properties.divergence import divergence
from cadmus.runtime.progress import Progress, no_progress
from cadmus.statistics.clustered import interval_names


def compare(
    a: Source,
    b: Source,
    *,
    families: list[str] | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Measure two sources side by side.

    Args:
        a: the first source.
        b: the second, whose divergences from the first are taken.
        families: names of families that both have; left out, all that both have, and all together.
        seed: of the groups of the jackknife.
        progress: is told of each family.

    Returns:
        A row per (family, property): the value and interval of each source, whether the intervals lie apart, and the
        divergences of b from a (`floor`: that of two halves of one sample).

    Raises:
        ValueError: a family is not in both.
    """
    families = None if families is None else text_list(families, "families")
    shared = [name for name in a.samples if name in b.samples]
    for name in families or []:
        if name not in shared:
            raise ValueError(f"{a.name} and {b.name} do not both have family {name!r}; both have {', '.join(shared)}")
    names = families or [*shared, ALL]
    tables = []
    for done, name in enumerate(names, 1):
        first, second = (source.everything if name == ALL else source.samples[name] for source in (a, b))
        n = min(len(first), len(second))  # counts of distinct things, and divergences, depend on the size
        tables.append(_compare_programs(first[:n], second[:n], seed).assign(family=name, n=n))
        progress("compare", done / len(names), name)
    table = pd.concat(tables, ignore_index=True)
    return table[["family", *(column for column in table.columns if column != "family")]]


def _compare_programs(first: np.ndarray, second: np.ndarray, seed: int) -> pd.DataFrame:
    """The rows of one family, of as many programs of each source: uint8 [n, width] each."""
    measurements = [structure.measure(programs, seed=seed) for programs in (first, second)]
    table = measurements[0][["property", "unit"]].copy()
    for label, measurement in zip("ab", measurements, strict=True):
        table[list(interval_names(label))] = measurement[["value", "low", "high"]]
    table["apart"] = (table.a_low > table.b_high) | (table.b_low > table.a_high)
    distance = divergence(first, second, seed=seed)
    distance = distance.rename(columns={"value": "b", "low": "b_low", "high": "b_high"})
    distance["floor"] = distance[["within_a", "within_b"]].max(axis=1)
    distance["apart"] = distance.b_low > distance.floor
    columns = ["property", "unit", *interval_names("b"), "apart", "floor"]
    return pd.concat([table, distance[columns]], ignore_index=True)


def comparison_rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """A comparison as lines of text, the head first; properties without meaning on both sides are left out."""
    rows: list[tuple[str, ...]] = [("family", "property", "first", "second", "", "unit")]
    for row in table[table[["a", "b"]].notna().any(axis=1)].itertuples():
        if np.isnan(row.floor):
            first = _interval(row.a, row.a_low, row.a_high)
        else:
            first = f"floor {row.floor:.3f}"
        second = _interval(row.b, row.b_low, row.b_high)
        rows.append((row.family, row.property, first, second, "*" if row.apart else "", row.unit))
    return rows


def _interval(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.4g}" + ("" if np.isnan(low) else f" [{low:.4g}, {high:.4g}]")
