"""Along which routes a value comes to the answer: attention on the data flow, and what it is needed for, head by head.

Four instruments on the same pairs, each in a module of its own: `flow` (does a head attend where the machine takes the
value from, beyond what tokens and distances make it do?), `knockouts` (is the answer lost where it may not, and is it
another's where it must look elsewhere?), `head_interchange` (does its output carry the value?), `effects.mechanism` (is
the value tracked at the store, or looked up at the load?). Paths between the heads that stand out are patched on
request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cadmus.machine import tokens, vm
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from probes.interventions.attention.answers import Bases, bases_of
from probes.interventions.attention.flow import KINDS, attention_flow
from probes.interventions.attention.head_interchange import exchange_of, heads_by_interchange
from probes.interventions.attention.knockouts import DEFAULT_KINDS, LOAD, knockouts
from probes.interventions.attention.value_edges import moves, value_edges
from probes.interventions.counterfactuals.judging import common_beginning
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.editing.paths import path_grid
from probes.interventions.effects.mechanism import mechanism
from probes.interventions.effects.outcomes import Outcomes

MAX_BASES = 80  # that heads and edges are tested on by default
QUICK_BASES = 40
QUICK_KINDS = ("load_store", "load_origin", LOAD, "operand")
_MAX_HEADS = 6  # between which paths are patched


@dataclass(frozen=True, repr=False)
class Routes:
    """What was found of one variable's routes."""

    attention: pd.DataFrame
    """`flow.attention_flow`: a row per kind of edges, layer and head."""
    knockouts: pd.DataFrame
    """`knockouts.knockouts`: a row per kind of edges, layer and head, -1 standing for all."""
    interchange: pd.DataFrame
    """`head_interchange.heads_by_interchange`: a row per head; empty where no pair counts, or it was not asked for."""
    mechanism: pd.DataFrame
    """`mechanism.mechanism`; empty where no outcomes were given."""
    paths: pd.DataFrame
    """`paths.path_grid` between the heads that stand out; empty unless it was asked for."""

    def __repr__(self) -> str:
        return f"Routes({self.word}; heads needed: {self.needed_heads or 'none'})"

    @property
    def word(self) -> str:
        """One of `mechanism.WORDS`, of all pairs."""
        return str(self.mechanism["mechanism"].iloc[0]) if len(self.mechanism) else "undecided"

    @property
    def needed(self) -> pd.DataFrame:
        """The rows of `knockouts` of single heads without whose edges answers are lost."""
        if self.knockouts.empty:
            return self.knockouts
        return self.knockouts[(self.knockouts["head"] >= 0) & self.knockouts["needed"]]

    @property
    def needed_heads(self) -> str:
        """The heads of `needed` in words, `3.2 (load_store), 4.1 (operand)`."""
        return ", ".join(f"{row.layer}.{row.head} ({row.kind})" for row in self.needed.itertuples())

    @property
    def edges(self) -> pd.DataFrame:
        """The rows of `knockouts` of whole layers, and of all (layer -1)."""
        return self.knockouts[self.knockouts["head"] < 0] if len(self.knockouts) else self.knockouts

    @property
    def heads(self) -> pd.DataFrame:
        """One row per head: the kind of edges on which it attends most beyond the baseline (`flow`, with `flow_mass`,
        `flow_baseline`, `flow_d` ..., `attends`), the kind that it is needed for most (`knockout`, `broken`,
        `knockout_d` ..., `knockout_q`, `needed`; else the kind of the largest d), all that it is needed for
        (`needed_for`, those of `needed` in words), and the interchange of its output (`accuracy`, `interchange_d` ...,
        `interchange_q`, `used`)."""
        names = {"kind": "flow", "mass": "flow_mass", "baseline": "flow_baseline", "queries": "flow_queries"}
        names |= {"d": "flow_d", "d_low": "flow_d_low", "d_high": "flow_d_high", "q": "flow_q"}
        table = _best(self.attention, names, ["attends"], "attends")
        names = {"kind": "knockout", "pairs": "knockout_pairs", "mass": "knockout_mass", "q": "knockout_q"}
        names |= {"d": "knockout_d", "d_low": "knockout_d_low", "d_high": "knockout_d_high"}
        if len(self.knockouts):
            own = self.knockouts[self.knockouts["head"] >= 0]
            other = ["broken", "elsewhere", "no_flow", "controls", "matched", "moved", "moved_control", "needed"]
            table = table.merge(_best(own, names, other, "needed"), on=["layer", "head"], how="left")
            table["needed"] = table["needed"].eq(True)
            kinds = self.needed.groupby(["layer", "head"])["kind"].agg(", ".join).to_dict()
            table["needed_for"] = [kinds.get(key, "") for key in zip(table["layer"], table["head"])]
        if len(self.interchange):
            names = {"pairs": "interchange_pairs", "q": "interchange_q", "d": "interchange_d"}
            names |= {"d_low": "interchange_d_low", "d_high": "interchange_d_high"}
            part = self.interchange[["layer", "head", "accuracy", "third_value", "random", "used", *names]]
            table = table.merge(part.rename(columns=names), on=["layer", "head"], how="left")
        return table


