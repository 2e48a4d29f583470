"""Generators of programs for tests of the machine: random text, programs that mostly compute, programs at its limits.

Every generator takes a `random.Random` and returns a text, so `hypothesis` can drive it too (`programs`, `texts` and
`machines` are strategies). `draw` mixes them all; `stream(seed, n)` is a reproducible list of them. A program at work
(`_Writer`) runs the machine beside the text that it writes, to know which types lie on the stack; what a
program should leave is never taken from there.
"""

from __future__ import annotations

import itertools
from random import Random

from hypothesis import strategies as st

from cadmus.machine import vm
from tests.cases import BIGGEST, CASES, FULL, PAPER

TOKENS = [token for token in vm.VOCAB if token not in vm.END + vm.OPEN]  # what a writer puts down one by one

# --- literals --------------------------------------------------------------------------------------------------------


def number(v: int) -> str:
    """A text that leaves the plain Int `v` and executes nothing undefined."""
    if v < 0:
        return number(-v) + "~"
    if v <= 9:
        return str(v)
    rest = f"{v % 9}+" if v % 9 else ""
    return f"{number(v // 9)}9*{rest}"


def integer(r: Random, *, plain: bool = False) -> str:
    """A text that leaves an Int that is not 0: a digit mostly, sometimes larger, negative or decorated."""
    text = str(r.randrange(1, 10)) if r.random() < 0.85 else number(r.choice((-1, 1)) * r.randrange(1, 100))
    return text if plain or r.random() < 0.85 else f"{text}{r.randrange(10)}'"


def sequence(r: Random, length: int, *, nonzero: bool = False) -> str:
    """A text that leaves a Seq of `length` small Ints."""
    if 2 <= length <= 4 and r.random() < 0.1:
        return decorated(r, length)
    if length > 4 or r.random() < 0.6:
        return number(length) + "r" + ("1+" if nonzero else r.choice(("", "", "2*", "R", "1-", f"{r.randrange(10)}'")))
    return "(" + "".join((integer(r) if nonzero or r.random() < 0.8 else "0") + "," for _ in range(length))


def decorated(r: Random, length: int) -> str:
    """A text that leaves a Seq of `length` decorated Ints, many of them equal but for their tags."""
    return "(" + "".join(f"{r.randrange(1, 4)}{r.randrange(10)}'," for _ in range(length))


# --- bodies ----------------------------------------------------------------------------------------------------------

_SIMPLE = ("", "1+", "2*", ":*", "~", "m", "2-", "5x", "3n", "7'", '"', "Bb1+", "Aa", ":;", "1\\;", "{1+", "2>", "!")
_OF_INTS = ("5%", "2/", "rS", "r#", "(\\,S", "ArX1+a+", ":3<9?", "a+Aa", "1\\-")
_OF_SEQS = ("R", "O", "P", "#", "S", "X", "T", "5,", "0I", "(Q", ":Q", "3E", "M", "W", "#1>")
_CALLING = ("g", "h", "1g", "g1+", "1:0>\\G", "f", "1-:0>\\F", "1-:0>\\G", "1-:0>\\H", "rMS1+", "rW#", ":G", ":rWS")
_FAILING = (";", ";", ";3r;", "+", "10/", "a", "A", "(", "3r", "D;", "@", "2\\/", "A1a1-/", "99*:*:*:*", "o", "?")


def body(r: Random) -> str:
    """A subroutine's body: Int to Int mostly."""
    kind = r.random()
    if kind < 0.50:
        return r.choice(_SIMPLE)
    if kind < 0.62:
        return r.choice(_OF_INTS)
    if kind < 0.72:
        return r.choice(_OF_SEQS)
    if kind < 0.84:
        return r.choice(_CALLING)
    if kind < 0.92:
        return r.choice(_FAILING)
    return "".join(r.choice(TOKENS) for _ in range(r.randrange(1, 7))).replace(vm.CLOSE, vm.OPEN)


