"""What is kept out of training on purpose: programs by value, by what they are put together from (instruction pairs,
compounds), by length, depth, read distance and registers in use, by skeleton, by what is asked."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cadmus.machine import kernel, tokens, vm
from cadmus.machine.values import MAX_INT
from cadmus.programs import compounds, skeletons, splits
from cadmus.runtime.checks import check_text_lists
from cadmus.states.provenance import EDGE_KINDS, provenance

_RELATIONS = ("<", ">", "=", "=!")
_SEQUENCE_TOKENS = [vm.VOCAB.index(token) for token in "(r"]  # with one of them every sequence begins


@dataclass(frozen=True)
class HoldOut:
    """Rules; a program that any of them holds out never enters a corpus. Empty rules hold out nothing."""

    values: tuple[int, ...] = ()
    """No Int with one of these values is ever on top of the stack of the main text."""

    pairs: tuple[str, ...] = ()
    """None of these two-token texts stands anywhere in the program; `0` means any digit."""

    max_length: int = 0
    """No program has more tokens than this, its `.` not counted; 0: no limit."""

    skeletons: tuple[str, ...] = ()
    """No program has one of these skeletons (digits written as `0`)."""

    compounds: tuple[str, ...] = ()
    """No program has one of these compounds, such as `operand 3+` (`cadmus.programs.compounds`);
    `cadmus.properties.splits` finds such lists."""

    max_depth: int = 0
    """The stack of the main text never has more entries than this; 0: no limit."""

    max_read_distance: int = 0
    """No load of the main text comes more tokens after the store of what it loads; 0: no limit."""

    max_live: int = 0
    """There are never more registers than this whose value a later token loads; 0: no limit."""

    questions: bool = False
    """No program is like one of the split `test_skeleton` but for its last relation, `<`, `>`, `=` or `=!`. Without
    this rule, where `000-00+<` is in that split, its numbers are met in training with the other relations alone, and
    what a model learns of them is never to write `<`. Programs of `test_skeleton` itself, never trained on, are left
    alone, and programs with sequences, of which no family asks another relation than `=`."""

    def __post_init__(self) -> None:
        check_text_lists(self, "pairs", "skeletons", "compounds")
        for value in self.values:
            if abs(value) > MAX_INT:
                raise ValueError(f"hold_out: value {value} is no Int, which lies in -{MAX_INT}..{MAX_INT}")
        for pair in self.pairs:
            if len(pair) != 2 or set(pair) - set(vm.VOCAB.replace(vm.END, "")):
                raise ValueError(f"hold_out: pair {pair!r} must be two instructions")
            if set(pair) & set("123456789"):
                raise ValueError(f"hold_out: pair {pair!r} names a digit; write 0 for any digit")
        for skeleton in self.skeletons:
            if not skeleton or skeleton != skeletons.skeleton(skeleton):
                raise ValueError(
                    f"hold_out: {skeleton!r} is not a skeleton; write every digit as 0 and leave out the ."
                )
        for compound in self.compounds:
            try:
                compounds.code_of(compound)
            except ValueError as error:
                raise ValueError(f"hold_out: {error}") from None
        for name in ("max_length", "max_depth", "max_read_distance", "max_live"):
            if getattr(self, name) < 0:
                raise ValueError(f"hold_out: {name} = {getattr(self, name)} must be 0 (no limit) or more")

    @property
    def rules(self) -> tuple[str, ...]:
        """The names of the rules that hold something out."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))

    def holds_out(self, programs: np.ndarray, rule: str | None = None) -> np.ndarray:
        """Which programs, uint8 [n, width], are held out, by one rule or by any: bool [n]. Raises ValueError for an
        unknown rule."""
        all_rules = [field.name for field in fields(self)]
        if rule is not None and rule not in all_rules:
            raise ValueError(f"unknown rule {rule!r}; there are {', '.join(all_rules)}")
        out = np.zeros(len(programs), np.bool_)
        for name in self.rules:
            if rule in (None, name):
                out |= getattr(self, f"_by_{name}")(programs)
        return out

    def _by_values(self, programs: np.ndarray) -> np.ndarray:
        top = kernel.traces(programs, entries=1).stack[:, :, 0]
        return (np.isin(top.value, self.values) & (top.kind == kernel.INT_KIND)).any(1)

    def _by_pairs(self, programs: np.ndarray) -> np.ndarray:
        forms = skeletons.skeletons(programs)
        out = np.zeros(len(programs), np.bool_)
        for pair in self.pairs:
            first, second = (vm.VOCAB.index(token) for token in pair)
            out |= ((forms[:, :-1] == first) & (forms[:, 1:] == second)).any(1)
        return out

    def _by_max_length(self, programs: np.ndarray) -> np.ndarray:
        return tokens.lengths(programs) > self.max_length

    def _by_skeletons(self, programs: np.ndarray) -> np.ndarray:
        held_out = tokens.hashes(tokens.encode(self.skeletons), "skeleton")
        return np.isin(skeletons.skeleton_hashes(programs, "skeleton"), held_out)

    def _by_compounds(self, programs: np.ndarray) -> np.ndarray:
        return compounds.has_any(programs, compounds.codes_of(self.compounds))

    def _by_max_depth(self, programs: np.ndarray) -> np.ndarray:
        depth: np.ndarray = kernel.traces(programs, entries=1).depth
        return depth.max(1, initial=0) > self.max_depth

    def _by_max_read_distance(self, programs: np.ndarray) -> np.ndarray:
        return _greatest_read_distances(programs) > self.max_read_distance

    def _by_max_live(self, programs: np.ndarray) -> np.ndarray:
        return _most_live_registers(programs) > self.max_live

    def _by_questions(self, programs: np.ndarray) -> np.ndarray:
        asks, stems = _without_relation(programs)
        has_sequence = np.isin(programs, _SEQUENCE_TOKENS).any(1)
        out = np.zeros(len(programs), np.bool_)
        for relation in _RELATIONS:
            out[asks] |= splits.has_test_skeleton(_appended(stems, relation))
        return out & ~has_sequence & ~splits.has_test_skeleton(programs)


