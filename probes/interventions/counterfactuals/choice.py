"""Which bases become pairs, and with which sources: balanced over answers, wanted values and strata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cadmus.machine import tokens
from probes.interventions.counterfactuals.prompts import NO_ANSWER, Answers, Prompts
from probes.interventions.counterfactuals.substitutes import (
    Substitutes,
    differ_in_value_alone,
    edited_answers,
    substitutes,
)
from probes.interventions.counterfactuals.variables import PairVariable

N_SUBSTITUTES = 24  # of a base, with all its digits drawn anew
N_FEW_SUBSTITUTES = 12  # with a part of them
_KEY = "pairs of programs"


@dataclass(frozen=True)
class Candidates:
    """Prompts and all that might become their sources, arrays over the substitutes."""

    prompts: Prompts
    """The prompts that may become bases."""
    rows: Substitutes
    """What they are substituted by, by prompt."""
    edited: np.ndarray
    """int64 [n]: what the prompt asks for where its value is the substitute's; -1: nothing."""
    is_minimal: np.ndarray
    """bool [n]: whether the substitute differs from the prompt in its value, and what makes it, alone."""
    may_be_source: np.ndarray
    """bool [n]: whether it is a source of the wanted kind."""
    hashes: np.ndarray
    """uint64 [n]: of the substitutes' texts."""

    def rows_of(self, prompt: int) -> np.ndarray:
        """The substitutes of one prompt: int64 [m]."""
        low, high = np.searchsorted(self.rows.base, [prompt, prompt + 1])
        return np.arange(low, high)


def candidates(
    prompts: Prompts, kind: str, variable: PairVariable, answers: Answers, rng: np.random.Generator
) -> Candidates:
    """Draw substitutes of every prompt, of which sources of that kind are chosen."""
    others = np.where(prompts.makers, 0, prompts.free).astype(np.uint8)
    makers = np.where(prompts.makers, prompts.free, 0).astype(np.uint8)
    parts = [
        substitutes(prompts, prompts.free, N_SUBSTITUTES, variable, answers, rng),
        substitutes(prompts, others, N_FEW_SUBSTITUTES, variable, answers, rng),  # the same value, surely
        substitutes(prompts, makers, N_FEW_SUBSTITUTES, variable, answers, rng),  # all else equal, perhaps
    ]
    rows = Substitutes(*(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts))))
    hashes = prompt_hashes(rows.tokens)
    _, distinct = np.unique(np.stack([rows.base.astype(np.uint64), hashes], 1), axis=0, return_index=True)
    order = distinct[np.argsort(rows.base[distinct], kind="stable")]
    rows, hashes = rows[order], hashes[order]
    edited = edited_answers(prompts, rows.base, rows.v, answers)
    base_answers, own = prompts.answers[rows.base], rows.answers
    moves = (rows.v != prompts.v[rows.base]) & (edited != NO_ANSWER) & (edited != base_answers)
    is_minimal = np.zeros(len(rows), np.bool_)
    if kind == "minimal":
        likely = np.flatnonzero(moves & (own == edited))
        is_minimal[likely] = differ_in_value_alone(rows[likely], prompts)
        may_be_source = is_minimal
    else:
        may_be_source = moves & (own != edited) & (own != base_answers)
    return Candidates(prompts, rows, edited, is_minimal, may_be_source, hashes)


def prompt_hashes(programs: np.ndarray) -> np.ndarray:
    """A hash of each text: uint64 [n]."""
    return tokens.hashes(programs, _KEY)


# --- bases -----------------------------------------------------------------------------------------------------------


def feasible(pool: Candidates, forbidden: np.ndarray) -> np.ndarray:
    """Which prompts have a source, a same-value source and a third-value source: int64 [m].

    forbidden uint64 [k]: hashes of texts that no source may have.
    """
    allowed = ~np.isin(pool.hashes, forbidden)
    rows, prompts = pool.rows, pool.prompts
    n = len(prompts)
    same_value = allowed & (rows.v == prompts.v[rows.base])
    moves = allowed & (pool.edited != NO_ANSWER) & (pool.edited != prompts.answers[rows.base])
    n_answers = np.zeros(n, np.int64)  # distinct answers that editing asks for: the edited one, and a third
    distinct = np.unique(np.stack([rows.base[moves], pool.edited[moves]], 1), axis=0)
    np.add.at(n_answers, distinct[:, 0], 1)
    has_source, has_same = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    has_source[rows.base[allowed & pool.may_be_source]] = True
    has_same[rows.base[same_value]] = True
    return np.flatnonzero(has_source & has_same & (n_answers > 1))


