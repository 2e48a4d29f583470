"""Figure 2: both numbers are read beside every control. The page states what the tables hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.cli import main
from analyses.reporting.report import with_interval
from analyses.studies.paper import study
from analyses.studies.paper.study import figure2
from cadmus.machine import kernel, vm
from cadmus.models.config import ModelConfig
from cadmus.models.hooks import Hook
from cadmus.models.model import Model
from cadmus.programs.families import Compare, Equality
from cadmus.programs.mixture import Component, Mixture
from cadmus.states import variables
from cadmus.statistics.proportions import wilson
from cadmus.training import checkpoint
from cadmus.training.plane import REGIONS, by_region
from tests.studies import MICRO

FAMILY = Compare(low=-3, high=3, length=3)
FEW = ["--eval-programs", "20", "--number-programs", "200"]
CFG = ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=32, n_ctx=16)


def saying(token: str) -> Model:
    """A model whose next token is always the same."""
    model = Model(CFG)
    with torch.no_grad():
        model.unembed.b_U[vm.VOCAB.index(token)] = 100.0
    return model.eval()


def test_wilson_intervals_hold_the_estimate_and_shrink() -> None:
    low, high = wilson([0, 5, 10, 500], [10, 10, 10, 1000])
    assert (low <= [0, 0.5, 1, 0.5]).all()
    assert (high >= [0, 0.5, 1, 0.5]).all()
    assert high[0] == pytest.approx(0.2775, abs=1e-4)  # Wilson 1927: z² / (n + z²)
    assert high[3] - low[3] < high[1] - low[1]


# --- Figure 2 --------------------------------------------------------------------------------------------------------


class Known(Model):
    """Its residual stream holds X from X's last token on, then Y too; it is no model otherwise."""

    def run_with_hooks(self, sequences, hooks=(), return_type="logits", **options):
        traces = kernel.traces(sequences[:, 1:].numpy().astype(np.uint8))
        depth, top, beneath = (variables.read(traces, name) for name in ("depth", "stack.0", "stack.1"))
        done, both = np.arange(sequences.shape[1]) >= FAMILY.length, np.arange(sequences.shape[1]) == 2 * FAMILY.length
        x = np.where(both, beneath.values, np.where(depth.values == 1, top.values, 0)) * done
        held = np.stack([x, np.where(both, top.values, 0)], -1).astype(np.float32)
        for site, keep in hooks:
            keep(torch.from_numpy(np.pad(held, ((0, 0), (0, 0), (0, CFG.d_model - 2)))), Hook(site))


def test_figure_2_finds_numbers_where_they_are_held_and_not_before() -> None:
    rows = figure2({"trained": Known(CFG).eval(), "untrained": Model(CFG).eval()}, FAMILY, programs=300)
    assert len(rows) == 2 * 2 * 7 * 2 * 2  # models, sites, tokens, numbers, metrics
    assert set(rows.position) == set(range(1, 8))
    table = rows[(rows.model == "trained") & (rows.layer == 1)].set_index(["metric", "variable", "position"])
    assert table.score["R2", "first number", 3] > 0.99
    assert table.score["R2", "first number", 6] > 0.99
    assert table.score["R2", "second number", 6] > 0.99
    assert (table.score["R2"]["first number"].loc[:2] < 0.1).all()
    assert (table.score["R2"]["second number"].loc[:5] < 0.2).all()
    assert table.score["accuracy", "first number", 3] > 0.9
    majority = rows[rows.metric == "accuracy"].groupby(["variable", "position"]).prefix_majority.first()
    assert majority["first number", 3] == pytest.approx(1)
    assert majority["second number", 3] < 0.5
    assert majority["second number", 6] == pytest.approx(1)
    again = figure2({"trained": Known(CFG).eval()}, FAMILY, programs=300)
    pd.testing.assert_frame_equal(again, rows[rows.model == "trained"].reset_index(drop=True))


def test_token_names_are_those_of_the_program() -> None:
    assert study.token_names(FAMILY) == ["X1", "X2", "X3", "Y1", "Y2", "Y3", "rel"]


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    mixture = Mixture("m", (Component(FAMILY),))
    record = {**checkpoint.load(MICRO).record, "snapshots": []}
    checkpoint.save(tmp_path / "run", saying("<"), mixture, record)
    return tmp_path / "run"


@pytest.mark.slow
def test_the_page_states_what_the_table_holds(run, tmp_path, capsys) -> None:
    assert main(["paper", str(run), "--out", str(tmp_path / "page"), "--reach", "5", "--programs", "2", *FEW]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page" / "index.html")
    table = pd.read_parquet(tmp_path / "page" / "tables" / "figure1.parquet")
    regions = by_region(table).set_index("region")
    outside = table[table.region == REGIONS[2]]
    assert regions.accuracy[REGIONS[2]] == pytest.approx((outside.accuracy * outside.n).sum() / outside.n.sum())
    assert regions.accuracy[REGIONS[1]] == 0
    page = (tmp_path / "page" / "report.md").read_text()
    completion = pd.read_parquet(tmp_path / "page" / "tables" / "completion.parquet")
    assert list(completion.split) == ["test", "test_skeleton"]
    for row in completion.itertuples():
        assert f"{row.accuracy:.2f} [{row.low:.2f}, {row.high:.2f}]" in page
    inside = regions.loc[REGIONS[0]]
    assert f"{inside.accuracy:.2f} [{inside.low:.2f}, {inside.high:.2f}]" in page
    numbers = pd.read_parquet(tmp_path / "page" / "tables" / "figure2.parquet")
    assert set(numbers.model) == {"trained", "untrained"}
    first = numbers[(numbers.variable == "first number") & (numbers.metric == "R2") & (numbers.model == "trained")]
    end = first[first.position == FAMILY.length]
    best = end.loc[end.score.idxmax()]
    assert f"with R² {with_interval(best.score, best.low, best.high)} where its expression ends" in page
    for row in first[(first.layer == 1) & first.position.isin([3, 6, 7])].itertuples():
        assert (
            f"| {study.token_names(FAMILY)[row.position - 1]} | 1 | {with_interval(row.score, row.low, row.high)} |"
            in page
        )
    assert (tmp_path / "page" / "figures" / "figure2.png").stat().st_size > 0


def test_a_mixture_without_compare_has_no_figure(tmp_path, capsys) -> None:
    checkpoint.save(tmp_path / "run", Model(CFG), Mixture("m", (Component(Equality()),)), {"config": {"seed": 0}})
    assert main(["paper", str(tmp_path / "run"), "--out", str(tmp_path / "page")]) == 2
    assert "mixture 'm' has no family 'compare'; it has equality" in capsys.readouterr().err
