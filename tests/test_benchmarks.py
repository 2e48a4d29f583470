"""The command that runs the benchmarks; what they measure is not run here."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks import __main__ as command
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
