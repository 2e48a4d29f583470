"""The Cadmus virtual machine in plain Python: the readable truth that everything else is compared with.

A postfix integer machine of 65 one-character instructions (Webb & Ramapuram, arXiv 2602.09112; `docs/machine.md`). Any
text over `VOCAB` runs and nothing raises: what cannot be computed is `NAN`. This module has the states, the machine,
and the ways to use it: `run`, `verdict`, `resume`, `explain`. `cadmus.machine.kernel` is the same machine, compiled.

It re-exports the values (`vm.Int`, `vm.NAN`, ...; `cadmus.machine.values`) and the instruction table (`vm.VOCAB`,
`vm.INSTRUCTIONS`, ...; `cadmus.machine.instructions`): each is one page of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cadmus.machine.instructions import (
    CLOSE,
    END,
    INSTRUCTIONS,
    OPEN,
    REGISTERS,
    SLOTS,
    VOCAB,
    Instruction,
    NanCause,
    Semantics,
    Undefined,
)
from cadmus.machine.notebook import trace_table
from cadmus.machine.values import (
    MAX_INT,
    MAX_LENGTH,
    MAX_TAG,
    NAN,
    Int,
    Seq,
    Value,
    ValueLike,
    all_true,
    as_value,
    truth,
)

__all__ = ["FUEL", "MAX_CALLS", "VERSION", "Machine", "Observer", "Registers", "Result", "State"]
__all__ += ["check", "explain", "parse", "resume", "run", "verdict"]
__all__ += ["CLOSE", "END", "INSTRUCTIONS", "OPEN", "REGISTERS", "SLOTS", "VOCAB"]  # of `instructions`
__all__ += ["Instruction", "NanCause", "Semantics", "Undefined"]
__all__ += ["MAX_INT", "MAX_LENGTH", "MAX_TAG", "NAN", "Int", "Seq", "Value", "ValueLike"]  # of `values`
__all__ += ["all_true", "as_value", "truth"]

VERSION = 1  # raise it when what any program leaves changes: what was made with another version is refused
MAX_CALLS = 8  # calls active at once; the main text is not a call
FUEL = 4096  # instructions executed per run


# --- states ----------------------------------------------------------------------------------------------------------


class Registers(Mapping[str, Value]):
    """The four registers, an immutable mapping from "a", "b", "c", "d" to values."""

    __slots__ = ("_values",)

    def __init__(self, a: ValueLike = NAN, b: ValueLike = NAN, c: ValueLike = NAN, d: ValueLike = NAN):
        self._values = tuple(map(as_value, (a, b, c, d)))

    def __getitem__(self, name: str) -> Value:
        if name not in tuple(REGISTERS):
            raise KeyError(f"unknown register {name!r}; the registers are a, b, c, d")
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
    """The machine between two tokens. Ints and iterables of ints are converted on the way in."""

    stack: tuple[Value, ...] = ()
    """The data stack, its top last."""
    registers: Registers = field(default_factory=Registers)
    """The values of a, b, c, d; a mapping is converted too."""
    fuel: int = FUEL
    """How many instructions may still be executed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stack", tuple(map(as_value, self.stack)))
        if not isinstance(self.registers, Registers):
            object.__setattr__(self, "registers", Registers(**self.registers))
        if not 0 <= self.fuel <= FUEL:
            raise ValueError(f"fuel {self.fuel} is outside 0..{FUEL}")

    def with_register(self, name: str, value: ValueLike) -> State:
        """This state with register `name` holding `value` (an int or an iterable of ints is converted)."""
        if name not in tuple(REGISTERS):
            raise ValueError(f"unknown register {name!r}; the registers are a, b, c, d")
        return replace(self, registers=Registers(**{**self.registers, name: value}))

    def with_stack(self, stack: Iterable[ValueLike]) -> State:
        """This state with the data stack `stack`, top last (ints and iterables of ints are converted)."""
        return replace(self, stack=tuple(map(as_value, stack)))


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    outputs: tuple[Value, ...]
    """The stack at the end, bottom first."""
    states: tuple[State, ...]
    """The state after every token of the text."""
    text: str = field(default="", compare=False)
    """The program itself, as it was given."""

    @property
    def is_true(self) -> bool:
        """Whether the program is a true-program: one or more outputs, all true."""
        return all_true(self.outputs)

    def __repr__(self) -> str:
        return f"Result(outputs={self.outputs}, {len(self.states)} states)"

    def _repr_html_(self) -> str:
        return trace_table(self.text, self.states, self.is_true)


