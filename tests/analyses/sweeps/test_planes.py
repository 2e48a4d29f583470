"""Figure 1 of a sweep's models, arms of a mixture, and corpora that break what is demanded of them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.sweeps.cells import runs_of
from analyses.sweeps.execution import run_sweep
from analyses.sweeps.folder import read_status, stored_runs
from analyses.sweeps.planes import COLUMNS, plane, plane_responses
from cadmus.machine import vm
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from tests.analyses.sweeps.tiny import serial, tiny

RESPONSES = ["accuracy.in_distribution", "figure1.inside", "figure1.diagonal", "figure1.outside"]
SQUARE = {"low": -3, "high": 3, "length": 3}
WIDE = {"low": -6, "high": 6, "length": 4, "operators": "+-*~m"}
BREAKING = {"property": "compared_greatest", "most": 3}


def arms(**changes):
    """A sweep of two arms: numbers beyond the square that are compared, and the same told apart by their difference."""
    tables = {
        "responses": RESPONSES,
        "mixture": {
            "name": "square",
            "family": [{"name": "compare", **SQUARE}, {"name": "equality", **WIDE, "low": -3, "high": 3}],
        },
        "factor": [
            {
                "name": "arm",
                "variants": {
                    "lenient": {"family": [{"name": "equality", **WIDE}]},
                    "strict": {"family": [{"name": "equality", **WIDE, "test": "-"}]},
                },
            }
        ],
        "measure": {"programs": 20, "property_programs": 60, "plane_reach": 5, "plane_programs": 2},
        "pilot": None,
        "hypothesis": None,
    }
    return tiny(**(tables | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "arms"
    return folder, run_sweep(arms(), folder, serial).table


def test_what_a_corpus_compares_stands_beside_every_response(finished):
    _, table = finished
    greatest = table.groupby("arm")["property.compared_greatest"].unique()
    least = table.groupby("arm")["property.compared_least"].unique()
    assert (greatest["lenient"], greatest["strict"]) == ([6], [3])
    assert (least["lenient"], least["strict"]) == ([-6], [-3])


def test_every_model_has_its_plane(finished):
    folder, table = finished
    assert (table["status"] == "ok").all()
    planes = pd.read_parquet(folder / "figure1.parquet")
    assert list(planes.columns) == ["cell", "seed", "arm", *COLUMNS]
    for (cell, seed), part in planes.groupby(["cell", "seed"]):
        assert len(part) == 11 * 11
        rows = table[(table["cell"] == cell) & (table["seed"] == seed)].set_index("response")
        for region, response in (("inside", "inside"), ("outside, X = Y", "diagonal")):
            mine = part[part["region"] == region]
            assert rows["value"][f"figure1.{response}"] == pytest.approx((mine.accuracy * mine.n).sum() / mine.n.sum())
            assert rows["n"][f"figure1.{response}"] == mine.n.sum()


@pytest.mark.parametrize(("token", "diagonal"), [("=", 1.0), ("<", 0.0)])
def test_a_constant_answer_is_found_again(token: str, diagonal: float):
    model = Model(ModelConfig(n_layers=1, d_model=16, n_heads=1, d_head=16, d_mlp=32, n_ctx=16))
    with torch.no_grad():
        model.unembed.b_U[vm.VOCAB.index(token)] = 100.0
    sweep = arms()
    table = plane(sweep, model.eval(), seed=0)
    rows = {row.response: row for row in plane_responses(sweep, table)}
    assert list(rows) == RESPONSES[1:]
    assert rows["figure1.diagonal"].value == diagonal
    assert rows["figure1.outside"].value == pytest.approx(0.0 if token == "=" else 0.5, abs=0.1)
    assert rows["figure1.diagonal"].n == 2 * 4
    small = arms(measure={"plane_reach": 3, "plane_programs": 2})
    (missing,) = [r for r in plane_responses(small, plane(small, model, 0)) if r.response == "figure1.diagonal"]
    assert np.isnan(missing.value)
    assert "raise plane_reach" in missing.why


def test_a_corpus_that_breaks_what_is_demanded_fails_before_its_model_is_trained(tmp_path):
    sweep = arms(seeds=[0, 1], demand=[{**BREAKING, "cell": {"arm": ["strict", "lenient"]}}])
    result = run_sweep(sweep, tmp_path / "s", serial)
    assert len(result.failed) == 2
    line = (
        "arm = lenient, seed 0: corpus: the corpus of the cell (arm = lenient) has compared_greatest = 6, 3 or less is "
        "demanded; change what the cell's families draw, or the demand"
    )
    assert line in result.failed
    states = {run.label: read_status(tmp_path / "s", run).state for run in runs_of(*_stored(tmp_path / "s"))}
    assert states == {
        "arm = lenient, seed 0": "failed",
        "arm = strict, seed 0": "done",
        "arm = lenient, seed 1": "failed",
        "arm = strict, seed 1": "done",
    }
    assert len(list((tmp_path / "s" / "model").iterdir())) == 2
    stored = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert stored["sweep"]["demands"][0]["most"] == 3


def test_what_is_demanded_of_another_cell_or_of_a_sampled_property_is_seen_too(tmp_path):
    fine = arms(seeds=[0], demand=[{**BREAKING, "cell": {"arm": "strict"}}, {"property": "length", "least": 2}])
    assert not run_sweep(fine, tmp_path / "fine", serial).failed
    short = arms(seeds=[0], demand=[{"property": "length", "most": 4, "cell": {"arm": "strict"}}])
    (failure,) = run_sweep(short, tmp_path / "short", serial).failed
    assert "the corpus of the cell (arm = strict) has length = " in failure
    assert "4 or less is demanded" in failure


def _stored(folder):
    sweep, runs = stored_runs(folder)
    return sweep, list({run.cell.key: run.cell for run in runs}.values())
