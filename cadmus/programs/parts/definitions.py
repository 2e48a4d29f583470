"""Programs with definitions: texts that have them in front, texts that have them at the end, and how to tell."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DEFINITION = r"\{[^{}.]+\}"
_PARTS = re.compile(f"((?:{_DEFINITION})*)([^{{}}]*)((?:{_DEFINITION})*)")


@dataclass(frozen=True)
class Defined:
    """A program's body cut into definitions in front, the rest, and definitions at the end."""

    front: str
    rest: str
    back: str

    @property
    def count(self) -> int:
        return (self.front + self.back).count("{")

    def place(self, cuts: tuple[int, ...]) -> tuple[int, ...]:
        """The decision positions in the body, given those in the rest: definitions at the end are decided on instead,
        for before them nothing is."""
        return (len(self.rest),) if self.back else tuple(len(self.front) + cut for cut in cuts)


def read_definitions(body: str) -> Defined | None:
    """`body` cut into its parts; None where it has definitions on both sides or elsewhere."""
    match = _PARTS.fullmatch(body)
    if match is None or not match[2] or (match[1] and match[3]):
        return None
    return Defined(match[1], match[2], match[3])
