"""The table of scores in words and as a figure; and the page that shows it beside other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probes.measurement import scores
from probes.measurement.score_table import ScoreTable
from tests.planted import AFTER, VARIABLES, measured
from tests.test_readme import blocks, execute


@pytest.fixture(scope="module")
def table() -> ScoreTable:
    return scores.table(measured())


def test_a_line_per_variable_says_what_is_claimed(table: ScoreTable) -> None:
    lines = dict(line.split(": ", 1) for line in table.summary().splitlines())
    assert tuple(lines) == VARIABLES
    row = table[(table.variable == "stack.1.value") & (table.site == AFTER) & (table.by == "all") & (table.offset == 0)]
    expected = row[row.metric == "exact match"].iloc[0]
    assert lines["stack.1.value"].startswith(
        f"exact match {expected.score:.2f} [{expected.low:.2f}, {expected.high:.2f}] at {AFTER}, "
    )
    assert lines["stack.1.value"].endswith(f"beyond {expected.best_control}; read is claimed")
    assert lines["depth"].endswith("; nothing is claimed")


def test_what_could_not_be_measured_says_why(table: ScoreTable) -> None:
    broken = table.copy()
    of_depth = broken.variable == "depth"
    broken.loc[of_depth, "score"] = float("nan")
    broken.loc[of_depth, "problem"] = "constant (4)"
    assert "depth: constant (4)" in ScoreTable(broken).summary().splitlines()


def test_a_figure_has_a_line_per_variable_and_marks_what_is_claimed(table: ScoreTable) -> None:
    (axes,) = table.plot().axes
    labels = [line.get_label() for line in axes.lines if not line.get_label().startswith("_")]
    assert labels == [*VARIABLES, "best control", "claimed"]
    marks = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [line.get_xdata().tolist() for line in marks] == [[1]]  # stack.1.value after the block
    assert len(table.plot(["depth"]).axes[0].lines) == 5
    with pytest.raises(ValueError, match=r"variable 'reg.z' is not in the table; it has stack\.0\.value, "):
        table.plot(["reg.z"])


@pytest.mark.slow
def test_the_page_on_other_tools_runs_as_one_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "interoperability.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    assert sum(execute(block, names) for block in blocks(page)) == 5
    assert len(pd.read_parquet("activations.parquet")) == 22  # 10, 6 and 6 tokens
    assert Path("depth.svg").stat().st_size > 1000
