"""Describing and comparing training distributions: the tables, the page, and the commands as their users meet them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.cli import main
from analyses.commands.terminal import save_table
from analyses.studies.distribution import page as distribution_page
from analyses.studies.distribution import samples, tables
from analyses.studies.distribution.comparison import compare, comparison_rows
from analyses.studies.distribution.study import ALL, DistributionConfig, Source, measure, open_source
from cadmus.corpora.build import build
from cadmus.machine import tokens, vm
from cadmus.programs import mixture, splits
from cadmus.programs.families import Compare, Register
from cadmus.programs.mixture import Component, Mixture, Phase
from cadmus.properties.structure import PROPERTIES


@cache
def opened(name: str = "default") -> Source:
    return open_source(DistributionConfig(name, 1000))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    build(mixture.load("first"), 3000, folder=tmp_path / "corpus")
    return tmp_path / "corpus"


# --- sources ---------------------------------------------------------------------------------------------------------


def test_a_mixture_is_drawn_as_training_sees_it() -> None:
    source = opened()
    assert list(source.samples) == list(mixture.load("default").family_names)
    for name, programs in source.samples.items():
        assert len(programs) == 1000, name
        assert not source.mixture.hold_out.holds_out(programs).any()
        assert (splits.splits(programs) == splits.SPLITS.index("train")).all()
        assert all(map(vm.verdict, tokens.decode(programs[:20])))
    assert sum(source.shares.values()) == pytest.approx(1)


def test_all_families_have_their_shares() -> None:
    source = opened()
    everything = tokens.decode(source.everything)
    register = source.mixture.family("register")
    assert np.mean([register.accepts(text) for text in everything]) == pytest.approx(
        source.shares["register"], abs=0.01
    )


def test_phases_are_weighed_by_their_share(tmp_path: Path) -> None:
    only = Mixture("two", (Component(Compare()),), phases=(Phase(0.25, (Component(Register()),)),))
    path = mixture.save(only, tmp_path / "two.toml")
    source = open_source(DistributionConfig(str(path), 1000))
    assert source.shares == pytest.approx({"register": 0.25, "compare": 0.75})
    assert {name: len(programs) for name, programs in source.samples.items()} == {"register": 250, "compare": 750}


def test_a_corpus_is_sampled(stored: Path) -> None:
    source = open_source(DistributionConfig(str(stored), 1000))
    assert source.corpus is not None
    assert {name: len(programs) for name, programs in source.samples.items()} == {
        "compare": 1000,
        "equality": 500,
        "register": 1000,
    }
    assert source.corpus.contains_programs(source.samples["compare"]).all()


# --- tables ----------------------------------------------------------------------------------------------------------


def test_measure_has_a_row_per_family_and_property() -> None:
    table = measure(opened("first"))
    assert len(table) == 4 * len(PROPERTIES)
    assert list(table.family.unique()) == ["compare", "equality", "register", ALL]
    lengths = table[table.property == "length"].set_index("family").value
    assert lengths["compare"] == 11
    assert 7 <= lengths["equality"] <= 8


@pytest.mark.slow
def test_comparing_a_source_with_itself_finds_no_difference() -> None:
    table = compare(opened("first"), opened("first"))
    assert not table.apart.any()
    assert (table[table.property.str.endswith("divergence")].b < 1e-9).all()


def test_comparing_finds_what_was_turned() -> None:
    one = opened("first")
    other = replace(one, name="turned", samples={**one.samples, "compare": _drawn(Compare(low=0, high=5, length=3))})
    table = compare(one, other, families=["compare"]).set_index("property")
    assert set(table.family) == {"compare"}
    assert table.apart[["length", "value_coverage", "value_entropy", "compound_divergence"]].all()
    assert table.loc["length", ["a", "b"]].tolist() == [11, 7]
    assert not table.apart[["stores", "definitions"]].any()
    rows = comparison_rows(table.reset_index())
    assert rows[0] == ("family", "property", "first", "second", "", "unit")
    assert ("compare", "length", "11 [11, 11]", "7 [7, 7]", "*", "tokens") in rows


def _drawn(family: Compare, n: int = 1000) -> np.ndarray:
    return family.generate(n, np.random.default_rng(0))


def test_tables_are_saved_by_ending(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1, 2]})
    assert pd.read_csv(save_table(table, tmp_path / "t.csv")).equals(table)
    assert pd.read_parquet(save_table(table, tmp_path / "t.parquet")).equals(table)
    with pytest.raises(ValueError, match=r"t\.xlsx ends neither in \.csv nor in \.parquet"):
        save_table(table, tmp_path / "t.xlsx")


def test_distributions_are_shares() -> None:
    table = tables.distributions(opened("first").samples)
    whole = table[table.what != "skeletons"].groupby(["family", "what"]).share.sum()
    assert np.allclose(whole, 1)
    lengths = table[(table.family == "compare") & (table.what == "tokens")]
    assert lengths[["x", "share"]].to_numpy().tolist() == [[11, 1.0]]
    ranks = table[(table.family == "compare") & (table.what == "skeletons")]
    assert (np.diff(ranks.share) <= 0).all()
    used = tables.instructions(opened("first").samples)
    assert np.allclose(used.groupby("family").share.sum(), 1)


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "paper"])
def test_the_page_of_a_shipped_mixture(name: str, tmp_path: Path) -> None:
    source = opened(name)
    page = distribution_page.make(DistributionConfig(name, 1000), tmp_path)
    html, markdown = page.read_text(encoding="utf-8"), (tmp_path / "report.md").read_text(encoding="utf-8")
    for family in source.samples:
        assert family in html
        assert family in markdown
    assert "| nan" not in markdown
    saved = {path.stem: pd.read_parquet(path) for path in (tmp_path / "tables").glob("*.parquet")}
    assert len(saved["properties"]) == (len(source.samples) + 1) * len(PROPERTIES)
    assert len(saved["knobs"]) > 60
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for name in ("distributions", "instructions") for kind in ("png", "svg")}
    if name == "default":
        far = saved["out_of_distribution"].set_index(["set", "property"])
        assert len(far) == 8
        compound = far.xs("compound_divergence", level="property")
        assert (compound.low > compound[["within_a", "within_b"]].max(axis=1)).all(), "a set is like training"


# --- the commands ----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    return main(["data", *map(str, arguments)])


def test_build_stores_a_corpus_and_says_what_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "corpus"
    assert run("build", "first", "--programs", "2000", "--out", out, "--workers", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["family", "programs", "draws", "per", "program"]
    assert lines[1].split()[:2] == ["compare", "1,000"]
    assert lines[-1] == str(out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["families"]["compare"]["programs"] == 1000
    shard = np.load(next(out.glob("shards/*compare*.npy")))
    assert shard.dtype == np.uint8
    again = {path.name: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert run("build", "first", "--programs", "2000", "--out", out, "--workers", "1") == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.rglob("*.npy")} == again, "one that is there is opened"


@pytest.mark.slow
def test_describe_writes_the_page_of_a_corpus(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("describe", stored, "--programs", "1000", "--out", tmp_path / "page") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page" / "index.html")
    assert "draws per program" in (tmp_path / "page" / "report.md").read_text(encoding="utf-8")


def test_knobs_are_listed_with_what_they_do(capsys: pytest.CaptureFixture) -> None:
    assert run("knobs", "register", "random") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:]} == {"register", "random"}
    assert any(line.startswith("register  max_stores") and "the most stores of a program" in line for line in lines)
    assert run("knobs") == 0
    assert len(capsys.readouterr().out.splitlines()) > 120


def test_sample_prints_programs_and_decisions(capsys: pytest.CaptureFixture) -> None:
    assert run("sample", "default", "--family", "compare", "--family", "induce", "-n", "3", "--split", "test") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    family, program, decision = lines[1].split()
    assert family == "compare"
    assert vm.verdict(program)
    assert splits.split(program) == "test"
    assert decision.replace("[", "").replace("]", "") == program


def test_sample_takes_members_of_a_corpus(stored: Path) -> None:
    taken = [text for _, text, _ in samples.take(str(stored), [], 4, "train", None, 0)]
    assert len(taken) == 12
    assert open_source(DistributionConfig(str(stored), 1000)).corpus.contains(taken).all()


def test_sample_of_an_out_of_distribution_set(capsys: pytest.CaptureFixture) -> None:
    assert run("sample", "default", "--out-of-distribution", "longer_expressions", "-n", "2") == 0
    assert all(len(line.split()[1]) == 16 for line in capsys.readouterr().out.splitlines()[1:])


def test_compare_prints_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "table.csv"
    assert run("compare", "first", "default", "--family", "compare", "--programs", "1000", "--out", path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("compare  compound_divergence") for line in lines)
    assert lines[-1] == str(path)
    assert "apart" in pd.read_csv(path).columns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "nothing", "--out", "OUT"], "no mixture 'nothing'"),
        (["build", "first", "--out", "OUT"], "mixture 'first' does not say how many programs; pass --programs"),
        (["describe", "first", "--programs", "10", "--out", "OUT"], "greater than or equal to 1000"),
        (["describe", "nothing", "--out", "OUT"], "no mixture 'nothing'"),
        (["sample", "default", "--family", "nothing"], "mixture 'default' has no family 'nothing'; it has arith"),
        (["sample", "default", "--split", "tst"], "unknown split 'tst'; there are train, validation, test"),
        (
            ["sample", "default", "--out-of-distribution", "x"],
            "no out-of-distribution set 'x'; there are unseen_values",
        ),
        (
            ["sample", "default", "--out-of-distribution", "unseen_values", "--split", "test"],
            "--split does not go with --out-of-distribution: none of a set was trained on",
        ),
        (
            ["sample", "first", "-n", "100000000"],
            "100,000,000 programs of a family are no sample; take 100,000 at most",
        ),
        (
            ["sample", "default", "--out-of-distribution", "unseen_values", "--family", "compare"],
            "--family does not go with --out-of-distribution: unseen_values is of compare",
        ),
        (["compare", "first", "paper", "--family", "register"], "first and paper do not both have family 'register'"),
        (["compare", "first", "paper", "--out", "OUT/table.xlsx"], "ends neither in .csv nor in .parquet"),
        (["knobs", "nothing"], "unknown family 'nothing'; there are arith, equality"),
        (["frobnicate"], "No such command 'frobnicate'. (see cadmus-probe data --help)"),
        (["build"], "see cadmus-probe data build --help"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(*(argument.replace("OUT", str(tmp_path / "out")) for argument in arguments)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("cadmus-probe: error: ")
    assert message in line
    assert not list(tmp_path.rglob("*.json"))


def test_an_unknown_corpus_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    assert run("describe", tmp_path / "empty", "--out", tmp_path / "page") == 2
    assert (
        "is half-written (it has no manifest.json); run the command that began it again, or delete the folder"
        in capsys.readouterr().err
    )
