"""The Cadmus virtual machine in plain Python: the readable truth that everything else is held against.

A postfix integer machine of 65 one-character instructions (Webb & Ramapuram, arXiv 2602.09112; `docs/machine.md`).
Any text over `VOCAB` runs and nothing raises: what cannot be computed is `NAN`. Read top to bottom: values, the
instruction table, alternative semantics, states, the machine, and the four ways to use it: `run`, `verdict`,
`resume`, `explain`. `cadmus.kernel` is the same machine compiled.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

VOCAB = "0123456789.+-*/%xn<>=!~m&|?:\\@o;ABCDabcd{}fghFGH(,rQ#ISXERTOPMW'\""
END, OPEN, CLOSE = ".", "{", "}"
REGISTERS = "abcd"
SLOTS = "fgh"

MAX_INT = 2**31 - 1  # an Int lies in [-MAX_INT, MAX_INT]
MAX_TAG = 9
MAX_LENGTH = 32  # elements of a Seq
MAX_CALLS = 8  # calls active at once; the main text is not a call
FUEL = 4096  # instructions executed per run


# --- values ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Int:
    """An integer `v` in [-MAX_INT, MAX_INT] with a decoration `tag` 0..9 (0: plain)."""

    v: int
    tag: int = 0

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
    """A sequence of at most 32 `Int`s; built from any iterable of `Int` or int."""

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


def truth(value: Value) -> bool:
    """Truth of a value: an Int that is not 0; a Seq that is not empty and holds no 0; never NAN."""
    if isinstance(value, Int):
        return value.v != 0
    if isinstance(value, Seq):
        return len(value) > 0 and all(item.v != 0 for item in value)
    return False


def as_value(value: Value | int | Iterable[int | Int]) -> Value:
    """`value` as a machine value: an int becomes a plain Int, another iterable of integers a Seq."""
    if isinstance(value, (Int, Seq, _Nan)):
        return value
    return Seq(tuple(value)) if isinstance(value, Iterable) else Int(value)


# --- what can go wrong -----------------------------------------------------------------------------------------------


class NanCause(StrEnum):
    """Why an instruction left NAN. `explain` prints it; tests count it."""

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


class OutOfFuel(Exception):
    """An instruction is due and no fuel is left."""


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
        lengths = [len(value) for value in inputs if isinstance(value, Seq)]
        if not lengths:
            return (_int(op(*[value.v for value in inputs])),)
        length = lengths[0]
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
    kept = []
    for item in s:
        result = machine.call("f", item)
        if result is NAN:
            raise Undefined(NanCause.BAD_RESULT)
        if truth(result):
            kept.append(item)
    return (Seq(tuple(kept)),)


def _load(register: str) -> Callable[..., tuple[Value]]:
    return lambda machine: (machine.load(register),)


def _store(register: str) -> Callable[..., tuple]:
    return lambda machine, a: machine.store(register, a)


# --- the instruction table -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instruction:
    """One row of the instruction table.

    `signature` lists the types of the inputs and of the outputs, bottom of the stack first: `int`, `seq`, `any` (either),
    `num` (either, met element by element), `bit` (as `num`, holding only 0 and 1). A word in brackets
    names a part of the machine that is used and stands for no stack entry.
    """

    token: str
    name: str
    signature: str
    effect: Callable[..., tuple[Value, ...]] = field(repr=False)
    doc: str
    takes_nan: bool = False  # a store receives NAN too: it writes it
    inputs: int = field(init=False)
    outputs: int = field(init=False)
    input_types: tuple[str, ...] = field(init=False, repr=False)
    uses_machine: bool = field(init=False, repr=False)

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

    `meanings` maps a token to the token whose meaning it takes; tokens not named keep their own. Equal signatures keep
    the stack depth after every prefix. Raises ValueError where the map is no permutation or crosses a signature.
    """

    meanings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for token in {*self.meanings, *self.meanings.values()}:
            if token not in INSTRUCTIONS:
                raise ValueError(f"semantics name {token!r}, which is not one of the {len(VOCAB)} instructions")
        if sorted(self.meanings) != sorted(self.meanings.values()):
            lost = sorted(set(self.meanings) - set(self.meanings.values()))
            raise ValueError(f"semantics must be a permutation: no token takes the meaning of {' '.join(lost)}")
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


# --- states ----------------------------------------------------------------------------------------------------------


class Registers(Mapping[str, Value]):
    """The four registers, an immutable mapping from "a", "b", "c", "d" to values."""

    __slots__ = ("_values",)

    def __init__(self, a: Value = NAN, b: Value = NAN, c: Value = NAN, d: Value = NAN):
        self._values = tuple(map(as_value, (a, b, c, d)))

    def __getitem__(self, name: str) -> Value:
        if name not in tuple(REGISTERS):
            raise KeyError(f"there is no register {name!r}; the registers are a, b, c, d")
        return self._values[REGISTERS.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTERS)

    def __len__(self) -> int:
        return len(REGISTERS)

    def __hash__(self) -> int:
        return hash(self._values)

    def __repr__(self) -> str:
        return f"Registers({', '.join(f'{name}={value}' for name, value in self.items())})"


