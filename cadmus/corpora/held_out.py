"""Programs that are in no corpus: of the held-out splits, and of the out-of-distribution sets."""

from __future__ import annotations

import numpy as np

from cadmus.corpora.membership import program_hashes
from cadmus.programs import skeletons
from cadmus.programs.families import Family
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Mixture, OutOfDistribution
from cadmus.runtime.seeds import generator

_MAX_ROUNDS = 100  # of a held-out draw that finds nothing new


def held_out(family: Family, split: str, n: int, seed: int, hold_out: HoldOut | None = None) -> np.ndarray:
    """`n` distinct programs of `family` that fall into `split`, uint8 [n, width]: drawn afresh, never in a corpus
    unless `split` is "train". With `hold_out`, none that it holds out.

    Raises ValueError for an unknown split, and where the family has too few programs."""
    if split not in skeletons.SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(skeletons.SPLITS)}")

    def wanted(programs: np.ndarray) -> np.ndarray:
        fine = skeletons.splits(programs) == skeletons.SPLITS.index(split)
        return fine & ~hold_out.held(programs) if hold_out else fine

    rng = generator("held out", seed, skeletons.SPLITS.index(split))
    return _distinct(family, n, rng, wanted, f"in split {split!r}")


def out_of_distribution(mixture: Mixture, one: OutOfDistribution, n: int, seed: int) -> np.ndarray:
    """`n` distinct programs of an out-of-distribution set of the mixture, uint8 [n, width], of any split.

    Raises ValueError where there are too few."""

    def wanted(programs: np.ndarray) -> np.ndarray:
        if one.held_out:
            return mixture.hold_out.held(programs, one.held_out)
        return np.ones(len(programs), np.bool_)

    rng = generator(f"out of distribution {one.name}", seed)
    return _distinct(one.family, n, rng, wanted, f"for the out-of-distribution set {one.name!r}")


def _distinct(family: Family, n: int, rng: np.random.Generator, wanted, where: str) -> np.ndarray:
    if n < 1:
        raise ValueError(f"{n} programs are asked for {where}; ask for one or more")
    found: dict[int, np.ndarray] = {}
    barren = 0
    while len(found) < n:
        programs = family.generate(max(1024, 4 * n), rng)
        programs = programs[wanted(programs)]
        before = len(found)
        for key, program in zip(program_hashes(programs).tolist(), programs, strict=True):
            found.setdefault(key, program)
        barren = barren + 1 if len(found) == before else 0
        if barren == _MAX_ROUNDS:
            raise ValueError(
                f"family {family.name} has only {len(found)} programs {where}, {n} are asked for; "
                "ask for fewer or widen its knobs"
            )
    return np.stack(list(found.values())[:n])
