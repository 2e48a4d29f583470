"""Programs to look at: drawn from a mixture or taken from a corpus, and where a model must decide in them."""

from __future__ import annotations

import numpy as np

from cadmus.corpora import corpus, held_out
from cadmus.machine import tokens
from cadmus.programs import mixture
from cadmus.programs.families import Family
from cadmus.programs.mixture import Mixture

MAX_SAMPLE = 100_000  # programs of a family

Sample = tuple[str, str, list[str]]
"""(family, program, its decisions: what precedes each, then the canonical continuation in square brackets)."""


def take(
    source: str, families: list[str], n: int, split: str | None, out_of_distribution: str | None, seed: int
) -> list[Sample]:
    """Take `n` programs of each of `families` (all where empty) of a mixture or a corpus.

    Programs of a corpus are taken from it for the split train (or None); all others are drawn. Raises ValueError for an
    unknown family, split or set, more programs than MAX_SAMPLE, and a set together with families or a split.
    """
    if n > MAX_SAMPLE:
        raise ValueError(f"{n:,} programs of a family are no sample; take {MAX_SAMPLE:,} at most, or data build")
    families = tokens.text_list(families, "families")
    stored = corpus.load(source) if corpus.is_meant(source) else None
    mix = mixture.load(source) if stored is None else stored.mixture
    if out_of_distribution is not None:
        if split is not None:
            raise ValueError("--split does not go with --out-of-distribution: none of a set was trained on")
        return _of_set(mix, out_of_distribution, families, n, seed)
    split, samples = split or "train", []
    for family in [mix.family(name) for name in families] or mix.families:
        if stored is not None and split == "train":
            programs = corpus.sample(stored, n, seed, family.name)
        else:
            programs = held_out.held_out(family, split, n, seed, mix.hold_out)
        samples += _with_decisions(family, programs)
    return samples


def _of_set(mix: Mixture, name: str, families: list[str], n: int, seed: int) -> list[Sample]:
    """Draw `n` programs of an out-of-distribution set."""
    sets = {ood.name: ood for ood in mix.out_of_distribution}
    if name not in sets:
        known = ", ".join(sets) or "none"
        raise ValueError(f"mixture {mix.name!r} has no out-of-distribution set {name!r}; there are {known}")
    if families:
        raise ValueError(f"--family does not go with --out-of-distribution: {name} is of {sets[name].family.name}")
    return _with_decisions(sets[name].family, held_out.out_of_distribution(mix, sets[name], n, seed))


def _with_decisions(family: Family, programs: np.ndarray) -> list[Sample]:
    """Programs uint8 [n, width] of a family as texts, with where a model must decide."""
    samples = []
    for text in tokens.decode(programs):
        try:
            cuts = family.decisions(text)
        except ValueError:  # of another phase, where the family has other knobs
            cuts = ()
        samples.append((family.name, text, [f"{text[:cut]}[{family.answer(text, cut)}]" for cut in cuts]))
    return samples
