"""The out-of-distribution sets of the mixture `suites`: each is what its name says, none of it is trained on."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from cadmus.corpora import held_out
from cadmus.corpora.build import build
from cadmus.corpora.corpus import Corpus
from cadmus.corpora.shards import draw_batch
from cadmus.machine import tokens, vm
from cadmus.programs import splits
from cadmus.programs.families import FAMILIES
from cadmus.programs.mixture import load
from cadmus.states.provenance_plain import provenance_of

SUITES = load("suites")
RULES = SUITES.hold_out
NAMES = [ood.name for ood in SUITES.out_of_distribution]


@cache
def corpus() -> Corpus:
    return build(SUITES, 2000)


def body_of(text: str) -> str:
    return text.partition(".")[0]


def shows_unseen_value(text: str) -> bool:
    tops = [state.stack[-1] for state in vm.run(body_of(text)).states if state.stack]
    return any(isinstance(top, vm.Int) and top.v in RULES.values for top in tops)


def depth(text: str) -> int:
    return max(len(state.stack) for state in vm.run(body_of(text)).states)


def read_distance(text: str) -> int:
    edges = provenance_of(body_of(text), len(body_of(text))).edges
    return max((edge.query - edge.key for edge in edges if edge.kind == "load_store"), default=0)


def live(text: str) -> int:
    versions = provenance_of(body_of(text), len(body_of(text))).versions
    return max(sum(row.token <= k < row.last_load for row in versions) for k in range(len(text)))


IS_UNSEEN = {
    "unseen_values": shows_unseen_value,
    "unseen_pairs": lambda text: any(pair in text for pair in RULES.pairs),
    "longer_programs": lambda text: len(body_of(text)) > RULES.max_length,
    "deeper_expressions": lambda text: depth(text) > RULES.max_depth,
    "longer_read_distance": lambda text: read_distance(text) > RULES.max_read_distance,
    "more_live_registers": lambda text: live(text) > RULES.max_live,
    "unseen_skeletons": lambda text: splits.split(text) == "test_skeleton",
    "unseen_family": lambda text: (
        FAMILIES["stack"]().accepts(text) and not any(family.accepts(text) for family in SUITES.families)
    ),
}


def test_there_is_a_set_for_each() -> None:
    assert set(NAMES) == set(IS_UNSEEN)


@pytest.mark.parametrize("name", NAMES)
def test_a_set_is_what_its_name_says_and_training_is_not(name: str) -> None:
    programs = corpus().out_of_distribution[name][:150]
    texts = tokens.decode(programs)
    assert len(set(texts)) == 150
    assert all(vm.verdict(text) for text in texts)
    assert all(map(IS_UNSEEN[name], texts))
    trained = [text for shard in corpus().shards for text in tokens.decode(np.array(shard.programs[:60]))]
    assert not any(map(IS_UNSEEN[name], trained))
    assert not corpus().contains_programs(corpus().out_of_distribution[name]).any()


def test_a_stream_has_none_of_them_either() -> None:
    programs, _ = draw_batch(SUITES, 0.0, 0, 0)
    trained = set(tokens.decode(programs))
    for ood in SUITES.out_of_distribution:
        assert not trained & set(tokens.decode(held_out.out_of_distribution(SUITES, ood, 100, 1))), ood.name
