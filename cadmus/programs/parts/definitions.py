"""Programs with definitions: texts that have them in front, texts that have them at the end, and how to tell."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DEFINITION = r"\{[^{}.]+\}"
_PARTS = re.compile(f"((?:{_DEFINITION})*)([^{{}}]*)((?:{_DEFINITION})*)")


@dataclass(frozen=True)
class BodyParts:
    """A program's body in three parts; one of `front` and `back` is empty, or both are."""

    front: str
    """The definitions before everything else."""

    rest: str
    """The statements."""

    back: str
    """The definitions behind everything else."""

    @property
    def n_definitions(self) -> int:
        return (self.front + self.back).count("{")

    def decision_positions(self, positions: tuple[int, ...]) -> tuple[int, ...]:
        """The decision positions in the body, given those in `rest`: definitions at the end are decided on instead,
        for before them nothing is."""
        if self.back:
            return (len(self.rest),)
        return tuple(len(self.front) + position for position in positions)


def read_definitions(body: str) -> BodyParts | None:
    """`body` in its parts; None where it has definitions on both sides or elsewhere."""
    match = _PARTS.fullmatch(body)
    if match is None or not match[2] or (match[1] and match[3]):
        return None
    return BodyParts(match[1], match[2], match[3])
