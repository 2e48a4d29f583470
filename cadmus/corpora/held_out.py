"""Programs that are in no corpus: those of the held-out splits, and the out-of-distribution sets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cadmus.corpora.membership import program_hashes
from cadmus.programs import compounds, splits
from cadmus.programs.families import Family
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import HELD_OUT_SPLITS, Mixture, OutOfDistribution
from cadmus.runtime.seeds import generator

_MAX_ROUNDS = 100  # draws in a row without a new program


def held_out(family: Family, split: str, n: int, seed: int, hold_out: HoldOut | None = None) -> np.ndarray:
    """Draw `n` distinct programs of `family` that fall into `split`, uint8 [n, width]: never in a corpus unless `split`
    is "train". With `hold_out`, none that it holds out.

    Raises ValueError for an unknown split, and where the family has too few programs.
    """
    if split not in splits.SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(splits.SPLITS)}")

    def belongs(programs: np.ndarray) -> np.ndarray:
        in_split = splits.splits(programs) == splits.SPLITS.index(split)
        return in_split & ~hold_out.holds_out(programs) if hold_out else in_split

    rng = generator("held out", seed, splits.SPLITS.index(split))
    return _draw_distinct(family, n, rng, belongs, f"in split {split!r}")


def out_of_distribution(mixture: Mixture, ood: OutOfDistribution, n: int, seed: int) -> np.ndarray:
    """Draw `n` distinct programs of an out-of-distribution set of the mixture, uint8 [n, width], of any split.

    Raises ValueError where there are too few.
    """

    def belongs(programs: np.ndarray) -> np.ndarray:
        if ood.held_out in HELD_OUT_SPLITS:
            in_split = splits.splits(programs) == splits.SPLITS.index(ood.held_out)
            return in_split & ~mixture.hold_out.holds_out(programs)
        if not ood.held_out:
            return np.ones(len(programs), np.bool_)
        out = mixture.hold_out.holds_out(programs, ood.held_out)
        if ood.held_out_share:
            codes = compounds.codes_of(mixture.hold_out.compounds)
            out[out] = compounds.shares(programs[out], codes) >= ood.held_out_share
        return out

    rng = generator(f"out of distribution {ood.name}", seed)
    return _draw_distinct(ood.family, n, rng, belongs, f"for the out-of-distribution set {ood.name!r}")


def reached_divergences(
    mixture: Mixture, sets: dict[str, np.ndarray], programs_of: Callable[[str], np.ndarray]
) -> dict[str, dict[str, float | int]]:
    """How far the sets that hold compounds out lie from training, by the name of the set: compound and atom divergence
    (`compounds.divergences`), and on how many programs they are measured.

    sets: the programs of each set; programs_of: what of a family is trained on, uint8 [n, width].
    """
    out: dict[str, dict[str, float | int]] = {}
    for ood in mixture.out_of_distribution:
        if ood.held_out == "compounds" and ood.family.name in mixture.family_names:
            trained = programs_of(ood.family.name)
            compound, atom = compounds.divergences(trained, sets[ood.name])
            out[ood.name] = {
                "compound_divergence": compound,
                "atom_divergence": atom,
                "programs": len(sets[ood.name]),
                "trained_programs": len(trained),
            }
    return out


def _draw_distinct(
    family: Family, n: int, rng: np.random.Generator, belongs: Callable[[np.ndarray], np.ndarray], where: str
) -> np.ndarray:
    """Draw `n` distinct programs of which `belongs`, bool [m] of programs uint8 [m, width], is true; `where` says in
    errors (ValueError) what they are for."""
    if n < 1:
        raise ValueError(f"{n} programs are asked for {where}; ask for one or more")
    by_hash: dict[int, np.ndarray] = {}
    n_rounds_without_new = 0
    while len(by_hash) < n:
        programs = family.generate(max(1024, 4 * n), rng)
        programs = programs[belongs(programs)]
        size_before = len(by_hash)
        for key, program in zip(program_hashes(programs).tolist(), programs, strict=True):
            by_hash.setdefault(key, program)
        n_rounds_without_new = n_rounds_without_new + 1 if len(by_hash) == size_before else 0
        if n_rounds_without_new == _MAX_ROUNDS:
            raise ValueError(
                f"family {family.name} has only {len(by_hash)} programs {where}, {n} are asked for; "
                "ask for fewer or widen its knobs"
            )
    return np.stack(list(by_hash.values())[:n])
