"""Completions of many prompts at once, greedy or sampled, by way of the model's key-value cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cadmus.machine.tokens import PAD
from cadmus.models.compilation import original_model
from cadmus.models.key_value_cache import KeyValueCache

LogitsMask = Callable[[Tensor], Tensor]
"""tokens int64 [row, pos], the marker first, padded with `.` -> bool [row, d_vocab]: which tokens may come next.

No row holds another `.` than its marker and padding, so `tokens.lengths` gives the length of each.
"""


@dataclass(frozen=True, eq=False)
class Beginning:
    """Prompts that have been read already, whatever was done to the model meanwhile."""

    kv_cache: KeyValueCache
    """Holds the prompts, with room for what comes."""

    logits: Tensor
    """[row, d_vocab]: behind each prompt."""

    forward: Callable[[Tensor, KeyValueCache], Tensor]
    """`forward(tokens int [row, 1], kv_cache)` -> logits [row, 1, d_vocab]: reads what is written."""


_MAX_ROWS = 128  # prompts that are read at once
_MIN_FINISHED = 0.25  # the share of finished rows from which on it pays to copy the cache without them


@torch.no_grad()
def generate(
    model: Any,
    prompts: Tensor,
    lengths: Tensor,
    max_new_tokens: int,
    logits_mask: LogitsMask | None = None,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    beginning: Beginning | None = None,
    stops: Tensor | None = None,
) -> Tensor:
    """Complete many prompts at once, each until its `.` or `max_new_tokens`.

    What a row gets does not depend on when others finish. While a hook is set, nothing is cached: for each new token
    the hook sees one pass over every position so far of all rows, finished ones too, so that an edit of a row and
    position stays where it is.

    Args:
        model: of any backend (`cadmus.models.backends`); others than our own read every position anew for each token.
        prompts: int [batch, pos]; row i holds lengths[i] tokens (the marker counted), the rest is ignored.
        lengths: int [batch].
        max_new_tokens: tokens that a row gets at most.
        logits_mask: which tokens may come next; see `LogitsMask`, and `cadmus.models.constraints` for masks that the
            machine decides.
        temperature: 0 takes the likeliest token; above, one is drawn by `generator`.
        top_k: draw from the so many likeliest tokens only.
        top_p: draw only from the fewest tokens whose probabilities sum to this.
        generator: draws the tokens.
        beginning: what the prompts gave where they have been read already; then `model` itself reads nothing.
        stops: int, tokens after which a row is finished too.

    Returns:
        int64 [batch, pos']: prompts and completions, padded with `.`.

    Raises:
        ValueError: the model has too few positions, a prompt holds a `.` of its own, the mask allows nothing, or the
            sampling parameters contradict one another.
    """
    _check_sampling(temperature, top_k, top_p, generator)
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens = {max_new_tokens} must be 0 or more")
    model = original_model(model)  # of a cached pass every length would be compiled anew
    device = next(model.parameters()).device
    lengths = lengths.to(device).clone()
    out = _room(model, prompts, lengths, max_new_tokens)
    rows = torch.arange(len(out), device=device)  # those in the cache; some may be finished
    unfinished = torch.ones(len(out), dtype=torch.bool, device=device)
    is_cached = getattr(model, "reads_into_cache", False) and not model.has_hooks
    kv_cache = KeyValueCache(len(out), out.shape[1], device) if is_cached else None
    if beginning is not None:
        kv_cache = beginning.kv_cache
    for step in range(max_new_tokens if len(out) else 0):
        if beginning is not None and step == 0:
            logits = beginning.logits
        elif kv_cache is None:
            logits = model(out[:, : int(lengths.max())])[rows, lengths - 1]  # [row, d_vocab]
        elif step == 0:
            logits = _read_prompts(model, out, lengths, kv_cache)
        else:  # all but the newest token has been read
            kv_cache.lengths = lengths[rows] - 1
            newest = out[rows, lengths[rows] - 1][:, None]  # [row, 1]
            forward: Any = model if beginning is None else beginning.forward
            logits = forward(newest, kv_cache=kv_cache)[:, 0]
        open_rows = rows[unfinished[rows]]
        scores = logits[unfinished[rows]].float()
        if logits_mask is not None:
            scores = _mask(scores, logits_mask(out[open_rows]), open_rows)
        if generator is None:
            token = scores.argmax(-1)
        else:
            noise = torch.empty(len(out), scores.shape[1], device=generator.device).exponential_(generator=generator)
            token = _sample(_heated(scores, temperature), noise.to(scores.device)[open_rows], top_k, top_p)
        out[open_rows, lengths[open_rows]] = token
        lengths[open_rows] += 1
        unfinished[open_rows] = token != PAD
        if stops is not None:
            unfinished[open_rows] &= ~torch.isin(token, stops)
        if not unfinished.any():
            break
        kept_rows = unfinished[rows]
        if kv_cache is not None and kept_rows.float().mean() <= 1 - _MIN_FINISHED:
            kv_cache.keep(kept_rows.nonzero()[:, 0])
            rows = rows[kept_rows]
    return out


def _room(model: Any, prompts: Tensor, lengths: Tensor, max_new_tokens: int) -> Tensor:
    """The prompts, with room for what comes: int64 [batch, pos'], padded."""
    if len(prompts) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= prompts.shape[1]:
        raise ValueError(
            f"lengths {int(lengths.min())} ... {int(lengths.max())} must be from 1 (the marker) to {prompts.shape[1]}, "
            "the prompts' columns"
        )
    width = (int(lengths.max()) if len(prompts) else 0) + max_new_tokens
    if width > model.cfg.n_ctx:
        raise ValueError(f"prompt and completion need {width} positions, the model has n_ctx = {model.cfg.n_ctx}")
    prompts = prompts.to(lengths.device).long()[:, :width]
    in_prompt = torch.arange(prompts.shape[1], device=lengths.device) < lengths[:, None]  # [batch, pos]
    ends = (in_prompt & (prompts == PAD))[:, 1:]
    if ends.any():
        row, position = ends.nonzero()[0].tolist()
        raise ValueError(
            f"prompt {row} holds `.` at position {position + 1}: it is complete already; give what stands before it"
        )
    out = torch.full((len(prompts), width), PAD, dtype=torch.long, device=lengths.device)
    out[:, : prompts.shape[1]][in_prompt] = prompts[in_prompt]
    return out


def _read_prompts(model: Any, out: Tensor, lengths: Tensor, kv_cache: KeyValueCache) -> Tensor:
    """Logits behind every prompt [row, d_vocab]; prompts of similar length are read together."""
    order = lengths.argsort()
    logits = []
    for rows in order.split(_MAX_ROWS):
        kv_cache.rows = rows
        last = lengths[rows] - 1
        batch_logits = model(out[rows, : int(last.max()) + 1], kv_cache=kv_cache)  # [row, pos, d_vocab]
        logits.append(batch_logits[torch.arange(len(rows), device=rows.device), last])
    kv_cache.rows = None
    return torch.cat(logits)[order.argsort()]


def _mask(scores: Tensor, allowed: Tensor, rows: Tensor) -> Tensor:
    """Scores [row, d_vocab], -inf where not allowed; ValueError, naming the prompt (of `rows`), where nothing is."""
    stuck = ~allowed.any(-1)
    if stuck.any():
        raise ValueError(
            f"logits_mask allows no token for some prompt; it must leave one or more (prompt {int(rows[stuck][0])})"
        )
    return scores.masked_fill(~allowed, -torch.inf)


def _check_sampling(
    temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> None:
    """ValueError where the parameters of sampling contradict one another."""
    if not 0 <= temperature < math.inf or (temperature > 0) != (generator is not None):
        with_or_without = "with a generator" if generator is not None else "without a generator"
        raise ValueError(
            f"temperature = {temperature} {with_or_without}: use 0 and none for greedy completion, "
            "or a finite temperature above 0 and a torch.Generator for sampling"
        )
    if temperature == 0 and (top_k is not None or top_p is not None):
        raise ValueError("top_k and top_p restrict sampling; pass a temperature above 0 and a generator, or leave them")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k = {top_k} must be 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p = {top_p} must be above 0 and at most 1")


def _heated(scores: Tensor, temperature: float) -> Tensor:
    """Scores [row, d_vocab] over the temperature, up to a constant of each row: the likeliest stay at 0, what is
    masked at -inf, at every temperature that a float has."""
    return (scores - scores.max(-1, keepdim=True).values) / min(max(temperature, 1e-30), 1e30)  # float32 tells no more


def _sample(scores: Tensor, noise: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """One token of each row, by `noise` [row, d_vocab] from the exponential distribution: int64 [row]."""
    scores, order = scores.sort(descending=True)
    if top_k is not None:
        scores[:, top_k:] = -torch.inf
    if top_p is not None:
        probabilities = scores.softmax(-1)
        scores[probabilities.cumsum(-1) - probabilities >= top_p] = -torch.inf
    # of exponential variables with rates p_i, number i is the smallest with probability p_i
    first = (scores.softmax(-1) / noise.gather(-1, order)).argmax(-1, keepdim=True)
    return order.gather(-1, first)[:, 0]