# --- programs that mostly compute ------------------------------------------------------------------------------------

_KINDS = {"int": ("int",), "seq": ("seq",), "any": ("int", "seq"), "num": ("int", "seq")}
#: every instruction but digits with every combination of input types that it takes
COMBINATIONS: list[tuple[str, tuple[str, ...]]] = [
    (row.token, kinds)
    for row in vm.INSTRUCTIONS.values()
    if row.token in TOKENS
    for kinds in itertools.product(*(_KINDS[kind] for kind in row.input_types))
    if not row.token.isdigit()
]


def _weight(token: str, kinds: tuple[str, ...]) -> int:
    """More of what more can go wrong with: a slot may be unbound, lengths may differ."""
    if token in "hH":
        return 10
    if token in "fgFG":
        return 8
    return 6 if token in "/%" or kinds == ("seq", "seq") else 5


_CHOICES = [combination for combination in COMBINATIONS for _ in range(_weight(*combination))]


def kind_of(value: vm.Value) -> str:
    return "nan" if value is vm.NAN else "int" if isinstance(value, vm.Int) else "seq"


class _Writer:
    """A program in the making: `text` so far, with the machine that has run it."""

    def __init__(self, r: Random, bodies: list[str]):
        self.r = r
        self.machine = vm.Machine("".join(f"{{{b}}}" for b in bodies))
        self.text: list[str] = []

    @property
    def stack(self) -> list[vm.Value]:
        return self.machine.stack

    def put(self, text: str) -> None:
        for token in text:
            self.text.append(token)
            try:
                self.machine.execute(token, self.machine.stack)
            except vm.OutOfFuel:
                self.machine.stack = [vm.NAN]

    def step(self) -> None:
        """One instruction, with inputs that suit it, mostly."""
        r = self.r
        token, kinds = r.choice(_CHOICES)
        if r.random() < 0.03:
            self.put(token)
            return
        top = tuple(map(kind_of, self.stack[-len(kinds) :])) if kinds else ()
        if top != kinds or r.random() < 0.3:
            self.put("".join(self.inputs(token, kinds)))
        if token in vm.REGISTERS and self.machine.registers[token] is vm.NAN and r.random() < 0.8:
            self.put(self.some(r.choice(("int", "seq"))) + token.upper())
        self.put(token)
        while self.machine.fuel and (len(self.stack) > 6 or (self.stack[-1:] == [vm.NAN] and r.random() < 0.7)):
            self.put(";")

    def some(self, kind: str) -> str:
        """A text that leaves a value of this kind."""
        names = [name for name, value in self.machine.registers.items() if kind_of(value) == kind]
        if names and self.r.random() < 0.15:
            return self.r.choice(names)
        if kind == "int":
            return integer(self.r) if self.r.random() < 0.85 else "0"
        return sequence(self.r, self.r.choice((0, 1, 1, 2, 2, 3, 3, 4, 6)))

    def inputs(self, token: str, kinds: tuple[str, ...]) -> list[str]:
        r = self.r
        if r.random() < 0.08:  # anything of the right type: lengths that differ, no such element, division by 0, ...
            return [self.some(kind) for kind in kinds]
        length = r.choice((0, 1, 2, 2, 3, 3, 4))
        if token in ("I", "X", "T"):
            length = max(length, 1)
        if token in "+-*/%xn<>=&|":
            return [integer(r) if kind == "int" else sequence(r, length, nonzero=token in "/%") for kind in kinds]
        if token in "?FGH":  # a condition that is true as often as not
            true = r.random() < 0.6
            condition = integer(r) if true else "0"
            if kinds[0] == "seq":
                condition = sequence(r, max(length, 1) if true else length, nonzero=true)
            return [condition, *(self.some(kind) for kind in kinds[1:])]
        if token == "O" and r.random() < 0.6:
            return [decorated(r, r.randrange(2, 5))]
        if token == "I":
            return [sequence(r, length), str(r.randrange(length))]
        if token == "r":
            return [number(r.randrange(10) if r.random() < 0.9 else r.randrange(vm.MAX_LENGTH + 1))]
        if token == "'":
            return [self.some(kinds[0]), str(r.randrange(10))]
        if kinds == ("seq",) or kinds == ("seq", "int"):
            return [sequence(r, length), *(self.some(kind) for kind in kinds[1:])]
        return [self.some(kind) for kind in kinds]