# --- the machine -----------------------------------------------------------------------------------------------------


class OutOfFuel(Exception):
    """Raised where an instruction is due and no fuel is left."""


def check(text: str) -> str:
    """Return `text`. Raises ValueError, naming the first character that is not an instruction and its position."""
    for position, character in enumerate(text):
        if character not in INSTRUCTIONS:
            remedy = "; leave it out" if character in "[]" or character.isspace() else ""
            raise ValueError(
                f"{character!r} at position {position} is not an instruction; a program holds only {VOCAB}{remedy}"
            )
    return text


def parse(text: str) -> tuple[list[int], dict[str, str]]:
    """The positions of the main text, in order, and the bodies bound to f, g, h (hoisted: their place is free)."""
    end = text.find(END) if END in text else len(text)
    main_text: list[int] = []
    bodies: list[str] = []
    position = 0
    while position < end:
        if text[position] == OPEN:
            close = text.find(CLOSE, position, end)
            close = end if close < 0 else close
            bodies.append(text[position + 1 : close])
            position = close + 1
        else:
            main_text.append(position)
            position += 1
    return main_text, dict(zip(SLOTS, bodies, strict=False))


Observer = Callable[[str, tuple[Value, ...], tuple[Value, ...], NanCause | None], None]


class Machine:
    """A machine at work on one text.

    `observer(token, inputs, outputs, cause)` is called after every executed instruction. A missing input is absent from
    `inputs`; `cause` says why the instruction had no result (None where it had one, be it a NAN that a body left).
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
        """A snapshot of the stack, the registers and the fuel."""
        return State(tuple(self.stack), Registers(**self.registers), self.fuel)

    def restore(self, state: State) -> None:
        """Go on from `state`, outside all calls."""
        self.stack = list(state.stack)
        self.registers = dict(state.registers)
        self.fuel = state.fuel
        self.calls = 0
        self.out_of_fuel = False

    def advance(self, position: int) -> None:
        """Execute the token at `position` of the main text. Out of fuel, the stack becomes a single NAN."""
        try:
            self.execute(self.text[position], self.stack)
        except OutOfFuel:
            self.stack = [NAN]
            self.out_of_fuel = True

    def execute(self, token: str, stack: list[Value]) -> None:
        """Execute one instruction on `stack`. Raises OutOfFuel."""
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
        """Apply the uniform rules on missing, NAN and ill-typed inputs, then the instruction's own effect.

        Raises Undefined, with the cause, where there is no result.
        """
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
        """The value of the register. Raises Undefined where it is NAN."""
        if self.registers[register] is NAN:
            raise Undefined(NanCause.REGISTER_NAN)
        return self.registers[register]

    def store(self, register: str, value: Value) -> tuple[()]:
        """Move the value, be it NAN, into the register; a store leaves nothing on the stack."""
        self.registers[register] = value
        return ()

    def call(self, slot: str, x: Value) -> Value:
        """Run the body bound to `slot` on a new stack that holds only `x`; its top at the end is the result.

        Raises Undefined for a slot without a body, for the ninth call and where nothing is left.
        """
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
    return _finish(Machine(text, semantics), 0, [])


def resume(text: str, at: int, state: State, semantics: Semantics | None = None) -> Result:
    """Go on after token `at` of `text` (-1: before the first) from `state`, edited or not, with its fuel.

    The states of the result before `at` are those of the unedited run, the one at `at` is `state` itself; so
    `resume(text, i, run(text).states[i]) == run(text)`. Raises ValueError for a position outside the text and for a
    character outside `VOCAB`.
    """
    if not -1 <= at < len(text):
        raise ValueError(f"cannot resume after token {at} of a text of {len(text)} (-1: before the first)")
    machine = Machine(text, semantics)
    machine.restore(state)
    states = [] if at < 0 else [*run(text, semantics).states[:at], state]
    return _finish(machine, at + 1, states)


def _finish(machine: Machine, start: int, states: list[State]) -> Result:
    """Execute the text from token `start` on, adding the state after each of those tokens to `states`."""
    main_text = set(machine.positions)
    state = machine.state
    for position in range(start, len(machine.text)):
        if position in main_text:
            machine.advance(position)
            state = machine.state
        states.append(state)
    return Result(state.stack, tuple(states), machine.text)


def verdict(text: str, semantics: Semantics | None = None) -> bool:
    """Whether `text` is a true-program; `run(text).is_true` without keeping the states."""
    machine = Machine(text, semantics)
    for position in machine.positions:
        machine.advance(position)
    return all_true(machine.stack)


@dataclass(frozen=True)
class Step:
    """What a token did."""

    position: int
    """Which token of the text it is."""
    token: str
    """Its character."""
    instruction: str
    """The instruction's name; `|` in a definition, which is passed over where it stands, `end`, or `(not read)`."""
    state: State
    """The state after it."""
    why_nan: str
    """Why a NAN arose; empty where none did."""


