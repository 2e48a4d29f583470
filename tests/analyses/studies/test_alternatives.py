"""The study of alternative machines: what its table and sentence say, and that no machine is too few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.cli import main
from analyses.reporting.report import with_interval
from analyses.studies.alternatives import study
from analyses.studies.alternatives.study import AlternativesConfig
from tests.studies import save_run


def table_of(**gaps: list[float]) -> pd.DataFrame:
    """A table of `by_distance`: by variable, the lower bound of the gap to each machine."""
    rows = [
        {"variable": name, "machine": f"m{k}", "gap_low": low}
        for name, row in gaps.items()
        for k, low in enumerate(row)
    ]
    return pd.DataFrame(rows)


def test_the_sentence_says_which_machines_are_read_worse() -> None:
    (said,) = study.summary(table_of(a=[0.1, 0.2], b=[-0.1, 0.2], c=[-0.1, 0.0], d=[0.3]))
    assert said == (
        "The machine's states are more selective (lower bound of the gap above 0) than those of every alternative "
        "machine for a, d; than those of some alternative machines, not all, for b; than those of no alternative "
        "machine for c."
    )
    assert study.summary(table_of(c=[-0.1]))[0].endswith("above 0) than those of no alternative machine for c.")
    (said,) = study.summary(table_of())
    assert said == "No alternative machine changes the states of any variable enough to tell."


def test_no_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="machines = 0 must be 1 or more"):
        AlternativesConfig(machines=0)


def test_the_page_compares_every_machine_at_the_best_site(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = save_run(tmp_path / "run")
    out = tmp_path / "page"
    assert main(["semantics", run, "--programs", "300", "--machines", "3", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    machines = pd.read_parquet(out / "tables" / "machines.parquet")
    assert len(machines) == 3
    assert np.diff(machines.distance).min() > 0, "nearest first"
    assert machines.distance.to_numpy() == pytest.approx(machines.distance.max() * np.array([1, 2, 3]) / 3, abs=0.08)
    gaps = pd.read_parquet(out / "tables" / "gaps.parquet")
    assert set(gaps.machine) <= set(machines.name)
    text = (out / "report.md").read_text()
    shown = [line for line in text.splitlines() if line.startswith("| ") and "alternative " in line.split("|")[3]]
    assert len(shown) == len(gaps) / gaps.site.nunique()
    for line in shown:
        variable, layer, machine = (cell.strip() for cell in line.split("|")[1:4])
        row = gaps[(gaps.variable == variable) & (gaps.layer == int(layer)) & (gaps.machine == machine)].iloc[0]
        assert with_interval(row.gap, row.gap_low, row.gap_high) in line
        assert f"| {machines.set_index('name').distance[machine]:.2f} |" in line
        assert f"| {row.differing:.0%} | {row.clusters} |" in line
    assert f"cadmus-probe semantics {run} --programs 300 --machines 3 --seed 0" in text
