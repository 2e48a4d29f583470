"""A training distribution as data: families, their weights and knobs, as TOML or a frozen dataclass."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from cadmus.artifacts import fingerprint, read_text, write_bytes
from cadmus.families import FAMILIES, Family
from cadmus.families.base import knobs


@dataclass(frozen=True)
class Component:
    """A family with its knobs set, and its weight: its share of the programs is weight / total weight."""

    family: Family
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(
                f"family {self.family.name}: weight = {self.weight} must be above 0; drop the family instead"
            )


@dataclass(frozen=True)
class Mixture:
    """What programs a corpus is drawn from. Equal mixtures have equal fingerprints, whatever their name."""

    name: str
    components: tuple[Component, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if not self.components:
            raise ValueError(f"mixture {self.name!r} has no families; add a [[family]] table with a name")
        names = [component.family.name for component in self.components]
        if len(set(names)) < len(names):
            raise ValueError(f"mixture {self.name!r} names a family twice ({', '.join(names)}); give each one table")

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(component.family for component in self.components)

    @property
    def shares(self) -> tuple[float, ...]:
        """Each component's share of the programs; they sum to 1."""
        total = sum(component.weight for component in self.components)
        return tuple(component.weight / total for component in self.components)

    @property
    def width(self) -> int:
        """The most tokens of a program, its `.` included."""
        return max(family.width for family in self.families)

    @property
    def fingerprint(self) -> str:
        return fingerprint(to_dict(self)["family"])

    def family(self, name: str) -> Family:
        """The family of that name; ValueError, listing what there is, where the mixture has none."""
        for family in self.families:
            if family.name == name:
                return family
        raise ValueError(
            f"mixture {self.name!r} has no family {name!r}; it has {', '.join(f.name for f in self.families)}"
        )


def load(source: str | Path) -> Mixture:
    """The mixture in a TOML file, or one that ships with the package, by name (`shipped()` lists them).

    Raises ValueError, in one line, for malformed TOML, an unknown family or knob, or a knob out of bounds.
    """
    path = Path(source)
    if path.suffix == ".toml" or path.is_file():
        return from_toml(read_text(path), str(path))
    if str(source) not in shipped():
        raise ValueError(f"no mixture {str(source)!r}; name a TOML file or one of {', '.join(shipped())}")
    return from_toml((resources.files("cadmus.mixtures") / f"{source}.toml").read_text(encoding="utf-8"), str(source))


def shipped() -> list[str]:
    """The names of the mixtures that ship with the package."""
    files = resources.files("cadmus.mixtures").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def from_toml(text: str, source: str = "mixture") -> Mixture:
    """Parse a mixture; `source` names it in errors (ValueError)."""
    try:
        return from_dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source} is not TOML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def to_toml(mixture: Mixture) -> str:
    """The mixture as TOML, every knob written out."""
    return tomli_w.dumps(to_dict(mixture))


def save(mixture: Mixture, path: str | Path) -> Path:
    """Write the mixture to a TOML file."""
    return write_bytes(path, to_toml(mixture).encode())


def to_dict(mixture: Mixture) -> dict[str, Any]:
    """The mixture as plain data: {"name", "family": [{"name", "weight", knobs ...}]}."""
    tables = []
    for component in mixture.components:
        kinds = {knob.name: type(knob.default) for knob in knobs(type(component.family)).values()}
        values = {name: kinds[name](value) for name, value in asdict(component.family).items()}  # 1 and 1.0 are one
        tables.append({"name": component.family.name, "weight": float(component.weight), **values})
    return {"name": mixture.name, "family": tables}


def from_dict(data: dict[str, Any]) -> Mixture:
    """The mixture that `to_dict` describes; ValueError for anything unknown or ill-typed."""
    _known("mixture", data, ("name", "family"))
    tables = data.get("family", [])
    is_list = isinstance(tables, list) and all(isinstance(table, dict) for table in tables)
    if not isinstance(data.get("name"), str) or not is_list:
        raise ValueError('a mixture is name = "..." and one or more [[family]] tables')
    return Mixture(data["name"], tuple(map(_component, tables)))


def _component(table: dict[str, Any]) -> Component:
    name = table.get("name")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}{_nearest(str(name), FAMILIES)}; there are {', '.join(FAMILIES)}")
    available = knobs(FAMILIES[name])
    _known(f"family {name}", table, ("name", "weight", *available))
    weight = table.get("weight", 1.0)
    values = {}
    for knob in available.values():
        value = table.get(knob.name, knob.default)
        if isinstance(knob.default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(knob.default):
            raise ValueError(f"family {name}: knob {knob.name} = {value!r} must be {type(knob.default).__name__}")
        values[knob.name] = value
    if type(weight) not in (int, float):
        raise ValueError(f"family {name}: weight = {weight!r} must be a number")
    return Component(FAMILIES[name](**values), float(weight))


def _known(owner: str, table: dict[str, Any], names: tuple[str, ...]) -> None:
    for key in table:
        if key not in names:
            raise ValueError(f"{owner}: unknown knob {key!r}{_nearest(key, names)}; there are {', '.join(names)}")


def _nearest(name: str, names) -> str:
    matches = difflib.get_close_matches(name, names, 1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
