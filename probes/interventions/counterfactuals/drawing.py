"""Pairs of programs for causal interventions: a base, and sources in which one value is another.

A base is a program of held-out skeletons, cut where its model must decide; its sources are prompts of the same
skeleton, so that positions agree. `draw` makes pairs of a variable of `counterfactuals.VARIABLES`, `from_programs` of
any programs; `judge` and `chance` say what completions are worth. What follows from an edit is the oracle's word
throughout (`cadmus.machine.oracle`), and what roles a value has is that of `cadmus.states.provenance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cadmus.corpora.held_out import held_out
from cadmus.machine import tokens, vm
from cadmus.programs.mixture import Mixture
from cadmus.programs.parts.family import Family
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from cadmus.runtime.tables import did_you_mean
from probes.interventions.counterfactuals.choice import (
    Balance,
    Candidates,
    Triple,
    balanced_order,
    candidates,
    choose,
    feasible,
    prompt_hashes,
)
from probes.interventions.counterfactuals.pairs import KINDS, Pairs
from probes.interventions.counterfactuals.prompts import Answers, Prompts, at_decisions, prompts_of
from probes.interventions.counterfactuals.tables import about, joined, with_roles
from probes.interventions.counterfactuals.variables import PairVariable, named_values, one_of_each, resolve_variable

_MAX_ROUNDS = 12  # of drawing programs
_SURPLUS, _MORE = 1.5, 40  # bases that could become pairs, for each that does, and more: so that there is a choice
_STAGE = "pairs"  # of the progress
_DATA_DEPENDENT = "?IFGHWMO"  # tokens that may take another value in a program of the same skeleton


def draw(
    variable: str | PairVariable,
    mixture: Mixture,
    n: int,
    seed: int = 0,
    *,
    kinds: Sequence[str] = KINDS,
    split: str = "test_skeleton",
    progress: Progress = no_progress,
) -> Pairs:
    """Draw `n` pairs of a variable, the kinds and the variable's families of the mixture in equal shares.

    Bases, answers, wanted values and strata are as balanced as the families allow. Every base has all three sources, no
    base is a source, and each stands in one pair.

    Args:
        variable: one of `VARIABLES`, or a row for that table.
        mixture: whose families are drawn from, with their knobs, and nothing that it holds out.
        n: pairs, 1 or more.
        seed: fixes them.
        kinds: of `KINDS`.
        split: the split of the bases.
        progress: follows the stage "pairs".

    Raises ValueError for an unknown variable, kind or split, a mixture without such a family, and where the families
    have too few pairs (it says how many were found).
    """
    variable = resolve_variable(variable)
    kinds = tokens.text_list(kinds, "kinds")
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"unknown kind of pairs {kind!r}{did_you_mean(kind, KINDS)}; there are {', '.join(KINDS)}")
    if n < 1 or not kinds:
        raise ValueError(f"{n} pairs of {len(kinds)} kinds are asked for; ask for one or more")
    families = [family for family in mixture.families if family.name in variable.families]
    if not families:
        raise ValueError(
            f"mixture {mixture.name!r} has no family with {variable.name}, which programs of "
            f"{' and '.join(variable.families)} have; it has {', '.join(family.name for family in mixture.families)}"
        )
    drawing = _Drawing(variable, mixture, seed, split)
    tasks = [(kind, family) for kind in kinds for family in families]
    tables: list[pd.DataFrame] = []
    role_tables: list[pd.DataFrame] = []
    for k, (kind, family) in enumerate(tasks):
        progress(_STAGE, k / len(tasks), f"{variable.name}: {kind} pairs of {family.name}")
        size = n // len(tasks) + (k < n % len(tasks))
        if size:
            table, roles = drawing.draw(family, kind, size, sum(len(table) for table in tables))
            tables.append(table)
            role_tables.append(roles)
    progress(_STAGE, 1.0, "")
    of_what = about(variable.name, families) | {"seed": seed, "mixture": mixture.fingerprint, "split": split}
    return Pairs(*joined(tables, role_tables), tuple(families), of_what)


# --- drawing ---------------------------------------------------------------------------------------------------------


@dataclass
class _Ready:
    """The prompts of one round of drawing that can become pairs."""

    pool: Candidates
    """All prompts of a round, and what might become their sources."""
    programs: list[str]
    """The programs that they were cut from."""
    rows: np.ndarray
    """int64 [m]: those prompts that can."""


@dataclass
class _Drawing:
    """What one call of `draw` keeps: which texts are taken, whatever the kind and the family."""

    variable: PairVariable
    """What pairs are made for."""
    mixture: Mixture
    """What is drawn from."""
    seed: int
    """Fixes the pairs."""
    split: str
    """The split of the bases."""
    bases: set[int] = field(default_factory=set)
    """The hashes of the bases so far."""
    sources: set[int] = field(default_factory=set)
    """The hashes of the sources so far, of all three kinds."""
    programs: set[str] = field(default_factory=set)
    """The programs that bases were cut from."""

    def draw(self, family: Family, kind: str, n: int, first_pair: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """`n` pairs of one family and kind, and their roles. Raises ValueError where it has fewer."""
        answers = Answers(family, self.variable.reads)
        rng = generator(f"pairs {self.variable.name} {family.name} {kind}", self.seed)
        ready = self._ready(family, kind, n, answers, rng)
        where = [(k, row) for k, one in enumerate(ready) for row in one.rows.tolist()]
        literal = np.concatenate([one.pool.prompts.literal[one.rows] for one in ready])
        own_answers = np.concatenate([one.pool.prompts.answers[one.rows] for one in ready])
        hashes = np.concatenate([prompt_hashes(one.pool.prompts.tokens[one.rows]) for one in ready])
        taken = np.array(sorted(self.bases | set(hashes.tolist())), np.uint64)
        balance = Balance()
        rows: list[dict[str, Any]] = []
        for index in balanced_order(literal, own_answers, rng).tolist():
            if len(rows) == n:
                break
            k, row = where[index]
            entry = self._pair(ready[k], row, kind, answers, balance, taken, rng)
            if entry is not None:
                rows.append(entry)
        if len(rows) < n:
            raise ValueError(self._too_few(family, kind, len(rows), n))
        return with_roles(pd.DataFrame(rows), answers, first_pair)

    def _too_few(self, family: Family, kind: str, n_found: int, n: int) -> str:
        others = " or ".join(other for other in KINDS if other != kind)
        return (
            f"only {n_found} {kind} pairs of {self.variable.name} were found in the family {family.name} "
            f"({n} are asked for): few of its programs of the split {self.split!r} have sources whose answers differ; "
            f"ask for fewer, for {others} ones, or widen its knobs"
        )

    def _ready(self, family: Family, kind: str, n: int, answers: Answers, rng: np.random.Generator) -> list[_Ready]:
        """Enough prompts that can become pairs, or as many as some rounds of drawing give."""
        ready: list[_Ready] = []
        size, n_ready = max(200, 2 * n), 0
        seen: set[int] = set()
        earlier = set(self.programs)
        for _ in range(_MAX_ROUNDS):
            programs = held_out(family, self.split, size, int(rng.integers(2**31)), self.mixture.hold_out)
            texts = [text for text in tokens.decode(programs) if text not in earlier]
            earlier.update(texts)
            prompts = _prompts(self.variable, family, texts, kind, answers, rng)
            hashes = prompt_hashes(prompts.tokens)
            new = [h not in self.sources and h not in self.bases and h not in seen for h in hashes.tolist()]
            _, first = np.unique(hashes, return_index=True)
            prompts = prompts[np.intersect1d(np.flatnonzero(new), first)]
            hashes = prompt_hashes(prompts.tokens)
            seen.update(hashes.tolist())
            pool = candidates(prompts, kind, self.variable, answers, rng)
            taken = np.array(sorted(self.bases | seen), np.uint64)
            ready.append(_Ready(pool, texts, feasible(pool, taken)))
            n_ready += len(ready[-1].rows)
            if n_ready >= _SURPLUS * n + _MORE:
                break
            share = max(0.02, n_ready / sum(len(one.programs) for one in ready))
            size = min(8 * n + 1000, int((_SURPLUS * n + _MORE - n_ready) / share * 1.2) + 50)
        return ready

    def _pair(
        self,
        ready: _Ready,
        row: int,
        kind: str,
        answers: Answers,
        balance: Balance,
        taken: np.ndarray,
        rng: np.random.Generator,
    ) -> dict[str, Any] | None:
        """The row of a base in the table of pairs; None where it has no sources after all."""
        pool, prompts = ready.pool, ready.pool.prompts
        program = ready.programs[int(prompts.program[row])]
        cut = int(prompts.cuts[row])
        answer = answers.texts[int(prompts.answers[row])]
        rest = program[cut:].removeprefix(answer)

        def text(of: int) -> str:
            return tokens.decode(pool.rows.tokens[of : of + 1])[0][:cut]

        def fits(of: int) -> bool:
            return answers.family.accepts(text(of) + answers.texts[int(pool.rows.answers[of])] + rest)

        triple = choose(pool, row, kind, balance, taken, fits, rng)
        if triple is None:
            return None
        self.programs.add(program)
        self.bases.add(int(prompt_hashes(prompts.tokens[row : row + 1])[0]))
        self.sources.update(pool.hashes[[triple.source, triple.same_value, triple.third_value]].tolist())
        return {
            "variable": self.variable.name,
            "family": answers.family.name,
            "kind": kind,
            "stratum": "literal" if prompts.literal[row] else "computed",
            "base": program[:cut],
            "cut": cut,
            "value": int(prompts.v[row]),
            "base_answer": answer,
            "shift": 0,
            "_value": int(prompts.value[row]),
            "_arose": int(prompts.arose[row]),
            **_source_columns(pool, triple, text, answers),
        }


def _source_columns(
    pool: Candidates, triple: Triple, text: Callable[[int], str], answers: Answers
) -> dict[str, str | int]:
    """The columns that are about a pair's sources; text(row) is that of a substitute."""
    source, same_value, third_value = triple.source, triple.same_value, triple.third_value
    return {
        "source": text(source),
        "same_value": text(same_value),
        "third_value": text(third_value),
        "source_value": int(pool.rows.v[source]),
        "third_source_value": int(pool.rows.v[third_value]),
        "edited_answer": answers.texts[int(pool.edited[source])],
        "source_answer": answers.texts[int(pool.rows.answers[source])],
        "same_value_answer": answers.texts[int(pool.rows.answers[same_value])],
        "third_answer": answers.texts[int(pool.edited[third_value])],
    }


def _prompts(
    variable: PairVariable, family: Family, texts: list[str], kind: str, answers: Answers, rng: np.random.Generator
) -> Prompts:
    """One prompt of each program that has the variable: a decision position and a value, drawn from all that there are.

    Where the answer is the value itself, and is in every program of the skeleton, no source can discriminate.
    """
    decisions = [family.decisions(text) for text in texts]
    owners, cuts, rows = at_decisions(texts, decisions)
    every = named_values(variable, rows, cuts)
    if kind == "discriminating" and variable.reads == 1:
        dependent = np.array([vm.VOCAB.index(token) for token in _DATA_DEPENDENT], np.uint8)
        every = every[~every.is_top | np.any(np.isin(rows, dependent), axis=1)[every.prompt]]
    every = every[one_of_each(owners[every.prompt], rng)]  # of each program
    return prompts_of(rows, decisions, every, cuts, owners, answers)
