"""Activations of many sites, batch by batch: of whole programs (`batches`), or token by token (`token_rows`).

A token's row is aligned with everything that is known per program and position: for labels [n, positions] of the same
programs, `labels.values[batch.programs, batch.positions]` belongs to the rows of `batch`, and `tokens_of` says which
tokens they are.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.machine import tokens
from cadmus.models import lens
from cadmus.models.hooks import Hook, NamesFilter
from cadmus.runtime.devices import PRECISIONS
from probes.data import activation_cache
from probes.data.folds import skeleton_ids

_PASS = {"cpu": 8192, "cuda": 65536}  # tokens that run at once, padding included
_PADDING = 0.05  # of them, at most


def residual_sites(model: Any) -> list[str]:
    """Of a model of any of `lens.BACKENDS`, the residual stream before the first block and after each: depth 0, 1, ...,
    n_layers."""
    return ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(model.cfg.n_layers))]


def batches(
    model: Any, programs: np.ndarray, sites: Sequence[str], *, batch_size: int = 512
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """(rows of `programs`, {site: float32 [batch, pos, ...]}) for batch after batch; position 0 is the marker.

    model: of any of `lens.BACKENDS`; programs uint8 [n, length]. Nothing but the current batch is held. Raises
    ValueError for a site that is unknown, or not readable on that kind of model, and for programs that are no such
    array.
    """
    tokens.check(programs)
    sequences = torch.from_numpy(tokens.sequences(programs))
    for start in range(0, len(programs), batch_size):
        rows = slice(start, min(start + batch_size, len(programs)))
        with torch.no_grad():
            _, cache = lens.run_with_cache(model, sequences[rows], names_filter=sites)
        yield rows, {site: cache[site].float() for site in sites}


# --- token by token --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Tokens of some programs, one row each.

    programs int64 [rows]: the row of the program array; positions int64 [rows]: the model's position (p holds token
    p - 1, 0 the marker); activations {site: float32 [rows, features]}, heads flattened.
    """

    programs: np.ndarray
    positions: np.ndarray
    activations: dict[str, np.ndarray]


def token_rows(
    model: Any,
    programs: np.ndarray,
    sites: NamesFilter,
    *,
    where: np.ndarray | None = None,
    rows_per_batch: int = 32768,
    precision: str = "fp32",
    cache: Path | str | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Batch]:
    """The activations of single tokens, a program's in one batch, in batches of at most `rows_per_batch` tokens (more
    only where one program has more).

    model: of any of `lens.BACKENDS`; programs uint8 [n, width]; sites: a name, several, or a predicate. where bool
    [n, 1 + width]: the positions wanted; by default every token of each program through its own `.`, without the
    marker. precision: "fp32", or "bf16" for a forward pass under autocast; float32 comes either way, NaN as it is.
    Nothing but the current batch is held. Programs are run by length, the shortest first, up to their last wanted
    position, so a batch is no random sample; the order of the rows depends on `programs` and `where` only.

    cache: a folder that keeps each site's activations for later calls with the same `rows_per_batch`
    (`probes.data.activation_cache`), once all batches were read. progress: told after each batch which share of the
    rows is done. Raises ValueError for programs that are no such array, for a site that is unknown, not readable on
    that kind of model or without a row per token, and for more positions than the model has; ArtifactError where what
    the cache holds is damaged.
    """
    tokens.check(programs)
    chosen = list(dict.fromkeys(lens.check_readable(model, sites)))
    _check_rows(chosen)
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    if rows_per_batch < 1:
        raise ValueError(f"rows_per_batch = {rows_per_batch} must be 1 or more")
    if where is not None and (where.dtype != np.bool_ or where.shape != (len(programs), programs.shape[1] + 1)):
        raise ValueError(
            f"where is {where.dtype} {where.shape}; expected bool {(len(programs), programs.shape[1] + 1)}: "
            "a column per position, the marker's first"
        )
    plan = _planned(programs, where, rows_per_batch)
    if plan.needs.max(initial=0) > model.cfg.n_ctx:
        raise ValueError(
            f"{plan.needs.max()} positions are wanted, but the model has n_ctx = {model.cfg.n_ctx}: "
            "leave longer programs out, or ask for earlier positions with where="
        )
    if cache is None:
        store = contextlib.nullcontext(lambda number, compute: compute(chosen))
    else:
        about = activation_cache.content(model, programs, where, rows_per_batch, precision)
        store = activation_cache.opened(cache, about, chosen)
    return _batches(model, plan, store, precision, progress)


