"""What every family offers, and what they share: verified generation, knobs and the reading of texts."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol

import numpy as np

from cadmus.machine import kernel, tokens, vm
from cadmus.programs.parts.pieces import MAX_LITERAL, literal


@dataclass(frozen=True)
class Family(ABC):
    """A program family with its knobs set. Subclasses are frozen dataclasses; their fields, made with `knob` or
    `shared_knob`, are the knobs, checked in `__post_init__` (ValueError)."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def width(self) -> int:
        """The most tokens that a program of this family has, its `.` included."""

    @abstractmethod
    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `n` programs, uint8 [n, width], each with its `.`, not yet verified."""

    @abstractmethod
    def decision_positions(self, text: str) -> tuple[int, ...] | None:
        """The decision positions of a text of this family's form; None where it has another."""

    @abstractmethod
    def assertion_for(self, stack: tuple[vm.Value, ...]) -> str | None:
        """What makes an assertion true where the stack at its decision position is this; None where nothing does."""

    def accepts(self, text: str) -> bool:
        """Whether `text` has the family's form: the shape that these knobs give, whatever the values. It need not be
        true."""
        return self._positions_of_tokens(text) is not None

    def decisions(self, text: str) -> tuple[int, ...]:
        """Where a model must complete `text`: at position p the tokens `text[:p]` are given. Raises ValueError where
        `text` is not of the family's form."""
        positions = self._positions_of_tokens(text)
        if positions is None:
            raise ValueError(f"{text!r} is not a program of the family {self.name} with these knobs")
        return positions

    def answer(self, text: str, position: int) -> str | None:
        """What canonically follows `text[:position]`: through the end of the assertion that is decided here, and the
        `.` where it is the last. Empty where what is decided is that nothing follows; None where `position` is no
        decision position, or nothing makes the assertion true. A definition to be found is answered with that of
        `text`."""
        positions = self.decisions(text)
        if position not in positions:
            return None
        body = body_of(text)
        if body[position : position + 1] == "{":
            return body[position:] + vm.END
        assertion = self.assertion_for(vm.run(text[:position]).outputs)
        if assertion is None:
            return None
        return assertion + (vm.END if position == positions[-1] else "")

    def _positions_of_tokens(self, text: str) -> tuple[int, ...] | None:
        """The decision positions; None also where `text` has characters that are no tokens."""
        return None if set(text) - set(vm.VOCAB) else self.decision_positions(text)

    def generate(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `n` true-programs, all verified on the machine.

        Args:
            n: How many programs.
            rng: Where all randomness comes from; an equal generator gives equal programs.

        Returns:
            uint8 [n, width]: each program with its `.`, padded with more.

        Raises:
            ValueError: The knobs allow next to no programs.
        """
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


def later_knob(default: Any, doc: str) -> Any:
    """A knob that came after mixtures were named by their content: tables leave it out where nobody turns it, so that
    those keep their fingerprints."""
    return field(default=default, metadata={"doc": doc, "later": True})


# name -> default and doc of the knobs that mean the same in every family that has them
_SHARED_KNOBS: dict[str, tuple[Any, str]] = {
    "assertions": (1, "statements per program, each with its own decision position"),
    "digit_skew": (
        0.0,
        "the weight of the k-th smallest digit, or literal, is k ** -digit_skew; 0: uniform, above: small ones",
    ),
    "skeletons": (0, "distinct skeletons, those of what is asserted apart; 0: all. Fewer: less diversity"),
    "zipf": (0.0, "multiplies the weight of the k-th skeleton by k ** -zipf; needs skeletons"),
    "after_share": (0.5, "the share of programs with definitions that have them last, after their use"),
}


def shared_knob(name: str) -> Any:
    """A knob that several families have, with one meaning, default and text."""
    return knob(*_SHARED_KNOBS[name])


@dataclass(frozen=True)
class Knob:
    """A knob as people see it."""

    name: str
    """Its name, in TOML too."""

    default: Any
    """Its value where nobody turns it; its type is the knob's."""

    doc: str
    """What turning it does, in one line."""

    later: bool = False
    """Whether tables leave it out where nobody turns it (`later_knob`)."""


def knobs(family: type[Family]) -> dict[str, Knob]:
    """The knobs of a family class by name, in the order they are documented."""
    return {f.name: Knob(f.name, f.default, f.metadata["doc"], "later" in f.metadata) for f in fields(family)}


def check_share(family: Family, *names: str) -> None:
    """Raise ValueError unless each named knob is a probability."""
    for name in names:
        value = getattr(family, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{family.name}: knob {name} = {value} is a share, so it must lie in [0, 1]")


def check_between(family: Family, name: str, low: int, high: int) -> None:
    """Raise ValueError unless the named knob lies in [low, high]."""
    value = getattr(family, name)
    if not low <= value <= high:
        raise ValueError(f"{family.name}: {name} = {value} must lie in {low}..{high}")


def check_range(family: Family, what: str, minimum: int, maximum: int) -> None:
    """Raise ValueError unless minimum <= min_`what` <= max_`what` <= maximum."""
    low, high = getattr(family, f"min_{what}"), getattr(family, f"max_{what}")
    if not minimum <= low <= high <= maximum:
        raise ValueError(
            f"{family.name}: min_{what} = {low} and max_{what} = {high} "
            f"must have {minimum} <= min_{what} <= max_{what} <= {maximum}"
        )


def check_tokens(family: Family, name: str, allowed: str) -> None:
    """Raise ValueError unless the named knob holds some of the `allowed` tokens, each once."""
    value = getattr(family, name)
    if not value or set(value) - set(allowed) or len(set(value)) < len(value):
        raise ValueError(f"{family.name}: {name} = {value!r} must be some of {' '.join(allowed)}, each once")


class _WithSkeletons(Protocol):
    """A family that has the knobs skeletons, zipf and digit_skew."""

    name: ClassVar[str]

    @property
    def skeletons(self) -> int: ...


class _WithLiterals(Protocol):
    """A family that has the knobs low and high."""

    name: ClassVar[str]

    @property
    def low(self) -> int: ...

    @property
    def high(self) -> int: ...


def check_zipf(family: _WithSkeletons) -> None:
    """Raise ValueError unless the knobs skeletons, zipf and digit_skew are within their bounds."""
    if family.skeletons < 0:
        raise ValueError(f"{family.name}: skeletons = {family.skeletons} must be 0 (all) or more")
    for name in ("zipf", "digit_skew"):
        if not -10 <= getattr(family, name) <= 10:
            raise ValueError(f"{family.name}: {name} = {getattr(family, name)} is an exponent; it must lie in -10..10")


def check_literals(family: _WithLiterals) -> None:
    """Raise ValueError unless [low, high] can be written as literals."""
    if not -MAX_LITERAL <= family.low <= family.high <= MAX_LITERAL:
        raise ValueError(
            f"{family.name}: [low, high] = [{family.low}, {family.high}] must lie in [-{MAX_LITERAL}, {MAX_LITERAL}], "
            "low first"
        )


# --- texts -----------------------------------------------------------------------------------------------------------


_STATEMENT = re.compile(r"[^<>=]*[<>=]!?")


def body_of(text: str) -> str:
    """`text` up to its first `.`."""
    return text.partition(vm.END)[0]


def statement_decision_positions(
    body: str, count: int, decision_position: Callable[[str], int | None]
) -> tuple[int, ...] | None:
    """The decision positions of a text of `count` statements, each of which ends in a relation and perhaps a `!`.

    `decision_position` gives a statement's own, None where it is of another form. None where the text is not that.
    """
    positions, start = [], 0
    for statement in _STATEMENT.findall(body):
        position = decision_position(statement)
        if position is None:
            return None
        positions.append(start + position)
        start += len(statement)
    return tuple(positions) if start == len(body) and len(positions) == count else None


def literal_assertion(stack: tuple[vm.Value, ...]) -> str | None:
    """The literal of the Int on top of the stack and `=`; None where there is none that a family would write."""
    value = stack[-1] if stack else vm.NAN
    if isinstance(value, vm.Int) and abs(value.v) <= MAX_LITERAL:
        return literal(value.v) + "="
    return None
