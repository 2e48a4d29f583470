"""Edits of the machine's state: places and values, for one state and, as arrays, for many programs.

A *place* is `reg.a` to `reg.d`, or `stack.K`: the stack's entry K from the top, 0 the top. A value is what
`cadmus.machine.vm` takes: an int, an Int, a Seq or any iterable of integers, NAN. What people use is in
`cadmus.machine.oracle`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cadmus.machine import kernel, vm

_REGISTERS = {f"reg.{name}": code for code, name in enumerate(vm.REGISTERS)}
_STACK = "stack."
_NAN, _INT, _SEQ = 0, 1, 2  # the low two bits of a packed value (`cadmus.machine.compiled`)


def place_code(place: str) -> int:
    """The code of a place: 0 to 3 for the registers, 4 + K for `stack.K`. Raises ValueError for another name."""
    if place in _REGISTERS:
        return _REGISTERS[place]
    entry = place.removeprefix(_STACK) if isinstance(place, str) and place.startswith(_STACK) else ""
    if not (entry.isascii() and entry.isdigit()) or len(entry) > 6:
        raise ValueError(
            f"{place!r} is no place of the machine's state; expected reg.a to reg.d, or stack.K (0: the top)"
        )
    return len(_REGISTERS) + int(entry)


def value_at(place: str, value: vm.ValueLike) -> vm.Value:
    """`value` as a machine value. Raises ValueError where it is outside the machine's range, TypeError for no value."""
    try:
        return vm.as_value(value)
    except ValueError as error:
        raise ValueError(f"the value for {place} does not fit: {error}") from None
    except TypeError:
        raise TypeError(
            f"the value for {place} is {value!r}; expected an int, an Int, a Seq (or a list of integers) or NAN"
        ) from None


def edited_state(state: vm.State, at: int, values: Mapping[str, vm.Value]) -> vm.State:
    """`state`, the one after token `at`, with all values put in their places at once.

    Raises ValueError for a place that does not exist there.
    """
    stack, registers = list(state.stack), dict(state.registers)
    for place, value in values.items():
        code = place_code(place)
        entry = code - len(_REGISTERS)
        if entry < 0:
            registers[vm.REGISTERS[code]] = value
        elif entry < len(stack):
            stack[len(stack) - 1 - entry] = value
        else:
            raise ValueError(missing_entry(entry, len(stack), at))
    return vm.State(tuple(stack), vm.Registers(**registers), state.fuel)


def missing_entry(entry: int, depth: int, at: int) -> str:
    """The message for an entry that the stack does not have."""
    entries = "is empty" if depth == 0 else f"has {depth} {'entry' if depth == 1 else 'entries'}"
    highest = f"; the lowest entry is {_STACK}{depth - 1}" if depth else ""
    return f"there is no {_STACK}{entry} after token {at}: the stack {entries}{highest}"


def inside_definition(at: int, opening: int) -> str:
    """The message for an edit within a definition."""
    return (
        f"the state after token {at} cannot be edited: it lies inside the definition that opens at token {opening}, "
        "which is passed over; edit before its { or after its }"
    )


@dataclass(frozen=True, repr=False)
class Edits:
    """Edits of n programs' states, any number each, as arrays; made by `Edits.of`."""

    offsets: np.ndarray
    """int64 [n + 1]: program i has the edits offsets[i] to offsets[i + 1]."""
    places: np.ndarray
    """int64 [edits]: `place_code`s."""
    values: np.ndarray
    """int64 [edits]: the values, packed as in `cadmus.machine.compiled`."""
    items: np.ndarray
    """int64 [elements]: the packed elements of all sequences."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"Edits(of {len(self):,} programs, {len(self.places):,} places)"

    @property
    def arrays(self) -> kernel.EditArrays:
        """What compiled code takes."""
        return self.offsets, self.places, self.values, self.items

    @classmethod
    def of(cls, edits: EditsLike, n: int | None = None) -> Edits:
        """Edits of n programs, from one mapping a program (from places to values), or from one mapping for all of them
        (from places to integers [n], which is the faster way).

        Raises ValueError for another number of programs than `n`, for what is no place and for a value outside the
        machine's range; TypeError for what is no value.
        """
        if isinstance(edits, Mapping):
            edits = cls._of_columns(edits, n)
        elif not isinstance(edits, Edits):
            edits = cls._of_mappings(edits)
        if n is not None and len(edits) != n:
            raise ValueError(f"there are edits of {len(edits):,} programs for {n:,}; expected one mapping a program")
        return edits

    @classmethod
    def _of_mappings(cls, edits: Sequence[Mapping[str, vm.ValueLike]]) -> Edits:
        offsets, places, values = [0], [], []
        items: list[int] = []
        codes: dict[str, int] = {}
        for row, mapping in enumerate(edits):
            if not isinstance(mapping, Mapping):
                raise TypeError(f"the edits of program {row} are {mapping!r}; expected a mapping from places to values")
            for place, value in mapping.items():
                if place not in codes:
                    codes[place] = place_code(place)
                places.append(codes[place])
                if type(value) is int and -vm.MAX_INT <= value <= vm.MAX_INT:  # most are: no Int is made
                    values.append(value << 8 | _INT)
                    continue
                value = value_at(place, value)
                if isinstance(value, vm.Seq):
                    values.append(len(items) << 8 | len(value) << 2 | _SEQ)
                    items += [_packed(item) for item in value]
                else:
                    values.append(_packed(value) if isinstance(value, vm.Int) else _NAN)
            offsets.append(len(places))
        return cls(*(np.array(part, np.int64) for part in (offsets, places, values, items)))

    @classmethod
    def _of_columns(cls, edits: Mapping[str, np.ndarray], n: int | None) -> Edits:
        columns = {place: np.asarray(column) for place, column in edits.items()}
        for place, column in columns.items():
            if column.ndim != 1 or not np.issubdtype(column.dtype, np.integer):
                raise TypeError(
                    f"the values for {place} are {column.dtype} {list(column.shape)}; expected integers [n], one a "
                    "program (sequences and NAN: give a list of mappings)"
                )
            outside = np.flatnonzero((column < -vm.MAX_INT) | (column > vm.MAX_INT))
            if len(outside):
                value_at(place, int(column[outside[0]]))
        sizes = {len(column) for column in columns.values()}
        if len(sizes) > 1:
            raise ValueError(f"the places have {' and '.join(map(str, sorted(sizes)))} values; expected one a program")
        n = sizes.pop() if sizes else (n or 0)
        values = np.array([column.astype(np.int64) << 8 | _INT for column in columns.values()], np.int64)
        return cls(
            offsets=np.arange(n + 1, dtype=np.int64) * len(columns),
            places=np.tile(np.array([place_code(place) for place in columns], np.int64), n),
            values=np.ascontiguousarray(values.T).reshape(-1),  # [places, n] -> [n, places] -> [n * places]
            items=np.empty(0, np.int64),
        )


EditsLike = Edits | Sequence[Mapping[str, vm.ValueLike]] | Mapping[str, np.ndarray]
"""What `Edits.of` takes."""


def _packed(item: vm.Int) -> int:
    return item.v << 8 | item.tag << 2 | _INT
