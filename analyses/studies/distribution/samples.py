"""Programs to look at: drawn from a mixture or taken from a corpus, with where a model must decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cadmus.corpora import corpus, held_out
from cadmus.machine import tokens
from cadmus.programs import mixture
from cadmus.programs.families import Family
from cadmus.programs.mixture import Mixture


def take(
    source: str, families: list[str], n: int, split: str, out_of_distribution: str | None, seed: int
) -> list[tuple[str, str, list[str]]]:
    """`n` programs of each of `families` (all where empty) of a mixture or a corpus: (family, program, decisions).

    A decision is written as what precedes it, then the canonical continuation in square brackets. Raises ValueError for
    an unknown family, split or set.
    """
    made = corpus.load(source) if Path(source).is_dir() else None
    chosen = made.mixture if made is not None else mixture.load(source)
    if out_of_distribution is not None:
        return _of_set(chosen, out_of_distribution, families, n, seed)
    found = []
    for family in [chosen.family(name) for name in families] or chosen.families:
        if made is not None and split == "train":
            programs = corpus.sample(made, n, seed, family.name)
        else:
            programs = held_out.held_out(family, split, n, seed, chosen.hold_out)
        found += _rows(family, programs)
    return found


def _of_set(chosen: Mixture, name: str, families: list[str], n: int, seed: int) -> list[tuple[str, str, list[str]]]:
    sets = {one.name: one for one in chosen.out_of_distribution}
    if name not in sets:
        known = ", ".join(sets) or "none"
        raise ValueError(f"mixture {chosen.name!r} has no out-of-distribution set {name!r}; there are {known}")
    if families:
        raise ValueError(f"--family does not go with --out-of-distribution: {name} is of {sets[name].family.name}")
    return _rows(sets[name].family, held_out.out_of_distribution(chosen, sets[name], n, seed))


def _rows(family: Family, programs: np.ndarray) -> list[tuple[str, str, list[str]]]:
    rows = []
    for text in tokens.decode(programs):
        try:
            cuts = family.decisions(text)
        except ValueError:  # of another phase, where the family has other knobs
            cuts = ()
        rows.append((family.name, text, [f"{text[:cut]}[{family.answer(text, cut)}]" for cut in cuts]))
    return rows
