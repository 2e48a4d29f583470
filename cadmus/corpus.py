"""Corpora: true-programs of a mixture, drawn by shard, split by text, deduplicated, stored, and asked for membership.

Shard k is a pure function of (mixture, seed, k); a program that two shards share stays in the first. Only programs
of the split `train` enter, so whatever `held_out` draws from another split is unseen by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cadmus import artifacts, tokens
from cadmus.families import Family
from cadmus.mixture import Mixture, from_dict, to_dict

SHARD_SIZE = 1 << 16  # programs drawn per shard, before splits and duplicates are taken out
_FEW_NEW, _BARREN_SHARDS = 0.001, 3  # a mixture is exhausted after so many shards with so small a share of new programs
_MOST_ROUNDS = 200  # of a held-out draw that finds nothing new


@dataclass(frozen=True)
class Corpus:
    """Programs of the split `train`.

    flat uint8 [tokens]: the programs one after the other, each with its `.`; offsets int64 [n + 1]; family uint8 [n]:
    index into `mixture.families`.
    """

    mixture: Mixture
    seed: int
    flat: np.ndarray
    offsets: np.ndarray
    family: np.ndarray

    def __len__(self) -> int:
        return len(self.family)

    def programs(self, index: np.ndarray) -> np.ndarray:
        """The programs at `index`, uint8 [len(index), longest of them], padded with `.`."""
        starts = self.offsets[index]
        lengths = self.offsets[index + 1] - starts
        inside = np.arange(lengths.max(initial=1)) < lengths[:, None]
        out = np.full(inside.shape, tokens.PAD, np.uint8)
        out[inside] = self.flat[(starts[:, None] + np.arange(inside.shape[1]))[inside]]
        return out

    def contains(self, texts: list[str]) -> np.ndarray:
        """Whether each text (up to its `.`) is a program of this corpus, exactly: bool [len(texts)]."""
        known = set(tokens.decode(self.programs(np.arange(len(self)))))
        return np.array([text.partition(".")[0] + "." in known for text in texts], np.bool_)

    @property
    def counts(self) -> dict[str, int]:
        """Programs per family."""
        found = np.bincount(self.family, minlength=len(self.mixture.families))
        return {family.name: int(n) for family, n in zip(self.mixture.families, found, strict=True)}

    @property
    def fingerprint(self) -> str:
        """Names the content: mixture, seed and size fix every program."""
        return artifacts.fingerprint([to_dict(self.mixture)["family"], self.seed, len(self), SHARD_SIZE])


def build(mixture: Mixture, size: int, seed: int = 0, *, progress: Callable[[int], None] | None = None) -> Corpus:
    """Draw a corpus of `size` distinct programs (the last shard is cut); `progress` is told how many are there.

    Raises ValueError where the mixture runs out of new programs.
    """
    if size < 1:
        raise ValueError(f"a corpus of {size} programs is empty; ask for one or more")
    seen: set[int] = set()
    flats, lengths, families, n, barren = [], [], [], 0, 0
    for programs, family in shards(mixture, seed):
        keys = tokens.hashes(programs, "cadmus corpus 1").tolist()
        fresh = np.zeros(len(programs), np.bool_)
        for i, key in enumerate(keys):  # the first of equal programs stays
            if key not in seen:
                seen.add(key)
                fresh[i] = True
        programs, family = programs[fresh][: size - n], family[fresh][: size - n]
        length = tokens.lengths(programs) + 1
        flats.append(programs[np.arange(programs.shape[1]) < length[:, None]])
        lengths.append(length)
        families.append(family)
        n += len(family)
        if progress is not None:
            progress(n)
        if n == size:
            break
        barren = barren + 1 if fresh.sum() < _FEW_NEW * SHARD_SIZE else 0
        if barren == _BARREN_SHARDS:
            raise ValueError(
                f"mixture {mixture.name!r} runs out of new programs at {n:,} of {size:,}; "
                "widen its knobs or ask for less"
            )
    offsets = np.append(0, np.cumsum(np.concatenate(lengths)))
    return Corpus(mixture, seed, np.concatenate(flats), offsets, np.concatenate(families))


def shards(mixture: Mixture, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Shard after shard without end: (train programs uint8 [m, width], family index uint8 [m]), in random order."""
    shard = 0
    while True:
        rng = np.random.default_rng([seed, shard])
        which = np.sort(rng.choice(len(mixture.components), SHARD_SIZE, p=mixture.shares).astype(np.uint8))
        programs = np.full((SHARD_SIZE, mixture.width), tokens.PAD, np.uint8)
        for i, family in enumerate(mixture.families):
            drawn = family.generate(int((which == i).sum()), rng)
            programs[which == i, : drawn.shape[1]] = drawn
        keep = rng.permutation(np.flatnonzero(tokens.splits(programs) == tokens.SPLITS.index("train")))
        yield programs[keep], which[keep]
        shard += 1


def held_out(family: Family, split: str, n: int, seed: int) -> np.ndarray:
    """`n` distinct programs of `family` that fall into `split`, uint8 [n, width]: drawn afresh, never in a corpus
    unless `split` is "train". Raises ValueError for an unknown split, and where the family has too few programs."""
    if split not in tokens.SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(tokens.SPLITS)}")
    if n < 1:
        raise ValueError(f"{n} held-out programs are asked for; ask for one or more")
    rng = np.random.default_rng([seed, tokens.SPLITS.index(split), 1])
    found: dict[int, np.ndarray] = {}
    barren = 0
    while len(found) < n:
        programs = family.generate(max(1024, 4 * n), rng)
        programs = programs[tokens.splits(programs) == tokens.SPLITS.index(split)]
        before = len(found)
        for key, program in zip(tokens.hashes(programs, "cadmus corpus 1").tolist(), programs, strict=True):
            found.setdefault(key, program)
        barren = barren + 1 if len(found) == before else 0
        if barren == _MOST_ROUNDS or (barren and len(found) == 0):
            raise ValueError(
                f"family {family.name} has only {len(found)} programs in split {split!r}, {n} are asked for; "
                "ask for fewer or widen its knobs"
            )
    return np.stack(list(found.values())[:n])


# --- on disk ---------------------------------------------------------------------------------------------------------


def save(corpus: Corpus, folder: Path | str) -> Path:
    """Write the corpus to `folder`: programs.safetensors and the manifest with its mixture, seed and counts."""
    about = {
        "mixture": to_dict(corpus.mixture),
        "seed": corpus.seed,
        "fingerprint": corpus.fingerprint,
        "programs": len(corpus),
        "families": corpus.counts,
    }
    with artifacts.new_folder(folder, "corpus", **about) as partial:
        arrays = {"flat": corpus.flat, "offsets": corpus.offsets, "family": corpus.family}
        artifacts.write_arrays(partial / "programs.safetensors", arrays)
    return Path(folder)


def load(folder: Path | str) -> Corpus:
    """Read a corpus; ArtifactError for one that is missing, half-written, damaged or of another machine version."""
    manifest = artifacts.read_manifest(folder, "corpus")
    arrays = artifacts.read_arrays(Path(folder) / "programs.safetensors")
    return Corpus(from_dict(manifest["mixture"]), manifest["seed"], **arrays)
