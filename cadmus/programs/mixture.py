"""A training distribution as data: families, their weights and knobs, hold-outs and a curriculum; TOML or dataclass."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import tomli_w

from cadmus import shipped
from cadmus.programs.families import FAMILIES, Family
from cadmus.programs.holdout import HoldOut
from cadmus.programs.parts.family import knobs
from cadmus.runtime.artifacts import fingerprint, read_text, write_bytes

DUPLICATES = ("remove", "keep")


@dataclass(frozen=True)
class Component:
    """A family with its knobs set, and its weight: its share of the programs is weight / total weight.

    duplicates: whether a corpus keeps what is drawn again ("keep") or holds each program once ("remove").
    """

    family: Family
    weight: float = 1.0
    duplicates: str = "remove"

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(
                f"family {self.family.name}: weight = {self.weight} must be above 0; drop the family instead"
            )
        if self.duplicates not in DUPLICATES:
            raise ValueError(
                f"family {self.family.name}: duplicates = {self.duplicates!r} must be one of {', '.join(DUPLICATES)}"
            )


@dataclass(frozen=True)
class Phase:
    """The families of the part of training before `until` (a share of it, above 0 and below 1)."""

    until: float
    components: tuple[Component, ...]

    def __post_init__(self) -> None:
        if not 0 < self.until < 1:
            raise ValueError(f"phase: until = {self.until} is a share of training, above 0 and below 1")
        _check_components("phase", self.components)


@dataclass(frozen=True)
class OutOfDistribution:
    """A set of programs unlike those trained on: a family with other knobs, or what a hold-out rule keeps out."""

    name: str
    family: Family
    held_out: str = ""
    """The rule of the hold-out that the programs must break; empty: the knobs alone make them unlike."""


@dataclass(frozen=True)
class Mixture:
    """What programs a corpus is drawn from. Equal mixtures have equal fingerprints, whatever their name and size.

    components: the families; with phases, those of the rest of training. programs: the size of a corpus unless another
    is asked for; 0: it must be.
    """

    name: str
    components: tuple[Component, ...] = ()
    hold_out: HoldOut = field(default_factory=HoldOut)
    phases: tuple[Phase, ...] = ()
    out_of_distribution: tuple[OutOfDistribution, ...] = ()
    programs: int = 0

    def __post_init__(self) -> None:
        _check_components(f"mixture {self.name!r}", self.components)
        if self.programs < 0:
            raise ValueError(f"mixture {self.name!r}: programs = {self.programs} must be 0 or more")
        untils = [phase.until for phase in self.phases]
        if untils != sorted(set(untils)):
            raise ValueError(f"mixture {self.name!r}: phases must come in order, each until later than the one before")
        names = [one.name for one in self.out_of_distribution]
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(f"mixture {self.name!r}: out_of_distribution sets need names, each its own")
        for one in self.out_of_distribution:
            if one.held_out and one.held_out not in self.hold_out.rules:
                raise ValueError(
                    f"out_of_distribution {one.name!r}: held_out = {one.held_out!r} is no rule that holds anything "
                    f"out; there are {', '.join(self.hold_out.rules) or 'none'}"
                )
            if not one.held_out and one.family in self.families:
                raise ValueError(
                    f"out_of_distribution {one.name!r} has the knobs of training; turn one, or name a rule as held_out"
                )

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(component.family for component in self.components)

    @property
    def family_names(self) -> tuple[str, ...]:
        """The names of the families over all phases: what family indices refer to."""
        return tuple(dict.fromkeys(family.name for _, part in self.parts for family in part.families))

    @property
    def shares(self) -> tuple[float, ...]:
        """Each component's share of the programs; they sum to 1."""
        total = sum(component.weight for component in self.components)
        return tuple(component.weight / total for component in self.components)

    @property
    def width(self) -> int:
        """The most tokens of a program, its `.` included."""
        return max(component.family.width for _, part in self.parts for component in part.components)

    @property
    def fingerprint(self) -> str:
        return fingerprint({key: value for key, value in to_dict(self).items() if key not in ("name", "programs")})

    @property
    def parts(self) -> tuple[tuple[float, Mixture], ...]:
        """The phases in order, the rest of training last: (its share of training, a mixture without phases)."""
        bounds = [0.0, *(phase.until for phase in self.phases), 1.0]
        components = [*(phase.components for phase in self.phases), self.components]
        return tuple(
            (end - start, self if not self.phases else Mixture(self.name, part, self.hold_out))
            for start, end, part in zip(bounds, bounds[1:], components)
        )

    def at(self, progress: float) -> Mixture:
        """The mixture in force when `progress` of training (0 to 1) is done."""
        reached = sum(progress >= phase.until for phase in self.phases)
        return self.parts[reached][1]

    def family(self, name: str) -> Family:
        """The family of that name; ValueError, listing what there is, where the mixture has none."""
        for family in self.families:
            if family.name == name:
                return family
        raise ValueError(
            f"mixture {self.name!r} has no family {name!r}; it has {', '.join(f.name for f in self.families)}"
        )


