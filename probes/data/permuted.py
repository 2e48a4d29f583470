"""Control labels: permuted within token and previous token, so that only what the input does not say is destroyed."""

from __future__ import annotations

import numpy as np


def control_labels(
    labels: np.ndarray, tokens: np.ndarray, previous: np.ndarray, seed: int, defined: np.ndarray | None = None
) -> np.ndarray:
    """Permute labels among the rows that have the same token after the same previous token; an array like `labels`.

    labels [rows] or [rows, variables], each variable permuted for itself; tokens and previous integers [rows]; defined
    bool, shaped as the labels: the others stay where they are. The marginal stays exactly as it is, given both tokens
    too; a pair of tokens that occurs once keeps its label. After the control tasks of Hewitt & Liang (2019, arXiv
    1909.03368), which give each word type a fixed random label: here what the tokens give away about the label stays,
    so that score minus control score is what the probe found beyond it. Raises ValueError where shapes do not fit.
    """
    labels = np.asarray(labels)
    defined = np.ones(labels.shape, np.bool_) if defined is None else np.asarray(defined)
    n_rows = (len(labels),)
    if np.shape(tokens) != n_rows or np.shape(previous) != n_rows or defined.shape != labels.shape:
        raise ValueError(
            f"labels {labels.shape}, defined {defined.shape}, tokens {np.shape(tokens)} and previous tokens "
            f"{np.shape(previous)}; expected one of each for each row"
        )
    pair = _pairs(tokens, previous)
    control = labels.copy()
    for k, (column, mask) in enumerate(zip(_as_columns(control), _as_columns(defined), strict=True)):
        rows = np.flatnonzero(mask)
        shuffled = rows[np.random.default_rng([seed, k]).permutation(len(rows))]
        # both lists have each pair equally often: sorted by pair, they say which row takes whose label
        rows = rows[np.argsort(pair[rows], kind="stable")]
        shuffled = shuffled[np.argsort(pair[shuffled], kind="stable")]
        column[rows] = column[shuffled]
    return control


def _pairs(tokens: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Number the pairs (token, previous token): unsigned integers [rows], as small as will do."""
    _, token = np.unique(tokens, return_inverse=True)
    _, before = np.unique(previous, return_inverse=True)
    pair = token * (before.max(initial=0) + 1) + before
    return pair.astype(np.min_scalar_type(pair.max(initial=0)))  # 16 bits are sorted ten times as fast as 64


def _as_columns(array: np.ndarray) -> np.ndarray:
    """View [rows] or [rows, variables] as [variables, rows]."""
    return array[None] if array.ndim == 1 else array.T
