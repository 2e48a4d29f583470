"""Contrasts: base and source runs with two answers to tell apart, as arrays, and metrics of the next token's logits.

What attribution, circuits and lenses are given. A contrast is made of `Pairs`, or by hand for any two lists of
sequences. Its metrics give one number for each row, and grow as the model moves from the base's answer to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from cadmus.machine import tokens
from cadmus.states.provenance import ROLES
from cadmus.statistics import clustered
from probes.interventions.counterfactuals.judging import common_beginning
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.editing.patching import Roles, checked_roles

METRICS = ("logit_difference", "probability")
OTHERS = ("edited_answer", "source_answer")
RowMetric = Callable[[Tensor], Tensor]
"""Logits [rows, d_vocab] -> [rows], each of its row's logits alone."""


@dataclass(frozen=True, repr=False)
class Contrast:
    """Rows of a base and a source, and where and between which two tokens the model decides."""

    base: np.ndarray
    """What is run: uint8 [rows, pos], the marker first."""
    source: np.ndarray
    """Where what is patched in comes from: uint8 [rows, pos]."""
    at: np.ndarray
    """The position in the base whose next token is looked at: int64 [rows]."""
    base_token: np.ndarray
    """The token that the base's answer has there: int64 [rows]."""
    other_token: np.ndarray
    """The token that the other answer has there: int64 [rows]."""
    clusters: np.ndarray
    """Rows that depend on one another have the same label: int64 [rows]."""
    roles: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """By role, the positions int64 [rows, k] in the base, and as many in the source; -1 for none in both."""
    pair: np.ndarray | None = None
    """Of which pair each row is, int64 [rows]; None: the rows were made by hand."""

    def __post_init__(self) -> None:
        n = len(self.base)
        if np.shape(self.base) != np.shape(self.source) or np.ndim(self.base) != 2:
            raise ValueError(
                f"base is {np.shape(self.base)} and source {np.shape(self.source)}; expected [rows, pos] of one shape"
            )
        for name in ("at", "base_token", "other_token", "clusters"):
            if np.shape(getattr(self, name)) != (n,):
                raise ValueError(f"{name} has shape {np.shape(getattr(self, name))}; expected one for each of {n} rows")
        same = np.flatnonzero(self.base_token == self.other_token)
        if len(same):
            raise ValueError(f"row {same[0]}: both answers have token {self.base_token[same[0]]}; leave such rows out")

    def __len__(self) -> int:
        return len(self.base)

    def __repr__(self) -> str:
        return f"Contrast({len(self):,} rows, {len(np.unique(self.clusters)):,} clusters, roles {list(self.roles)})"

    @classmethod
    def of(cls, pairs: Pairs, other: str = "edited_answer") -> Contrast:
        """The contrast of pairs: the base's answer against another one of each pair.

        Where the two begin alike, base and source are read on with what they share, and the first token in which they
        differ decides. Pairs whose answers do not differ so, or lack one, are left out (`pair` says which stay). Rows
        that have a base skeleton or a source skeleton in common, directly or by way of others, are one cluster.

        Args:
            pairs: all are taken; select those that the model completes beforehand (`counterfactuals.counting`).
            other: "edited_answer", what the edit asks for; "source_answer", what the model says where all of the
                source is patched in: of minimal pairs both are the same.

        Raises ValueError for another name, and where no pair's answers differ in a token.
        """
        if other not in OTHERS:
            raise ValueError(f"other {other!r} is none of {', '.join(OTHERS)}")
        table = pairs.pairs
        answers = list(zip(table["base_answer"], table[other], strict=True))
        shared = [common_beginning(*answer) for answer in answers]
        differ = [len(beginning) < min(map(len, answer)) for beginning, answer in zip(shared, answers, strict=True)]
        rows = np.flatnonzero(differ)
        if not len(rows):
            raise ValueError(f"of {len(pairs)} pairs none has a base_answer and an {other} that differ in some token")
        texts = [[table[name].iloc[i] + shared[i] for i in rows] for name in ("base", "source")]
        width = max(len(text) for of_one in texts for text in of_one)
        base, source = (tokens.sequences(tokens.encode(of_one, width)) for of_one in texts)
        deciding = [(answers[i][0][len(shared[i])], answers[i][1][len(shared[i])]) for i in rows]
        ids = tokens.encode(["".join(two) for two in deciding]).astype(np.int64)  # [rows, 2]
        present = [role for role in ROLES if pairs.present(role)[rows].any()]
        return cls(
            base,
            source,
            np.array([len(text) for text in texts[0]], np.int64),
            ids[:, 0],
            ids[:, 1],
            _clusters(table["base_skeleton"].to_numpy()[rows], table["source_skeleton"].to_numpy()[rows]),
            {role: (pairs.positions(role)[rows], pairs.source_positions(role)[rows]) for role in present},
            table["pair"].to_numpy()[rows],
        )

    def select(self, rows: np.ndarray) -> Contrast:
        """Some of the rows: bool [rows], or int."""
        arrays: dict[str, Any] = {
            name: getattr(self, name)[rows]
            for name in ("base", "source", "at", "base_token", "other_token", "clusters")
        }
        roles = {role: (here[rows], there[rows]) for role, (here, there) in self.roles.items()}
        return replace(self, **arrays, roles=roles, pair=None if self.pair is None else self.pair[rows])

    def shuffled(self, seed: int = 0) -> Contrast:
        """The same rows with the two answers of another row: what a model says of these, whatever it read.

        Of another row that has another pair of answers, as far as there is one.
        """
        rng = np.random.default_rng(seed)
        answers = np.stack([self.base_token, self.other_token], 1)
        other = np.empty(len(self), np.int64)
        for row, own in enumerate(answers):
            different = np.flatnonzero((answers != own).any(1))
            other[row] = rng.choice(different) if len(different) else row
        return replace(self, base_token=answers[other, 0], other_token=answers[other, 1])

    def metric(self, metric: str | RowMetric = "logit_difference") -> RowMetric:
        """A metric by its name, or as it is.

        "logit_difference": the logit of the other answer's token minus that of the base's; "probability": the
        probability of the other answer's token minus that of the base's. Raises ValueError for another name.
        """
        if callable(metric):
            return metric
        if metric not in METRICS:
            raise ValueError(f"metric {metric!r} is none of {', '.join(METRICS)}, nor a function of logits")
        base, other = torch.from_numpy(self.base_token), torch.from_numpy(self.other_token)

        def difference(logits: Tensor) -> Tensor:
            values = logits.softmax(-1) if metric == "probability" else logits
            index = torch.arange(len(base), device=logits.device)
            return values[index, other.to(logits.device)] - values[index, base.to(logits.device)]

        return difference


