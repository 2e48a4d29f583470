"""The variables that pairs are made for, and which value occurrences of a program they name.

`VARIABLES` is a table: a variable, the families that have it, and the occurrences that it names, in the words of
`cadmus.states.provenance`. To add one, add a row, or hand a `PairVariable` to `counterfactuals.draw`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from cadmus.machine import kernel, vm
from cadmus.runtime.tables import did_you_mean
from cadmus.states.provenance import EDGE_KINDS, ROLES, Provenance, place_name, provenance

_OPERATORS = "+-*/%xn"


@dataclass(frozen=True)
class Occurrence:
    """Which occurrences of values a variable names."""

    role: str
    """A role of `cadmus.states.provenance`: "stored", "consumed", "decision", ..."""
    place: str
    """Where the value lies in that role: `reg.R` or `stack.K`."""
    taken_by: str = ""
    """The tokens at which it has the role; empty: any."""


@dataclass(frozen=True)
class PairVariable:
    """A variable of pairs: values that lie in one of these occurrences, and on which the answer depends."""

    name: str
    """What the tables call it."""
    families: tuple[str, ...]
    """The families whose programs have it."""
    occurrences: tuple[Occurrence, ...]
    """The occurrences that it names; a value counts where it has one of them."""
    reads: int = 1
    """How many stack entries the families' answer is a function of: 1 for the number on top, 2 for a relation."""
    in_range: bool = True
    """Whether the families hold the variable's values in their [low, high]; intermediate results may lie outside."""


def _register(name: str) -> PairVariable:
    return PairVariable(f"reg.{name}", ("register",), (Occurrence("stored", f"reg.{name}"),))


def _operand(k: int) -> PairVariable:
    operand = Occurrence("consumed", f"stack.{k}", _OPERATORS)
    return PairVariable(f"stack.{k}", ("stack", "arith"), (operand,), in_range=False)


VARIABLES: dict[str, PairVariable] = {
    variable.name: variable
    for variable in (
        *map(_register, vm.REGISTERS),
        # any of the registers
        PairVariable("reg", ("register",), tuple(Occurrence("stored", f"reg.{name}") for name in vm.REGISTERS)),
        # an operand, named where an operator takes it: from the top, or the one beneath
        _operand(0),
        _operand(1),
        PairVariable("compare.first", ("compare",), (Occurrence("decision", "stack.1"),), reads=2),
        PairVariable("compare.second", ("compare",), (Occurrence("decision", "stack.0"),), reads=2),
        # an element, appended and read later, or the number that is read
        PairVariable(
            "sequence", ("sequence",), (Occurrence("consumed", "stack.0", ","), Occurrence("decision", "stack.0"))
        ),
        # what a call is given
        PairVariable("argument", ("subroutine",), (Occurrence("consumed", "stack.0", "fgh"),), reads=2),
    )
}


def resolve_variable(variable: str | PairVariable) -> PairVariable:
    """The variable of that name, or the one that is given. Raises ValueError for an unknown name."""
    if isinstance(variable, PairVariable):
        return variable
    if variable not in VARIABLES:
        hint = did_you_mean(variable, VARIABLES)
        raise ValueError(
            f"unknown variable {variable!r}{hint}; there are {', '.join(VARIABLES)}: add a row to "
            "counterfactuals.VARIABLES, or pass a PairVariable"
        )
    return VARIABLES[variable]


# --- the values that it names ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flow:
    """Which values instructions of the main text take; the elements of a sequence count as taken with it.

    A token of a program is the number program * width + token.
    """

    width: int
    """Of the programs."""
    arose: np.ndarray
    """int64 [values]: the token at which each value arose."""
    taken: np.ndarray
    """int64 [m]: a value that a token takes."""
    queries: np.ndarray
    """int64 [m]: that token, ascending."""

    def reaching(self, decides: np.ndarray) -> np.ndarray:
        """Which values are among those that decide, bool [values], or flow into one: bool [values]."""
        reaching = decides.copy()
        n_before = -1
        while n_before < reaching.sum():
            n_before = int(reaching.sum())
            reaching[self.taken[np.isin(self.queries, self.arose[reaching])]] = True
        return reaching

    def ancestors(self, program: int, token: int) -> Iterator[int]:
        """`token`, and the tokens of its program at which what it took arose, and what that was made of, and so on."""
        offset = program * self.width
        seen, waiting = {token}, [token]
        while waiting:
            current = waiting.pop()
            yield current
            low, high = np.searchsorted(self.queries, [offset + current, offset + current + 1])
            for earlier in (self.arose[self.taken[low:high]] - offset).tolist():
                if earlier not in seen:
                    seen.add(earlier)
                    waiting.append(earlier)


