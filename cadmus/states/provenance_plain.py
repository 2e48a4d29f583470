"""The provenance of one program in plain Python, as the definition says it: the truth that the compiled one equals.

A machine whose stack holds `Entry`s: each has the `Value` that lies there, which is one object for as long as it is the
same value, and the token that put it there. What instructions compute is taken from `cadmus.machine.vm`'s table; what
this file adds is which of their results are values that they were given. `cadmus.states.provenance` describes the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cadmus.machine import vm
from cadmus.machine.vm import NAN, Int, Seq
from cadmus.states.provenance_rows import EdgeRow, Graph, OccurrenceRow, ValueRow, VersionRow

_SHUFFLES = {":": (0, 0), "\\": (1, 0), "@": (1, 2, 0), "o": (0, 1, 0)}  # which inputs are left, bottom first
_STAY = {":": 1, "o": 2}  # how many of them stay where they were
_STORES = vm.REGISTERS.upper()


# --- what lies where -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Value:
    """A value: one object from where it is made to its last use."""

    number: int
    """Which value of the program it is, in the order in which they are made."""
    arose: int
    """The main text's token at which it was made."""
    at: int
    """The token of the instruction that made it."""
    content: vm.Value
    """What it is."""
    elements: tuple[Value, ...] = ()
    """The elements of a Seq, which are values too."""

    @property
    def as_int(self) -> Int:
        """Its content, where that is known to be an Int."""
        assert isinstance(self.content, Int)
        return self.content


@dataclass(eq=False)
class Version:
    """What a register holds from one store to the next."""

    register: str
    """The register."""
    number: int
    """How many stores of that register came before."""
    value: Value
    """What was stored."""
    token: int
    """The main text's token of the store."""
    at: int
    """The store itself."""
    loads: list[int] = field(default_factory=list)
    """The main text's tokens at which it was loaded."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A stack entry."""

    value: Value
    """The value that lies there."""
    put: int
    """The main text's token that put it there last."""
    put_at: int
    """The instruction that did."""
    version: Version | None = None
    """The version that this copy of the value was loaded from."""
    loaded: int = -1
    """The main text's token at which it was, or at which it was read off a sequence."""


# --- one program ------------------------------------------------------------------------------------------------------


def provenance_of(text: str, cut: int | None = None) -> Graph:
    """The provenance of `text[:cut]`, given without the leading marker.

    Raises ValueError for a character outside `vm.VOCAB` and for a cut outside the text.
    """
    end = len(vm.check(text).partition(vm.END)[0])
    if cut is not None and not 0 <= cut <= end:
        raise ValueError(f"cut {cut} lies outside 0..{end}: a cut counts the tokens that are given")
    run = _Run(text[: end if cut is None else cut])
    run.main()
    values = [ValueRow(v.number, v.arose, v.at, run.is_literal(v), *_content(v.content)) for v in run.values]
    rows = sorted(run.occurrences, key=lambda row: row.token)  # stable: within a token, as they were recorded
    main = [edge for edge in run.edges if edge.depth == 0]
    return Graph(values, rows, main, [edge for edge in run.edges if edge.depth], run.version_rows())


def _content(value: vm.Value) -> tuple[str, int, int]:
    """The kind, number and tag that a row of values shows."""
    if isinstance(value, Int):
        return "int", value.v, value.tag
    return ("nan" if value is NAN else "seq"), 0, 0


# --- the machine -----------------------------------------------------------------------------------------------------


