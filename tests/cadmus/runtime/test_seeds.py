"""Seeds: what is one, and that purposes do not share draws."""

from __future__ import annotations

import pytest

from cadmus.corpora import build
from cadmus.programs import mixture
from cadmus.runtime.seeds import generator
from probes.data.examples import draw


def test_purposes_and_numbers_have_draws_of_their_own() -> None:
    first = generator("a", 0, 1).integers(1 << 62)
    assert first == generator("a", 0, 1).integers(1 << 62)
    assert len({first, *(generator(*key).integers(1 << 62) for key in (("b", 0, 1), ("a", 1, 1), ("a", 0, 2)))}) == 4


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_what_one_generator_refuses_is_a_seed_nowhere(seed: int) -> None:
    first = mixture.load("first")
    for use in (lambda: generator("a", seed), lambda: draw(first, 10, seed), lambda: build.build(first, 10, seed)):
        with pytest.raises(ValueError, match=rf"seed = {seed} must lie in 0\.\.9223372036854775807"):
            use()
    generator("a", 2**63 - 1)


def test_no_programs_are_no_examples() -> None:
    with pytest.raises(ValueError, match="-1 programs are asked for; give 1 or more"):
        draw(mixture.load("first"), -1)
