"""What training costs: operations, the share of the device's peak that is used, device hours and money."""

from __future__ import annotations

from typing import Any

from cadmus.models.config import ModelConfig


def flops_per_token(cfg: ModelConfig) -> int:
    """Floating-point operations to train on one token: 6 for each parameter of a matrix product.

    Attention's own products are left out: short programs make them small.
    """
    per_block = 4 * cfg.d_model * cfg.n_heads * cfg.d_head + 2 * cfg.d_model * cfg.d_mlp
    return 6 * (cfg.n_layers * per_block + cfg.d_model * cfg.d_vocab)


def cost(cfg: ModelConfig, tokens: int, device_seconds: float, possible: float, rate: float) -> dict[str, Any]:
    """The cost of training on so many tokens, as a record states it.

    Args:
        cfg: the model's shape.
        tokens: tokens that were trained on.
        device_seconds: the seconds that took, summed over all devices.
        possible: operations that large matrix products would have made in that time, on all devices: measured, not the
            data-sheet value.
        rate: dollars for an hour of one device; 0 where none is stated.

    Returns:
        device_hours, flops, share_of_peak (0 to 1), peak_flops_per_second (of one device), dollars_per_hour, dollars.
    """
    flops = flops_per_token(cfg) * tokens
    hours = device_seconds / 3600
    return {
        "device_hours": hours,
        "flops": flops,
        "share_of_peak": flops / possible if possible else 0.0,
        "peak_flops_per_second": possible / device_seconds if device_seconds else 0.0,
        "dollars_per_hour": rate,
        "dollars": hours * rate,
    }
