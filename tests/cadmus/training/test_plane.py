"""Figure 1: the programs lie where they are said to, were never trained on, and the answers are the model's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cadmus.machine import tokens, vm
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs import splits
from cadmus.programs.families import Compare
from cadmus.programs.holdout import HoldOut
from cadmus.training.plane import ANSWERS, REGIONS, by_region, draw_plane, figure1

FAMILY = Compare(low=-3, high=3, length=3)
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
    assert (table.region == REGIONS[0]).sum() == 7 * 7
    assert table.region[3, -3] == REGIONS[0]
    assert table.region[4, 4] == REGIONS[1]
    assert table.region[4, 3] == REGIONS[2]


def test_programs_lie_in_their_cells_and_were_never_trained_on() -> None:
    programs, cells = draw_plane(FAMILY, 5, HOLD_OUT, 4, seed=1)
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


def test_what_is_not_trained_on_may_be_asked() -> None:
    """The rule `questions` keeps programs out of training, not out of the plane."""
    asking = replace(HOLD_OUT, questions=True)
    expected = draw_plane(FAMILY, 5, HOLD_OUT, 4, seed=1)
    assert all(map(np.array_equal, draw_plane(FAMILY, 5, asking, 4, seed=1), expected))
    assert asking.holds_out(expected[0]).any()


def test_answers_are_those_of_one_program_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    model = Model(CFG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    family = replace(FAMILY, min_length=1)  # of several lengths
    programs, cells = draw_plane(family, 4, None, 2, seed=0)
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


def test_right_answers_are_counted_by_region() -> None:
    table = figure1(saying("="), FAMILY, reach=5, programs=2)
    regions = by_region(table).set_index("region")
    assert list(regions.index) == list(REGIONS)
    assert regions.n.sum() == table.n.sum()
    assert regions.accuracy[REGIONS[1]] == 1
    assert regions.accuracy[REGIONS[2]] == 0
    assert (regions.equal == regions.n).all()
    assert regions[["less", "greater", "other"]].to_numpy().sum() == 0
    assert set(ANSWERS) <= set(regions.columns)
    assert list(by_region(table[table.region == REGIONS[0]]).region) == [REGIONS[0]]
