"""What every family offers, and what they share: verified generation, structures, knobs and the reading of texts."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from cadmus import kernel, tokens, vm
from cadmus.families.pieces import LARGEST_LITERAL, literal

_TRIES, _FEW_TRIES = 40, 8  # fillings of a program's first structure, and of each that takes its place
_MOST_ROUNDS = 2000  # of redrawing, where next to nothing comes out right
_BANK_ROUNDS = 20  # of drawing structures to choose from


@dataclass(frozen=True)
class Family(ABC):
    """A program family with its knobs set. Subclasses are frozen dataclasses; their fields, made with `knob`, are the
    knobs, checked in `__post_init__` (ValueError)."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def width(self) -> int:
        """The most tokens that a program of this family has, its `.` included."""

    @abstractmethod
    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """`n` programs, uint8 [n, width], each with its `.`, not yet verified."""

    @abstractmethod
    def cuts(self, text: str) -> tuple[int, ...] | None:
        """The decision positions of a text of this family's form; None where it has another."""

    @abstractmethod
    def decide(self, stack: tuple[vm.Value, ...]) -> str | None:
        """What makes an assertion true where the stack at its decision position is this; None where nothing does."""

    def accepts(self, text: str) -> bool:
        """Whether `text` has the family's form: the shape that these knobs give, whatever the values. It need not be
        true."""
        return self._known_cuts(text) is not None

    def decisions(self, text: str) -> tuple[int, ...]:
        """Where a model must complete `text`: the tokens before each cut are given. ValueError where `text` is not of
        the family's form."""
        cuts = self._known_cuts(text)
        if cuts is None:
            raise ValueError(f"{text!r} is not a program of the family {self.name} with these knobs")
        return cuts

    def answer(self, text: str, cut: int) -> str | None:
        """What canonically follows `text[:cut]`: through the end of the assertion that is decided here, and the `.`
        where it is the last. Empty where what is decided is that nothing follows; None where `cut` is no decision
        position, or nothing makes the assertion true. A definition to be found is answered with that of `text`."""
        cuts = self.decisions(text)
        if cut not in cuts:
            return None
        body = body_of(text)
        if body[cut : cut + 1] == "{":
            return body[cut:] + vm.END
        decided = self.decide(vm.run(text[:cut]).outputs)
        return None if decided is None else decided + (vm.END if cut == cuts[-1] else "")

    def _known_cuts(self, text: str) -> tuple[int, ...] | None:
        return None if set(text) - set(vm.VOCAB) else self.cuts(text)

    def generate(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """`n` true-programs, uint8 [n, width], each with its `.` and padded with more; all verified on the machine."""
        programs = self.draw(n, rng)
        true = kernel.verdicts(programs)
        if not true.all():
            text = tokens.decode(programs[~true])[0]
            raise AssertionError(f"family {self.name} drew false programs: {text}; this is a bug")
        return programs


class Structured(Family):
    """A family that draws a program in two steps: its structure (every token but the digits), then its digits.

    The two knobs hold the number of structures, so of skeletons, and how unevenly they occur. A filling that comes out
    wrong is drawn again for the same structure, so that structures keep their shares.
    """

    skeletons: int
    zipf: float

    @abstractmethod
    def structures(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """`n` structures, an array [n, ...]."""

    @abstractmethod
    def fill(self, structures: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A program for each structure, uint8 [n, width], and which of them may stay, bool [n]."""

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        structures = self._some_structures(n, rng)
        out = np.full((n, self.width), tokens.PAD, np.uint8)
        open_rows = np.arange(n)
        for attempt in range(1, _MOST_ROUNDS + 1):
            if not len(open_rows):
                return out
            programs, fine = self.fill(structures[open_rows], rng)
            out[open_rows[fine]] = programs[fine]
            open_rows = open_rows[~fine]
            if attempt >= _TRIES and attempt % _FEW_TRIES == 0 and len(open_rows):  # these have few programs, or none
                structures[open_rows] = self._some_structures(len(open_rows), rng)
        if not len(open_rows):
            return out
        raise ValueError(
            f"{self.name}: {len(open_rows)} of {n} programs were not found in {_MOST_ROUNDS} tries; most structures "
            "that these knobs ask for have none: widen low and high, or ask for fewer steps, stores or assertions"
        )

    def _some_structures(self, n: int, rng: np.random.Generator) -> np.ndarray:
        if not self.skeletons:
            return self.structures(n, rng)
        bank, weights = _bank(self)
        return bank[rng.choice(len(bank), n, p=weights)]


@lru_cache(maxsize=32)
def _bank(family: Structured) -> tuple[np.ndarray, np.ndarray]:
    """`family.skeletons` structures that have a program, in the order that zipf counts, and their weights (sum 1).

    They are the first different ones that a fixed generator draws, so common ones are likelier among them. A structure
    of share p is among those of m draws with probability 1 - (1 - p)^m; weighed by p over that, the chosen ones stand
    for all (Horvitz & Thompson 1952), and programs are on average as they are without the limit.
    """
    rng = np.random.default_rng(0)
    found: dict[bytes, np.ndarray] = {}
    counts: Counter[bytes] = Counter()
    barren = rounds = drawn = draws_needed = 0
    while len(found) < family.skeletons or rounds < _BANK_ROUNDS:
        structures = family.structures(max(256, 2 * family.skeletons), rng)
        before = len(found)
        for structure in structures[_have_a_program(family, structures, rng)]:
            drawn += 1
            counts[structure.tobytes()] += 1
            if len(found) < family.skeletons:
                found.setdefault(structure.tobytes(), structure)
                draws_needed = drawn
        rounds += 1
        barren = barren + 1 if len(found) == before else 0
        if barren == _BANK_ROUNDS and len(found) < family.skeletons:
            raise ValueError(
                f"{family.name}: skeletons = {family.skeletons} are asked for, but these knobs give about "
                f"{len(found)}; ask for fewer or widen the other knobs"
            )
    bank = np.stack(list(found.values()))
    shares = np.array([counts[key] for key in found]) / drawn
    weights = shares / (1 - (1 - shares) ** draws_needed)
    order = _evenly(tokens.lengths(family.fill(bank, rng)[0]), weights)
    weights = weights[order] * np.arange(1.0, len(order) + 1) ** -family.zipf
    return bank[order], weights / weights.sum()


def _evenly(lengths: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """An order in which the first few, however many, are as long as all on average: by length, in the order of the van
    der Corput sequence (the half, the quarters, the eighths, ...)."""
    by_length = np.argsort(lengths, kind="stable")
    middles = (np.cumsum(weights[by_length]) - weights[by_length] / 2) / weights.sum()
    order, free = [], np.zeros(len(lengths))
    for k in range(1, len(lengths) + 1):
        point = int(f"{k:b}"[::-1], 2) / (1 << k.bit_length())
        nearest = int(np.argmin(np.abs(middles - point) + free))
        free[nearest] = np.inf
        order.append(by_length[nearest])
    return np.array(order)


def _have_a_program(family: Structured, structures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which structures have a program, found in a few tries: bool [n]."""
    have = np.zeros(len(structures), np.bool_)
    for _ in range(_FEW_TRIES):
        open_rows = np.flatnonzero(~have)
        have[open_rows] = family.fill(structures[open_rows], rng)[1]
    return have


# --- knobs -----------------------------------------------------------------------------------------------------------


def knob(default: Any, doc: str) -> Any:
    """A dataclass field that is a knob: its default and what turning it does."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Knob:
    """A knob as people see it."""

    name: str
    default: Any
    doc: str


def knobs(family: type[Family]) -> dict[str, Knob]:
    """The knobs of a family class by name, in the order they are documented."""
    return {f.name: Knob(f.name, f.default, f.metadata["doc"]) for f in fields(family)}


def check_share(family: Family, *names: str) -> None:
    """ValueError unless each named knob is a probability."""
    for name in names:
        value = getattr(family, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{family.name}: knob {name} = {value} is a share, so it must lie in [0, 1]")


def check_between(family: Family, name: str, low: int, high: int) -> None:
    """ValueError unless the named knob lies in [low, high]."""
    value = getattr(family, name)
    if not low <= value <= high:
        raise ValueError(f"{family.name}: {name} = {value} must lie in {low}..{high}")


def check_range(family: Family, what: str, least: int, most: int) -> None:
    """ValueError unless least <= min_`what` <= max_`what` <= most."""
    low, high = getattr(family, f"min_{what}"), getattr(family, f"max_{what}")
    if not least <= low <= high <= most:
        raise ValueError(
            f"{family.name}: min_{what} = {low} and max_{what} = {high} "
            f"must have {least} <= min_{what} <= max_{what} <= {most}"
        )


def check_tokens(family: Family, name: str, allowed: str) -> None:
    """ValueError unless the named knob holds some of the `allowed` tokens, each once."""
    value = getattr(family, name)
    if not value or set(value) - set(allowed) or len(set(value)) < len(value):
        raise ValueError(f"{family.name}: {name} = {value!r} must be some of {' '.join(allowed)}, each once")


def check_zipf(family: Family) -> None:
    """ValueError unless the knobs skeletons, zipf and digit_skew make sense together."""
    if family.skeletons < 0:
        raise ValueError(f"{family.name}: skeletons = {family.skeletons} must be 0 (all) or more")
    for name in ("zipf", "digit_skew"):
        if not -10 <= getattr(family, name) <= 10:
            raise ValueError(f"{family.name}: {name} = {getattr(family, name)} is an exponent; it must lie in -10..10")
    if isinstance(family, Structured) and family.zipf and not family.skeletons:
        raise ValueError(f"{family.name}: zipf = {family.zipf} weighs a number of skeletons; set skeletons too")


def check_literals(family: Family) -> None:
    """ValueError unless [low, high] can be written as literals."""
    most = LARGEST_LITERAL
    if not -most <= family.low <= family.high <= most:
        raise ValueError(
            f"{family.name}: [low, high] = [{family.low}, {family.high}] must lie in [-{most}, {most}], low first"
        )


# --- texts -----------------------------------------------------------------------------------------------------------


_STATEMENT = re.compile(r"[^<>=]*[<>=]!?")


def body_of(text: str) -> str:
    """`text` up to its first `.`."""
    return text.partition(vm.END)[0]


def statement_cuts(body: str, count: int, cut: Callable[[str], int | None]) -> tuple[int, ...] | None:
    """The decision positions of a text of `count` statements, each of which ends in a relation and perhaps a `!`; `cut`
    gives a statement's own, None where it is of another form. None where the text is not that."""
    cuts, at = [], 0
    for statement in _STATEMENT.findall(body):
        inside = cut(statement)
        if inside is None:
            return None
        cuts.append(at + inside)
        at += len(statement)
    return tuple(cuts) if at == len(body) and len(cuts) == count else None


def decide_literal(stack: tuple[vm.Value, ...]) -> str | None:
    """The literal of the Int on top of the stack and `=`; None where there is none that a family would write."""
    value = stack[-1] if stack else vm.NAN
    written = isinstance(value, vm.Int) and abs(value.v) <= LARGEST_LITERAL
    return literal(value.v) + "=" if written else None