def explain(text: str, semantics: Semantics | None = None) -> str:
    """An aligned trace of `text`: per token its name, the stack after it (top right), the registers in use, and why a
    NAN arose. A token of a definition is marked `|`: it is passed over where it stands."""
    rows = [("", "token", "instruction", "fuel", "stack", "registers", "why NAN")]
    state = State()
    for step in steps(text, semantics):
        state = step.state
        stack = " ".join(map(str, state.stack)) or "-"
        registers = " ".join(f"{r}={v}" for r, v in state.registers.items() if v is not NAN)
        rows.append((str(step.position), step.token, step.instruction, str(state.fuel), stack, registers, step.why_nan))
    kind = "true-program" if all_true(state.stack) else "false-program"
    outputs = " ".join(map(str, state.stack)) or "none"
    return "\n".join([*_aligned(rows), "", f"outputs: {outputs}", f"verdict: {kind}"])


def steps(text: str, semantics: Semantics | None = None) -> list[Step]:
    """What each token of `text` did: the rows of `explain`. Raises ValueError for a character outside `VOCAB`."""
    events: list[_Event] = []  # what is executed at one token: the instructions in its calls, then its own
    machine = Machine(
        text, semantics, lambda token, inputs, outputs, cause: events.append((token, NAN in outputs, cause))
    )
    main_text = set(machine.positions)
    end = text.find(END) if END in text else len(text)
    steps = []
    for position, token in enumerate(text):
        events.clear()
        if position in main_text:
            machine.advance(position)
            name = machine.semantics[token].name
        else:
            name = "|" if position < end else "end" if position == end else "(not read)"
        causes = [f"no fuel is left after {FUEL} instructions"] if machine.out_of_fuel else _causes(events)
        if len(causes) > 2:
            causes[2:] = [f"and {len(causes) - 2} more"]
        steps.append(Step(position, token, name, machine.state, "; ".join(causes)))
    return steps


_Event = tuple[str, bool, NanCause | None]  # an executed token, whether it left NAN, and its own cause of that


def _causes(events: list[_Event]) -> list[str]:
    """Why the last event, an instruction of the main text, left NAN: its own cause, then those in its calls, in order.

    Empty where it left none: a body may recover from a NAN.
    """
    if not events or not events[-1][1]:
        return []
    *in_calls, (_, _, own_cause) = events
    causes = [] if own_cause is None else [str(own_cause)]
    return causes + [f"in {token!r} of a body: {cause}" for token, _, cause in in_calls if cause is not None]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows as lines of text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
