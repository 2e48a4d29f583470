"""The probes of the page: what they are asked to read, that they read it, and what half precision leaves of them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from analyses.explorer import payload, readings
from analyses.explorer.readings import A_NAN, A_SEQ, NOTHING, OTHER, Reading
from cadmus.machine import tokens, vm
from cadmus.models.model import Model
from cadmus.training import checkpoint
from tests import programs


def _class(value: vm.Value | None) -> int:
    if isinstance(value, vm.Int):
        return value.v if abs(value.v) <= 99 else OTHER
    return NOTHING if value is None else A_NAN if value is vm.NAN else A_SEQ


def test_contents_are_those_of_the_machine() -> None:
    texts = [text for text in programs.stream(6, 200) if 0 < len(text.partition(".")[0]) < 60]
    contents = readings.contents(tokens.encode(texts))
    for i, text in enumerate(texts):
        for at, state in enumerate(vm.run(text).states):
            for place, classes in contents.items():
                kind, _, name = place.partition(".")
                entries = dict(enumerate(reversed(state.stack)))
                value = state.registers[name] if kind == "reg" else entries.get(int(name))
                assert classes[i, at + 1] == _class(value), (text, at, place)


def test_what_is_planted_is_read_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    n = 1800
    values = rng.choice([NOTHING, 3, 4, 5], n)
    folds, tokens_of_rows = np.arange(n) % 3, rng.integers(0, 4, n)
    noise = rng.normal(size=(n, 8))
    planted = noise + 6 * rng.normal(size=(4, 8))[np.searchsorted([3, 4, 5, NOTHING], values)]
    read = readings._reading("stack.0", 0, planted, values, tokens_of_rows, folds)
    unread = readings._reading("stack.0", 0, noise, values, tokens_of_rows, folds)
    assert read is not None
    assert unread is not None
    assert read.accuracy > 0.95
    assert unread.accuracy < 0.45
    assert read.from_token < 0.5


def test_places_that_hold_one_thing_have_no_probe(small_model: Model) -> None:
    mixture = checkpoint.load("cadmus-micro").mixture
    arithmetic = replace(mixture, components=mixture.components[:1])
    fitted = readings.fit(small_model, arithmetic, 60)
    assert "stack.0" in {reading.place for reading in fitted}
    assert "reg.a" not in {reading.place for reading in fitted}


def test_half_precision_leaves_what_is_read(small_readings: list[Reading]) -> None:
    rng = np.random.default_rng(0)
    for reading in small_readings:
        exact, rounded = reading.directions, payload.on_page(reading.directions)
        x = np.repeat(exact.means, 4, 0) + 0.05 * rng.normal(size=(4 * len(exact.means), exact.means.shape[1]))
        assert (exact.predict(x) == rounded.predict(x)).mean() > 0.95, reading
        np.testing.assert_allclose(rounded.vectors.sum(0), 0, atol=1e-9)


def test_probes_are_a_function_of_the_seed(small_model: Model, small_readings: list[Reading]) -> None:
    again = readings.fit(small_model, checkpoint.load("cadmus-micro").mixture, 150)
    assert [repr(reading) for reading in again] == [repr(reading) for reading in small_readings]
    assert payload.probe_tensors(again).base64 == payload.probe_tensors(small_readings).base64


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_tokens_own_guess_is_the_most_frequent_content(share: float) -> None:
    r = Random(1)
    tokens_of_rows = np.array([r.randint(0, 3) for _ in range(4000)])
    values = np.where([r.random() < share for _ in range(4000)], 9, tokens_of_rows)
    train = np.arange(4000) % 2 == 0
    accuracy = readings._from_token(values, tokens_of_rows, train, ~train)
    assert accuracy == pytest.approx(1 - share, abs=0.03)