def tokens_of(model: Any, contrast: Contrast, rows: slice) -> tuple[Tensor, Tensor]:
    """The base's rows int64 [rows, pos] and the positions asked for int64 [rows], on the model's device."""
    device = next(model.parameters()).device
    at = torch.from_numpy(contrast.at[rows]).to(device)
    return torch.from_numpy(contrast.base[rows].astype(np.int64)).to(device), at


def as_roles(contrast: Contrast, positions: str | Roles, *words: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The contrast's roles ("roles"), or those given by name, as int64 [rows, k] in base and source; none for `words`,
    which the caller takes for something else. Raises ValueError for other words, and where there is no role."""
    if isinstance(positions, str):
        if positions in words:
            return {}
        if positions != "roles":
            known = ", ".join(map(repr, (*words, "roles")))
            raise ValueError(f"positions {positions!r} mean nothing here: give {known}, or roles by name")
        positions = contrast.roles
    return checked_roles(positions, len(contrast))


def check_aligned(contrast: Contrast, roles: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Raise ValueError where positions of base and source do not belong to one another."""
    lengths = [(sequences != tokens.PAD).sum(1) for sequences in (contrast.base, contrast.source)]
    shifted = np.flatnonzero(lengths[0] != lengths[1])
    if len(shifted):
        raise ValueError(
            f"in row {shifted[0]} base and source differ in length: attribute roles, by 'gradient' or 'activations', "
            "or select rows that need no shift"
        )
    for name, (here, there) in roles.items():
        if (here != there).any():
            raise ValueError(f"role {name!r} has other positions in the source: use 'gradient' or 'activations'")


def evaluate(metric: RowMetric, logits: Tensor) -> Tensor:
    """The metric of logits [rows, d_vocab], checked: [rows]. Raises ValueError where it does not give one for each."""
    value = metric(logits)
    if value.shape != logits.shape[:1]:
        raise ValueError(f"the metric gave {tuple(value.shape)}; expected a number for each of {len(logits)} rows")
    return value


def means(values: np.ndarray, clusters: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns of a tidy table: the mean of each cell's rows, `value`, with `low`, `high`, and how many, `n`.

    values [cells, rows], NaN where a row has no such cell; clusters [rows]. The percentile bootstrap over clusters, or
    over rows where there are fewer than 30 (`cadmus.statistics.clustered`).
    """
    counts = ~np.isnan(values)
    parts = np.stack([np.where(counts, values, 0.0), counts], -1).transpose(1, 0, 2)  # [rows, cells, 2]
    sums = clustered.cluster_sums(parts, clusters, np.arange(len(clusters)))
    cells = clustered.bootstrap_many(sums, lambda totals: totals[..., 0] / totals[..., 1], seed)
    return {"value": cells.estimate, "low": cells.low, "high": cells.high, "n": counts.sum(1)}


def _clusters(bases: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Label rows that share a name on either side, directly or by way of others: int64 [rows]."""
    base, source = (np.unique(names, return_inverse=True)[1] for names in (bases, sources))
    n = int(base.max()) + 1
    size = n + int(source.max()) + 1
    graph = coo_array((np.ones(len(base)), (base, n + source)), shape=(size, size))
    return connected_components(graph, directed=False)[1][base].astype(np.int64)
