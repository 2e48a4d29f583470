"""Figure 1 of a sweep's models, cell by cell, beside that of another model and the paper's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.reporting import planes as maps
from analyses.reporting import report
from cadmus.runtime.artifacts import read_table

PLANES = "figure1.parquet"  # in the folder of a sweep
REGIONS = {"inside": "inside", "diagonal": "outside, X = Y", "outside": "outside, X and Y differ"}
CORNERS = "corners"
PAPER = {"inside": 1.00, "diagonal": 0.46}  # arXiv 2602.09112, Figure 1
BESIDE, OF_PAPER = "the model beside", "the paper's model"
_ANSWERS = ("less", "equal", "greater", "other")
_KEYS = ("cell", "seed", "x", "y", "region", "accuracy", "n", *_ANSWERS)


@dataclass(frozen=True)
class Planes:
    """Figure 1 of every model of a sweep."""

    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per cell, seed, x and y, with a column per factor; empty where the sweep has no Figure 1."""
    beside: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The plane of another model; empty where none is named."""
    square: tuple[int, int] = (0, 0)
    """The least and the greatest number of the trained square."""

    def by_cell(self) -> dict[str, pd.DataFrame]:
        """The planes of each cell's models under its levels in words, in the order of the sweep."""
        factors = [name for name in self.table.columns if name not in _KEYS]
        cells = {}
        for _, part in self.table.groupby("cell", sort=False):
            cells[", ".join(f"{name} = {part[name].iloc[0]}" for name in factors)] = part
        return cells


def read(folder: Path, stored: dict[str, Any], beside: str = "") -> Planes:
    """The planes that lie in a sweep's folder; `stored` is what the sweep asked for, `beside` the file of another
    model's plane (`tables/figure1.parquet` of a report, or of `cadmus-probe paper`). Raises ValueError where that is
    none, or the sweep has nothing that it could stand beside."""
    path = folder / PLANES
    if not path.is_file():
        if beside:
            raise ValueError(f"{folder} has no Figure 1 ({PLANES}) for {beside} to stand beside; leave --beside out")
        return Planes()
    families = stored.get("mixture", {}).get("family", [])
    square = next(((table["low"], table["high"]) for table in families if table["name"] == "compare"), (0, 0))
    return Planes(read_table(path), _plane(beside) if beside else pd.DataFrame(), square)


def _plane(path: str) -> pd.DataFrame:
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}; name tables/figure1.parquet of a report")
    table = read_table(path) if path.endswith(".parquet") else pd.DataFrame()
    absent = [name for name in _KEYS[2:] if name not in table.columns]
    if absent:
        raise ValueError(f"{path} is no plane, it has no column {absent[0]}; name tables/figure1.parquet of a report")
    return table


def shares(planes: Planes) -> pd.DataFrame:
    """A row per model and region: `cell` in words, `seed` (-1 of the model beside), `region` (inside, diagonal,
    outside; corners: X and Y differ, and lie beyond the square on the same side), the share of right answers (`right`)
    and of each answer, and the programs, `n`."""
    rows = []
    parts = [(name, seed, part) for name, cell in planes.by_cell().items() for seed, part in cell.groupby("seed")]
    if len(planes.beside):
        parts.append((BESIDE, -1, planes.beside))
    for name, seed, part in parts:
        regions = {region: part["region"] == words for region, words in REGIONS.items()}
        regions[CORNERS] = regions["outside"] & _on_one_side(part, *planes.square)
        for region, rows_of_it in regions.items():
            mine = part[rows_of_it]
            n = int(mine["n"].sum())
            if n:
                answers = {answer: mine[answer].sum() / n for answer in _ANSWERS}
                right = round(float((mine["accuracy"] * mine["n"]).sum())) / n
                rows.append({"cell": name, "seed": seed, "region": region, "right": right, **answers, "n": n})
    return pd.DataFrame(rows, columns=["cell", "seed", "region", "right", *_ANSWERS, "n"])


