"""What probes are fitted and judged on: programs that the model never saw, the tokens probed, and their labels.

An `Examples` holds the programs with all that a token belongs to; `labelled` gives the values of `Target`s at its
tokens, permuted where a target is a control.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cadmus.corpora import held_out
from cadmus.corpora.shards import stack_programs
from cadmus.machine import kernel, tokens, vm
from cadmus.programs.mixture import Mixture
from cadmus.runtime.seeds import generator
from cadmus.states import hindsight, variables
from probes.data.folds import FOLDS, skeleton_folds, skeleton_ids
from probes.data.permuted import control_labels
from probes.data.roles import RoleTokens, label_offset
from probes.data.targets import TRUE_MACHINE, Target, Targets, Variable, read

MIN_PROGRAMS = 30  # of a family that is drawn
_CHUNK = 4096  # programs whose labels are held at once


@dataclass(frozen=True, repr=False)
class Examples:
    """Programs, all different, with everything that a token of theirs belongs to."""

    programs: np.ndarray
    """uint8 [n, width]."""

    families: tuple[str, ...]
    """The names of the families."""

    family: np.ndarray
    """The family of each program, an index into `families`: uint8 [n]."""

    skeletons: np.ndarray
    """The number of each program's skeleton: uint64 [n]."""

    folds: np.ndarray
    """The fold of each program, an index into `FOLDS`: uint8 [n]."""

    where: np.ndarray
    """The tokens that are probed, those of a program through its own `.`, but none whose state depends on definitions
    still to come: bool [n, 1 + width]."""

    @classmethod
    def of(cls, programs: np.ndarray, families: Sequence[str] = ("",), family: np.ndarray | None = None) -> Examples:
        """Make examples of programs of one's own, uint8 [n, width].

        Raises ValueError where they are not such an array, and for fewer than three skeletons.
        """
        families = tuple(tokens.text_list(families, "families"))
        tokens.check(programs)
        inside = np.arange(programs.shape[1] + 1) <= tokens.lengths(programs)[:, None] + 1
        inside[:, 0] = False
        return cls(
            programs,
            families,
            np.zeros(len(programs), np.uint8) if family is None else family,
            skeleton_ids(programs),
            skeleton_folds(programs),
            inside & ~hindsight.undetermined(programs),
        )

    @cached_property
    def sequences(self) -> np.ndarray:
        """What the model reads: uint8 [n, 1 + width]."""
        return tokens.sequences(self.programs)

    def __len__(self) -> int:
        return len(self.programs)

    def __repr__(self) -> str:
        families = ", ".join(filter(None, self.families)) or "one family"
        return f"Examples({len(self):,} programs of {families}; {int(self.where.sum()):,} tokens)"

    def __getitem__(self, index: np.ndarray | slice) -> Examples:
        """The programs of a slice, an array of indices or a mask."""
        return Examples(
            self.programs[index],
            self.families,
            self.family[index],
            self.skeletons[index],
            self.folds[index],
            self.where[index],
        )

    def fold(self, *names: str) -> Examples:
        """The programs of these folds (of `FOLDS`)."""
        return self[np.isin(self.folds, [FOLDS.index(name) for name in names])]

    def chunks(self) -> Iterator[Examples]:
        """Yield all of it, a few thousand programs at a time."""
        for begin in range(0, len(self), _CHUNK):
            yield self[begin : begin + _CHUNK]


def draw(mixture: Mixture, n: int, seed: int = 0, *, families: Sequence[str] = ()) -> Examples:
    """Draw about `n` programs of a mixture, of skeletons that no training saw.

    Each family has its share of the mixture, and `MIN_PROGRAMS` at least. families: the names of those that are drawn,
    by default all. Raises ValueError for an unknown family, for one that has too few such programs, and for no `n`.
    """
    families = tokens.text_list(families, "families")
    if n < 1:
        raise ValueError(f"{n} programs are asked for; give 1 or more")
    for name in families:
        mixture.family(name)  # ValueError for an unknown one
    members = [family for family in mixture.families if not families or family.name in families]
    shares = {family.name: share for family, share in zip(mixture.families, mixture.shares, strict=True)}
    total = sum(shares[family.name] for family in members)
    parts = []
    for member in members:
        size = max(MIN_PROGRAMS, round(n * shares[member.name] / total))
        parts.append(held_out.held_out(member, "test_skeleton", size, seed, mixture.hold_out))
    programs = stack_programs(parts)
    family = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    _, distinct = np.unique(programs, axis=0, return_index=True)  # two families may have a program in common
    order = generator("examples", seed).permutation(np.sort(distinct))
    return Examples.of(programs[order], tuple(member.name for member in members), family[order].astype(np.uint8))