def _check_components(owner: str, components: tuple[Component, ...]) -> None:
    if not components:
        raise ValueError(f"{owner} has no families; add a [[family]] table with a name")
    names = [component.family.name for component in components]
    if len(set(names)) < len(names):
        raise ValueError(f"{owner} names a family twice ({', '.join(names)}); give each one table")


# --- TOML ------------------------------------------------------------------------------------------------------------


def load(source: str | Path) -> Mixture:
    """The mixture in a TOML file, or one that ships with the package, by name (`shipped.names("mixtures")`).

    Raises ValueError, in one line, for malformed TOML, an unknown family or knob, or a knob out of bounds.
    """
    path = Path(source)
    if path.suffix == ".toml" or path.is_file():
        return from_toml(read_text(path), str(path))
    if str(source) not in shipped.names("mixtures"):
        names = ", ".join(shipped.names("mixtures"))
        raise ValueError(f"no mixture {str(source)!r}; name a TOML file or one of {names}")
    return from_toml(read_text(shipped.path("mixtures", str(source))), str(source))


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
    """The mixture as plain data, as its TOML has it, every knob written out; what it has not is left out."""
    out: dict[str, Any] = {"name": mixture.name}
    if mixture.programs:
        out["programs"] = mixture.programs
    if mixture.hold_out.rules:
        rules = {name: getattr(mixture.hold_out, name) for name in mixture.hold_out.rules}
        out["hold_out"] = {name: list(rule) if isinstance(rule, tuple) else rule for name, rule in rules.items()}
    out["family"] = [_component_table(component) for component in mixture.components]
    if mixture.phases:
        out["phase"] = [
            {"until": phase.until, "family": [*map(_component_table, phase.components), *_left_out(mixture, phase)]}
            for phase in mixture.phases
        ]
    if mixture.out_of_distribution:
        out["out_of_distribution"] = [
            {"name": one.name, "family": one.family.name, "held_out": one.held_out, **_knob_table(one.family)}
            for one in mixture.out_of_distribution
        ]
    return out


def _component_table(component: Component) -> dict[str, Any]:
    about = {"weight": float(component.weight), "duplicates": component.duplicates}
    return {"name": component.family.name, **about, **_knob_table(component.family)}


def _left_out(mixture: Mixture, phase: Phase) -> list[dict[str, Any]]:
    """The families of the mixture that a phase lacks, as its tables say so."""
    there = {component.family.name for component in phase.components}
    return [{"name": family.name, "weight": 0.0} for family in mixture.families if family.name not in there]


def _knob_table(family: Family) -> dict[str, Any]:
    kinds = {knob.name: type(knob.default) for knob in knobs(type(family)).values()}
    return {name: kinds[name](value) for name, value in asdict(family).items()}  # 1 and 1.0 are one


def from_dict(data: dict[str, Any]) -> Mixture:
    """The mixture that `to_dict` describes; ValueError for anything unknown or ill-typed. A family of a phase or of an
    out-of-distribution set has the knobs of the mixture's own where it names none; weight = 0 leaves one out of a
    phase."""
    _known("mixture", data, ("name", "programs", "family", "hold_out", "phase", "out_of_distribution"))
    if not isinstance(data.get("name"), str) or not _are_tables(data.get("family", [])):
        raise ValueError('a mixture is name = "..." and one or more [[family]] tables')
    for key in ("phase", "out_of_distribution"):
        if not _are_tables(data.get(key, [])):
            raise ValueError(f"{key} must be one or more [[{key}]] tables")
    if type(data.get("programs", 0)) is not int:
        raise ValueError(f"programs = {data['programs']!r} must be a whole number")
    components = tuple(map(_component, data.get("family", [])))
    base = {component.family.name: component for component in components}
    return Mixture(
        data["name"],
        components,
        _hold_out(data.get("hold_out", {})),
        tuple(_phase(table, base) for table in data.get("phase", [])),
        tuple(_out_of_distribution(table, base) for table in data.get("out_of_distribution", [])),
        data.get("programs", 0),
    )


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(table, dict) for table in value)


