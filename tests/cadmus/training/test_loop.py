"""Training lowers the loss by the right gradient, and refuses what cannot work before it starts."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cadmus.corpora import held_out
from cadmus.machine import tokens
from cadmus.models.model import Model, loss_mask
from cadmus.programs.families import Equality
from cadmus.training import checkpoint, gradient
from cadmus.training.config import TrainConfig
from cadmus.training.loop import train
from cadmus.training.recipe import Recipe, train_recipe
from tests.training import CFG, MIXED, QUICK, parameters, programs, trained

# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_lowers_the_loss(precision: str) -> None:
    losses = []
    model = Model(CFG)
    record = train(
        model, programs(), replace(QUICK, precision=precision), on_step=lambda now: losses.append(now["loss"])
    )
    assert losses[0] == pytest.approx(math.log(65), abs=0.1), "an untrained model guesses"
    assert np.mean(losses[-5:]) < 0.55 * losses[0]
    assert [row["step"] for row in record["log"]] == [10, 20, 30, 40]
    for row in record["log"]:
        assert row["loss"] == pytest.approx(np.mean(losses[row["step"] - 10 : row["step"]]))
    assert not model.training
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_rotary_models_train_and_come_back(tmp_path: Path) -> None:
    cfg = replace(CFG, positional_embedding_type="rotary")
    result = train_recipe(Recipe("rotary", MIXED, cfg, QUICK, programs=1500), tmp_path / "model")
    log = result.record["log"]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    again = checkpoint.load(tmp_path / "model").model
    assert again.cfg == cfg
    sequences = torch.from_numpy(tokens.sequences(programs().programs(np.arange(20))))
    with torch.no_grad():
        assert torch.equal(again(sequences), result.model(sequences))


def test_what_is_learned_holds_for_unseen_programs() -> None:
    """So that the loss falls by the programs, not by chance: the model beats the best constant guess of each token."""
    model, _ = trained(QUICK)
    unseen = torch.from_numpy(tokens.sequences(held_out.held_out(Equality(), "test_skeleton", 500, 0)))
    with torch.no_grad():
        loss = model(unseen, return_type="loss").item()
    counted = unseen[:, 1:][loss_mask(unseen)].long()
    shares = torch.bincount(counted, minlength=65) / len(counted)
    entropy = -(shares[shares > 0] * shares[shares > 0].log()).sum().item()
    assert loss < 0.8 * entropy


def test_a_seed_fixes_the_training() -> None:
    config = replace(QUICK, steps=6)
    (first, record), (again, repeated), (other, _) = trained(config), trained(config), trained(replace(config, seed=1))
    for name, parameter in parameters(first).items():
        assert torch.equal(parameter, parameters(again)[name])
        assert not torch.equal(parameter, parameters(other)[name]), "the seed fixes the order of the programs"
    assert [row["loss"] for row in record["log"]] == [row["loss"] for row in repeated["log"]]


def test_training_leaves_global_random_state_alone() -> None:
    torch.manual_seed(3)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    trained(replace(QUICK, steps=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_record_counts_tokens_and_says_what_was_done() -> None:
    corpus = programs(128)
    model = Model(CFG)
    calls = []
    progress = []
    record = train(
        model,
        corpus,
        replace(QUICK, steps=6, log_every=4),
        lambda *call: progress.append(call),
        on_step=lambda now: calls.append((now["step"], now["tokens"])),
    )
    passes = [int(corpus.lengths.sum()) * (i + 1) for i in range(3)]  # two steps of 64 are a pass over 128 programs
    assert [n_tokens for step, n_tokens in calls if step % 2 == 0] == passes
    assert [step for step, _ in calls] == [1, 2, 3, 4, 5, 6]
    assert [(stage, fraction) for stage, fraction, _ in progress] == [("train", step / 6) for step in range(1, 7)]
    assert re.fullmatch(r"0\.0 M tokens, [\d.,]+ k/s(, \d+% of peak)?, loss \d\.\d{3}", progress[-1][2])
    assert record["tokens"] == passes[-1]
    assert [row["step"] for row in record["log"]] == [4, 6]
    assert [row["tokens"] for row in record["log"]] == passes[1:]
    assert record["corpus"] == {"fingerprint": corpus.fingerprint, "seed": 0, "programs": 128}
    assert record["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert record["config"]["steps"] == 6
    assert json.loads(json.dumps(record))["log"] == record["log"]


# --- the gradient ----------------------------------------------------------------------------------------------------


def test_parts_leave_the_step_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    one_step = replace(QUICK, steps=1, warmup_steps=0)
    whole, wrong = (trained(replace(one_step, **other))[0] for other in ({}, {"seed": 1}))
    monkeypatch.setattr(gradient, "_PART_TOKENS", {"cpu": 100})
    split, _ = trained(one_step)
    moved = []
    for name, parameter in parameters(whole).items():
        near = (parameter - parameters(split)[name]).abs().max().item()
        matrix = name.startswith("blocks.") and ".W_" in name  # orthogonalized in bf16, which shows rounding
        assert near <= (2e-3 if matrix else 1e-5), name
        moved.append((parameter - parameters(wrong)[name]).abs().max().item())
    assert np.median(moved) > 5e-3, "other batches must lead further away than what is allowed"


def one_step(**other: float | str) -> dict[str, Tensor]:
    """How far the parameters move in a single step at full rate."""
    after = parameters(trained(replace(QUICK, steps=1, warmup_steps=0, **other))[0])
    return {name: parameter - parameters(Model(CFG))[name] for name, parameter in after.items()}


def test_the_rate_and_the_clip_bound_the_step() -> None:
    moved = one_step(weight_decay=0.0)
    assert moved["unembed.b_U"].abs().max().item() == pytest.approx(1e-2, rel=0.02)  # AdamW's first step is the rate
    assert all(step.abs().max() < 1.01e-2 for step in moved.values())
    clipped = one_step(weight_decay=0.0, clip=1e-9)  # a tenth of what AdamW adds to the root of the second moment
    assert 0 < clipped["unembed.b_U"].abs().max() < 1e-3


def test_decay_is_of_the_matrices_of_the_blocks() -> None:
    plain, decayed, weights = one_step(weight_decay=0.0), one_step(weight_decay=0.5), parameters(Model(CFG))
    for name, step in decayed.items():
        matrix = name.startswith("blocks.") and ".W_" in name
        expected = -1e-2 * 0.5 * weights[name] if matrix else torch.zeros_like(step)
        assert torch.allclose(step - plain[name], expected, atol=1e-7), name


def test_precision_is_of_the_products() -> None:
    losses = [trained(replace(QUICK, steps=1, precision=name))[1]["log"][0]["loss"] for name in ("fp32", "bf16")]
    assert 0 < abs(losses[0] - losses[1]) < 0.01


def test_the_schedule_warms_up_and_falls_to_nothing() -> None:
    _, record = trained(replace(QUICK, steps=20, warmup_steps=4, log_every=1, batch_size=4))
    rates = [row["lr"] for row in record["log"]]
    cosine = [0.5e-2 * (1 + math.cos(math.pi * k / 20)) for k in range(20)]
    assert rates[4:] == pytest.approx(cosine[4:])
    assert rates[:4] == pytest.approx([cosine[k] * (k + 1) / 4 for k in range(4)])
    assert max(rates) == rates[3] <= 1e-2
    assert rates[-1] < 0.01 * max(rates)
    _, record = trained(replace(QUICK, steps=2, warmup_steps=0, log_every=1, batch_size=4))
    assert record["log"][0]["lr"] == 1e-2


def test_the_rate_stays_at_its_peak_until_the_decay() -> None:
    _, record = trained(replace(QUICK, steps=20, warmup_steps=0, decay_share=0.25, log_every=1, batch_size=4))
    rates = [row["lr"] for row in record["log"]]
    assert rates[:16] == [1e-2] * 16
    assert rates[15:] == pytest.approx([0.5e-2 * (1 + math.cos(math.pi * k / 5)) for k in range(5)])


# --- errors ----------------------------------------------------------------------------------------------------------


def test_programs_must_fit() -> None:
    model = Model(replace(CFG, n_ctx=MIXED.width))
    message = f"programs of mixture 'mixed' need {MIXED.width + 1} positions, the model has n_ctx = {MIXED.width}; take"
    with pytest.raises(ValueError, match=re.escape(message)):
        train(model, programs(), QUICK)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps = 0 must be 1 or more"),
        ({"batch_size": 0}, "batch_size = 0 must be 1 or more"),
        ({"log_every": 0}, "log_every = 0 must be 1 or more"),
        ({"checkpoint_every": 0}, "checkpoint_every = 0 must be 1 or more"),
        ({"precision": "fp16"}, "precision = 'fp16' must be one of auto, fp32, bf16"),
        ({"optimizer": "sgd"}, "optimizer = 'sgd' must be one of muon, adamw"),
        ({"snapshots": -1}, "snapshots = -1 must be 0 or more"),
        ({"lr": 0.0}, "lr = 0.0 must be above 0"),
        ({"lr": float("nan")}, "lr = nan must be above 0"),
        ({"lr": float("inf")}, "lr = inf must be above 0 and finite"),
        ({"betas": (0.9,)}, "betas = \\(0.9,\\) must be two numbers from 0 to below 1"),
        ({"betas": (0.9, "a")}, "must be two numbers"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0 must be 0 or more"),
        ({"seed": -1}, "seed = -1 must lie in 0"),
        ({"decay_share": 0.0}, "decay_share = 0.0 must be above 0 and at most 1"),
    ],
)
def test_bad_training_configurations_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**wrong)
