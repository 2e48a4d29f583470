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

import numpy as np

from cadmus.corpora import corpus, held_out
from cadmus.corpora.corpus import Corpus, Shard
from cadmus.corpora.membership import HashSet, program_hashes
from cadmus.corpora.shards import Drawn, Section, draw_shard, sections, worker_pool
from cadmus.programs.mixture import Mixture, to_dict
from cadmus.runtime import artifacts
from cadmus.runtime.seeds import generator

OUT_OF_DISTRIBUTION = 2000  # programs per out-of-distribution set
_FEW_NEW, _BARREN_SHARDS = 0.001, 3  # a family is exhausted after so many shards with so small a share of new programs
_MAX_DEATHS = 5  # of workers, one after the other

Progress = Callable[[int, str], None]  # told how many programs are there and of which family


def build(
    mixture: Mixture,
    size: int | None = None,
    seed: int = 0,
    *,
    folder: Path | str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Corpus:
    """Draw a corpus of `size` programs (the mixture's own number where None).

    With `folder` it is stored there and lies on disk, not in memory (one that is there already is opened); without, it
    is kept in memory. `workers` processes draw, 1 draws in this one. Raises ValueError where a family runs out of
    programs, or an out-of-distribution set has programs of the corpus.
    """
    size = mixture.programs if size is None else size
    if size < 1:
        raise ValueError(f"a corpus of {size} programs is empty; ask for one or more")
    plan = sections(mixture, size)
    if folder is None:
        return _assemble(mixture, seed, plan, _sections(plan, seed, workers, size, _Memory(), progress))
    name = corpus.fingerprint(mixture, seed, size)
    with contextlib.suppress(ValueError):  # there is none, or it is damaged, or of another version
        there = corpus.load(folder)
        if there.fingerprint == name:
            artifacts.drop_partial(folder, name)
            return there
    about = {"mixture": to_dict(mixture), "seed": seed, "fingerprint": name, "programs": size, "families": {}}
    with artifacts.new_folder(folder, "corpus", resume=name, **about) as partial:
        store = _Disk(partial)
        made = _assemble(mixture, seed, plan, _sections(plan, seed, workers, size, store, progress))
        for one, programs in made.out_of_distribution.items():
            artifacts.write_array(partial / "out_of_distribution" / f"{one}.npy", programs)
        about["families"].update(made.summary)
    return corpus.load(folder)


@dataclass(frozen=True)
class _Finished:
    """A shard that has passed: where its programs are, and how many of those drawn were eligible."""

    programs: np.ndarray
    eligible: int


def _assemble(
    mixture: Mixture, seed: int, plan: list[Section], finished: Iterator[tuple[Section, _Finished]]
) -> Corpus:
    names = mixture.family_names
    shards, eligible = [], dict.fromkeys(names, 0)
    for section, shard in finished:
        eligible[section.family.name] += shard.eligible
        shards.append(Shard(shard.programs, names.index(section.family.name), section.phase))
    shards.sort(key=lambda shard: (shard.phase, shard.family))
    made = Corpus(mixture, seed, tuple(shards), eligible)
    for one in mixture.out_of_distribution:
        programs = held_out.out_of_distribution(mixture, one, OUT_OF_DISTRIBUTION, seed)
        inside = int(made.contains_programs(programs).sum())
        if inside:
            raise ValueError(
                f"out_of_distribution {one.name!r} is not: {inside} of its {len(programs)} programs are in the corpus; "
                "turn its knobs away from those of training, or name a rule as held_out"
            )
        made.out_of_distribution[one.name] = programs
    return made


def _sections(
    plan: list[Section], seed: int, workers: int, size: int, store: _Memory | _Disk, progress: Progress | None
) -> Iterator[tuple[Section, _Finished]]:
    """Every shard in order, duplicates of what came before taken out."""
    seen, done = HashSet(size), 0
    with _drawing(plan, seed, workers) as drawn:
        for i, section in enumerate(plan):
            kept = barren = 0
            for shard in itertools.count():
                if kept == section.count:
                    break
                name = corpus.shard_file(section.name, shard)
                finished = store.read(name)
                if finished is None:
                    draft = drawn(i, shard, kept)
                    fresh = _fresh(section, draft, seen, section.count - kept, generator("cut", seed, i, shard))
                    eligible = _eligible(section, draft, fresh, section.count - kept)
                    finished = store.write(name, draft.programs[fresh], eligible)
                elif not section.keeps_duplicates:
                    seen.add(program_hashes(finished.programs), size)
                kept += len(finished.programs)
                done += len(finished.programs)
                if len(finished.programs):
                    yield section, finished
                if progress is not None:
                    progress(done, section.family.name)
                few = len(finished.programs) < _FEW_NEW * section.draws and kept < section.count
                barren = barren + 1 if few else 0
                if barren == _BARREN_SHARDS:
                    raise ValueError(_exhausted(section, kept, finished.eligible))


def _fresh(section: Section, draft: Drawn, seen: HashSet, missing: int, rng: np.random.Generator) -> np.ndarray:
    """Which programs of a drawn shard enter, `missing` at most: bool [n]."""
    if section.keeps_duplicates:  # by chance: the first by hash would be the same ones again and again
        return rng.permutation(len(draft.programs)) < missing
    return seen.add(program_hashes(draft.programs), missing)


def _eligible(section: Section, draft: Drawn, fresh: np.ndarray, missing: int) -> int:
    """How many eligible draws a shard took: all, but of the last one, which is cut, as large a share as was looked
    through (its order is random); as many as were taken where duplicates are kept."""
    if section.keeps_duplicates:
        return int(fresh.sum())
    if fresh.sum() < missing:
        return draft.eligible
    return round(draft.eligible * (np.flatnonzero(fresh)[-1] + 1) / len(fresh))


def _exhausted(section: Section, kept: int, eligible: int) -> str:
    family = section.family.name
    if not eligible:
        return f"family {family} has no programs left for training: the hold-out leaves none; hold out less"
    return (
        f"family {family} runs out of new programs at {kept:,} of {section.count:,}; widen its knobs, ask for fewer "
        'programs, lower its weight, or set duplicates = "keep"'
    )


# --- where finished shards are kept ----------------------------------------------------------------------------------


class _Memory:
    """Finished shards of a corpus that is never stored."""

    def read(self, name: str) -> _Finished | None:
        return None

    def write(self, name: str, programs: np.ndarray, eligible: int) -> _Finished:
        return _Finished(programs, eligible)


class _Disk:
    """Finished shards as files, and a journal with a line for each, so that another call can go on from them."""

    def __init__(self, folder: Path):
        self.folder, self.journal = folder, folder / ".journal.jsonl"
        self.finished: dict[str, dict] = {}
        if self.journal.is_file():
            for line in self.journal.read_bytes().splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):  # a line may be cut, or damaged
                    row = json.loads(line)
                    self.finished[row["name"]] = {"eligible": int(row["eligible"]), "file": row["file"]}

    def read(self, name: str) -> _Finished | None:
        row = self.finished.get(name)
        if row is None or not self._is_there(name, row["file"]):
            return None
        return _Finished(artifacts.read_array(self.folder / name), row["eligible"])

    def _is_there(self, name: str, described: dict) -> bool:
        """Whether the file is whole; one that was already under its final name when a call was killed is taken back."""
        final = self.folder.parent
        if not (self.folder / name).exists() and not (final / artifacts.MANIFEST).exists():
            if artifacts.describe_file(final / name) != described:
                return False
            (self.folder / name).parent.mkdir(exist_ok=True)
            os.replace(final / name, self.folder / name)
        return artifacts.describe_file(self.folder / name) == described

    def write(self, name: str, programs: np.ndarray, eligible: int) -> _Finished:
        path = artifacts.write_array(self.folder / name, programs)
        row = {"name": name, "eligible": eligible, "file": artifacts.describe_file(path)}
        with self.journal.open("ab") as file:
            file.write(b"\n" + json.dumps(row).encode() + b"\n")  # the line before may be cut
        return _Finished(artifacts.read_array(path), eligible)


