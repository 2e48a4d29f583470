"""TOML tables as dataclasses: every name known, every value of its field's type, errors of one line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def parse_toml(text: str, source: str, make: Callable[[dict[str, Any]], T]) -> T:
    """What `make` makes of the tables in a TOML text.

    Raises ValueError, which begins with `source` (a file, or a name that ships), for malformed TOML and for whatever
    `make` refuses with one.
    """
    try:
        return make(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source} is not TOML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def from_table(cls: type[T], table: dict[str, Any], owner: str, word: str = "field", suggest: bool = False) -> T:
    """The dataclass that a table describes, each field that the table lacks at its default.

    Raises ValueError as `field_values` does, and whatever `cls` raises for values out of bounds.
    """
    return cls(**field_values(cls, table, owner, word, suggest))


def field_values(
    cls: type, table: dict[str, Any], owner: str, word: str = "field", suggest: bool = False
) -> dict[str, Any]:
    """The table as keywords of a dataclass.

    Raises ValueError, which begins with `owner`, for what is no table (`check_table`), for a name that is no field
    (`check_names`) and for a value that is not of its field's type (`typed_value`).
    """
    types = field_types(cls)
    check_table(table, owner, types)
    check_names(table, types, owner, word, suggest)
    return {name: typed_value(value, types[name], f"{owner}: {name}") for name, value in table.items()}


def field_types(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields by name, in their order; `int | None` is int, as TOML knows no None."""
    annotations = get_type_hints(cls)
    return {field.name: _without_none(annotations[field.name]) for field in fields(cls)}


def check_table(value: Any, owner: str, names: Iterable[str]) -> None:
    """ValueError for a value that is no table; it lists the names that the table may have."""
    if not isinstance(value, dict):
        raise ValueError(f"{owner} = {value!r} must be a table with {', '.join(names)}")


def check_names(
    table: Iterable[str], names: Iterable[str], owner: str, word: str = "field", suggest: bool = False
) -> None:
    """ValueError for a name in the table that is not one of `names`: it lists them all, and with `suggest` the one that
    may have been meant. `word` says what the names are: fields, knobs, ..."""
    names = tuple(names)
    for name in table:
        if name not in names:
            hint = did_you_mean(name, names) if suggest else ""
            raise ValueError(f"{owner}: unknown {word} {name!r}{hint}; there are {', '.join(names)}")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error's clause, ` (did you mean 'low'?)`: the most similar of the names; empty where none is."""
    matches = difflib.get_close_matches(name, tuple(names), 1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def typed_value(value: Any, annotation: Any, name: str) -> Any:
    """The TOML value as one of a field's type: a whole number may stand for a float, a list for a tuple.

    Raises ValueError, `NAME = VALUE must be TYPE`, for one of another type; true and false are not numbers.
    """
    if get_origin(annotation) is tuple:
        item = get_args(annotation)[0]
        if isinstance(value, list) and all(_is_of(entry, item) for entry in value):
            return tuple(item(entry) for entry in value)
        raise ValueError(f"{name} = {value!r} must be a list of {item.__name__}")
    if not _is_of(value, annotation):
        raise ValueError(f"{name} = {value!r} must be {annotation.__name__}")
    return annotation(value)


def _is_of(value: Any, kind: type) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (UnionType, Union):
        return next(kind for kind in get_args(annotation) if kind is not NoneType)
    return annotation
