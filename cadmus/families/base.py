"""What every family offers, and what it shares: verified generation and the description of its knobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from cadmus import kernel


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
    def accepts(self, text: str) -> bool:
        """Whether `text` has the family's form: the shape that these knobs give, whatever the values. It need not be
        true."""

    @abstractmethod
    def decisions(self, text: str) -> tuple[int, ...]:
        """Where a model must complete `text`, a program of the family: the tokens before each cut are given."""

    @abstractmethod
    def answer(self, text: str, cut: int) -> str | None:
        """What canonically follows `text[:cut]`: through the end of the assertion that is decided here, and the `.`
        where it is the last. None where `cut` is no decision position."""

    def generate(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """`n` true-programs, uint8 [n, width], each with its `.` and padded with more; all verified on the machine."""
        programs = self.draw(n, rng)
        true = kernel.verdicts(programs)
        if not true.all():
            raise AssertionError(f"family {self.name} drew false programs: {programs[~true][0]}; this is a bug")
        return programs


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
