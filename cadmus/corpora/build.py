"""Building a corpus: shards drawn by workers, duplicates taken out in a fixed order, interruptible and resumable.

The outcome depends on the mixture, the size and the seed alone: whatever the number of workers, and however often it
was interrupted. Finished shards lie in a hidden folder until all are there; a second call goes on from them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cadmus.corpora import corpus, held_out
from cadmus.corpora.corpus import Corpus, Shard
from cadmus.corpora.membership import HashSet, program_hashes
from cadmus.corpora.shards import DrawnShard, Section, draw_shard, sections, stack_programs
from cadmus.programs.mixture import Mixture, check_storable, to_dict
from cadmus.runtime import artifacts
from cadmus.runtime.folder_lock import sole_writer
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from cadmus.runtime.workers import UNGUARDED, WorkerPool, check_guard

MAX_PROGRAMS = 10**12
OUT_OF_DISTRIBUTION = 2000  # programs per out-of-distribution set
DIVERGENCE_PROGRAMS = 20_000  # of a family, from which the divergence of such a set is measured, where it is
_STAGE = "build the corpus"  # of the progress
_MIN_NEW_SHARE = 0.001  # of a shard's draws: with fewer new programs it is a scarce one
_MAX_SCARCE_SHARDS = 3  # in a row, before a family is exhausted
_MAX_DEATHS = 5  # of workers, one after the other


def build(
    mixture: Mixture,
    size: int | None = None,
    seed: int = 0,
    *,
    folder: Path | str | None = None,
    workers: int = 1,
    progress: Progress = no_progress,
) -> Corpus:
    """Draw a corpus.

    Args:
        mixture: What its programs are drawn from.
        size: How many programs; None: the mixture's own number.
        seed: With mixture and size, fixes every program.
        folder: Where it is stored, so that it lies on disk, not in memory; a corpus of this mixture, size and seed
            that is there already is opened, an interrupted one is gone on with. None: it is kept in memory.
        workers: Processes that draw; 1 draws in this one.
        progress: Called after every shard.

    Returns:
        The corpus.

    Raises:
        ValueError: The size is 0, a family runs out of programs, an out-of-distribution set has programs of the
            corpus, or one that is to be stored has a family that is not registered.
        ArtifactError: The folder holds something else, or another run writes to it.
        OSError: Nothing can be written, or workers die again and again.
    """
    if workers > 1:
        check_guard()
    size = mixture.programs if size is None else size
    if size < 1:
        raise ValueError(f"a corpus of {size} programs is empty; ask for one or more")
    if size > MAX_PROGRAMS:
        raise ValueError(f"a corpus of {size} programs is more than any disk holds; ask for {MAX_PROGRAMS:,} at most")
    plan = sections(mixture, size)
    if folder is None:
        return _assemble(mixture, seed, list(_finish_shards(plan, seed, workers, size, _Memory(), progress)))
    check_storable(mixture)
    name = corpus.fingerprint(mixture, seed, size)
    with contextlib.suppress(ValueError):  # there is none, or it is damaged, or of another version
        existing = corpus.load(folder)
        if existing.fingerprint == name:
            artifacts.drop_partial(folder, name)
            return existing
    about: dict[str, Any] = {
        "mixture": to_dict(mixture),
        "seed": seed,
        "fingerprint": name,
        "programs": size,
        "families": {},
        "shards": [],
        "out_of_distribution": {},
    }
    if mixture.hold_out.compounds:
        about["divergence"] = {}
    with sole_writer(folder), artifacts.new_folder(folder, "corpus", resume=name, **about) as partial:
        finished_shards = list(_finish_shards(plan, seed, workers, size, _Disk(partial), progress))
        result = _assemble(mixture, seed, finished_shards)
        for set_name, programs in result.out_of_distribution.items():
            file = f"out_of_distribution/{set_name}.npy"
            artifacts.write_array(partial / file, programs)
            about["out_of_distribution"][set_name] = file
        about["families"].update(result.summary)
        if mixture.hold_out.compounds:
            sets = result.out_of_distribution
            about["divergence"].update(held_out.reached_divergences(mixture, sets, _sampler(result)))
        about["shards"] += [
            {"file": shard.file, "phase": section.phase, "family": section.family.name}
            for section, shard in finished_shards
        ]
    return corpus.load(folder)


@dataclass(frozen=True)
class _FinishedShard:
    """A shard without the duplicates of what came before it."""

    file: str
    """Its path in the corpus's folder, also where there is none."""

    programs: np.ndarray
    """Its programs in the order of their hashes: uint8 [n, width]."""

    eligible: int
    """How many drawn programs were fit to enter, duplicates counted."""


