"""The gradient of a batch is that of the whole, however it is cut and shared, and loses nothing that is not finite."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cadmus.machine import tokens
from cadmus.models.layers import Block
from cadmus.models.model import Model, loss_mask, next_token_loss
from cadmus.models.packed import pack
from cadmus.training import gradient
from tests.training import CFG, programs


def gradients(model: Model) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_a_batch_in_parts_has_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean loss over its tokens, however it is cut and shared among cores, as the model itself gives it."""
    batch = programs().programs(np.arange(64))
    whole = torch.from_numpy(tokens.sequences(batch))
    expected = Model(CFG)
    loss = next_token_loss(expected(whole), whole)
    loss.backward()
    for part_tokens in (1 << 20, 200):
        monkeypatch.setattr(gradient, "_PART_TOKENS", {"cpu": part_tokens})
        model = Model(CFG)
        mean, n_tokens = gradient.accumulate_gradient(model, batch, "fp32")
        assert mean.item() == pytest.approx(loss.item(), rel=1e-5)
        assert n_tokens == int(loss_mask(whole).sum())
        for name, result in gradients(model).items():
            largest = gradients(expected)[name].abs().max()
            assert torch.allclose(result, gradients(expected)[name], rtol=1e-4, atol=1e-6), (name, largest)


def test_parts_hold_every_program_once_and_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "_PART_TOKENS", {"cpu": 150})
    batch = programs().programs(np.arange(100))
    batch = batch[np.argsort(tokens.lengths(batch), kind="stable")]
    parts = gradient._cut(batch, torch.device("cpu"))
    assert len(parts) % torch.get_num_threads() == 0
    assert sorted(text for part in parts for text in tokens.decode(part)) == sorted(tokens.decode(batch))
    sizes = [int((tokens.lengths(part) + 1).sum()) for part in parts]
    assert max(sizes) <= 170
    assert max(sizes) - min(sizes) <= 40
    assert len(gradient._cut(batch[:1], torch.device("cpu"))) == 1, "a part has a program"


def test_cores_give_the_bits_of_parts_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "_MIN_TOKENS", 1)
    monkeypatch.setattr(gradient, "_PART_TOKENS", {"cpu": 300})
    batch = programs().programs(np.arange(150))
    before = torch.get_num_threads()
    results = []
    thread_ids = set()
    meeting = threading.Barrier(3, timeout=60)  # the first parts wait for one another: no thread may be early

    def noted_pack(*args):
        first = threading.get_ident() not in thread_ids
        thread_ids.add(threading.get_ident())
        if first and threading.current_thread() is not threading.main_thread():
            meeting.wait()
        return pack(*args)

    class Inline:
        def map(self, work, parts):
            return map(work, parts)

    try:
        torch.set_num_threads(3)
        for pool in (None, Inline()):
            if pool is not None:
                monkeypatch.setattr(gradient, "_pool", lambda cores, pool=pool: pool)
            model = Model(CFG)
            monkeypatch.setattr(gradient, "pack", noted_pack)
            loss, _ = gradient.accumulate_gradient(model, batch, "fp32")
            results.append((loss, [parameter.grad for parameter in model.parameters()], len(thread_ids)))
            assert torch.get_num_threads() == 3
            thread_ids.clear()
    finally:
        torch.set_num_threads(before)
    (loss, parallel, n_threads), (inline_loss, inline, n_inline_threads) = results
    assert (n_threads, n_inline_threads) == (3, 1)
    assert loss == inline_loss
    assert all(torch.equal(tensor, other) for tensor, other in zip(parallel, inline, strict=True))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_threads_are_as_before_where_a_part_fails(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise error

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(gradient, "pack", fail)
        with pytest.raises(error):
            gradient.accumulate_gradient(Model(CFG), programs().programs(np.arange(8)), "fp32")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_number_that_is_not_finite_is_lost_on_its_way(precision: str) -> None:
    """Wherever it stands: the loss, or the gradient, is not finite either, so that the run stops."""
    batch = programs().programs(np.arange(16))
    for value in (math.nan, math.inf, -math.inf):
        for name, _ in Model(CFG).named_parameters():
            model = Model(CFG)
            with torch.no_grad():
                parameter = model.get_parameter(name)
                parameter[(0,) * parameter.ndim] = value
            loss, _ = gradient.accumulate_gradient(model, batch, precision)
            finite = math.isfinite(loss) and all(bool(p.grad.isfinite().all()) for p in model.parameters())
            assert not finite, (name, value)


def test_blocks_are_compiled_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only where there is what compiles them; nothing is compiled before the first step."""
    choose = gradient.through_block.__wrapped__
    assert choose("cpu") is choose("mps") is Block.on_packed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose("cuda") is Block.on_packed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: (function, dynamic))
    assert choose("cuda") == (Block.on_packed, True)
