"""What probes are asked to read, and the order in which a measurement keeps it.

A `Target` is a variable, `offset` tokens ahead, of the machine or of an alternative one, perhaps permuted as a control.
`Targets` are all that one measurement reads, and say which of them belong together. A target may be confined to the
tokens at which the machine has a value in one role: where a register is stored, or loaded, say (`probes.data.roles`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np

from cadmus.machine import kernel, tokens
from cadmus.states import variables

Variable = variables.Variable | Callable[[kernel.Traces, np.ndarray], tuple[np.ndarray, np.ndarray]]

TRUE_MACHINE = "true"  # the name of the machine itself, beside alternative ones
_CATEGORIES = (".kind", ".tag", ".live", ".relation", ".sign", ".parity")


def is_category(variable: str) -> bool:
    """Whether a variable's values are classes without an order: its probe is a classifier. The others are numbers."""
    base, _, last = variable.rpartition(".")
    digits = last.startswith(("mod", "digit")) and last[-1:].isdigit()
    return variable == "all_true" or variable.endswith(_CATEGORIES) or bool(base and digits)


def read(traces: kernel.Traces, programs: np.ndarray, variable: str | Variable, *, offset: int = 0) -> variables.Labels:
    """`cadmus.states.variables.read`, of functions too that take the programs, uint8 [n, length], beside the traces."""
    if isinstance(variable, str) or not _takes_programs(variable):
        return variables.read(traces, variable, offset=offset)  # type: ignore[arg-type]

    @functools.wraps(variable)
    def of_traces(traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
        return variable(traces, programs)  # type: ignore[call-arg]

    return variables.read(traces, of_traces, offset=offset)


def _takes_programs(variable: Variable) -> bool:
    """Whether a function must be called with two arguments."""
    try:
        parameters = inspect.signature(variable).parameters.values()
    except ValueError:  # a function without a signature, written in C
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters) == 2


@dataclass(frozen=True)
class Target:
    """What one probe reads: a variable of the state `offset` tokens ahead."""

    variable: str | Variable
    """A name, or a function of the traces, or of the traces and the programs."""

    offset: int = 0
    """Tokens from the current one to the state that is read; below 0 it lies behind."""

    machine: str = TRUE_MACHINE
    """Whose state it is: TRUE_MACHINE, or the name of an alternative machine."""

    permuted: bool = False
    """Whether this is the control task: labels permuted among tokens of equal (token, previous token)."""

    regression: bool = False
    """Whether it is read by regression in place of a classifier over the values."""

    where: str = ""
    """The role (of `cadmus.states.provenance.ROLES`) at whose tokens alone it is fitted and judged; empty: at all."""

    @property
    def name(self) -> str:
        """The variable's name."""
        if isinstance(self.variable, str):
            return self.variable
        return getattr(self.variable, "__name__", type(self.variable).__name__)

    @property
    def number(self) -> bool:
        """Whether the values are integers with an order, of which a regression makes sense.

        A function's values are, unless it has an attribute `category` that is true.
        """
        if isinstance(self.variable, str):
            return not is_category(self.variable)
        return not getattr(self.variable, "category", False)

    @property
    def determined(self) -> bool:
        """Whether the tokens so far determine it: the ceiling of its score is 1."""
        return self.offset <= 0 and not (isinstance(self.variable, str) and variables.depends_on_future(self.variable))


def _target(target: Target | str | Variable) -> Target:
    if isinstance(target, Target):
        return target
    if not isinstance(target, str) and not callable(target):
        raise ValueError(f"target {target!r} is none: give a variable's name, a function of the traces, or a Target")
    return Target(target)


class Targets(Sequence[Target]):
    """The targets of one measurement, in order: every array [targets] of it, and of its labels, is in this order.

    A variable's name, or a function, stands for the `Target` that reads it. Raises ValueError for one target in place
    of a list, and for what is none; `argument` is what the list is called where it was given.
    """

    def __init__(self, targets: Iterable[Target | str | Variable], argument: str = "targets"):
        if isinstance(targets, str):
            tokens.text_list(targets, argument)  # ValueError
        if isinstance(targets, Target) or callable(targets):
            message = f"{argument}: one target is given, {targets!r}, where a list is expected; pass [{targets!r}]"
            raise ValueError(message)
        self._targets = tuple(_target(target) for target in targets)
        self._index: dict[Target, int] = {}
        for k, target in enumerate(self._targets):
            self._index.setdefault(target, k)

    @overload
    def __getitem__(self, index: int) -> Target: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray) -> Targets: ...

    def __getitem__(self, index: int | slice | np.ndarray) -> Target | Targets:
        """One target; or those of a slice, of an array of indices, or of a bool mask [targets]."""
        if isinstance(index, slice):
            return Targets(self._targets[index])
        if isinstance(index, np.ndarray):
            return Targets(self._targets[k] for k in np.arange(len(self))[index])
        return self._targets[index]

    def __len__(self) -> int:
        return len(self._targets)

    def __contains__(self, target: object) -> bool:
        return target in self._index

    def __repr__(self) -> str:
        alternatives = f", {len(self.machines)} alternative machines" if self.machines else ""
        return f"Targets({len(self)}: {len(self.own)} of the machine{alternatives})"

    def index(self, target: Target, start: int = 0, stop: int | None = None) -> int:
        """The index of a target. Raises ValueError where it is not among these."""
        k = self._index.get(target, -1)
        if k < start or (stop is not None and k >= stop):
            raise ValueError(f"{target} is none of the {len(self)} targets")
        return k

    @cached_property
    def own(self) -> np.ndarray:
        """The indices of the machine's own targets, no controls and no alternative machines': int64 [own]."""
        return self._indices(lambda target: target.machine == TRUE_MACHINE and not target.permuted)

    @cached_property
    def own_states(self) -> np.ndarray:
        """The indices of the machine's present states that classifiers read at all tokens, real and permuted: int64
        [states]."""
        return self._indices(lambda t: (t.offset, t.machine, t.regression, t.where) == (0, TRUE_MACHINE, False, ""))

    @cached_property
    def main(self) -> np.ndarray:
        """The indices of the machine's own that claims are made of: those that a classifier reads, and numbers that a
        regression alone does; int64 [main]."""
        return np.array(
            [k for k in self.own if not self[k].regression or replace(self[k], regression=False) not in self], np.int64
        )

    @cached_property
    def machines(self) -> tuple[str, ...]:
        """The names of the alternative machines, in the order in which they appear."""
        names = dict.fromkeys(target.machine for target in self._targets)
        return tuple(name for name in names if name != TRUE_MACHINE)

    def control_of(self, k: int) -> int | None:
        """The index of the control task of target k: the same labels, permuted. None where it is not among these."""
        return self._index.get(replace(self[k], permuted=True))

    def on_machine(self, k: int, name: str) -> int | None:
        """The index of target k on another machine. None where it is not among these."""
        return self._index.get(replace(self[k], machine=name))

    @cached_property
    def counterparts(self) -> np.ndarray:
        """The index of the true machine's plain target for each, or its own index where there is none: int64
        [targets]."""
        plain = [replace(target, machine=TRUE_MACHINE, permuted=False) for target in self._targets]
        return np.array([self._index.get(target, k) for k, target in enumerate(plain)], np.int64)

    def _indices(self, matches: Callable[[Target], bool]) -> np.ndarray:
        return np.array([k for k, target in enumerate(self._targets) if matches(target)], np.int64)
