"""The machine's values: `Int`, `Seq`, `NAN`, their limits and their truth."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_INT = 2**31 - 1  # an Int lies in [-MAX_INT, MAX_INT]
MAX_TAG = 9
MAX_LENGTH = 32  # elements of a Seq


@dataclass(frozen=True, slots=True)
class Int:
    """An integer with a decoration. Raises ValueError for one outside its limits, TypeError for a float."""

    v: int
    """The integer, in [-MAX_INT, MAX_INT]."""
    tag: int = 0
    """The decoration, 0..9; 0: plain."""

    def __post_init__(self) -> None:
        for name in ("v", "tag"):
            if type(getattr(self, name)) is not int:  # numpy's integers and bools become int; a float is refused
                object.__setattr__(self, name, int(operator.index(getattr(self, name))))
        if not -MAX_INT <= self.v <= MAX_INT:
            raise ValueError(f"Int value {self.v} is outside [-{MAX_INT}, {MAX_INT}]; use NAN for what does not fit")
        if not 0 <= self.tag <= MAX_TAG:
            raise ValueError(f"Int tag {self.tag} is outside 0..{MAX_TAG}")

    def __str__(self) -> str:
        return f"{self.v}'{self.tag}" if self.tag else str(self.v)


@dataclass(frozen=True, slots=True)
class Seq:
    """A sequence of at most 32 `Int`s, built from any iterable of `Int` or int; ValueError for a longer one."""

    items: tuple[Int, ...] = ()

    def __post_init__(self) -> None:
        items = tuple(item if isinstance(item, Int) else Int(item) for item in self.items)
        if len(items) > MAX_LENGTH:
            raise ValueError(f"a Seq holds at most {MAX_LENGTH} Ints, not {len(items)}")
        object.__setattr__(self, "items", items)

    def __iter__(self) -> Iterator[Int]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Int:
        return self.items[index]

    def __str__(self) -> str:
        return "(" + " ".join(map(str, self.items)) + ")"


class _Nan:
    """Not a number: what an instruction leaves when it has no result. One instance, `NAN`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NAN"

    def __reduce__(self) -> str:
        return "NAN"  # pickled and copied by name, so that it stays one instance


NAN = _Nan()
Value = Int | Seq | _Nan
ValueLike = Value | int | Iterable[int | Int]
"""What `as_value` converts."""


def truth(value: Value) -> bool:
    """Truth of a value: an Int that is not 0; a Seq that is not empty and holds no 0; never NAN."""
    if isinstance(value, Int):
        return value.v != 0
    if isinstance(value, Seq):
        return len(value) > 0 and all(item.v != 0 for item in value)
    return False


def as_value(value: ValueLike) -> Value:
    """`value` as a machine value: an int becomes a plain Int, an iterable of integers a Seq."""
    if isinstance(value, (Int, Seq, _Nan)):
        return value
    if isinstance(value, Iterable):
        return Seq(tuple(item if isinstance(item, Int) else Int(item) for item in value))
    return Int(value)


def all_true(values: Iterable[Value]) -> bool:
    """Whether there are one or more values, all of them true."""
    values = tuple(values)
    return bool(values) and all(map(truth, values))
