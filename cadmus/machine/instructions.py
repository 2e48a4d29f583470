"""The 65 instructions as one table, and other machines as permutations of it.

First why an instruction may have no result, then the effects, then the table (`INSTRUCTIONS`), then `Semantics`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from cadmus.machine.values import MAX_INT, MAX_LENGTH, MAX_TAG, NAN, Int, Seq, Value, truth

VOCAB = "0123456789.+-*/%xn<>=!~m&|?:\\@o;ABCDabcd{}fghFGH(,rQ#ISXERTOPMW'\""
END, OPEN, CLOSE = ".", "{", "}"
REGISTERS = "abcd"
SLOTS = "fgh"


# --- what can go wrong -----------------------------------------------------------------------------------------------


class NanCause(StrEnum):
    """Why an instruction left NAN. `vm.explain` prints it; tests count it."""

    UNDERFLOW = "an input is missing"
    NAN_INPUT = "an input is NAN"
    TYPE = "an input has the wrong type"
    REGISTER_NAN = "the register holds NAN"
    OUT_OF_RANGE = "the result is outside the Int range"
    DIVISION_BY_ZERO = "division by 0"
    LENGTHS_DIFFER = "the sequences differ in length"
    TOO_LONG = "the sequence would be longer than 32"
    NO_ELEMENT = "there is no such element"
    BAD_COUNT = "the count is outside 0..32"
    BAD_TAG = "the tag is outside 0..9"
    EMPTY = "the sequence is empty"
    UNBOUND = "no subroutine is bound"
    CALL_DEPTH = "8 calls are active already"
    NO_RESULT = "the call left nothing"
    BAD_RESULT = "f gave an element no usable result"


class Undefined(Exception):
    """Raised by an instruction's effect that has no result; the machine turns it into NAN outputs."""

    def __init__(self, cause: NanCause):
        self.cause = cause


class Machine(Protocol):
    """What an effect may ask of the machine that runs it (`cadmus.machine.vm.Machine`)."""

    def call(self, slot: str, x: Value) -> Value: ...

    def load(self, register: str) -> Value: ...

    def store(self, register: str, value: Value) -> tuple[()]: ...


# --- effects ---------------------------------------------------------------------------------------------------------
# An effect takes the inputs, bottom first, none of them NAN and all of the signature's types, and returns the tuple of
# outputs, bottom first. The effect of an instruction that names a part of the machine in its signature ([register],
# [body]) takes the machine first.


def _int(v: int) -> Int:
    if not -MAX_INT <= v <= MAX_INT:
        raise Undefined(NanCause.OUT_OF_RANGE)
    return Int(v)


def _seq(items: Iterable[Int]) -> Seq:
    items = tuple(items)
    if len(items) > MAX_LENGTH:
        raise Undefined(NanCause.TOO_LONG)
    return Seq(items)


def _pervasive(op: Callable[..., int]) -> Callable[..., tuple[Value]]:
    """Lift an operation on integers to Ints and Seqs: an Int meets every element, Seqs of one length go in step."""

    def effect(*inputs: Int | Seq) -> tuple[Value]:
        integers = [value.v for value in inputs if isinstance(value, Int)]
        if len(integers) == len(inputs):
            return (_int(op(*integers)),)
        length, *lengths = [len(value) for value in inputs if isinstance(value, Seq)]
        if any(other != length for other in lengths):
            raise Undefined(NanCause.LENGTHS_DIFFER)
        columns = [value.items if isinstance(value, Seq) else (value,) * length for value in inputs]
        return (Seq(tuple(_int(op(*[item.v for item in row])) for row in zip(*columns, strict=True))),)

    return effect


def _divide(a: int, b: int) -> int:
    if b == 0:
        raise Undefined(NanCause.DIVISION_BY_ZERO)
    return a // b


def _remainder(a: int, b: int) -> int:
    return a - b * _divide(a, b)