@dataclass(frozen=True, slots=True)
class State:
    """The machine between two tokens: the data stack (top last), the registers, the fuel left.

    Ints and iterables of ints are converted on the way in.
    """

    stack: tuple[Value, ...] = ()
    registers: Registers = Registers()
    fuel: int = FUEL

    def __post_init__(self) -> None:
        object.__setattr__(self, "stack", tuple(map(as_value, self.stack)))
        if not isinstance(self.registers, Registers):
            object.__setattr__(self, "registers", Registers(**self.registers))
        if not 0 <= self.fuel <= FUEL:
            raise ValueError(f"fuel {self.fuel} is outside 0..{FUEL}")

    def with_register(self, name: str, value: Value | int | Iterable[int | Int]) -> State:
        """This state with register `name` holding `value` (an int or an iterable of ints is converted)."""
        if name not in tuple(REGISTERS):
            raise ValueError(f"there is no register {name!r}; the registers are a, b, c, d")
        return replace(self, registers=Registers(**{**self.registers, name: value}))

    def with_stack(self, stack: Iterable[Value | int | Iterable[int | Int]]) -> State:
        """This state with the data stack `stack`, top last (ints and iterables of ints are converted)."""
        return replace(self, stack=tuple(stack))


@dataclass(frozen=True)
class Result:
    """What a run leaves: the outputs (bottom first) and the state after every token of the text."""

    outputs: tuple[Value, ...]
    states: tuple[State, ...]

    @property
    def is_true(self) -> bool:
        """Whether the program is a true-program: one or more outputs, all true."""
        return all_true(self.outputs)


def all_true(values: Iterable[Value]) -> bool:
    """Whether there are one or more values, all of them true."""
    values = tuple(values)
    return bool(values) and all(map(truth, values))


# --- the machine -----------------------------------------------------------------------------------------------------


def check(text: str) -> str:
    """`text`, if every character is an instruction; else ValueError naming the first that is not and its position."""
    for position, character in enumerate(text):
        if character not in INSTRUCTIONS:
            raise ValueError(
                f"{character!r} at position {position} is not an instruction; "
                f"a program holds only {VOCAB} (no brackets, no spaces)"
            )
    return text


def parse(text: str) -> tuple[list[int], dict[str, str]]:
    """The positions that are executed, in order, and the bodies bound to f, g, h (hoisted: their place is free)."""
    end = text.find(END) if END in text else len(text)
    executed, bodies, position = [], [], 0
    while position < end:
        if text[position] == OPEN:
            close = text.find(CLOSE, position, end)
            close = end if close < 0 else close
            bodies.append(text[position + 1 : close])
            position = close + 1
        else:
            executed.append(position)
            position += 1
    return executed, dict(zip(SLOTS, bodies, strict=False))


Observer = Callable[[str, tuple[Value, ...], tuple[Value, ...], NanCause | None], None]