def _component(table: dict[str, Any], base: Component | None = None) -> Component:
    family = _family(table, ("weight", "duplicates"), base and base.family)
    weight = table.get("weight", base.weight if base else 1.0)
    if type(weight) not in (int, float):
        raise ValueError(f"family {family.name}: weight = {weight!r} must be a number")
    return Component(family, float(weight), table.get("duplicates", base.duplicates if base else DUPLICATES[0]))


def _family(table: dict[str, Any], others: tuple[str, ...], base: Family | None, key: str = "name") -> Family:
    """The family that a table names, its knobs those of `base` where the table has none; `others` may stand there."""
    name = table.get(key)
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}{_nearest(str(name), FAMILIES)}; there are {', '.join(FAMILIES)}")
    available = knobs(FAMILIES[name])
    _known(f"family {name}", table, (key, *others, *available))
    values = {}
    for knob in available.values():
        value = table.get(knob.name, getattr(base, knob.name) if base else knob.default)
        if isinstance(knob.default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(knob.default):
            raise ValueError(f"family {name}: knob {knob.name} = {value!r} must be {type(knob.default).__name__}")
        values[knob.name] = value
    return FAMILIES[name](**values)


def _phase(table: dict[str, Any], base: dict[str, Component]) -> Phase:
    _known("phase", table, ("until", "family"))
    until, tables = table.get("until"), table.get("family", [])
    if type(until) not in (int, float) or not _are_tables(tables):
        raise ValueError("a [[phase]] is until = 0.25 (a share of training) and [[phase.family]] tables")
    found: dict[str, Component | None] = {}
    for one in tables:
        name = str(one.get("name"))
        if name in found:
            raise ValueError(f"a phase names a family twice ({name}); give each one table")
        known = base.get(name)
        if type(one.get("weight")) in (int, float) and one["weight"] == 0:
            _family(one, ("weight", "duplicates"), known and known.family)  # is it one at all?
            found[name] = None
        else:
            found[name] = _component(one, known)
    found |= {name: component for name, component in base.items() if name not in found}
    return Phase(float(until), tuple(component for component in found.values() if component is not None))


def _out_of_distribution(table: dict[str, Any], base: dict[str, Component]) -> OutOfDistribution:
    known = base.get(str(table.get("family")))
    family = _family(table, ("name", "held_out"), known and known.family, key="family")
    name, held_out = table.get("name"), table.get("held_out", "")
    if not isinstance(name, str) or not isinstance(held_out, str):
        raise ValueError(
            'an [[out_of_distribution]] table is name = "...", family = "..." and knobs or held_out = "..."'
        )
    return OutOfDistribution(name, family, held_out)


def _hold_out(table: Any) -> HoldOut:
    if not isinstance(table, dict):
        raise ValueError("hold_out must be one [hold_out] table")
    _known("hold_out", table, tuple(f.name for f in fields(HoldOut)))
    kinds = {"values": int, "pairs": str, "skeletons": str}
    for name, value in table.items():
        if name == "max_length":
            fine = type(value) is int
        else:
            fine = isinstance(value, list) and all(type(one) is kinds[name] for one in value)
        if not fine:
            wanted = "a whole number" if name == "max_length" else f"a list of {kinds[name].__name__}"
            raise ValueError(f"hold_out: {name} = {value!r} must be {wanted}")
    return HoldOut(**{name: tuple(value) if isinstance(value, list) else value for name, value in table.items()})


def _known(owner: str, table: dict[str, Any], names: tuple[str, ...]) -> None:
    for key in table:
        if key not in names:
            raise ValueError(f"{owner}: unknown knob {key!r}{_nearest(key, names)}; there are {', '.join(names)}")


def _nearest(name: str, names) -> str:
    matches = difflib.get_close_matches(name, names, 1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
