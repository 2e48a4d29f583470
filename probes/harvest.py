"""Activations of many sites, batch by batch, with the programs they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus import lens, tokens

FOLDS = ("train", "validation", "test")
_FOLD_SHARES = (0.6, 0.15, 0.25)  # of skeletons


def residual_sites(model: Any) -> list[str]:
    """Of a model of any of `lens.KINDS`, the residual stream before the first block and after each: depth 0, 1, ...,
    n_layers."""
    return ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(model.cfg.n_layers))]


def harvest(
    model: Any, programs: np.ndarray, sites: Sequence[str], *, batch_size: int = 512
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """(rows of `programs`, {site: float32 [batch, pos, ...]}) for batch after batch; position 0 is the marker.

    model: of any of `lens.KINDS`; programs uint8 [n, length]. Nothing but the current batch is held. Raises ValueError
    for a site that is unknown, or not readable on that kind of model.
    """
    sequences = torch.from_numpy(tokens.sequences(programs))
    for start in range(0, len(programs), batch_size):
        rows = slice(start, min(start + batch_size, len(programs)))
        with torch.no_grad():
            _, cache = lens.run_with_cache(model, sequences[rows], names_filter=sites)
        yield rows, {site: cache[site].float() for site in sites}


def skeleton_folds(programs: np.ndarray) -> np.ndarray:
    """Probe training, validation and test programs, as an index into `FOLDS`: uint8 [n].

    All programs of a skeleton share a fold, so that a probe is judged on skeletons it has not seen; 60, 15 and 25 % of
    the skeletons, in the order of their ids, and at least one each. Raises ValueError for fewer than three skeletons.
    """
    skeletons, index = np.unique(skeleton_ids(programs), return_inverse=True)
    n = len(skeletons)
    if n < len(FOLDS):
        raise ValueError(f"{n} skeletons cannot be split into {', '.join(FOLDS)}; probe a family with more of them")
    train = min(round(_FOLD_SHARES[0] * n), n - 2)
    validation = max(1, min(round(_FOLD_SHARES[1] * n), n - train - 1))
    return np.searchsorted([train, train + validation], index, side="right").astype(np.uint8)


def skeleton_ids(programs: np.ndarray) -> np.ndarray:
    """One number per skeleton: uint64 [n], equal for programs of one skeleton."""
    return tokens.hashes(tokens.skeletons(programs), "probes skeleton 1")
