"""Tokens whose state later tokens decide, against the plain machine run on every prefix."""

from __future__ import annotations

import re
from random import Random

import numpy as np
import pytest

from cadmus.machine import tokens, vm
from cadmus.states import hindsight
from tests import programs


def _callees(text: str) -> set[str]:
    return {"f" if token in "MW" else token.lower() for token in text if token in "fghFGHMW"}


def _waits(prefix: str) -> bool:
    """Whether the main text of a prefix calls what the prefix has not defined: read afresh for every prefix."""
    if vm.END in prefix:
        return False
    main = re.sub(r"\{[^}]*(\}|$)", "", prefix)
    bodies = dict(zip("fgh", re.findall(r"\{([^}]*)\}", prefix), strict=False))
    reachable: set[str] = set()
    waiting = _callees(main)
    while waiting:
        slot = waiting.pop()
        reachable.add(slot)
        waiting |= _callees(bodies.get(slot, "")) - reachable
    return not reachable <= set(bodies)


def _calling(r: Random, length: int) -> str:
    """Text that mostly calls and defines."""
    return "".join(r.choice("fghFGHMW{{{}}}1235+-:;Aa(,r.=" if r.random() < 0.9 else vm.VOCAB) for _ in range(length))


def _texts(seed: int, n: int) -> list[str]:
    r = Random(seed)
    return [_calling(r, r.randrange(1, 22)) for _ in range(n)]


def test_the_mask_is_what_each_prefix_says() -> None:
    texts = [*_texts(1, 600), *(text for text in programs.stream(9, 300) if len(text) < 80)]
    array = tokens.encode(texts, 80)
    mask = hindsight.undetermined(array)
    assert mask.shape == (len(texts), 81)
    assert mask.dtype == np.bool_
    expected = [[_waits(text[:length]) for length in range(len(text) + 1)] for text in texts]
    for row, waits in enumerate(expected):
        assert mask[row, : len(waits)].tolist() == waits, texts[row]
        assert not mask[row, len(waits) + 1 :].any()  # behind the closing `.`
    share = np.concatenate(expected).mean()
    assert 0.1 < share < 0.9


def test_where_the_state_is_determined_no_later_token_matters() -> None:
    r = Random(2)
    texts = [text for text in _texts(3, 400) if len(text) > 1]
    mask = hindsight.undetermined(tokens.encode(texts))
    n_compared = n_changed = 0
    for row, text in enumerate(texts):
        at = r.randrange(len(text))
        before = vm.run(text).states[at]
        for _ in range(3):
            other = vm.run(text[: at + 1] + _calling(r, r.randrange(16))).states[at]
            if mask[row, at + 1]:
                n_changed += other != before
            else:
                n_compared += 1
                assert other == before, (text, at)
    assert n_compared > 200
    assert n_changed > 20


@pytest.mark.parametrize(
    ("prefix", "first", "second"),
    [
        ("3f", "{1+}", "{2+}"),
        ("3f", "", "{2+}"),  # never defined, so far
        ("3f{1+", "4}", "}"),  # not closed
        ("{g}3f", "{1+}", "{}"),  # through a body
        ("{h}{}3f", "{1+}", "{}"),
        ("{g}13F", "{:}", "{5+}"),
        ("3rM", "{1+}", "{2+}"),
        ("{g}3rW", "{1+}", "{0}"),
    ],
)
def test_where_it_is_undetermined_a_later_definition_matters(prefix: str, first: str, second: str) -> None:
    at = len(prefix) - 1
    assert hindsight.undetermined(tokens.encode([prefix]))[0, -1]
    assert vm.run(prefix + first).states[at] != vm.run(prefix + second).states[at]


def test_undetermined_by_hand() -> None:
    """Position 0 is the marker; a call inside a definition that nothing calls waits for nothing."""

    def waiting(text: str) -> str:
        return "".join(str(int(waits)) for waits in hindsight.undetermined(tokens.encode([text]))[0])

    assert waiting("3f{1+}=.") == "001111000"
    assert waiting("{1+}3f=.") == "000000000"
    assert waiting("{g}3f{2}1.") == "00000111000"
    assert waiting("{g}31+.") == "00000000"
    assert waiting("3f..") == "00100"
    assert waiting("1{}{}{}{}3g") == "0" * 12
    assert waiting("") == "0"
    assert hindsight.undetermined(np.zeros((0, 3), np.uint8)).shape == (0, 4)
    with pytest.raises(ValueError, match="programs must be a uint8 array"):
        hindsight.undetermined(np.zeros((2, 3)))
