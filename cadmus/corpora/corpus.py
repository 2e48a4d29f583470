"""Corpora: distinct true-programs of a mixture, stored as uint8 arrays, and asked for exact membership.

Only programs of the split `train` enter, and none that the mixture holds out, so whatever `held_out` draws from another
split, and whatever `out_of_distribution` draws, is unseen by construction. `cadmus.corpora.build` makes corpora.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from cadmus.corpora.membership import contains
from cadmus.corpora.shards import stack_programs
from cadmus.machine import tokens
from cadmus.programs.mixture import Mixture, from_dict
from cadmus.runtime import artifacts
from cadmus.runtime.seeds import generator


@dataclass(frozen=True)
class Shard:
    """Programs uint8 [n, width] of one family in one phase, sorted by hash; `family` indexes `Corpus.families`."""

    programs: np.ndarray
    family: int
    phase: int


@dataclass(frozen=True)
class Corpus:
    """The programs of a mixture, shard after shard; program i is row i of their concatenation.

    `out_of_distribution` holds the mixture's sets by name, uint8 [n, width], none of whose programs is in the corpus.
    """

    mixture: Mixture
    seed: int
    shards: tuple[Shard, ...]
    eligible: dict[str, int]
    """Per family, how many drawn programs were fit to enter, duplicates counted."""
    out_of_distribution: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(len(shard.programs) for shard in self.shards)])

    @cached_property
    def families(self) -> tuple[str, ...]:
        """The names of the families, over all phases."""
        return self.mixture.family_names

    @cached_property
    def family(self) -> np.ndarray:
        """Each program's family, as an index into `families`: uint8 [n]."""
        return self._per_shard([shard.family for shard in self.shards])

    @cached_property
    def phase(self) -> np.ndarray:
        """Each program's phase of training: uint8 [n]."""
        return self._per_shard([shard.phase for shard in self.shards])

    def _per_shard(self, values: list[int]) -> np.ndarray:
        return np.repeat(np.array(values, np.uint8), np.diff(self._starts))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Each program's tokens, its `.` included: int16 [n]."""
        parts = [tokens.lengths(shard.programs).astype(np.int16) + np.int16(1) for shard in self.shards]
        return np.concatenate(parts)

    def programs(self, index: np.ndarray) -> np.ndarray:
        """The programs at `index`, uint8 [len(index), longest of them], padded with `.`."""
        index = np.asarray(index, np.int64)
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"programs {index.min()} to {index.max()} are asked for; the corpus has {len(self)}")
        which = np.searchsorted(self._starts, index, side="right") - 1
        out = np.full((len(index), self.mixture.width), tokens.PAD, np.uint8)
        for k in np.unique(which):
            mine = np.flatnonzero(which == k)
            shard = self.shards[k].programs
            out[mine, : shard.shape[1]] = shard[index[mine] - self._starts[k]]
        return out[:, : int(tokens.lengths(out).max(initial=0)) + 1]

    def contains(self, texts: list[str]) -> np.ndarray:
        """Whether each text (up to its `.`) is a program of this corpus, exactly: bool [len(texts)]."""
        return self.contains_programs(tokens.encode(texts)) if texts else np.zeros(0, np.bool_)

    def contains_programs(self, programs: np.ndarray) -> np.ndarray:
        """`contains` for a program array uint8 [n, width]: bool [n]."""
        found = np.zeros(len(programs), np.bool_)
        for shard in self.shards:
            found |= contains(shard.programs, programs)
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Programs per family."""
        found = np.bincount(self.family, minlength=len(self.families))
        return {name: int(n) for name, n in zip(self.families, found, strict=True)}

    @property
    def repetition(self) -> dict[str, float]:
        """Per family, how many eligible draws each kept program took: 1 where nothing was drawn twice."""
        return {name: self.eligible[name] / max(1, count) for name, count in self.counts.items()}

    @property
    def summary(self) -> dict[str, dict[str, float]]:
        """What the manifest says of each family."""
        return {
            name: {"programs": n, "eligible_draws": self.eligible[name], "repetition": self.repetition[name]}
            for name, n in self.counts.items()
        }

    @property
    def fingerprint(self) -> str:
        """Names the content: mixture, seed and size fix every program."""
        return fingerprint(self.mixture, self.seed, len(self))

    @property
    def about(self) -> dict[str, str | int]:
        """What the record of a training says of it."""
        return {"fingerprint": self.fingerprint, "seed": self.seed, "programs": len(self)}


def fingerprint(mixture: Mixture, seed: int, size: int) -> str:
    """The fingerprint of a corpus before it is there."""
    return artifacts.fingerprint([mixture.fingerprint, seed, size, artifacts.machine_fingerprint()])


# --- programs that are in no corpus ----------------------------------------------------------------------------------


# --- on disk ---------------------------------------------------------------------------------------------------------


def shard_file(section: str, shard: int) -> str:
    """The path of a shard in its folder."""
    return f"shards/{section}-{shard:05d}.npy"


def load(folder: Path | str) -> Corpus:
    """Open a corpus; its shards stay on disk until they are read. ArtifactError for one that is missing, half-written,
    damaged (every checksum is compared) or of another machine version."""
    manifest = artifacts.read_manifest(folder, "corpus")
    folder, mixture = Path(folder), from_dict(manifest["mixture"])
    families = mixture.family_names
    shards, sets = [], {}
    for name in manifest["files"]:
        if name.startswith("shards/"):
            phase, rest = Path(name).stem.split("-", 1)
            programs = artifacts.read_array(folder / name)
            shards.append(Shard(programs, families.index(rest.rsplit("-", 1)[0]), int(phase)))
        elif name.startswith("out_of_distribution/"):
            sets[Path(name).stem] = artifacts.read_array(folder / name)
    shards.sort(key=lambda shard: (shard.phase, shard.family))  # files of one section are in order already
    eligible = {name: row["eligible_draws"] for name, row in manifest["families"].items()}
    return Corpus(mixture, manifest["seed"], tuple(shards), eligible, sets)


def sample(corpus: Corpus, n: int, seed: int, family: str | None = None) -> np.ndarray:
    """`n` random programs of the corpus (of one family), none twice; all where it has fewer: uint8 [m, width]."""
    if family is not None and family not in corpus.families:
        raise ValueError(f"the corpus has no family {family!r}; it has {', '.join(corpus.families)}")
    rng = generator("sample", seed)
    if family is None:
        return corpus.programs(np.sort(rng.choice(len(corpus), min(n, len(corpus)), replace=False)))
    shards = [shard.programs for shard in corpus.shards if shard.family == corpus.families.index(family)]
    if not shards:
        return np.empty((0, 1), np.uint8)
    ends = np.cumsum([len(programs) for programs in shards])
    chosen = np.sort(rng.choice(ends[-1], min(n, ends[-1]), replace=False))
    cuts = np.searchsorted(chosen, [0, *ends])
    starts = [0, *ends[:-1]]
    return stack_programs(
        [programs[chosen[a:b] - start] for programs, a, b, start in zip(shards, cuts, cuts[1:], starts)]
    )
