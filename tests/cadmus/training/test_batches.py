"""Batches: a pure function of the step, every program once per pass, phases in their share."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from cadmus.corpora.build import build
from cadmus.corpora.corpus import Corpus
from cadmus.machine import tokens
from cadmus.programs.families import Arith, Compare, Equality, Register
from cadmus.programs.mixture import Component, Mixture, Phase
from cadmus.training.batches import CorpusBatches, StreamBatches, open_batches

MIXED = Mixture("mixed", (Component(Equality()), Component(Register(assertions=2))))
CURRICULUM = Mixture(
    "curriculum",
    (Component(Compare()),),
    phases=(Phase(0.25, (Component(Arith()),)), Phase(0.5, (Component(Equality()),))),
)


@cache
def corpus_of(mixture: Mixture = MIXED, size: int = 200) -> Corpus:
    return build(mixture, size)


def texts(programs: np.ndarray) -> list[str]:
    return tokens.decode(programs)


# --- a corpus --------------------------------------------------------------------------------------------------------


def test_every_program_comes_once_per_pass_in_another_order_each_time() -> None:
    corpus = corpus_of()
    every = sorted(texts(corpus.programs(np.arange(200))))
    batches = CorpusBatches(corpus, 50, steps=100, seed=0)
    passes = [[text for step in range(4 * k, 4 * k + 4) for text in texts(batches.batch(step))] for k in range(3)]
    assert all(sorted(programs) == every for programs in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]


def test_what_does_not_fill_a_batch_waits_for_the_next_pass() -> None:
    batches = CorpusBatches(corpus_of(), 60, steps=100, seed=0)
    assert [len(batches.batch(step)) for step in range(7)] == [60] * 7
    drawn = [text for step in range(3) for text in texts(batches.batch(step))]
    assert len(set(drawn)) == 180


def test_a_corpus_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size = 64 is more than the corpus holds \\(3\\); build a larger one"):
        CorpusBatches(corpus_of(size=3), 64, steps=10, seed=0).batch(0)


def test_a_step_is_a_function_of_its_number_and_the_seed() -> None:
    forward, backward, other = (CorpusBatches(corpus_of(), 50, steps=20, seed=seed) for seed in (1, 1, 2))
    steps = range(12)
    first = {step: texts(forward.batch(step)) for step in steps}
    assert {step: texts(backward.batch(step)) for step in reversed(steps)} == first
    assert {step: texts(other.batch(step)) for step in steps} != first


def test_phases_are_read_in_their_share_of_the_steps() -> None:
    corpus = corpus_of(CURRICULUM, 400)
    batches = CorpusBatches(corpus, 20, steps=40, seed=0)
    families = [Arith()] * 10 + [Equality()] * 10 + [Compare()] * 20
    for step, family in enumerate(families):
        assert all(family.accepts(text) for text in texts(batches.batch(step))), step
    assert all(Compare().accepts(text) for text in texts(batches.batch(99))), "beyond the end the last phase goes on"


def test_a_phase_without_programs_is_named() -> None:
    batches = CorpusBatches(corpus_of(CURRICULUM, 2), 1, steps=40, seed=0)
    with pytest.raises(
        ValueError, match=r"the corpus of 2 programs has none for phase [01] of its mixture; build a larger"
    ):
        [batches.batch(step) for step in range(40)]


# --- a stream --------------------------------------------------------------------------------------------------------


def test_a_stream_is_a_function_of_the_step() -> None:
    forward, backward = (StreamBatches(MIXED, 5000, steps=20, seed=3) for _ in range(2))
    assert forward.per_draw > 1
    steps = [0, 1, forward.per_draw - 1, forward.per_draw, 2 * forward.per_draw + 1]
    first = [texts(forward.batch(step)) for step in steps]
    assert [texts(backward.batch(step)) for step in reversed(steps)] == first[::-1]
    assert len({tuple(batch) for batch in first}) == len(steps)
    assert all(len(batch) == 5000 for batch in first)


def test_workers_draw_the_same_stream() -> None:
    with open_batches(MIXED, 5000, 12, 3) as alone, open_batches(MIXED, 5000, 12, 3, workers=1) as helped:
        for step in (0, 6, 7, 8, 11):
            assert np.array_equal(alone.batch(step), helped.batch(step))


@pytest.mark.parametrize("steps", [8, 76, 200])
def test_a_stream_changes_its_phase_at_the_step(steps: int) -> None:
    """Whatever number of steps one draw serves."""
    batches = StreamBatches(CURRICULUM, 512, steps=steps, seed=3)
    assert batches.per_draw > 8
    first, second, last = CURRICULUM.at(0.0).families, CURRICULUM.at(0.4).families, CURRICULUM.families
    for step in (0, steps // 4 - 1, steps // 4, steps // 2 - 1, steps // 2, steps - 1):
        part = first if step < steps // 4 else second if step < steps // 2 else last
        for text in texts(batches.batch(step))[:20]:
            assert any(family.accepts(text) for family in part), step


def test_a_stream_follows_the_phases() -> None:
    batches = StreamBatches(CURRICULUM, 30_000, steps=8, seed=0)
    assert batches.per_draw == 1
    for step, family in enumerate([Arith()] * 2 + [Equality()] * 2 + [Compare()] * 4):
        assert all(family.accepts(text) for text in texts(batches.batch(step)[:200])), step


def test_a_stream_has_room_for_a_batch() -> None:
    with pytest.raises(ValueError, match="batch_size = 65536 is above 39321, what a stream holds"):
        StreamBatches(MIXED, 65536, steps=1, seed=0)