def balanced_order(literal: np.ndarray, answers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An order, int64 [n], of which the first few hold strata as equally as there are enough, and answers within."""
    tie = rng.permutation(len(answers))
    _, group = np.unique(np.stack([literal, answers], 1), axis=0, return_inverse=True)
    place = _rank(group.ravel(), tie)  # within stratum and answer
    return np.argsort(_rank(literal.astype(np.int64), np.argsort(np.argsort(place * len(answers) + tie))) * 2 + literal)


def _rank(group: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The place of each row within its group, by its key: int64 [n]."""
    order = np.lexsort([key, group])
    starts = np.searchsorted(group[order], group[order])
    out = np.empty(len(group), np.int64)
    out[order] = np.arange(len(group)) - starts
    return out


# --- sources ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Triple:
    """The three sources of a base, rows of `Candidates.rows`."""

    source: int
    """Its value is the wanted one."""
    same_value: int
    """Its value is the base's."""
    third_value: int
    """Its value asks for a third answer."""


class Balance:
    """Counts what has been chosen, so that the next choice evens it out."""

    def __init__(self) -> None:
        self._counts: Counter[tuple] = Counter()

    def load(self, base_answer: int, edited: int, v: int) -> tuple[int, int, int]:
        """How often this answer, this change of answers and this value were chosen: the least is the next."""
        return self._counts["answer", edited], self._counts["change", base_answer, edited], self._counts["value", v]

    def add(self, base_answer: int, edited: int, v: int) -> None:
        """Count a choice."""
        self._counts.update([("answer", edited), ("change", base_answer, edited), ("value", v)])


def choose(
    pool: Candidates,
    prompt: int,
    kind: str,
    balance: Balance,
    forbidden: np.ndarray,
    fits: Callable[[int], bool],
    rng: np.random.Generator,
) -> Triple | None:
    """The sources of a prompt, the wanted value being the one that was chosen least; None where there are none.

    forbidden as for `feasible`; fits(row) says whether a substitute goes on to a program of the family.
    """
    mine = rng.permutation(pool.rows_of(prompt))
    mine = mine[~np.isin(pool.hashes[mine], forbidden)]
    rows, answer = pool.rows, int(pool.prompts.answers[prompt])
    edited, v, own = pool.edited[mine], rows.v[mine], rows.answers[mine]
    moves = (edited != NO_ANSWER) & (edited != answer)
    same_value = _first_fitting(mine, _same_value_order(pool, prompt, mine, kind), fits)
    usable = np.flatnonzero(pool.may_be_source[mine])
    if same_value is None or not len(usable):
        return None
    loads = [
        (balance.load(answer, *key), k)
        for k, key in zip(usable.tolist(), zip(edited[usable].tolist(), v[usable].tolist()))
    ]
    for _, k in sorted(loads):
        third = np.flatnonzero(moves & (edited != edited[k]))
        by_likeness = np.lexsort([~pool.is_minimal[mine[third]], own[third] == edited[k]])
        third_value = _first_fitting(mine, third[by_likeness], fits)
        if third_value is not None and fits(int(mine[k])):
            balance.add(answer, int(edited[k]), int(v[k]))
            return Triple(int(mine[k]), same_value, third_value)
    return None


def _same_value_order(pool: Candidates, prompt: int, mine: np.ndarray, kind: str) -> np.ndarray:
    """Which of `mine` have the prompt's value, the best first: whose own answer is the base's for minimal pairs, and is
    another for discriminating ones (as with their sources); that differ up to where the value arose."""
    rows, prompts = pool.rows, pool.prompts
    same = np.flatnonzero(rows.v[mine] == prompts.v[prompt])
    until = slice(0, int(prompts.arose[prompt]) + 1)
    differs = (rows.tokens[mine[same], until] != prompts.tokens[prompt, until]).any(1)
    keeps_answer = rows.answers[mine[same]] == prompts.answers[prompt]
    return same[np.lexsort([~differs, keeps_answer if kind == "discriminating" else ~keeps_answer])]


def _first_fitting(mine: np.ndarray, order: np.ndarray, fits: Callable[[int], bool]) -> int | None:
    """The first of mine[order] that fits."""
    return next((int(row) for row in mine[order] if fits(int(row))), None)