def structured(r: Random) -> str:
    """Subroutines, registers, sequences and decorations, in instructions that mostly have a result."""
    bodies = [body(r) for _ in range(r.choice((0, 1, 2, 3, 3, 3, 3, 3)))]
    writer = _Writer(r, bodies)
    for _ in range(r.randrange(4, 15)):
        writer.step()
    if r.random() < 0.5:  # a verdict that is not false for one 0 somewhere on the way
        while writer.machine.fuel and not (len(writer.stack) <= 1 and all(map(vm.truth, writer.stack))):
            writer.put(";")
        writer.put("1")
    return layout(r, "".join(writer.text), bodies)


def layout(r: Random, main: str, bodies: list[str]) -> str:
    """The main text with the definitions anywhere in it, in their order: hoisted, unterminated, too many, cut off."""
    bodies = list(bodies)
    if len(bodies) == 3 and r.random() < 0.2:
        bodies += [r.choice(_SIMPLE + _FAILING) for _ in range(r.randrange(1, 3))]  # these bind nothing
    cuts = sorted(r.randrange(len(main) + 1) for _ in bodies)
    pieces = [main[a:b] for a, b in zip([0, *cuts], [*cuts, len(main)], strict=True)]
    text = pieces[0]
    for body_text, piece in zip(bodies, pieces[1:], strict=True):
        text += f"{{{body_text}}}{piece}"
    ending = r.random()
    if ending < 0.05 and text.endswith(vm.CLOSE):
        text = text[:-1]  # unterminated: it runs to the end of the text
    elif ending < 0.10:
        text += "{" + r.choice(_SIMPLE)
    elif ending < 0.15:
        at = r.randrange(len(text) + 1)
        text = text[:at] + r.choice((".", "}", "{", "}}")) + text[at:]
    if r.random() < 0.5:
        text += r.choice((".", ".", "..", ".+{1"))
    return text


# --- programs at the limits ------------------------------------------------------------------------------------------


def calls(r: Random) -> str:
    """Calls within calls: direct, mutual and through M and W, around the ninth."""
    n = r.randrange(5, 12)
    kind = r.randrange(6)
    if kind == 0:  # each call counts down by 1
        main, bodies = f"{number(n)}f", ["1-:0>\\F" + r.choice(("", "1+", ";7", "Aa", ":0E"))]
    elif kind == 1:  # f calls g calls h calls f
        main, bodies = f"{number(n)}f", ["1-:0>\\G", "1-:0>\\H", "1-:0>\\F"]
    elif kind == 2:  # 2**n calls
        main, bodies = f"{r.randrange(4, 10)}f", [r.choice(("rMS1+", "rW#1+", "rW#", "rMX1+", "r1+T#rMP"))]
    elif kind == 3:  # without a base case
        main, bodies = f"{n}f", [r.choice(("f", "1+f", "1f", "Aaf", "1\\F", "g1")), "f"]
    elif kind == 4:  # M, at the bottom of n calls
        main = f"3rA{number(n)}g"
        bodies = [r.choice(("1+", "2'", "(", "2>")), "1-:0>\\G;a" + r.choice(("M", "W", "MS", "1G"))]
    else:
        main, bodies = f"{number(n)}rM{n}rW", [r.choice(("h", ":0>\\H", "g")), "h2/", "1-:0>\\H"]
    return layout(r, (r.choice(("", "5", "3r7A")) + main + r.choice(("", "1+", "a", "f", ":"))), bodies)


