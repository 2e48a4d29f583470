"""What probes are fitted and judged on: programs that the model never saw, the tokens probed, and their labels.

An `Examples` holds the programs with all that a token belongs to; `labelled` reads `Target`s - a variable, `offset`
tokens ahead, of the machine or of an alternative one, perhaps permuted as a control - off a chunk of them.
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

TRUE_MACHINE = "true"  # the name of the machine itself, beside alternative ones
_CHUNK = 4096  # programs whose labels are held at once
_CATEGORIES = (".kind", ".tag", ".live", ".relation", ".sign", ".parity")


def is_category(variable: str) -> bool:
    """Whether a variable's values are classes without an order: its probe is a classifier. The others are numbers."""
    base, _, last = variable.rpartition(".")
    digits = last.startswith(("mod", "digit")) and last[-1:].isdigit()
    return variable == "all_true" or variable.endswith(_CATEGORIES) or bool(base and digits)


@dataclass(frozen=True)
class Target:
    """What one probe reads: a variable (a name, or a function of the traces) of the state `offset` tokens ahead.

    machine: TRUE, or the name of an alternative machine; permuted: the control task, labels permuted among tokens of
    equal (token, previous token); as_number: read by regression in place of a classifier over the values.
    """

    variable: str | variables.Variable
    offset: int = 0
    machine: str = TRUE_MACHINE
    permuted: bool = False
    as_number: bool = False

    @property
    def name(self) -> str:
        """The variable's."""
        if isinstance(self.variable, str):
            return self.variable
        return getattr(self.variable, "__name__", type(self.variable).__name__)

    @property
    def number(self) -> bool:
        """Whether the values are integers with an order, of which a regression makes sense; a function of one's own
        gives numbers, unless its `category` says True."""
        if isinstance(self.variable, str):
            return not is_category(self.variable)
        return not getattr(self.variable, "category", False)

    @property
    def determined(self) -> bool:
        """Whether the tokens so far determine it: the ceiling of its score is 1."""
        return self.offset <= 0 and not (isinstance(self.variable, str) and variables.depends_on_future(self.variable))


@dataclass(frozen=True)
class Examples:
    """Programs uint8 [n, width] (distinct), each with its family (index into `families`), its skeleton's id and fold;
    `where` bool [n, 1 + width]: the tokens probed, those of a program through its own `.`, but none whose state depends
    on definitions still to come."""

    programs: np.ndarray
    families: tuple[str, ...]
    family: np.ndarray
    skeletons: np.ndarray
    folds: np.ndarray
    where: np.ndarray

    @classmethod
    def of(cls, programs: np.ndarray, families: tuple[str, ...] = ("",), family: np.ndarray | None = None) -> Examples:
        """Of programs of one's own. ValueError where they are no such array, and for fewer than three skeletons."""
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

    def __getitem__(self, index: np.ndarray | slice) -> Examples:
        arrays = (self.family, self.skeletons, self.folds, self.where)
        return Examples(self.programs[index], self.families, *(array[index] for array in arrays))

    def fold(self, *names: str) -> Examples:
        """The programs of these folds (of `FOLDS`)."""
        return self[np.isin(self.folds, [FOLDS.index(name) for name in names])]

    def chunks(self) -> Iterator[Examples]:
        """All of it, a few thousand programs at a time."""
        for begin in range(0, len(self), _CHUNK):
            yield self[begin : begin + _CHUNK]


