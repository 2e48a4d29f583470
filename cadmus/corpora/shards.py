"""Shards: the pieces in which programs are drawn, each a pure function of (mixture, seed, section, shard).

A section is one family in one phase of training. A shard of it holds the programs of the split `train` that no rule
holds out, in the order of their hashes (which is as good as random), each once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process

import numba
import numpy as np

from cadmus.corpora.membership import program_hashes
from cadmus.machine import tokens
from cadmus.programs import skeletons
from cadmus.programs.families import Family
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Mixture
from cadmus.runtime.seeds import generator

MAX_DRAWS = 1 << 18  # programs drawn per shard
MIN_DRAWS = 1 << 10
STREAM_DRAWS = 1 << 16  # programs drawn per batch of a stream


@dataclass(frozen=True)
class Section:
    """`count` programs of one family in one phase. draws: programs drawn per shard, before anything is taken out."""

    phase: int
    component: int
    family: Family
    keeps_duplicates: bool
    hold_out: HoldOut
    count: int

    @property
    def draws(self) -> int:
        return min(MAX_DRAWS, max(MIN_DRAWS, 1 << int(1.4 * self.count).bit_length()))

    @property
    def name(self) -> str:
        return f"{self.phase}-{self.family.name}"


def sections(mixture: Mixture, size: int) -> list[Section]:
    """The sections of a corpus of `size` programs: every phase and family has its share, exactly."""
    shares, found = [], []
    for phase, (share, part) in enumerate(mixture.parts):
        for i, component in enumerate(part.components):
            shares.append(share * part.shares[i])
            found.append((phase, i, component.family, component.duplicates == "keep", mixture.hold_out))
    exact = np.array(shares) / sum(shares) * size
    counts = np.floor(exact + 1e-9).astype(np.int64)
    most_missing = np.argsort(counts - exact, kind="stable")
    counts[most_missing[: size - counts.sum()]] += 1
    return [Section(*parts, int(count)) for parts, count in zip(found, counts)]


@dataclass(frozen=True)
class Drawn:
    """A shard as drawn. programs uint8 [n, width], sorted by hash; eligible: how many were fit to enter before
    duplicates were taken out."""

    programs: np.ndarray
    eligible: int


def draw_shard(section: Section, seed: int, shard: int) -> Drawn:
    """Shard number `shard` of a section."""
    rng = generator("shard", seed, section.phase, section.component, shard)
    programs = train_only(section.family.generate(section.draws, rng), section.hold_out)
    eligible, hashes = len(programs), program_hashes(programs)
    order = np.argsort(hashes, kind="stable")
    if not section.keeps_duplicates:
        hashes = hashes[order]
        order = order[np.append(True, hashes[1:] != hashes[:-1])[: len(order)]]
    return Drawn(programs[order], eligible)


def train_only(programs: np.ndarray, hold_out: HoldOut) -> np.ndarray:
    """Those of the split `train` that no rule holds out."""
    programs = programs[skeletons.splits(programs) == skeletons.SPLITS.index("train")]
    return programs[~hold_out.held(programs)] if hold_out.rules else programs


# --- without a disk --------------------------------------------------------------------------------------------------


def stream_programs(
    mixture: Mixture, seed: int = 0, *, start: int = 0, batches: int | None = None, workers: int = 0
) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """Programs for training without a corpus: (programs uint8 [n, width], family uint8 [n], as an index into
    `mixture.family_names`), batch after batch.

    Batch k is a pure function of (mixture, seed, k), so a stream goes on anywhere (`start`). With `batches` it ends
    there, and phases follow one another by the share of them that is done; a mixture with phases needs it. Programs
    come again by chance: nothing is remembered. `workers` processes draw ahead; 0 draws in this one.
    """
    if mixture.phases and batches is None:
        raise ValueError(f"mixture {mixture.name!r} has phases, so a stream needs to know its length: pass batches=")
    numbers = iter(range(start, batches)) if batches is not None else iter(range(start, 1 << 62))
    if not workers:
        yield from (draw_batch(mixture, k / batches if batches else 0.0, seed, k) for k in numbers)
        return
    with worker_pool(workers) as pool:
        ahead: deque[Future] = deque()
        for k in numbers:
            ahead.append(pool.submit(draw_batch, mixture, k / batches if batches else 0.0, seed, k))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def draw_batch(mixture: Mixture, progress: float, seed: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """One batch of a stream, from the phase in force at `progress` (0 to 1), families mixed in random order;
    `STREAM_DRAWS` are drawn, what is not for training is left out. The family index is into `family_names`."""
    part = mixture.at(progress)
    rng = generator("batch", seed, batch)
    counts = rng.multinomial(STREAM_DRAWS, part.shares)
    drawn = [train_only(family.generate(int(n), rng), mixture.hold_out) for family, n in zip(part.families, counts)]
    programs = stack_programs(drawn)
    names = [mixture.family_names.index(family.name) for family in part.families]
    which = np.repeat(np.array(names, np.uint8), [len(programs) for programs in drawn])
    order = rng.permutation(len(programs))
    return programs[order], which[order]


def stack_programs(parts: list[np.ndarray]) -> np.ndarray:
    """Program arrays of several widths as one, padded with `.`."""
    width = max((part.shape[1] for part in parts), default=1)
    out = np.full((sum(map(len, parts)), width), tokens.PAD, np.uint8)
    at = 0
    for part in parts:
        out[at : at + len(part), : part.shape[1]] = part
        at += len(part)
    return out


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that draw programs, one thread each. They start afresh, so nothing of this process is copied into them;
    a script that asks for some must have its own work under `if __name__ == "__main__":`."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    # All start at the first submit, as where they are forked. A submit that starts one while the pool finds another
    # dead fails in several ways, and the pool may then wait for ever for the one just started.
    pool._safe_to_dynamically_spawn_children = False
    return pool


def _start_worker() -> None:
    numba.config.NUMBA_NUM_THREADS = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its workers
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End with the parent, even where it was killed: a worker that waits for work would never notice."""
    parent_process().join()
    os._exit(1)
