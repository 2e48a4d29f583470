"""Prompts with other digits, and what editing a prompt's value asks for: all that the sources of pairs are chosen from.

All is decided by the machine, batched: substitutes by running them (`cadmus.machine.kernel`), edits by the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cadmus.machine import kernel, oracle, tokens, vm
from cadmus.programs.parts.family import Family
from probes.interventions.counterfactuals.prompts import (
    FIXED,
    NO_ANSWER,
    NOT_ZERO,
    Answers,
    Prompts,
    entries,
    with_text,
)
from probes.interventions.counterfactuals.variables import PairVariable

_DROP = vm.VOCAB.index(";")
_MOST_ENTRIES = 12  # of a stack, looked at where states are compared


@dataclass(frozen=True)
class Substitutes:
    """Prompts with other digits, arrays over them, by the prompts that they were made of."""

    tokens: np.ndarray
    """uint8 [n, width]."""
    base: np.ndarray
    """int64 [n]: the prompt that each was made of, ascending."""
    v: np.ndarray
    """int64 [n]: the Int that lies where the base has its value."""
    answers: np.ndarray
    """int64 [n]: what each asks for itself, a number of `Answers`."""

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, rows: np.ndarray) -> Substitutes:
        """Some of them."""
        return Substitutes(*(getattr(self, column.name)[rows] for column in fields(self)))


def substitutes(
    prompts: Prompts, free: np.ndarray, count: int, variable: PairVariable, answers: Answers, rng: np.random.Generator
) -> Substitutes:
    """Draw `count` prompts for each, with other digits where `free` uint8 [n, width] allows (as `Prompts.free`).

    Those are kept that are prompts of the family: earlier assertions hold, in the same form, and values lie in its
    range. The base itself may be among them.
    """
    base = np.repeat(np.arange(len(prompts)), count)
    allowed = free[base]
    digits = rng.integers(0, 10, allowed.shape, np.uint8)
    other = rng.integers(1, 10, allowed.shape, np.uint8)
    rows = np.where(allowed == FIXED, prompts.tokens[base], np.where(allowed == NOT_ZERO, other, digits))
    keep = np.flatnonzero(_assert_anew(rows, prompts[base], answers))
    keep = keep[_in_range(rows[keep], prompts[base[keep]], answers)]
    rows, base = rows[keep], base[keep]
    value = entries(rows, prompts.arose[base] + 1, _DROP, 0)
    suits = (value.kind == kernel.INT_KIND) & (value.tag == 0)
    if variable.in_range:
        suits &= within(value, answers.family)
    own = answers.at(rows, prompts.cuts[base])
    return Substitutes(rows, base, value.value.astype(np.int64), own)[suits & (own != NO_ANSWER)]


def _assert_anew(rows: np.ndarray, prompts: Prompts, answers: Answers) -> np.ndarray:
    """Write into rows uint8 [n, width] what earlier assertions must say with other digits; whether that has the form
    that it had in the prompts: bool [n]."""
    valid = np.ones(len(rows), np.bool_)
    for decision in prompts.decisions.T:  # [n]
        present = np.flatnonzero(decision >= 0)
        at = decision[present]
        needed, was = (answers.at(part[present], at) for part in (rows, prompts.tokens))
        table, lengths = answers.table()
        fits = (needed != NO_ANSWER) & (was != NO_ANSWER)
        fits &= _forms(table)[needed] == _forms(table)[was] if len(table) else False
        valid[present[~fits]] = False
        present, at, needed = present[fits], at[fits], needed[fits]
        for k in range(table.shape[1] if len(present) else 0):
            inside = k < lengths[needed]
            rows[present[inside], at[inside] + k] = table[needed[inside], k]
    return valid


def _forms(table: np.ndarray) -> np.ndarray:
    """A number for the skeleton of each text of a table uint8 [m, width]: equal for equal skeletons, int64 [m]."""
    return np.unique(np.where(table < 10, 0, table), axis=0, return_inverse=True)[1].ravel()


def _in_range(rows: np.ndarray, prompts: Prompts, answers: Answers) -> np.ndarray:
    """Whether all that is stored, and what the answer is about, lies in the family's range: bool [n]."""
    valid = np.ones(len(rows), np.bool_)
    for store in prompts.stores.T:  # [n]
        present = np.flatnonzero(store >= 0)
        valid[present] &= within(entries(rows[present], store[present], _DROP, 0), answers.family)
    for k in range(answers.reads):
        valid &= within(entries(rows, prompts.cuts, _DROP, k), answers.family)
    return valid


