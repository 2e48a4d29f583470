"""The command that runs the benchmarks; what they measure is not run here."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest

from benchmarks import __main__ as command
from benchmarks import failures
from benchmarks.measure import BENCHMARKS, Measurement

pytestmark = pytest.mark.slow  # it imports the peers


@pytest.mark.parametrize("passed", [True, False])
def test_a_benchmark_prints_a_table_or_json_and_exits_by_whether_it_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], passed: bool
) -> None:
    """Figures of NumPy's types too, which are what medians and comparisons of arrays give."""
    row = Measurement(
        "planted", np.float64(3.0), np.float32(1.5), np.float64(2.0), ">= 1 x", "s", np.bool_(passed), "-"
    )
    monkeypatch.setitem(BENCHMARKS, "planted", lambda: [row])
    monkeypatch.setattr(sys, "argv", ["benchmarks", "planted", "--json"])
    assert command.main() == (0 if passed else 1)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["ours"], printed["peer"], printed["passed"]) == (3.0, 1.5, passed)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "planted"])
    assert command.main() == (0 if passed else 1)
    assert f"planted  3     1.5   2 x    >= 1 x  s     {'yes' if passed else 'NO'}" in capsys.readouterr().out


def test_failures_are_counted_kind_by_kind(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    """Kinds that part a family add up to all of it, and no kind of a family is right more often than all can be."""
    monkeypatch.setattr(sys, "argv", ["failures", str(tmp_path / "t.csv"), "cadmus-mini", "--programs", "60"])
    failures.main()
    table = pd.read_csv(tmp_path / "t.csv").set_index(["family", "programs"])
    right = (table.accuracy * table.n).round()
    for family, kinds in (
        ("subroutine", ["a call", "a call of a call"]),
        ("sequence_advanced", ["no definition", "a definition first", "a definition last"]),
    ):
        assert sum(table.n.get((family, kind), 0) for kind in kinds) == table.n[family, "all"] == 60
        assert sum(right.get((family, kind), 0) for kind in kinds) == right[family, "all"]
    assert (table.low <= table.accuracy).all()
    assert (table.accuracy <= table.high).all()
    monkeypatch.setattr(sys, "argv", ["failures", str(tmp_path / "none" / "t.csv")])
    with pytest.raises(SystemExit):
        failures.main()
    assert "make it first" in capsys.readouterr().err
