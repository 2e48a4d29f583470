"""Figure 1 of a sweep's models on its page: planted planes are found again, beside another model's and the paper's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.cli import main
from analyses.studies.generalization import planes
from analyses.sweeps.planes import COLUMNS
from analyses.sweeps.sweep import PLANE
from tests.analyses.studies.generalization.test_page import STORED, a_sweep, planted_table

RIGHT = {"cell00": 0.25, "cell01": 1.0}
SQUARE = {"mixture": {"family": [{"name": "compare", "low": -2, "high": 2}]}}


def a_plane(diagonal: float, reach: int = 4) -> pd.DataFrame:
    """A plane of four programs a cell: all right but on the diagonal beyond -2..2, where this share is; all wrong
    answers are no relation."""
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"))
    inside = np.maximum(abs(x), abs(y)) <= 2
    region = np.where(inside, "inside", np.where(x == y, "outside, X = Y", "outside, X and Y differ"))
    right = np.where(region == "outside, X = Y", diagonal, 1.0)
    signs = {name: 4 * right * (np.sign(x - y) == sign) for name, sign in (("less", -1), ("equal", 0), ("greater", 1))}
    table = pd.DataFrame(
        {"x": x, "y": y, "region": region, "accuracy": right, "n": 4, **signs, "other": 4 * (1 - right)}
    )
    return table[list(COLUMNS)]


def of_sweep() -> pd.DataFrame:
    parts = [
        a_plane(right if seed else right / 2).assign(cell=cell, seed=seed, arm=f"arm of {cell}")
        for cell, right in RIGHT.items()
        for seed in (0, 1, 2)
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = a_sweep(tmp_path / "sweep", planted_table())
    of_sweep().to_parquet(folder / "figure1.parquet", index=False)
    a_plane(0.5).to_parquet(tmp_path / "beside.parquet", index=False)
    return folder


def test_planted_shares_are_found_again(folder: Path) -> None:
    found = planes.read(folder, STORED | SQUARE, str(folder.parent / "beside.parquet"))
    assert found.square == (-2, 2)
    table = planes.shares(found).set_index(["cell", "seed", "region"])
    assert table.right["arm = arm of cell00", 0, "diagonal"] == 0.125
    assert table.right["arm = arm of cell00", 1, "diagonal"] == 0.25
    assert table.other["arm = arm of cell00", 1, "diagonal"] == 0.75
    assert table.right["arm = arm of cell01", 2, "diagonal"] == 1
    assert table.right[planes.BESIDE, -1, "diagonal"] == 0.5
    assert (table.right.xs("inside", level="region") == 1).all()
    assert table.n["arm = arm of cell00", 0, "diagonal"] == 4 * 4
    assert planes.sentence(found) == (
        "On Figure 1's diagonal beyond the trained square X = Y is told (least / median / greatest over seeds; in "
        "brackets how often `=` is said of unequal numbers in the same corners) in arm = arm of cell00: 0.12 / 0.25 / "
        "0.25 (0.00 / 0.00 / 0.00); arm = arm of cell01: 0.50 / 1.00 / 1.00 (0.00 / 0.00 / 0.00); the model beside: "
        "0.50 (0.00); the paper's model: 0.46."
    )
    section = planes.section(found)
    assert list(section.display_table["cell"]) == [
        "arm = arm of cell00",
        "arm = arm of cell01",
        planes.BESIDE,
        planes.OF_PAPER,
    ]
    assert section.display_table["no relation"].iloc[0] == "0.75 / 0.75 / 0.88"


def test_a_model_that_says_equal_of_all_large_numbers_is_seen(folder: Path) -> None:
    """Its diagonal is right; the corners beside it say why. There are 4 unequal pairs: 3, 4 and -3, -4, either way."""
    table = pd.read_parquet(folder / "figure1.parquet")
    above = (table[["x", "y"]].min(axis=1) > 2) & (table["x"] != table["y"]) & (table["cell"] == "cell01")
    table.loc[above, ["less", "equal", "greater", "accuracy"]] = [0.0, 4.0, 0.0, 0.0]
    table.to_parquet(folder / "figure1.parquet", index=False)
    found = planes.read(folder, STORED | SQUARE)
    corners = planes.shares(found).set_index(["cell", "seed", "region"]).xs("corners", level="region")
    assert (corners.n == 4 * 4).all()
    assert (corners.equal["arm = arm of cell00"] == 0).all()
    assert (corners.equal["arm = arm of cell01"] == 0.5).all(), "above the square, not below it"
    display = planes.section(found).display_table.set_index("cell")["= of unequal ones"]
    assert display.tolist() == ["0.00 / 0.00 / 0.00", "0.50 / 0.50 / 0.50", ""]


def test_a_sweep_without_figure_1_has_no_section(tmp_path: Path) -> None:
    folder = a_sweep(tmp_path / "sweep", planted_table())
    assert planes.section(planes.read(folder, STORED)) is None
    assert planes.sentence(planes.read(folder, STORED)) == ""
    with pytest.raises(ValueError, match=re.escape("leave --beside out")):
        planes.read(folder, STORED, "figure1.parquet")


def test_what_is_no_plane_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*absent.parquet; name tables/figure1.parquet of a report"):
        planes.read(folder, STORED, str(folder / "absent.parquet"))
    with pytest.raises(ValueError, match="is no plane, it has no column x; name"):
        planes.read(folder, STORED, str(folder / "table.parquet"))


def test_the_names_are_those_of_sweeps() -> None:
    assert planes.REGIONS == PLANE
    assert set(COLUMNS) < set(planes._KEYS)


@pytest.mark.slow
def test_the_page_shows_every_cell(folder: Path, tmp_path: Path, capsys) -> None:
    beside = str(tmp_path / "beside.parquet")
    words = ["generalization", str(folder), "--out", str(tmp_path / "page"), "--draws", "99", "--beside", beside]
    assert main(words) == 0
    page = (tmp_path / "page" / "report.md").read_text()
    assert "arm = arm of cell01: 0.50 / 1.00 / 1.00 (0.00 / 0.00 / 0.00); the model beside: 0.50 (0.00)" in page
    assert "figures/figure1.png" in page
    assert f"--beside {beside}" in page
    assert len(pd.read_parquet(tmp_path / "page" / "tables" / "figure1.parquet")) == (2 * 3 + 1) * 4
