"""The page about a sweep: drawn from planted tables, and by the command."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.cli import main
from analyses.reporting.figures import panels
from analyses.studies.generalization import figures, models, page, study
from analyses.studies.generalization.study import GeneralizationConfig
from analyses.studies.generalization.summary import summary
from tests.sweep_tables import INSIDE, RESPONSE, STATE, Planted, table_of

STORED = {
    "name": "planted",
    "hypotheses": [
        {"name": "more helps", "response": RESPONSE, "predictor": "property.p0", "expected": "positive"},
        {"name": "less helps", "response": RESPONSE, "predictor": "property.p1", "expected": "negative"},
    ],
}


def a_sweep(folder: Path, table: pd.DataFrame) -> Path:
    folder.mkdir()
    table.to_parquet(folder / "table.parquet", index=False)
    (folder / "sweep.json").write_text(json.dumps({"sweep": STORED}))
    return folder


def planted_table() -> pd.DataFrame:
    table = table_of(Planted((4, 3), 0.1, 0.02, state_effect=0.05), 0)
    gone = (table.response == STATE) & (table.cell == "cell02") & (table.seed < 2)
    table.loc[gone, ["status", "why"]] = ["missing", "too few programs for a probe"]
    return table


def results():
    return study.analyze(planted_table(), STORED, GeneralizationConfig("a-sweep", draws=199))


def test_the_sentences_are_those_of_the_tables() -> None:
    outcome = results()
    sentences = summary(outcome)
    row = outcome.hypotheses.iloc[0]
    assert sentences[1] == "Of 2 hypotheses 1 supported, 0 contradicted, 1 undecided."
    assert sentences[0].startswith(f'Supported: "more helps" ({RESPONSE} changes by ')
    effect = f"{row.effect:.2f} [{row.low:.2f}, {row.high:.2f}] per standard deviation of p0 (measured)"
    assert f"{effect} at the same p1 (measured); " in sentences[0]
    medians = outcome.table[outcome.table.response == RESPONSE].groupby("factor0").value.median()
    assert f"medians by factor0: {medians[0]:.2f} at 0, {medians[1]:.2f} at 1, " in sentences[0]
    assert " pairs over all models and in 1 of 1 pairs between seeds of one distribution (q at" in sentences[3]
    assert sentences[4] == "60 models in 12 cells, 5 seeds each; 2 of 180 measurements failed or are missing."


def test_a_sweep_without_hypotheses_or_inner_state_has_a_page_too() -> None:
    table = planted_table()
    outcome = study.analyze(table[table.response == RESPONSE], {}, GeneralizationConfig("a-sweep", draws=99))
    assert summary(outcome)[0].startswith("The sweep states no hypotheses")
    assert [section.name for section in page.sections(outcome)] == [
        "effects",
        "cells",
        "models",
        "levels",
        "properties",
    ]
    assert list(dict.fromkeys(outcome.effects.predictor)) == ["factor0", "factor1"]


def test_arms_without_an_order_have_a_page_without_regressions() -> None:
    table = planted_table().drop(columns="factor1")
    table["factor0"] = table["factor0"].map({0: "base", 1: "more", 2: "fewer", 3: "none"})
    outcome = study.analyze(table, {}, GeneralizationConfig("a-sweep", draws=99))
    assert outcome.effects.empty
    sections = {section.name: section for section in page.sections(outcome)}
    assert "effects" not in sections
    assert "Each response by factor0" in sections["models"].paragraphs[0]
    assert not any("effect" in sentence for sentence in summary(outcome))


def test_few_seeds_are_named() -> None:
    outcome = study.analyze(table_of(Planted((5,), 0.1, 0.02, seeds=3), 0), {}, GeneralizationConfig("x", draws=99))
    assert "15 models in 5 cells, 3 seeds each; fewer than 5 seeds a cell tell little" in summary(outcome)[-1]


def test_the_figures_show_every_model() -> None:
    outcome = results()
    figure = figures.distributions(outcome.table, models.resolve(outcome.table, "property.p0"))
    panel = next(ax for ax in figure.axes if ax.get_title() == RESPONSE)
    drawn = np.concatenate([line.get_ydata() for line in panel.lines])
    assert sorted(drawn) == sorted(outcome.table.loc[outcome.table.response == RESPONSE, "value"])
    figure = figures.inner_state(outcome.table, outcome.inner_state)
    assert sum(len(line.get_xdata()) for line in figure.axes[0].lines[:-1]) == 58
    assert len(figures.effects(outcome.effects).axes) >= 3


@pytest.mark.slow
def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sweep = a_sweep(tmp_path / "sweep", planted_table())
    assert main(["generalization", str(sweep), "--out", str(tmp_path / "page"), "--draws", "199"]) == 0
    assert "index.html" in capsys.readouterr().out
    text = (tmp_path / "page" / "report.md").read_text()
    for heading in ("The hypotheses, one by one", "What goes with what", "Every model", "What is missing"):
        assert heading in text
    tables = {path.stem for path in (tmp_path / "page" / "tables").glob("*.csv")}
    assert tables == {section.name for section in page.sections(results())}
    assert {path.stem for path in (tmp_path / "page" / "figures").glob("*.png")} == {"effects", "models", "inner_state"}
    again = study.run(GeneralizationConfig(str(sweep), draws=199))
    written = pd.read_parquet(tmp_path / "page" / "tables" / "effects.parquet")
    pd.testing.assert_frame_equal(written, again.effects)


def test_labels_of_neighbours_do_not_meet() -> None:
    """The name of a property is wider than one of four panels."""
    figure, axes = panels(["one", "two", "three", "four"], 1.9, xlabel="compared_greatest (measured)")
    figure.canvas.draw()
    boxes = [ax.xaxis.label.get_window_extent() for ax in axes.values()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert boxes[-1].x1 <= figure.bbox.x1


def test_two_cells_make_a_page_that_fits_nothing(tmp_path: Path) -> None:
    """Of two distributions no effect can be told from the difference between distributions."""
    table = planted_table()
    table = table[table["cell"].isin(table["cell"].unique()[:2])]
    outcome = study.analyze(table, {"hypotheses": []}, GeneralizationConfig("a-sweep", draws=99))
    assert "No effect could be fitted." in summary(outcome)
    assert [section.name for section in page.sections(outcome)]


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["generalization", str(tmp_path), "--out", str(tmp_path / "page")]) == 2
    assert f"{tmp_path} holds no table of a sweep (table.parquet); name the folder" in capsys.readouterr().err
    assert INSIDE in planted_table().response.to_numpy()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sweep.json", "{}", "sweep.json is damaged: it holds no sweep; take it away to study the table alone"),
        ("table.parquet", "{}", "table.parquet is damaged ("),
        ("figure1.parquet", "{}", "figure1.parquet is damaged ("),
    ],
)
def test_a_damaged_sweep_is_refused(
    name: str, content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    planted_table().to_parquet(tmp_path / "table.parquet")
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert main(["generalization", str(tmp_path), "--out", str(tmp_path / "page")]) == 2
    assert message in capsys.readouterr().err