def draw(mixture: Mixture, n: int, seed: int = 0, *, families: Sequence[str] = ()) -> Examples:
    """About `n` programs of the mixture, of skeletons that no training saw, as many of each family as its weight asks
    for, 30 at least; `families`: only these, by name. Raises ValueError for an unknown family, and for one that has too
    few such programs."""
    chosen = [family for family in mixture.families if not families or family.name in families]
    for name in families:
        mixture.family(name)  # ValueError for an unknown one
    shares = {f.name: s for f, s in zip(mixture.families, mixture.shares, strict=True)}
    total = sum(shares[family.name] for family in chosen)
    parts = []
    for family in chosen:
        wanted = max(30, round(n * shares[family.name] / total))
        parts.append(held_out.held_out(family, "test_skeleton", wanted, seed, mixture.hold_out))
    programs, family = stack_programs(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    _, distinct = np.unique(programs, axis=0, return_index=True)  # two families may have a program in common
    order = generator("examples", seed).permutation(np.sort(distinct))
    return Examples.of(programs[order], tuple(f.name for f in chosen), family[order].astype(np.uint8))


@dataclass(frozen=True)
class Labelled:
    """The labels of some examples at the tokens that `where` names (bool [n, positions]), row by row: values int32
    [tokens, targets], defined bool [tokens, masks], and the mask of each target, mask_of int [targets]. outside
    [targets]: tokens left out because |value| > 99."""

    where: np.ndarray
    values: np.ndarray
    defined: np.ndarray
    mask_of: np.ndarray
    outside: np.ndarray

    def at(self, programs: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(values [rows, targets], defined [rows, masks]) of tokens among those that `where` names."""
        token = self._token[programs, positions]
        return self.values[token], self.defined[token]

    @cached_property
    def _token(self) -> np.ndarray:
        """The number of each token that `where` names: int64 [n, positions]."""
        return self.where.cumsum().reshape(self.where.shape) - 1

    def of(self, target: int) -> tuple[np.ndarray, np.ndarray]:
        """(values, defined) of one target, both [n, positions]; nothing is defined where nothing is probed."""
        values, defined = np.zeros(self.where.shape, np.int32), np.zeros(self.where.shape, np.bool_)
        values[self.where], defined[self.where] = self.values[:, target], self.defined[:, self.mask_of[target]]
        return values, defined

    def taken(self) -> np.ndarray:
        """Which values -99..99 each target takes: bool [targets, 199]."""
        out = np.zeros((len(self.mask_of), 2 * variables.MAX_ABS_VALUE + 1), np.bool_)
        for k, taken in enumerate(out):
            taken[self.values[self.defined[:, self.mask_of[k]], k] + variables.MAX_ABS_VALUE] = True
        return out


def labelled(
    examples: Examples,
    targets: Sequence[Target],
    machines: Mapping[str, vm.Semantics | None] | None = None,
    seed: int = 0,
) -> Labelled:
    """The targets' labels at every token that `examples.where` names. machines: semantics by name, for targets of
    machines other than TRUE. Raises ValueError for a machine that is not among them, and what `variables.read`
    raises."""
    semantics = {TRUE_MACHINE: None, **(machines or {})}
    unknown = [target.machine for target in targets if target.machine not in semantics]
    if unknown:
        raise ValueError(f"machine {unknown[0]!r} is none of {', '.join(semantics)}; pass its semantics in machines=")
    traces = {name: kernel.traces(examples.programs, semantics[name]) for name in {t.machine for t in targets}}
    known: dict[tuple, tuple[np.ndarray, np.ndarray, int]] = {}  # a permuted target reads what the plain one does
    masks: dict[tuple, int] = {}
    values, defined, mask_of, outside = [], [], [], []
    for target in targets:
        key = (target.machine, target.variable, target.offset)
        if key not in known:
            known[key] = _read(traces[target.machine], target, examples)
        chosen, fine, left_out = known[key]
        shared = ("all",) if _always(target) else key
        if shared not in masks:
            masks[shared] = len(defined)
            defined.append(fine)
        values.append(_permuted(chosen, fine, examples, seed) if target.permuted else chosen)
        mask_of.append(masks[shared])
        outside.append(left_out)
    mask_of, outside = np.array(mask_of, np.int64), np.array(outside, np.int64)
    return Labelled(examples.where, np.stack(values, 1), np.stack(defined, 1), mask_of, outside)


def _read(traces: kernel.Traces, target: Target, examples: Examples) -> tuple[np.ndarray, np.ndarray, int]:
    """Values int32 and whether they are probed, both [tokens], and how many are left out as too large. A state ahead
    lies within the program, its own `.` included."""
    found = variables.read(traces, target.variable, offset=target.offset)
    ahead = np.arange(examples.where.shape[1]) + target.offset <= tokens.lengths(examples.programs)[:, None] + 1
    values, inside = found.values[examples.where], (found.defined & ahead)[examples.where]
    fine = inside & (abs(values) <= variables.MAX_ABS_VALUE)
    return np.where(fine, values, 0).astype(np.int32), fine, int(inside.sum() - fine.sum())


def _always(target: Target) -> bool:
    """Whether every token has a label, whatever the program: such targets share a mask."""
    named = isinstance(target.variable, str)
    return named and target.offset == 0 and target.variable.endswith(("all_true", ".kind", ".live"))


def _permuted(values: np.ndarray, defined: np.ndarray, examples: Examples, seed: int) -> np.ndarray:
    sequences = examples.sequences
    previous = np.concatenate([sequences[:, :1], sequences[:, :-1]], 1)
    token, before = (array[examples.where][defined] for array in (sequences, previous))
    out = np.zeros_like(values)
    out[defined] = control_labels(values[defined], token, before, seed)
    return out
