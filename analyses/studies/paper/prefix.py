"""The best guess from a prefix, exactly: how often the most likely answer is right, given the tokens so far."""

from __future__ import annotations

import numpy as np

from cadmus.programs.families import Compare


def prefix_majority(family: Compare) -> np.ndarray:
    """How often the best guess of X and of Y is right, given the instructions seen so far: float [2, 2 * length + 1].

    Exact: every expression is enumerated with the weight that the generator gives it. Entry [k, t] is for number k
    (0: X, 1: Y) after t + 1 tokens. 1.0 once the number is computed; less while the prefix leaves it open. Needs a
    family of one statement whose expressions have one length (ValueError).
    """
    if family.assertions > 1:
        raise ValueError(
            f"compare with assertions = {family.assertions}: the two numbers are those of a single statement"
        )
    length, joint = family.length, family.value_weights  # joint [x, y]
    y_given_x = joint / joint.sum(1, keepdims=True)
    accuracy = np.ones((2, 2 * length + 1))
    for seen in range(1, length + 1):
        table = _prefix_shares(family, seen)  # [prefix, value]: P(prefix | value)
        prefix_and_x = table * joint.sum(1)
        accuracy[0, seen - 1] = prefix_and_x.max(1).sum()
        accuracy[1, seen - 1] = (prefix_and_x @ y_given_x).max(1).sum()
        accuracy[1, length + seen - 1] = sum((table * row).max(1).sum() for row in joint)  # X is known by then
    return accuracy.clip(max=1.0)  # sums of probabilities may end an ulp above


def _prefix_shares(family: Compare, seen: int) -> np.ndarray:
    """P(the first `seen` tokens | the value of the expression): float [prefixes, values low..high]."""
    listed, value, weight = family.numbers.listed()
    inside = (value >= family.low) & (value <= family.high)
    _, prefix = np.unique(listed[inside, :seen], axis=0, return_inverse=True)
    size = family.high - family.low + 1
    cell = prefix.ravel() * size + value[inside] - family.low
    weights = np.bincount(cell, weight[inside], minlength=(prefix.max() + 1) * size).reshape(-1, size)
    return weights / weights.sum(0)
