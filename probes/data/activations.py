"""Activations of many sites, batch by batch: of whole programs (`batches`), or token by token (`token_rows`).

The row of a token is aligned with everything that is known per program and position: for labels [n, positions] of the
same programs, `labels.values[batch.programs, batch.positions]` belongs to the rows of `batch`, and `tokens_of` says
which tokens they are.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.machine import tokens, vm
from cadmus.models import backends
from cadmus.models.hooks import Hook, NamesFilter, never_writes
from cadmus.models.sites import blocks_needed
from cadmus.runtime.devices import PRECISIONS
from cadmus.runtime.progress import Progress, no_progress
from probes.data import activation_cache
from probes.data.folds import skeleton_ids
from probes.data.schedule import Schedule
from probes.data.token_map import TokenMap, read_rows, sites_of

_PASS_TOKENS = {"cpu": 8192, "cuda": 65536}  # that run at once, padding included


def residual_sites(model: Any) -> list[str]:
    """The residual stream before the first block and after each: the sites of depth 0, 1, ..., n_layers."""
    return ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(model.cfg.n_layers))]


def batches(
    model: Any, programs: np.ndarray, sites: NamesFilter, *, batch_size: int = 512
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Activations of whole programs: (rows of `programs`, {site: float32 [batch, pos, ...]}), batch after batch.

    model: of any backend (`cadmus.models.backends`); programs uint8 [n, length]. Position 0 is the marker, the leading
    `.`. Only the current batch is held. Raises ValueError for a site that is unknown, or not readable on that backend,
    and for programs that are not such an array.
    """
    tokens.check(programs)
    return _whole_programs(model, programs, backends.check_readable(model, sites), batch_size)


