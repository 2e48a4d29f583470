"""Models side by side, by the tables of their reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.reporting import report
from analyses.studies.interventions import tables as interventions
from analyses.studies.model_report import comparison
from analyses.studies.model_report.study import ModelReportConfig
from cadmus.runtime import artifacts
from cadmus.statistics.proportions import wilson
from tests.analyses.studies.interventions import planted_tables


def completion(correct: dict[str, int], n: int = 100) -> pd.DataFrame:
    low, high = wilson(list(correct.values()), [n] * len(correct))
    shares = np.array(list(correct.values())) / n
    return pd.DataFrame({"family": list(correct), "split": "test", "accuracy": shares, "low": low, "high": high})


def reported(folder: Path, **tables: pd.DataFrame) -> ModelReportConfig:
    """The folder of a report that has these tables, as a config."""
    sections = tuple(report.Section(name, name.capitalize(), table=table) for name, table in tables.items())
    report.write(report.Report("A report", ("found",), sections), folder)
    return ModelReportConfig(str(folder))


def test_reports_stand_side_by_side(tmp_path: Path) -> None:
    found_uses = interventions.headlines(planted_tables.tables())
    one = reported(tmp_path / "one", completion=completion({"compare": 95, "register": 90}), findings=found_uses)
    two = reported(tmp_path / "two", completion=completion({"compare": 60, "stack": 20}))
    page = comparison.make([one, two], tmp_path / "both").read_text()
    assert "<title>one and two side by side</title>" in page
    assert "one: 2 of 2 families completed at 0.90 or better, 2 of 3 exchanged variables used; two: 0 of 2" in page
    table = pd.read_parquet(tmp_path / "both" / "tables" / "completion.parquet").set_index("family")
    assert list(table.index) == ["compare", "register", "stack"]
    assert table.loc["compare", "two minus one"] == "-0.35 [-0.45, -0.24]"  # Newcombe 1998, method 10
    assert table.loc["register", "two"] == table.loc["stack", "two minus one"] == ""
    uses = pd.read_parquet(tmp_path / "both" / "tables" / "uses.parquet").set_index("variable")
    assert uses.loc["reg", "one"].endswith("read and used; later spent")


def test_two_of_one_name_are_told_apart_and_other_folders_refused(tmp_path: Path) -> None:
    configs = [reported(tmp_path / place / "run", completion=completion({"compare": 50})) for place in "ab"]
    assert "run-1 and run-2 side by side" in comparison.make(configs, tmp_path / "both").read_text()
    other = reported(tmp_path / "other", gaps=pd.DataFrame({"x": [1]}))
    with pytest.raises(artifacts.ArtifactError, match="is not a report about a model; name one of cadmus-probe report"):
        comparison.make([other, configs[0]], tmp_path / "both")