# --- labels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Labelled:
    """The labels of some examples at the tokens that are probed, row by row.

    Targets that are defined at the same tokens share a mask: `mask` and `at` have a column for each target all the
    same.
    """

    targets: Targets
    """What the columns are labels of."""

    where: np.ndarray
    """The tokens of the rows, in the order of `np.nonzero`: bool [n, positions]."""

    values: np.ndarray
    """int32 [tokens, targets], 0 where the target is not defined."""

    masks: np.ndarray
    """Where the targets of each mask are defined: bool [tokens, masks]."""

    mask_of: np.ndarray
    """The mask of each target: int64 [targets]."""

    outside: np.ndarray
    """Tokens left out because |value| > 99: int64 [targets]."""

    traces: kernel.Traces
    """The states of the machine itself, of which breakdowns are made."""

    def __repr__(self) -> str:
        return f"Labelled({len(self.values):,} tokens, {len(self.targets)} targets)"

    @cached_property
    def mask(self) -> np.ndarray:
        """Where each target is defined: bool [tokens, targets]."""
        return self.masks[:, self.mask_of]

    def at(self, programs: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(values, mask), both [rows, targets], of tokens among those that `where` names."""
        rows = self.rows_at(programs, positions)
        return self.values[rows], self.masks[rows][:, self.mask_of]

    def rows_at(self, programs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The rows of tokens among those that `where` names: int64 [rows]."""
        return self._row[programs, positions]

    @cached_property
    def _row(self) -> np.ndarray:
        """The row of each token that `where` names: int64 [n, positions]."""
        return self.where.cumsum().reshape(self.where.shape) - 1

    def of(self, target: int) -> tuple[np.ndarray, np.ndarray]:
        """(values, mask) of one target, both [n, positions]; nothing is defined where nothing is probed."""
        values = np.zeros(self.where.shape, np.int32)
        mask = np.zeros(self.where.shape, np.bool_)
        values[self.where] = self.values[:, target]
        mask[self.where] = self.masks[:, self.mask_of[target]]
        return values, mask

    def value_table(self) -> np.ndarray:
        """Which of the values -99..99 each target takes: bool [targets, 199]."""
        table = np.zeros((len(self.targets), 2 * variables.MAX_ABS_VALUE + 1), np.bool_)
        for k, mask in enumerate(self.mask_of):
            table[k, self.values[self.masks[:, mask], k] + variables.MAX_ABS_VALUE] = True
        return table


def labelled(
    examples: Examples,
    targets: Sequence[Target | str | Variable],
    machines: Mapping[str, vm.Semantics | None] | None = None,
    seed: int = 0,
) -> Labelled:
    """Label every token that `examples.where` names.

    Args:
        examples: The programs; their labels are all held at once.
        targets: What the labels are of, in the order of their columns.
        machines: Semantics by name, for targets of machines other than TRUE_MACHINE.
        seed: Of the permutations of control tasks.

    Returns:
        Values and masks [tokens, targets], and the traces that they were read from.

    Raises:
        ValueError: For a machine that is not among `machines`, for an unknown role, and as `variables.read` raises it.
    """
    targets = targets if isinstance(targets, Targets) else Targets(targets)
    semantics = {TRUE_MACHINE: None, **(machines or {})}
    for name in targets.machines:
        if name not in semantics:
            raise ValueError(f"machine {name!r} is none of {', '.join(semantics)}; pass its semantics in machines=")
    names = (TRUE_MACHINE, *targets.machines)
    traces = {name: kernel.traces(examples.programs, semantics[name]) for name in names}
    roles = RoleTokens(examples.programs)
    columns: dict[tuple, tuple[np.ndarray, np.ndarray, int]] = {}  # a permuted target reads what the plain one does
    mask_numbers: dict[object, int] = {}
    values: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    mask_of: list[int] = []
    outside: list[int] = []
    for target in targets:
        key = (target.machine, target.variable, target.offset, target.where)
        if key not in columns:
            columns[key] = _column(traces[target.machine], target, examples, roles)
        column, mask, n_outside = columns[key]
        mask_key = "every token" if _has_label_everywhere(target) else key
        if mask_key not in mask_numbers:
            mask_numbers[mask_key] = len(masks)
            masks.append(mask)
        values.append(_permuted(column, mask, examples, seed) if target.permuted else column)
        mask_of.append(mask_numbers[mask_key])
        outside.append(n_outside)
    return Labelled(
        targets,
        examples.where,
        np.stack(values, 1),
        np.stack(masks, 1),
        np.array(mask_of, np.int64),
        np.array(outside, np.int64),
        traces[TRUE_MACHINE],
    )


def _column(
    traces: kernel.Traces, target: Target, examples: Examples, roles: RoleTokens
) -> tuple[np.ndarray, np.ndarray, int]:
    """The values int32 [tokens] of a target, where they are probed bool [tokens], and how many are left out as too
    large. A state ahead lies within the program, its own `.` included."""
    offset = target.offset + label_offset(target)
    states = read(traces, examples.programs, target.variable, offset=offset)
    ahead = np.arange(examples.where.shape[1]) + offset <= tokens.lengths(examples.programs)[:, None] + 1
    defined = states.defined & ahead
    if target.where:
        defined &= roles.of(target)
    values, inside = states.values[examples.where], defined[examples.where]
    mask = inside & (abs(values) <= variables.MAX_ABS_VALUE)
    return np.where(mask, values, 0).astype(np.int32), mask, int(inside.sum() - mask.sum())


def _has_label_everywhere(target: Target) -> bool:
    """Whether every token has a label, whatever the program: such targets share a mask."""
    if not isinstance(target.variable, str) or target.offset or target.where:
        return False
    return target.variable.endswith(("all_true", ".kind", ".live"))


def _permuted(values: np.ndarray, mask: np.ndarray, examples: Examples, seed: int) -> np.ndarray:
    """Values [tokens] permuted among the tokens of the mask [tokens] that have the same token and previous token."""
    sequences = examples.sequences
    previous = np.concatenate([sequences[:, :1], sequences[:, :-1]], 1)
    permuted = np.zeros_like(values)
    permuted[mask] = control_labels(values[mask], sequences[examples.where][mask], previous[examples.where][mask], seed)
    return permuted
