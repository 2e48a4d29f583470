"""Contrasts by hand for tests, and models that are linear in what is patched."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from analyses.studies.calibration.planted import Planted
from cadmus.machine import tokens
from cadmus.machine.tokens import PAD
from probes.interventions.attribution.contrasts import Contrast
from tests.probes.interventions.editing.models import AT, ROWS, sequences


def contrast(rows: int = ROWS, seed: int = 0) -> Contrast:
    """Random rows; the source differs from the base in some tokens."""
    base = sequences(rows, seed).numpy().astype(np.uint8)
    source = base.copy()
    source[:, [2, 4]] = sequences(rows, seed + 100).numpy()[:, [2, 4]]
    for tokens_of in (base, source):
        tokens_of[:, 1:][tokens_of[:, 1:] == PAD] = 11  # a text holds no marker
    at = np.resize(np.asarray(AT), rows).astype(np.int64)
    answers = np.array([[3, 5], [7, 1], [2, 9], [4, 8]])[np.arange(rows) % 4]
    here = np.where(np.arange(rows)[:, None] % 4 == 1, [[-1, -1]], [[2, 4]])
    roles = {"loaded": (here, here), "stored": (np.full((rows, 1), 3), np.full((rows, 1), 3))}
    return Contrast(base, source, at, answers[:, 0], answers[:, 1], np.arange(rows), roles)


def planted_contrast(planted: Planted, rows: int, seed: int = 0) -> Contrast:
    """Programs of a planted model; the source has another digit X, and answers as it asks."""
    rng = np.random.default_rng(seed)
    digits = planted.draw(rows, rng)
    others = digits.copy()
    others[:, planted.slot] = (digits[:, planted.slot] + rng.integers(1, 10, rows)) % 10
    base, source = planted.programs(digits), planted.programs(others)
    answers = planted.answers(base), planted.answers(source)
    differ = answers[0] != answers[1]
    base, source, own, other = (x[differ] for x in (base, source, *answers))
    sequences_of = [tokens.sequences(programs) for programs in (base, source)]
    at = np.full(len(base), planted.length)
    return Contrast(*sequences_of, at, own, other, np.arange(len(base)))


def linear_model(seed: int = 0) -> Any:
    """A HookedTransformer without normalization and MLPs whose attention looks at all positions alike: its logits are
    linear in every activation (float64)."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(
        n_layers=2,
        d_model=16,
        n_heads=2,
        d_head=8,
        n_ctx=24,
        d_vocab=65,
        attn_only=True,
        normalization_type=None,
        seed=seed,
        device="cpu",
    )
    model = HookedTransformer(cfg).double().eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()
    return model.requires_grad_(False)
