"""A batch laid out for a recorded step is what training reads; the loop loses nothing where steps are not waited for;
and on a GPU recorded steps are the plain ones."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cadmus.machine import tokens
from cadmus.models.model import Model
from cadmus.training import checkpoint, graphed, loop
from cadmus.training.config import TrainConfig
from cadmus.training.gradient import accumulate_gradient
from cadmus.training.graphed import Room
from tests.models import far_from_trivial
from tests.training import CFG, QUICK, programs

AVERAGED = replace(QUICK, steps=25, average_steps=4, snapshots=3)


@pytest.mark.parametrize("positions", ["standard", "rotary"])
def test_a_batch_with_room_to_spare_has_the_gradient_of_the_whole(positions: str) -> None:
    """Whatever lay in the array before."""
    corpus = programs()
    model, expected = (far_from_trivial(replace(CFG, positional_embedding_type=positions)) for _ in range(2))
    room = Room(40, 1024, corpus.programs(np.arange(1)).shape[1])
    batch = np.random.default_rng(0).integers(-9, 99, room.size, dtype=np.int32)
    for start in (0, 40):
        some = corpus.programs(np.arange(start, start + 40))
        assert room.fill(some, batch)
        packed, n_tokens = room.packed(torch.from_numpy(batch))
        assert packed.starts[-1] == len(packed.inputs) == 1024
        assert packed.lengths.max() <= packed.longest
        loss = F.cross_entropy(model.on_packed(packed), packed.targets, reduction="sum") / n_tokens
        mean, n_expected = accumulate_gradient(expected, some, "fp32")
        assert int(n_tokens) == n_expected == int((tokens.lengths(some) + 1).sum())
        assert loss.item() == pytest.approx(mean.item(), rel=1e-5)
        for gradient, parameter in zip(
            torch.autograd.grad(loss, list(model.parameters())), expected.parameters(), strict=True
        ):
            assert torch.allclose(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_batches_without_room_are_refused() -> None:
    some = programs().programs(np.arange(40))
    n_tokens = int((tokens.lengths(some) + 1).sum())
    longest = int(tokens.lengths(some).max()) + 1
    for room, fits in (
        (Room(40, n_tokens, some.shape[1]), True),
        (Room(40, n_tokens, longest), True),
        (Room(40, n_tokens - 1, longest), False),
        (Room(39, n_tokens, longest), False),
        (Room(40, n_tokens, longest - 1), False),
    ):
        assert room.fill(some, np.zeros(room.size, np.int32)) == fits


def test_a_program_without_an_end_is_refused() -> None:
    room = Room(1, 64, 16)
    with pytest.raises(ValueError, match=r"program 0 has no `\.` in its 3 columns; end it with one"):
        room.fill(tokens.encode(["123"]), np.zeros(room.size, np.int32))


# --- the loop around recorded steps ----------------------------------------------------------------------------------


class Recorded:
    """Steps as `GraphedStep` takes them, on a CPU: a loss that is not finite is not refused, but said to who asks."""

    too_large: frozenset[int] = frozenset()
    broken: int = 0  # the step whose loss is not finite

    def __init__(self, model: Model, optimizers: list, precision: str, clip: float, longest: int):
        self.model, self.optimizers, self.precision, self.clip = model, optimizers, precision, clip
        self.steps = 0

    def step(self, batch: np.ndarray, rate: float) -> tuple[Tensor, int] | None:
        self.steps += 1
        if self.steps in self.too_large:
            return None
        loss, n_tokens = accumulate_gradient(self.model, batch, self.precision)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        return torch.stack((loss * (math.nan if self.steps == self.broken else 1), norm)), n_tokens


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    class Fake(Recorded):
        pass

    monkeypatch.setattr(loop, "can_record", lambda device, precision: True)
    monkeypatch.setattr(loop, "GraphedStep", Fake)
    return Fake


def run(folder: Path, config: TrainConfig = AVERAGED, **options: Any) -> tuple[Model, dict]:
    model = Model(CFG)
    return model, loop.train(model, programs(), config, folder=folder, **options)


def told(record: dict) -> list[tuple]:
    return [(row["step"], row["tokens"], row["loss"], row["lr"]) for row in record["log"]]


@pytest.mark.parametrize("too_large", [(), (1, 7, 8), tuple(range(1, 26))])
def test_a_run_of_recorded_steps_is_the_plain_one(
    too_large: tuple[int, ...], recorded: type[Recorded], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Weights, rows and snapshots, bit for bit, wherever a batch had to be stepped the plain way."""
    recorded.too_large = frozenset(too_large)
    losses: list[float] = []
    model, record = run(tmp_path / "recorded", on_step=lambda now: losses.append(now["loss"]))
    monkeypatch.setattr(loop, "can_record", lambda device, precision: False)
    plain, plain_record = run(tmp_path / "plain")
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.grad is other.grad is None
    assert told(record) == told(plain_record)
    assert record["snapshots"] == plain_record["snapshots"]
    assert all(map(math.isfinite, losses))