def _count_up(k: Int) -> tuple[Value]:
    if not 0 <= k.v <= MAX_LENGTH:
        raise Undefined(NanCause.BAD_COUNT)
    return (Seq(tuple(Int(i) for i in range(k.v))),)


def _element(s: Seq, i: Int) -> tuple[Value]:
    if not 0 <= i.v < len(s):
        raise Undefined(NanCause.NO_ELEMENT)
    return (s[i.v],)


def _largest(s: Seq) -> tuple[Value]:
    if not len(s):
        raise Undefined(NanCause.EMPTY)
    return (Int(max(item.v for item in s)),)


def _tail(s: Seq) -> tuple[Value]:
    if not len(s):
        raise Undefined(NanCause.EMPTY)
    return (Seq(s.items[1:]),)


def _running_sums(s: Seq) -> tuple[Value]:
    sums, total = [], 0
    for item in s:
        total += item.v
        sums.append(_int(total))
    return (Seq(tuple(sums)),)


def _decorate(a: Int | Seq, k: Int) -> tuple[Value]:
    if not 0 <= k.v <= MAX_TAG:
        raise Undefined(NanCause.BAD_TAG)
    if isinstance(a, Int):
        return (Int(a.v, k.v),)
    return (Seq(tuple(Int(item.v, k.v) for item in a)),)


def _decoration(a: Int | Seq) -> tuple[Value]:
    return (Int(a.tag),) if isinstance(a, Int) else (Seq(tuple(Int(item.tag) for item in a)),)


def _call(slot: str) -> Callable[..., tuple[Value]]:
    return lambda machine, x: (machine.call(slot, x),)


def _call_if(slot: str) -> Callable[..., tuple[Value]]:
    return lambda machine, c, x: (machine.call(slot, x) if truth(c) else x,)


def _map(machine: Machine, s: Seq) -> tuple[Value]:
    results = []
    for item in s:
        result = machine.call("f", item)
        if not isinstance(result, Int):
            raise Undefined(NanCause.BAD_RESULT)
        results.append(result)
    return (Seq(tuple(results)),)


def _select(machine: Machine, s: Seq) -> tuple[Value]:
    items = []
    for item in s:
        result = machine.call("f", item)
        if result is NAN:
            raise Undefined(NanCause.BAD_RESULT)
        if truth(result):
            items.append(item)
    return (Seq(tuple(items)),)


def _load(register: str) -> Callable[..., tuple[Value]]:
    return lambda machine: (machine.load(register),)


def _store(register: str) -> Callable[..., tuple]:
    return lambda machine, a: machine.store(register, a)


# --- the instruction table -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instruction:
    """One row of the instruction table."""

    token: str
    """Its character in a program."""
    name: str
    """Its name in words."""
    signature: str
    """The types of the inputs and of the outputs, bottom of the stack first: `int`, `seq`, `any` (either), `num`
    (either, met element by element), `bit` (as `num`, holding only 0 and 1). A word in brackets names a part of the
    machine that is used and stands for no stack entry."""
    effect: Callable[..., tuple[Value, ...]] = field(repr=False)
    """From the inputs to the outputs, bottom first; see "effects" above."""
    doc: str
    """What it leaves, in the table of `docs/machine.md`."""
    takes_nan: bool = False
    """Whether it runs on a NAN or a missing input too: a store writes it."""
    inputs: int = field(init=False)
    """How many entries it takes off the stack."""
    outputs: int = field(init=False)
    """How many entries it leaves."""
    input_types: tuple[str, ...] = field(init=False, repr=False)
    """The types of the inputs, bottom first."""
    uses_machine: bool = field(init=False, repr=False)
    """Whether the effect takes the machine as its first argument: loads, stores and calls."""

    def __post_init__(self) -> None:
        before, after = (tuple(w for w in side.split() if w[0] != "[") for side in self.signature.split("->"))
        object.__setattr__(self, "inputs", len(before))
        object.__setattr__(self, "outputs", len(after))
        object.__setattr__(self, "input_types", before)
        object.__setattr__(self, "uses_machine", "[register]" in self.signature or "[body]" in self.signature)

    @property
    def id(self) -> int:
        """The token's id: its index in `VOCAB`."""
        return VOCAB.index(self.token)


