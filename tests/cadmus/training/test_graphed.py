"""A batch laid out for a recorded step is what training reads, and on a GPU recorded steps are the plain ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cadmus.machine import tokens
from cadmus.models.model import Model
from cadmus.training import graphed, loop
from cadmus.training.config import TrainConfig
from cadmus.training.gradient import accumulate_gradient
from cadmus.training.graphed import Room
from tests.models import far_from_trivial
from tests.training import CFG, programs


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
    for room, fits in (
        (Room(40, n_tokens, some.shape[1]), True),
        (Room(40, n_tokens - 1, some.shape[1]), False),
        (Room(39, n_tokens, some.shape[1]), False),
        (Room(40, n_tokens, int(tokens.lengths(some).max())), False),
    ):
        assert room.fill(some, np.zeros(room.size, np.int32)) == fits


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