def test_what_is_not_finite_is_said_of_its_own_step(recorded: type[Recorded], tmp_path: Path) -> None:
    """Though it is read later; and no snapshot is made after it."""
    recorded.broken = 13
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 13 of 25 \(batch 12 of"):
        run(tmp_path / "run")
    steps = [int(path.stem.removeprefix("step-")) for path in (tmp_path / "run").glob("snapshots/*")]
    assert steps
    assert max(steps) < 13


def test_a_run_that_goes_on_knows_its_loss(
    recorded: type[Recorded], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, record = run(tmp_path / "whole")

    def stop(now: dict[str, float]) -> None:
        if now["step"] == 15:
            raise KeyboardInterrupt

    config = replace(AVERAGED, checkpoint_every=12)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", config, on_step=stop)
    state = checkpoint.load_state(tmp_path / "run")
    assert state is not None
    assert state[0]["step"] == 12
    losses: list[float] = []
    model, resumed = run(tmp_path / "run", config, on_step=lambda now: losses.append(now["loss"]))
    assert len(losses) == 13
    assert all(map(math.isfinite, losses))
    assert told(resumed) == told(record)
    for one, other in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_on_a_gpu_recorded_steps_are_the_plain_ones(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(
        steps=12, batch_size=64, optimizer=optimizer, lr=3e-3, warmup_steps=2, precision="bf16", log_every=1
    )
    cfg = replace(CFG, positional_embedding_type="rotary")
    models = [Model(cfg).to("cuda") for _ in range(2)]
    records = [loop.train(models[0], programs(), config)]
    assert graphed.can_record(models[0].device, "bf16")
    monkeypatch.setattr(graphed.GraphedStep, "step", lambda self, programs, rate: None)
    records.append(loop.train(models[1], programs(), config))
    recorded, plain = ([row["loss"] for row in record["log"]] for record in records)
    assert recorded == pytest.approx(plain, rel=2e-2)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert (one - other).norm() < 0.1 * other.norm() + 0.01


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_larger_batch_and_another_rate_are_followed() -> None:
    """At a rate of 0 nothing moves, and a batch of more tokens than any before has a step of its own."""
    config = TrainConfig(steps=20, batch_size=8, precision="bf16", weight_decay=0.0)
    model = Model(replace(CFG, positional_embedding_type="rotary")).to("cuda")
    optimizers = loop.make_optimizers(model, config, torch.bfloat16)
    step = graphed.GraphedStep(model, optimizers, "bf16", 1.0, programs().mixture.width)
    some = programs().programs(np.arange(400))
    short_first = some[np.argsort(tokens.lengths(some), kind="stable")].reshape(50, 8, -1)
    for k, batch in enumerate(short_first):
        before = model.unembed.W_U.detach().clone()  # a graph of autograd held here would be part of the recording
        stepped = step.step(batch, 0.0 if k % 2 else 1e-3)
        assert stepped is not None
        assert stepped[1] == int((tokens.lengths(batch) + 1).sum())
        assert bool(stepped[0].isfinite().all())
        assert torch.equal(model.unembed.W_U, before) == bool(k % 2)
