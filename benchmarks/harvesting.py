"""Harvesting: activations token by token against HookedTransformer's cache in plain batches, and their memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import cadmus
from benchmarks.measure import Measurement, benchmark
from cadmus.corpora.build import build
from cadmus.machine import tokens
from cadmus.models import lens
from cadmus.models.model import Model
from cadmus.programs import mixture
from probes.data.activations import Batch, token_rows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROGRAMS = 1500
FEW = 1500  # programs, where memory is measured; then ten times as many
ROUNDS = 7
BATCH = 128  # programs: what HookedTransformer is fastest with on a CPU, among 32, 128 and 512
_CORPUS = 20_000
_ROWS = 4096  # in a batch where memory is measured, so that few programs fill several


def _programs(model: Model, n: int) -> np.ndarray:
    """Programs of the default mixture in random order: uint8 [n, width]."""
    corpus = build(mixture.load("default"), _CORPUS)
    programs = corpus.programs(np.random.default_rng(0).permutation(_CORPUS))
    fitting = programs[tokens.lengths(programs) + 2 <= model.cfg.n_ctx]
    return np.ascontiguousarray(fitting[:n, : model.cfg.n_ctx - 1])


def _sites(model: Model) -> list[str]:
    kinds = ("hook_resid_post", "attn.hook_z", "mlp.hook_post")
    return [f"blocks.{layer}.{kind}" for layer in range(model.cfg.n_layers) for kind in kinds]


@benchmark("harvest")
def harvest() -> list[Measurement]:
    """Activations by token_rows against HookedTransformer.run_with_cache in plain batches (>= 1.2 x), flat memory."""
    model = cadmus.load_model().to(DEVICE)
    peer, sites, programs = lens.to_hooked_transformer(model), _sites(model), _programs(model, PROGRAMS)
    rows = _checked(model, programs, sites, peer)
    actions = (
        lambda: _exhaust(token_rows(model, programs, sites)),
        lambda: _exhaust(token_rows(model, programs, sites, precision="bf16")),
        lambda: _exhaust(_plain(peer, programs, sites)),
    )
    seconds = _in_turns(*actions)
    note = (
        f"{cadmus.DEFAULT_MODEL}, {len(sites)} sites, {len(programs)} programs of the default mixture, {rows} tokens, "
        f"equal values, {DEVICE.type}, {torch.get_num_threads()} threads, {ROUNDS} rounds in turn; peer: "
        f"HookedTransformer, fp32, batches of {BATCH}, each padded to its longest, rows not gathered"
    )
    measurements = []
    for k, (name, target) in enumerate([("fp32", 1.2), ("bf16", None)]):
        ratio = float(np.median(seconds[:, 2] / seconds[:, k]))
        rate = rows / float(np.median(seconds[:, k]))
        bound, passed = ("-", True) if target is None else (f">= {target} x", ratio >= target)
        measurements.append(Measurement(f"harvest, {name}", rate, rate / ratio, ratio, bound, "tokens/s", passed, note))
    return [*measurements, *_memory()]


def _checked(model: Model, programs: np.ndarray, sites: list[str], peer: Any) -> int:
    """The number of rows; AssertionError unless both sides have equal values in all of them."""
    total = 0
    last = sites[-3:]  # of the last layer, where all that differs before would show
    theirs = list(_plain(peer, programs, last))
    for batch in token_rows(model, programs, last):
        total += len(batch.programs)
        for number, plain in enumerate(theirs):
            rows = batch.programs // BATCH == number
            at = batch.programs[rows] % BATCH, batch.positions[rows]
            for site in last:
                expected = plain[site].flatten(2)[at].cpu().numpy()
                error = np.abs(batch.activations[site][rows] - expected).max(initial=0)
                assert error <= 1e-5 * plain[site].abs().max(), f"{site}: the two ways disagree by {error}"
    return total


def _plain(peer: Any, programs: np.ndarray, sites: list[str]) -> Iterator[dict[str, Tensor]]:
    sequences = torch.from_numpy(tokens.sequences(programs)).long()
    longest = tokens.lengths(programs) + 2
    for start in range(0, len(programs), BATCH):
        batch = sequences[start : start + BATCH, : longest[start : start + BATCH].max()].to(DEVICE)
        with torch.no_grad():
            cache = peer.run_with_cache(batch, names_filter=sites)[1]
        yield {site: cache[site] for site in sites}


def _exhaust(batches: Iterator[Batch] | Iterator[dict[str, Tensor]]) -> None:
    for _ in batches:
        pass
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _in_turns(*actions: Callable[[], None]) -> np.ndarray:
    """Seconds of each action [round, action], in rounds of shuffled order: a machine that slows down slows all."""
    seconds = np.zeros((ROUNDS, len(actions)))
    rng = np.random.default_rng(0)
    for action in actions:
        action()
    for row in seconds:
        for k in rng.permutation(len(actions)):
            begin = time.perf_counter()
            actions[k]()
            row[k] = time.perf_counter() - begin
    return seconds


def _memory() -> list[Measurement]:
    """The peak memory of a process that reads the activations of few programs, and of ten times as many.

    Beside it the same where glibc must give back freed memory at once, which shows what reading itself needs: by
    default it keeps a share, the larger the more different shapes there were.
    """
    measurements = []
    for name, settings in (("", {}), (", freed memory given back", {"MALLOC_TRIM_THRESHOLD_": str(2**20)})):
        with (
            mock.patch.dict(os.environ, settings),
            ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes,
        ):
            few, many = (processes.submit(_peak, n).result() / 2**20 for n in (FEW, 10 * FEW))
        note = f"{10 * FEW} programs, all that is loaded included, batches of {_ROWS} rows; peer: {FEW} programs"
        measurements.append(
            Measurement(f"harvest, memory{name}", many, few, few / many, "<= 1.1 x", "MiB", many <= 1.1 * few, note)
        )
    return measurements


def _peak(n: int) -> int:
    """The peak memory of this process, in bytes, once it has read the activations of n programs (Linux)."""
    model = cadmus.load_model().to(DEVICE)
    _exhaust(token_rows(model, _programs(model, n), _sites(model), rows_per_batch=_ROWS))
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])  # not ru_maxrss, which a new process takes over from its parent
