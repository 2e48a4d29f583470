"""Which heads attend along the data flow of programs, beyond what tokens and distances alone would make them do.

The machine says which earlier token each value comes from (`cadmus.states.provenance`). Held against it is each head's
attention on those edges, beside a *baseline* that predicts attention from (query's token, key's token, distance) and is
learned on programs of other skeletons, and beside the untrained twin. Programs are read in batches, and what is kept of
them is sums by skeleton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cadmus.machine import tokens, vm
from cadmus.programs.skeletons import skeletons
from cadmus.runtime.progress import Progress, no_progress
from cadmus.states.provenance import EDGE_KINDS, provenance
from cadmus.statistics.clustered import (
    MIN_CLUSTERS,
    benjamini_hochberg,
    difference_many,
    interval_columns,
    sign_flip,
)
from probes.interventions.editing import engine
from probes.interventions.effects.outcomes import THRESHOLD
from probes.interventions.effects.verdicts import LEVEL

KINDS = ("load_store", "load_origin", "store", "operand", "operand_origin", "decision", "decision_origin")
_DISTANCES = np.array([*range(1, 13), 16, 24, 36])  # from which on a class of distances begins
_PRIOR = 4.0  # observations that what is coarser counts for
_MASS, _BASELINE, _UNTRAINED, _N = range(4)


def attention_flow(
    model: Any,
    programs: np.ndarray,
    *,
    untrained: Any | None = None,
    scored: np.ndarray | None = None,
    kinds: Sequence[str] = KINDS,
    batch: int = 128,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Each head's attention on the edges of each kind: a row per kind, layer and head.

    Columns: `mass`, the attention of a query on the keys that its values come from, on average; `baseline`, what the
    keys' and the query's tokens and their distance predict, from programs of other skeletons (two folds), normalized
    over the keys of each query; `untrained`, the twin's mass (NaN without one); `d` (`d_low`, `d_high`), mass minus
    baseline, and `d_untrained`, with 95 % intervals by skeleton; `q`, of "mass is above the baseline" by sign flips of
    skeletons, Benjamini-Hochberg over the heads of a kind; `attends`: q at most 0.05 and both differences surely above
    0.05, on 30 skeletons or more; `queries`, `clusters`: what the row rests on, the latter skeletons. Edges from a
    token to itself are left out. Where programs have fewer than 30 skeletons, intervals are by program, and too narrow
    where those of a skeleton are alike: such rows claim nothing, and `note` says so.

    Args:
        model: of any backend.
        programs: uint8 [n, length], prompts: the last token before the padding is the one before the cut.
        untrained: the twin, of the same shape.
        scored: bool [n]: whose edges count; all are learned from. None: all.
        kinds: of `cadmus.states.provenance.EDGE_KINDS`.
        batch: programs that are read at once.
        seed: of the resampling.
        progress: follows the stage "attention".

    Raises ValueError for an unknown kind, and where all programs are of one skeleton.
    """
    kinds = tokens.text_list(kinds, "kinds")
    unknown = [kind for kind in kinds if kind not in EDGE_KINDS]
    if unknown:
        raise ValueError(f"unknown kind of edges {unknown[0]!r}; there are {', '.join(EDGE_KINDS)}")
    names = np.array(tokens.decode(skeletons(programs)))
    labels = np.unique(names, return_inverse=True)[1]
    if labels.max(initial=0) < 1:
        raise ValueError("all programs are of one skeleton; the baseline is learned on others, so give several")
    fold = np.random.default_rng(seed).permutation(np.arange(labels.max() + 1) % 2)[labels]  # [n]
    order = np.argsort(tokens.lengths(programs), kind="stable")
    batches = [order[first : first + batch] for first in range(0, len(order), batch)]
    counts = _Counts.empty(model.cfg.n_layers * model.cfg.n_heads)
    for number, rows in enumerate(batches):
        progress("attention", number / len(batches) / 2, "baseline")
        for part in (0, 1):
            counts.add(part, *_patterns(model, programs[rows[fold[rows] == part]]))
    tables = [counts.predictions(1 - part) for part in (0, 1)]  # learned on the other fold
    scored = np.ones(len(programs), np.bool_) if scored is None else np.asarray(scored)
    of_skeleton = labels
    if len(np.unique(labels[scored])) < MIN_CLUSTERS:
        labels = np.arange(len(programs))
    first, clusters = np.unique(labels[scored], return_index=True, return_inverse=True)[1:]
    cluster_of = np.full(len(programs), -1)
    cluster_of[scored] = clusters
    sums = np.zeros((clusters.max(initial=-1) + 1, len(kinds), counts.heads, 4))
    for number, rows in enumerate(batches):
        progress("attention", (1 + number / len(batches)) / 2, "edges")
        for part in (0, 1):
            here = rows[(fold[rows] == part) & scored[rows]]
            if len(here):
                _add_edges(sums, model, untrained, programs[here], cluster_of[here], tables[part], kinds)
    progress("attention", 1.0, "")
    return _table(sums, of_skeleton[scored][first], kinds, model.cfg.n_heads, untrained is not None, seed)


