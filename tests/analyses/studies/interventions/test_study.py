"""The command tests variables and writes a page that agrees with its tables; what is finished is read again; errors are
one line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analyses.cli import main
from analyses.reporting.report import with_interval
from analyses.studies.interventions import page, study
from analyses.studies.interventions.study import InterventionsConfig
from cadmus.programs.families import Compare, Equality, Register
from cadmus.programs.mixture import Component, Mixture
from cadmus.training import checkpoint
from tests.studies import MICRO, save_untrained

FEW = ["--pairs", "40", "--quick"]
TWO = ["--variable", "reg.a", "--variable", "compare.first"]


def fails(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one line that a command ends with."""
    assert main(["intervene", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("cadmus-probe: error: ")
    return error


def test_an_unknown_variable_is_told_with_a_suggestion(tmp_path, capsys) -> None:
    error = fails(["--variable", "compare.frist", "--out", str(tmp_path / "x")], capsys)
    assert "unknown variable 'compare.frist' (did you mean 'compare.first'?)" in error
    assert not (tmp_path / "x").exists()


def test_too_few_pairs_are_refused(capsys) -> None:
    assert "--pairs" in fails(["--pairs", "5"], capsys)
    with pytest.raises(ValueError, match="pairs = 5 must be 20 or more"):
        InterventionsConfig(pairs=5)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="quick and full exclude each other"):
        InterventionsConfig(quick=True, full=True)
    with pytest.raises(ValueError, match=r"reg\.a is named twice; name each variable once"):
        InterventionsConfig(variables=("reg.a", "stack.0", "reg.a"))
    with pytest.raises(ValueError, match="cadmus-micro is named twice"):
        InterventionsConfig(runs=(MICRO, MICRO))
    with pytest.raises(ValueError, match="no model is named"):
        InterventionsConfig(runs=())


def test_a_model_of_other_programs_is_told_before_any_work(tmp_path, capsys) -> None:
    error = fails([MICRO, "--variable", "reg.a", "--variable", "argument", "--out", str(tmp_path / "x")], capsys)
    assert "cadmus-micro was trained on no programs of subroutine, which argument is a variable of" in error
    assert "its mixture has compare, equality, register" in error
    run = save_untrained(tmp_path / "run", Mixture("m", (Component(Equality()),)))
    assert "mixture 'm' has none of the variables reg, stack.0" in fails([run, "--out", str(tmp_path / "x")], capsys)


def test_names_are_short_where_they_differ() -> None:
    assert InterventionsConfig(runs=("runs/a/first", "runs/b/second")).names == ("first", "second")
    assert InterventionsConfig(runs=("runs/a/first", "runs/b/first")).names == ("runs/a/first", "runs/b/first")


def test_the_key_of_an_experiment_changes_with_what_it_is_made_of(tmp_path, monkeypatch) -> None:
    trained = checkpoint.load(MICRO)
    other = checkpoint.load(save_untrained(tmp_path / "run"))
    config = InterventionsConfig(runs=(MICRO,))
    keys = [study.key(config, trained, "reg.a"), study.key(config, trained, "reg.b"), study.key(config, other, "reg.a")]
    keys += [
        study.key(InterventionsConfig(runs=(MICRO,), **change), trained, "reg.a")
        for change in ({"pairs": 50}, {"seed": 1}, {"quick": True}, {"full": True})
    ]
    assert len(set(keys)) == len(keys)
    assert study.key(InterventionsConfig(runs=("elsewhere",)), trained, "reg.a") == keys[0]
    monkeypatch.setattr(study, "code_fingerprint", lambda: "of other code")
    assert study.key(config, trained, "reg.a") not in keys


def test_the_command_of_a_page_is_the_one_that_makes_it() -> None:
    config = InterventionsConfig(runs=("a b", "c"), variables=("reg.a",), pairs=50, seed=3, quick=True)
    expected = "cadmus-probe intervene 'a b' c --variable reg.a --pairs 50 --seed 3 --quick"
    assert page.command(config) == expected


def test_the_help_of_full_says_what_it_does(capsys) -> None:
    assert main(["intervene", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "All spans of roles, controls in every cell, all kinds of edges on all pairs, paths between heads" in text
    assert "subspace" in text
    assert "attribution" in text


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The page of cadmus-micro beside a model that was never trained."""
    folder = tmp_path_factory.mktemp("interventions")
    run = save_untrained(folder / "blank")
    assert main(["intervene", MICRO, run, "--out", str(folder / "page"), *FEW, *TWO]) == 0
    return folder / "page"


@pytest.mark.slow
def test_the_page_agrees_with_its_tables(finished: Path) -> None:
    text = (finished / "report.md").read_text()
    table = pd.read_parquet(finished / "tables" / "findings.parquet")
    assert list(table["variable"]) == ["reg.a", "compare.first"]
    for row in table.to_dict("records"):
        assert f": {row['finding']}\n" in text
        assert f"{row['pairs']:,} of {row['candidates']:,}" in text
        if row["pairs"]:
            assert with_interval(row["accuracy"], row["accuracy_low"], row["accuracy_high"]) in text
            assert with_interval(row["d"], row["d_low"], row["d_high"]) in text
    verdicts = pd.read_csv(finished / "tables" / "verdicts.csv")
    used = verdicts[verdicts["verdict"] == "used"]
    assert set(table["variable"][table["use"] == "used"]) == set(used["variable"])
    assert (finished / "figures" / "findings.png").stat().st_size > 0
    assert (finished / "figures" / "variable-reg-a.png").stat().st_size > 0


@pytest.mark.slow
def test_a_variable_of_too_few_pairs_becomes_a_row_unless_it_is_named(tmp_path, capsys) -> None:
    mixture = Mixture("m", (Component(Compare()), Component(Register(low=0, high=0))))
    run = save_untrained(tmp_path / "run", mixture)
    assert main(["intervene", run, "--out", str(tmp_path / "page"), *FEW]) == 0
    table = pd.read_parquet(tmp_path / "page" / "tables" / "findings.parquet").set_index("variable")
    assert table.loc["reg", "use"] == "untested"
    assert "have sources whose answers differ" in table.loc["reg", "reason"]
    assert table.loc["argument", "reason"] == study.NOT_TRAINED
    assert table.loc["compare.first", "use"] == "undecided"
    text = (tmp_path / "page" / "report.md").read_text()
    (remark,) = [line for line in text.splitlines() if line.startswith("Not tested: ")]
    assert "the value of a register (" in remark
    error = fails([run, "--variable", "reg", "--out", str(tmp_path / "x"), *FEW], capsys)
    assert "have sources whose answers differ" in error


@pytest.mark.slow
def test_several_models_give_a_count(finished: Path) -> None:
    table = pd.read_parquet(finished / "tables" / "models.parquet")
    assert list(table["models"]) == [2, 2]
    of_micro = pd.read_parquet(finished / "tables" / "findings.parquet")["use"] == "used"
    assert list(table["used"]) == list(of_micro.astype(int))  # the other model completes nothing
    assert list(table["cadmus-micro"].str.match("(read and |readable and )?used")) == list(of_micro)
    assert table["blank"].str.contains("undecided").all()  # completes nothing: no pair counts


@pytest.mark.slow
def test_what_is_finished_is_read_again(finished: Path, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / study.EXPERIMENTS).rglob("*") if path.is_file()}
    assert before
    text = (finished / "report.md").read_text()
    run = str(finished.parent / "blank")
    assert main(["intervene", MICRO, run, "--out", str(finished), *FEW, *TWO]) == 0
    assert capsys.readouterr().err.count("read from an earlier run") == 4
    after = {path: path.stat().st_mtime_ns for path in (finished / study.EXPERIMENTS).rglob("*") if path.is_file()}
    assert after == before
    assert (finished / "report.md").read_text() == text