def _best(table: pd.DataFrame, names: dict[str, str], other: list[str], flag: str) -> pd.DataFrame:
    """The row of each head in which d is largest, of those with the flag if there are some; some columns renamed."""
    table = table.sort_values([flag, "d"], ascending=False, kind="stable", na_position="last")
    table = table.drop_duplicates(["layer", "head"]).sort_values(["layer", "head"])
    return table[["layer", "head", *names, *other]].rename(columns=names).reset_index(drop=True)


def routes(
    model: Any,
    pairs: Pairs,
    *,
    own: Sequence[str] | None = None,
    outcomes: Outcomes | None = None,
    untrained: Any | None = None,
    kinds: Sequence[str] | None = None,
    max_bases: int | None = MAX_BASES,
    quick: bool = False,
    full: bool = False,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Routes:
    """Follow a variable's value from where it arose to the answer.

    Heads and edges are tested on discriminating pairs without a shift whose own completion is right: `max_bases` of
    them, drawn by the seed so that families and strata have as many each as there are.

    Args:
        model: of any backend.
        pairs: of one variable.
        own: the model's completions of the bases, whole programs, where they are known already.
        outcomes: interchanges of the residual stream by layer and role on the same pairs, for `mechanism`; None: it is
            left out.
        untrained: the twin, for its attention.
        kinds: of edges that are blocked; None: `knockouts.DEFAULT_KINDS`.
        max_bases: on how many bases heads and edges are tested; None: all.
        quick: attention, and the edges of four kinds blocked in all heads at once, on 40 bases.
        full: all bases, all kinds of edges, and the paths between heads that stand out.
        seed: of everything that is drawn.
        progress: follows the stages.
    """
    kinds = None if kinds is None else tokens.text_list(kinds, "kinds")
    bases = bases_of(model, pairs, own)
    attention = _attention(model, pairs, untrained, seed, progress)
    speaks = (pairs.pairs["kind"] == "discriminating").to_numpy() & (pairs.pairs["shift"] == 0).to_numpy()
    limit = len(pairs) if full or max_bases is None else QUICK_BASES if quick else max_bases
    rows = _balanced(pairs, np.flatnonzero(speaks & bases.right()), limit, seed)
    tables = {name: pd.DataFrame() for name in ("knockouts", "interchange", "paths")}
    if len(rows):
        part = pairs.select(rows)
        bases = bases_of(model, part, [bases.own[row] for row in rows])
        kinds = kinds if kinds is not None else (*KINDS, LOAD) if full else QUICK_KINDS if quick else DEFAULT_KINDS
        tables["knockouts"] = knockouts(
            model,
            bases,
            value_edges(part),
            kinds=kinds,
            move=moves(part, seed),
            heads=not quick,
            layers=not quick,
            seed=seed,
            progress=progress,
        )
        exchange = exchange_of(part, bases)
        if exchange.counts.any() and not quick:
            tables["interchange"] = heads_by_interchange(model, exchange, seed=seed, progress=progress)
    story = pd.DataFrame() if outcomes is None else mechanism(outcomes, pairs, seed)
    result = Routes(attention=attention, mechanism=story, **tables)
    return replace(result, paths=_paths(model, part, bases, result.heads)) if full and len(rows) else result


def _balanced(pairs: Pairs, rows: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """At most so many of the rows int64 [m], ascending: drawn from families and strata in turn."""
    if len(rows) <= limit:
        return rows
    shuffled = generator("bases of routes", seed).permutation(rows)
    turns = pairs.pairs.iloc[shuffled].groupby(["family", "stratum"], sort=False).cumcount().to_numpy()
    return np.sort(shuffled[np.argsort(turns, kind="stable")[:limit]])


def _attention(model: Any, pairs: Pairs, untrained: Any | None, seed: int, progress: Progress) -> pd.DataFrame:
    """Attention on the edges of all bases, the baseline learned on bases and sources."""
    texts = pairs.pairs["base"].tolist()
    others = [text for text in pairs.pairs["source"] if text not in set(texts)]
    scored = np.arange(len(texts) + len(others)) < len(texts)
    programs = tokens.encode(texts + others)
    return attention_flow(model, programs, untrained=untrained, scored=scored, seed=seed, progress=progress)


# --- paths -----------------------------------------------------------------------------------------------------------


def _paths(model: Any, pairs: Pairs, bases: Bases, heads: pd.DataFrame) -> pd.DataFrame:
    """What heads that stand out tell one another, and the answer: `value` is the share of the way from the own answer's
    logit to the wanted one's, at the first token in which they differ."""
    columns = [name for name in ("attends", "needed", "used") if name in heads]
    scored = heads.assign(score=heads[columns].eq(True).sum(axis=1)).sort_values(["score", "flow_d"], ascending=False)
    standing = scored[scored["score"] > 0].head(_MAX_HEADS)
    chosen_heads = sorted(zip(standing["layer"].tolist(), standing["head"].tolist()))
    edited_answers = pairs.pairs["edited_answer"].tolist()
    both = [(bases.answer(text, row), edited_answers[row]) for row, text in enumerate(bases.own)]
    shared = [len(common_beginning(*answers)) for answers in both]
    rows = [row for row, (mine, other) in enumerate(both) if shared[row] < min(len(mine), len(other))]
    if not chosen_heads or not rows:
        return pd.DataFrame()
    prefixes = [both[row][0][: shared[row]] for row in rows]
    base, source = (
        tokens.sequences(tokens.encode([pairs.pairs[name][row] + prefix for row, prefix in zip(rows, prefixes)]))
        for name in ("base", "source")
    )
    at = np.array([len(bases.prompts[row]) + len(prefix) for row, prefix in zip(rows, prefixes)], np.int64)
    ends = [(vm.VOCAB.index(both[row][0][shared[row]]), vm.VOCAB.index(both[row][1][shared[row]])) for row in rows]
    mine, other = torch.tensor(ends).T

    def difference(logits: Tensor) -> Tensor:
        number = torch.arange(len(logits), device=logits.device)
        return logits[number, other.to(logits.device)] - logits[number, mine.to(logits.device)]

    receivers: list[tuple[int, int | str, str]] = [(*head, way) for head in chosen_heads for way in "qkv"]
    receivers.append((model.cfg.n_layers, "logits", "in"))
    senders: list[tuple[int, int | str]] = list(chosen_heads)
    table = path_grid(model, base, source, senders, receivers, difference, at=at)
    plain = path_grid(model, base, base, senders[:1], receivers[-1:], difference, at=at)["value"].iloc[0]
    return table.assign(moved=table["value"] - plain)
