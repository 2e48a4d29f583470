"""What training costs: operations, the share of the device's peak that is used, device hours and money."""

from __future__ import annotations

import time
from typing import Any

import torch

from cadmus.model import ModelConfig

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices whose product is timed
_SECONDS = 0.3  # that it is repeated for, at least


def flops_per_token(cfg: ModelConfig) -> int:
    """Floating-point operations to train on one token: 6 for each parameter of a matrix product (attention's own are
    left out: short programs make them small)."""
    per_block = 4 * cfg.d_model * cfg.n_heads * cfg.d_head + 2 * cfg.d_model * cfg.d_mlp
    return 6 * (cfg.n_layers * per_block + cfg.d_model * cfg.d_vocab)


def matmul_peak(device: torch.device, precision: str) -> float:
    """Operations a second of a large matrix product in that precision, the best of those that fit into a third of a
    second: what this machine gives today, not what its data sheet says."""
    side = _SIDE["cuda" if device.type == "cuda" else "cpu"]
    a, b = (torch.ones(side, side, device=device, dtype=PRECISIONS[precision]) for _ in range(2))
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < _SECONDS or best == float("inf"):
        begin = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def cost(cfg: ModelConfig, tokens: int, seconds: float, devices: int, peak: float, rate: float) -> dict[str, Any]:
    """What `tokens` tokens in `seconds` on `devices` devices cost. peak: operations a second of one device; rate: money
    (dollars) for an hour of one device, 0 where none is stated."""
    flops = flops_per_token(cfg) * tokens
    hours = devices * seconds / 3600
    return {
        "device_hours": hours,
        "flops": flops,
        "share_of_peak": flops / (seconds * devices * peak) if seconds else 0.0,
        "peak_flops_per_second": peak,
        "dollars_per_hour": rate,
        "dollars": hours * rate,
    }