def _whole_programs(
    model: Any, programs: np.ndarray, sites: list[str], batch_size: int
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """`batches` of arguments that are checked."""
    sequences = torch.from_numpy(tokens.sequences(programs))
    for start in range(0, len(programs), batch_size):
        rows = slice(start, min(start + batch_size, len(programs)))
        with torch.no_grad():
            _, cache = backends.run_with_cache(model, sequences[rows], names_filter=sites)
        yield rows, {site: cache[site].float() for site in sites}


# --- token by token --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Tokens of some programs, one row each."""

    programs: np.ndarray
    """int64 [rows]: which row of the program array."""

    positions: np.ndarray
    """int64 [rows]: the model's position; p holds token p - 1, 0 the marker."""

    activations: dict[str, np.ndarray]
    """float32 [rows, features] by site, heads flattened."""

    def __repr__(self) -> str:
        return f"Batch({len(self.programs)} rows of {len(self.activations)} sites)"


def token_rows(
    model: Any,
    programs: np.ndarray,
    sites: NamesFilter,
    *,
    where: np.ndarray | None = None,
    rows_per_batch: int = 32768,
    precision: str = "fp32",
    cache: Path | str | None = None,
    token_map: TokenMap | None = None,
    progress: Progress = no_progress,
) -> Iterator[Batch]:
    """Activations of single tokens, in batches that hold all of a program's tokens.

    Programs run by length, the shortest first, up to their last requested position. So a batch is no random sample; the
    order of the rows depends on `programs` and `where` only. Only the current batch is held.

    Args:
        model: of any backend (`cadmus.models.backends`); with `token_map`, any model of TransformerLens.
        programs: uint8 [n, width].
        sites: a name, several, or a predicate on names.
        where: bool [n, 1 + width], the positions requested, the marker's first. By default every token of each program
            through its own `.`, without the marker.
        rows_per_batch: tokens in a batch, at most (more only where one program has more).
        precision: "fp32", or "bf16" for a forward pass under autocast; float32 comes either way, NaN as it is.
        cache: a folder that keeps each site's activations for later calls with the same `rows_per_batch`
            (`probes.data.activation_cache`), once all batches have been read.
        token_map: what a model that is not ours reads for a program, and where (`probes.data.token_map`); then `model`
            is any HookedTransformer or TransformerBridge, and the tokens that the map has no position for are left out
            where `where` names none.
        progress: called after each batch with the fraction of the rows that are done.

    Returns:
        An iterator over batches. Arguments are checked before it is returned, and nothing has run by then.

    Raises:
        ValueError: programs that are not such an array, a site that is unknown, not readable on that backend or without
            a row per token, or more positions than the model has; for what a token map gives that does not fit; with
            a cache also, while it is read, where the model or the programs have changed since the call.
        ArtifactError: damaged files in the cache.
    """
    tokens.check(programs)
    names = check_sites(model, sites, token_map)
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    if rows_per_batch < 1:
        raise ValueError(f"rows_per_batch = {rows_per_batch} must be 1 or more")
    if where is not None and (where.dtype != np.bool_ or where.shape != (len(programs), programs.shape[1] + 1)):
        raise ValueError(
            f"where is {where.dtype} {where.shape}; expected bool {(len(programs), programs.shape[1] + 1)}: "
            "a column per position, the marker's first"
        )
    inputs = None
    if token_map is not None:
        inputs = token_map.inputs(programs)
        where = (_own_tokens(programs) & inputs.readable) if where is None else where
        inputs.check(model, where)
    schedule = Schedule.of(programs, where, rows_per_batch, inputs)
    if schedule.needs.max(initial=0) > model.cfg.n_ctx:
        raise ValueError(
            f"{schedule.needs.max()} positions are requested, but the model has n_ctx = {model.cfg.n_ctx}: "
            "leave longer programs out, or ask for earlier positions with where="
        )
    store: contextlib.AbstractContextManager[activation_cache.Recall]
    if cache is None:
        store = contextlib.nullcontext(lambda number, compute: compute(names))
    else:
        content = functools.partial(activation_cache.content, model, programs, where, rows_per_batch, precision, inputs)
        store = activation_cache.open_sites(cache, content, names)
    return _read_batches(model, schedule, store, precision, progress)


def check_sites(model: Any, sites: NamesFilter, token_map: TokenMap | None = None) -> list[str]:
    """The names of sites that `token_rows` can read of a model, each once; runs nothing.

    Raises ValueError for a site that is unknown, not readable on the model's backend or without a row per token, and
    without a token map for a model of another vocabulary than the machine's.
    """
    if sites is not None and not isinstance(sites, str) and not callable(sites):
        sites = list(sites)
        if not sites:
            raise ValueError("no site is named; name one or more, such as blocks.0.hook_resid_post")
    if token_map is not None:
        names = sites_of(model, sites)
    else:
        _check_vocabulary(model)
        names = backends.check_readable(model, sites)
    names = list(dict.fromkeys(names))
    _check_row_per_token(names)
    return names


def _check_vocabulary(model: Any) -> None:
    """Raise ValueError where a model's tokens are not the machine's."""
    vocabulary = getattr(getattr(model, "cfg", None), "d_vocab", len(vm.VOCAB))
    if vocabulary != len(vm.VOCAB):
        raise ValueError(
            f"the model has d_vocab = {vocabulary}, the machine {len(vm.VOCAB)} tokens: say with "
            "token_map= what it reads for a program (probes.TokenMap)"
        )


def _own_tokens(programs: np.ndarray) -> np.ndarray:
    """Every token of each program through its own `.`, without the marker: bool [n, 1 + width]."""
    mask = np.arange(programs.shape[1] + 1) <= tokens.lengths(programs)[:, None] + 1
    mask[:, 0] = False
    return mask


def _check_row_per_token(sites: list[str]) -> None:
    """Raise ValueError for sites that hold no row per token, or not the same beside each other as alone."""
    for site in sites:
        block, _, name = site.rpartition(".")
        if name in ("hook_attn_scores", "hook_pattern"):
            raise ValueError(
                f"site {site!r} has a number per head, query and key, not a row per token: ask for "
                f"{block + '.hook_z'!r}, or read it with probes.data.activations.batches"
            )
        inputs = {f"{block}.{hook}" for hook in ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")}
        normalized = {f"{block}.ln1.hook_scale", f"{block}.ln1.hook_normalized"} & set(sites)
        if site in inputs and normalized:
            raise ValueError(
                f"site {min(normalized)!r} is computed per head where {site!r} is read: ask for one after the other"
            )


def _read_batches(
    model: Any,
    schedule: Schedule,
    store: contextlib.AbstractContextManager[activation_cache.Recall],
    precision: str,
    progress: Progress,
) -> Iterator[Batch]:
    """Batch after batch, recalled from the store or computed."""
    with store as recall:
        for number, (begin, end) in enumerate(itertools.pairwise(schedule.cuts)):
            compute = functools.partial(_compute_rows, model, schedule, begin, end, precision)
            # without a name here, a batch is the caller's alone
            yield Batch(*schedule.rows(begin, end), recall(number, compute))
            progress("activations", float(schedule.counts[:end].sum() / schedule.counts.sum()), "")


def _compute_rows(
    model: Any, schedule: Schedule, begin: int, end: int, precision: str, sites: list[str]
) -> dict[str, np.ndarray]:
    """Run the programs of a batch and gather the requested rows: {site: float32 [rows, features]}."""
    device = next(model.parameters()).device
    if schedule.inputs is not None:
        autocast = torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")
        size = _PASS_TOKENS.get(device.type, _PASS_TOKENS["cuda"])
        with torch.no_grad(), autocast:
            inputs = schedule.inputs[schedule.order[begin:end]]
            return read_rows(model, inputs, schedule.requested(begin, end), sites, size)
    n_rows = int(schedule.counts[begin:end].sum())
    rows: dict[str, np.ndarray] = {}
    n_filled = 0
    for first, last in schedule.passes(begin, end, _PASS_TOKENS.get(device.type, _PASS_TOKENS["cuda"])):
        requested = torch.from_numpy(np.flatnonzero(schedule.requested(first, last))).to(device)
        place = slice(n_filled, n_filled + len(requested))

        @never_writes
        def gather(tensor: Tensor, hook: Hook, requested: Tensor = requested, place: slice = place) -> None:
            flat = tensor.detach().reshape(tensor.shape[:2].numel(), -1)  # [batch, pos, ...] -> [batch * pos, features]
            if hook.name not in rows:
                rows[hook.name] = np.empty((n_rows, flat.shape[1]), np.float32)
            target = torch.from_numpy(rows[hook.name])[place]
            if flat.dtype == target.dtype and flat.device == target.device:
                torch.index_select(flat, 0, requested, out=target)
            else:
                target.copy_(flat.index_select(0, requested))

        _forward(model, torch.from_numpy(schedule.sequences(first, last)).to(device), sites, gather, precision)
        n_filled = place.stop
    return {site: rows[site] for site in sites}


def _forward(
    model: Any, sequences: Tensor, sites: list[str], gather: Callable[[Tensor, Hook], None], precision: str
) -> None:
    """Run one forward pass and call `gather` with the tensor of each site; our own models stop behind the last one."""
    autocast = torch.autocast(sequences.device.type, PRECISIONS[precision], enabled=precision != "fp32")
    with torch.no_grad(), autocast:
        if backends.backend(model) != "cadmus":
            for site, tensor in backends.run_with_cache(model, sequences, sites)[1].items():
                gather(tensor, Hook(site))
            return
        unembeds = any(site.startswith("unembed.") for site in sites)
        model.run_with_hooks(
            sequences,
            [(site, gather) for site in sites],
            return_type="logits" if unembeds else None,
            stop_at_layer=blocks_needed(sites),
        )


# --- the tokens of a row, the layer of a site ------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """The tokens of some rows. The marker, and whatever is before it, is `.`."""

    token: np.ndarray
    """uint8 [rows]: the id of the token itself."""

    previous: np.ndarray
    """uint8 [rows]: the id of the token before it."""

    token_class: np.ndarray
    """uint8 [rows]: the token's class, an index into `list(tokens.TOKEN_CLASSES)`."""

    skeletons: np.ndarray
    """uint64 [rows]: the program's skeleton, as `skeleton_ids` gives it."""

    def __repr__(self) -> str:
        return f"Tokens({len(self.token)} rows)"


def tokens_of(programs: np.ndarray, batch: Batch) -> Tokens:
    """The tokens of the rows of a batch; programs uint8 [n, width] are those that the batch was read from."""
    unique, row = np.unique(batch.programs, return_inverse=True)
    sequences = tokens.sequences(programs[unique])
    token = sequences[row, batch.positions]
    previous = np.where(batch.positions > 0, sequences[row, batch.positions - 1], np.uint8(tokens.PAD))
    return Tokens(token, previous, tokens.classes(token), skeleton_ids(programs[unique])[row])


def layer_of(site: str) -> int:
    """The number of blocks that have run where the site lies: 0 before the first, i + 1 within and after block i; -1
    for a site behind the last."""
    block = re.match(r"blocks\.(\d+)\.(hook_resid_pre$)?", site)
    if block:
        return int(block[1]) + (block[2] is None)
    return 0 if site in ("hook_embed", "hook_pos_embed") else -1
