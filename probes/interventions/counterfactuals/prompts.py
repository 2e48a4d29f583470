"""Prompts of one family as arrays: what each asks for, where its value arose, and which of its digits may be others.

A prompt is a program up to its cut. Pairs are chosen among `Prompts`: each has one value that its variable names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from cadmus.machine import kernel, tokens, vm
from cadmus.programs.parts.family import Family
from cadmus.programs.parts.pieces import ids
from probes.interventions.counterfactuals.variables import NamedValues

NO_ANSWER = -1
WRITTEN_OUT = ("register",)  # families whose stored numbers are literals of one form: 14 is `95+`, never `86+`
FIXED, NOT_ZERO, ANY = range(3)  # what may stand in the place of a token


# --- answers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """What a family's rule asks for, as numbers of texts: the rule is asked once per state.

    An empty answer, that nothing follows (families `equality`, `label`), counts as none: it is in no table of pairs.
    """

    family: Family
    """Whose rule it is."""
    reads: int
    """How many entries on top of the stack the answer is a function of."""
    texts: list[str] = field(default_factory=list)
    """The answers, by number."""
    _numbers: dict[tuple[int | None, ...], int] = field(default_factory=dict)

    def at(self, prompts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """The answer after the first `stops` (int [n]) tokens of prompts uint8 [n, width]: int64 [n], -1 where the rule
        has none, or reads what is not a plain Int."""
        return self.of([entries(prompts, stops, vm.VOCAB.index(";"), k) for k in range(self.reads)])

    def after_edits(self, states: kernel.Traces, cuts: np.ndarray) -> tuple[np.ndarray, kernel.Values]:
        """The answers at cuts int [n] of traced prompts, int64 [n], and the entries that they are about, [n, reads]."""
        top = states.stack[np.arange(len(cuts)), cuts - 1][:, : self.reads]
        return self.of([top[:, k] for k in range(self.reads)]), top

    def of(self, top: list[kernel.Values]) -> np.ndarray:
        """The answer for stacks with these entries on top, the top first: int64 [n]."""
        plain = np.all([(entry.kind == kernel.INT_KIND) & (entry.tag == 0) for entry in top], 0)
        values = np.stack([entry.value for entry in top], 1)  # [n, reads]
        distinct, index = np.unique(values, axis=0, return_inverse=True)
        numbers = np.array([self._number(tuple(row)) for row in distinct.tolist()], np.int64)
        return np.where(plain, numbers[index.ravel()] if len(numbers) else NO_ANSWER, NO_ANSWER)

    def _number(self, top: tuple[int, ...]) -> int:
        if top not in self._numbers:
            text = self.family.assertion_for(tuple(vm.Int(v) for v in reversed(top)))
            if not text:
                self._numbers[top] = NO_ANSWER
            else:
                if text not in self.texts:
                    self.texts.append(text)
                self._numbers[top] = self.texts.index(text)
        return self._numbers[top]

    def table(self, ending: str = "") -> tuple[np.ndarray, np.ndarray]:
        """The texts, each with `ending` behind it, as tokens uint8 [m, width], and their lengths int64 [m]."""
        texts = [text + ending for text in self.texts]
        return tokens.encode(texts), np.array([len(text) for text in texts], np.int64)


def entries(prompts: np.ndarray, stops: np.ndarray, suffix: int, count: int = 1) -> kernel.Values:
    """What lies on top after the first `stops` tokens and then `count` times the token `suffix`: `Values` [n].

    So `;` gives the entries below the top, `a` the register. Much faster than traces, which look after every token.
    """
    n, width = prompts.shape
    columns = np.arange(width + count)
    out = np.full((n, width + count), tokens.PAD, np.uint8)
    out[:, :width] = prompts
    out[columns >= stops[:, None]] = tokens.PAD
    out[(columns >= stops[:, None]) & (columns < stops[:, None] + count)] = suffix
    return kernel.tops(out)


def with_text(prompts: np.ndarray, stops: np.ndarray, table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Each prompt's first `stops` (int [n]) tokens and, behind them, row `rows[i]` of a table of texts uint8 [m, w]:
    uint8 [n, width + w]."""
    n, width = prompts.shape
    out = np.full((n, width + table.shape[1]), tokens.PAD, np.uint8)
    out[:, :width] = np.where(np.arange(width) < stops[:, None], prompts, tokens.PAD)
    out[np.arange(n)[:, None], stops[:, None] + np.arange(table.shape[1])] = table[rows]
    return out