def _without_relation(programs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which programs end in a relation, bool [n]; these without it, with room for two tokens, uint8 [m, width + 2]."""
    lengths = tokens.lengths(programs)
    rows = np.arange(len(programs))
    before, last = (programs[rows, np.maximum(lengths - back, 0)] for back in (2, 1))
    negated = (lengths > 1) & (before == vm.VOCAB.index("=")) & (last == vm.VOCAB.index("!"))
    asks = negated | (lengths > 0) & np.isin(last, [vm.VOCAB.index(relation) for relation in "<>="])
    stems = np.pad(programs[asks], ((0, 0), (0, 2)), constant_values=tokens.PAD)
    stem_lengths = (lengths - 1 - negated)[asks]
    stems[np.arange(stems.shape[1]) >= stem_lengths[:, None]] = tokens.PAD
    return asks, stems


def _appended(programs: np.ndarray, text: str) -> np.ndarray:
    """The programs with `text` behind each: uint8 [n, width], which has room for it."""
    out = programs.copy()
    lengths = tokens.lengths(programs)
    for k, token in enumerate(text):
        out[np.arange(len(out)), lengths + k] = vm.VOCAB.index(token)
    return out


def _greatest_read_distances(programs: np.ndarray) -> np.ndarray:
    """How many tokens lie between a load of the main text and the store of what it loads, at most: int32 [n], 0 for a
    program that loads nothing."""
    edges = provenance(programs).edges
    mask = edges.kind == EDGE_KINDS.index("load_store")
    out = np.zeros(len(programs), np.int32)
    np.maximum.at(out, edges.program[mask], (edges.query - edges.key)[mask])
    return out


def _most_live_registers(programs: np.ndarray) -> np.ndarray:
    """How many registers hold a value that is loaded later, at the token where there are most: int64 [n]."""
    versions = provenance(programs).versions
    mask = versions.last_load > versions.token  # live after the tokens from its store to before its last load
    changes = np.zeros((len(programs), programs.shape[1] + 1), np.int64)
    np.add.at(changes, (versions.program[mask], versions.token[mask]), 1)
    np.add.at(changes, (versions.program[mask], versions.last_load[mask]), -1)
    return changes.cumsum(1).max(1, initial=0)
