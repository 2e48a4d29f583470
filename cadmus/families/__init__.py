"""Program families: seeded generators of true-programs with named knobs.

A family is a frozen dataclass whose fields are its knobs; `FAMILIES` maps names to classes. Each draws programs,
says where a model must take over (`decisions`), whether a text has its form (`accepts`) and what the canonical
completion is (`answer`).
"""

from cadmus.families.arith import Arith
from cadmus.families.base import Family, Knob
from cadmus.families.compare import Compare
from cadmus.families.equality import Equality
from cadmus.families.induce import Induce
from cadmus.families.label import Label
from cadmus.families.random import Random
from cadmus.families.register import Register
from cadmus.families.sequence import Sequence
from cadmus.families.sequence_advanced import SequenceAdvanced
from cadmus.families.stack import Stack
from cadmus.families.subroutine import Subroutine

FAMILIES: dict[str, type[Family]] = {
    family.name: family
    for family in (
        *(Arith, Equality, Compare, Subroutine, Sequence, SequenceAdvanced),
        *(Label, Induce, Random, Register, Stack),
    )
}

__all__ = [
    "FAMILIES",
    "Arith",
    "Compare",
    "Equality",
    "Family",
    "Induce",
    "Knob",
    "Label",
    "Random",
    "Register",
    "Sequence",
    "SequenceAdvanced",
    "Stack",
    "Subroutine",
]