def _assemble(mixture: Mixture, seed: int, finished_shards: list[tuple[Section, _FinishedShard]]) -> Corpus:
    """The corpus of these shards, with its out-of-distribution sets. Raises ValueError where a set is not one."""
    names = mixture.family_names
    shards, eligible = [], dict.fromkeys(names, 0)
    for section, shard in finished_shards:
        eligible[section.family.name] += shard.eligible
        shards.append(Shard(shard.programs, names.index(section.family.name), section.phase))
    shards.sort(key=lambda shard: (shard.phase, shard.family))
    result = Corpus(mixture, seed, tuple(shards), eligible)
    for ood in mixture.out_of_distribution:
        programs = held_out.out_of_distribution(mixture, ood, OUT_OF_DISTRIBUTION, seed)
        n_inside = int(result.contains_programs(programs).sum())
        if n_inside:
            raise ValueError(
                f"out_of_distribution {ood.name!r} is not: {n_inside} of its {len(programs)} programs are in the "
                "corpus; turn its knobs away from those of training, or name a rule as held_out"
            )
        result.out_of_distribution[ood.name] = programs
    return result


def _sampler(result: Corpus) -> Callable[[str], np.ndarray]:
    """A function from a family's name to at most DIVERGENCE_PROGRAMS of its programs in the corpus, in random order."""

    def sample(family: str) -> np.ndarray:
        index = result.mixture.family_names.index(family)
        programs = stack_programs([shard.programs for shard in result.shards if shard.family == index])
        rng = generator("divergence", result.seed, index)
        return programs[rng.permutation(len(programs))[:DIVERGENCE_PROGRAMS]]

    return sample


def _finish_shards(
    plan: list[Section], seed: int, workers: int, size: int, store: _Memory | _Disk, progress: Progress
) -> Iterator[tuple[Section, _FinishedShard]]:
    """Yield every shard that has programs, in order, duplicates of what came before taken out."""
    known_hashes = HashSet(size)
    n_done = 0
    with _drawing(plan, seed, workers) as draw:
        for i, section in enumerate(plan):
            n_section = n_scarce_shards = 0
            for number in itertools.count():
                if n_section == section.count:
                    break
                file = _shard_file(section, number)
                shard = store.read(file)
                if shard is None:
                    rng = generator("cut", seed, i, number)
                    drawn_shard = draw(i, number, n_section)
                    n_missing = section.count - n_section
                    shard = store.write(file, *_select(section, drawn_shard, known_hashes, n_missing, rng))
                elif not section.keeps_duplicates:
                    known_hashes.add(program_hashes(shard.programs), size)
                n_section += len(shard.programs)
                n_done += len(shard.programs)
                if len(shard.programs):
                    yield section, shard
                progress(_STAGE, n_done / size, f"{n_done:,} programs, {section.family.name}")
                is_scarce = len(shard.programs) < _MIN_NEW_SHARE * section.draws and n_section < section.count
                n_scarce_shards = n_scarce_shards + 1 if is_scarce else 0
                if n_scarce_shards == _MAX_SCARCE_SHARDS:
                    raise ValueError(_exhausted_message(section, n_section, shard.eligible))


def _shard_file(section: Section, number: int) -> str:
    """The path of a shard in the corpus's folder. Nothing reads its parts: the manifest has phase and family."""
    return f"shards/{section.phase}-{section.family.name}-{number:05d}.npy"