def within(values: kernel.Values, family: Family) -> np.ndarray:
    """Which values are Ints in the family's [low, high]; a family without one has no bounds. bool, of their shape."""
    low, high = (getattr(family, name, limit) for name, limit in (("low", -vm.MAX_INT), ("high", vm.MAX_INT)))
    return (values.kind == kernel.INT_KIND) & (values.value >= low) & (values.value <= high)


def edited_answers(prompts: Prompts, base: np.ndarray, v: np.ndarray, answers: Answers) -> np.ndarray:
    """What prompt base[i] asks for where its value is v[i] from where it arose on: int64 [m], numbers of `Answers`.

    -1 where the rule has no answer, where none makes the program true (an earlier assertion does not hold any more),
    and where something that is stored or asked for then leaves the family's range.
    """
    distinct, index = np.unique(np.stack([base, v], 1), axis=0, return_inverse=True)
    mine, edits = prompts[distinct[:, 0]], {"stack.0": distinct[:, 1]}
    states = oracle.traces(mine.tokens, mine.arose, edits, entries=answers.reads)
    numbers, top = answers.after_edits(states, mine.cuts)
    written = states.registers
    behind = np.arange(mine.tokens.shape[1]) >= mine.arose[:, None]
    bounded = within(written, answers.family) | (written.kind == kernel.NAN_KIND) | ~behind[:, :, None]
    valid = (numbers != NO_ANSWER) & within(top, answers.family).all(1) & bounded.all((1, 2))
    valid &= makes_true(mine.tokens, mine.cuts, numbers, mine.arose, edits, answers)
    return np.where(valid, numbers, NO_ANSWER)[index.ravel()]


def makes_true(
    prompts: np.ndarray,
    cuts: np.ndarray,
    numbers: np.ndarray,
    at: np.ndarray,
    edits: oracle.EditsLike,
    answers: Answers,
) -> np.ndarray:
    """Whether each prompt uint8 [n, width], its state edited, becomes true with the answer of that number: bool [n]."""
    if not answers.texts:
        return np.zeros(len(prompts), np.bool_)
    completed = with_text(prompts, cuts, answers.table()[0], numbers.clip(0))
    return oracle.continuation_verdicts(completed, cuts, at, edits) & (numbers != NO_ANSWER)


def differ_in_value_alone(rows: Substitutes, prompts: Prompts) -> np.ndarray:
    """Whether the state where the value arose is the base's but for the value, and nothing differs behind: bool [n]."""
    arose = prompts.arose[rows.base]
    columns = np.arange(prompts.tokens.shape[1])
    same_behind = ((rows.tokens == prompts.tokens[rows.base]) | (columns <= arose[:, None])).all(1)
    states = _states(np.concatenate([rows.tokens, prompts.tokens]), np.concatenate([arose, prompts.arose]))
    return same_behind & (states[: len(rows)] == states[len(rows) :][rows.base]).all(1)


def _states(programs: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The state after token after[i] of each program, the top of the stack left out: int64 [n, numbers]."""
    width = int(after.max(initial=0)) + 1
    cut = np.where(np.arange(width) <= after[:, None], programs[:, :width], tokens.PAD)
    lists = bool(
        np.isin(programs, [vm.VOCAB.index(token) for token in "(r"]).any()
    )  # sequences are made of nothing else
    states = kernel.traces(cut, entries=_MOST_ENTRIES, contents=lists)
    at = np.arange(len(programs)), after
    parts = [states.depth[at][:, None]]
    for values in (states.stack[at][:, 1:], states.registers[at]):  # [n, entries]
        parts += [values.kind, values.value, values.tag, values.length]
        if not lists:
            continue
        assert values.offsets is not None
        assert values.elements is not None
        assert values.element_tags is not None
        columns = np.arange(int(values.length.max(initial=0)))
        inside = columns < values.length[:, :, None]  # [n, entries, elements]
        where = np.where(inside, values.offsets[:, :, None] + columns, len(values.elements))
        for contents in (values.elements, values.element_tags):
            parts.append(np.append(contents, 0)[where].reshape(len(programs), -1))
    return np.concatenate([part.astype(np.int64) for part in parts], 1)
