"""Tables as commands print them: text with aligned columns, or, with --json, JSON and nothing else."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

from analyses.commands.terminal import print_rows

_MISSING = ("NAType", "NaTType")  # pandas's

Json = Annotated[
    bool, typer.Option("--json", help="Print the table as JSON, a list with an object for each row, and nothing else.")
]


def print_table(rows: Sequence[tuple[str, ...]], records: Iterable[Mapping[str, Any]], as_json: bool) -> None:
    """Print a table: `rows` of text, the first its head, or as JSON the `records`, whose values are not rounded."""
    if as_json:
        print(to_json(records))
    else:
        print_rows(rows)


def print_beside(text: str, as_json: bool) -> None:
    """Print what stands beside a table, where a file lies for instance: on standard error beside JSON."""
    print(text, file=sys.stderr if as_json else sys.stdout)


def to_json(records: Iterable[Mapping[str, Any]]) -> str:
    """JSON of rows: a list with an object for each, a row per line. What is missing is null, and so is a number that is
    not finite."""
    lines = [json.dumps(_plain(dict(record)), ensure_ascii=False, allow_nan=False) for record in records]
    return "[" + ",\n ".join(lines) + "]"


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, str | bool) or value is None:
        return value
    if hasattr(value, "tolist"):  # of numpy
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if type(value).__name__ in _MISSING else str(value)
