"""What training costs: operations as the profiler counts them, and the record's share of the peak, hours and money."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cadmus.models.model import Model
from cadmus.runtime import devices
from cadmus.training import cost, loop
from tests.training import CFG, QUICK, trained


def test_operations_are_those_that_the_profiler_counts() -> None:
    """The forward pass is a third of them; attention's own products are left out."""
    cfg = replace(CFG, d_model=64, n_heads=2, d_head=32, d_mlp=256, n_ctx=8)
    sequences = torch.zeros(4, 8, dtype=torch.long)
    with torch.no_grad(), torch.profiler.profile(with_flops=True) as profile:
        Model(cfg)(sequences)
    products = sum(event.flops for event in profile.key_averages() if event.key in ("aten::mm", "aten::addmm"))
    assert cost.flops_per_token(cfg) * 32 == 3 * products


def test_cost_by_hand() -> None:
    spent = cost.cost(CFG, tokens=1000, device_seconds=1800.0 * 2, possible=1800 * 2 * 1e9, rate=1.5)
    flops = cost.flops_per_token(CFG) * 1000
    assert spent["flops"] == flops
    assert spent["device_hours"] == 1.0
    assert spent["dollars"] == 1.5
    assert spent["share_of_peak"] == pytest.approx(flops / (1800 * 2 * 1e9))


def test_the_record_states_the_cost_at_the_stated_rate() -> None:
    _, record = trained(replace(QUICK, dollars_per_hour=3.0))
    assert record["dollars"] == pytest.approx(3.0 * record["seconds"] / 3600)
    assert record["flops"] == cost.flops_per_token(CFG) * record["tokens"]
    assert 0 < record["share_of_peak"] < 1


def test_no_share_of_the_peak_is_above_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the peak was measured while something else was running: what training reaches is a lower bound."""
    monkeypatch.setattr(devices, "matmul_peak", lambda device, precision: 1.0)
    ticks = itertools.count()  # each step takes as long, whatever else this machine does
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: next(ticks), monotonic=time.monotonic))
    _, record = trained(QUICK)
    assert 0.5 < record["share_of_peak"] <= 1