@dataclass(frozen=True)
class NamedValues:
    """Values that a variable names, one row each, by prompt and then by where they arose."""

    prompt: np.ndarray
    """int64 [m]: the row of the prompt."""
    value: np.ndarray
    """int64 [m]: the value's number in the prompt's provenance."""
    arose: np.ndarray
    """int64 [m]: the token after which it lay on top of the stack first."""
    v: np.ndarray
    """int64 [m]: the Int that it is."""
    literal: np.ndarray
    """bool [m]: whether a digit made it."""
    is_top: np.ndarray
    """bool [m]: whether it lies on top of the stack at the cut, so that the answer is about nothing else."""
    row: np.ndarray
    """int64 [m]: its row in the provenance's values."""
    flow: Flow
    """What the prompts' values are computed from."""

    def __len__(self) -> int:
        return len(self.prompt)

    def __getitem__(self, rows: np.ndarray) -> NamedValues:
        """Some of the rows."""
        columns = {column.name: getattr(self, column.name) for column in fields(self) if column.name != "flow"}
        return NamedValues(**{name: column[rows] for name, column in columns.items()}, flow=self.flow)

    def makers(self) -> np.ndarray:
        """The tokens at which each value, and all that it was computed from, arose: bool [m, width]."""
        out = np.zeros((len(self), self.flow.width), np.bool_)
        for made_at, prompt, arose in zip(out, self.prompt.tolist(), self.arose.tolist()):
            for token in self.flow.ancestors(prompt, arose):
                made_at[token] = True
        return out


def one_of_each(owners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One row of each owner, drawn: int64 [different owners], ascending; owners int [n]."""
    order = rng.permutation(len(owners))
    _, first = np.unique(owners[order], return_index=True)
    return np.sort(order[first])


def named_values(variable: PairVariable, prompts: np.ndarray, cuts: np.ndarray) -> NamedValues:
    """The values that the variable names in prompts uint8 [n, width] with cuts int [n], and that reach the decision.

    Only plain Ints (of tag 0) count. That the answer does depend on a value that reaches the decision is left to try.
    """
    graph = provenance(prompts, cuts)
    values, rows = graph.values, graph.occurrences
    first = np.searchsorted(values.program, np.arange(len(prompts)))  # of each program's values
    row_of = first[rows.program] + rows.value  # [occurrences], rows of `values`
    is_plain = (values.kind == kernel.INT_KIND) & (values.tag == 0)
    candidates = np.zeros(len(values), np.bool_)
    for occurrence in variable.occurrences:
        candidates[row_of[_matches(occurrence, graph, prompts)]] = True
    at_cut = rows.role == ROLES.index("decision")
    decides = np.zeros(len(values), np.bool_)
    decides[row_of[at_cut & _is_place(rows.place, *(f"stack.{k}" for k in range(variable.reads)))]] = True
    tops = np.zeros(len(values), np.bool_)
    tops[row_of[at_cut & _is_place(rows.place, "stack.0")]] = True
    flow = _flow(graph, first, prompts.shape[1])
    candidates &= is_plain & flow.reaching(decides)
    arose = np.flatnonzero((rows.role == ROLES.index("arose")) & _is_place(rows.place, "stack.0"))
    arose = arose[candidates[row_of[arose]]]
    own = row_of[arose]
    return NamedValues(
        rows.program[arose].astype(np.int64),
        rows.value[arose].astype(np.int64),
        rows.edit_at[arose].astype(np.int64),
        values.v[own].astype(np.int64),
        values.literal[own],
        tops[own],
        own,
        flow,
    )


def _matches(occurrence: Occurrence, graph: Provenance, prompts: np.ndarray) -> np.ndarray:
    """Which of the graph's occurrences are those that `occurrence` names: bool [occurrences]."""
    rows = graph.occurrences
    matching = (rows.role == ROLES.index(occurrence.role)) & _is_place(rows.place, occurrence.place)
    if occurrence.taken_by:
        allowed = np.array([vm.VOCAB.index(token) for token in occurrence.taken_by], np.uint8)
        matching &= np.isin(prompts[rows.program, rows.token], allowed)
    return matching


def _is_place(places: np.ndarray, *names: str) -> np.ndarray:
    """Which codes are those of the named places: bool, shaped as `places`."""
    codes = [code for code in range(int(places.max(initial=0)) + 1) if place_name(code) in names]
    return np.isin(places, codes)


def _flow(graph: Provenance, first: np.ndarray, width: int) -> Flow:
    """The flow of a provenance; first int [n]: of each program's values."""
    values, edges = graph.values, graph.edges
    taken = np.flatnonzero(edges.kind == EDGE_KINDS.index("operand_origin"))
    queries = edges.program[taken].astype(np.int64) * width + edges.query[taken]
    order = np.argsort(queries, kind="stable")
    rows = (first[edges.program[taken]] + edges.value[taken])[order]
    return Flow(width, values.program.astype(np.int64) * width + values.arose, rows, queries[order])
