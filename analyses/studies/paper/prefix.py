"""The best guess from a prefix, exactly: how often the most likely answer is right, given the tokens so far."""

from __future__ import annotations

import numpy as np

from cadmus.programs.families import Compare


def prefix_majority(family: Compare) -> np.ndarray:
    """How often the best guess of X and of Y is right, given the instructions up to a token: float [2, 2 * length + 1].

    Exact: every expression is enumerated with the weight that the generator gives it. Entry [k, t] is for number k
    (0: X, 1: Y) after t + 1 tokens. It is 1.0 once the number is computed, and less while the prefix leaves it open.
    Raises ValueError for a family of more than one statement; its expressions have the greatest length.
    """
    if family.assertions > 1:
        raise ValueError(
            f"compare with assertions = {family.assertions}: the two numbers are those of a single statement"
        )
    length = family.length
    joint = family.value_weights  # [x, y]
    y_given_x = joint / joint.sum(1, keepdims=True)
    accuracy = np.ones((2, 2 * length + 1))
    for n_tokens in range(1, length + 1):
        table = _prefix_shares(family, n_tokens)  # [prefix, value]: P(prefix | value)
        prefix_and_x = table * joint.sum(1)
        accuracy[0, n_tokens - 1] = prefix_and_x.max(1).sum()
        accuracy[1, n_tokens - 1] = (prefix_and_x @ y_given_x).max(1).sum()
        accuracy[1, length + n_tokens - 1] = sum((table * row).max(1).sum() for row in joint)  # X is known by then
    return accuracy.clip(max=1.0)  # sums of probabilities may end an ulp above


def _prefix_shares(family: Compare, n_tokens: int) -> np.ndarray:
    """P(the first `n_tokens` tokens | the value of the expression): float [prefixes, values low..high]."""
    expressions, value, weight = family.numbers.all_expressions()
    inside = (value >= family.low) & (value <= family.high)
    _, prefix = np.unique(expressions[inside, :n_tokens], axis=0, return_inverse=True)
    size = family.high - family.low + 1
    cell = prefix.ravel() * size + value[inside] - family.low
    weights = np.bincount(cell, weight[inside], minlength=(prefix.max() + 1) * size).reshape(-1, size)
    return weights / weights.sum(0)
