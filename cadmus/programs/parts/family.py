"""What every family offers, and what they share: verified generation, knobs and the reading of texts."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from cadmus.machine import kernel, tokens, vm
from cadmus.programs.parts.pieces import MAX_LITERAL, literal


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


def check_literals(family: Family) -> None:
    """ValueError unless [low, high] can be written as literals."""
    most = MAX_LITERAL
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
    written = isinstance(value, vm.Int) and abs(value.v) <= MAX_LITERAL
    return literal(value.v) + "=" if written else None
