"""Models trained to a circuit: X lies on the path that was drawn, decoys can be read, and instruments agree."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from analyses.studies.calibration.instruments import INSTRUMENTS, Programs
from analyses.studies.calibration.judgements import UNUSED, USED, USED_TOGETHER, judgements
from analyses.studies.calibration.planted import Planted
from analyses.studies.calibration.rates import auroc, unused_rates
from analyses.studies.calibration.trained import TRAINED, plant_trained
from cadmus.machine import tokens
from cadmus.models.model import Model


@cache
def made() -> Planted:
    return plant_trained(1)


@cache
def programs() -> Programs:
    return Programs.draw(made(), pairs=32, fit=400)


def test_a_trained_model_is_ours_and_completes_as_the_machine_asks():
    planted = made()
    assert isinstance(planted.model, Model)
    assert planted.model.cfg.normalization_type == "LN"
    assert planted.accuracy() >= 0.99
    assert planted.condition == TRAINED
    assert not any(parameter.requires_grad for parameter in planted.model.parameters())
    assert {stream for stream, _ in planted.carriers} == set(range(planted.layers + 1)), (
        "X lies somewhere at each layer"
    )
    assert not planted.carriers & planted.decoys


def test_plain_hooks_say_that_x_lies_on_the_path_and_nowhere_else():
    planted, those = made(), programs()
    base, source = (torch.from_numpy(tokens.sequences(part)).long() for part in (those.base, those.source))
    _, kept = planted.model.run_with_cache(source)
    for stream, position in planted.cells:
        values = kept[planted.site(stream)][:, position]

        def replace(x, hook, position=position, values=values):
            x = x.clone()
            x[:, position] = values
            return x

        with planted.model.hooks([(planted.site(stream), replace)]):
            answers = planted.model(base)[:, planted.length].argmax(1).numpy()
        wanted = those.edited if (stream, position) in planted.carriers else those.answers
        assert (answers == wanted).mean() > 0.9, (stream, position)


@pytest.mark.parametrize("instrument", ["patch a cell", "steer", "steer along covariance"])
def test_instruments_claim_the_path_alone(instrument):
    cases = INSTRUMENTS[instrument](made(), programs())
    assert cases.claimed[cases.truth == "carrier"].all()
    assert not cases.claimed[cases.truth != "carrier"].any()
    assert auroc(cases.score.to_numpy(), (cases.truth == "carrier").to_numpy()) == 1


def test_decoys_can_be_read():
    cases = INSTRUMENTS["read (no intervention)"](made(), programs())
    assert (cases.truth == "decoy").sum() >= 3
    assert cases.claimed[cases.truth == "decoy"].all()


def test_a_seed_fixes_what_is_trained():
    first, again, other = plant_with_few_steps(3), plant_with_few_steps(3), plant_with_few_steps(4)
    assert torch.equal(first.model.unembed.W_U, again.model.unembed.W_U)
    assert not torch.equal(first.model.unembed.W_U, other.model.unembed.W_U)


def plant_with_few_steps(seed: int) -> Planted:
    from analyses.studies.calibration import trained
    from cadmus.runtime.seeds import generator

    rng = generator("test", seed)
    planted = trained._untrained(rng, seed)
    trained._train(planted, rng, 3)
    return planted


def test_too_few_steps_are_an_error():
    with pytest.raises(ValueError, match=r"is right in less than 0\.99 after 2 steps; take more"):
        plant_trained(0, steps=2)


def test_verdicts_are_used_on_the_path_alone_and_unused_where_nothing_is_carried():
    cases = judgements(made())
    is_carrier = cases.truth == "carrier"
    for name in (USED, USED_TOGETHER):
        of_name = cases.instrument == name
        assert (of_name & is_carrier).any()
        assert (of_name & ~is_carrier).any()
        assert (cases.claimed[of_name] == is_carrier[of_name]).all()
    whole = cases[cases.instrument == UNUSED].set_index("case")
    assert whole.claimed.to_dict() == {"X": False, "null cells": True}
    table = unused_rates(cases.assign(condition=TRAINED)).set_index("rate")
    assert table.estimate.to_dict() == {"false_unused": 0, "missed_unused": 0}
    assert (table.n == 1).all()
    wrong = cases.assign(condition=TRAINED, claimed=~cases.claimed)
    assert (unused_rates(wrong).estimate == 1).all()
    assert np.isfinite(cases.score).all()
