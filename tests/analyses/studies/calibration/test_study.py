"""The study of calibration: rates are counted correctly from planted cases, and the page is whole."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import transformer_lens

from analyses.cli import main
from analyses.studies.calibration import judgements, study
from analyses.studies.calibration.rates import POOLED, auroc, rates
from analyses.studies.calibration.study import CalibrationConfig, CalibrationResults, targets
from analyses.studies.calibration.summary import summary
from cadmus.statistics.proportions import wilson


def cases_of(**rows: tuple[str, str, float, bool]) -> pd.DataFrame:
    """Cases of one model: condition, truth, score, claimed."""
    columns = ["condition", "truth", "score", "claimed"]
    keys = {"instrument": "patch a cell", "fragment": "lookup", "seed": 0}
    return pd.DataFrame(list(rows.values()), columns=columns).assign(**keys)


def rate(table: pd.DataFrame, name: str, condition: str) -> pd.Series:
    rows = table[(table.rate == name) & (table.condition == condition)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_the_area_under_the_curve_is_the_chance_that_a_carrier_is_above():
    rng = np.random.default_rng(0)
    score, is_carrier = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.3
    above = score[is_carrier][:, None] - score[~is_carrier]
    assert auroc(score, is_carrier) == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())
    assert np.isnan(auroc(score, np.zeros(60, bool)))


def test_rates_are_counted_from_claims_and_truth():
    cases = cases_of(
        a=("rotated", "carrier", 0.9, True),
        b=("rotated", "carrier", 0.2, False),
        c=("rotated", "null", 0.1, False),
        d=("rotated", "decoy", 0.3, True),
        e=("decoys", "null", 0.0, False),
        f=("duplicated", "carrier", 0.9, True),
        g=("duplicated", "duplicate", 0.0, False),
        h=("duplicated", "null", 0.0, False),
    )
    table = rates(cases)
    false = rate(table, "false_positive", "rotated")
    assert (false.estimate, false.n) == (0.5, 2)
    assert (false.low, false.high) == wilson(1, 2)
    assert rate(table, "false_positive_decoy", "rotated").estimate == 1
    assert rate(table, "false_negative", "rotated").estimate == 0.5
    assert rate(table, "auroc", "rotated").estimate == 0.75
    pooled = rate(table, "false_positive", POOLED)
    assert (pooled.estimate, pooled.n) == (pytest.approx(1 / 3), 3)
    duplicates = rate(table, "false_negative", "duplicated")
    assert (duplicates.estimate, duplicates.n) == (1, 1), "what is carried once does not count there"
    assert rate(table, "auroc", "duplicated").estimate == 0.5
    assert table[(table.condition == "decoys") & (table.rate != "false_positive")].empty


def test_targets_are_held_against_the_rates():
    good = cases_of(a=("rotated", "carrier", 0.9, True), b=("rotated", "null", 0.0, False))
    bad = cases_of(a=("rotated", "carrier", 0.0, False), b=("rotated", "null", 0.9, True))
    for cases, expected in ((good, True), (bad, False)):
        table = targets(rates(cases)).set_index("name")
        assert list(table.index) == ["patch a cell, rotated", "patch a cell, no carrier"]
        assert (table.passed == expected).all()
    results = CalibrationResults(CalibrationConfig(), bad, rates(bad), pd.DataFrame(), {}, targets(rates(bad)))
    sentences = summary(results)
    assert sentences[0].startswith(
        "0 of 2 figures that calibration must reach are reached: patch a cell, rotated: 0.000"
    )
    assert sentences[-1] == "Rates of false claims rest on fewer than 200 cases: patch a cell (all single)."


@pytest.mark.parametrize(("field", "value"), [("models", 0), ("pairs", 19), ("fit", 99), ("seed", -1)])
def test_a_config_that_measures_nothing_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} = {value} must be"):
        CalibrationConfig(**{field: value})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not hasattr(transformer_lens, "HookedTransformer"), reason="no HookedTransformer")
def test_the_command_writes_a_page_whose_figures_are_reached(tmp_path, capsys):
    assert main(["calibration", "--quick", "--pairs", "24", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "index.html")
    tables = {name: pd.read_parquet(tmp_path / "tables" / f"{name}.parquet") for name in ("targets", "rates", "cases")}
    assert tables["targets"].passed.all()
    assert set(tables["rates"].columns) == {"instrument", "condition", "rate", "estimate", "low", "high", "n"}
    assert (tables["rates"].low <= tables["rates"].estimate).all()
    assert (tables["rates"].estimate <= tables["rates"].high).all()
    assert set(tables["cases"].instrument) == {*study.INSTRUMENTS, *judgements.NAMES}
    assert (tmp_path / "figures" / "rates.png").is_file()
