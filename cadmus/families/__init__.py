"""Program families: seeded generators of true-programs with named knobs.

A family is a frozen dataclass whose fields are its knobs; `FAMILIES` maps names to classes. Each draws programs,
says where a model must take over (`decisions`), whether a text has its form (`accepts`) and what the canonical
completion is (`answer`).
"""

from cadmus.families.base import Family, Knob
from cadmus.families.compare import Compare
from cadmus.families.equality import Equality
from cadmus.families.register import Register

FAMILIES: dict[str, type[Family]] = {family.name: family for family in (Compare, Equality, Register)}

__all__ = ["FAMILIES", "Compare", "Equality", "Family", "Knob", "Register"]