class _Run:
    """One run of a text, and what is recorded on the way."""

    def __init__(self, text: str):
        self.text = text
        self.bodies = _bodies(text)
        self.stack: list[Entry] = []
        self.registers: dict[str, Version | None] = dict.fromkeys(vm.REGISTERS)
        self.fuel = vm.FUEL
        self.depth = 0  # calls active
        self.token = self.previous = -1  # the main text's token that is executed, and the one before
        self.values: list[Value] = []
        self.versions: list[Version] = []
        self.edges: list[EdgeRow] = []
        self.occurrences: list[OccurrenceRow] = []

    # what is recorded

    def make(self, at: int, content: vm.Value, elements: tuple[Value, ...] | None = None) -> Value:
        """A new value; the elements of a Seq are new too unless they are given, and made before it."""
        if elements is None:
            elements = tuple(self.make(at, item) for item in content) if isinstance(content, Seq) else ()
        self.values.append(Value(len(self.values), self.token, at, content, elements))
        return self.values[-1]

    def entry(self, at: int, value: Value, version: Version | None = None, loaded: int = -1) -> Entry:
        """A stack entry that the instruction at `at` puts there."""
        return Entry(value, self.token, at, version, loaded)

    def is_literal(self, value: Value) -> bool:
        """Whether a digit made the value."""
        return self.text[value.at].isdigit() and value.content is not NAN  # NAN: fuel ran out there

    def edge(self, kind: str, at: int, value: Value, key: int, key_at: int, element: int = -1) -> None:
        """An edge from the instruction at `at`."""
        self.edges.append(EdgeRow(value.number, element, self.token, key, kind, self.depth, at, key_at))

    def origins(self, kind: str, at: int, value: Value) -> None:
        """Edges to where the value, and each of its elements, arose."""
        self.edge(kind, at, value, value.arose, value.at)
        for k, element in enumerate(value.elements):
            self.edge(kind, at, element, element.arose, element.at, k)

    def occurrence(self, value: Value, role: str, place: str, version: Version | None = None) -> None:
        """An occurrence at the main text's present token."""
        edit_at = self.previous if role in ("consumed", "overwritten", "decision") else self.token
        number, distance = (-1, -1) if version is None else (version.number, self.token - version.token)
        self.occurrences.append(OccurrenceRow(value.number, role, self.token, edit_at, place, number, distance))

    # execution

    def main(self) -> None:
        """Execute the main text, then look back from its end."""
        states = []  # after each executed token of the main text, what the registers hold
        positions, _ = vm.parse(self.text)
        out_of_fuel = False
        for position in positions:
            self.token, before = position, dict(self.registers)
            try:
                self.execute(position, self.stack)
            except _Due as due:
                self.depth, out_of_fuel = 0, True
                self.stack = [self.entry(due.at, self.make(due.at, NAN))]
            self.after_token(before)
            states.append((position, dict(self.registers)))
            self.previous = position
            if out_of_fuel:
                break
        self.between(states)
        self.decision()

    def after_token(self, before: dict[str, Version | None]) -> None:
        """The occurrences in the state after a token of the main text; `before`: what the registers held."""
        for k, entry in enumerate(reversed(self.stack)):
            if entry.put == self.token and entry.value.arose == self.token:
                self.occurrence(entry.value, "arose", f"stack.{k}")
            if entry.put == self.token and entry.loaded == self.token:
                self.occurrence(entry.value, "loaded", f"stack.{k}", entry.version)
        for register, version in self.registers.items():
            old = before[register]
            if version is not None and version.token == self.token:
                self.occurrence(version.value, "stored", f"reg.{register}", version)
            if old is not None and version is not old and self.token not in old.loads:
                self.occurrence(old.value, "overwritten", f"reg.{register}", old)

    def between(self, states: list[tuple[int, dict[str, Version | None]]]) -> None:
        """The occurrences of versions between their store and their last load."""
        for self.token, registers in states:
            for version in registers.values():
                if version is None or not version.loads or self.token in version.loads:
                    continue
                if version.token < self.token < version.loads[-1]:
                    self.occurrence(version.value, "between", f"reg.{version.register}", version)

    def decision(self) -> None:
        """The occurrences and edges at the cut."""
        self.token = at = len(self.text) - 1
        for k, entry in enumerate(reversed(self.stack)):
            self.occurrence(entry.value, "decision", f"stack.{k}")
        for register, version in self.registers.items():
            if version is not None:
                self.occurrence(version.value, "decision", f"reg.{register}", version)
        for entry in reversed(self.stack):
            self.edge("decision", at, entry.value, entry.put, entry.put_at)
            self.origins("decision_origin", at, entry.value)

    def execute(self, at: int, stack: list[Entry]) -> None:
        """Execute the instruction at `at` on a stack, the main text's or a body's. Raises _Due if no fuel is left."""
        if self.fuel == 0:
            raise _Due(at)
        self.fuel -= 1
        token = self.text[at]
        instruction = vm.INSTRUCTIONS[token]
        depth_before = len(stack)
        split = max(0, depth_before - instruction.inputs)
        inputs = stack[split:]
        del stack[split:]
        if token in _STORES:
            self.store(at, inputs)
        elif token in vm.REGISTERS:
            stack.append(self.load(at, self.registers[token]))
        elif token in _SHUFFLES and _valid(instruction, inputs):
            stack.extend(self.shuffle(at, token, inputs))
        elif token != ";":
            for k, operand in enumerate(inputs):
                self.edge("operand", at, operand.value, operand.put, operand.put_at)
                self.origins("operand_origin", at, operand.value)
                if self.depth == 0:
                    self.occurrence(operand.value, "consumed", f"stack.{depth_before - 1 - split - k}")
            stack.extend(self.apply(at, instruction, inputs))

    def store(self, at: int, inputs: list[Entry]) -> None:
        """Open a version of the register; what is missing on the stack is a NAN that the store makes."""
        register = self.text[at].lower()
        for operand in inputs:
            self.edge("store", at, operand.value, operand.put, operand.put_at)
        value = inputs[0].value if inputs else self.make(at, NAN)
        number = sum(version.register == register for version in self.versions)
        self.versions.append(Version(register, number, value, self.token, at))
        self.registers[register] = self.versions[-1]

    def load(self, at: int, version: Version | None) -> Entry:
        """A copy of the register's version; a register that was never stored gives a new NAN."""
        if version is None:
            return self.entry(at, self.make(at, NAN))
        version.loads.append(self.token)
        self.edge("load_store", at, version.value, version.token, version.at)
        self.origins("load_origin", at, version.value)
        return self.entry(at, version.value, version, self.token)

    def shuffle(self, at: int, token: str, inputs: list[Entry]) -> list[Entry]:
        """The inputs in another order; those that stay where they were are not put there anew."""
        stay = _STAY.get(token, 0)
        moved_inputs = _SHUFFLES[token][stay:]
        for entry in (inputs[k] for k in sorted(moved_inputs)):
            self.edge("shuffle", at, entry.value, entry.put, entry.put_at)
        entries = [inputs[k] for k in moved_inputs]
        return inputs[:stay] + [self.entry(at, entry.value, entry.version, entry.loaded) for entry in entries]

    def apply(self, at: int, instruction: vm.Instruction, inputs: list[Entry]) -> list[Entry]:
        """What an instruction leaves that takes operands: new values, but for those that it was given."""
        token = instruction.token
        if not _valid(instruction, inputs):
            return [self.entry(at, self.make(at, NAN)) for _ in range(instruction.outputs)]
        if token == "?":
            entry = inputs[1 if vm.truth(inputs[0].value.content) else 2]
            return [self.entry(at, entry.value, entry.version, entry.loaded)]
        if token in "fghFGH":
            return [self.call(at, token, inputs)]
        if token in "MW":
            return [self.entry(at, self.over_elements(at, token, inputs[0].value))]
        try:
            contents = instruction.effect(*[entry.value.content for entry in inputs])
        except vm.Undefined:
            return [self.entry(at, self.make(at, NAN)) for _ in range(instruction.outputs)]
        if token == "I":
            element = inputs[0].value.elements[inputs[1].value.as_int.v]
            self.origins("load_origin", at, element)
            return [self.entry(at, element, None, self.token)]
        elements = _moved_elements(token, [entry.value for entry in inputs])
        return [self.entry(at, self.make(at, content, elements)) for content in contents]

    def call(self, at: int, token: str, inputs: list[Entry]) -> Entry:
        """What `f g h` and `F G H` leave: what the body returns is not made anew, nor what passes it by."""
        *condition, argument = inputs
        if condition and not vm.truth(condition[0].value.content):
            return self.entry(at, argument.value, argument.version, argument.loaded)
        result = self.body(at, token.lower(), argument)
        if result is None:
            return self.entry(at, self.make(at, NAN))
        return self.entry(at, result.value, result.version, result.loaded)

    def body(self, at: int, slot: str, argument: Entry) -> Entry | None:
        """What the body leaves on top, None where there is no body, no call left or nothing on its stack."""
        if slot not in self.bodies or self.depth == vm.MAX_CALLS:
            return None
        self.depth += 1
        stack = [self.entry(at, argument.value, argument.version, argument.loaded)]
        for position in self.bodies[slot]:
            self.execute(position, stack)
        self.depth -= 1
        return stack[-1] if stack else None

    def over_elements(self, at: int, token: str, sequence: Value) -> Value:
        """What `M` (a Seq of results) and `W` (a Seq of the elements with a true result) make."""
        elements = []
        for element in sequence.elements:
            result = self.body(at, "f", self.entry(at, element))
            if result is None or result.value.content is NAN:
                return self.make(at, NAN)
            if token == "M":
                if isinstance(result.value.content, Seq):
                    return self.make(at, NAN)
                elements.append(result.value)
            elif vm.truth(result.value.content):
                elements.append(element)
        return self.make(at, _seq(elements), tuple(elements))

    def version_rows(self) -> list[VersionRow]:
        """The versions as rows."""
        rows = []
        for k, version in enumerate(self.versions):
            later = [other.token for other in self.versions[k + 1 :] if other.register == version.register]
            loads = version.loads
            rows.append(
                VersionRow(
                    version.register,
                    version.number,
                    version.value.number,
                    version.token,
                    version.at,
                    later[0] if later else -1,
                    len(loads),
                    loads[-1] if loads else -1,
                )
            )
        return rows


