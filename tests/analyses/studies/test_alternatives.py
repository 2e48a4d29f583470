"""The study of alternative machines: what its table and sentence say, and that no machine is too few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.cli import main
from analyses.reporting.report import with_interval
from analyses.studies.alternatives.study import AlternativesConfig, AlternativesResults
from analyses.studies.alternatives.summary import summary
from cadmus.training import checkpoint
from tests.studies import MICRO


def sentences(**gaps: list[float]) -> tuple[str, ...]:
    """The page's first sentences; gaps: by variable, the lower bound of the gap to each machine."""
    rows = [
        {"variable": name, "machine": f"m{k}", "gap": low + 0.1, "gap_low": low, "gap_high": low + 0.2}
        for name, row in gaps.items()
        for k, low in enumerate(row)
    ]
    table = pd.DataFrame(rows)
    return summary(AlternativesResults(AlternativesConfig(), checkpoint.load(MICRO), table, table, table))


def test_the_sentences_say_which_machines_are_read_worse_and_by_how_much() -> None:
    every = (
        "The probe is more selective for the machine's states than for those of every alternative machine (lower bound "
        "of the gap above 0; smallest gap) for "
    )
    assert sentences(a=[0.1, 0.2], b=[-0.1, 0.2], c=[-0.1, 0.0], d=[0.3]) == (
        f"{every}2 of 4 variables: a 0.20 [0.10, 0.30]; d 0.40 [0.30, 0.50].",
        "For 1 variable this holds against some of the machines only: b (1 of 2).",
        "For 1 variable it holds against none of them (greatest gap): c 0.10 [0.00, 0.20].",
    )
    assert sentences(c=[-0.1])[0] == f"{every}0 of 1 variables."
    assert sentences() == ("No alternative machine changes the states of any variable enough to tell.",)


def test_configs_that_cannot_be_are_refused() -> None:
    for options, message in (
        ({"machines": 0}, "machines = 0 must be 1 or more"),
        ({"programs": 199}, "programs = 199 must be 200 or more"),
        ({"seed": -1}, "seed = -1 must lie in 0"),
    ):
        with pytest.raises(ValueError, match=message):
            AlternativesConfig(**options)


@pytest.mark.slow
def test_the_page_compares_every_machine_at_the_best_site(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "page"
    assert main(["alternatives", MICRO, "--programs", "300", "--machines", "3", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    machines = pd.read_parquet(out / "tables" / "machines.parquet")
    assert len(machines) == 3
    assert np.diff(machines.distance).min() > 0, "nearest first"
    assert machines.distance.to_numpy() == pytest.approx(machines.distance.max() * np.array([1, 2, 3]) / 3, abs=0.08)
    gaps = pd.read_parquet(out / "tables" / "gaps.parquet")
    assert set(gaps.machine) <= set(machines.name)
    text = (out / "report.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ") and "alternative " in line.split("|")[3]]
    assert len(lines) == len(gaps) / gaps.site.nunique()
    for line in lines:
        variable, layer, machine = (cell.strip() for cell in line.split("|")[1:4])
        row = gaps[(gaps.variable == variable) & (gaps.layer == int(layer)) & (gaps.machine == machine)].iloc[0]
        assert with_interval(row.gap, row.gap_low, row.gap_high) in line
        assert f"| {machines.set_index('name').distance[machine]:.2f} |" in line
        assert f"| {row.differing:.0%} | {row.clusters} |" in line
    assert f"cadmus-probe alternatives {MICRO} --programs 300 --machines 3 --seed 0" in text