_TAILS = """
    a0+ a1+ aa+ a~a~+ 1ra+ 3ra+ (1,a+ a2r+ a3r+ a(1,+ (1,a,:+ 2ra~1-+
    a0- a~0- a~1- a~a- 0a- a3~- a(3~,- a~3r- a~2r- a~1r- 1ra- 3ra~- 4ra~- (a,a,:- (a~,1,3- (a,0,1-
    a1* a2* a~2* aa* a1~* a3r* a4r* a5r* a(2,* 3ra* 4ra* (2,a* (1,a,:* a:*
    (a,S (a,1,S (a,1,1~,S (a~,1~,S (a,a,S (a~,S (a,0,S
    (a,P (a,1,P (a,1~,1,P (a,a~,P (a~,1,P (a~,1~,P (a,a,P (a,0,P (a,a~,1,P
    1~a/ a1~/ a~2% a3x a~3n a~m1+ a9' a~3'" (a,~ (a,3EO (a,XA
"""
_AT_THE_RANGE = _TAILS.split()  # each meets the greatest Int, in register a


def extremes(r: Random) -> str:
    """Results at and past the Int range, a Seq's greatest length, a tag's, an index's and a count's bounds."""
    kind = r.randrange(8)
    if kind < 3:
        tails = [r.choice(_AT_THE_RANGE) for _ in range(r.randrange(3, 8))]
        return BIGGEST + "A" + "".join(tail + ";" * (r.random() < 0.5) for tail in tails)
    if kind < 5:
        total = r.choice((30, 31, 32, 32, 32, 33, 33, 33, 34))
        small = r.randrange(1, 8)
        if r.random() < 0.6:
            first = r.choice((small, total // 2, total - vm.MAX_LENGTH if total > vm.MAX_LENGTH else 0))
            return f"{number(first)}r{number(total - first)}rQ" + r.choice(("", "#", "1,", "R#"))
        return f"{number(total - small)}r" + "5," * small + r.choice(("", "S", "1+", "O"))
    if kind == 5:
        tag = number(r.choice((-2, -1, -1, 0, 1, 5, 8, 9, 10, 10, 12)))
        return r.choice(("5", "3r", "(", "52'")) + tag + "'" + r.choice(("", '"', "1+"))
    if kind == 6:
        length = r.randrange(5)
        return sequence(r, length) + number(r.choice((-2, -1, -1, -1, 0, length - 1, length, length, length + 1))) + "I"
    return number(r.choice((-5, -1, 0, 31, 32, 33, 33, 33, 40))) + "r" + r.choice(("", "#", "S", "X", "T", "P", "O"))


def exhausting(r: Random) -> str:
    """Programs that run out of fuel: in the main text or deep inside calls, with something on the stack before."""
    bodies = r.choice(
        (
            [";1f;1f;1f"],
            ["A;ag;ag;a1+A", ";ah;ah;ah;5", ";1g;1g;1g"],
            ["rMS1+"],
            [":rWS\\rM#+1+"],
            [FULL + "g1+;", "M", "5"],
            ["g", "h;7g;3", "1g;2g;2g"],
            ["1{" * 60 + "+"],
        )
    )
    main = {"rMS1+": "93+f", ":rWS\\rM#+1+": "99+f"}.get(bodies[0], f"{FULL}MMMM1f1g" if len(bodies[0]) > 99 else "1f")
    if bodies[0].startswith(FULL):
        main, bodies = f"{FULL}AaMMMM", ["h;h" if r.random() < 0.5 else "ggg", "h", "1+" * 30]
    before = r.choice(("", "5", "3rB2", "123", "1B2C"))
    return layout(r, before + main + r.choice(("", "7", "a", ";1", "1+2", ";;;")), bodies)


def exact_fuel(r: Random) -> str:
    """Programs that execute 4095, 4096 or 4097 instructions: a long body mapped over sequences, then padding."""
    body_text = r.choice(("1+", "2x", "9n", "m!", "{{", ":;", "~~", "Aa", "3+3-", "1;", "5'\"")) * r.randrange(6, 20)
    writer = _Writer(r, [body_text])
    writer.put(r.choice(("", "5", "3r", "7B")))
    fuel_left = r.choice((1, 0, 0, 0, -1))  # fuel left
    while True:
        for length in (vm.MAX_LENGTH, 8, 1):
            cost = len(number(length)) + 2 + length * len(body_text) + 1
            if writer.machine.fuel - fuel_left >= cost + 1:
                writer.put(number(length) + "r" + r.choice("MW") + ";")
                break
        else:
            break
    padding = r.choice(("}", "}", "5;"))
    while writer.machine.fuel > max(fuel_left, 0):
        writer.put(padding if writer.machine.fuel - fuel_left >= len(padding) else "}")
    if fuel_left < 0:
        writer.put(r.choice(("}", ";", "7")))
    return layout(r, "".join(writer.text), [body_text])


# --- text ------------------------------------------------------------------------------------------------------------

_ANY = vm.VOCAB + "0123456789" * 2 + "(,r{}fABab" * 2


def random_text(r: Random) -> str:
    """Random tokens; the first `.` comes late enough to matter in few."""
    text = "".join(r.choice(_ANY) for _ in range(r.randrange(61)))
    return text if r.random() < 0.3 else text.replace(vm.END, "")


def mutated(r: Random) -> str:
    """A known or a generated program with a few tokens replaced, inserted, taken out or exchanged."""
    text = list(r.choice(_KNOWN) if r.random() < 0.3 else r.choice((structured, calls, extremes))(r))
    for _ in range(r.randrange(1, 5)):
        at = r.randrange(len(text) + 1)
        kind = r.randrange(3)
        if kind == 0:
            text.insert(at, r.choice(vm.VOCAB))
        elif at < len(text) and kind == 1:
            text[at] = r.choice(vm.VOCAB)
        elif at < len(text):
            del text[at]
    return "".join(text)


_KNOWN = [text for text in (*PAPER, *(case.text for case in CASES)) if len(text) < 200]

#: the generators with their shares of `draw`, in percent; programs that use up the fuel cost as much as fifty others
GENERATORS = {
    structured: 72.8,
    random_text: 6,
    mutated: 7,
    calls: 3,
    extremes: 10,
    exhausting: 0.5,
    exact_fuel: 0.7,
}


def draw(r: Random) -> str:
    """A program by one of `GENERATORS`."""
    return r.choices(list(GENERATORS), list(GENERATORS.values()))[0](r)


def stream(seed: int, n: int) -> list[str]:
    """`n` programs, the same for the same seed."""
    r = Random(seed)
    return [draw(r) for _ in range(n)]


def machine(r: Random) -> vm.Semantics:
    """Alternative semantics: a random permutation of the meanings within every type signature."""
    meanings: dict[str, str] = {}
    for peers in signatures():
        shuffled = list(peers)
        r.shuffle(shuffled)
        meanings |= dict(zip(peers, shuffled, strict=True))
    return vm.Semantics(meanings)


def signatures() -> list[list[str]]:
    """The tokens of each type signature."""
    groups: dict[str, list[str]] = {}
    for row in vm.INSTRUCTIONS.values():
        groups.setdefault(row.signature, []).append(row.token)
    return list(groups.values())


# --- strategies ------------------------------------------------------------------------------------------------------

_randoms = st.randoms(use_true_random=False)
texts = st.text(vm.VOCAB, max_size=60)
programs = st.one_of(texts, _randoms.map(draw), st.sampled_from(_KNOWN))
machines = _randoms.map(machine)
ints = st.builds(vm.Int, st.integers(-20, 20) | st.integers(-vm.MAX_INT, vm.MAX_INT), st.integers(0, vm.MAX_TAG))
values = st.one_of(st.just(vm.NAN), ints, st.lists(ints, max_size=4).map(lambda items: vm.Seq(tuple(items))))