class _Due(Exception):
    """Raised where the instruction at `at` is due and no fuel is left."""

    def __init__(self, at: int):
        self.at = at


def _bodies(text: str) -> dict[str, range]:
    """The tokens of the bodies bound to f, g, h; as `vm.parse`, which gives their texts."""
    bodies, position = [], 0
    while (start := text.find(vm.OPEN, position)) >= 0:
        close = text.find(vm.CLOSE, start)
        position = len(text) if close < 0 else close
        bodies.append(range(start + 1, position))
    return dict(zip(vm.SLOTS, bodies, strict=False))


def _valid(instruction: vm.Instruction, inputs: list[Entry]) -> bool:
    """Whether no input is missing, NAN or of the wrong type."""
    types = {"int": Int, "seq": Seq}
    contents = [entry.value.content for entry in inputs]
    return len(contents) == instruction.inputs and all(
        content is not NAN and isinstance(content, types.get(kind, (Int, Seq)))
        for content, kind in zip(contents, instruction.input_types, strict=True)
    )


def _seq(elements: list[Value]) -> Seq:
    """The Seq of these elements."""
    return Seq(tuple(element.as_int for element in elements))


def _moved_elements(token: str, inputs: list[Value]) -> tuple[Value, ...] | None:
    """The elements of what the instruction leaves, where it moves them; None where it makes new ones."""
    if token == ",":
        return (*inputs[0].elements, inputs[1])
    if token == "Q":
        return (*inputs[0].elements, *inputs[1].elements)
    if token == "R":
        return inputs[0].elements[::-1]
    if token == "T":
        return inputs[0].elements[1:]
    if token == "O":
        return tuple(sorted(inputs[0].elements, key=lambda element: element.as_int.v))
    return None
