"""Splits by compound divergence: the rule by its definition, figures on new programs, corpora without leaks."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from cadmus.corpora import held_out
from cadmus.corpora.build import build
from cadmus.machine import tokens
from cadmus.programs import compounds, splits
from cadmus.programs.families import Arith, Family, Register
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Component, Mixture, from_toml, to_toml
from cadmus.properties.splits import LEVELS, MAX_ATOM_DIVERGENCE, TOLERANCE, Split, find_split
from tests.cadmus.programs.test_compounds import compounds_of

ARITH = Arith(assertions=2, operators="+-*")


@cache
def split_of(family: Family, target: float) -> Split:
    return find_split(family, target, programs=4000, steps=4000)


@pytest.mark.parametrize(
    ("family", "target"),
    [
        (ARITH, 0.25),
        *(pytest.param(Register(), target, marks=pytest.mark.slow) for target in LEVELS[1:]),
        *(pytest.param(Arith(), target, marks=pytest.mark.slow) for target in LEVELS[1:]),
    ],
    ids=str,
)
def test_the_divergence_is_reached_on_programs_that_the_search_did_not_see(family: Family, target: float) -> None:
    split = split_of(family, target)
    programs = family.generate(40_000, np.random.default_rng(12345))
    sides = split.sides(programs)
    train, test = programs[sides == 0], programs[sides == 1]
    compound, atom = compounds.divergences(train, test)
    assert abs(compound - target) < TOLERANCE + 0.02
    assert atom <= MAX_ATOM_DIVERGENCE + 0.005
    assert abs(compound - split.compound_divergence) < 0.02
    assert abs((sides == 0).mean() - split.train_share) < 0.02
    assert split.train_share >= 0.01
    assert split.test_share >= 0.002


def test_the_sides_are_those_of_the_definition() -> None:
    split = split_of(ARITH, 0.25)
    programs = ARITH.generate(500, np.random.default_rng(7))
    for text, side in zip(tokens.decode(programs), split.sides(programs), strict=True):
        counts = compounds_of(text)
        n_held_out = sum(counts[name] for name in split.compounds)
        share = n_held_out / sum(counts.values())
        assert side == (0 if not n_held_out else 1 if share >= split.held_out_share else -1), text
    again = split.sides(programs[::-1])[::-1]
    assert np.array_equal(again, split.sides(programs)), "a side depends on the program alone"


def test_level_0_is_an_ordinary_split() -> None:
    split = split_of(ARITH, 0.0)
    assert split.compounds == ()
    assert split.compound_divergence < 0.01
    mixture = split.mixture(Mixture("m", (Component(ARITH),)))
    corpus = build(mixture, 1000)
    (programs,) = corpus.out_of_distribution.values()
    assert (splits.splits(programs) == splits.SPLITS.index("test")).all()


def test_the_search_is_fixed_by_its_seed() -> None:
    assert find_split(ARITH, 0.25, programs=4000, steps=4000) == split_of(ARITH, 0.25)
    other = find_split(ARITH, 0.25, programs=4000, steps=4000, seed=1)
    assert other.compounds != split_of(ARITH, 0.25).compounds


def test_a_corpus_and_its_set_keep_to_the_rule(tmp_path) -> None:
    split = split_of(ARITH, 0.25)
    base = Mixture("m", (Component(ARITH),))
    mixture = split.mixture(base)
    assert from_toml(to_toml(mixture)) == mixture
    corpus = build(mixture, 1500, folder=tmp_path / "corpus")
    programs = corpus.out_of_distribution["max_divergence"]
    assert (split.sides(programs) == 1).all()
    assert not corpus.contains_programs(programs).any()
    for shard in corpus.shards:
        assert (split.sides(np.array(shard.programs)) == 0).all()
    reached = json.loads((tmp_path / "corpus" / "manifest.json").read_text())["divergence"]["max_divergence"]
    assert abs(reached["compound_divergence"] - 0.25) < 0.05
    assert reached["atom_divergence"] < 0.03
    assert reached["programs"] == len(programs)
    with pytest.raises(ValueError, match="mixture 'm' holds compounds out already; begin with one that does not"):
        split.mixture(mixture)


def test_a_stream_keeps_to_the_rule() -> None:
    split = split_of(ARITH, 0.25)
    mixture = split.mixture(Mixture("m", (Component(ARITH),)))
    test = held_out.held_out(ARITH, "test", 200, 0, mixture.hold_out)
    assert (split.sides(test) == 0).all()
    assert mixture.hold_out == replace(HoldOut(), compounds=split.compounds)


def test_what_cannot_be_reached_names_the_nearest() -> None:
    pattern = (
        r"^compound divergence 0\.9 cannot be reached with family arith at atom divergence 0\.02: the nearest is "
        r"0\.\d\d at atom divergence 0\.\d{3}, with .*% of the programs to train on and .*% held out; ask for that, "
    )
    with pytest.raises(ValueError, match=pattern):
        find_split(ARITH, 0.9, programs=2000, steps=800)
    with pytest.raises(ValueError, match=re.escape("compound divergence 1.5 must lie in 0 (none) to 1")):
        find_split(ARITH, 1.5)
