"""Figure 1: the programs lie where they are said to, were never trained on, and the answers are the model's own.
Figure 2: both numbers are read beside every control. The page states what the tables hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.cli import main
from analyses.reporting.report import with_interval
from analyses.studies.paper import study
from analyses.studies.paper.study import figure1, figure2
from analyses.studies.paper.tables import by_region
from cadmus.machine import kernel, tokens, vm
from cadmus.models.config import ModelConfig
from cadmus.models.hooks import Hook
from cadmus.models.model import Model
from cadmus.programs import splits
from cadmus.programs.families import Compare, Equality
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Component, Mixture
from cadmus.states import variables
from cadmus.statistics.proportions import wilson
from cadmus.training import checkpoint
from tests.studies import MICRO

FAMILY = Compare(low=-3, high=3, length=3)
FEW = ["--eval-programs", "20", "--number-programs", "200"]
HOLD_OUT = HoldOut(pairs=("0*",))
CFG = ModelConfig(n_layers=1, d_model=32, n_heads=1, d_mlp=32, n_ctx=16)


def saying(token: str) -> Model:
    """A model whose next token is always the same."""
    model = Model(CFG)
    with torch.no_grad():
        model.unembed.b_U[vm.VOCAB.index(token)] = 100.0
    return model.eval()


@pytest.mark.parametrize(("token", "right"), [("<", -1), ("=", 0), (">", 1), ("7", None)])
def test_a_constant_answer_is_right_where_it_holds(token: str, right: int | None) -> None:
    table = figure1(saying(token), FAMILY, reach=5, programs=3)
    assert len(table) == 11 * 11
    expected = np.sign(table.x - table.y) == right
    assert (table.accuracy == expected).all()
    name = {"<": "less", "=": "equal", ">": "greater"}.get(token, "other")
    assert (table[name] == table.n).all()
    assert (table[["less", "equal", "greater", "other"]].sum(axis=1) == table.n).all()


def test_regions_are_of_the_trained_square() -> None:
    table = figure1(saying("<"), FAMILY, reach=5, programs=2).set_index(["x", "y"])
    assert (table.region == study.REGIONS[0]).sum() == 7 * 7
    assert table.region[3, -3] == study.REGIONS[0]
    assert table.region[4, 4] == study.REGIONS[1]
    assert table.region[4, 3] == study.REGIONS[2]


def test_programs_lie_in_their_cells_and_were_never_trained_on() -> None:
    programs, cells = study.draw_plane(FAMILY, 5, HOLD_OUT, 4, seed=1)
    texts = tokens.decode(programs)
    assert len(set(texts)) == len(texts)
    for text, (x, y) in zip(texts, cells.tolist(), strict=True):
        before = vm.run(text[:-2]).states[-1].stack
        assert [value.v for value in before] == [x, y]
        assert vm.run(text).is_true
        if abs(x) <= 3 and abs(y) <= 3:
            assert splits.split(text) in ("test", "test_skeleton")
    assert not HOLD_OUT.holds_out(programs).any()
    counts = pd.Series(map(tuple, cells.tolist())).value_counts()
    assert counts.max() == 4


def test_answers_are_those_of_one_program_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    model = Model(CFG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    family = replace(FAMILY, min_length=1)  # of several lengths
    programs, cells = study.draw_plane(family, 4, None, 2, seed=0)
    right = {}
    for text, (x, y) in zip(tokens.decode(programs), cells.tolist(), strict=True):
        sequence = torch.from_numpy(tokens.sequences(tokens.encode([text[:-2]])))[:, : len(text) - 1]
        with torch.no_grad():
            answer = vm.VOCAB[int(model(sequence)[0, -1].argmax())]
        right.setdefault((x, y), []).append(answer == text[-2])
    table = figure1(model, family, reach=4, programs=2).set_index(["x", "y"])
    assert {cell: np.mean(answers) for cell, answers in right.items()} == table.accuracy.to_dict()


def test_cells_that_training_exhausts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\d+ cells, \(-9, -9\) the first, have no unseen program; ask for a smaller"):
        figure1(saying("<"), Compare(low=-9, high=9, length=3, operators="-"), reach=9, programs=1)


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
    checkpoint.save(tmp_path / "run", saying("<"), mixture, checkpoint.load(MICRO).record)
    return tmp_path / "run"


@pytest.mark.slow
def test_the_page_states_what_the_table_holds(run, tmp_path, capsys) -> None:
    assert main(["paper", str(run), "--out", str(tmp_path / "page"), "--reach", "5", "--programs", "2", *FEW]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page" / "index.html")
    table = pd.read_parquet(tmp_path / "page" / "tables" / "figure1.parquet")
    regions = by_region(table).set_index("region")
    outside = table[table.region == study.REGIONS[2]]
    assert regions.accuracy[study.REGIONS[2]] == pytest.approx((outside.accuracy * outside.n).sum() / outside.n.sum())
    assert regions.accuracy[study.REGIONS[1]] == 0
    page = (tmp_path / "page" / "report.md").read_text()
    completion = pd.read_parquet(tmp_path / "page" / "tables" / "completion.parquet")
    assert list(completion.split) == ["test", "test_skeleton"]
    for row in completion.itertuples():
        assert f"{row.accuracy:.2f} [{row.low:.2f}, {row.high:.2f}]" in page
    inside = regions.loc[study.REGIONS[0]]
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
