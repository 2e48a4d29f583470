"""What the prefix of a comparison gives away of its numbers: enumerated, drawn, counted, and by thought."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from analyses.studies.paper.prefix import prefix_majority
from cadmus.machine import kernel, tokens
from cadmus.programs.families import Compare
from cadmus.programs.parts.expressions import pool
from cadmus.states import variables


def generated(family: Compare, n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts, and X and Y as the machine computes them: int [n, 2]."""
    programs = family.generate(n, np.random.default_rng(seed))
    traces = kernel.traces(programs, entries=2)
    at = 2 * family.length
    values = [variables.read(traces, name).values[:, at] for name in ("stack.1", "stack.0")]
    return tokens.decode(programs), np.stack(values, 1)


def within_four_errors(right: np.ndarray, expected: float) -> bool:
    return abs(right.mean() - expected) <= 4 * np.sqrt(max(expected * (1 - expected), 0) / len(right)) + 1e-12


def test_prefix_majority_of_the_paper_by_monte_carlo() -> None:
    """The best guess, found by counting expressions one by one, is right as often as `prefix_majority` says: for each
    of the 2 x 11 entries, on programs of the generator."""
    family = Compare()
    low, high, length = family.low, family.high, family.length
    weight_of = defaultdict(lambda: defaultdict(float))  # prefix -> value -> P(prefix | value)
    numbers = pool(length)
    for text, value in zip(
        tokens.decode(numbers.tokens), np.repeat(numbers.values, numbers.counts).tolist(), strict=True
    ):
        if low <= value <= high:
            for seen in range(1, length + 1):
                weight_of[text[:seen]][value] += 1 / dict_of_counts()[value]

    def given(x: int) -> dict[int, float]:
        return {
            y: family.equal_share if y == x else (1 - family.equal_share) / (high - low) for y in range(low, high + 1)
        }

    y_given = {x: given(x) for x in range(low, high + 1)}

    @cache
    def guess_x(prefix: str) -> int:
        return max(weight_of[prefix], key=weight_of[prefix].__getitem__)  # X is uniform

    @cache
    def guess_y_during_x(prefix: str) -> int:
        scores = {
            y: sum(weight * y_given[x][y] for x, weight in weight_of[prefix].items()) for y in range(low, high + 1)
        }
        return max(scores, key=scores.__getitem__)

    @cache
    def guess_y(x: int, prefix: str) -> int:
        scores = {y: weight * y_given[x][y] for y, weight in weight_of[prefix].items()}
        return max(scores, key=scores.__getitem__)

    texts, values = generated(family, 20_000, seed=0)
    expected = prefix_majority(family)
    assert expected.shape == (2, 11)
    for seen in range(1, 2 * length + 2):
        if seen <= length:
            guesses = [(guess_x(text[:seen]), guess_y_during_x(text[:seen])) for text in texts]
        else:
            pairs = zip(texts, values[:, 0].tolist(), strict=True)
            guesses = [(x, guess_y(x, text[length : min(seen, 2 * length)])) for text, x in pairs]
        right = np.array(guesses) == values
        for number in range(2):
            assert within_four_errors(right[:, number], expected[number, seen - 1]), (number, seen)


@cache
def dict_of_counts() -> dict[int, int]:
    numbers = pool(Compare().length)
    return dict(zip(numbers.values.tolist(), numbers.counts.tolist(), strict=True))


@pytest.mark.parametrize(
    "family",
    [
        Compare(low=-2, high=2, length=3, equal_share=0.3),
        Compare(low=0, high=4, length=1, equal_share=0.0),
        Compare(low=-1, high=1, length=3, equal_share=0.9),
    ],
    ids=str,
)
def test_prefix_majority_by_counting_programs(family: Compare) -> None:
    """No knowledge of the generator at all: guesses are counted on some programs and judged on others."""
    length = family.length
    (texts, values), (new_texts, new_values) = generated(family, 60_000, seed=0), generated(family, 20_000, seed=1)
    expected = prefix_majority(family)

    def groups(texts: list[str], values: np.ndarray, seen: int) -> Iterator[tuple]:
        for text, x in zip(texts, values[:, 0].tolist(), strict=True):
            yield (text[:seen],) if seen <= length else (x, text[length : min(seen, 2 * length)])

    for seen in range(1, 2 * length + 2):
        for number in range(2):
            counts = defaultdict(Counter)
            for group, value in zip(groups(texts, values, seen), values[:, number].tolist(), strict=True):
                counts[group][value] += 1
            best = {group: counted.most_common(1)[0][0] for group, counted in counts.items()}
            right = (
                np.array([best.get(group, -1) for group in groups(new_texts, new_values, seen)])
                == new_values[:, number]
            )
            assert within_four_errors(right, expected[number, seen - 1]), (number, seen)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_prefix_majority_by_thought(share: float) -> None:
    family = Compare(equal_share=share)
    first, second = prefix_majority(family)
    assert first[4:] == pytest.approx(1)  # X is computed
    assert second[9:] == pytest.approx(1)  # Y is computed
    for number in (first, second):
        assert (np.diff(number) > -1e-12).all(), "more is known, so that the best guess is right more often"
    assert second[4] == pytest.approx(max(share, (1 - share) / 40))  # X is known, of Y nothing but that
    assert 1 / 41 - 1e-12 <= second[0] <= first[0]
    one = Compare(low=4, high=4, equal_share=1.0)
    assert prefix_majority(one) == pytest.approx(1)