# --- attention -------------------------------------------------------------------------------------------------------


def patterns(model: Any, programs: np.ndarray) -> np.ndarray:
    """The attention of all heads: float32 [program, head of all layers, query, key], in model positions."""
    sites = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    read = engine.activations(model, tokens.sequences(programs), sites)
    return np.concatenate([read[site].float().cpu().numpy() for site in sites], 1)


def _patterns(model: Any, programs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The attention [program, head, query, key], and the class of each edge [program, query, key], -1 for none."""
    if not len(programs):
        return np.zeros((0, 0, 0, 0), np.float32), np.zeros((0, 0, 0), np.int64)
    programs = programs[:, : max(1, int(tokens.lengths(programs).max()))]
    return patterns(model, programs), edge_classes(programs)


def edge_classes(programs: np.ndarray) -> np.ndarray:
    """The class (query's token, key's token, distance) of each edge: int64 [program, query, key], -1 for none.

    Queries are tokens of the program; keys the marker too.
    """
    sequences = tokens.sequences(programs).astype(np.int64)
    n, vocabulary = sequences.shape[1], len(vm.VOCAB)
    query, key = np.arange(n)[:, None], np.arange(n)[None]
    distance = np.searchsorted(_DISTANCES, np.maximum(query - key, 0), side="right")  # [query, key]
    classes = (sequences[:, :, None] * vocabulary + sequences[:, None, :]) * (len(_DISTANCES) + 1) + distance
    is_edge = (key <= query) & (query > 0) & (query <= tokens.lengths(programs)[:, None, None])
    return np.where(is_edge, classes, -1)


# --- the baseline ----------------------------------------------------------------------------------------------------


@dataclass
class _Counts:
    """What was seen of each class of edges, by fold."""

    sums: np.ndarray
    """float64 [fold, head, class]: attention."""
    seen: np.ndarray
    """float64 [fold, class]: edges."""

    @classmethod
    def empty(cls, heads: int) -> _Counts:
        """Of so many heads."""
        classes = len(vm.VOCAB) ** 2 * (len(_DISTANCES) + 1)
        return cls(np.zeros((2, heads, classes)), np.zeros((2, classes)))

    @property
    def heads(self) -> int:
        return self.sums.shape[1]

    def add(self, fold: int, attention: np.ndarray, classes: np.ndarray) -> None:
        """Count edges of programs: attention [program, head, query, key], classes [program, query, key]."""
        is_edge = classes >= 0
        index, inverse = np.unique(classes[is_edge], return_inverse=True)
        self.seen[fold, index] += np.bincount(inverse, minlength=len(index))
        for head in range(attention.shape[1]):
            weights = attention[:, head][is_edge]
            self.sums[fold, head, index] += np.bincount(inverse, weights, len(index))

    def predictions(self, fold: int) -> np.ndarray:
        """The attention that a fold lets expect of each class: float32 [head, class].

        The mean of a class is drawn to (query, key) x (query, distance) / (query), and these to what is coarser.
        """
        shape = len(vm.VOCAB), len(vm.VOCAB), len(_DISTANCES) + 1
        seen = self.seen[fold].reshape(shape)
        out = np.empty((self.heads, seen.size), np.float32)
        for head in range(self.heads):
            total = self.sums[fold, head].reshape(shape)  # [query's token, key's token, distance]
            anything = total.sum() / max(seen.sum(), 1)
            query = _shrunken(total.sum((1, 2)), seen.sum((1, 2)), anything)[:, None]
            by_key = _shrunken(total.sum(2), seen.sum(2), query)
            by_distance = _shrunken(total.sum(1), seen.sum(1), query)
            parent = by_key[:, :, None] * by_distance[:, None, :] / np.maximum(query, 1e-9)[:, :, None]
            out[head] = _shrunken(total, seen, parent).ravel()
        return out


def _shrunken(total: np.ndarray, seen: np.ndarray, parent: np.ndarray | float) -> np.ndarray:
    return (total + _PRIOR * parent) / (seen + _PRIOR)


# --- edges -----------------------------------------------------------------------------------------------------------


def data_flow(programs: np.ndarray) -> pd.DataFrame:
    """The edges of prompts, in model positions, each once: `program`, `kind`, `query`, `key`, `value`, `element`.

    Those from a token to itself are left out.
    """
    edges = provenance(programs, tokens.lengths(programs)).edges.frame()
    edges = edges[edges["query"] != edges["key"]]
    edges = edges.drop_duplicates(["program", "kind", "query", "key", "value", "element"])
    edges = edges.assign(query=edges["query"] + 1, key=edges["key"] + 1)
    columns = ["program", "kind", "query", "key", "value", "element"]
    return edges[columns].reset_index(drop=True)


def _add_edges(
    sums: np.ndarray,
    model: Any,
    untrained: Any | None,
    programs: np.ndarray,
    clusters: np.ndarray,
    table: np.ndarray,
    kinds: Sequence[str],
) -> None:
    """Add what a batch's edges get to sums [cluster, kind, head, 4]; clusters int64 [program]."""
    attention, classes = _patterns(model, programs)
    programs = programs[:, : classes.shape[1] - 1]
    edges = data_flow(programs).drop_duplicates(["program", "kind", "query", "key"])
    edges = edges[edges["kind"].isin(kinds)]
    if edges.empty:
        return
    program, query, key = (edges[name].to_numpy() for name in ("program", "query", "key"))
    expected = table[:, np.maximum(classes[program, query], 0)] * (classes[program, query] >= 0)  # [head, edge, key]
    baseline = expected[:, np.arange(len(edges)), key] / expected.sum(-1)  # [head, edge]
    columns = [attention[program, :, query, key], baseline.T, np.zeros_like(baseline.T)]  # [edge, head] each
    if untrained is not None:
        columns[_UNTRAINED] = patterns(untrained, programs)[program, :, query, key]
    number = np.array([kinds.index(kind) for kind in edges["kind"]])
    for column, values in enumerate(columns):
        np.add.at(sums[..., column], (clusters[program], number), values)
    first = ~edges.duplicated(["program", "kind", "query"]).to_numpy()  # a query counts once
    np.add.at(sums[..., _N], (clusters[program[first]], number[first]), 1.0)


def _table(
    sums: np.ndarray, of_skeleton: np.ndarray, kinds: Sequence[str], n_heads: int, has_twin: bool, seed: int
) -> pd.DataFrame:
    """The rows of all kinds and heads, from sums [cluster, kind, head, 4]; of_skeleton [cluster]: which skeleton's."""
    parts = []
    for number, kind in enumerate(kinds):
        part = sums[:, number]  # [cluster, head, 4]
        n_skeletons = len(np.unique(of_skeleton[part[:, 0, _N] > 0]))
        part = part[part[:, 0, _N] > 0]
        heads = np.arange(part.shape[1])
        table = pd.DataFrame({"kind": kind, "layer": heads // n_heads, "head": heads % n_heads})
        if not len(part):
            table = table.assign(queries=0, clusters=0, note="no program has such edges")
            parts.append(table)
            continue
        mean = part.sum(0) / part[..., _N].sum(0)[:, None]  # [head, 4]
        beyond = difference_many(part[..., [_MASS, _BASELINE, _N]], seed)
        p = sign_flip(part[..., _MASS] - part[..., _BASELINE], seed=seed).p
        table["mass"], table["baseline"] = mean[:, _MASS], mean[:, _BASELINE]
        table["untrained"] = mean[:, _UNTRAINED] if has_twin else np.nan
        table = table.assign(**interval_columns("d", beyond.estimate, beyond.low, beyond.high))
        q = benjamini_hochberg(p)
        attends = (q <= LEVEL) & (beyond.low > THRESHOLD)
        if has_twin:
            twin = difference_many(part[..., [_MASS, _UNTRAINED, _N]], seed)
            table = table.assign(**interval_columns("d_untrained", twin.estimate, twin.low, twin.high))
            attends &= twin.low > THRESHOLD
        attends &= n_skeletons >= MIN_CLUSTERS
        note = "" if n_skeletons >= MIN_CLUSTERS else f"fewer than {MIN_CLUSTERS} skeletons ({n_skeletons})"
        table = table.assign(q=q, attends=attends, queries=int(part[:, 0, _N].sum()), clusters=n_skeletons, note=note)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)
