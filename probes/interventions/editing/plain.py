"""Interventions by hooks on whole passes: the reference, and the way for models of any backend.

Every arm runs every row from the first layer and position on. `probes.interventions.editing.partial_passes` computes
the same on our own model without what an edit cannot reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.machine.tokens import PAD
from cadmus.models import backends
from probes.interventions.editing.application import Batch, Changes, Task, hooks, task
from probes.interventions.editing.edits import Step

_COPIES = 256  # rows of arms that run at once


@torch.no_grad()
def logits(model: Any, sequences: Tensor, plans: list[list[Step]], at: np.ndarray, changes: Changes) -> Tensor:
    """[arm, row, d_vocab]: the logits at the positions `at` [rows], with each arm's edits."""
    sequences = sequences[:, : int(at.max(initial=0)) + 1]
    out = torch.zeros(len(plans), len(sequences), model.cfg.d_vocab, device=sequences.device)
    for arms, rows in _batches(plans, len(sequences)):
        result = _forward(model, sequences[rows], plans, arms, rows, at, changes)
        out[arms, rows] = result[torch.arange(len(rows)), at[rows]].float()
    return out


@torch.no_grad()
def complete(
    model: Any,
    sequences: Tensor,
    plans: list[list[Step]],
    at: np.ndarray,
    changes: Changes,
    max_new_tokens: int,
    in_generation: bool,
    stops: np.ndarray,
) -> np.ndarray:
    """Greedy completions behind the positions `at`, uint8 [arm, row, pos + new], padded with `.`.

    Every token is read with a new pass over all before it; edits are at positions up to `at` of each row, or of edges
    beyond it too if `in_generation`. A row ends with `.`, and with a token of `stops` (int) too.
    """
    n_arms, n_rows = len(plans), len(sequences)
    out = np.full((n_arms, n_rows, int(at.max(initial=0)) + 1 + max_new_tokens), PAD, np.uint8)
    for arms, rows in _batches(plans, n_rows):
        tokens = torch.full((len(rows), out.shape[2]), PAD, device=sequences.device)
        width = min(sequences.shape[1], out.shape[2])
        tokens[:, :width] = sequences[rows, :width]
        ends = at[rows].copy()
        copies = np.arange(len(rows))
        is_open = np.ones(len(rows), bool)
        for _ in range(max_new_tokens):
            read = tokens[:, : ends.max() + 1]
            result = _forward(model, read, plans, arms, rows, at, changes, ends if in_generation else None)
            token = result[copies, ends].argmax(-1).cpu().numpy()
            tokens[copies[is_open], ends[is_open] + 1] = torch.from_numpy(token[is_open]).to(tokens.device)
            is_open &= token != PAD
            ends[is_open] += 1
            is_open &= ~np.isin(token, stops)
            if not is_open.any():
                break
        out[arms, rows] = tokens.cpu().numpy()
    return out


def _batches(plans: list[list[Step]], n_rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(arms, rows), int64 [copies] each: copies that run together.

    Arms that give each head its own input run apart from others: the sites of `ln1` have another shape there.
    """
    splits = np.array([any(step.location.splits_input for step in plan) for plan in plans], bool)
    for numbers in (np.flatnonzero(~splits), np.flatnonzero(splits)):
        arms, rows = np.repeat(numbers, n_rows), np.tile(np.arange(n_rows), len(numbers))
        for start in range(0, len(arms), _COPIES):
            yield arms[start : start + _COPIES], rows[start : start + _COPIES]


def _forward(
    model: Any,
    tokens: Tensor,
    plans: list[list[Step]],
    arms: np.ndarray,
    rows: np.ndarray,
    at: np.ndarray,
    changes: Changes,
    ends: np.ndarray | None = None,
) -> Tensor:
    """Logits [copy, pos, d_vocab] of tokens [copy, pos] of these arms and rows.

    ends: the last position of each copy, where edits of edges reach beyond `at`.
    """
    device = tokens.device
    tasks: list[Task] = []
    for arm in np.unique(arms):
        for step in plans[arm]:
            entry_rows, positions, columns = step.entries(0, at)
            copy_of = np.full(len(at), -1)
            copy_of[rows[arms == arm]] = np.flatnonzero(arms == arm)
            copies = copy_of[entry_rows]
            is_here = copies >= 0
            parts = [copies, entry_rows, positions, columns]
            tasks += task(step, int(arm), [part[is_here] for part in parts], device, changes)
            if ends is not None and step.edges is not None:
                tasks += _later_task(step, int(arm), copy_of, at, ends, device, changes)
    if not tasks:
        return backends.run_with_hooks(model, tokens)
    return backends.run_with_hooks(model, tokens, hooks(tasks, Batch(len(tokens))))


def _later_task(
    step: Step,
    arm: int,
    copy_of: np.ndarray,
    at: np.ndarray,
    ends: np.ndarray,
    device: torch.device,
    changes: Changes,
) -> list[Task]:
    """The task of an edit of edges at the queries that have been written: those behind `at`, up to `ends`."""
    rows = np.flatnonzero(copy_of >= 0)
    n_new = ends[copy_of[rows]] - at[rows]
    entry_rows = np.repeat(rows, n_new)
    begins = np.cumsum(n_new) - n_new
    positions = at[entry_rows] + 1 + np.arange(len(entry_rows)) - np.repeat(begins, n_new)
    parts = [copy_of[entry_rows], entry_rows, positions, np.zeros_like(positions)]
    return task(step.in_generation(), arm, parts, device, changes)