def _digit(d: int) -> Instruction:
    outputs = (Int(d),)
    return Instruction(str(d), f"digit {d}", "-> int", lambda: outputs, f"the number {d}")


def _nothing() -> tuple:
    return ()


_TABLE = (
    *map(_digit, range(10)),
    Instruction(".", "end", "[end] ->", _nothing, "ends the text; never executed"),
    Instruction("+", "add", "num num -> num", _pervasive(operator.add), "a + b"),
    Instruction("-", "subtract", "num num -> num", _pervasive(operator.sub), "a - b"),
    Instruction("*", "multiply", "num num -> num", _pervasive(operator.mul), "a * b"),
    Instruction("/", "divide", "num num -> num", _pervasive(_divide), "a / b rounded down; NAN for b = 0"),
    Instruction("%", "remainder", "num num -> num", _pervasive(_remainder), "a - b * (a / b); NAN for b = 0"),
    Instruction("x", "maximum", "num num -> num", _pervasive(max), "the larger of a and b"),
    Instruction("n", "minimum", "num num -> num", _pervasive(min), "the smaller of a and b"),
    Instruction("<", "less", "num num -> bit", _pervasive(lambda a, b: int(a < b)), "1 where a < b, else 0"),
    Instruction(">", "greater", "num num -> bit", _pervasive(lambda a, b: int(a > b)), "1 where a > b, else 0"),
    Instruction("=", "equal", "num num -> bit", _pervasive(lambda a, b: int(a == b)), "1 where a = b, else 0"),
    Instruction("!", "not", "num -> bit", _pervasive(lambda a: int(a == 0)), "1 where a = 0, else 0"),
    Instruction("~", "negate", "num -> num", _pervasive(operator.neg), "-a"),
    Instruction("m", "magnitude", "num -> num", _pervasive(abs), "|a|"),
    Instruction("&", "and", "num num -> bit", _pervasive(lambda a, b: int(a != 0 and b != 0)), "1 where neither is 0"),
    Instruction("|", "or", "num num -> bit", _pervasive(lambda a, b: int(a != 0 or b != 0)), "1 where either is not 0"),
    Instruction("?", "choose", "any any any -> any", lambda c, a, b: (a if truth(c) else b,), "a if c is true, else b"),
    Instruction(":", "duplicate", "any -> any any", lambda a: (a, a), "a a"),
    Instruction("\\", "swap", "any any -> any any", lambda a, b: (b, a), "b a"),
    Instruction("@", "rotate", "any any any -> any any any", lambda a, b, c: (b, c, a), "b c a"),
    Instruction("o", "over", "any any -> any any any", lambda a, b: (a, b, a), "a b a"),
    Instruction(";", "drop", "any ->", lambda a: (), "removes a"),
    *(
        Instruction(r.upper(), f"store {r}", "any -> [register]", _store(r), f"moves a into register {r}", True)
        for r in REGISTERS
    ),
    *(Instruction(r, f"load {r}", "[register] -> any", _load(r), f"the value of register {r}") for r in REGISTERS),
    Instruction("{", "open", "[open] ->", _nothing, "opens a definition; inside one it does nothing"),
    Instruction("}", "close", "[close] ->", _nothing, "closes a definition; a stray one does nothing"),
    *(Instruction(s, f"call {s}", "any [body] -> any", _call(s), f"{s}(x)") for s in SLOTS),
    *(
        Instruction(s.upper(), f"call {s} if", "any any [body] -> any", _call_if(s), f"{s}(x) if c is true, else x")
        for s in SLOTS
    ),
    Instruction("(", "empty", "-> seq", lambda: (Seq(),), "the empty sequence"),
    Instruction(",", "append", "seq int -> seq", lambda s, a: (_seq((*s, a)),), "s with a at its end"),
    Instruction("r", "count up", "int -> seq", _count_up, "0, 1, ..., k-1; NAN unless 0 <= k <= 32"),
    Instruction("Q", "concatenate", "seq seq -> seq", lambda s, t: (_seq((*s, *t)),), "s followed by t"),
    Instruction("#", "length", "seq -> int", lambda s: (Int(len(s)),), "the number of elements"),
    Instruction("I", "element", "seq int -> int", _element, "element i, from 0; NAN where there is none"),
    Instruction("S", "sum", "seq -> int", lambda s: (_int(sum(item.v for item in s)),), "the total; 0 for none"),
    Instruction("X", "largest", "seq -> int", _largest, "the largest value; NAN for none"),
    Instruction(
        "E", "contains", "seq int -> bit", lambda s, a: (Int(int(any(i.v == a.v for i in s))),), "1 if a occurs in s"
    ),
    Instruction("R", "reverse", "seq -> seq", lambda s: (Seq(s.items[::-1]),), "s backwards"),
    Instruction("T", "tail", "seq -> seq", _tail, "s without its first element; NAN for none"),
    Instruction(
        "O", "sort", "seq -> seq", lambda s: (Seq(tuple(sorted(s, key=lambda i: i.v))),), "s ascending by value, stable"
    ),
    Instruction("P", "running sums", "seq -> seq", _running_sums, "the sums of the first 1, 2, ... elements"),
    Instruction("M", "map", "seq [body] -> seq", _map, "f of every element; NAN unless each is an Int"),
    Instruction("W", "where", "seq [body] -> seq", _select, "the elements for which f is true; NAN if f gives NAN"),
    Instruction("'", "decorate", "any int -> any", _decorate, "a with tag k, on every element of a sequence"),
    Instruction('"', "decoration", "any -> any", _decoration, "the tag of a; a sequence of tags for a sequence"),
)
INSTRUCTIONS: dict[str, Instruction] = {
    token: next(row for row in _TABLE if row.token == token) for token in VOCAB
}  # in VOCAB order: the position in it is the token id