# --- prompts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompts:
    """Prompts with a value each, arrays over the prompts."""

    tokens: np.ndarray
    """uint8 [n, width], padded with `.`."""
    cuts: np.ndarray
    """int64 [n]: the tokens of each."""
    program: np.ndarray
    """int64 [n]: the program that each was cut from."""
    decisions: np.ndarray
    """int64 [n, k]: the decision positions before the cut, -1 where there are fewer."""
    stores: np.ndarray
    """int64 [n, k]: the tokens of the main text that store, -1 where there are fewer."""
    arose: np.ndarray
    """int64 [n]: the token after which the value lay on top of the stack first."""
    value: np.ndarray
    """int64 [n]: its number in the prompt's provenance."""
    v: np.ndarray
    """int64 [n]: the Int that it is."""
    literal: np.ndarray
    """bool [n]: whether a digit made it."""
    makers: np.ndarray
    """bool [n, width]: the tokens that made it, and what it was computed from."""
    free: np.ndarray
    """uint8 [n, width]: what may stand in the place of a token: nothing else, a digit but 0, or any digit."""
    answers: np.ndarray
    """int64 [n]: what the family's rule asks for at the cut, a number of `Answers`."""

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, rows: np.ndarray) -> Prompts:
        """Some of the prompts."""
        return Prompts(*(getattr(self, column.name)[rows] for column in fields(self)))


def at_decisions(
    programs: Sequence[str], decisions: Sequence[tuple[int, ...]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Programs cut at each of their decision positions, but in front of a definition: the number of each prompt's
    program int64 [n], its tokens int64 [n], and the prompts uint8 [n, width]."""
    programs = tokens.text_list(programs, "programs")
    where = [(i, cut) for i, cuts in enumerate(decisions) for cut in cuts if programs[i][cut : cut + 1] != vm.OPEN]
    owners, cuts = np.array(where, np.int64).reshape(-1, 2).T
    arrays = tokens.encode(programs)
    return owners, cuts, np.where(np.arange(arrays.shape[1]) < cuts[:, None], arrays[owners], tokens.PAD)


def prompts_of(
    prompts: np.ndarray,
    decisions: Sequence[tuple[int, ...]],
    choice: NamedValues,
    cuts: np.ndarray,
    owners: np.ndarray,
    answers: Answers,
) -> Prompts:
    """The prompts of the values `choice`, which are of `prompts`, cut at `cuts` from the programs `owners`
    (`at_decisions`)."""
    owner, cut = owners[choice.prompt], cuts[choice.prompt]
    width = max(1, int(cut.max(initial=1)))
    rows = prompts[choice.prompt, :width]
    earlier = _padded([[position for position in decisions[i] if position < c] for i, c in zip(owner, cut)])
    stored = _main_text(rows) & np.isin(rows, ids(vm.REGISTERS.upper()))
    return Prompts(
        rows,
        cut,
        owner,
        earlier,
        _padded([np.flatnonzero(row).tolist() for row in stored]),
        choice.arose,
        choice.value,
        choice.v,
        choice.literal,
        choice.makers()[:, :width],
        free_tokens(answers.family, rows, earlier),
        answers.at(rows, cut),
    )


def _padded(lists: list[list[int]]) -> np.ndarray:
    """Lists of different lengths as int64 [n, longest], -1 behind each."""
    out = np.full((len(lists), max(map(len, lists), default=0)), -1, np.int64)
    for row, numbers in zip(out, lists):
        row[: len(numbers)] = numbers
    return out


def _main_text(prompts: np.ndarray) -> np.ndarray:
    """Which tokens stand outside definitions: bool [n, width]."""
    opening, closing = (prompts == vm.VOCAB.index(token) for token in "{}")
    return (np.cumsum(opening, 1) == np.cumsum(closing, 1)) & ~closing


def free_tokens(family: Family, prompts: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """What may stand in the place of each token, as `Prompts.free`: uint8 [n, width].

    Digits, but for those of earlier assertions, which follow from the others. In the families `WRITTEN_OUT` a number
    keeps its form: all but the last of its digits are 9, the last of several is not 0, nor is one that is negated.
    """
    is_digit = prompts < 10
    free = np.where(is_digit, ANY, FIXED).astype(np.uint8)
    if family.name in WRITTEN_OUT:
        pad = np.full((len(prompts), 2), tokens.PAD, np.uint8)
        next_one, next_two = (np.concatenate([prompts, pad], 1)[:, k : k + prompts.shape[1]] for k in (1, 2))
        before, before_two = (np.concatenate([pad, prompts], 1)[:, 2 - k : 2 - k + prompts.shape[1]] for k in (1, 2))
        plus = vm.VOCAB.index("+")
        continues = is_digit & (next_one == plus) & ((before < 10) | ((before == plus) & (before_two < 10)))
        leads = is_digit & ((next_one < 10) | (continues & (next_two < 10)))
        free[continues | (is_digit & (next_one == vm.VOCAB.index("~")))] = NOT_ZERO
        free[leads] = FIXED
    columns = np.arange(prompts.shape[1])
    ends = np.array([vm.VOCAB.index(token) for token in "<>="], np.uint8)
    for decision in decisions.T:  # from there through the relation
        behind = (columns >= decision[:, None]) & (decision[:, None] >= 0)
        n_ends = np.cumsum(behind & np.isin(prompts, ends), 1)
        free[behind & (n_ends == 0)] = FIXED
    return free