def _select(
    section: Section, shard: DrawnShard, known_hashes: HashSet, limit: int, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """The programs of a drawn shard that enter, `limit` at most, and how many eligible draws they took.

    These are all draws, but of the last shard, which is cut, as large a share as was looked through (its order is
    random); as many as enter where duplicates are kept.
    """
    if section.keeps_duplicates:  # by chance: the first by hash would be the same ones again and again
        enters = rng.permutation(len(shard.programs)) < limit
        return shard.programs[enters], int(enters.sum())
    enters = known_hashes.add(program_hashes(shard.programs), limit)
    if enters.sum() < limit:
        return shard.programs[enters], shard.eligible
    n_examined = np.flatnonzero(enters)[-1] + 1
    return shard.programs[enters], round(shard.eligible * n_examined / len(enters))


def _exhausted_message(section: Section, n_programs: int, eligible: int) -> str:
    """What is wrong with a family that has no new programs: `eligible` is what its last shard had."""
    family = section.family.name
    if not eligible:
        return f"family {family} has no programs left for training: the hold-out leaves none; hold out less"
    return (
        f"family {family} runs out of new programs at {n_programs:,} of {section.count:,}; widen its knobs, ask for "
        'fewer programs, lower its weight, or set duplicates = "keep"'
    )


# --- stores of finished shards ---------------------------------------------------------------------------------------


class _Memory:
    """Finished shards of a corpus that is never stored."""

    def read(self, file: str) -> _FinishedShard | None:
        return None

    def write(self, file: str, programs: np.ndarray, eligible: int) -> _FinishedShard:
        return _FinishedShard(file, programs, eligible)


class _Disk:
    """Finished shards as files, and a journal with a line for each, so that another call can go on from them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.journal = folder / ".journal.jsonl"
        self.rows: dict[str, dict] = {}  # file -> eligible draws, and size and checksum as a manifest has them
        if self.journal.is_file():
            for line in self.journal.read_bytes().splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):  # a line may be cut, or damaged
                    row = json.loads(line)
                    self.rows[row["name"]] = {"eligible": int(row["eligible"]), "description": row["file"]}

    def read(self, file: str) -> _FinishedShard | None:
        """The shard; None where it is not finished, or its file is not whole."""
        row = self.rows.get(file)
        if row is None or not self._is_whole(file, row["description"]):
            return None
        return _FinishedShard(file, artifacts.read_array(self.folder / file), row["eligible"])

    def _is_whole(self, file: str, description: dict) -> bool:
        """Whether the file is as described; one that was under its final name already when a call was killed is taken
        back."""
        final = self.folder.parent
        if not (self.folder / file).exists() and not (final / artifacts.MANIFEST).exists():
            if artifacts.describe_file(final / file) != description:
                return False
            (self.folder / file).parent.mkdir(exist_ok=True)
            os.replace(final / file, self.folder / file)
        return artifacts.describe_file(self.folder / file) == description

    def write(self, file: str, programs: np.ndarray, eligible: int) -> _FinishedShard:
        path = artifacts.write_array(self.folder / file, programs)
        row = {"name": file, "eligible": eligible, "file": artifacts.describe_file(path)}
        with self.journal.open("ab") as journal:
            journal.write(b"\n" + json.dumps(row).encode() + b"\n")  # the line before may be cut
        return _FinishedShard(file, artifacts.read_array(path), eligible)


# --- workers ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _drawing(plan: list[Section], seed: int, workers: int) -> Iterator[Callable[[int, int, int], DrawnShard]]:
    """Yield draw(section index, shard number, programs of the section so far) -> the shard; with workers, the next ones
    are drawn ahead."""
    if workers < 2:
        yield lambda i, number, n_section: draw_shard(plan[i], seed, number)
        return
    drawer = _DrawAhead(plan, seed, workers)
    try:
        yield drawer.draw
    finally:
        drawer.close()


class _DrawAhead:
    """Draws shards in worker processes, the requested one first and likely next ones ahead; replaces workers that
    die."""

    def __init__(self, plan: list[Section], seed: int, workers: int):
        self.plan = plan
        self.seed = seed
        self.workers = workers
        self.pool = WorkerPool(workers)
        self.pending: dict[tuple[int, int], Future] = {}  # by section index and shard number

    def draw(self, i: int, number: int, n_section: int) -> DrawnShard:
        n_deaths = 0
        while True:
            try:
                self._submit_ahead(i, number, n_section)
                shard = self.pending[i, number].result()
                del self.pending[i, number]
                return shard
            except BrokenProcessPool:
                n_deaths += 1
                cause = self.pool.cause_of_death()
                self.close()  # waits: what is left of a pool disturbs the exit of Python
                if n_deaths == _MAX_DEATHS or cause == UNGUARDED:  # which no other try would mend
                    times = f"{n_deaths} times in a row a" if n_deaths > 1 else "a"
                    raise OSError(f"{times} worker died: {cause}") from None
                self.pool = WorkerPool(self.workers)
                self.pending = {}

    def _submit_ahead(self, i: int, number: int, n_section: int) -> None:
        """Have the next shards drawn, and forget those before."""
        self.pending = {key: future for key, future in self.pending.items() if key >= (i, number)}
        for key in itertools.islice(self._next_shards(i, number, n_section), 2 * self.workers):
            if key not in self.pending:
                self.pending[key] = self.pool.submit(draw_shard, self.plan[key[0]], self.seed, key[1])

    def _next_shards(self, i: int, number: int, n_section: int) -> Iterator[tuple[int, int]]:
        """The shards to come, as far as is known: those of this section at the rate so far, then the next's."""
        rate = n_section / number if number else 0.8 * self.plan[i].draws
        n_more = max(1, int(np.ceil((self.plan[i].count - n_section) / max(1.0, rate))))
        yield from ((i, number + k) for k in range(n_more))
        for later, section in enumerate(self.plan[i + 1 :], i + 1):
            n_shards = max(1, int(np.ceil(section.count / (0.8 * section.draws))))
            yield from ((later, k) for k in range(n_shards))

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
