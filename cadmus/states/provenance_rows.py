"""The words of provenance, and its rows for one program; `cadmus.states.provenance` says what each column means."""

from __future__ import annotations

from typing import NamedTuple

ROLES = ("arose", "stored", "between", "loaded", "consumed", "overwritten", "decision")
EDGE_KINDS = (
    "load_origin",
    "load_store",
    "operand",
    "operand_origin",
    "store",
    "shuffle",
    "decision",
    "decision_origin",
)


class ValueRow(NamedTuple):
    """A row of `provenance.Values`, without the program."""

    value: int
    arose: int
    at: int
    literal: bool
    kind: str
    v: int
    tag: int


class OccurrenceRow(NamedTuple):
    """A row of `provenance.Occurrences`, without the program."""

    value: int
    role: str
    token: int
    edit_at: int
    place: str
    version: int
    distance: int


class EdgeRow(NamedTuple):
    """A row of `provenance.Edges`, without the program."""

    value: int
    element: int
    query: int
    key: int
    kind: str
    depth: int
    query_at: int
    key_at: int


class VersionRow(NamedTuple):
    """A row of `provenance.Versions`, without the program."""

    register: str
    version: int
    value: int
    token: int
    at: int
    overwritten: int
    loads: int
    last_load: int


class Graph(NamedTuple):
    """The provenance of one program, as rows."""

    values: list[ValueRow]
    """What was made, where."""
    occurrences: list[OccurrenceRow]
    """Where the values can be edited, and in which role."""
    edges: list[EdgeRow]
    """Between tokens of the main text."""
    body_edges: list[EdgeRow]
    """Of instructions in bodies."""
    versions: list[VersionRow]
    """What the registers held."""
