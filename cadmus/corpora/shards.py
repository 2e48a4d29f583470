"""Shards: the pieces in which programs are drawn, each a pure function of (mixture, seed, section, shard).

A section is one family in one phase of training. A shard of it holds the programs of the split `train` that no rule
holds out, in the order of their hashes (which is as good as random), each once.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

import numpy as np

from cadmus.corpora.membership import program_hashes
from cadmus.machine import tokens
from cadmus.programs import splits
from cadmus.programs.families import Family
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Mixture
from cadmus.runtime.seeds import generator
from cadmus.runtime.workers import WorkerPool

MAX_DRAWS = 1 << 18  # programs drawn per shard
MIN_DRAWS = 1 << 10
STREAM_DRAWS = 1 << 16  # programs drawn per batch of a stream


@dataclass(frozen=True)
class Section:
    """The programs of one family in one phase."""

    phase: int
    """The phase of training, from 0."""

    component: int
    """The family's place in the phase."""

    family: Family
    """The family, its knobs set."""

    keeps_duplicates: bool
    """Whether what is drawn again is kept."""

    hold_out: HoldOut
    """What is kept out of training."""

    count: int
    """How many programs the corpus has of it."""

    @property
    def draws(self) -> int:
        """Programs drawn per shard, before anything is taken out."""
        return min(MAX_DRAWS, max(MIN_DRAWS, 1 << int(1.4 * self.count).bit_length()))


def sections(mixture: Mixture, size: int) -> list[Section]:
    """The sections of a corpus of `size` programs: every phase and family has its share, exactly."""
    shares, empty_sections = [], []
    for phase, (share, part) in enumerate(mixture.parts):
        for i, component in enumerate(part.components):
            shares.append(share * part.shares[i])
            keeps_duplicates = component.duplicates == "keep"
            empty_sections.append(Section(phase, i, component.family, keeps_duplicates, mixture.hold_out, count=0))
    exact = np.array(shares) / sum(shares) * size
    counts = np.floor(exact + 1e-9).astype(np.int64)
    largest_remainders = np.argsort(counts - exact, kind="stable")
    counts[largest_remainders[: size - counts.sum()]] += 1
    return [replace(section, count=int(count)) for section, count in zip(empty_sections, counts)]


@dataclass(frozen=True)
class DrawnShard:
    """A shard as drawn, before it is compared with others."""

    programs: np.ndarray
    """Programs in the order of their hashes: uint8 [n, width]."""

    eligible: int
    """How many were fit to enter before duplicates were taken out."""


def draw_shard(section: Section, seed: int, shard: int) -> DrawnShard:
    """Draw shard number `shard` of a section."""
    rng = generator("shard", seed, section.phase, section.component, shard)
    programs = train_only(section.family.generate(section.draws, rng), section.hold_out)
    hashes = program_hashes(programs)
    order = np.argsort(hashes, kind="stable")
    if not section.keeps_duplicates:
        hashes = hashes[order]
        is_first = np.append(True, hashes[1:] != hashes[:-1])[: len(order)]
        order = order[is_first]
    return DrawnShard(programs[order], eligible=len(programs))


def train_only(programs: np.ndarray, hold_out: HoldOut) -> np.ndarray:
    """Keep the programs, uint8 [n, width], of split `train` that no hold-out rule excludes."""
    programs = programs[splits.splits(programs) == splits.SPLITS.index("train")]
    return programs[~hold_out.holds_out(programs)] if hold_out.rules else programs


# --- without a disk --------------------------------------------------------------------------------------------------


def stream_programs(
    mixture: Mixture, seed: int = 0, *, start: int = 0, batches: int | None = None, workers: int = 0
) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """Draw programs for training without a corpus, batch after batch.

    Batch k is a pure function of (mixture, seed, k). Programs come again by chance: nothing is remembered.

    Args:
        mixture: What is drawn from.
        seed: Fixes every batch.
        start: The first batch; a stream goes on anywhere.
        batches: Where the stream ends; phases follow one another by the share of them that is done. None: never,
            which a mixture without phases allows.
        workers: Processes that draw ahead; 0 draws in this one.

    Returns:
        Pairs of programs uint8 [n, width] and their families uint8 [n], as indices into `mixture.family_names`.

    Raises:
        ValueError: The mixture has phases, and `batches` is None.
        OSError: A worker died.
    """
    if mixture.phases and batches is None:
        raise ValueError(f"mixture {mixture.name!r} has phases, so a stream needs to know its length: pass batches=")
    batch_numbers = range(start, batches) if batches is not None else itertools.count(start)
    arguments = ((mixture, k / batches if batches else 0.0, seed, k) for k in batch_numbers)
    if not workers:
        yield from itertools.starmap(draw_batch, arguments)
        return
    with WorkerPool(workers) as pool:
        pending: deque[Future] = deque()
        try:
            for batch_arguments in arguments:
                pending.append(pool.submit(draw_batch, *batch_arguments))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise OSError(f"a worker that draws programs died: {pool.cause_of_death()}") from None


def draw_batch(mixture: Mixture, fraction: float, seed: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one batch of a stream, from the phase in force when this fraction of training (0 to 1) is done, its families
    mixed in random order: (programs uint8 [n, width], family uint8 [n], as an index into `family_names`).
    `STREAM_DRAWS` are drawn; what is not for training is left out."""
    part = mixture.at(fraction)
    rng = generator("batch", seed, batch)
    counts = rng.multinomial(STREAM_DRAWS, part.shares)
    by_family = [train_only(family.generate(int(n), rng), mixture.hold_out) for family, n in zip(part.families, counts)]
    programs = stack_programs(by_family)
    family_indices = [mixture.family_names.index(family.name) for family in part.families]
    families = np.repeat(np.array(family_indices, np.uint8), [len(programs) for programs in by_family])
    order = rng.permutation(len(programs))
    return programs[order], families[order]


def stack_programs(parts: list[np.ndarray]) -> np.ndarray:
    """Stack program arrays uint8 [n, width] of several widths into one, padded with `.`."""
    width = max((part.shape[1] for part in parts), default=1)
    out = np.full((sum(len(part) for part in parts), width), tokens.PAD, np.uint8)
    start = 0
    for part in parts:
        out[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return out