def _on_one_side(plane: pd.DataFrame, low: int, high: int) -> pd.Series:
    """Where X and Y both lie above the square, or both below it."""
    return (plane[["x", "y"]].min(axis=1) > high) | (plane[["x", "y"]].max(axis=1) < low)


def section(planes: Planes) -> report.Section | None:
    """Figure 1 of each cell, side by side; None where the sweep has none."""
    if planes.table.empty:
        return None
    table = shares(planes)
    mean = ["accuracy", "n", *_ANSWERS]
    pictures = {
        name: part.groupby(["x", "y", "region"], as_index=False)[mean].mean() for name, part in planes.by_cell().items()
    }
    if len(planes.beside):
        pictures[BESIDE] = planes.beside
    low, high = planes.square
    return report.Section(
        "figure1",
        "Figure 1, cell by cell",
        (
            f"Programs compute X and Y and end in their relation; in every cell `compare` was trained on {low}..{high} "
            "(the dashed square). On the diagonal beyond it X and Y are equal. A model may say `=` of any two numbers "
            "that it does not know, so that right answers there count only as far as they exceed how often it says `=` "
            "of unequal numbers in the same corners, both above the square or both below it (`= of unequal ones`). Of "
            "each cell the table has the least, the median and the greatest share over its models, which differ by "
            "seed; `no relation` is the share of answers on the diagonal that are no relation at all.",
        ),
        figure=maps.planes(pictures, low, high),
        caption="Each map is the mean over a cell's models; the table has every model.",
        alt="Maps of right answers over X and Y. " + " ".join(f"{row}." for row in sentences(table)),
        table=table,
        display_table=_display(table),
    )


def _display(table: pd.DataFrame) -> pd.DataFrame:
    """A row per cell, then the model beside and the paper's."""
    rows = []
    for name, part in table.groupby("cell", sort=False):
        by_region = {region: part[part["region"] == region] for region in REGIONS}
        row = {"cell": name, "models": str(part["seed"].nunique())}
        row |= {region: _spread(mine["right"]) for region, mine in by_region.items()}
        row["= of unequal ones"] = _spread(part.loc[part["region"] == CORNERS, "equal"])
        rows.append(row | {"no relation": _spread(by_region["diagonal"]["other"])})
    paper = {region: report.number(value) for region, value in PAPER.items()}
    rows.append({"cell": OF_PAPER, "models": "1", **paper})
    return pd.DataFrame(rows).fillna("")


def _spread(values: pd.Series) -> str:
    """The least, the median and the greatest value; a single one as it is."""
    if values.empty:
        return ""
    three = [float(value) for value in (values.min(), values.median(), values.max())]  # numpy rounds otherwise
    return report.number(three[0]) if len(values) == 1 else " / ".join(report.number(value) for value in three)


def sentences(table: pd.DataFrame) -> list[str]:
    """What each cell's models tell on the diagonal beyond the square, in words, and what they call equal in the
    corners."""
    out = []
    for name, part in table.groupby("cell", sort=False):
        on_diagonal = _spread(part.loc[part["region"] == "diagonal", "right"])
        in_corners = _spread(part.loc[part["region"] == CORNERS, "equal"])
        out += [f"{name}: {on_diagonal} ({in_corners})"] if on_diagonal else []
    return out


def sentence(planes: Planes) -> str:
    """The sentence of the page's beginning; empty where there is no Figure 1."""
    by_cell = sentences(shares(planes)) if len(planes.table) else []
    if not by_cell:
        return ""
    return (
        "On Figure 1's diagonal beyond the trained square X = Y is told (least / median / greatest over seeds; in "
        "brackets how often `=` is said of unequal numbers in the same corners) in "
        f"{'; '.join(by_cell)}; {OF_PAPER}: {PAPER['diagonal']:.2f}."
    )