class Machine:
    """A machine at work on one text.

    `observer(token, inputs, outputs, cause)` is told of every executed instruction, after it. A missing input is absent
    from `inputs`; `cause` says why the instruction had no result (None where it had one, be it a NAN that a body left).
    """

    def __init__(self, text: str, semantics: Semantics | None = None, observer: Observer | None = None):
        self.positions, self.bodies = parse(check(text))
        self.text = text
        self.semantics = INSTRUCTIONS if semantics is None else semantics
        self.observer = observer
        self.stack: list[Value] = []
        self.registers: dict[str, Value] = dict.fromkeys(REGISTERS, NAN)
        self.fuel = FUEL
        self.calls = 0
        self.out_of_fuel = False

    @property
    def state(self) -> State:
        return State(tuple(self.stack), Registers(**self.registers), self.fuel)

    def restore(self, state: State) -> None:
        self.stack, self.registers, self.fuel = list(state.stack), dict(state.registers), state.fuel
        self.calls, self.out_of_fuel = 0, False

    def advance(self, position: int) -> None:
        """Execute the token at `position` of the main text. Out of fuel, the stack becomes a single NAN."""
        try:
            self.execute(self.text[position], self.stack)
        except OutOfFuel:
            self.stack = [NAN]
            self.out_of_fuel = True

    def execute(self, token: str, stack: list[Value]) -> None:
        if self.fuel == 0:
            raise OutOfFuel
        self.fuel -= 1
        instruction = self.semantics[token]
        split = max(0, len(stack) - instruction.inputs)
        inputs = tuple(stack[split:])
        del stack[split:]
        cause = None
        try:
            outputs = self.apply(instruction, inputs)
        except Undefined as undefined:
            outputs, cause = (NAN,) * instruction.outputs, undefined.cause
        stack.extend(outputs)
        if self.observer is not None:
            self.observer(token, inputs, outputs, cause)

    def apply(self, instruction: Instruction, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        """The uniform rules on missing, NAN and ill-typed inputs, then the instruction's own effect."""
        if instruction.takes_nan:
            inputs = inputs or (NAN,)
        elif len(inputs) < instruction.inputs:
            raise Undefined(NanCause.UNDERFLOW)
        else:
            for value, kind in zip(inputs, instruction.input_types, strict=True):
                if value is NAN:
                    raise Undefined(NanCause.NAN_INPUT)
                if (kind == "int" and not isinstance(value, Int)) or (kind == "seq" and not isinstance(value, Seq)):
                    raise Undefined(NanCause.TYPE)
        return instruction.effect(self, *inputs) if instruction.uses_machine else instruction.effect(*inputs)

    def load(self, register: str) -> Value:
        if self.registers[register] is NAN:
            raise Undefined(NanCause.REGISTER_NAN)
        return self.registers[register]

    def store(self, register: str, value: Value) -> tuple:
        self.registers[register] = value
        return ()

    def call(self, slot: str, x: Value) -> Value:
        """Run the body bound to `slot` on a new stack that holds only `x`; its top at the end is the result."""
        if slot not in self.bodies:
            raise Undefined(NanCause.UNBOUND)
        if self.calls == MAX_CALLS:
            raise Undefined(NanCause.CALL_DEPTH)
        self.calls += 1
        stack = [x]
        for token in self.bodies[slot]:
            self.execute(token, stack)
        self.calls -= 1
        if not stack:
            raise Undefined(NanCause.NO_RESULT)
        return stack[-1]


# --- uses ------------------------------------------------------------------------------------------------------------


def run(text: str, semantics: Semantics | None = None) -> Result:
    """Run a program, given without the leading marker.

    `states` holds one `State` per token of `text`: the state after it, with all definitions of the whole text bound;
    after a token of a definition, the closing `.` and whatever follows it, the state is the one before it. Raises
    ValueError for a character outside `VOCAB`.
    """
    return _finish(Machine(text, semantics), -1, [])


def resume(text: str, at: int, state: State, semantics: Semantics | None = None) -> Result:
    """Go on after token `at` of `text` (-1: before the first) from `state`, edited or not, with its fuel.

    The states of the result before `at` are those of the unedited run, the one at `at` is `state` itself; so
    `resume(text, i, run(text).states[i]) == run(text)`. Raises ValueError for a position outside the text.
    """
    if not -1 <= at < len(text):
        raise ValueError(f"cannot resume after token {at} of a text of {len(text)} (-1: before the first)")
    machine = Machine(text, semantics)
    machine.restore(state)
    return _finish(machine, at, [] if at < 0 else [*run(text, semantics).states[:at], state])


def _finish(machine: Machine, after: int, states: list[State]) -> Result:
    """Execute what stands after token `after`, adding the state after each of those tokens to `states`."""
    executed = set(machine.positions)
    state = machine.state
    for position in range(after + 1, len(machine.text)):
        if position in executed:
            machine.advance(position)
            state = machine.state
        states.append(state)
    return Result(state.stack, tuple(states))


def verdict(text: str, semantics: Semantics | None = None) -> bool:
    """Whether `text` is a true-program; `run(text).is_true` without keeping the states."""
    machine = Machine(text, semantics)
    for position in machine.positions:
        machine.advance(position)
    return all_true(machine.stack)


def explain(text: str, semantics: Semantics | None = None) -> str:
    """An aligned trace of `text`: per token its name, the stack after it (top right), the registers in use, and why a
    NAN arose. A token of a definition is marked `|`: it is passed over where it stands."""
    why: list[str] = []

    def note(token: str, inputs: tuple, outputs: tuple, cause: NanCause | None) -> None:
        if cause is not None:
            why.append(f"in {token!r} of a body: {cause}" if machine.calls else str(cause))
        if not machine.calls:
            if NAN in outputs:
                why.reverse()  # the instruction's own cause first, then what happened in its calls
            else:
                why.clear()

    machine = Machine(text, semantics, note)
    executed, end = set(machine.positions), text.find(END) if END in text else len(text)
    rows = [("", "token", "instruction", "fuel", "stack", "registers", "why NAN")]
    for position, token in enumerate(text):
        why.clear()
        if position in executed:
            machine.advance(position)
            name = machine.semantics[token].name
        else:
            name = "|" if position < end else "end" if position == end else "(not read)"
        stack = " ".join(map(str, machine.stack)) or "-"
        registers = " ".join(f"{r}={v}" for r, v in machine.registers.items() if v is not NAN)
        if machine.out_of_fuel:
            why[:] = [f"no fuel is left after {FUEL} instructions"]
        more = [f"and {len(why) - 2} more"] if len(why) > 2 else []
        rows.append((str(position), token, name, str(machine.fuel), stack, registers, "; ".join(why[:2] + more)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    kind = "true-program" if all_true(machine.stack) else "false-program"
    outputs = " ".join(map(str, machine.stack)) or "none"
    return "\n".join([*lines, "", f"outputs: {outputs}", f"verdict: {kind}"])