# --- workers ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _drawing(plan: list[Section], seed: int, workers: int) -> Iterator[Callable[[int, int, int], Drawn]]:
    """Yields drawn(section index, shard, programs kept so far) -> the shard, with the next ones drawn ahead."""
    if workers < 2:
        yield lambda i, shard, kept: draw_shard(plan[i], seed, shard)
        return
    ahead = _Ahead(plan, seed, workers)
    try:
        yield ahead.get
    finally:
        ahead.close()


class _Ahead:
    """Draws shards in worker processes, the wanted one first and likely next ones ahead; replaces workers that die."""

    def __init__(self, plan: list[Section], seed: int, workers: int):
        self.plan, self.seed, self.workers = plan, seed, workers
        self.pool = worker_pool(workers)
        self.pending: dict[tuple[int, int], Future] = {}

    def get(self, i: int, shard: int, kept: int) -> Drawn:
        for death in itertools.count(1):
            try:
                self._fill(i, shard, kept)
                drawn = self.pending[i, shard].result()
                del self.pending[i, shard]
                return drawn
            except BrokenProcessPool:
                self.close()  # waits: what is left of a pool disturbs the exit of Python
                if death == _MAX_DEATHS:
                    raise OSError(
                        f"{death} times in a row a worker died; is there enough memory? Use fewer workers"
                    ) from None
                self.pool, self.pending = worker_pool(self.workers), {}

    def _fill(self, i: int, shard: int, kept: int) -> None:
        self.pending = {key: future for key, future in self.pending.items() if key >= (i, shard)}
        for key in itertools.islice(self._likely(i, shard, kept), 2 * self.workers):
            if key not in self.pending:
                self.pending[key] = self.pool.submit(draw_shard, self.plan[key[0]], self.seed, key[1])

    def _likely(self, i: int, shard: int, kept: int) -> Iterator[tuple[int, int]]:
        """The shards to come, as far as can be told: those of this section at the rate so far, then the next's."""
        rate = kept / shard if shard else 0.8 * self.plan[i].draws
        more = max(1, int(np.ceil((self.plan[i].count - kept) / max(1.0, rate))))
        yield from ((i, shard + k) for k in range(more))
        for later, section in enumerate(self.plan[i + 1 :], i + 1):
            yield from ((later, k) for k in range(max(1, int(np.ceil(section.count / (0.8 * section.draws))))))

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
