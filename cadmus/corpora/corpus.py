"""Corpora: distinct true-programs of a mixture, stored as uint8 arrays, with exact look-up of programs.

Only programs of the split `train` enter, and none that the mixture holds out, so whatever `held_out` draws from another
split, and whatever `out_of_distribution` draws, is unseen by construction. `cadmus.corpora.build` makes corpora.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cadmus.corpora.membership import contains
from cadmus.corpora.shards import stack_programs
from cadmus.machine import tokens
from cadmus.programs.mixture import Mixture, from_dict, ships
from cadmus.runtime import artifacts
from cadmus.runtime.seeds import generator


@dataclass(frozen=True)
class Shard:
    """Programs of one family in one phase."""

    programs: np.ndarray
    """The programs in the order of their hashes: uint8 [n, width]."""

    family: int
    """Their family, as an index into `Corpus.families`."""

    phase: int
    """Their phase of training, from 0."""


@dataclass(frozen=True, repr=False)
class Corpus:
    """The programs of a mixture, shard after shard; program i is row i of their concatenation."""

    mixture: Mixture
    """What they were drawn from."""

    seed: int
    """The seed that fixes them, with the mixture and their number."""

    shards: tuple[Shard, ...]
    """The programs, phase after phase, and family after family in a phase."""

    eligible: dict[str, int]
    """Per family, how many drawn programs were fit to enter, duplicates counted."""

    out_of_distribution: dict[str, np.ndarray] = field(default_factory=dict)
    """The mixture's sets by name, uint8 [n, width]; none of their programs is in the corpus."""

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        families = ", ".join(self.families)
        return f"{type(self).__name__}({self.mixture.name!r}, {len(self):,} programs of {families}, seed={self.seed})"

    @cached_property
    def _starts(self) -> np.ndarray:
        """The first program of each shard, and the number of all: int64 [shards + 1]."""
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
        texts = tokens.text_list(texts, "texts")
        return self.contains_programs(tokens.encode(texts)) if texts else np.zeros(0, np.bool_)

    def contains_programs(self, programs: np.ndarray) -> np.ndarray:
        """`contains` for a program array uint8 [n, width]: bool [n]."""
        is_member = np.zeros(len(programs), np.bool_)
        for shard in self.shards:
            is_member |= contains(shard.programs, programs)
        return is_member

    @property
    def counts(self) -> dict[str, int]:
        """Programs per family."""
        counts = np.bincount(self.family, minlength=len(self.families))
        return {name: int(n) for name, n in zip(self.families, counts, strict=True)}

    @property
    def repetition(self) -> dict[str, float]:
        """Per family, how many eligible draws each program took: 1 where nothing was drawn twice."""
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


# --- on disk ---------------------------------------------------------------------------------------------------------


def is_meant(source: Path | str) -> bool:
    """Whether a path names a corpus, not a mixture: a folder, unless it has the name of a mixture that ships and holds
    something else."""
    return Path(source).is_dir() and (artifacts.holds(source, "corpus") or not ships(source))


def load(folder: Path | str) -> Corpus:
    """Open a corpus; its shards stay on disk until they are read. Raises ArtifactError for one that is missing,
    half-written, damaged (every checksum is compared) or of another machine version."""
    manifest = artifacts.read_manifest(folder, "corpus")
    folder = Path(folder)
    mixture = from_dict(manifest["mixture"])
    families = mixture.family_names
    shard_rows, set_files = _manifest_rows(manifest)
    shards = [
        Shard(artifacts.read_array(folder / row["file"]), families.index(row["family"]), row["phase"])
        for row in shard_rows
    ]
    shards.sort(key=lambda shard: (shard.phase, shard.family))  # those of one section are in order already
    eligible = {name: row["eligible_draws"] for name, row in manifest["families"].items()}
    in_order_of_files = sorted(set_files.items(), key=lambda item: item[1])
    sets = {name: artifacts.read_array(folder / file) for name, file in in_order_of_files}
    return Corpus(mixture, manifest["seed"], tuple(shards), eligible, sets)


def _manifest_rows(manifest: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What a manifest says of its files: of each shard its file, phase and family, and the file of each
    out-of-distribution set by name.

    Manifests of earlier versions list the files alone, whose names say the rest: `shards/PHASE-FAMILY-NUMBER.npy` and
    `out_of_distribution/NAME.npy`.
    """
    if "shards" in manifest:
        return manifest["shards"], manifest["out_of_distribution"]
    shard_rows, set_files = [], {}
    for file in manifest["files"]:
        folder, name = Path(file).parent.name, Path(file).stem
        if folder == "shards":
            phase, rest = name.split("-", 1)
            family, _ = rest.rsplit("-", 1)
            shard_rows.append({"file": file, "phase": int(phase), "family": family})
        elif folder == "out_of_distribution":
            set_files[name] = file
    return shard_rows, set_files


def sample(corpus: Corpus, n: int, seed: int, family: str | None = None) -> np.ndarray:
    """Take `n` random programs of the corpus (of one family), none twice; all where it has fewer: uint8 [m, width]."""
    if family is not None and family not in corpus.families:
        raise ValueError(f"the corpus has no family {family!r}; it has {', '.join(corpus.families)}")
    rng = generator("sample", seed)
    if family is None:
        return corpus.programs(np.sort(rng.choice(len(corpus), min(n, len(corpus)), replace=False)))
    shards = [shard.programs for shard in corpus.shards if shard.family == corpus.families.index(family)]
    if not shards:
        return np.empty((0, 1), np.uint8)
    ends = np.cumsum([len(programs) for programs in shards])
    rows = np.sort(rng.choice(ends[-1], min(n, ends[-1]), replace=False))
    parts = []
    for programs, end in zip(shards, ends):
        start = end - len(programs)
        parts.append(programs[rows[(start <= rows) & (rows < end)] - start])
    return stack_programs(parts)
