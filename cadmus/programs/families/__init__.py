"""Program families: seeded generators of true-programs with named knobs.

A family is a frozen dataclass whose fields are its knobs; `FAMILIES` maps names to classes. Each draws programs,
says where a model must take over (`decisions`), whether a text has its form (`accepts`) and what the canonical
completion is (`answer`).
"""

from cadmus.programs.families.arith import Arith
from cadmus.programs.families.compare import Compare
from cadmus.programs.families.equality import Equality
from cadmus.programs.families.induce import Induce
from cadmus.programs.families.label import Label
from cadmus.programs.families.random import Random
from cadmus.programs.families.register import Register
from cadmus.programs.families.sequence import Sequence
from cadmus.programs.families.sequence_advanced import SequenceAdvanced
from cadmus.programs.families.stack import Stack
from cadmus.programs.families.subroutine import Subroutine
from cadmus.programs.parts.family import Family, Knob

FAMILIES: dict[str, type[Family]] = {
    family.name: family
    for family in (
        Arith,
        Equality,
        Compare,
        Subroutine,
        Sequence,
        SequenceAdvanced,
        Label,
        Induce,
        Random,
        Register,
        Stack,
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
