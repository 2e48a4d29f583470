"""Constrained decoding that the machine decides: masks for `generation.generate`, exact at every token.

A mask takes tokens int64 [row, pos] (the marker first, padded with `.`) and returns bool [row, 65]: which tokens may
come next. A program is judged by its text so far as it stands, an open definition included.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cadmus.machine import kernel, tokens, vm
from cadmus.models.generation import LogitsMask

_VOCABULARY = np.arange(len(vm.VOCAB), dtype=np.uint8)


def ends_true(sequences: Tensor) -> Tensor:
    """Allow `.` only where the program so far is true: whatever ends is a true-program.

    It forbids nothing else, so that no prompt is left without a token.
    """
    allowed = np.ones((len(sequences), len(vm.VOCAB)), bool)
    allowed[:, tokens.PAD] = kernel.verdicts(_programs(sequences))
    return torch.from_numpy(allowed).to(sequences.device)


def no_nan(sequences: Tensor) -> Tensor:
    """Allow no token that brings NAN to the top of the stack: where a prompt leaves none there, no continuation does.

    An instruction that has no result leaves NAN on top, so each of the main text has one, and every call comes to a
    value; calls of what is not defined yet do not, so definitions must come first. Where the prompt itself leaves NAN
    on top, everything is allowed until another value is there; elsewhere `.` is, so that some token always is.
    """
    programs = _programs(sequences)
    padded = np.pad(programs, ((0, 0), (0, 1)), constant_values=tokens.PAD)
    extended = np.repeat(padded, len(vm.VOCAB), axis=0)  # [row * token, pos], each row with each token behind it
    ends = np.repeat(tokens.lengths(programs), len(vm.VOCAB))
    extended[np.arange(len(extended)), ends] = np.tile(_VOCABULARY, len(programs))
    nan = (kernel.tops(extended).kind == kernel.NAN_KIND).reshape(len(programs), len(vm.VOCAB))
    allowed = ~nan | nan[:, tokens.PAD, None]  # with `.` behind it, a program is as it was
    return torch.from_numpy(allowed).to(sequences.device)


def all_of(*masks: LogitsMask) -> LogitsMask:
    """The mask that allows what all of `masks` allow."""

    def allows_all(sequences: Tensor) -> Tensor:
        return torch.stack([mask(sequences) for mask in masks]).all(0)

    return allows_all


def _programs(sequences: Tensor) -> np.ndarray:
    """The programs without the marker: uint8 [row, pos - 1]."""
    return sequences[:, 1:].cpu().numpy().astype(np.uint8)