# --- alternative semantics -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Semantics:
    """Another machine: a permutation of instruction meanings within type signatures.

    Equal signatures keep the stack depth after every prefix. Raises ValueError where the map is not a permutation,
    names an unknown instruction or crosses a signature.
    """

    meanings: Mapping[str, str] = field(default_factory=dict)
    """From a token to the token whose meaning it takes; tokens not named keep their own."""

    def __post_init__(self) -> None:
        for token in {*self.meanings, *self.meanings.values()}:
            if token not in INSTRUCTIONS:
                raise ValueError(f"semantics name {token!r}, which is not one of the {len(VOCAB)} instructions")
        if sorted(self.meanings) != sorted(self.meanings.values()):
            meaningless = sorted(set(self.meanings) - set(self.meanings.values()))
            raise ValueError(f"semantics must be a permutation: no token takes the meaning of {' '.join(meaningless)}")
        for token, other in self.meanings.items():
            mine, theirs = INSTRUCTIONS[token].signature, INSTRUCTIONS[other].signature
            if mine != theirs:
                peers = " ".join(row.token for row in INSTRUCTIONS.values() if row.signature == mine)
                raise ValueError(f"{token!r} ({mine}) cannot mean {other!r} ({theirs}); it can mean one of {peers}")
        object.__setattr__(self, "meanings", {t: m for t, m in self.meanings.items() if t != m})

    def __getitem__(self, token: str) -> Instruction:
        return INSTRUCTIONS[self.meanings.get(token, token)]

    def __hash__(self) -> int:
        return hash(frozenset(self.meanings.items()))
