"""The tokens at which the machine has a variable's value in a role: where a register is stored, loaded, used.

A state lives at tokens that the machine names (`cadmus.states.provenance`, whose roles these are). Of a register's
variables they are the tokens where the register is stored, where it is held until its last load (`between`), where it
is loaded, and where an instruction takes a copy of what it holds (`consumed`); of a stack entry's those where that
entry arose, was loaded, or is taken. What an instruction takes is no longer there after it: a stack entry that is
`consumed`, and a version of a register that is `overwritten`, are read as they were before the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from cadmus.machine import tokens, vm
from cadmus.states import provenance
from cadmus.states.provenance import ROLES
from probes.data.targets import Target, Targets

_REGISTER_ROLES = ("stored", "between", "loaded", "consumed")
_STACK_ROLES = ("arose", "loaded", "consumed")
_OF_A_COPY = ("loaded", "consumed")  # roles in which the value of a register lies on the stack


def usual(variable: str | object) -> tuple[str, ...]:
    """The roles in which a register's or a stack entry's variable is of interest; none of other variables."""
    kind = variable.partition(".")[0] if isinstance(variable, str) else ""
    return {"reg": _REGISTER_ROLES, "stack": _STACK_ROLES}.get(kind, ())


def check(roles: Sequence[str]) -> None:
    """Raise ValueError for what is no role."""
    for role in tokens.text_list(roles, "roles"):
        if role not in ROLES:
            raise ValueError(f"role {role!r} is unknown; there are {', '.join(ROLES)}")


def label_offset(target: Target) -> int:
    """How many tokens ahead of its own offset a target's label lies: -1 where the token takes what is read."""
    name = target.variable if isinstance(target.variable, str) else ""
    taken = {"consumed": "stack.", "overwritten": "reg."}.get(target.where)
    return -1 if taken and name.startswith(taken) else 0


class RoleTokens:
    """The tokens of some programs, uint8 [n, width], by role; their provenance is computed once, when it is needed."""

    def __init__(self, programs: np.ndarray):
        self.programs = programs

    def __repr__(self) -> str:
        return f"RoleTokens({len(self.programs):,} programs)"

    def of(self, target: Target) -> np.ndarray:
        """Where a target's variable has the role `target.where`: bool [n, 1 + width], at the model's positions.

        Of a variable that is neither a register's nor a stack entry's, where any value has that role. Raises ValueError
        for an unknown role.
        """
        check([target.where])
        rows = self._occurrences.role == ROLES.index(target.where)
        place = _place(target.variable)
        if place >= provenance.N_REGISTERS or (place >= 0 and target.where not in _OF_A_COPY):
            rows &= self._occurrences.place == place
        elif place >= 0:
            rows = self._copies_of(place, np.flatnonzero(rows))
        where = np.zeros((len(self.programs), self.programs.shape[1] + 1), np.bool_)
        where[self._occurrences.program[rows], self._occurrences.token[rows] + 1] = True
        return where

    @cached_property
    def _provenance(self) -> provenance.Provenance:
        return provenance.provenance(self.programs)

    @property
    def _occurrences(self) -> provenance.Occurrences:
        return self._provenance.occurrences

    def _copies_of(self, register: int, rows: np.ndarray) -> np.ndarray:
        """Those rows (int [rows]) of the occurrences whose value the register holds after the token; at a load the
        letter says which register is meant, where two hold the same value."""
        occurrences, versions = self._provenance.occurrences, self._provenance.versions
        stores = np.flatnonzero(versions.register == register)
        width = self.programs.shape[1] + 1
        times = versions.program[stores].astype(np.int64) * width + versions.token[stores]
        order = np.argsort(times, kind="stable")
        program, token = occurrences.program[rows].astype(np.int64), occurrences.token[rows]
        last = np.searchsorted(times[order], program * width + token, "right") - 1  # store up to the token, in order
        store = stores[order][last.clip(min=0)] if len(stores) else np.zeros(len(rows), np.int64)
        stored = (last >= 0) & bool(len(stores))
        stored[stored] &= versions.program[store[stored]] == program[stored]
        stored[stored] &= versions.value[store[stored]] == occurrences.value[rows[stored]]
        letters = tokens.encode(["".join(vm.REGISTERS)])[0, : provenance.N_REGISTERS]
        letter = self.programs[program, token]
        return rows[stored & ~(np.isin(letter, letters) & (letter != letters[register]))]


def require(programs: np.ndarray, targets: Sequence[Target]) -> None:
    """Raise ValueError for a target whose role none of the programs, uint8 [n, width], has."""
    targets = Targets(targets)
    roles = RoleTokens(programs)
    for target in targets:
        if target.where and not roles.of(target).any():
            there = [role for role in ROLES if roles.of(replace(target, where=role)).any()]
            raise ValueError(
                f"no program has {target.name} in the role {target.where!r}; its roles in these programs: "
                f"{', '.join(there) or 'none'}"
            )


def _place(variable: str | object) -> int:
    """The code of a variable's place (`provenance.place_name`): -1 where it has none."""
    parts = variable.split(".") if isinstance(variable, str) else []
    if len(parts) > 1 and parts[0] == "reg":
        return vm.REGISTERS.index(parts[1])
    if len(parts) > 1 and parts[0] == "stack":
        return provenance.N_REGISTERS + int(parts[1])
    return -1