def _check_rows(sites: list[str]) -> None:
    """ValueError for sites that hold no row per token, or not the same beside each other as alone."""
    for site in sites:
        block, _, name = site.rpartition(".")
        if name in ("hook_attn_scores", "hook_pattern"):
            raise ValueError(
                f"site {site!r} has a number per head, query and key, not a row per token: stream "
                f"{block + '.hook_z'!r}, or read it with probes.data.activations.batches"
            )
        inputs = [f"{block}.{one}" for one in ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")]
        normalized = {f"{block}.ln1.hook_scale", f"{block}.ln1.hook_normalized"} & set(sites)
        if site in inputs and normalized:
            raise ValueError(
                f"site {min(normalized)!r} is computed per head where {site!r} is read: stream one after the other"
            )


def _batches(
    model: Any,
    plan: _Plan,
    store: contextlib.AbstractContextManager[activation_cache.Recall],
    precision: str,
    progress: Callable[[float], None] | None,
) -> Iterator[Batch]:
    with store as recall:
        for number, part in enumerate(itertools.pairwise(plan.cuts)):
            compute = functools.partial(_activations, model, plan, *part, precision)
            yield Batch(*plan.rows(*part), recall(number, compute))  # no name here: a batch is the caller's alone
            if progress is not None:
                progress(float(plan.counts[: part[1]].sum() / plan.counts.sum()))


@dataclass(frozen=True)
class _Plan:
    """Which programs run, in which order, and how far.

    order int64 [k]: rows of `programs`, those with a wanted position, by need; needs int64 [k]: the positions that
    must run; counts int64 [k]: the wanted ones; cuts: the batches' bounds within `order`.
    """

    programs: np.ndarray
    where: np.ndarray | None
    order: np.ndarray
    needs: np.ndarray
    counts: np.ndarray
    cuts: list[int]

    def wanted(self, begin: int, end: int) -> np.ndarray:
        """bool [end - begin, positions that must run]."""
        needs = self.needs[begin:end]
        if self.where is not None:
            return self.where[self.order[begin:end], : needs[-1]]
        wanted = np.arange(needs[-1]) < needs[:, None]
        wanted[:, 0] = False
        return wanted

    def rows(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The programs and positions int64 [rows] of a batch."""
        rows, positions = np.nonzero(self.wanted(begin, end))
        return self.order[begin:end][rows], positions

    def sequences(self, begin: int, end: int) -> np.ndarray:
        """What the model reads: uint8 [end - begin, positions that must run]."""
        width = int(self.needs[end - 1])
        return tokens.sequences(self.programs[self.order[begin:end]])[:, :width]

    def passes(self, begin: int, end: int, size: int) -> Iterator[tuple[int, int]]:
        """The bounds of forward passes of at most `size` tokens, little of it padding."""
        while begin < end:
            needs = self.needs[begin : min(end, begin + max(1, size // int(self.needs[begin])))]
            padded = needs * np.arange(1, len(needs) + 1)
            fits = (padded <= size) & (padded - needs.cumsum() <= _PADDING * size)
            fitting = max(1, len(fits) if fits.all() else int(fits.argmin()))
            yield begin, begin + fitting
            begin += fitting


def _planned(programs: np.ndarray, where: np.ndarray | None, rows_per_batch: int) -> _Plan:
    if where is None:
        counts = np.minimum(tokens.lengths(programs) + 1, programs.shape[1])
        needs = counts + 1
    else:
        counts = where.sum(1, dtype=np.int64)
        needs = where.shape[1] - where[:, ::-1].argmax(1)
    order = np.argsort(needs, kind="stable")
    order = order[counts[order] > 0]
    needs, counts = needs[order], counts[order]
    upto, cuts = counts.cumsum(), [0]
    while cuts[-1] < len(order):
        before = upto[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(upto, before + rows_per_batch, side="right"))))
    return _Plan(programs, where, order, needs, counts, cuts)


def _activations(
    model: Any, plan: _Plan, begin: int, end: int, precision: str, sites: list[str]
) -> dict[str, np.ndarray]:
    """The wanted rows of a batch: {site: float32 [rows, features]}."""
    device = next(model.parameters()).device
    rows, out, filled = int(plan.counts[begin:end].sum()), {}, 0
    for first, last in plan.passes(begin, end, _PASS.get(device.type, _PASS["cuda"])):
        chosen = torch.from_numpy(np.flatnonzero(plan.wanted(first, last))).to(device)
        into = slice(filled, filled + len(chosen))

        def keep(tensor: Tensor, hook: Hook, chosen: Tensor = chosen, into: slice = into) -> None:
            flat = tensor.detach().reshape(tensor.shape[:2].numel(), -1)
            if hook.name not in out:
                out[hook.name] = np.empty((rows, flat.shape[1]), np.float32)
            target = torch.from_numpy(out[hook.name])[into]
            if flat.dtype == target.dtype and flat.device == target.device:
                torch.index_select(flat, 0, chosen, out=target)
            else:
                target.copy_(flat.index_select(0, chosen))

        _run(model, torch.from_numpy(plan.sequences(first, last)).to(device), sites, keep, precision)
        filled = into.stop
    return {site: out[site] for site in sites}


def _run(model: Any, sequences: Tensor, sites: list[str], keep: Callable[[Tensor, Hook], None], precision: str) -> None:
    """One forward pass, `keep` told of each site; ours ends behind the last of them."""
    autocast = torch.autocast(sequences.device.type, PRECISIONS[precision], enabled=precision != "fp32")
    with torch.no_grad(), autocast:
        if lens.backend(model) != "cadmus":
            for site, tensor in lens.run_with_cache(model, sequences, sites)[1].items():
                keep(tensor, Hook(site))
            return
        layers = [int(site.split(".")[1]) + 1 if site.startswith("blocks.") else 0 for site in sites]
        late = [site for site in sites if site.startswith(("ln_final.", "unembed."))]
        logits = any(site.startswith("unembed.") for site in late)
        model.run_with_hooks(
            *(sequences, [(site, keep) for site in sites], "logits" if logits else None),
            stop_at_layer=None if late else max(layers, default=0),
        )


# --- what belongs to a row -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """The tokens of some rows: token, previous and token_class uint8 [rows] (a class is an index into
    `list(tokens.TOKEN_CLASSES)`; the marker and what is before it are `.`); skeletons uint64 [rows], as
    `skeleton_ids`."""

    token: np.ndarray
    previous: np.ndarray
    token_class: np.ndarray
    skeletons: np.ndarray


def tokens_of(programs: np.ndarray, batch: Batch) -> Tokens:
    """What the rows of a batch of these programs (uint8 [n, width]) are."""
    which, row = np.unique(batch.programs, return_inverse=True)
    sequences = tokens.sequences(programs[which])
    token = sequences[row, batch.positions]
    previous = np.where(batch.positions > 0, sequences[row, batch.positions - 1], np.uint8(tokens.PAD))
    return Tokens(token, previous, tokens.classes(token), skeleton_ids(programs[which])[row])


def layer_of(site: str) -> int:
    """How many blocks have been at work where the site lies: 0 before the first, i + 1 within and after block i; -1 for
    a site behind the last."""
    block = re.match(r"blocks\.(\d+)\.(hook_resid_pre$)?", site)
    if block:
        return int(block[1]) + (block[2] is None)
    return 0 if site in ("hook_embed", "hook_pos_embed") else -1
