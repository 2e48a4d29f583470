"""Control labels: permuted within token and previous token, so that only what the input does not say is destroyed."""

from __future__ import annotations

import numpy as np


def control_labels(
    labels: np.ndarray, tokens: np.ndarray, previous: np.ndarray, seed: int, defined: np.ndarray | None = None
) -> np.ndarray:
    """Labels permuted among the rows that have the same token after the same previous token: like `labels`.

    labels [rows] or [rows, variables], each variable permuted for itself; tokens and previous integers [rows]; defined
    bool, shaped as the labels: the others stay where they are. The marginal stays exactly as it is, given both tokens
    too; a pair of tokens that occurs once keeps its label. After the control tasks of Hewitt & Liang (2019, arXiv
    1909.03368), which give each word type a fixed random label: here what the tokens give away about the label stays,
    so that score minus control score is what the probe found beyond it. Raises ValueError where shapes do not fit.
    """
    labels = np.asarray(labels)
    defined = np.ones(labels.shape, np.bool_) if defined is None else np.asarray(defined)
    rows = (len(labels),)
    if np.shape(tokens) != rows or np.shape(previous) != rows or defined.shape != labels.shape:
        raise ValueError(
            f"labels {labels.shape}, defined {defined.shape}, tokens {np.shape(tokens)} and previous tokens "
            f"{np.shape(previous)}; expected one of each for each row"
        )
    first, second = (np.unique(column, return_inverse=True)[1] for column in (tokens, previous))
    pair = first * (second.max(initial=0) + 1) + second
    pair = pair.astype(np.min_scalar_type(pair.max(initial=0)))  # 16 bits are sorted ten times as fast as 64
    control = labels.copy()
    for k, (column, at) in enumerate(zip(_as_columns(control), _as_columns(defined), strict=True)):
        chosen = np.flatnonzero(at)
        shuffled = chosen[np.random.default_rng([seed, k]).permutation(len(chosen))]
        by_pair, shuffled_by_pair = (index[np.argsort(pair[index], kind="stable")] for index in (chosen, shuffled))
        column[by_pair] = column[shuffled_by_pair]
    return control


def _as_columns(array: np.ndarray) -> np.ndarray:
    """A view [variables, rows] of [rows] or [rows, variables]."""
    return array[None] if array.ndim == 1 else array.T
